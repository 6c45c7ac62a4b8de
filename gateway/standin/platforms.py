"""How each platform publishes itself: paths, discovery members, header and key ids, as a table."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from gateway.identity.presets import aks, eks, gke, openshift
from gateway.standin import shapes
from gateway.standin.keys import KeyIdRule, SigningKey, spki_sha1, spki_sha256, thumbprint, uuid_of_key

_PUBLIC_OIDC = {"response_types_supported": ["id_token"], "subject_types_supported": ["public"]}


@dataclass(frozen=True, slots=True)
class Platform:
    """A kind of issuer as the world sees it."""

    name: str
    """The first segment of its path on the stand-in server."""
    title: str
    """Who holds its tokens, as a heading."""
    issuer: str
    jwks_path: str
    algorithms: tuple[str, ...]
    """What it signs with; the first one unless the caller picks another."""
    claims: Callable[..., dict[str, Any]]
    """Of ``gateway.standin.shapes``: called with the time, the audience and overrides by name."""
    key_id: KeyIdRule
    header: Callable[[SigningKey], dict[str, Any]]
    """The header members beside ``alg`` and ``kid``."""
    discovery: Mapping[str, Any] = field(default_factory=dict)
    """The members of the discovery document beside issuer, key set and algorithms."""
    discovery_paths: Mapping[str, str] = field(default_factory=dict)
    """The members that are URLs, as paths below the issuer."""
    jwks_content_type: str = "application/json"
    cache_control: str | None = None
    request_path: str | None = None
    """Where a job asks for a token of its own, on platforms that hand them out by HTTP."""


def _typ(_key: SigningKey) -> dict[str, Any]:
    return {"typ": "JWT"}


def _no_typ(_key: SigningKey) -> dict[str, Any]:
    return {}


def _typ_and_x5t(key: SigningKey) -> dict[str, Any]:
    return {"typ": "JWT", "x5t": spki_sha1(key.private_key.public_key())}


KUBERNETES = Platform(
    name="kubernetes",
    title="A pod in Kubernetes",
    issuer=shapes.KUBERNETES_ISSUER,
    jwks_path="/openid/v1/jwks",
    algorithms=("RS256",),
    claims=shapes.kubernetes_claims,
    key_id=spki_sha256,
    header=_no_typ,
    discovery=_PUBLIC_OIDC,
    jwks_content_type="application/jwk-set+json",
    cache_control="public, max-age=3600",
)

EKS = replace(
    KUBERNETES,
    name="eks",
    title="A pod in Amazon EKS",
    issuer=eks.PRESET.sample["iss"],
    jwks_path="/keys",
    claims=partial(shapes.kubernetes_claims, namespace="reports", service_account="reporter", pod="reporter-29381"),
)

GKE = replace(
    KUBERNETES,
    name="gke",
    title="A pod in Google Kubernetes Engine",
    issuer=gke.PRESET.sample["iss"],
    jwks_path="/jwks",
    claims=partial(shapes.kubernetes_claims, namespace="security", service_account="image-scanner", pod="scan-7f9c"),
)

AKS = replace(
    KUBERNETES,
    name="aks",
    title="A pod in Azure Kubernetes Service",
    issuer=aks.PRESET.sample["iss"],
    claims=partial(shapes.kubernetes_claims, namespace="mail", service_account="statements", pod="statements-0"),
)

OPENSHIFT = replace(
    KUBERNETES,
    name="openshift",
    title="A pod in OpenShift",
    issuer=openshift.PRESET.sample["iss"],
    claims=partial(shapes.kubernetes_claims, namespace="shop-north", service_account="till", pod="till-1"),
)

GITHUB_ACTIONS = Platform(
    name="github",
    title="A job of GitHub Actions",
    issuer=shapes.GITHUB_ACTIONS_ISSUER,
    jwks_path="/.well-known/jwks",
    algorithms=("RS256",),
    claims=shapes.github_actions_claims,
    key_id=uuid_of_key,
    header=_typ_and_x5t,
    discovery={
        "subject_types_supported": ["public", "pairwise"],
        "response_types_supported": ["id_token"],
        "claims_supported": sorted(shapes.github_actions_claims(0)),
        "scopes_supported": ["openid"],
    },
    request_path="/request",
)

GITLAB_CI = Platform(
    name="gitlab",
    title="A job of GitLab CI",
    issuer=shapes.GITLAB_CI_ISSUER,
    jwks_path="/oauth/discovery/keys",
    algorithms=("RS256",),
    claims=shapes.gitlab_ci_claims,
    key_id=thumbprint,
    header=_typ,
    discovery={
        "scopes_supported": ["api", "read_user", "read_repository", "openid", "profile", "email"],
        "response_types_supported": ["code"],
        "response_modes_supported": ["query", "fragment", "form_post"],
        "grant_types_supported": ["authorization_code", "password", "client_credentials", "refresh_token"],
        "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
        "subject_types_supported": ["public"],
        "claim_types_supported": ["normal"],
        "claims_supported": ["iss", "sub", "aud", "exp", "iat", "sub_legacy", "name", "email", "groups"],
        "code_challenge_methods_supported": ["plain", "S256"],
    },
    # The same document serves people who sign in.
    discovery_paths={
        "authorization_endpoint": "/oauth/authorize",
        "token_endpoint": "/oauth/token",
        "revocation_endpoint": "/oauth/revoke",
        "introspection_endpoint": "/oauth/introspect",
        "userinfo_endpoint": "/oauth/userinfo",
    },
)

AWS_STS = Platform(
    name="aws",
    title="A Lambda function in AWS",
    issuer=shapes.AWS_STS_ISSUER,
    jwks_path="/.well-known/jwks.json",
    algorithms=("RS256", "ES384"),
    claims=shapes.aws_sts_claims,
    key_id=thumbprint,
    header=_typ,
    discovery=_PUBLIC_OIDC,
)

BUILDKITE = Platform(
    name="buildkite",
    title="A job of Buildkite",
    issuer=shapes.BUILDKITE_ISSUER,
    jwks_path="/.well-known/jwks",
    algorithms=("RS256",),
    claims=shapes.buildkite_claims,
    key_id=thumbprint,
    header=_typ,
    discovery=_PUBLIC_OIDC,
)

PLATFORMS = (KUBERNETES, EKS, GKE, AKS, OPENSHIFT, GITHUB_ACTIONS, GITLAB_CI, AWS_STS, BUILDKITE)
