"""Lint of how long access tokens live. Pure."""

from collections.abc import Iterator

from gateway.policy.documents import duration_text
from gateway.policy.lint.base import AccountView, LintRule, Policies, Remark, TrustView

SHORTEST_CACHED_SECONDS = 301
"""Of a shorter life, Google's and Microsoft's client libraries keep nothing: they ask anew at every use."""


def _outlives(view: TrustView) -> Iterator[Remark]:
    issuer = view.issuer.issuer
    if issuer.bound_to_subject_token:
        return
    resources = view.issuer.policies.generation.resources
    for name in view.rule.grants:
        longest = resources[name].token_lifetime_seconds
        if view.rule.token_lifetime_seconds is not None:
            longest = min(longest, view.rule.token_lifetime_seconds)
        if longest > issuer.max_token_lifetime_seconds:
            lives, own = duration_text(longest), duration_text(issuer.max_token_lifetime_seconds)
            yield view.remark(f"tokens for {name} live {lives}, and the workload's own {own} at most")


def _short_at_resource(policies: Policies) -> Iterator[Remark]:
    for resource in policies.generation.resources.values():
        if resource.token_lifetime_seconds < SHORTEST_CACHED_SECONDS:
            yield Remark(("token_lifetime",), _too_short(resource.token_lifetime_seconds), resource.place)


def _short_of_account(view: AccountView) -> Iterator[Remark]:
    own = view.account.token_lifetime_seconds
    if own is not None and own < SHORTEST_CACHED_SECONDS:
        yield Remark(("token_lifetime",), _too_short(own))
        return
    for trust in view.trust:
        seconds = trust.rule.token_lifetime_seconds
        if seconds is not None and seconds < SHORTEST_CACHED_SECONDS:
            yield Remark((*trust.path, "token_lifetime"), _too_short(seconds))


def _too_short(seconds: int) -> str:
    return f"{duration_text(seconds)} is less than clients keep a token for: some ask for a new one at every use"


RULES: tuple[LintRule, ...] = (
    LintRule(
        id="LIFE002",
        severity="info",
        title="Access outlives the workload's own token",
        why="The workload's token ends soon, as its job does; the access token that it is traded for goes on.",
        fix="Shorten token_lifetime of the rule, or set bound_to_subject_token on the Issuer. Long jobs may need it.",
        of_trust=_outlives,
    ),
    LintRule(
        id="LIFE003",
        severity="warning",
        title="Tokens live too short to be kept",
        why="Client libraries renew a token before it ends, some of them five minutes before. One that lives no "
        "longer than that is asked for anew at every use, which is slow and meets the rate limits.",
        fix="Give tokens more than five minutes, such as 10m.",
        of_policies=_short_at_resource,
        of_account=_short_of_account,
    ),
)
