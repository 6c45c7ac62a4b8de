"""Lint of CI jobs: which events, branches, workflow files and environments a trust rule lets in. Pure."""

from collections.abc import Iterator

from gateway.model import ClaimPath
from gateway.policy.lint.base import AccountView, LintRule, Remark, TrustView, claim_text, values_text
from gateway.policy.lint.facts import NOTHING
from gateway.policy.lint.platforms import SUB

STRANGERS_EVENTS = ("pull_request_target", "workflow_run", "issue_comment")
"""GitHub's events that strangers set off, and that run under the default branch with its rights."""

_MORE_STRANGERS_EVENTS = frozenset({*STRANGERS_EVENTS, "issues", "discussion", "discussion_comment", "fork", "watch"})
_EVENT: ClaimPath = ("event_name",)
_ENVIRONMENT: ClaimPath = ("environment",)
_REF: ClaimPath = ("ref",)
_WORKFLOW: ClaimPath = ("job_workflow_ref",)
_SOURCE: ClaimPath = ("pipeline_source",)
_MERGE_REQUEST = "merge_request_event"
_RUN_PHASE: ClaimPath = ("terraform_run_phase",)
_SSH: ClaimPath = ("oidc.circleci.com/ssh-rerun",)
_JOB_TYPE: ClaimPath = ("job_type",)


def _any_event(view: TrustView) -> Iterator[Remark]:
    known = view.facts.get(_EVENT, NOTHING)
    if view.values(_EVENT) is not None or _is_for_tags(view):
        return
    open_to = [event for event in STRANGERS_EVENTS if known.can_be(event)]
    if open_to:
        yield view.remark(f"{', '.join(open_to)} can set off a job that this rule trusts")


def _strangers_event(view: TrustView) -> Iterator[Remark]:
    values = view.values(_EVENT) or frozenset()
    listed = frozenset(value for value in values if value in _MORE_STRANGERS_EVENTS)
    if listed:
        yield view.remark(f"{values_text(listed)} is set off by strangers, with the rights of the repository", _EVENT)


def _branch_or_tag(view: TrustView) -> Iterator[Remark]:
    if view.narrows(_REF) and not view.narrows(("ref_type",)) and not view.narrows(("ref_path",)):
        yield view.remark("a tag can be called like the branch: ref_type is not fixed", _written(view, _REF))


def _unprotected(view: TrustView) -> Iterator[Remark]:
    if not view.writing or _is_protected(view) or view.narrows(_ENVIRONMENT):
        return
    if view.platform.family != "github" or not view.values(_WORKFLOW):
        yield view.remark(f'gives {view.writing[0]}, and asks for neither ref_protected "true" nor an environment')


def _ref_glob(view: TrustView) -> Iterator[Remark]:
    if _is_protected(view):
        return
    for path in sorted(view.platform.refs):
        for globs in view.facts.get(path, NOTHING).globs:
            if starred := [glob for glob in globs if "*" in glob]:
                words = f"whoever may push can make a branch or tag like {starred[0]}"
                yield view.remark(words, _written(view, path))


def _others_code(view: TrustView) -> Iterator[Remark]:
    family = view.platform.family
    if family == "gitlab":
        known = view.facts.get(_SOURCE, NOTHING)
        values = view.values(_SOURCE)
        if values is not None and _MERGE_REQUEST in values:
            yield view.remark("a merge request runs code that nobody has merged", _SOURCE)
        elif values is None and known.can_be(_MERGE_REQUEST) and view.writing and not _is_protected(view):
            yield view.remark(f"a merge request's pipeline gets {view.writing[0]}: pipeline_source is not limited")
    if family == "github" and "pull_request" in (view.values(_EVENT) or ()):
        yield view.remark("a pull request runs code that nobody has merged", _written(view, _EVENT))
    if family == "semaphore" and view.mentions(("branch",)):
        yield view.remark("branch is the one that a pull request goes to, not the one that it comes from", ("branch",))
    if family == "azure-devops" and any(path == ("rpo_ref",) and "refs/pull/" in glob for path, glob, _ in view.globs):
        yield view.remark("refs/pull is code that nobody has merged", ("rpo_ref",))


def _fork(view: TrustView) -> Iterator[Remark]:
    source = view.facts.get(_SOURCE, NOTHING)
    same = view.facts.get(("job_project_id",), NOTHING)
    if source.present and not source.can_be(_MERGE_REQUEST):
        return
    if same.possible is None and ("project_id",) not in same.same_as:
        yield view.remark("job_project_id is not looked at: the job may run in another project than project_id")


