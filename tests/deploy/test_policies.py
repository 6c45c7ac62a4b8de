"""The policies of ``deploy/kubernetes`` load in the real loader, which runs the tests inside them; and whoever the
examples of ``deploy/`` let ask is granted what they ask for."""

from pathlib import Path
from typing import Any

import pytest

from gateway.identity.presets.common import is_reserved_audience
from gateway.kinds import PRESETS
from gateway.model import Decision, GrantType, TokenRequest, Workload
from gateway.policy.decision import decide
from gateway.policy.generation import Generation
from gateway.policy.loading import load_policies
from gateway.policy.problems import PolicyProblems
from gateway.settings import load_settings
from gateway.standin.shapes import github_actions_claims, gitlab_ci_claims, kubernetes_claims
from tests.deploy.deployment_files import DEPLOY, KUBERNETES, ROOT, yaml_documents

NOW = 1_793_610_000


def load(folder: Path) -> Generation:
    issuer = load_settings(KUBERNETES / "gateway.yaml").issuer
    return load_policies(
        folder,
        presets=PRESETS,
        gateway_issuer=issuer,
        insecure_http=False,
        number=1,
        is_reserved_audience=is_reserved_audience,
    )


def test_the_policies_load_without_a_warning():
    assert load(KUBERNETES / "policies").warnings == ()


def test_the_clusters_keys_are_fetched_under_its_own_ca_and_as_the_gateways_own_account():
    (issuer,) = load(KUBERNETES / "policies").issuers
    assert issuer.keys.jwks_uri == "https://kubernetes.default.svc/openid/v1/jwks"
    assert issuer.keys.ca_file == "/var/run/secrets/api-server/ca.crt"
    assert issuer.keys.bearer_token_file == "/var/run/secrets/api-server/token"
    assert issuer.keys.private_network
    assert not issuer.keys.insecure_http


def test_workload_tokens_are_accepted_for_the_gateways_issuer_alone():
    (issuer,) = load(KUBERNETES / "policies").issuers
    assert issuer.audiences == {"https://sts.example.com"}


def test_a_config_map_volume_of_the_policies_loads(tmp_path):
    # The kubelet links each file to a folder that `..data` names, and swaps that link when the ConfigMap changes.
    version = tmp_path / "..2026_11_23_14_00_00.1"
    version.mkdir()
    (tmp_path / "..data").symlink_to(version.name)
    for file in (KUBERNETES / "policies").iterdir():
        (version / file.name).write_bytes(file.read_bytes())
        (tmp_path / file.name).symlink_to(f"..data/{file.name}")
    assert load(tmp_path).counts == load(KUBERNETES / "policies").counts


@pytest.mark.parametrize(
    "rule",
    [
        pytest.param('like: {sub: "system:serviceaccount:*:client"}', id="any-namespace"),
        pytest.param('match: {sub: "system:serviceaccount:demo-2:client"}', id="another-namespace"),
    ],
)
def test_a_wider_or_another_trust_rule_fails_the_tests_inside_the_policies(tmp_path, rule):
    for file in (KUBERNETES / "policies").iterdir():
        text = file.read_text().replace('match: {sub: "system:serviceaccount:demo:client"}', rule)
        (tmp_path / file.name).write_text(text)
    assert rule in (tmp_path / "service-accounts.yaml").read_text()
    with pytest.raises(PolicyProblems, match="another namespace may not"):
        load(tmp_path)


# ---------------------------------------------------------------- the examples ask for what they are granted


def asked(generation: Generation, issuer_name: str, claims: dict[str, Any], **request: Any) -> Decision:
    """What the policies answer to a workload with these verified claims."""
    issuer = next(issuer for issuer in generation.issuers if issuer.name == issuer_name)
    workload = Workload(
        issuer=issuer,
        subject=claims["sub"],
        claims=claims,
        expires_at=claims["exp"],
        issued_at=claims["iat"],
        token_id=claims.get("jti"),
        token_sha256="0" * 64,
        key_id="k",
    )
    return decide(generation, workload, TokenRequest(GrantType.TOKEN_EXCHANGE, "", "", **request))


def variables_as_request(variables: dict[str, str]) -> dict[str, Any]:
    return {
        "client_id": variables["GATEWAY_TOKEN_CLIENT_ID"],
        "resource": variables["GATEWAY_TOKEN_RESOURCE"],
        "scopes": (variables["GATEWAY_TOKEN_SCOPE"],),
    }


def test_the_sample_pod_is_granted_what_it_asks_for():
    claims = kubernetes_claims(NOW, namespace="demo", service_account="client", pod="client")
    decision = asked(
        load(KUBERNETES / "policies"),
        "this-cluster",
        claims,
        client_id="demo-client",
        resource="demo-api",
        scopes=("demo:read",),
    )
    assert decision.reason == "granted"


def test_the_github_job_is_granted_what_it_asks_for():
    (workflow,) = yaml_documents(DEPLOY / "github" / "exchange.yaml")
    job = workflow["jobs"]["exchange"]
    ((event, trigger),) = workflow[True].items()  # YAML 1.1 reads the key `on` as true
    claims = github_actions_claims(
        NOW, event_name=event, ref=f"refs/heads/{trigger['branches'][0]}", environment=job["environment"]
    )
    decision = asked(load(ROOT / "policies"), "github", claims, **variables_as_request(job["env"]))
    assert decision.reason == "granted"


def test_the_gitlab_job_is_granted_what_it_asks_for():
    (pipeline,) = yaml_documents(DEPLOY / "gitlab" / "exchange.gitlab-ci.yml")
    job = pipeline[".exchange"]
    claims = gitlab_ci_claims(NOW, environment=job["environment"])
    decision = asked(load(ROOT / "policies"), "gitlab", claims, **variables_as_request(job["variables"]))
    assert decision.reason == "granted"
