"""Lint of what a trust rule has to fix, at the least, on each platform: the tenant, the workload, the context. Pure."""

from collections.abc import Iterator

from gateway.policy.lint.base import LintRule, Remark, TrustView, choice_text, claim_text, values_text
from gateway.policy.lint.platforms import NAMESPACE, SUB


def _tenant(view: TrustView) -> Iterator[Remark]:
    platform = view.platform
    if not platform.tenant or platform.slug_in_url or _is_a_called_workflow(view):
        return
    if not view.fixes_names_for(platform.tenant):
        shared = f"all of {platform.title} shares this issuer"
        yield view.remark(f"{shared}, and the rule does not fix {choice_text(platform.tenant)} by value")


def _people(view: TrustView) -> Iterator[Remark]:
    people = view.platform.signs_people
    if people and not any(path[:1] in people and known.present for path, known in view.facts.items()):
        wanted = ", ".join(sorted(map(claim_text, people)))
        yield view.remark(f"people who sign in have tokens of this issuer, too: ask for {wanted}")


def _slug(view: TrustView) -> Iterator[Remark]:
    platform = view.platform
    if platform.slug_in_url and not view.fixes(platform.tenant):
        words = "the issuer's URL holds a name that others can take over"
        yield view.remark(f"{words}, and the rule does not fix {choice_text(platform.tenant)}")


def _workload(view: TrustView) -> Iterator[Remark]:
    platform = view.platform
    if platform.family == "unknown":
        fixed = [path for path, known in view.facts.items() if known.present and known.possible]
        if not {path[0] for path in fixed} - {"iss", "aud"} and not view.placeholders:
            yield view.remark("no claim is fixed by value")
    elif platform.family == "kubernetes":
        if view.is_fixed(NAMESPACE) and not view.tells_apart(platform.workload):
            words = f"the namespace is fixed ({values_text(view.values(NAMESPACE)) or 'in the name'})"
            yield view.remark(f"{words}, and the service account is not: every pod there may be meant")
    elif not view.tells_apart(platform.workload) and not _is_a_called_workflow(view) and not _is_one_path_of_aws(view):
        yield view.remark(f"does not fix {choice_text(platform.workload)} by value")


def _context(view: TrustView) -> Iterator[Remark]:
    context = view.platform.context
    writing = view.writing
    if writing and context and not any(all(map(view.narrows, alternative)) for alternative in context):
        yield view.remark(f"gives {writing[0]} to every job, whatever it runs: fix {choice_text(context)}")


def _is_a_called_workflow(view: TrustView) -> bool:
    """Whether WF001 speaks of it."""
    return view.platform.family == "github" and view.narrows(("job_workflow_ref",))


def _is_one_path_of_aws(view: TrustView) -> bool:
    """Whether ``sub`` is fixed but for the last part of a role's path."""
    known = view.facts.get(SUB)
    return (
        view.platform.family == "aws"
        and known is not None
        and any(all("/" in glob.partition("*")[0] and "**" not in glob for glob in globs) for globs in known.globs)
    )


RULES: tuple[LintRule, ...] = (
    LintRule(
        id="ISS005",
        severity="error",
        title="A shared issuer, and nothing says whose workload it is",
        why="The issuer signs the tokens of every customer of the platform. A rule that does not fix the tenant "
        "lets in a stranger who gives their repository, project or branch the names that it asks for. In a template "
        "the tenant has to be fixed by value, too: a placeholder would make an account for every stranger.",
        fix="Add the tenant's id to match, such as repository_owner_id or namespace_id. A guardrail or the issuer's "
        "when can fix it for all rules at once.",
        of_trust=_tenant,
    ),
    LintRule(
        id="ISS006",
        severity="warning",
        title="People have tokens of this issuer as well",
        why="The same issuer and keys sign what people get who log in. A rule that asks for no claim that only a "
        "workload has may let in a person who can choose their own names.",
        fix="Ask for a claim that only a workload's token has.",
        of_trust=_people,
    ),
    LintRule(
        id="ISS009",
        severity="warning",
        title="The issuer's URL holds a name that can be taken over",
        why="When the organisation is renamed or deleted, its name goes back to the pool, and with it this URL. "
        "Whoever takes the name then signs tokens that are believed here.",
        fix="Add the organisation's id to match: it is never given out again.",
        of_trust=_slug,
    ),
    LintRule(
        id="PIN002",
        severity="error",
        title="The rule does not say which workload",
        why="Whoever belongs to the tenant can make workloads, such as a repository, a project or a service "
        "account. A rule that fixes none of them gives its access to all, those of next year included.",
        fix="Fix the workload by value: its id, or the whole of sub; a list means any of them.",
        of_trust=_workload,
    ),
    LintRule(
        id="PIN003",
        severity="warning",
        title="Access that writes, for every job of the workload",
        why="Whoever may push a branch can run a job with code of their own. A rule that looks at neither branch "
        "nor environment gives them the access that writes.",
        fix="Fix the branch, the environment or the workflow file, or narrow scopes of the rule to reading.",
        of_trust=_context,
    ),
)
