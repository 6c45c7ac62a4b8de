"""The claims of the stand-ins against the platforms' tables: names, types, clock offsets."""

import uuid

import pytest

from gateway.standin import ABSENT, aws_sts_claims, github_actions_claims, gitlab_ci_claims, kubernetes_claims

NOW = 1_793_610_000.7
ISSUED_AT = 1_793_610_000
US = "https://sts.orchard.example"
SHAPES = [kubernetes_claims, github_actions_claims, gitlab_ci_claims, aws_sts_claims]


@pytest.mark.parametrize("shape", SHAPES)
def test_times_are_whole_numbers_and_every_token_has_an_id_of_its_own(shape):
    first, second = shape(NOW), shape(NOW)
    assert type(first["exp"]) is int
    assert first["iat"] == ISSUED_AT
    assert str(uuid.UUID(first["jti"])) == first["jti"]
    assert first["jti"] != second["jti"]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_claim_can_be_replaced_made_null_or_taken_out(shape):
    claims = shape(NOW, jti="one", sub="someone", exp=None, iat=ABSENT, **{"a.b/c": 1})
    assert (claims["jti"], claims["sub"], claims["exp"], claims["a.b/c"]) == ("one", "someone", None, 1)
    assert "iat" not in claims


def test_a_kubernetes_token_is_the_example_of_the_platform():
    assert kubernetes_claims(NOW, US, jti="2f6c1f0e-53a4-4b0c-9b61-7a2f6a1f8f10") == {
        "aud": [US],
        "exp": ISSUED_AT + 3600,
        "iat": ISSUED_AT,
        "iss": "https://kubernetes.default.svc.cluster.local",
        "jti": "2f6c1f0e-53a4-4b0c-9b61-7a2f6a1f8f10",
        "kubernetes.io": {
            "namespace": "billing",
            "node": {"name": "worker-3", "uid": "9d0b6a52-7c5e-4b8d-8a53-0c2c9f8f2f31"},
            "pod": {"name": "invoicer-6c9d7c5b8d-x2k4p", "uid": "0e4a2c0e-7d2b-4a67-9c55-3f7f8f5f6a12"},
            "serviceaccount": {"name": "invoicer", "uid": "5b1f0c7e-2a6f-4e8b-b1d2-6c4a9e7d3f20"},
        },
        "nbf": ISSUED_AT,
        "sub": "system:serviceaccount:billing:invoicer",
    }


def test_a_kubernetes_audience_is_always_an_array():
    assert kubernetes_claims(NOW, US)["aud"] == [US]
    assert kubernetes_claims(NOW, [US, "https://other.example"])["aud"] == [US, "https://other.example"]


def test_an_unbound_kubernetes_token_names_neither_pod_nor_node():
    claims = kubernetes_claims(NOW, namespace="storage", service_account="nightly", pod=None)
    assert claims["kubernetes.io"].keys() == {"namespace", "serviceaccount"}
    assert claims["sub"] == "system:serviceaccount:storage:nightly"


def test_a_github_token_holds_the_claims_of_the_platform_and_only_strings_but_for_the_times():
    claims = github_actions_claims(NOW, US)
    assert set(claims) == {
        "jti", "sub", "aud", "ref", "sha", "repository", "repository_owner", "repository_owner_id", "run_id",
        "run_number", "run_attempt", "check_run_id", "repository_visibility", "repository_id", "actor_id", "actor",
        "workflow", "head_ref", "base_ref", "event_name", "ref_protected", "ref_type", "workflow_ref", "workflow_sha",
        "job_workflow_ref", "job_workflow_sha", "environment", "environment_node_id", "runner_environment",
        "enterprise", "enterprise_id", "repo_property_tier", "iss", "nbf", "iat", "exp",
    }  # fmt: skip
    assert all(type(claims[name]) is str for name in claims.keys() - {"nbf", "iat", "exp"})
    assert (claims["iat"] - claims["nbf"], claims["exp"] - claims["iat"]) == (600, 300)
    assert claims["sub"] == "repo:acme@100200/web@300400:environment:production"
    assert claims["workflow_ref"] == "acme/web/.github/workflows/deploy.yml@refs/heads/main"
    assert claims["ref_protected"] == "true"


