"""Lint of audiences: for whom a workload token was made. Pure."""

from collections.abc import Iterator

from gateway.policy.documents import duration_text
from gateway.policy.lint.base import IssuerView, LintRule, Remark, TrustView
from gateway.policy.lint.syntax import Call, Claim, Literal, walk

_AUD = ("aud",)


def _reserved(view: IssuerView) -> Iterator[Remark]:
    preset = view.policies.presets[view.issuer.preset]
    resources = view.policies.generation.resources_by_identifier
    for audience in sorted(view.issuer.audiences):
        taken = view.policies.is_reserved_audience(audience) or audience in preset.reserved_audiences
        if (taken or audience == view.issuer.url) and not view.platform.fixed_audience:
            words = f"accepts {audience}, which another relying party accepts as well"
            yield Remark(("allow_reserved_audiences",), words)
        elif audience in resources:
            words = f"accepts {audience}, which is what tokens for {resources[audience].name} are for"
            yield Remark(("audiences",), words)


def _several(view: IssuerView) -> Iterator[Remark]:
    if len(view.issuer.audiences) > 1:
        yield Remark(("audiences",), f"accepts {len(view.issuer.audiences)} audiences")


def _companions(view: IssuerView) -> Iterator[Remark]:
    if view.issuer.companion_audiences:
        listed = ", ".join(sorted(view.issuer.companion_audiences))
        yield Remark(("companion_audiences",), f"accepts tokens that were made for {listed} as well")


def _fixed(view: IssuerView) -> Iterator[Remark]:
    longest = view.platform.longest_age_seconds
    if view.platform.fixed_audience and view.issuer.max_token_age_seconds > longest:
        age = duration_text(view.issuer.max_token_age_seconds)
        words = f"{view.platform.title} lets nobody choose the audience, and tokens are accepted for {age}"
        yield Remark(("max_token_age",), words)


def _compared_in_part(view: TrustView) -> Iterator[Remark]:
    for path, glob, where in view.globs:
        if path == _AUD and "*" in glob:
            yield Remark(where, f"accepts every audience like {glob}")
    for node in walk(view.when) if view.when is not None else ():
        match node:
            case Call("matches", (Claim(path), Literal(str(pattern)))) if path == _AUD:
                yield view.remark(f"accepts every audience that matches {pattern}", _AUD)


RULES: tuple[LintRule, ...] = (
    LintRule(
        id="AUD002",
        severity="error",
        title="A reserved audience is accepted",
        why="A token with this audience was made for somebody else, such as AWS or the cluster's own API server. "
        "Whoever receives it there can use it here, and a token that is given to us opens the other door.",
        fix="Have the platform make tokens for the gateway's issuer URL, which the workload can choose here, and "
        "remove allow_reserved_audiences.",
        of_issuer=_reserved,
    ),
    LintRule(
        id="AUD004",
        severity="warning",
        title="More than one audience is accepted",
        why="An audience says for which environment a token was made. Where test and production accept the same "
        "ones, a token of the one works at the other.",
        fix="Accept one audience, the gateway's own. While moving from one to another, silence this with the reason.",
        of_issuer=_several,
    ),
    LintRule(
        id="AUD005",
        severity="warning",
        title="Tokens for several parties are accepted",
        why="Such a token was given to another service, too. Whoever runs that service can use it here.",
        fix="Have a token made for the gateway alone, and remove companion_audiences.",
        of_issuer=_companions,
    ),
    LintRule(
        id="AUD006",
        severity="warning",
        title="A platform's fixed audience without a short age",
        why="This platform puts one audience into all of its tokens, so it does not tie a token to this gateway: "
        "any other service that gets one can use it here for as long as it is accepted.",
        fix="Set max_token_age to 10m or less, and replay to reject where jobs do not use a token twice.",
        of_issuer=_fixed,
    ),
    LintRule(
        id="AUD007",
        severity="error",
        title="An audience is compared in part",
        why="Audiences are compared whole. A prefix or a pattern lets in tokens for names that somebody else owns, "
        "such as https://sts.example.com.attacker.net.",
        fix="List the audiences under audiences of the Issuer, each whole, and leave aud out of the rule.",
        of_trust=_compared_in_part,
    ),
)
