"""One check of a decision: what a condition looked at, what it saw and what it wanted. Pure.

The short trace of a denial (``decision``) and the complete one (``explanation``) are made of the same checks.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

from gateway.model import Check, ClaimPath, Claims
from gateway.policy.cel import Condition
from gateway.policy.conditions import Like, Match, claim_at
from gateway.policy.problems import path_text
from gateway.policy.wording import SHOWN_CHARACTERS, type_in_words


def claim_check(label: str, condition: Match | Like, claims: Claims, *, passed: bool) -> Check:
    """What a ``match`` or ``like`` condition of the rule ``label`` saw. ``passed`` is what came of it."""
    seen = claim_at(claims, condition.path)
    return Check(
        rule=label,
        kind="match" if isinstance(condition, Match) else "like",
        path=condition.path,
        wanted=condition.wanted[0] if len(condition.wanted) == 1 else list(condition.wanted),
        seen=seen,
        passed=passed,
        note="" if passed else _small_difference(condition.wanted, seen),
    )


def condition_check(
    label: str,
    condition: Condition,
    claims: Claims,
    issuer: str,
    *,
    kind: Literal["when", "guardrail"] = "when",
    passed: bool,
) -> Check:
    """What a CEL condition saw; where it failed for want of an answer, why."""
    return Check(
        rule=label,
        kind=kind,
        path=condition.paths[0] if len(condition.paths) == 1 else (),
        wanted=condition.source,
        seen=_values_at(condition.paths, claims),
        passed=passed,
        note="" if passed else condition.why_unknown(claims, issuer)[:SHOWN_CHARACTERS],
    )


def differ_in_case(one: str, other: str) -> bool:
    """Whether two texts differ in upper and lower case, and in nothing else.

    Unicode folds more: the Kelvin sign is no capital k, and whoever is called so is somebody else.
    """
    if one == other or len(one) != len(other):
        return False
    return all(a == b or (a.swapcase() == b and b.swapcase() == a) for a, b in zip(one, other, strict=True))


def _values_at(paths: Iterable[ClaimPath], claims: Claims) -> Any:
    return {path_text(path): claim_at(claims, path) for path in paths}


def _small_difference(wanted: Sequence[Any], seen: Any) -> str:
    """The small differences that cost people a day."""
    if seen is None or isinstance(seen, list | dict):
        return ""
    for one in wanted:
        if type(one) is not type(seen):
            if str(one).lower() == str(seen).lower():
                return f"the claim is {type_in_words(seen)}, the rule wants {type_in_words(one)}"
        elif isinstance(seen, str) and differ_in_case(one, seen):
            return "differs in upper and lower case only"
        elif isinstance(seen, str) and one.rstrip("/") == seen.rstrip("/"):
            return "differs in a slash at the end only"
    return ""
