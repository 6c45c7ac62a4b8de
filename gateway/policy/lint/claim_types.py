"""Lint of values: types that the platform does not write, lists, lookalikes, and what must not be. Pure."""

import unicodedata
from collections.abc import Iterator

from gateway.model import ClaimPath
from gateway.policy.lint.base import IssuerView, LintRule, Policies, Remark, TrustView, claim_text
from gateway.policy.lint.facts import NOTHING
from gateway.policy.lint.platforms import Platform
from gateway.policy.lint.syntax import Call, Claim, ListOf, Literal, Node, demanded, walk
from gateway.policy.wording import shown, type_in_words

_COMPARISONS = frozenset({"_==_", "_!=_", "@in"})
_SCRIPTS = ("LATIN", "CYRILLIC", "GREEK", "ARMENIAN", "CHEROKEE")
"""Scripts with letters that look like those of another."""


def _wrong_type_in_rule(view: TrustView) -> Iterator[Remark]:
    for match in view.rule.match:
        for words in _wrong_types(view.platform, match.path, match.wanted):
            yield view.remark(f"{words}: it never matches", match.path)
    for path, values in _compared(view.when):
        for words in _wrong_types(view.platform, path, values):
            yield Remark((*view.path, "when"), f"{words}: == never holds, and != always does")


def _wrong_type_in_condition(view: IssuerView) -> Iterator[Remark]:
    condition = view.policies.generation.issuer_conditions.get(view.issuer.name)
    for path, values in _compared(view.policies.syntax(condition) if condition is not None else None):
        for words in _wrong_types(view.platform, path, values):
            yield Remark(("when",), f"{words}: == never holds, and != always does")


def _wrong_type_in_guardrail(policies: Policies) -> Iterator[Remark]:
    for guardrail, issuers in policies.guardrails():
        for path, values in _compared(policies.syntax(guardrail.deny_when)):
            found = {words for issuer in issuers for words in _wrong_types(issuer.platform, path, values)}
            for words in sorted(found):
                yield Remark(("deny_when",), f"{words}: == refuses nobody, and != everybody", guardrail.place)


def _what_must_not_be(view: TrustView) -> Iterator[Remark]:
    for node, holds in demanded(view.when) if view.when is not None else ():
        match node:
            case Call("_==_" | "_!=_", (Claim(path), Literal()) | (Literal(), Claim(path))):
                negative = (node.function == "_!=_") is holds
            case Call("@in", (Claim(path), ListOf())):
                negative = not holds
            case _:
                continue
        known = view.facts.get(path, NOTHING)
        if negative and path and known.values is None and not known.globs:
            words = f"says what {claim_text(path)} must not be: whatever else comes, a list or a number too, passes"
            yield view.remark(words, path)


def _whole_list(view: TrustView) -> Iterator[Remark]:
    lists = view.platform.lists
    for condition in view.conditions:
        if condition.path in lists:
            yield view.remark(f"{claim_text(condition.path)} is a list, and a list never matches", condition.path)
    for path, _ in _compared(view.when):
        if path in lists:
            words = f"{claim_text(path)} is a list, and is compared as if it were one value"
            yield Remark((*view.path, "when"), words)


def _lookalike(view: TrustView) -> Iterator[Remark]:
    for path, text in _texts(view):
        if odd := _oddity(text, ascii_only=path in view.platform.identifying):
            yield view.remark(f"{odd} in {shown(ascii(text)[1:-1])}", path)


def _wrong_types(platform: Platform, path: ClaimPath, values: tuple[object, ...]) -> Iterator[str]:
    """What is said of each value whose type the platform never writes into this claim."""
    holds_others = any(path == one[: len(path)] and path != one for one in platform.sometimes)
    if path in platform.lists or holds_others:
        return
    if path in platform.numbers:
        expected: type = int
    elif path in platform.booleans:
        expected = bool
    elif platform.all_else_is_text:
        expected = str
    else:
        return
    for value in values:
        if type(value) is not expected:
            kinds = f"{type_in_words(expected())}, and {shown(value)} is {type_in_words(value)}"
            yield f"{claim_text(path)} is {kinds}"


def _compared(node: Node | None) -> Iterator[tuple[ClaimPath, tuple[str | int | bool, ...]]]:
    """Each claim that a condition compares with values as written, and these."""
    for one in walk(node) if node is not None else ():
        if not isinstance(one, Call) or one.function not in _COMPARISONS:
            continue
        match one.arguments:
            case (Claim(path), Literal(value)) | (Literal(value), Claim(path)) if path and one.function != "@in":
                yield path, (value,)
            case (Claim(path), ListOf(items)) if path:
                yield path, tuple(item.value for item in items if isinstance(item, Literal))


def _texts(view: TrustView) -> Iterator[tuple[ClaimPath, str]]:
    """Every text that the rule compares a claim with."""
    for condition in view.conditions:
        for value in condition.wanted:
            if isinstance(value, str):
                yield condition.path, value
    for path, values in _compared(view.when):
        for value in values:
            if isinstance(value, str):
                yield path, value


def _oddity(text: str, *, ascii_only: bool) -> str:
    if text != text.strip():
        return "a blank at the end or the beginning"
    if text.isascii() and text.isprintable():
        return ""
    if not text.isprintable() or any(unicodedata.category(one) == "Cf" for one in text):
        return "a character that cannot be seen"
    names = [unicodedata.name(one, "").partition(" ")[0] for one in text if one.isalpha()]
    if len({name for name in names if name in _SCRIPTS}) > 1:
        return "letters of two scripts that look alike"
    return "a character beyond ASCII" if ascii_only else ""


RULES: tuple[LintRule, ...] = (
    LintRule(
        id="TYP001",
        severity="error",
        title="A type that the claim does not have",
        why="Comparison minds the type: GitHub and GitLab write ids and booleans as text. A rule with the other "
        "type never holds; with != it always does, and a guardrail with == refuses nobody.",
        fix='Write the value as the token does: "true" and "123" in quotes, or true and 123 without.',
        of_policies=_wrong_type_in_guardrail,
        of_issuer=_wrong_type_in_condition,
        of_trust=_wrong_type_in_rule,
    ),
    LintRule(
        id="TYP002",
        severity="info",
        title="What must not be, instead of what must be",
        why="An absent claim is a denial here, behind != too. But every other value passes, those that the platform "
        "adds next year included, and so does a value of another type.",
        fix="Say what must be: match with a list of the values that are meant.",
        of_trust=_what_must_not_be,
    ),
    LintRule(
        id="TYP003",
        severity="warning",
        title="A list compared as one value",
        why="The claim is a list. match, like and == want one value, so the rule never holds.",
        fix='Ask with CEL whether something is in it: when: "acme/admins" in claims.groups_direct.',
        of_trust=_whole_list,
    ),
    LintRule(
        id="TYP005",
        severity="error",
        title="A value with characters that are not what they seem",
        why="A Cyrillic letter looks like a Latin one, and some characters cannot be seen at all. The rule never "
        "holds, or it lets in a name that was made to look like another.",
        fix="Type the value anew.",
        of_trust=_lookalike,
    ),
)
