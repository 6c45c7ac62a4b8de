"""Lint of guardrails: limits that refuse too many, or that can be got around. Pure."""

from collections.abc import Iterator

from gateway.model import ClaimPath
from gateway.policy.lint.base import IssuerView, LintRule, Policies, Remark, claim_text
from gateway.policy.lint.facts import facts_when
from gateway.policy.lint.platforms import Platform
from gateway.policy.lint.syntax import Has, Node, walk

_WITHOUT_CASE = frozenset({"github", "gitlab"})


def _unasked(policies: Policies) -> Iterator[Remark]:
    for guardrail, issuers in policies.guardrails():
        node = policies.syntax(guardrail.deny_when)
        asked = {one.path for one in walk(node) if isinstance(one, Has)}
        for path in guardrail.deny_when.paths:
            if any(path[: len(one)] == one for one in asked):
                continue
            lacking = [view.issuer.name for view in issuers if _may_lack(view, path)]
            concerned = sorted(name for name in lacking if not _never_refuses(node, name))
            if concerned:
                words = f"refuses tokens of {', '.join(concerned)} that have no {claim_text(path)}"
                yield Remark(("deny_when",), f"{words}: ask with has() first", guardrail.place)


def _refuses_by_name(policies: Policies) -> Iterator[Remark]:
    for guardrail, issuers in policies.guardrails():
        node = policies.syntax(guardrail.deny_when)
        for view in issuers:
            if view.platform.family not in _WITHOUT_CASE:
                continue
            facts = facts_when(node, view.issuer.name, holds=False)
            named = sorted(path for path in view.platform.names if path in facts and facts[path].excluded)
            if named:
                words = f"refuses by {claim_text(named[0])}, which its owner can change at will"
                yield Remark(("deny_when",), words, guardrail.place)
                break


def _never_refuses(node: Node, issuer: str) -> bool:
    """Whether the condition is false of all tokens of the issuer, for it is about another one."""
    return () in facts_when(node, issuer, holds=True)


def _may_lack(view: IssuerView, path: ClaimPath) -> bool:
    """Whether tokens of the issuer are known to be without this claim, some of them or all."""
    platform, claims = view.platform, view.issuer.claims
    if "*" in claims.optional:  # nothing is known of its claims
        return False
    if any(path[: len(one)] == one for one in platform.sometimes) or _is_made_up(platform, path):
        return True
    known = {name.rstrip("*") for name in claims.optional | claims.ignored} | {one[0] for one in claims.required}
    return path[0] not in known | {"iss", "sub", "aud", "exp", "iat", "jti", "nbf"}


def _is_made_up(platform: Platform, path: ClaimPath) -> bool:
    return any(one[-1].endswith("*") and path[0].startswith(one[-1].rstrip("*")) for one in platform.sometimes)


RULES: tuple[LintRule, ...] = (
    LintRule(
        id="GRD001",
        severity="warning",
        title="A guardrail that refuses whoever lacks a claim",
        why="A guardrail refuses unless its condition is false, and with an absent claim it is neither true nor "
        "false. Tokens that never have the claim, perhaps those of whole platforms, are all refused.",
        fix="Ask with has() first, or name the issuer whose tokens always have the claim.",
        of_policies=_unasked,
    ),
    LintRule(
        id="TYP004",
        severity="warning",
        title="A guardrail that refuses by a name",
        why="Whoever is refused renames what the guardrail names, in another case or altogether, and gets through.",
        fix='Refuse by the id; or say who is let in: deny_when: claims.repository_owner_id != "100200".',
        of_policies=_refuses_by_name,
    ),
)
