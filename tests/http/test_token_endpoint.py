"""The token endpoint over real HTTP: RFC 6749, 8693, 7523, 8707, and what clients demand of the answer."""

import json

import jwt
import pytest
from jwt import PyJWKClient

from tests.support.house import House
from tests.support.running import ACCESS_TOKEN, ISSUER, JWT, TOKEN_EXCHANGE


def audit_of(house: House) -> list[dict]:
    return [json.loads(line) for line in (house.folder / "audit.jsonl").read_text().splitlines()]


async def test_a_pod_gets_an_access_token_of_rfc_9068(house: House):
    status, body = await house.gateway.exchange(house.pod_token())
    assert status == 200
    header = jwt.get_unverified_header(body["access_token"])
    claims = jwt.decode(body["access_token"], options={"verify_signature": False})
    assert header["typ"] == "at+jwt"
    assert header["alg"] == "ES256"
    assert {name: claims[name] for name in ("iss", "sub", "client_id", "aud", "scope", "act")} == {
        "iss": ISSUER,
        "sub": "invoicer",
        "client_id": "invoicer",
        "aud": "https://ledger.example.com",
        "scope": "ledger:read ledger:write",
        "act": {
            "iss": "https://kubernetes.default.svc.cluster.local",
            "sub": "system:serviceaccount:billing:invoicer",
        },
    }
    assert claims["exp"] - claims["iat"] == 900 == body["expires_in"]
    assert {"nbf", "jti"} <= claims.keys()


async def test_the_answer_has_the_shape_that_every_client_accepts(house: House):
    form = {"grant_type": TOKEN_EXCHANGE, "subject_token": house.pod_token(), "subject_token_type": JWT}
    status, body, headers = await house.gateway.post(form)
    assert status == 200
    assert headers["Content-Type"] == "application/json"
    assert headers["Cache-Control"] == "no-store"
    assert headers["Pragma"] == "no-cache"
    assert body["token_type"] == "Bearer"
    assert body["issued_token_type"] == ACCESS_TOKEN
    assert type(body["expires_in"]) is int
    assert set(body) == {"access_token", "issued_token_type", "token_type", "expires_in", "scope"}


async def test_the_same_token_as_an_assertion_is_worth_the_same(house: House):
    status, body = await house.gateway.assertion(house.pod_token())
    assert status == 200
    assert body["scope"] == "ledger:read ledger:write"


async def test_a_bad_subject_token_is_invalid_request_and_a_bad_assertion_invalid_grant(house: House):
    token = house.pod_token()[:-6] + "AAAAAA"
    status, body = await house.gateway.exchange(token)
    assert (status, body["error"], body["reason"]) == (400, "invalid_request", "bad_signature")
    status, body = await house.gateway.assertion(token)
    assert (status, body["error"], body["reason"]) == (400, "invalid_grant", "bad_signature")


async def test_a_denial_tells_what_was_presented_and_not_what_was_wanted(house: House):
    status, body = await house.gateway.exchange(house.job_token(environment="staging"))
    assert (status, body["reason"]) == (400, "no_matching_trust")
    assert "sub=repo:acme" in body["error_description"]
    assert "iss=https://token.actions.githubusercontent.com" in body["error_description"]
    assert f"aud={ISSUER}" in body["error_description"]
    assert "production" not in body["error_description"].replace("environment:production", "")
    assert body["request_id"] == audit_of(house)[-1]["request_id"]


async def test_nothing_of_an_unverified_token_is_repeated(house: House):
    token = house.cluster.mint({**house.cluster.claims("https://else.example"), "iss": "https://evil.example"})
    status, body = await house.gateway.exchange(token)
    assert (status, body["reason"]) == (400, "unknown_issuer")
    assert "evil" not in json.dumps(body)


async def test_an_omitted_resource_is_implied_only_where_there_is_one(house: House):
    status, body = await house.gateway.exchange(house.job_token())
    assert (status, body["error"], body["reason"]) == (400, "invalid_target", "ambiguous_resource")
    status, body = await house.gateway.exchange(house.job_token(), resource="https://deploy.example.com")
    assert (status, body["scope"]) == (200, "deploy:write")
    status, body = await house.gateway.exchange(house.job_token(), audience="deploy-api")
    assert (status, body["scope"]) == (200, "deploy:write")


async def test_a_scope_that_is_not_granted_is_refused_and_never_cut(house: House):
    status, body = await house.gateway.exchange(
        house.job_token(), audience="ledger-api", scope="ledger:read ledger:write"
    )
    assert (status, body["error"], body["reason"]) == (400, "invalid_scope", "scope_not_granted")


