"""The generation in force, and its replacement: whole or not at all, the last good one serving on.

Keeps what went wrong for health, metrics and the log. Reading and compiling happen in a thread, so that requests go
on; the swap is one assignment.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gateway.model import Clock, KeySource, Preset, RegisteredClient
from gateway.policy.files import Sources
from gateway.policy.generation import Generation
from gateway.policy.loading import load_policies
from gateway.policy.problems import PolicyProblems, Problem

Accept = Callable[[Generation], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a reload. ``number`` is the generation in force after it."""

    result: Literal["loaded", "unchanged", "failed"]
    number: int
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()


class PolicyStore:
    """The policy files of one folder and the last good generation made from them."""

    def __init__(
        self,
        folder: str | Path,
        *,
        presets: Mapping[str, Preset],
        gateway_issuer: str,
        insecure_http: bool,
        is_reserved_audience: Callable[[str], bool],
        clock: Clock,
        key_sources: Mapping[str, KeySource] | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.last_problems: tuple[Problem, ...] = ()
        """Why the last load failed; empty when it did not."""
        self.failed_reloads = 0
        self.loaded_at: float | None = None
        """When the generation in force was loaded, by the clock."""
        self._presets = presets
        self._gateway_issuer = gateway_issuer
        self._insecure_http = insecure_http
        self._is_reserved_audience = is_reserved_audience
        self._key_sources = key_sources
        self._clock = clock
        self._generation: Generation | None = None
        self._tried_sha256 = ""
        self._reloading = asyncio.Lock()

    @property
    def generation(self) -> Generation:
        """The generation in force. Raises ``LookupError`` before the first load."""
        if self._generation is None:
            raise LookupError("the policies are not loaded")
        return self._generation

    def registered_client(self, client_id: str) -> RegisteredClient | None:
        """A client of the generation in force."""
        return self.generation.registered_client(client_id)

    @property
    def is_loaded(self) -> bool:
        """Whether a generation is in force."""
        return self._generation is not None

    def load(self) -> Generation:
        """Reads the files and puts their generation in force, in this thread. Raises ``PolicyProblems``."""
        fingerprint, loaded = self._load()
        if isinstance(loaded, PolicyProblems):
            self._failed(fingerprint, loaded)
            raise loaded
        return self._in_force(fingerprint, loaded)

    async def reload(self, accept: Accept | None = None) -> Outcome:
        """Reads the files anew and puts their generation in force, unless anything is wrong with them.

        ``accept`` is given the generation just before: what it changes last and the generation change in one step.
        Whatever it raises keeps the generation out.
        """
        async with self._reloading:
            return await self._reloaded(accept)

    async def reload_if_changed(self, accept: Accept | None = None) -> Outcome:
        """Reloads if the files are not those of the last attempt, good or bad."""
        async with self._reloading:
            fingerprint = await asyncio.to_thread(Sources(self.folder).fingerprint)
            if fingerprint == self._tried_sha256:
                return Outcome("unchanged", self._number, self.last_problems)
            return await self._reloaded(accept)

    async def _reloaded(self, accept: Accept | None) -> Outcome:
        fingerprint, loaded = await asyncio.to_thread(self._load)
        if isinstance(loaded, PolicyProblems):
            self._failed(fingerprint, loaded)
            self.failed_reloads += 1
            return Outcome("failed", self._number, self.last_problems)
        if accept is not None:
            await accept(loaded)
        generation = self._in_force(fingerprint, loaded)
        return Outcome("loaded", generation.number, warnings=generation.warnings)

    @property
    def _number(self) -> int:
        return self._generation.number if self._generation is not None else 0

    def _load(self) -> tuple[str, Generation | PolicyProblems]:
        """What the files hold (by digest), and the generation made from it or the problems."""
        # Before the files are read: if they change meanwhile, this is not what they hold, and they are tried again.
        fingerprint = Sources(self.folder).fingerprint()
        try:
            generation = load_policies(
                self.folder,
                presets=self._presets,
                gateway_issuer=self._gateway_issuer,
                insecure_http=self._insecure_http,
                number=self._number + 1,
                is_reserved_audience=self._is_reserved_audience,
                key_sources=self._key_sources,
            )
        except PolicyProblems as problems:
            return fingerprint, problems
        return generation.sha256, generation

    def _failed(self, fingerprint: str, problems: PolicyProblems) -> None:
        self._tried_sha256 = fingerprint
        self.last_problems = problems.problems

    def _in_force(self, fingerprint: str, generation: Generation) -> Generation:
        self._tried_sha256 = fingerprint
        self.last_problems = ()
        self.loaded_at = self._clock()
        self._generation = generation
        return generation
