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
    subject_pattern=r"project_path:[\x21-\x7e]{1,242}",
    max_token_lifetime_seconds=86400,
    max_token_age_seconds=86400,
)