async def test_several_equal_targets_are_one_and_several_different_ones_invalid_target(house: House):
    form = [("grant_type", TOKEN_EXCHANGE), ("subject_token", house.pod_token()), ("subject_token_type", JWT)]
    status, _, _ = await house.gateway.post([*form, ("resource", "ledger-api"), ("audience", "ledger-api")])
    assert status == 200
    status, body, _ = await house.gateway.post([*form, ("resource", "ledger-api"), ("audience", "deploy-api")])
    assert (status, body["error"]) == (400, "invalid_target")


async def test_requested_expires_in_only_shortens(house: House):
    _, body = await house.gateway.exchange(house.pod_token(), requested_expires_in="120")
    assert body["expires_in"] == 120
    _, body = await house.gateway.exchange(house.pod_token(), requested_expires_in="86400")
    assert body["expires_in"] == 900


async def test_unknown_parameters_are_ignored_and_empty_ones_count_as_not_sent(house: House):
    status, _ = await house.gateway.exchange(house.pod_token(), foo="bar", scope="", client_id="")
    assert status == 200


@pytest.mark.parametrize("name", ["grant_type", "subject_token", "scope", "client_id", "foo"])
async def test_a_parameter_sent_twice_is_refused(house: House, name: str):
    form = [("grant_type", TOKEN_EXCHANGE), ("subject_token", house.pod_token()), ("subject_token_type", JWT)]
    status, body, _ = await house.gateway.post([*form, (name, "x"), (name, "x")])
    assert (status, body["error"], body["reason"]) == (400, "invalid_request", "duplicate_parameter")


async def test_json_is_refused_with_a_sentence_that_says_what_to_send(house: House):
    async with house.gateway.session.post(f"{house.gateway.url}/token", json={"grant_type": "x"}) as answer:
        body = await answer.json()
    assert (answer.status, body["error"]) == (400, "invalid_request")
    assert "application/x-www-form-urlencoded" in body["error_description"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "application/x-www-form-urlencoded", "Content-Encoding": "gzip"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded; charset=utf-16"}, 415),
        ({"Content-Type": "multipart/form-data; boundary=x"}, 400),
        ({"Content-Type": "text/plain"}, 400),
    ],
)
async def test_no_other_encoding_of_the_body_is_read(house: House, headers: dict, status: int):
    async with house.gateway.session.post(
        f"{house.gateway.url}/token", data=b"grant_type=x", headers=headers
    ) as answer:
        assert (answer.status, (await answer.json())["error"]) == (status, "invalid_request")


async def test_a_body_over_64_kib_is_refused(house: House):
    status, body, _ = await house.gateway.post({"grant_type": "x" * 70_000})
    assert (status, body["reason"]) == (413, "request_too_large")


async def test_thirty_thousand_parameters_are_refused(house: House):
    status, body, _ = await house.gateway.post(
        b"a&" * 30_000, headers={"Content-Type": "application/x-www-form-urlencoded"}
    )
    assert (status, body["reason"]) == (400, "malformed_request")


@pytest.mark.parametrize("body", [b"grant_type=%FF%FE", b"grant_type=\xff", b"grant_type=%C0%AF", b"%"])
async def test_a_form_that_is_not_utf_8_is_refused(house: House, body: bytes):
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    status, answer, _ = await house.gateway.post(body, headers=headers)
    assert (status, answer["error"]) == (400, "invalid_request")


async def test_oauth_parameters_in_the_url_are_refused_and_others_ignored(house: House):
    form = {"grant_type": TOKEN_EXCHANGE, "subject_token": house.pod_token(), "subject_token_type": JWT}
    async with house.gateway.session.post(f"{house.gateway.url}/token?client-request-id=1", data=form) as answer:
        assert answer.status == 200
    async with house.gateway.session.post(f"{house.gateway.url}/token?scope=x", data=form) as answer:
        assert (answer.status, (await answer.json())["reason"]) == (400, "parameter_in_query")


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "HEAD", "OPTIONS"])
async def test_the_token_endpoint_is_post_only(house: House, method: str):
    async with house.gateway.session.request(method, f"{house.gateway.url}/token") as answer:
        assert answer.status == 405
        assert answer.headers["Allow"] == "POST"


async def test_an_unknown_grant_type_is_unsupported_and_a_missing_one_invalid(house: House):
    status, body, _ = await house.gateway.post({"grant_type": "password"})
    assert (status, body["error"]) == (400, "unsupported_grant_type")
    status, body, _ = await house.gateway.post({"x": "y"})
    assert (status, body["error"], body["reason"]) == (400, "invalid_request", "missing_parameter")


