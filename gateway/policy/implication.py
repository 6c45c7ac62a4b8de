"""Whether one trust rule lets in everybody that another lets in. Pure.

Says yes only where it is sure: two CEL conditions that are written differently may mean the same.
"""

from collections.abc import Sequence

from gateway.policy.conditions import Like, Match, parse_glob, scalar_key
from gateway.policy.generation import TrustRule

_STAR = "*"


def implies(narrow: TrustRule, wide: TrustRule) -> bool:
    """Whether every workload that ``narrow`` admits is admitted by ``wide``, as far as can be told from the conditions.

    Looks at issuer and conditions alone, not at what the rules give.
    """
    if narrow.issuer != wide.issuer:
        return False
    conditions: tuple[Match | Like, ...] = (*narrow.match, *narrow.like)
    if wide.when is not None and (narrow.when is None or narrow.when.source != wide.when.source):
        return False
    wanted: tuple[Match | Like, ...] = (*wide.match, *wide.like)
    return all(any(condition_implies(one, other) for one in conditions) for other in wanted)


def condition_implies(narrow: Match | Like, wide: Match | Like) -> bool:
    """Whether every claim that satisfies ``narrow`` satisfies ``wide``, as far as can be told."""
    if narrow.path != wide.path:
        return False
    if isinstance(narrow, Match):
        if isinstance(wide, Match):
            return all(key in wide.keys for key in map(scalar_key, narrow.wanted))
        return all(isinstance(one, str) and any(glob.fits(one) for glob in wide.globs) for one in narrow.wanted)
    if isinstance(wide, Match):
        literal = [glob for glob in narrow.wanted if _STAR not in glob]
        return len(literal) == len(narrow.wanted) and all(glob in wide.keys for glob in literal)
    return all(any(glob_implies(one, other) for other in wide.wanted) for one in narrow.wanted)


def glob_implies(narrow: str, wide: str) -> bool:
    """Whether every text that fits the glob ``narrow`` fits ``wide``: sure of globs without stars and of those with one
    star in ``wide``, and of equal ones.
    """
    if wide in {narrow, "**"}:
        return True
    if _STAR not in narrow:
        return parse_glob(wide).fits(narrow)
    prefix, star, suffix = _around_star(wide)
    if star is None:
        return False
    first, *_, last = _parts(narrow)
    if not first.startswith(prefix) or not last.endswith(suffix):
        return False
    if star == "**":
        return True
    # Within one segment: what the narrow glob has beyond prefix and suffix must hold no separator and no **.
    middle = narrow[len(prefix) : len(narrow) - len(suffix)]
    return "**" not in middle and "/" not in middle and ":" not in middle


def _around_star(glob: str) -> tuple[str, str | None, str]:
    star = "**" if "**" in glob else _STAR
    prefix, found, suffix = glob.partition(star)
    return prefix, star if found and _STAR not in prefix + suffix else None, suffix


def _parts(glob: str) -> Sequence[str]:
    return glob.replace("**", _STAR).split(_STAR)
