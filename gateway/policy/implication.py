"""Whether one trust rule lets in everybody that another lets in. Pure.

Says yes only where it is sure: two CEL conditions that are written differently may mean the same.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from gateway.model import ClaimPath, TrustedIssuer
from gateway.policy.conditions import (
    MAX_LIKE_CHARACTERS,
    Like,
    Match,
    ScalarKey,
    parse_glob,
    scalar_key,
)
from gateway.policy.generation import TrustRule

MAX_GLOB_PAIRS = 1000
"""Of longer lists of globs only equal ones are compared."""

_STAR = "*"
_ANY_RUN = "**"
_SEPARATORS = frozenset("/:")


class Demands(NamedTuple):
    """What a trust rule asks of a workload, so that two rules that ask the same are equal, however they are written:
    the order of conditions and of lists, and what stands in a list twice, make no difference.
    """

    issuer: str
    match: frozenset[tuple[ClaimPath, frozenset[ScalarKey]]]
    like: frozenset[tuple[ClaimPath, frozenset[str]]]
    when: str


def demands(rule: TrustRule) -> Demands:
    """What this rule asks of a workload."""
    return Demands(
        issuer=rule.issuer,
        match=frozenset((match.path, frozenset(match.keys)) for match in rule.match),
        like=frozenset((like.path, frozenset(like.wanted)) for like in rule.like),
        when=rule.when.source if rule.when is not None else "",
    )


def implies(narrow: TrustRule, wide: TrustRule) -> bool:
    """Whether every workload that ``narrow`` admits is admitted by ``wide``, as far as can be told from the conditions.

    Looks at issuer and conditions alone, not at what the rules give.
    """
    if narrow.issuer != wide.issuer:
        return False
    if wide.when is not None and (narrow.when is None or narrow.when.source != wide.when.source):
        return False
    return all(_is_sure(narrow, condition) for condition in _conditions(wide))


def condition_implies(narrow: Match | Like, wide: Match | Like) -> bool:
    """Whether every claim that satisfies ``narrow`` satisfies ``wide``, as far as can be told."""
    if narrow.path != wide.path:
        return False
    if isinstance(narrow, Match):
        return all(_satisfies(value, wide) for value in narrow.wanted)
    if isinstance(wide, Match):
        return all(_STAR not in glob and glob in wide.keys for glob in narrow.wanted)
    return _each_fits(narrow.wanted, wide.wanted)


def glob_implies(narrow: str, wide: str) -> bool:
    """Whether every text that fits the glob ``narrow`` fits ``wide``, as far as can be told.

    Lets ``wide`` read the other glob as a text: its ``*`` passes over a ``*`` and over anything but a separator, its
    ``**`` over anything.
    """
    if wide in {narrow, _ANY_RUN}:
        return True
    if _STAR not in narrow:
        return parse_glob(wide).fits(narrow)
    tokens = list(_tokens(wide))
    reached = _after_stars(tokens, {0})
    for read in _tokens(narrow):
        reached = _after_stars(tokens, {step for at in reached for step in _steps(tokens, at, read)})
        if not reached:
            return False
    return len(tokens) in reached


def admits_everybody(rule: TrustRule, issuer: TrustedIssuer | None) -> bool:
    """Whether a rule's conditions hold of whatever its issuer signs: each asks only that a claim be there, or for what
    all of its tokens have (``iss``, ``aud``). Errs to no: CEL may ask for nothing in more ways than can be told.
    """
    if rule.when is not None and rule.when.source.strip() != "true":
        return False
    if any({_STAR, _ANY_RUN}.isdisjoint(like.wanted) for like in rule.like):
        return False
    everywhere = {("iss",): {issuer.url}, ("aud",): set(issuer.audiences)} if issuer is not None else {}
    return all(match.path in everywhere and everywhere[match.path] <= set(match.wanted) for match in rule.match)


def is_disjoint(one: TrustRule, other: TrustRule) -> bool:
    """Whether no workload fulfils both, as far as can be told: they want other values of one claim."""
    if one.issuer != other.issuer:
        return True
    return _wants_others(one.match, other) or _wants_others(other.match, one)


# ---------------------------------------------------------------- rules


def _conditions(rule: TrustRule) -> tuple[Match | Like, ...]:
    return (*rule.match, *rule.like)


def _is_sure(rule: TrustRule, wide: Match | Like) -> bool:
    """Whether whoever the rule admits satisfies a condition."""
    at_path = [condition for condition in _conditions(rule) if condition.path == wide.path]
    exact = next((condition for condition in at_path if isinstance(condition, Match)), None)
    if exact is not None:  # of its values only those remain that the rule's own globs let through
        values = [value for value in exact.wanted if all(_satisfies(value, condition) for condition in at_path)]
        return all(_satisfies(value, wide) for value in values)
    return any(condition_implies(condition, wide) for condition in at_path)


def _wants_others(exact: Sequence[Match], rule: TrustRule) -> bool:
    """Whether one of these has no value that a condition of the rule for the same claim lets through."""
    wanted = {match.path: match.wanted for match in exact}
    return any(
        not any(_satisfies(value, condition) for value in wanted[condition.path])
        for condition in _conditions(rule)
        if condition.path in wanted
    )


def _satisfies(value: str | int | bool, condition: Match | Like) -> bool:
    if isinstance(condition, Match):
        return scalar_key(value) in condition.keys
    if not isinstance(value, str) or len(value) > MAX_LIKE_CHARACTERS:
        return False
    return any(glob.fits(value) for glob in condition.globs)


def _each_fits(narrow: Sequence[str], wide: Sequence[str]) -> bool:
    known = set(wide)
    others = [glob for glob in narrow if glob not in known]
    if len(others) * len(wide) > MAX_GLOB_PAIRS:
        return False
    return all(any(glob_implies(glob, one) for one in wide) for glob in others)


# ---------------------------------------------------------------- globs


def _tokens(glob: str) -> Iterator[str]:
    """The characters of a glob, with ``**`` as one."""
    at = 0
    while at < len(glob):
        size = 2 if glob.startswith(_ANY_RUN, at) else 1
        yield glob[at : at + size]
        at += size


def _steps(tokens: Sequence[str], at: int, read: str) -> Iterator[int]:
    """Where a reader at a token of the wide glob may be after one token of the narrow glob."""
    token = tokens[at] if at < len(tokens) else ""
    if token == _ANY_RUN or (token == _STAR and read != _ANY_RUN and read not in _SEPARATORS):
        yield at
    elif token == read and token != _STAR:
        yield at + 1


def _after_stars(tokens: Sequence[str], reached: set[int]) -> set[int]:
    """The same places, and those behind stars that stand for nothing."""
    found = set(reached)
    for at in reached:
        after = at
        while after < len(tokens) and tokens[after] in {_STAR, _ANY_RUN}:
            after += 1
            found.add(after)
    return found
