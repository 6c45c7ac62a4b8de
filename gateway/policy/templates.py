"""Service accounts made from a template: one document, an identity of its own for every workload.

A name such as ``k8s.{namespace}.{service_account}`` is filled in from verified claims. No two workloads with other
claims get the same name, and none gets a name with anything in it that means something elsewhere. Pure.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from gateway.model import ClaimPath, Claims
from gateway.policy.conditions import claim_at
from gateway.policy.problems import path_text

MAX_NAME_CHARACTERS = 128
MAX_VALUE_CHARACTERS = 63
"""Of a value that goes into a name: those of a DNS label."""
MAX_PLACEHOLDERS = 4
MAX_TEMPLATES = 200

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_PLACEHOLDER_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
_VALUE = re.compile(r"[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?")
_LITERAL = re.compile(r"[a-z0-9._-]*")
_SEPARATOR = re.compile(r"[._-]+")


class TemplateError(ValueError):
    """A name that cannot be a template."""


@dataclass(frozen=True, slots=True)
class Unnameable:
    """Why the claims of a workload make no name."""

    why: str


@dataclass(frozen=True, slots=True)
class NameTemplate:
    """A name with placeholders, and the claims that fill them."""

    text: str
    literals: tuple[str, ...]
    """What stands before, between and after the placeholders: one more than there are of those."""
    placeholders: tuple[tuple[str, ClaimPath], ...]
    """Each with its claim, in the order of the name."""

    def name_for(self, claims: Claims) -> str | Unnameable:
        """The name of the service account of a workload with these claims."""
        name = self.literals[0]
        for position, (placeholder, path) in enumerate(self.placeholders):
            value = claim_at(claims, path)
            after = self.literals[position + 1]
            is_last = position == len(self.placeholders) - 1
            if type(value) is not str or not _is_usable(value):
                return Unnameable(f"{path_text(path)}, which is {{{placeholder}}} in {self.text}, {_unfit(value)}")
            if not is_last and after in value:
                why = f"holds {after}, which ends it in {self.text}: names could be mistaken for each other"
                return Unnameable(f"{path_text(path)}, which is {{{placeholder}}}, {why}")
            name += value + after
        if len(name) > MAX_NAME_CHARACTERS:
            return Unnameable(f"{self.text} would have more than {MAX_NAME_CHARACTERS} characters")
        return name

    def fits(self, name: str) -> bool:
        """Whether it is a name that some claims would make."""
        first, *between, last = self.literals
        if len(name) > MAX_NAME_CHARACTERS or not name.startswith(first) or not name.endswith(last):
            return False
        rest = name[len(first) : len(name) - len(last)]
        values = []
        for separator in between:  # a value holds none of what ends it, so that there is one way to take a name apart
            value, _, rest = rest.partition(separator)
            values.append(value)
        return all(map(_is_usable, (*values, rest)))

    def may_meet(self, other: "NameTemplate") -> bool:
        """Whether the two could make the same name: only names that begin differently surely differ."""
        mine, others = self.literals[0], other.literals[0]
        return mine.startswith(others) or others.startswith(mine)


def parse_name_template(text: str, claims: Mapping[str, ClaimPath]) -> NameTemplate:
    """A template from a name as written and the claims for its placeholders. Raises ``TemplateError``."""
    parts = _PLACEHOLDER.split(text)
    literals, names = tuple(parts[::2]), parts[1::2]
    if not names:
        raise TemplateError("has no placeholder, such as {namespace}, for what for_each names")
    if len(names) > MAX_PLACEHOLDERS:
        raise TemplateError(f"has more than {MAX_PLACEHOLDERS} placeholders")
    for name in names:
        if not _PLACEHOLDER_NAME.fullmatch(name):
            raise TemplateError(f"{{{name}}} is no placeholder: lower-case letters, digits and underscores")
        if name not in claims:
            raise TemplateError(f"for_each does not say which claim {{{name}}} is")
    if len(set(names)) < len(names):
        raise TemplateError("has a placeholder twice")
    if unused := sorted(claims.keys() - set(names)):
        raise TemplateError(f"does not use {{{unused[0]}}} of for_each: what it is made for would share one account")
    if not all(map(_LITERAL.fullmatch, literals)):
        raise TemplateError("has lower-case letters, digits, dots, dashes and underscores around its placeholders")
    if not literals[0] or literals[0][0] in "._-":
        raise TemplateError("begins with a letter or a digit, not with a placeholder: no workload chooses a whole name")
    if not all(map(_SEPARATOR.fullmatch, literals[1:-1])):
        raise TemplateError("has dots, dashes or underscores, and nothing else, between two placeholders")
    if literals[-1].endswith((".", "_", "-")):
        raise TemplateError("ends with a letter or a digit")
    return NameTemplate(text, literals, tuple((name, claims[name]) for name in names))


def _is_usable(value: str) -> bool:
    return len(value) <= MAX_VALUE_CHARACTERS and _VALUE.fullmatch(value) is not None


def _unfit(value: object) -> str:
    if value is None:
        return "is absent"
    if not isinstance(value, str):
        return "is no text"
    return (
        f"is not made of at most {MAX_VALUE_CHARACTERS} lower-case letters, digits, dots, dashes and underscores, "
        "or does not begin and end with a letter or digit"
    )
