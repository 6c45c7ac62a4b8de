"""The generation in force, and its replacement: whole or not at all, the last good one serving on.

Keeps what went wrong for health, metrics and the log. Reading and compiling happen in a thread, so that requests go
on; the swap is one assignment.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypedDict

from gateway.model import Clock, KeySource, Preset, RegisteredClient
from gateway.policy.files import Sources
from gateway.policy.generation import Generation
from gateway.policy.isolation import InForce
from gateway.policy.loading import load_policies, load_policies_by_folder
from gateway.policy.problems import PolicyProblems, Problem, visible

Accept = Callable[[Generation], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a reload. ``number`` is the generation in force after it."""

    result: Literal["loaded", "unchanged", "failed"]
    number: int
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()
    held_back: Mapping[str, tuple[Problem, ...]] = field(default_factory=dict)
    """The folders that stay as they were, and why: with isolation."""


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
        by_folder: bool = False,
    ) -> None:
        """``by_folder``: what is wrong in one folder holds back that folder alone (``isolation: per_folder``)."""
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
        self._by_folder = by_folder
        self._generation: Generation | None = None
        self._folders: InForce | None = None
        self._tried_sha256 = ""
        self._reloading = asyncio.Lock()

    @property
    def generation(self) -> Generation:
        """The generation in force. Raises ``LookupError`` before the first load."""
        if self._generation is None:
            raise LookupError("the policies are not loaded")
        return self._generation

    @property
    def held_back(self) -> Mapping[str, tuple[Problem, ...]]:
        """The folders, seen from the policies folder, that are not in force as their files are now, and why."""
        return self._folders.held_back if self._folders is not None else {}

    def registered_client(self, client_id: str) -> RegisteredClient | None:
        """A client of the generation in force."""
        return self.generation.registered_client(client_id)

    @property
    def is_loaded(self) -> bool:
        """Whether a generation is in force."""
        return self._generation is not None

    def health(self, now: float) -> Mapping[str, Any]:
        """The generation in force, and what became of later files, as ``/readyz`` shows it."""
        return {
            "generation": self._number if self.is_loaded else None,
            "age_seconds": round(now - self.loaded_at) if self.loaded_at is not None else None,
            "failed_reloads": self.failed_reloads,
            "problems": [str(problem) for problem in self.last_problems],
            "held_back": {
                visible(folder): [str(problem) for problem in problems] for folder, problems in self.held_back.items()
            },
        }

    def load(self) -> Generation:
        """Reads the files and puts their generation in force, in this thread. Raises ``PolicyProblems``."""
        fingerprint, loaded = self._load()
        if isinstance(loaded, PolicyProblems):
            self._failed(fingerprint, loaded)
            raise loaded
        self._take_over(fingerprint, loaded)
        return self.generation

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
                return Outcome("unchanged", self._number, self.last_problems, held_back=self.held_back)
            return await self._reloaded(accept)

    async def _reloaded(self, accept: Accept | None) -> Outcome:
        fingerprint, loaded = await asyncio.to_thread(self._load)
        if isinstance(loaded, PolicyProblems):
            self._failed(fingerprint, loaded)
            self.failed_reloads += 1
            return Outcome("failed", self._number, self.last_problems, held_back=self.held_back)
        if accept is not None:
            await accept(loaded.generation if isinstance(loaded, InForce) else loaded)
        self._take_over(fingerprint, loaded)
        return Outcome("loaded", self._number, warnings=self.generation.warnings, held_back=self.held_back)

    @property
    def _number(self) -> int:
        return self._generation.number if self._generation is not None else 0

    def _load(self) -> tuple[str, Generation | InForce | PolicyProblems]:
        """What the files hold (by digest), and what they come to: whole, by folder, or the problems."""
        # Before the files are read: if they change meanwhile, this is not what they hold, and they are tried again.
        fingerprint = Sources(self.folder).fingerprint()
        try:
            if self._by_folder:
                in_force = load_policies_by_folder(self.folder, self._folders, **self._arguments())
                return fingerprint if in_force.held_back else in_force.generation.sha256, in_force
            generation = load_policies(self.folder, **self._arguments())
        except PolicyProblems as problems:
            return fingerprint, problems
        return generation.sha256, generation

    def _arguments(self) -> "_Arguments":
        return {
            "presets": self._presets,
            "gateway_issuer": self._gateway_issuer,
            "insecure_http": self._insecure_http,
            "number": self._number + 1,
            "is_reserved_audience": self._is_reserved_audience,
            "key_sources": self._key_sources,
        }

    def _failed(self, fingerprint: str, problems: PolicyProblems) -> None:
        self._tried_sha256 = fingerprint
        self.last_problems = problems.problems

    def _take_over(self, fingerprint: str, loaded: Generation | InForce) -> None:
        self._tried_sha256 = fingerprint
        self.last_problems = ()
        self.loaded_at = self._clock()
        self._folders = loaded if isinstance(loaded, InForce) else None
        self._generation = loaded.generation if isinstance(loaded, InForce) else loaded


class _Arguments(TypedDict):
    """What a load depends on beside the files."""

    presets: Mapping[str, Preset]
    gateway_issuer: str
    insecure_http: bool
    number: int
    is_reserved_audience: Callable[[str], bool]
    key_sources: Mapping[str, KeySource] | None
