import re
from dataclasses import replace
from typing import Any

import pytest

from gateway.identity.presets import (
    aks,
    aws_sts,
    eks,
    generic,
    github_actions,
    gitlab_ci,
    gke,
    kubernetes,
    openshift,
)
from gateway.identity.presets.common import RESERVED_AUDIENCES, is_reserved_audience
from gateway.identity.verification import verify_compact
from gateway.jose.jwks import ALGORITHMS
from gateway.model import Preset, Workload
from gateway.oauth.errors import Refusal
from gateway.standin.shapes import (
    aws_sts_claims,
    github_actions_claims,
    gitlab_ci_claims,
    kubernetes_claims,
)
from tests.support.tokens import ABSENT, AUDIENCE, NOW, SigningIssuer

PRESETS = {
    module.PRESET.name: module.PRESET
    for module in (kubernetes, eks, gke, aks, openshift, github_actions, gitlab_ci, aws_sts, generic)
}
CLUSTERS = ["kubernetes", "eks", "gke", "aks", "openshift"]
SHAPES: dict[str, Any] = {
    **dict.fromkeys(CLUSTERS, kubernetes_claims),
    "github-actions": github_actions_claims,
    "gitlab-ci": gitlab_ci_claims,
    "aws-sts": aws_sts_claims,
}
URLS = {
    "kubernetes": "https://kubernetes.default.svc.cluster.local",
    "eks": "https://oidc.eks.eu-north-1.amazonaws.com/id/0123456789ABCDEF0123456789ABCDEF",
    "gke": "https://container.googleapis.com/v1/projects/orchard-4411/locations/europe-north1/clusters/main",
    "aks": "https://swedencentral.oic.prod-aks.azure.com/11111111-2222-4333-8444-555555555555"
    "/66666666-7777-4888-8999-aaaaaaaaaaaa/",
    "openshift": "https://kubernetes.default.svc",
    "github-actions": "https://token.actions.githubusercontent.com",
    "gitlab-ci": "https://gitlab.example.org",
    "aws-sts": "https://3f0c6a1e-8f3b-4c55-9a1d-0a1b2c3d4e5f.tokens.sts.global.api.aws",
}
PLATFORMS = sorted(SHAPES)


def verify(name: str, **overrides: Any) -> Workload:
    """A token of a platform's shape, with claims replaced or left out (``ABSENT``), under its preset."""
    signer = SigningIssuer("RS256", preset=PRESETS[name], url=URLS[name])
    claims = SHAPES[name](NOW, AUDIENCE) | {"iss": URLS[name]} | overrides
    token = signer.token(dict.fromkeys(signer.claims(), ABSENT) | claims)
    return verify_compact(token, signer.issuer(), signer.key_set, NOW)


def code(name: str, **overrides: Any) -> str:
    with pytest.raises(Refusal) as refused:
        verify(name, **overrides)
    return refused.value.reason.code


@pytest.mark.parametrize("name", PLATFORMS)
def test_a_token_of_the_platforms_shape_verifies_with_every_claim_accounted_for(name: str) -> None:
    assert verify(name).unaccounted_claims == ()


@pytest.mark.parametrize("name", PLATFORMS)
def test_a_new_claim_of_the_platform_is_noticed(name: str) -> None:
    assert verify(name, brand_new="x").unaccounted_claims == ("brand_new",)


@pytest.mark.parametrize("name", PLATFORMS)
def test_the_platforms_url_has_the_presets_form(name: str) -> None:
    assert re.fullmatch(PRESETS[name].url_pattern, URLS[name])


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_a_preset_is_complete(preset: Preset) -> None:
    assert preset.claims.required
    assert preset.algorithms
    assert set(preset.algorithms) <= ALGORITHMS
    assert re.compile(preset.subject_pattern)
    assert preset.url is None or re.fullmatch(preset.url_pattern, preset.url)


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("aks", URLS["aks"].removesuffix("/")),
        ("eks", URLS["eks"].lower()),
        ("eks", "https://oidc.eks.eu-north-1.amazonaws.com.evil.example/id/0123456789ABCDEF0123456789ABCDEF"),
        ("gke", "https://container.googleapis.com/v1/projects/orchard"),
        ("github-actions", "https://token.actions.githubusercontent.com/"),
        ("github-actions", "https://token.actions.githubusercontent.com@evil.example"),
        ("aws-sts", "https://tokens.sts.global.api.aws"),
        ("kubernetes", "http://kubernetes.default.svc"),
        ("kubernetes", "https://user@host"),
        ("kubernetes", "https://host?x"),
        ("gitlab-ci", "gitlab.example.org"),
    ],
)
def test_a_mistyped_url_has_not_the_presets_form(name: str, url: str) -> None:
    assert not re.fullmatch(PRESETS[name].url_pattern, url)


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("github-actions", "https://token.actions.githubusercontent.com/acme-group"),
        ("github-actions", "https://token.actions.acme.ghe.com"),
        ("github-actions", "https://github.example.org/_services/token"),
        ("eks", "https://oidc.eks.cn-north-1.amazonaws.com.cn/id/0123456789ABCDEF0123456789ABCDEF"),
        ("aks", "https://oidc.prod-aks.azure.com/11111111-2222-4333-8444-555555555555/"),
        ("kubernetes", "https://10.0.0.1:6443"),
        ("gitlab-ci", "https://example.org/gitlab"),
        ("openshift", "https://storage.googleapis.com/main-oidc"),
    ],
)
def test_every_known_form_of_url_is_known(name: str, url: str) -> None:
    assert re.fullmatch(PRESETS[name].url_pattern, url)


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_the_sample_token_of_a_preset_verifies_with_every_claim_accounted_for(preset: Preset) -> None:
    sample = preset.sample
    assert re.fullmatch(preset.url_pattern, sample["iss"])
    signer = SigningIssuer("RS256", preset=preset, url=sample["iss"])
    token = signer.token(dict.fromkeys(signer.claims(), ABSENT) | dict(sample))
    trusted = replace(signer.issuer(), audiences=frozenset({"https://sts.orchard.example"}))
    verified = verify_compact(token, trusted, signer.key_set, sample["iat"])
    assert verified.unaccounted_claims == ()
    assert verified.claims == sample