@pytest.mark.parametrize(
    ("arguments", "context"),
    [
        ({"environment": "eu: production"}, "environment:eu%3A production"),
        ({"environment": "production", "event_name": "pull_request"}, "environment:production"),
        ({"environment": None, "event_name": "pull_request"}, "pull_request"),
        ({"environment": None}, "ref:refs/heads/main"),
        ({"environment": None, "ref": "refs/tags/v3"}, "ref:refs/tags/v3"),
        ({"environment": None, "event_name": "pull_request_target"}, "ref:refs/heads/main"),
    ],
)
def test_a_github_subject_ends_in_environment_or_pull_request_or_ref_in_this_order(arguments, context):
    claims = github_actions_claims(NOW, **arguments)
    assert claims["sub"] == f"repo:acme@100200/web@300400:{context}"
    assert claims["ref_type"] == ("tag" if "refs/tags/" in claims["ref"] else "branch")
    assert ("environment" in claims) == ("environment_node_id" in claims) == (arguments["environment"] is not None)


def test_a_gitlab_token_has_string_ids_string_booleans_and_a_numeric_runner():
    claims = gitlab_ci_claims(NOW, US)
    assert (claims["project_id"], claims["namespace_id"], claims["project_path"]) == ("4711", "815", "orchard/ledger")
    assert (claims["ref"], claims["ref_type"], claims["ref_protected"]) == ("main", "branch", "true")
    assert (claims["environment"], claims["environment_protected"]) == ("production", "true")
    assert type(claims["runner_id"]) is int
    assert claims["groups_direct"] == ["orchard"]
    assert claims["iat"] - claims["nbf"] == 5
    assert claims["ci_config_ref_uri"] == "gitlab.com/orchard/ledger//.gitlab-ci.yml@refs/heads/main"
    assert claims["sub"] == "project_path:orchard/ledger:ref_type:branch:ref:main"
    numbers = {"runner_id", "iat", "nbf", "exp"}
    assert all(type(claims[name]) is str for name in claims.keys() - numbers - {"groups_direct"})


def test_a_gitlab_audience_is_a_string_unless_several_were_asked_for():
    assert gitlab_ci_claims(NOW, US)["aud"] == US
    assert gitlab_ci_claims(NOW, [US, "https://other.example"])["aud"] == [US, "https://other.example"]


def test_a_gitlab_job_without_an_environment_has_none_of_its_claims():
    claims = gitlab_ci_claims(NOW, environment=None, ref="v1", ref_type="tag")
    assert not {"environment", "environment_protected", "deployment_tier", "environment_action"} & claims.keys()
    assert claims["ref_path"] == "refs/tags/v1"


def test_an_aws_token_has_no_nbf_and_keeps_everything_of_its_own_in_one_object():
    claims = aws_sts_claims(NOW, US)
    assert claims.keys() == {"iss", "aud", "sub", "iat", "exp", "jti", "https://sts.amazonaws.com/"}
    assert claims["exp"] - claims["iat"] == 300
    assert claims["sub"] == "arn:aws:iam::123456789012:role/services/invoicer"
    inner = claims["https://sts.amazonaws.com/"]
    assert inner["aws_account"] == "123456789012"
    assert inner["principal_id"] == claims["sub"]
    assert type(inner["ou_path"]) is list
    assert type(inner["principal_tags"]) is dict
    assert inner["original_session_exp"] == "2026-11-02T09:40:00Z"


def test_an_aws_audience_is_a_string_for_one_and_an_array_for_more():
    assert aws_sts_claims(NOW, [US])["aud"] == US
    assert aws_sts_claims(NOW, [US, "https://other.example"])["aud"] == [US, "https://other.example"]
