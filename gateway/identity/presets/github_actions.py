"""GitHub Actions: the token of one job, from github.com, GHE.com or a GitHub Enterprise Server.

All of github.com shares one issuer: what tells owners apart are the ids in the claims.
"""

from gateway.model import ClaimTable, Preset

_HOST = r"[A-Za-z0-9.-]+(?::[0-9]+)?"

_OPTIONAL = frozenset({
    "actor", "actor_id", "base_ref", "check_run_id", "enterprise", "enterprise_id", "environment",
    "environment_node_id", "head_ref", "job_workflow_ref", "job_workflow_sha", "ref", "ref_protected", "ref_type",
    "repo_property_*", "repository_visibility", "run_attempt", "run_number", "runner_environment", "sha",
    "workflow", "workflow_ref", "workflow_sha",
})  # fmt: skip

PRESET = Preset(
    name="github-actions",
    title="GitHub Actions",
    url="https://token.actions.githubusercontent.com",
    url_pattern=(
        r"https://token\.actions\.githubusercontent\.com(?:/[A-Za-z0-9-]+)?"
        r"|https://token\.actions\.[a-z0-9-]+\.ghe\.com(?:/[A-Za-z0-9-]+)?"
        rf"|https://{_HOST}/_services/token"
    ),
    algorithms=("RS256",),
    claims=ClaimTable(
        required=(
            ("repository",),
            ("repository_id",),
            ("repository_owner",),
            ("repository_owner_id",),
            ("event_name",),
            ("run_id",),
        ),
        optional=_OPTIONAL,
    ),
    # Repository admins choose the shape of sub; names of environments hold blanks.
    subject_pattern=r"[\x21-\x7e](?:[\x20-\x7e]{0,253}[\x21-\x7e])?",
    max_token_lifetime_seconds=900,
    max_token_age_seconds=900,
)
