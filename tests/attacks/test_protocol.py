"""The token endpoint's parameters, turned against it (RFC 6749 §3.2, RFC 8693 §2.1, RFC 7523 §2.1, RFC 8707 §2)."""

from typing import Any

from gateway.http.form import parse_form
from tests.attacks.hostile import FORM, assertion_form, exchange_form, records, refused, still_serves
from tests.support.house import House
from tests.support.running import ACCESS_TOKEN, JWT, TOKEN_EXCHANGE

ID_TOKEN = "urn:ietf:params:oauth:token-type:id_token"
REFRESH_TOKEN = "urn:ietf:params:oauth:token-type:refresh_token"
SAML2 = "urn:ietf:params:oauth:token-type:saml2"


async def test_each_parameter_means_one_thing(house: House):
    pairs = list(exchange_form(house.pod_token(), client_id="invoicer", scope="ledger:read").items())
    for name, value in [*pairs, ("foo", "bar"), ("requested_token_type", JWT), ("actor_token", "x")]:
        others = [pair for pair in pairs if pair[0] != name]
        for second in (value, f"{value}x", ""):
            status, error, reason = await refused(house, [*others, (name, value), (name, second)])
            assert (status, error, reason) == (400, "invalid_request", "duplicate_parameter"), (name, second)
    escaped = "&".join(f"{name}={value}" for name, value in pairs) + "&s%63ope=ledger:write"
    assert (await refused(house, escaped.encode(), headers={"Content-Type": FORM}))[2] == "duplicate_parameter"
    await still_serves(house)


async def test_nothing_that_matters_stands_in_the_url(house: House):
    form = exchange_form(house.pod_token())
    for query in (
        "scope=ledger:read",
        "subject_token=x",
        "s%63ope=x",
        "client_secret=hunter2",
        "x=1&grant_type=x",
        "assertion",
    ):
        async with house.gateway.session.post(f"{house.gateway.url}/token?{query}", data=form) as answer:
            assert (answer.status, (await answer.json())["reason"]) == (400, "parameter_in_query"), query
    assert "hunter2" not in str(records(house))


