"""What is true of each platform's tokens: what tells tenants and workloads apart, what can be renamed, who chooses.

The minimum that a trust rule has to fix stands here as a table: the platforms that have a preset, and those that have
none and are known by their URL. Pure.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from gateway.model import ClaimPath, TrustedIssuer

Choice = tuple[tuple[ClaimPath, ...], ...]
"""Alternatives, each of them the claims that have to be fixed together."""

HOUR = 3600
DAY = 24 * HOUR
_KUBERNETES = "kubernetes.io"
_AWS = "https://sts.amazonaws.com/"

NAMESPACE: ClaimPath = (_KUBERNETES, "namespace")
ACCOUNT: ClaimPath = (_KUBERNETES, "serviceaccount", "name")
POD: ClaimPath = (_KUBERNETES, "pod")
AWS_ACCOUNT: ClaimPath = (_AWS, "aws_account")
REQUEST_TAGS: ClaimPath = (_AWS, "request_tags")
PRINCIPAL_TAGS: ClaimPath = (_AWS, "principal_tags")
SUB: ClaimPath = ("sub",)


@dataclass(frozen=True, slots=True)
class Platform:
    """One platform. A claim stands in its tables by its path; where nothing is known, a table is empty."""

    name: str
    """The preset's, or that of a platform without one."""
    title: str
    family: str
    """Platforms of one family have the same claims."""
    tenant: Choice = ()
    """What tells apart those who share the issuer; empty where it has one tenant."""
    workload: Choice = ()
    """What tells workloads of one tenant apart."""
    context: Choice = ()
    """What tells a trusted run of a job from any other."""
    names: Mapping[ClaimPath, ClaimPath] = field(default_factory=dict)
    """Names that can be given up and taken by others, each with the id that cannot."""
    refs: frozenset[ClaimPath] = frozenset()
    """Branches and tags."""
    files: frozenset[ClaimPath] = frozenset()
    """Workflow files, of which the ref stands behind an ``@``."""
    chosen: Mapping[ClaimPath, str] = field(default_factory=dict)
    """Claims whose value somebody chooses who is not the platform, and who that is."""
    each_run: frozenset[ClaimPath] = frozenset()
    """Claims that no two tokens, or no two runs, have in common."""
    lists: frozenset[ClaimPath] = frozenset()
    numbers: frozenset[ClaimPath] = frozenset()
    booleans: frozenset[ClaimPath] = frozenset()
    forms: Mapping[ClaimPath, tuple[str, str]] = field(default_factory=dict)
    """Texts of which the platform writes only some: a regular expression that fits them all, and the like in words."""
    sometimes: frozenset[ClaimPath] = frozenset()
    """Claims that only some of its tokens have."""
    all_else_is_text: bool = False
    signs_people: frozenset[ClaimPath] = frozenset()
    """Where the same issuer signs tokens of people: the claims that only a workload's has."""
    fixed_audience: bool = False
    """Whether nobody can choose the audience."""
    slug_in_url: bool = False
    """Whether the URL holds a name that can be given up and taken by others."""
    subject_is_loose: str = ""
    """Who shapes ``sub``, where that is not the platform."""
    always_sends_kid: bool = True
    rotates_keys: bool = False
    """Whether the platform changes its keys by itself, from time to time."""
    fresh_token_each_time: bool = False
    longest_age_seconds: int = DAY

    @property
    def identifying(self) -> frozenset[ClaimPath]:
        """The claims that say who is calling: ids, the names for them, and ``sub``."""
        ids = {path for choice in (self.tenant, self.workload) for alternative in choice for path in alternative}
        return frozenset({SUB, *ids, *self.names, *self.names.values()})


