"""Lint of templates: names that are filled in from claims. Pure."""

from collections.abc import Iterator, Mapping

from gateway.model import ClaimPath
from gateway.policy.lint.base import AccountView, LintRule, Remark, claim_text
from gateway.policy.lint.platforms import ACCOUNT, AWS_ACCOUNT, NAMESPACE, SUB

_ANY = frozenset("-._")
_MARKS: Mapping[ClaimPath, frozenset[str]] = {
    NAMESPACE: frozenset("-"),
    ACCOUNT: frozenset("-."),
    ("kubernetes.io", "serviceaccount", "uid"): frozenset("-"),
    AWS_ACCOUNT: frozenset(),
    **{
        (name,): frozenset()
        for name in ("repository_id", "repository_owner_id", "enterprise_id", "project_id", "namespace_id",
                     "job_project_id", "job_namespace_id", "user_id")
    },
}  # fmt: skip
"""Of which of these marks values of a claim may consist in part. Of any other claim nothing is known."""

_NEVER_A_NAME: Mapping[str, frozenset[ClaimPath]] = {
    "kubernetes": frozenset({SUB}),
    "github": frozenset({SUB, ("repository",), ("ref",), ("workflow_ref",), ("job_workflow_ref",)}),
    "gitlab": frozenset({SUB, ("project_path",), ("ref_path",), ("ci_config_ref_uri",), ("job_project_path",)}),
    "aws": frozenset({SUB, ("https://sts.amazonaws.com/", "principal_id")}),
}
"""Claims whose values always hold a slash or a colon."""


def _several_issuers(view: AccountView) -> Iterator[Remark]:
    issuers = sorted({rule.issuer for rule in view.account.rules})
    if view.account.template is not None and len(issuers) > 1:
        words = f"is filled in from tokens of {', '.join(issuers)}: equal names there are one service account"
        yield Remark(("name",), words)


def _separator(view: AccountView) -> Iterator[Remark]:
    template = view.account.template
    if template is None:
        return
    for position, (placeholder, claim) in enumerate(template.placeholders[:-1]):
        separator = template.literals[position + 1]
        if set(separator) <= _MARKS.get(claim, _ANY):
            words = f"{claim_text(claim)} may hold {separator}, which ends {{{placeholder}}}"
            yield Remark(("name",), f"{words}: such workloads are refused")


def _unnameable(view: AccountView) -> Iterator[Remark]:
    template = view.account.template
    families = {trust.platform.family for trust in view.trust}
    for placeholder, claim in template.placeholders if template is not None else ():
        if any(claim in _NEVER_A_NAME.get(family, ()) for family in families):
            yield Remark(
                ("for_each", placeholder), f"{claim_text(claim)} holds a slash or a colon, which goes into no name"
            )


RULES: tuple[LintRule, ...] = (
    LintRule(
        id="TPL001",
        severity="warning",
        title="One template for several issuers",
        why="The name is made of claims alone. A workload of one cluster and one of another that are called alike "
        "become the same service account, and whoever can make up names in the one acts for the other.",
        fix="Write a template for each issuer, each with a beginning of its own: north.{namespace}.{service_account}.",
        of_account=_several_issuers,
    ),
    LintRule(
        id="TPL002",
        severity="warning",
        title="A separator that values may hold",
        why="A value that holds the text which ends it goes into no name, or two workloads could share one. Its "
        "workloads are refused (unnameable_service_account): with k8s-{namespace}-{service_account}, all of "
        "kube-system.",
        fix="Separate by what the values never hold: a dot behind a namespace.",
        of_account=_separator,
    ),
    LintRule(
        id="TPL003",
        severity="error",
        title="A claim that goes into no name",
        why="Its values hold characters that no name may have, so that every workload is refused.",
        fix="Take claims that are plain names or ids: the namespace and the account's name, repository_id, project_id.",
        of_account=_unnameable,
    ),
)
