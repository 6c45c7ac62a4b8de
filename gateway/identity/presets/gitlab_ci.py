"""GitLab CI: the id_tokens of one job, from gitlab.com or an instance of one's own.

The same issuer and keys sign the tokens of people who log in: the job's claims tell the two apart.
"""

from gateway.identity.presets.common import HTTPS_URL
from gateway.model import ClaimTable, Preset

_OPTIONAL = frozenset({
    "ci_config_ref_uri", "ci_config_sha", "deployment_tier", "environment", "environment_action",
    "environment_protected", "groups_direct", "job_namespace_id", "job_namespace_path", "job_project_id",
    "job_project_path", "job_source", "namespace_path", "pipeline_source", "project_path", "project_visibility",
    "ref", "ref_path", "ref_protected", "ref_type", "runner_environment", "runner_id", "sha", "user_access_level",
    "user_email", "user_id", "user_identities", "user_login",
})  # fmt: skip

PRESET = Preset(
    name="gitlab-ci",
    title="GitLab CI",
    url=None,
    url_pattern=HTTPS_URL,
    algorithms=("RS256",),
    claims=ClaimTable(
        required=(("project_id",), ("namespace_id",), ("pipeline_id",), ("job_id",)),
        optional=_OPTIONAL,
    ),
    sample={
        "namespace_id": "815",
        "namespace_path": "orchard",
        "project_id": "4711",
        "project_path": "orchard/ledger",
        "user_id": "4242",
        "user_login": "mira",
        "user_email": "mira@orchard.example",
        "user_access_level": "maintainer",
        "job_project_id": "4711",
        "job_project_path": "orchard/ledger",
        "job_namespace_id": "815",
        "job_namespace_path": "orchard",
        "pipeline_id": "5550001",
        "pipeline_source": "push",
        "job_id": "88110022",
        "job_source": "push",
        "ref": "main",
        "ref_type": "branch",
        "ref_path": "refs/heads/main",
        "ref_protected": "true",
        "groups_direct": ["orchard"],
        "environment": "production",
        "environment_protected": "true",
        "deployment_tier": "production",
        "environment_action": "start",
        "runner_id": 120,
        "runner_environment": "self-hosted",
        "sha": "0123456789abcdef0123456789abcdef01234567",
        "project_visibility": "private",
        "ci_config_ref_uri": "gitlab.com/orchard/ledger//.gitlab-ci.yml@refs/heads/main",
        "ci_config_sha": "0123456789abcdef0123456789abcdef01234567",
        "jti": "1c2d3e4f-5a6b-4c7d-8e9f-0a1b2c3d4e5f",
        "iat": 1793610000,
        "nbf": 1793609995,
        "exp": 1793613600,
        "iss": "https://gitlab.com",
        "sub": "project_path:orchard/ledger:ref_type:branch:ref:main",
        "aud": "https://sts.orchard.example",
    },
    subject_pattern=r"project_path:[\x21-\x7e]{1,242}",
    max_token_lifetime_seconds=86400,
    max_token_age_seconds=86400,
)