def _called_workflow(view: TrustView) -> Iterator[Remark]:
    pinned = [("repository_id",), ("repository_owner_id",), ("repository",), ("repository_owner",)]
    if view.narrows(_WORKFLOW) and not any(map(view.values, pinned)):
        words = "anybody may call this workflow: neither repository_id nor repository_owner_id is fixed"
        yield view.remark(words, _WORKFLOW)


def _file_at_any_ref(view: TrustView) -> Iterator[Remark]:
    for path, glob, where in view.globs:
        file, at, ref = glob.partition("@")
        if path in view.platform.files and ("*" in ref or (not at and glob.endswith("*")) or (at and not ref)):
            yield Remark(where, f"{glob} takes the file {file.rstrip('*')} as any branch has it")


def _chosen(view: TrustView) -> Iterator[Remark]:
    for path, who in view.platform.chosen.items():
        known = view.own.get(path, NOTHING)
        if known.present and (known.values or known.globs):
            yield view.remark(f"{claim_text(path)} is chosen by {who}", path)


def _chosen_name(view: AccountView) -> Iterator[Remark]:
    template = view.account.template
    for placeholder, path in template.placeholders if template is not None else ():
        choosing = {trust.platform.chosen[path] for trust in view.trust if path in trust.platform.chosen}
        for who in sorted(choosing):
            words = f"{claim_text(path)}, by which each workload has its service account, is chosen by {who}"
            yield Remark(("for_each", placeholder), words)


def _environment_alone(view: TrustView) -> Iterator[Remark]:
    if not view.narrows(_ENVIRONMENT):
        return
    if view.platform.family == "github":
        beside = [_REF, ("environment_node_id",), _WORKFLOW, ("workflow_ref",)]
        alone = not any(map(view.narrows, beside)) and not _is_protected(view)
    else:
        alone = not view.is_only(("environment_protected",), "true") and not _is_protected(view)
    if alone:
        yield view.remark("whoever edits the job can name this environment", _written(view, _ENVIRONMENT))


def _early_phase(view: TrustView) -> Iterator[Remark]:
    if not view.writing:
        return
    if view.platform.family == "vercel" and view.values(_ENVIRONMENT) is not None:
        early = (view.values(_ENVIRONMENT) or frozenset()) & {"preview", "development"}
        if early:
            yield view.remark(f"{values_text(early)} runs code that nobody has merged", _ENVIRONMENT)
    if view.platform.family == "hcp-terraform" and "plan" in (view.values(_RUN_PHASE) or ()):
        yield view.remark("a plan runs the code of a pull request", _RUN_PHASE)


def _shell(view: TrustView) -> Iterator[Remark]:
    if view.platform.family == "circleci" and not view.is_only(_SSH, value=False):
        yield view.remark("a job that is run again with SSH gives a person a shell: ssh-rerun is not fixed to false")
    if view.platform.family == "semaphore" and not view.is_only(_JOB_TYPE, "pipeline_job"):
        yield view.remark("a debug job gives a person a shell: job_type is not fixed to pipeline_job")


def _own_runners(view: TrustView) -> Iterator[Remark]:
    visibility = view.values(("repository_visibility",))
    if not view.narrows(("runner_environment",)) and (visibility is None or "public" in visibility):
        yield view.remark("a self-hosted runner may do: runner_environment is not fixed")


def _is_protected(view: TrustView) -> bool:
    return view.is_only(("ref_protected",), "true")


def _is_for_tags(view: TrustView) -> bool:
    known = view.facts.get(_REF, NOTHING)
    texts = [known.possible] if known.possible else list(known.globs)
    return known.present and any(
        all(isinstance(text, str) and text.startswith("refs/tags/") for text in one) for one in texts
    )


def _written(view: TrustView, claim: ClaimPath) -> ClaimPath:
    """The claim, or ``sub`` where that tells of it."""
    return claim if view.mentions(claim) else SUB


