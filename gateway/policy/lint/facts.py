"""What is certain of the claims of whoever fulfils a condition: which values they have, which they have not. Pure.

Errs to less: a condition that is not understood makes nothing certain. Rests on the semantics of conditions: an absent
claim satisfies nothing, and CEL that cannot be worked out is neither true nor false.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, reduce

from gateway.model import ClaimPath
from gateway.policy.conditions import Like, ManyStars, Match, OneStar, ScalarKey, parse_glob, scalar_key
from gateway.policy.lint.syntax import Call, Claim, Has, IssuerName, ListOf, Literal, Node

_STARS = re.compile(r"\*+")

MAX_VALUES = 200
"""Of a longer list of values it is certain only that the claim has one of them, not which a condition lets through."""
MAX_GLOBS = 1000
"""A longer list of globs is taken to let everything through."""


@dataclass(frozen=True)
class Known:
    """What is certain of one claim. All but ``present`` hold only where the claim is there."""

    values: frozenset[ScalarKey] | None = None
    """It is one of these; None where it may be anything."""
    excluded: frozenset[ScalarKey] = frozenset()
    """It is none of these."""
    globs: tuple[tuple[str, ...], ...] = ()
    """It is a text that fits one glob of each."""
    present: bool = False
    same_as: frozenset[ClaimPath] = frozenset()
    """It equals these claims."""

    @cached_property
    def possible(self) -> frozenset[ScalarKey] | None:
        """The values that it can have, all considered; None where that is no finite list."""
        if self.values is None or len(self.values) > MAX_VALUES:
            return self.values
        return frozenset(value for value in self.values - self.excluded if self._fits(value))

    @property
    def is_impossible(self) -> bool:
        """Whether it has to be there and can have no value."""
        return self.present and self.possible == frozenset()

    def can_be(self, value: ScalarKey) -> bool:
        """Whether it may have this value."""
        return (self.values is None or value in self.values) and value not in self.excluded and self._fits(value)

    def _fits(self, value: ScalarKey) -> bool:
        return all(
            isinstance(value, str) and (len(globs) > MAX_GLOBS or any(_parsed(glob).fits(value) for glob in globs))
            for globs in self.globs
        )


@lru_cache(maxsize=4096)
def _parsed(glob: str) -> OneStar | ManyStars:
    return parse_glob(glob)


Facts = Mapping[ClaimPath, Known]
NOTHING = Known()
NEVER: Facts = {(): Known(values=frozenset(), present=True)}
"""What is certain where something cannot be."""


def facts_of_conditions(match: Iterable[Match], like: Iterable[Like]) -> Facts:
    """What ``match`` and ``like`` make certain."""
    found: dict[ClaimPath, Known] = {}
    for exact in match:
        _add(found, exact.path, Known(values=frozenset(exact.keys), present=True))
    for glob in like:
        _add(found, glob.path, Known(globs=(glob.wanted,), present=True))
    return found


def facts_when(node: Node, issuer: str, *, holds: bool) -> Facts:
    """What is certain where a CEL condition is true of a token of this issuer; or where it is false."""
    match node:
        case Literal(bool(value)):
            return {} if value is holds else NEVER
        case Call("!_", (inner,)):
            return facts_when(inner, issuer, holds=not holds)
        case Call("_&&_" | "_||_", (left, right)):
            sides = facts_when(left, issuer, holds=holds), facts_when(right, issuer, holds=holds)
            # An error on one side is forgiven only where the other side alone decides.
            return both(*sides) if (node.function == "_&&_") is holds else either(*sides)
        case Call("_?_:_", (asked, yes, no)):
            return either(
                both(facts_when(asked, issuer, holds=True), facts_when(yes, issuer, holds=holds)),
                both(facts_when(asked, issuer, holds=False), facts_when(no, issuer, holds=holds)),
            )
        case Call("_==_" | "_!=_", (IssuerName(), Literal(str(name))) | (Literal(str(name)), IssuerName())):
            return {} if ((name == issuer) is (node.function == "_==_")) is holds else NEVER
        case Has(path):
            return {path: Known(present=True)} if holds else {path: Known(values=frozenset())}
        case Call("_==_" | "_!=_", (left, right)):
            return _comparison(left, right, equal=(node.function == "_==_") is holds)
        case Call("@in", (Claim(path), ListOf(items))) if path:
            return {path: _among(items, inside=holds)}
        case Call("startsWith" | "endsWith" | "contains", (Claim(path), Literal(str(text)))) if path:
            return {path: Known(globs=(glob_of(node.function, text),) if holds else (), present=True)}
        case Call(_, arguments):
            return {one.path: Known(present=True) for one in arguments if isinstance(one, Claim) and one.path}
        case _:
            return {}


def glob_of(function: str, text: str) -> tuple[str, ...]:
    """The glob that fits what ``startsWith``, ``endsWith`` or ``contains`` lets through. None can say ``*`` itself."""
    literal = _STARS.sub("**", text)
    before, after = function != "startsWith", function != "endsWith"
    return ("**" * before + literal + "**" * after,)


def both(*certain: Facts) -> Facts:
    """What is certain where all of these are."""
    found: dict[ClaimPath, Known] = {}
    for facts in certain:
        for path, known in facts.items():
            _add(found, path, known)
    return found


def either(one: Facts, other: Facts) -> Facts:
    """What is certain where one of the two is, and nobody knows which."""
    if () in one or () in other:
        return other if () in one else one
    return {path: _joined(one[path], other[path]) for path in one.keys() & other.keys()}


def with_equal_claims(facts: Facts) -> Facts:
    """The same, what is known of a claim told of those that equal it as well."""
    found = dict(facts)
    for path, known in facts.items():
        for other in known.same_as & facts.keys():
            _add(found, path, replace(facts[other], present=False, same_as=frozenset()))
    return found


def _comparison(left: Node, right: Node, *, equal: bool) -> Facts:
    match left, right:
        case (Claim(one), Claim(other)) if one and other:
            if not equal:
                return {one: Known(present=True), other: Known(present=True)}
            return {
                one: Known(present=True, same_as=frozenset({other})),
                other: Known(present=True, same_as=frozenset({one})),
            }
        case (Claim(path), wanted) | (wanted, Claim(path)) if path:
            return {path: _among((wanted,), inside=equal)}
    return {}


def _among(wanted: Iterable[Node], *, inside: bool) -> Known:
    """A claim that is one of these, or none of them. To compare it, it has to be there."""
    keys = [scalar_key(one.value) if isinstance(one, Literal) else None for one in wanted]
    told = frozenset(key for key in keys if key is not None)
    if not inside:
        return Known(excluded=told, present=True)
    return Known(values=told if None not in keys else None, present=True)


def _add(found: dict[ClaimPath, Known], path: ClaimPath, known: Known) -> None:
    before = found.get(path)
    found[path] = known if before is None else _met(before, known)


def _met(one: Known, other: Known) -> Known:
    values = [each.values for each in (one, other) if each.values is not None]
    return Known(
        values=reduce(frozenset.intersection, values) if values else None,
        excluded=one.excluded | other.excluded,
        globs=tuple(dict.fromkeys((*one.globs, *other.globs))),
        present=one.present or other.present,
        same_as=one.same_as | other.same_as,
    )


def _joined(one: Known, other: Known) -> Known:
    for absent, there in ((one, other), (other, one)):
        if absent.values == frozenset():  # not there on this side: what holds of its value is up to the other side
            return replace(there, present=absent.present and there.present)
    common = tuple(globs for globs in one.globs if globs in other.globs)
    if not common and one.globs and other.globs:
        common = ((*one.globs[0], *other.globs[0]),)
    return Known(
        values=one.values | other.values if one.values is not None and other.values is not None else None,
        excluded=frozenset(v for v in one.excluded | other.excluded if not one.can_be(v) and not other.can_be(v)),
        globs=common,
        present=one.present and other.present,
        same_as=one.same_as & other.same_as,
    )
