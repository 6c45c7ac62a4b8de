"""The shadow: a second generation that decides every live request too, without effect.

It comes after the live decision, when the event loop is free; whatever goes wrong in it is counted, and reaches no
caller. Where it disagrees is counted by kind, kept as a summary of the two generations that are being compared, and
told in the log, of each kind so many lines a minute.
"""

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.callers import Policies
from gateway.metrics import ShadowMeter
from gateway.model import Clock, Decision, Workload
from gateway.policy.generation import Generation
from gateway.policy.problems import visible
from gateway.policy.shadow import differences, label, outcome_in_words, refused_before_policy
from gateway.policy.store import Outcome, PolicyStore

log = logging.getLogger("gateway.shadow")

DecideIn = Callable[[Generation], Decision]
"""The same question to another generation."""

LINES_PER_WINDOW = 10
WINDOW_SECONDS = 60
"""In so much time so many lines are logged of one kind of disagreement."""
MAX_LINE_CHARACTERS = 2000
MAX_LISTED = 50
"""How many kinds of disagreement the summary lists."""

Kind = tuple[str, str, str]
"""What differs first, the reason in force, the reason in the shadow: a closed set."""


@dataclass(frozen=True, slots=True)
class Asker:
    """Whose request it was: for the log."""

    request_id: str
    issuer: str
    subject: str


@dataclass(slots=True)
class _Seen:
    """How often one kind of disagreement came between two generations."""

    count: int = 0
    last_request_id: str = ""


@dataclass(slots=True)
class _Tally:
    """What came of comparing two generations."""

    generations: tuple[int, int]
    compared: int = 0
    failed: int = 0
    disagreements: dict[Kind, _Seen] = field(default_factory=dict)


@dataclass(slots=True)
class _Window:
    """What was logged of one kind lately."""

    began_at: float
    told: set[tuple[str, ...]] = field(default_factory=set)
    untold: int = 0


class Shadow:
    """The policies in the shadow, and what they say otherwise than those in force."""

    def __init__(self, policies: PolicyStore, live: Policies, meter: ShadowMeter, clock: Clock) -> None:
        self.policies = policies
        self._live = live
        self._meter = meter
        self._clock = clock
        self._tally = _Tally((0, 0))
        self._windows: dict[Kind, _Window] = {}

    async def load(self) -> Outcome:
        """Takes over the files in the shadow where they changed since the last look, whole or not at all."""
        return await self.policies.reload_if_changed()

    def follow(self, live: Decision, decide_in: DecideIn, workload: Workload | None, asker: Asker) -> None:
        """Has the shadow decide the same question as soon as the event loop is free. Returns at once."""
        asyncio.get_running_loop().call_soon(self.compare, live, decide_in, workload, asker)

    def compare(self, live: Decision, decide_in: DecideIn, workload: Workload | None, asker: Asker) -> None:
        """Asks the shadow, and counts and tells where it disagrees. Never raises."""
        if not self.policies.is_loaded:
            return
        generation = self.policies.generation
        if self._tally.generations != (live.generation, generation.number):
            self._tally = _Tally((live.generation, generation.number))
        try:
            self._compare(live, generation, decide_in, workload, asker)
        except Exception as error:
            self._tally.failed += 1
            self._meter.count("failed")
            if self._may_be_told(("failed", type(error).__name__, ""), ()) is not None:
                log.exception("the shadow failed request_id=%s", asker.request_id)

    def summary(self) -> Mapping[str, Any]:
        """The generation in the shadow as ``/readyz`` shows it: how it was loaded, and how often it agreed since both
        generations are in force.
        """
        loaded = self.policies.generation.number if self.policies.is_loaded else None
        live = self._live.generation.number
        tally = self._tally if self._tally.generations == (live, loaded) else _Tally((live, loaded or 0))
        seen = sorted(tally.disagreements.items(), key=lambda kind_and_seen: -kind_and_seen[1].count)
        return {
            **self.policies.health(self._clock()),
            "compared": tally.compared,
            "failed": tally.failed,
            "disagreements": [
                {
                    "difference": difference,
                    "live": live_reason,
                    "shadow": shadow_reason,
                    "count": one.count,
                    "last_request_id": one.last_request_id,
                }
                for (difference, live_reason, shadow_reason), one in seen[:MAX_LISTED]
            ],
        }

    def _compare(
        self, live: Decision, generation: Generation, decide_in: DecideIn, workload: Workload | None, asker: Asker
    ) -> None:
        refused = refused_before_policy(generation, workload) if workload is not None else None
        shadow = refused or decide_in(generation)
        found = differences(live, shadow)
        self._tally.compared += 1
        if not found:
            self._meter.count("agreed")
            return
        kind = (found[0], live.reason, shadow.reason)
        self._meter.count("disagreed")
        self._meter.count_disagreement(*kind)
        seen = self._tally.disagreements.setdefault(kind, _Seen())
        seen.count += 1
        seen.last_request_id = asker.request_id
        self._tell(kind, found, live, shadow, asker)

    def _tell(self, kind: Kind, found: tuple[str, ...], live: Decision, shadow: Decision, asker: Asker) -> None:
        untold = self._may_be_told(kind, (asker.issuer, asker.subject, label(live), label(shadow)))
        if untold is None:
            return
        who = f"request_id={asker.request_id} issuer={asker.issuer} subject={json.dumps(asker.subject)}"
        what = f"on={','.join(found)} rule={label(live)} live={live.reason} shadow={shadow.reason} untold={untold}"
        why = f"in force {outcome_in_words(live)}; in the shadow {outcome_in_words(shadow)}"
        log.warning("%s", visible(f"the shadow disagrees {who} {what}: {why}")[:MAX_LINE_CHARACTERS])

    def _may_be_told(self, kind: Kind, who: tuple[str, ...]) -> int | None:
        """None where the log has had enough of this kind, or of the same workload in it; else how many lines were kept
        from it in the window before.
        """
        now = self._clock()
        window = self._windows.get(kind)
        untold = 0
        if window is None or now - window.began_at >= WINDOW_SECONDS:
            untold = window.untold if window is not None else 0
            window = self._windows[kind] = _Window(now)
        if len(window.told) >= LINES_PER_WINDOW or who in window.told:
            window.untold += 1
            return None
        window.told.add(who)
        return untold