RULES: tuple[LintRule, ...] = (
    LintRule(
        id="REF001",
        severity="error",
        title="Any event may set off the job",
        why="pull_request_target, workflow_run and issue_comment are set off by strangers and run under the default "
        "branch with the repository's rights, often with the stranger's code. ref and sub then look exactly as "
        "after a push.",
        fix="Add event_name to match, such as [push, workflow_dispatch], or refuse these events for all by a "
        "guardrail.",
        families=frozenset({"github"}),
        of_trust=_any_event,
    ),
    LintRule(
        id="REF002",
        severity="error",
        title="An event that strangers set off is trusted",
        why="The event runs with the repository's rights, and whoever may open a pull request or write a comment "
        "causes it.",
        fix="Take the event out of event_name, and do in a push or a workflow_dispatch what needs the access.",
        families=frozenset({"github"}),
        of_trust=_strangers_event,
    ),
    LintRule(
        id="REF003",
        severity="warning",
        title="A tag can pass for the branch",
        why="ref holds the bare name, and whoever may push tags can push one that is called main.",
        fix="Add ref_type: branch (or tag), or match ref_path.",
        families=frozenset({"gitlab"}),
        of_trust=_branch_or_tag,
    ),
    LintRule(
        id="REF004",
        severity="warning",
        title="Access that writes, from a branch that need not be protected",
        why="Whoever may push to the branch runs their own code with this access. On a protected branch that is not "
        "everybody.",
        fix='Add ref_protected: "true" (a text), or an environment with protection rules.',
        families=frozenset({"github", "gitlab"}),
        of_trust=_unprotected,
    ),
    LintRule(
        id="REF005",
        severity="warning",
        title="A glob over branches or tags that anybody may make",
        why="Whoever may push can make a branch or a tag whose name fits.",
        fix='Add ref_protected: "true" and protect the branches or tags that the glob means, or list them.',
        of_trust=_ref_glob,
    ),
    LintRule(
        id="REF006",
        severity="warning",
        title="Code that nobody has merged",
        why="The pipeline of a pull or merge request runs the proposed code, and whoever proposes it has the access.",
        fix="Trust push pipelines; give requests reading at most, through a rule of their own.",
        families=frozenset({"github", "gitlab", "semaphore", "azure-devops"}),
        of_trust=_others_code,
    ),
    LintRule(
        id="REF007",
        severity="warning",
        title="A job of another project",
        why="The pipeline of a merge request can run in the project that it goes to, with its runners. "
        "job_project_id says where the job really runs.",
        fix="Add job_project_id with the same id, or refuse merge_request_event in pipeline_source.",
        families=frozenset({"gitlab"}),
        of_trust=_fork,
    ),
    LintRule(
        id="WF001",
        severity="error",
        title="A workflow file, and anybody may call it",
        why="job_workflow_ref says which file defines the job. Every repository that may call that workflow gets "
        "in, and a public one may be called by all of GitHub.",
        fix="Add repository_owner_id or repository_id.",
        families=frozenset({"github"}),
        of_trust=_called_workflow,
    ),
    LintRule(
        id="WF002",
        severity="warning",
        title="A workflow file on any branch",
        why="Behind the @ stands the branch or tag that the file is taken from. With a star there, whoever may push "
        "a branch writes the file.",
        fix="Write the ref out: @refs/heads/main, or a protected tag.",
        of_trust=_file_at_any_ref,
    ),
    LintRule(
        id="WF003",
        severity="warning",
        title="A claim that the job or its starter chooses",
        why="The value proves nothing about the job: whoever writes or starts it sets it.",
        fix="Match what the platform alone writes: ids, ref, event_name, workflow_ref.",
        of_account=_chosen_name,
        of_trust=_chosen,
    ),
    LintRule(
        id="ENV001",
        severity="warning",
        title="An environment by itself",
        why="An environment that nobody has set up is made, unprotected, when a job names it; and its name says "
        "nothing of the branch.",
        fix="Protect the environment, and match the branch beside it: ref, or environment_protected on GitLab.",
        families=frozenset({"github", "gitlab"}),
        of_trust=_environment_alone,
    ),
    LintRule(
        id="ENV002",
        severity="warning",
        title="Access that writes, before anything was reviewed",
        why="Previews and plans run the code of a pull request, development tokens are on people's machines.",
        fix="Give access that writes to production, or to apply, alone.",
        families=frozenset({"vercel", "hcp-terraform"}),
        of_trust=_early_phase,
    ),
    LintRule(
        id="DBG001",
        severity="warning",
        title="A person with a shell gets in",
        why="The platform can run a job again with a shell for a person, and its token says so.",
        fix="Fix oidc.circleci.com/ssh-rerun: false, or job_type: pipeline_job.",
        families=frozenset({"circleci", "semaphore"}),
        of_trust=_shell,
    ),
    LintRule(
        id="DBG002",
        severity="info",
        title="Self-hosted runners are not left out",
        why="On a runner of one's own an earlier job, of a public repository also a stranger's, may still be at work.",
        fix="Add runner_environment: github-hosted, or repository_visibility: private.",
        families=frozenset({"github"}),
        of_trust=_own_runners,
    ),
)
