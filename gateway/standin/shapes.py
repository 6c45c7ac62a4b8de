"""What each platform writes into a workload token: the claims, their types and their clock offsets.

The values are those of one invented identity per platform. Whatever goes into several claims at once (a branch
is in ``sub``, ``ref`` and ``workflow_ref``) is an argument; everything else can be replaced by name.
"""

import time
import uuid
from typing import Any, Final

Audience = str | list[str]

AUDIENCE = "https://sts.orchard.example"
KUBERNETES_ISSUER = "https://kubernetes.default.svc.cluster.local"
GITHUB_ACTIONS_ISSUER = "https://token.actions.githubusercontent.com"
GITLAB_CI_ISSUER = "https://gitlab.com"
BUILDKITE_ISSUER = "https://agent.buildkite.com"
AWS_STS_ISSUER = "https://3f0c6a1e-8f3b-4c55-9a1d-0a1b2c3d4e5f.tokens.sts.global.api.aws"

ABSENT: Final = object()
"""As the value of a claim: the token goes without it. (``None`` is a JSON null.)"""

_COMMIT = "0123456789abcdef0123456789abcdef01234567"


def kubernetes_claims(
    now: float,
    audience: Audience = AUDIENCE,
    *,
    namespace: str = "billing",
    service_account: str = "invoicer",
    pod: str | None = "invoicer-6c9d7c5b8d-x2k4p",
    lifetime_seconds: int = 3600,
    jti: str | None = None,
    **overrides: Any,
) -> dict[str, Any]:
    """A projected service-account token: ``aud`` is always an array, ``nbf`` equals ``iat``.

    Without a ``pod`` it is bound to nothing, as ``kubectl create token`` makes it.
    """
    issued_at = int(now)
    bound: dict[str, Any] = {}
    if pod is not None:
        bound["node"] = {"name": "worker-3", "uid": "9d0b6a52-7c5e-4b8d-8a53-0c2c9f8f2f31"}
        bound["pod"] = {"name": pod, "uid": "0e4a2c0e-7d2b-4a67-9c55-3f7f8f5f6a12"}
    claims: dict[str, Any] = {
        "aud": [audience] if isinstance(audience, str) else audience,
        "exp": issued_at + lifetime_seconds,
        "iat": issued_at,
        "iss": KUBERNETES_ISSUER,
        "jti": _token_id(jti),
        "kubernetes.io": {
            "namespace": namespace,
            **bound,
            "serviceaccount": {"name": service_account, "uid": "5b1f0c7e-2a6f-4e8b-b1d2-6c4a9e7d3f20"},
        },
        "nbf": issued_at,
        "sub": f"system:serviceaccount:{namespace}:{service_account}",
    }
    return _overridden(claims, overrides)


def github_actions_claims(
    now: float,
    audience: str = AUDIENCE,
    *,
    repository: str = "acme/web",
    repository_id: str = "300400",
    repository_owner_id: str = "100200",
    ref: str = "refs/heads/main",
    event_name: str = "push",
    environment: str | None = "production",
    jti: str | None = None,
    **overrides: Any,
) -> dict[str, Any]:
    """A job's token: every id is a string, ``nbf`` lies ten minutes before ``iat``, ``exp`` five minutes after.

    ``sub`` has the immutable form of 2026; what stands at its end follows GitHub's order: environment, pull
    request, ref.
    """
    issued_at = int(now)
    owner, _, name = repository.partition("/")
    if environment is not None:
        context = f"environment:{environment.replace(':', '%3A')}"
    elif event_name == "pull_request":
        context = "pull_request"
    else:
        context = f"ref:{ref}"
    claims: dict[str, Any] = {
        "jti": _token_id(jti),
        "sub": f"repo:{owner}@{repository_owner_id}/{name}@{repository_id}:{context}",
        "aud": audience,
        "ref": ref,
        "sha": _COMMIT,
        "repository": repository,
        "repository_owner": owner,
        "repository_owner_id": repository_owner_id,
        "run_id": "9900112233",
        "run_number": "87",
        "run_attempt": "1",
        "check_run_id": "55443322110",
        "repository_visibility": "private",
        "repository_id": repository_id,
        "actor_id": "700800",
        "actor": "mira-dev",
        "workflow": "Deploy",
        "head_ref": "",
        "base_ref": "",
        "event_name": event_name,
        "ref_protected": "true",
        "ref_type": "tag" if ref.startswith("refs/tags/") else "branch",
        "workflow_ref": f"{repository}/.github/workflows/deploy.yml@{ref}",
        "workflow_sha": _COMMIT,
        "job_workflow_ref": f"{owner}/ci-shared/.github/workflows/release.yml@refs/tags/v3",
        "job_workflow_sha": "89abcdef0123456789abcdef0123456789abcdef",
        "environment": ABSENT if environment is None else environment,
        "environment_node_id": ABSENT if environment is None else "EN_kwDOexample",
        "runner_environment": "github-hosted",
        "enterprise": "acme-group",
        "enterprise_id": "4455",
        "repo_property_tier": "gold",
        "iss": GITHUB_ACTIONS_ISSUER,
        "nbf": issued_at - 600,
        "iat": issued_at,
        "exp": issued_at + 300,
    }
    return _overridden(claims, overrides)