def platform_of(issuer: TrustedIssuer) -> Platform:
    """The platform of an issuer: by its preset, or else by its URL."""
    if issuer.preset == "github-actions":
        return _github_at(issuer.url)
    known = _BY_PRESET.get(issuer.preset)
    if known is not None:
        if known is _BY_PRESET["gitlab-ci"]:
            return replace(known, rotates_keys=issuer.url == "https://gitlab.com")
        return known
    url, tenant = _OF_ALL_TENANTS.get(issuer.url, (issuer.url, ()))
    platform = next((platform for pattern, platform in BY_URL if pattern.fullmatch(url)), UNKNOWN)
    return replace(platform, tenant=tenant, slug_in_url=False) if tenant else platform


def _claims(*names: str) -> frozenset[ClaimPath]:
    return frozenset((name,) for name in names)


def _each(*names: str) -> Choice:
    """Any one of these claims."""
    return tuple(((name,),) for name in names)


def _together(*names: str) -> Choice:
    """All of these claims."""
    return (tuple((name,) for name in names),)


def _renamable(**ids: str) -> dict[ClaimPath, ClaimPath]:
    return {(name,): (id_claim,) for name, id_claim in ids.items()}


# ---------------------------------------------------------------- with a preset

_NUMBER = ("[0-9]+", "digits")
_TRUTH = ("true|false", "true or false")
_REF_TYPE = ("branch|tag", "branch or tag")
_VISIBILITY = ("public|private|internal", "public, private or internal")
_POD_CLAIMS = frozenset({
    POD, (*POD, "name"), (*POD, "uid"), (_KUBERNETES, "node"), (_KUBERNETES, "node", "name"),
    (_KUBERNETES, "node", "uid"), (_KUBERNETES, "secret"), (_KUBERNETES, "warnafter"),
})  # fmt: skip

KUBERNETES = Platform(
    name="kubernetes",
    title="Kubernetes",
    family="kubernetes",
    workload=((SUB,), (NAMESPACE, ACCOUNT), (NAMESPACE, (_KUBERNETES, "serviceaccount", "uid"))),
    each_run=frozenset({("jti",), (*POD, "uid"), (*POD, "name")}),
    lists=_claims("aud"),
    numbers=frozenset({(_KUBERNETES, "warnafter")}),
    sometimes=_POD_CLAIMS,
    all_else_is_text=True,
)

GITHUB = Platform(
    name="github-actions",
    title="GitHub Actions",
    family="github",
    tenant=(*_each("repository_owner_id"), *_together("enterprise_id", "repository_id")),
    workload=(*_each("repository_id"), *_together("repository_owner_id", "job_workflow_ref")),
    context=_each("environment", "environment_node_id", "ref", "job_workflow_ref", "workflow_ref"),
    names=_renamable(repository="repository_id", repository_owner="repository_owner_id", enterprise="enterprise_id"),
    refs=_claims("ref", "base_ref"),
    files=_claims("job_workflow_ref", "workflow_ref"),
    chosen={
        ("workflow",): "whoever edits the workflow file",
        ("head_ref",): "whoever opens the pull request",
        ("actor",): "whoever can set the job off: it is not the author of the code",
        ("actor_id",): "whoever can set the job off: it is not the author of the code",
    },
    each_run=_claims("jti", "run_id", "run_number", "run_attempt", "check_run_id", "sha"),
    forms={
        ("repository_id",): _NUMBER,
        ("repository_owner_id",): _NUMBER,
        ("ref",): ("|refs/.+", "refs/heads/main or refs/tags/v1"),  # empty where a deployment names a commit
        ("ref_type",): _REF_TYPE,
        ("ref_protected",): _TRUTH,
        ("event_name",): ("[a-z_]+", "push or workflow_dispatch, in lower case"),
        ("repository_visibility",): _VISIBILITY,
        ("runner_environment",): ("github-hosted|self-hosted", "github-hosted or self-hosted"),
    },
    sometimes=_claims("environment", "environment_node_id", "enterprise", "enterprise_id", "repo_property_*"),
    all_else_is_text=True,
    subject_is_loose="the repository's admins",
    rotates_keys=True,
    fresh_token_each_time=True,
    longest_age_seconds=HOUR,
)