async def test_every_decision_is_written_down_before_its_answer(house: House):
    _, granted = await house.gateway.exchange(house.pod_token(), scope="ledger:read")
    _, denied = await house.gateway.exchange(house.job_token(event_name="schedule"))
    first, second = audit_of(house)
    claims = jwt.decode(granted["access_token"], options={"verify_signature": False})
    assert first["decision"] == "granted"
    assert first["access_token_id"] == claims["jti"]
    assert first["access_token_expires_at"] == claims["exp"]
    assert first["client_id"] == "invoicer"
    assert first["subject"] == "system:serviceaccount:billing:invoicer"
    assert first["issuer"] == "prod-cluster"
    assert first["scopes_asked"] == first["scopes_given"] == ["ledger:read"]
    assert first["rule"] == "rule-1"
    assert first["policy_generation"] == 1
    assert first["source"] == "127.0.0.1"
    assert len(first["subject_token_sha256"]) == 64
    assert second["decision"] == "denied"
    assert second["reason"] == denied["reason"] == "no_matching_trust"
    assert second["verified"] is True


async def test_no_token_is_in_the_audit_log_or_in_the_metrics(house: House):
    pod, job = house.pod_token(), house.job_token(environment="staging")
    _, body = await house.gateway.exchange(pod)
    await house.gateway.exchange(job)
    written = (house.folder / "audit.jsonl").read_text() + await house.gateway.get(f"{house.gateway.admin_url}/metrics")
    for secret in (pod, job, body["access_token"]):
        assert secret not in written
        assert secret.split(".")[2] not in written


async def test_pyjwt_verifies_the_token_with_the_published_keys(house: House):
    _, body = await house.gateway.exchange(house.pod_token())
    text = await house.gateway.get(f"{house.gateway.url}/.well-known/jwks.json")
    key = jwt.PyJWKSet.from_json(text)[jwt.get_unverified_header(body["access_token"])["kid"]]
    claims = jwt.decode(
        body["access_token"], key, algorithms=["ES256"], audience="https://ledger.example.com", issuer=ISSUER
    )
    assert claims["sub"] == "invoicer"
    assert PyJWKClient


async def test_the_metadata_says_what_the_server_does(house: House):
    for name in ("oauth-authorization-server", "openid-configuration"):
        document = json.loads(await house.gateway.get(f"{house.gateway.url}/.well-known/{name}"))
        assert document["issuer"] == ISSUER
        assert document["token_endpoint"] == f"{ISSUER}/token"
        assert document["jwks_uri"] == f"{ISSUER}/.well-known/jwks.json"
        assert TOKEN_EXCHANGE in document["grant_types_supported"]
        assert document["scopes_supported"] == ["deploy:write", "ledger:read", "ledger:write"]


async def test_the_key_set_is_cacheable_and_holds_no_private_member(house: House):
    url = f"{house.gateway.url}/.well-known/jwks.json"
    async with house.gateway.session.get(url) as answer:
        keys = (await answer.json(content_type=None))["keys"]
        etag = answer.headers["ETag"]
        assert "max-age=300" in answer.headers["Cache-Control"]
    assert keys
    assert all(not {"d", "p", "q", "dp", "dq", "qi", "k"} & key.keys() for key in keys)
    async with house.gateway.session.get(url, headers={"If-None-Match": etag}) as answer:
        assert answer.status == 304


@pytest.mark.parametrize(
    ("form", "headers"),
    [
        ({"client_id": "invoicer", "client_secret": "s"}, {}),
        (
            {
                "client_assertion": "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJpbnZvaWNlciJ9.AAAA",
                "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
            },
            {},
        ),
        ({}, {"Authorization": "Basic aW52b2ljZXI6c2VjcmV0"}),
    ],
)
async def test_rfc_7521_section_4_1_whoever_presents_credentials_must_have_valid_ones(
    house: House, form: dict, headers: dict
):
    asked = {"grant_type": TOKEN_EXCHANGE, "subject_token": house.pod_token(), "subject_token_type": JWT, **form}
    status, body, answered = await house.gateway.post(asked, headers=headers)
    assert (body["error"], body["reason"]) == ("invalid_client", "client_authentication_failed")
    # RFC 6749 §5.2: a challenge for whoever tried the header. Some clients look at a challenge and at no body.
    assert status == (401 if headers else 400)
    assert ("WWW-Authenticate" in answered) == bool(headers)