CASES: list[tuple[dict[str, str], tuple[int, str, str]]] = [
    ({"subject_token": ""}, (400, "invalid_request", "missing_parameter")),
    ({"subject_token_type": ""}, (400, "invalid_request", "missing_parameter")),
    ({"subject_token_type": SAML2}, (400, "invalid_request", "unsupported_token_type")),
    ({"subject_token_type": REFRESH_TOKEN}, (400, "invalid_request", "unsupported_token_type")),
    ({"subject_token_type": "jwt"}, (400, "invalid_request", "unsupported_token_type")),
    ({"subject_token_type": JWT.upper()}, (400, "invalid_request", "unsupported_token_type")),
    ({"subject_token_type": f"{JWT} "}, (400, "invalid_request", "unsupported_token_type")),
    ({"subject_token_type": ACCESS_TOKEN}, (400, "invalid_request", "wrong_token_type")),
    ({"requested_token_type": REFRESH_TOKEN}, (400, "invalid_request", "unsupported_requested_token_type")),
    ({"requested_token_type": ID_TOKEN}, (400, "invalid_request", "unsupported_requested_token_type")),
    ({"actor_token": "x"}, (400, "invalid_request", "missing_parameter")),
    ({"actor_token_type": JWT}, (400, "invalid_request", "invalid_parameter")),
    ({"actor_token": "x", "actor_token_type": JWT}, (400, "invalid_request", "actor_not_permitted")),
    ({"actor_token": "x", "actor_token_type": ACCESS_TOKEN}, (400, "invalid_request", "unsupported_token_type")),
    ({"grant_type": "password"}, (400, "unsupported_grant_type", "unsupported_grant_type")),
    ({"grant_type": "client_credentials"}, (401, "invalid_client", "client_authentication_missing")),
    ({"grant_type": "refresh_token"}, (400, "unsupported_grant_type", "unsupported_grant_type")),
    ({"grant_type": f"{TOKEN_EXCHANGE}\0"}, (400, "unsupported_grant_type", "unsupported_grant_type")),
    ({"grant_type": ""}, (400, "invalid_request", "missing_parameter")),
    ({"client_id": "web-deploy"}, (400, "invalid_request", "no_matching_trust")),
    ({"client_id": "nobody"}, (400, "invalid_request", "unknown_service_account")),
    ({"client_id": "INVOICER"}, (400, "invalid_request", "unknown_service_account")),
    ({"client_id": "invoicer "}, (400, "invalid_request", "invalid_parameter")),
    ({"client_id": "invoicer\0"}, (400, "invalid_request", "invalid_parameter")),
    ({"client_id": "a" * 2049}, (400, "invalid_request", "invalid_parameter")),
    ({"client_id": "\u0456nvoicer"}, (400, "invalid_request", "invalid_parameter")),
    ({"resource": "deploy-api"}, (400, "invalid_target", "resource_not_granted")),
    ({"resource": "https://deploy.example.com"}, (400, "invalid_target", "resource_not_granted")),
    ({"resource": "https://ledger.example.com/"}, (400, "invalid_target", "unknown_resource")),
    ({"resource": "https://LEDGER.example.com"}, (400, "invalid_target", "unknown_resource")),
    ({"resource": "https://ledger.example.com#x"}, (400, "invalid_target", "unknown_resource")),
    ({"resource": "https://sts.example.com"}, (400, "invalid_target", "unknown_resource")),
    ({"resource": "ledger-api\n"}, (400, "invalid_target", "unknown_resource")),
    ({"resource": "*"}, (400, "invalid_target", "unknown_resource")),
    ({"audience": "deploy-api", "resource": "ledger-api"}, (400, "invalid_target", "multiple_resources")),
    ({"scope": "deploy:write"}, (400, "invalid_scope", "scope_not_granted")),
    ({"scope": "ledger:read ledger:admin"}, (400, "invalid_scope", "scope_not_granted")),
    ({"scope": "*"}, (400, "invalid_scope", "scope_not_granted")),
    ({"scope": "LEDGER:READ"}, (400, "invalid_scope", "scope_not_granted")),
    ({"scope": " "}, (400, "invalid_scope", "malformed_scope")),
    ({"scope": "ledger:read  ledger:write"}, (400, "invalid_scope", "malformed_scope")),
    ({"scope": "ledger:read\tledger:write"}, (400, "invalid_scope", "malformed_scope")),
    ({"scope": "ledger:read\r\nX: y"}, (400, "invalid_scope", "malformed_scope")),
    ({"scope": "ledger:read\0"}, (400, "invalid_scope", "malformed_scope")),
    ({"scope": 'ledger:"read"'}, (400, "invalid_scope", "malformed_scope")),
    ({"scope": "ledger:re\u0430d"}, (400, "invalid_scope", "malformed_scope")),
    ({"scope": " ".join(f"s{i}" for i in range(65))}, (400, "invalid_scope", "malformed_scope")),
    ({"scope": "s" * 2049}, (400, "invalid_scope", "malformed_scope")),
    ({"requested_expires_in": "0"}, (400, "invalid_request", "invalid_parameter")),
    ({"requested_expires_in": "-1"}, (400, "invalid_request", "invalid_parameter")),
    ({"requested_expires_in": "1e9"}, (400, "invalid_request", "invalid_parameter")),
    ({"requested_expires_in": "9" * 5000}, (400, "invalid_request", "invalid_parameter")),
    ({"requested_expires_in": "\u0661\u0662"}, (400, "invalid_request", "invalid_parameter")),
    ({"requested_expires_in": " 60"}, (400, "invalid_request", "invalid_parameter")),
]


async def test_what_is_asked_for_is_granted_whole_or_refused(house: House):
    token = house.pod_token()
    found: list[Any] = []
    for changes, _ in CASES:
        found.append((changes, await refused(house, exchange_form(token) | changes)))
    assert found == CASES
    await still_serves(house)


async def test_a_token_of_one_grant_is_no_parameter_of_the_other(house: House):
    token = house.pod_token()
    crossed = exchange_form(token) | {"grant_type": assertion_form("")["grant_type"]}
    assert (await refused(house, crossed))[2] == "missing_parameter"
    crossed = assertion_form(token) | {"grant_type": TOKEN_EXCHANGE}
    assert (await refused(house, crossed))[2] == "missing_parameter"


async def test_no_life_is_longer_than_the_policy_says(house: House):
    for asked in ("900", "901", "999999999"):
        _, body = await house.gateway.exchange(house.pod_token(), requested_expires_in=asked)
        assert body["expires_in"] == 900
    assert "refresh_token" not in body


def test_what_is_remembered_of_a_form_is_what_was_sent():
    """Short parts of forms are remembered: neither order, nor escapes, nor case may mix them up."""
    spellings = (
        "scope=a",
        "scope=a+b",
        "scope=a%20b",
        "scope=a%2Bb",
        "Scope=a",
        "scope=A",
        "scope%3Da",
        "scope=a=",
        "=",
        "a",
    )
    expected = [
        [("scope", "a")], [("scope", "a b")], [("scope", "a b")], [("scope", "a+b")], [("Scope", "a")],
        [("scope", "A")], [("scope=a", "")], [("scope", "a=")], [("", "")], [("a", "")],
    ]  # fmt: skip
    for _ in range(3):
        assert [parse_form(one.encode()) for one in spellings] == expected
    for number in range(2000):
        assert parse_form(f"scope={number}".encode()) == [("scope", str(number))]
    assert [parse_form(one.encode()) for one in spellings] == expected