GITLAB = Platform(
    name="gitlab-ci",
    title="GitLab CI",
    family="gitlab",
    tenant=_each("namespace_id", "project_id"),
    workload=_each("project_id"),
    context=_each("ref", "ref_path", "environment"),
    names=_renamable(project_path="project_id", namespace_path="namespace_id",
                     job_project_path="job_project_id", job_namespace_path="job_namespace_id"),
    refs=_claims("ref", "ref_path"),
    files=_claims("ci_config_ref_uri"),
    chosen={
        ("deployment_tier",): "whoever edits the job",
        ("environment_action",): "whoever edits the job",
        ("user_login",): "whoever can set the job off: it is not the author of the code",
        ("user_id",): "whoever can set the job off: it is not the author of the code",
    },
    each_run=_claims("jti", "pipeline_id", "job_id", "sha", "ci_config_sha"),
    lists=_claims("groups_direct", "user_identities"),
    numbers=_claims("runner_id"),
    forms={
        ("project_id",): _NUMBER,
        ("namespace_id",): _NUMBER,
        ("ref_type",): _REF_TYPE,
        ("ref_path",): ("refs/.+", "refs/heads/main or refs/tags/v1"),
        ("ref_protected",): _TRUTH,
        ("environment_protected",): _TRUTH,
        ("pipeline_source",): ("[a-z_]+", "push or merge_request_event, in lower case"),
        ("project_visibility",): _VISIBILITY,
        ("runner_environment",): ("gitlab-hosted|self-hosted", "gitlab-hosted or self-hosted"),
    },
    sometimes=_claims(
        "environment", "environment_protected", "deployment_tier", "environment_action", "user_identities",
        "groups_direct", "ref_path", "job_project_id", "job_project_path", "job_namespace_id", "job_namespace_path",
        "job_source", "ci_config_ref_uri", "ci_config_sha",
    ),
    all_else_is_text=True,
    subject_is_loose="the project's maintainers",
)  # fmt: skip

AWS = Platform(
    name="aws-sts",
    title="AWS STS web identity",
    family="aws",
    workload=((SUB,), ((_AWS, "principal_id"),)),
    each_run=_claims("jti"),
    lists=frozenset({(_AWS, "ou_path")}),
    sometimes=frozenset(
        (_AWS, name)
        for name in (
            "org_id", "ou_path", "principal_tags", "request_tags", "source_identity", "federated_provider",
            "identity_store_user_id", "ec2_source_instance_arn", "ec2_instance_source_vpc", "ec2_role_delivery",
            "ec2_instance_source_private_ipv4", "lambda_source_function_arn",
        )
    ),
    all_else_is_text=True,
    rotates_keys=True,
    longest_age_seconds=HOUR,
)  # fmt: skip

UNKNOWN = Platform(name="generic", title="an issuer of its own", family="unknown", always_sends_kid=False)

_BY_PRESET: Mapping[str, Platform] = {
    "kubernetes": KUBERNETES,
    "eks": replace(KUBERNETES, name="eks", title="Amazon EKS", rotates_keys=True),
    "gke": replace(KUBERNETES, name="gke", title="Google Kubernetes Engine", rotates_keys=True),
    "aks": replace(KUBERNETES, name="aks", title="Azure Kubernetes Service", rotates_keys=True),
    "openshift": replace(KUBERNETES, name="openshift", title="OpenShift"),
    "github-actions": GITHUB,
    "gitlab-ci": GITLAB,
    "aws-sts": AWS,
}

_GITHUB_HOST = "https://token.actions.githubusercontent.com"


def _github_at(url: str) -> Platform:
    """GitHub Actions: all of github.com is one issuer; an enterprise's own, GHE.com and servers have one tenant."""
    if url == _GITHUB_HOST:
        return GITHUB
    if url.startswith(f"{_GITHUB_HOST}/"):
        return replace(GITHUB, slug_in_url=True)
    return replace(GITHUB, tenant=(), rotates_keys=".ghe.com" in url)