@pytest.mark.parametrize("name", PLATFORMS)
def test_the_sample_token_of_a_preset_is_that_of_its_stand_in(name: str) -> None:
    sample = PRESETS[name].sample
    assert SHAPES[name](sample["iat"], jti=sample["jti"]) | {"iss": sample["iss"]} == sample


# ------------------------------------------------------------ Kubernetes


@pytest.mark.parametrize("name", CLUSTERS)
@pytest.mark.parametrize(
    "sub",
    [
        "system:serviceaccount:billing", "system:serviceaccount:billing:a:b", "system:serviceaccount::invoicer",
        "system:serviceaccount:billing:", "system:node:worker-3", "system:serviceaccount:Billing:invoicer",
        "system:serviceaccount:bill.ing:invoicer", "xsystem:serviceaccount:billing:invoicer", "invoicer",
        "system:serviceaccount:billing:invoicer\u00e9",
    ],
)  # fmt: skip
def test_a_subject_that_is_no_service_account_is_refused(name: str, sub: str) -> None:
    assert code(name, sub=sub) == "invalid_claim"


def test_the_name_of_a_service_account_may_hold_dots() -> None:
    assert verify("kubernetes", sub="system:serviceaccount:kube-system:a.b-c.d")


@pytest.mark.parametrize("name", CLUSTERS)
@pytest.mark.parametrize(
    "nested", [ABSENT, {}, {"namespace": "billing"}, {"namespace": "billing", "serviceaccount": {"name": "invoicer"}}]
)
def test_a_cluster_token_that_is_not_bound_to_a_service_account_is_refused(name: str, nested: Any) -> None:
    assert code(name, **{"kubernetes.io": nested}) == "missing_claim"


def test_a_legacy_secret_token_is_refused() -> None:
    legacy = dict.fromkeys(("aud", "exp", "iat", "nbf", "jti", "kubernetes.io"), ABSENT)
    flat = {"kubernetes.io/serviceaccount/namespace": "billing"}
    assert code("kubernetes", iss="kubernetes/serviceaccount", **legacy, **flat) == "invalid_claim"
    assert code("kubernetes", **legacy, **flat) == "missing_claim"


def test_the_stretched_default_api_token_is_refused_by_its_life() -> None:
    assert code("kubernetes", exp=NOW + 31_536_000) == "token_lifetime_too_long"


def test_the_api_servers_own_audience_is_refused() -> None:
    assert code("kubernetes", aud=[URLS["kubernetes"]]) == "reserved_audience"
    assert code("gke", aud=[URLS["gke"]]) == "reserved_audience"


# ------------------------------------------------------------ GitHub, GitLab, AWS


@pytest.mark.parametrize("claim", ["repository", "repository_id", "repository_owner", "repository_owner_id"])
def test_a_github_token_without_its_repository_is_refused(claim: str) -> None:
    assert code("github-actions", **{claim: ABSENT}) == "missing_claim"
    assert code("github-actions", **{claim: ""}) == "missing_claim"


@pytest.mark.parametrize(
    "sub",
    ["repo:acme/web:environment:my production", "repository_id:300400", "repo:acme@1/web@2:ref:refs/heads/a%3Ab"],
)
def test_every_shape_of_a_github_subject_is_accepted(sub: str) -> None:
    assert verify("github-actions", sub=sub).subject == sub


def test_a_github_token_with_the_default_audience_is_refused() -> None:
    assert code("github-actions", aud="https://github.com/acme") == "reserved_audience"


@pytest.mark.parametrize("claim", ["project_id", "namespace_id", "pipeline_id", "job_id"])
def test_the_gitlab_token_of_a_person_is_refused(claim: str) -> None:
    assert code("gitlab-ci", **{claim: ABSENT}) == "missing_claim"
    assert code("gitlab-ci", sub="4242") == "invalid_claim"


def test_an_aws_subject_is_a_role_and_not_a_session() -> None:
    assert code("aws-sts", sub="arn:aws:sts::123456789012:assumed-role/invoicer/session") == "invalid_claim"
    assert code("aws-sts", sub="arn:aws:iam::12345:role/invoicer") == "invalid_claim"
    assert code("aws-sts", **{"https://sts.amazonaws.com/": {"org_id": "o-1"}}) == "missing_claim"


# ------------------------------------------------------------ reserved audiences


@pytest.mark.parametrize(
    "audience",
    [
        *sorted(RESERVED_AUDIENCES),
        "api://AzureADTokenExchange", "api://AzureADTokenExchangeUSGov", "orchard-4411.svc.id.goog",
        "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/x",
        "https://iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/x",
        "https://github.com/acme", "https://buildkite.com/acme", "https://vercel.com/acme", "https://fly.io/acme",
        "ari:cloud:bitbucket::workspace/0a1b", "npm:registry.npmjs.org", "fb60f99c-7a34-4190-8149-302f77469936",
    ],
)  # fmt: skip
def test_the_audiences_of_known_relying_parties_are_reserved(audience: str) -> None:
    assert is_reserved_audience(audience)


@pytest.mark.parametrize(
    "audience", [AUDIENCE, "https://github.com.example.org", "https://sts.vault.example", "backup-api", ""]
)
def test_other_audiences_are_not_reserved(audience: str) -> None:
    assert not is_reserved_audience(audience)