def gitlab_ci_claims(
    now: float,
    audience: Audience = AUDIENCE,
    *,
    project_path: str = "orchard/ledger",
    project_id: str = "4711",
    namespace_id: str = "815",
    ref: str = "main",
    ref_type: str = "branch",
    environment: str | None = "production",
    lifetime_seconds: int = 3600,
    jti: str | None = None,
    **overrides: Any,
) -> dict[str, Any]:
    """A job's ``id_tokens`` entry: ids and booleans are strings, ``runner_id`` is a number, ``nbf`` is five
    seconds before ``iat``, ``exp`` is the job's timeout; ``aud`` is an array only where the job asked for several.
    """
    issued_at = int(now)
    namespace_path = project_path.rpartition("/")[0]
    ref_path = f"refs/{'tags' if ref_type == 'tag' else 'heads'}/{ref}"
    in_environment = {
        "environment": environment,
        "environment_protected": "true",
        "deployment_tier": "production",
        "environment_action": "start",
    }
    claims: dict[str, Any] = {
        "namespace_id": namespace_id,
        "namespace_path": namespace_path,
        "project_id": project_id,
        "project_path": project_path,
        "user_id": "4242",
        "user_login": "mira",
        "user_email": "mira@orchard.example",
        "user_access_level": "maintainer",
        "job_project_id": project_id,
        "job_project_path": project_path,
        "job_namespace_id": namespace_id,
        "job_namespace_path": namespace_path,
        "pipeline_id": "5550001",
        "pipeline_source": "push",
        "job_id": "88110022",
        "job_source": "push",
        "ref": ref,
        "ref_type": ref_type,
        "ref_path": ref_path,
        "ref_protected": "true",
        "groups_direct": [namespace_path],
        **(in_environment if environment is not None else {}),
        "runner_id": 120,
        "runner_environment": "self-hosted",
        "sha": _COMMIT,
        "project_visibility": "private",
        "ci_config_ref_uri": f"gitlab.com/{project_path}//.gitlab-ci.yml@{ref_path}",
        "ci_config_sha": _COMMIT,
        "jti": _token_id(jti),
        "iat": issued_at,
        "nbf": issued_at - 5,
        "exp": issued_at + lifetime_seconds,
        "iss": GITLAB_CI_ISSUER,
        "sub": f"project_path:{project_path}:ref_type:{ref_type}:ref:{ref}",
        "aud": audience,
    }
    return _overridden(claims, overrides)


def aws_sts_claims(
    now: float,
    audience: Audience = AUDIENCE,
    *,
    account: str = "123456789012",
    role: str = "services/invoicer",
    lifetime_seconds: int = 300,
    jti: str | None = None,
    **overrides: Any,
) -> dict[str, Any]:
    """An answer of ``GetWebIdentityToken``: no ``nbf``, a string ``aud`` for one audience, the rest in one object.

    ``role`` is the role's path and name; ``sub`` is the role's ARN, never that of a session.
    """
    issued_at = int(now)
    arn = f"arn:aws:iam::{account}:role/{role}"
    name = role.rpartition("/")[2]
    claims: dict[str, Any] = {
        "iss": AWS_STS_ISSUER,
        "aud": audience[0] if isinstance(audience, list) and len(audience) == 1 else audience,
        "sub": arn,
        "iat": issued_at,
        "exp": issued_at + lifetime_seconds,
        "jti": _token_id(jti),
        "https://sts.amazonaws.com/": {
            "aws_account": account,
            "source_region": "eu-north-1",
            "org_id": "o-a1b2c3d4e5",
            "ou_path": ["o-a1b2c3d4e5/r-ab12/ou-ab12-11111111/"],
            "principal_id": arn,
            "principal_tags": {
                "team": "billing",
                "kubernetes-namespace": "billing",
                "kubernetes-service-account": name,
            },
            "original_session_exp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(issued_at + 2400)),
            "lambda_source_function_arn": f"arn:aws:lambda:eu-north-1:{account}:function:{name}",
            "request_tags": {"purpose": "nightly-export"},
        },
    }
    return _overridden(claims, overrides)


def buildkite_claims(
    now: float,
    audience: Audience = AUDIENCE,
    *,
    organization: str = "acme",
    pipeline: str = "web",
    branch: str = "main",
    lifetime_seconds: int = 300,
    **overrides: Any,
) -> dict[str, Any]:
    """The token of a job that asked for the ids (``--claim organization_id,pipeline_id``): one issuer for all
    customers, no ``jti``, ``build_number`` is a number, ``sub`` differs from build to build.
    """
    issued_at = int(now)
    claims: dict[str, Any] = {
        "iss": BUILDKITE_ISSUER,
        "sub": f"organization:{organization}:pipeline:{pipeline}:ref:refs/heads/{branch}:commit:{_COMMIT}:step:deploy",
        "aud": audience,
        "iat": issued_at,
        "nbf": issued_at,
        "exp": issued_at + lifetime_seconds,
        "organization_slug": organization,
        "organization_id": "01840000-0000-4000-8000-000000000001",
        "pipeline_slug": pipeline,
        "pipeline_id": "01840000-0000-4000-8000-000000000002",
        "build_number": 341,
        "build_branch": branch,
        "build_commit": _COMMIT,
        "step_key": "deploy",
        "job_id": "01840000-0000-4000-8000-000000000003",
        "agent_id": "01840000-0000-4000-8000-000000000004",
        "build_source": "webhook",
        "runner_environment": "buildkite-hosted",
    }
    return _overridden(claims, overrides)


def _token_id(jti: str | None) -> str:
    return str(uuid.uuid4()) if jti is None else jti


def _overridden(claims: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in (claims | overrides).items() if value is not ABSENT}
