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
    sample={
        "jti": "c3b1a2d4-5e6f-4a7b-8c9d-0e1f2a3b4c5d",
        "sub": "repo:acme@100200/web@300400:environment:production",
        "aud": "https://sts.orchard.example",
        "ref": "refs/heads/main",
        "sha": "0123456789abcdef0123456789abcdef01234567",
        "repository": "acme/web",
        "repository_owner": "acme",
        "repository_owner_id": "100200",
        "run_id": "9900112233",
        "run_number": "87",
        "run_attempt": "1",
        "check_run_id": "55443322110",
        "repository_visibility": "private",
        "repository_id": "300400",
        "actor_id": "700800",
        "actor": "mira-dev",
        "workflow": "Deploy",
        "head_ref": "",
        "base_ref": "",
        "event_name": "push",
        "ref_protected": "true",
        "ref_type": "branch",
        "workflow_ref": "acme/web/.github/workflows/deploy.yml@refs/heads/main",
        "workflow_sha": "0123456789abcdef0123456789abcdef01234567",
        "job_workflow_ref": "acme/ci-shared/.github/workflows/release.yml@refs/tags/v3",
        "job_workflow_sha": "89abcdef0123456789abcdef0123456789abcdef",
        "environment": "production",
        "environment_node_id": "EN_kwDOexample",
        "runner_environment": "github-hosted",
        "enterprise": "acme-group",
        "enterprise_id": "4455",
        "repo_property_tier": "gold",
        "iss": "https://token.actions.githubusercontent.com",
        "nbf": 1793609400,
        "iat": 1793610000,
        "exp": 1793610300,
    },
    # Repository admins choose the shape of sub; names of environments hold blanks.
    subject_pattern=r"[\x21-\x7e](?:[\x20-\x7e]{0,253}[\x21-\x7e])?",
    max_token_lifetime_seconds=900,
    max_token_age_seconds=900,
)
