"""The sample files in ``policies/``: they load, their tests pass, and they refuse what they say they refuse."""

from pathlib import Path

import pytest

from gateway.kinds import PRESETS
from gateway.policy.coverage import measure_coverage
from gateway.policy.policy_tests import play
from gateway.standin import PLATFORMS
from tests.support.policies import ask, load

POLICIES = Path(__file__).parents[2] / "policies"
NOW = 1_793_610_000

STAND_INS = {platform.name: platform for platform in PLATFORMS}
WORKLOADS = {
    "cluster": ("kubernetes", "invoicer", ("ledger:read", "ledger:write")),
    "eks": ("eks", "reporter", ("ledger:read",)),
    "gke": ("gke", "image-scanner", ("deploy:read",)),
    "aks": ("aks", "statement-mailer", ("ledger:read",)),
    "openshift": ("openshift", "till", ("ledger:write",)),
    "github": ("github", "web-deployer", ("deploy:read", "deploy:write")),
    "gitlab": ("gitlab", "ledger-publisher", ("ledger:write",)),
    "aws": ("aws", "exporter", ("ledger:read",)),
    "buildkite": ("buildkite", "site-publisher", ("deploy:read", "deploy:write")),
}
"""For each issuer its stand-in, and what the stand-in's workload becomes and may."""


def claims_of(issuer):
    platform = STAND_INS[WORKLOADS[issuer][0]]
    return platform.claims(NOW) | {"iss": platform.issuer}


JOB = claims_of("github")


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
    assert load(POLICIES, gateway_issuer="http://127.0.0.1:8080", insecure_http=True).counts.issuers == 9


def test_there_is_a_sample_for_every_preset(generation):
    assert {issuer.preset for issuer in generation.issuers} == PRESETS.keys()


@pytest.mark.parametrize("issuer", WORKLOADS)
def test_each_platforms_workload_becomes_one_service_account_without_naming_it(generation, issuer):
    _, service_account, scopes = WORKLOADS[issuer]
    decision = ask(generation, issuer, claims_of(issuer))
    assert (decision.reason, decision.service_account) == ("granted", service_account)
    assert decision.entitlement.scopes == scopes


def test_the_github_job_carries_its_commit_into_the_token(generation):
    assert ask(generation, "github", JOB).entitlement.claims == {"commit": JOB["sha"]}


@pytest.mark.parametrize("event_name", ["pull_request_target", "workflow_run", "issue_comment"])
def test_a_strangers_event_is_refused_by_the_guardrail(generation, event_name):
    assert ask(generation, "github", {**JOB, "event_name": event_name}).reason == "denied_by_guardrail"


@pytest.mark.parametrize("issuer", WORKLOADS)
def test_the_claims_of_one_platform_are_worth_nothing_from_another(generation, issuer):
    for other in WORKLOADS.keys() - {issuer}:
        assert ask(generation, other, claims_of(issuer)).entitlement is None


def test_every_trust_rule_is_reached_and_guarded_by_a_test():
    generation = load(POLICIES, keep_tests=True)
    coverage = measure_coverage(generation, [(case, play(generation, case)) for case in generation.tests])
    assert (coverage.unreached, coverage.unguarded) == ((), ())


def test_the_first_line_of_each_file_points_editors_to_the_schema():
    for file in POLICIES.glob("*.yaml"):
        assert file.read_text().startswith("# yaml-language-server: $schema=schema.json\n"), file.name
