"""Lint of AWS roles and what may be said of them. Pure."""

import re
from collections import Counter
from collections.abc import Iterator

from gateway.policy.generation import TrustRule
from gateway.policy.lint.base import IssuerView, LintRule, Remark, TrustView
from gateway.policy.lint.platforms import AWS_ACCOUNT, PRINCIPAL_TAGS, REQUEST_TAGS, SUB

_FAMILY = frozenset({"aws"})
_ARN = re.compile(r"arn:aws[a-z-]*:[a-z]+::([0-9]{12}):")


def _two_accounts(view: IssuerView) -> Iterator[Remark]:
    accounts = {rule.ordinal: sorted(_accounts(rule)) for rule in view.rules}
    counted = Counter(account for named in accounts.values() for account in named)
    if len(counted) < 2:
        return
    (usual, _), *_ = counted.most_common(1)
    for rule in view.rules:
        for account in accounts[rule.ordinal]:
            if account != usual:
                trust = view.trust(rule)
                where = trust.path_of(SUB if trust.mentions(SUB) else AWS_ACCOUNT)
                yield Remark(where, f"names the account {account}, and other rules of this issuer {usual}", trust.place)


def _request_tags(view: TrustView) -> Iterator[Remark]:
    for path in view.rule.paths:
        if path[:2] == REQUEST_TAGS:
            yield view.remark("request_tags are whatever the caller writes", path)


def _principal_tags(view: TrustView) -> Iterator[Remark]:
    for path in view.rule.paths:
        if path[:2] == PRINCIPAL_TAGS:
            yield view.remark("principal_tags are set by whoever may tag the role or its sessions", path)


def _root_or_user(view: TrustView) -> Iterator[Remark]:
    texts = [value for value in view.values(SUB) or () if isinstance(value, str)]
    texts += [glob for path, glob, _ in view.globs if path == SUB]
    for text in sorted(set(texts)):
        if text.endswith(":root") or ":user/" in text:
            yield view.remark(f"{text} is no role: a person or a long-lived key is behind it", SUB)


def _any_role(view: TrustView) -> Iterator[Remark]:
    for path, glob, where in view.globs:
        if path == SUB and ("**" in glob or glob.endswith("/*")):
            yield Remark(where, f"{glob} fits every role that is ever made there")


def _accounts(rule: TrustRule) -> set[str]:
    texts = [
        value for match in rule.match if match.path in {SUB, AWS_ACCOUNT} for value in match.wanted
        if isinstance(value, str)
    ]  # fmt: skip
    texts += [glob for like in rule.like if like.path == SUB for glob in like.wanted]
    found = {arn[1] for text in texts if (arn := _ARN.match(text))}
    return found | {text for text in texts if re.fullmatch(r"[0-9]{12}", text)}


RULES: tuple[LintRule, ...] = (
    LintRule(
        id="AWS002",
        severity="warning",
        title="Two AWS accounts under one issuer",
        why="Each AWS account has an issuer of its own, so that of two accounts at least one never comes: the rule "
        "does not work, or it names the wrong issuer.",
        fix="Add an Issuer for the other account, with the URL that get-outbound-web-identity-federation-info shows "
        "there.",
        families=_FAMILY,
        of_issuer=_two_accounts,
    ),
    LintRule(
        id="AWS004",
        severity="error",
        title="Tags that the caller chooses",
        why="Whoever asks STS for the token writes request_tags into it. They prove nothing.",
        fix="Match sub, the role's ARN.",
        families=_FAMILY,
        of_trust=_request_tags,
    ),
    LintRule(
        id="AWS005",
        severity="warning",
        title="Tags of the role or its session",
        why="They prove as much as the right to set them does (iam:TagRole, sts:TagSession), which developers often "
        "have.",
        fix="Match sub; or silence this with who may set the tags.",
        families=_FAMILY,
        of_trust=_principal_tags,
    ),
    LintRule(
        id="AWS006",
        severity="warning",
        title="The account's root, or a user",
        why="Workloads have roles. Behind a user or root there is a person, or a key that never expires.",
        fix="Give the workload a role, and match that role.",
        families=_FAMILY,
        of_trust=_root_or_user,
    ),
    LintRule(
        id="AWS008",
        severity="warning",
        title="A glob over all roles",
        why="Whoever may create a role in the account, every CI pipeline of it perhaps, can create one that fits.",
        fix="Write the role out with its path; a star is for the end of a role's own name.",
        families=_FAMILY,
        of_trust=_any_role,
    ),
)
