"""What a client with a credential of its own may do: RFC 6749 §4.4, RFC 8707, and the roles that accounts share."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model import Client, GrantType, TokenRequest
from gateway.policy.decision import decide_client
from gateway.policy.generation import Generation
from tests.support.policies import generation_of

READER = """
kind: Role
name: reader
access: [{resource: ledger-api, scopes: [ledger:read]}]
"""
ACCOUNTS = """
kind: ServiceAccount
name: batch
roles: [reader]
access: [{resource: ledger-api, scopes: [ledger:write]}]
token_lifetime: 5m
token_claims: {tenant: '"acme"', who: claims.sub, where: issuer}
---
kind: ServiceAccount
name: both
roles: [reader]
access: [{resource: deploy-api, scopes: [deploy:write]}]
---
kind: ServiceAccount
name: idle
"""
GENERATION = generation_of(READER, ACCOUNTS)


def ask(client_id: str = "batch", generation: Generation = GENERATION, **asked):
    client = Client(client_id, "client_secret_basic", "secret:s1")
    return decide_client(generation, client, TokenRequest(GrantType.CLIENT_CREDENTIALS, **asked))


def test_access_and_roles_are_approved_in_advance():
    entitlement = ask().entitlement
    assert entitlement.scopes == ("ledger:read", "ledger:write")
    assert entitlement.audience == "https://ledger.example.com"
    assert entitlement.rule is None


def test_a_role_shared_by_many_changes_them_all():
    wider = READER.replace("[ledger:read]", "[ledger:read, ledger:write]")
    narrow, wide = GENERATION, generation_of(wider, ACCOUNTS)
    assert ask("both", narrow, resource="ledger-api").entitlement.scopes == ("ledger:read",)
    assert ask("both", wide, resource="ledger-api").entitlement.scopes == ("ledger:read", "ledger:write")


@pytest.mark.parametrize(
    ("client_id", "asked", "reason"),
    [
        ("batch", {"scopes": ("deploy:write",)}, "scope_not_granted"),
        ("batch", {"scopes": ("ledger:read", "admin")}, "scope_not_granted"),
        ("batch", {"resource": "deploy-api"}, "resource_not_granted"),
        ("batch", {"resource": "https://else.example"}, "unknown_resource"),
        ("both", {}, "ambiguous_resource"),
        ("idle", {}, "resource_not_granted"),
        ("nobody", {}, "unknown_service_account"),
    ],
)
def test_what_is_not_approved_is_refused_whole(client_id: str, asked: dict, reason: str):
    decision = ask(client_id, **asked)
    assert decision.reason == reason
    assert decision.entitlement is None


def test_of_the_mapped_claims_those_are_given_that_look_at_no_workload():
    assert ask().entitlement.claims == {"tenant": "acme"}


@pytest.mark.parametrize(("asked", "given_"), [(None, 300), (60, 60), (3600, 300)])
def test_the_least_lifetime_wins(asked: int | None, given_: int):
    assert ask(lifetime_seconds=asked).entitlement.lifetime_seconds == given_


def test_a_guardrail_is_about_workloads():
    guardrail = "kind: Guardrail\nname: nobody\ndeny_when: 'true'"
    assert ask(generation=generation_of(READER, ACCOUNTS, guardrail)).entitlement is not None


@given(st.lists(st.sampled_from(["ledger:read", "ledger:write", "deploy:write", "admin", "LEDGER:READ"]), min_size=1))
def test_what_is_given_is_what_was_asked_or_nothing(scopes: list[str]):
    entitlement = ask(scopes=tuple(scopes)).entitlement
    assert (entitlement is not None) == (set(scopes) <= {"ledger:read", "ledger:write"})
    assert entitlement is None or set(entitlement.scopes) == set(scopes)