# ---------------------------------------------------------------- known by their URL

_UUID = r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
_CIRCLE = "oidc.circleci.com"
_ENTRA_V1 = r"sts\.(?:windows\.net|chinacloudapi\.cn)"
_ENTRA_V2 = r"login\.(?:microsoftonline\.(?:com|us)|partner\.microsoftonline\.cn)"

BY_URL: tuple[tuple[re.Pattern[str], Platform], ...] = tuple(
    (re.compile(pattern), platform)
    for pattern, platform in (
        (
            r"https://agent\.buildkite\.com",
            Platform(
                name="buildkite",
                title="Buildkite",
                family="buildkite",
                tenant=_each("organization_id"),
                workload=_each("pipeline_id"),
                context=_each("build_branch", "build_tag"),
                names=_renamable(organization_slug="organization_id", pipeline_slug="pipeline_id"),
                refs=_claims("build_branch", "build_tag"),
                each_run=_claims("build_id", "build_number", "build_commit", "job_id", "sub"),
                numbers=_claims("build_number"),
                sometimes=_claims("build_tag", "step_key", "organization_id", "pipeline_id"),
                subject_is_loose="the job",
            ),
        ),
        (
            rf"https://oidc\.circleci\.com/org/{_UUID}",
            Platform(
                name="circleci",
                title="CircleCI",
                family="circleci",
                workload=_each(f"{_CIRCLE}/project-id"),
                context=_each(f"{_CIRCLE}/vcs-ref"),
                refs=_claims(f"{_CIRCLE}/vcs-ref"),
                lists=_claims(f"{_CIRCLE}/context-ids"),
                booleans=_claims(f"{_CIRCLE}/ssh-rerun"),
                longest_age_seconds=HOUR,
            ),
        ),
        (
            r"https://accounts\.google\.com",
            Platform(
                name="google",
                title="Google",
                family="google",
                tenant=_each("sub", "azp"),
                workload=_each("sub", "azp"),
                names=_renamable(email="sub"),
                booleans=_claims("email_verified"),
                signs_people=_claims("sub", "azp", "google"),
                rotates_keys=True,
            ),
        ),
        (
            rf"https://(?:{_ENTRA_V1}/[^/]+/?|{_ENTRA_V2}/[^/]+(?:/v2\.0)?)",
            Platform(
                name="entra",
                title="Microsoft Entra",
                family="entra",
                workload=_each("oid", "appid", "azp", "sub"),
                lists=_claims("roles", "groups"),
                signs_people=_claims("idtyp", "oid", "sub"),
                rotates_keys=True,
            ),
        ),
        (
            r"https://api\.bitbucket\.org/2\.0/workspaces/[^/]+/pipelines-config/identity/oidc",
            Platform(
                name="bitbucket",
                title="Bitbucket Pipelines",
                family="bitbucket",
                tenant=_each("workspaceUuid"),
                workload=_each("repositoryUuid"),
                context=_each("deploymentEnvironmentUuid", "branchName"),
                refs=_claims("branchName"),
                each_run=_claims("sub", "stepUuid", "pipelineUuid"),
                slug_in_url=True,
                rotates_keys=True,
            ),
        ),
        (
            rf"https://vstoken\.dev\.azure\.com/{_UUID}",
            Platform(
                name="azure-devops",
                title="Azure DevOps",
                family="azure-devops",
                workload=(*_together("prj_id", "def_id"), *_each("sub")),
                context=_each("rpo_ref"),
                refs=_claims("rpo_ref"),
                fixed_audience=True,
                rotates_keys=True,
                longest_age_seconds=600,
            ),
        ),
        (
            r"https://app\.(?:eu\.)?terraform\.io",
            Platform(
                name="hcp-terraform",
                title="HCP Terraform",
                family="hcp-terraform",
                tenant=_each("terraform_organization_id"),
                workload=_each("terraform_workspace_id", "terraform_project_id"),
                context=_each("terraform_run_phase"),
                names=_renamable(
                    terraform_organization_name="terraform_organization_id",
                    terraform_workspace_name="terraform_workspace_id",
                    terraform_project_name="terraform_project_id",
                ),
                each_run=_claims("terraform_run_id", "jti"),
                rotates_keys=True,
            ),
        ),
        (
            r"https://oidc\.vercel\.com/[^/]+",
            Platform(
                name="vercel",
                title="Vercel",
                family="vercel",
                tenant=_each("owner_id"),
                workload=_each("project_id"),
                context=_each("environment"),
                names=_renamable(owner="owner_id", project="project_id"),
                slug_in_url=True,
                rotates_keys=True,
            ),
        ),
        (
            r"https://oidc\.fly\.io/[^/]+",
            Platform(
                name="fly",
                title="Fly.io",
                family="fly",
                tenant=_each("org_id"),
                workload=_each("app_id"),
                names=_renamable(org_name="org_id", app_name="app_id", machine_name="machine_id"),
                slug_in_url=True,
                rotates_keys=True,
            ),
        ),
        (
            r"https://oidc\.codefresh\.io",
            Platform(
                name="codefresh",
                title="Codefresh",
                family="codefresh",
                tenant=_each("account_id"),
                workload=_each("pipeline_id"),
                context=_each("scm_ref"),
                names=_renamable(account_name="account_id", pipeline_name="pipeline_id"),
                refs=_claims("scm_ref"),
                fixed_audience=True,
                subject_is_loose="whoever names branches and repositories",
                rotates_keys=True,
                longest_age_seconds=600,
            ),
        ),
        (
            r"https://[a-z0-9-]+\.semaphoreci\.com",
            Platform(
                name="semaphore",
                title="Semaphore",
                family="semaphore",
                tenant=_each("org_id"),
                workload=_each("prj_id"),
                context=_together("ref_type", "ref"),
                names=_renamable(org="org_id", prj="prj_id"),
                refs=_claims("ref", "branch", "tag"),
                fixed_audience=True,
                slug_in_url=True,
                rotates_keys=True,
                longest_age_seconds=600,
            ),
        ),
        (
            r"https://app\.harness\.io/ng/api/oidc/account/[^/]+",
            Platform(
                name="harness",
                title="Harness",
                family="harness",
                workload=_together("organization_id", "project_id", "pipeline_id"),
                context=_each("environment_id"),
                rotates_keys=True,
            ),
        ),
        (
            r"https://cognito-idp\.[a-z0-9-]+\.amazonaws\.com/[^/]+",
            Platform(
                name="cognito",
                title="Amazon Cognito",
                family="cognito",
                workload=_each("client_id", "sub"),
                lists=_claims("cognito:groups"),
                signs_people=_claims("client_id"),
                rotates_keys=True,
            ),
        ),
        (
            r"https://cognito-identity\.amazonaws\.com",
            Platform(
                name="cognito-identity",
                title="Amazon Cognito identity pools",
                family="cognito-identity",
                tenant=_each("sub"),
                workload=_each("sub"),
                lists=_claims("amr"),
                signs_people=_claims("sub"),
                rotates_keys=True,
            ),
        ),
    )
)
"""Platforms without a preset, by the whole URL of their issuers."""

_OF_ALL_TENANTS: Mapping[str, tuple[str, Choice]] = {
    "https://oidc.circleci.com": (
        "https://oidc.circleci.com/org/00000000-0000-0000-0000-000000000000",
        _each(f"{_CIRCLE}/project-id", f"{_CIRCLE}/org-id"),
    ),
    "https://oidc.vercel.com": ("https://oidc.vercel.com/team", _each("owner_id")),
}
"""URLs that a platform has for all its tenants: one such as each tenant has besides, and what tells tenants apart."""
