"""The sample files in ``policies/``: they load, their tests pass, and they refuse what they say they refuse."""

from pathlib import Path

import pytest

from tests.support.policies import ask, load

POLICIES = Path(__file__).parents[2] / "policies"

POD = {
    "sub": "system:serviceaccount:billing:invoicer",
    "kubernetes.io": {
        "namespace": "billing",
        "pod": {"name": "invoicer-6c9d7c5b8d-x2k4p", "uid": "0e4a2c0e-7d2b-4a67-9c55-3f7f8f5f6a12"},
        "serviceaccount": {"name": "invoicer", "uid": "5b1f0c7e-2a6f-4e8b-b1d2-6c4a9e7d3f20"},
    },
}
JOB = {
    "sub": "repo:acme@100200/web@300400:environment:production",
    "repository": "acme/web",
    "repository_id": "300400",
    "repository_owner_id": "100200",
    "environment": "production",
    "event_name": "push",
    "ref": "refs/heads/main",
    "sha": "0123456789abcdef0123456789abcdef01234567",
}
PIPELINE = {
    "project_id": "4711",
    "namespace_id": "815",
    "project_path": "orchard/ledger",
    "ref": "main",
    "ref_type": "branch",
    "ref_protected": "true",
    "environment": "production",
    "pipeline_source": "push",
}
FUNCTION = {
    "sub": "arn:aws:iam::123456789012:role/services/invoicer",
    "https://sts.amazonaws.com/": {
        "aws_account": "123456789012",
        "org_id": "o-a1b2c3d4e5",
        "lambda_source_function_arn": "arn:aws:lambda:eu-north-1:123456789012:function:invoicer",
    },
}


@pytest.fixture(scope="module")
def generation():
    return load(POLICIES)


def test_they_load_without_a_warning_and_whoever_trusts_a_workload_has_tests_of_both_kinds(generation):
    assert generation.warnings == ()
    text = "\n---\n".join(file.read_text() for file in POLICIES.glob("*.yaml"))
    trusting = [part for part in text.split("\n---\n") if "kind: ServiceAccount" in part and "\ntrust:" in part]
    assert len(trusting) == sum(bool(account.rules) for account in generation.service_accounts.values())
    for part in trusting:
        assert "allow:" in part
        assert "deny:" in part


def test_they_load_for_the_local_demo_too():
    assert load(POLICIES, gateway_issuer="http://127.0.0.1:8080", insecure_http=True).counts.issuers == 4


@pytest.mark.parametrize(
    ("issuer", "claims", "service_account", "scopes"),
    [
        ("cluster", POD, "invoicer", ("ledger:read", "ledger:write")),
        ("github", JOB, "web-deployer", ("deploy:read", "deploy:write")),
        ("gitlab", PIPELINE, "ledger-publisher", ("ledger:write",)),
        ("aws", FUNCTION, "exporter", ("ledger:read",)),
    ],
)
def test_each_platforms_workload_becomes_one_service_account_without_naming_it(
    generation, issuer, claims, service_account, scopes
):
    decision = ask(generation, issuer, claims)
    assert (decision.reason, decision.service_account) == ("granted", service_account)
    assert decision.entitlement.scopes == scopes


def test_the_github_job_carries_its_commit_into_the_token(generation):
    assert ask(generation, "github", JOB).entitlement.claims == {"commit": JOB["sha"]}


@pytest.mark.parametrize("event_name", ["pull_request_target", "workflow_run", "issue_comment"])
def test_a_strangers_event_is_refused_by_the_guardrail(generation, event_name):
    assert ask(generation, "github", {**JOB, "event_name": event_name}).reason == "denied_by_guardrail"


@pytest.mark.parametrize(
    ("issuer", "claims"),
    [("cluster", POD), ("github", JOB), ("gitlab", PIPELINE), ("aws", FUNCTION)],
)
def test_the_claims_of_one_platform_are_worth_nothing_from_another(generation, issuer, claims):
    for other in {"cluster", "github", "gitlab", "aws"} - {issuer}:
        assert ask(generation, other, claims).entitlement is None
