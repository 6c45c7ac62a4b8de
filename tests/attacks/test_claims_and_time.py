"""Claims under a good signature that say too much, too little, or not the same to all (RFC 8725 §3.8 to §3.12)."""

import json
from pathlib import Path
from typing import Any

from gateway.standin.keys import SigningKey
from tests.attacks.hostile import assertion_form, besieged, exchange_form, records, refusals, refused, still_serves
from tests.support.house import House
from tests.support.time import HandClock
from tests.support.vectors import json_texts, needs_vectors

NEVER = 253_402_300_799
"""The end of the year 9999."""


async def reasons_of(house: House, cases: dict[str, dict[str, Any]]) -> dict[str, str]:
    """What becomes of the cluster's good claims with these in their place."""
    return {
        name: await refusals(house, house.cluster.mint(house.cluster.claims(house.audience) | changes))
        for name, changes in cases.items()
    }


async def test_times_are_whole_numbers_that_make_sense_together(tmp_path: Path):
    clock = HandClock()
    async with besieged(tmp_path, clock=clock) as house:
        now = int(clock.now)
        unreadable = ("9999999999", " 99 ", "9_999", "\u0661\u0662", True, [1], {}, -1, 0, 2**53 + 1, 2**63, "")
        cases: dict[str, dict[str, Any]] = {f"exp {value!r}": {"exp": value} for value in unreadable}
        cases |= {f"iat {value!r}": {"iat": value} for value in unreadable}
        cases |= {f"nbf {value!r}": {"nbf": value} for value in unreadable}
        cases |= {
            "nbf behind exp": {"nbf": now + 4000},
            "iat behind exp": {"iat": now + 4000, "nbf": now},
            "exp is iat": {"exp": now, "iat": now, "nbf": now},
        }
        assert set((await reasons_of(house, cases)).values()) == {"invalid_claim"}
        others = {
            "exp null": ({"exp": None}, "missing_claim"),
            "iat null": ({"iat": None}, "missing_claim"),
            "year 9999": ({"exp": NEVER}, "token_lifetime_too_long"),
            "a day and a second": ({"exp": now + 86_401}, "token_lifetime_too_long"),
            "expired, and half a minute": ({"exp": now - 30, "iat": now - 60, "nbf": now - 60}, "token_expired"),
            "iat to come": ({"iat": now + 31, "nbf": now}, "token_not_yet_valid"),
            "nbf to come": ({"nbf": now + 31}, "token_not_yet_valid"),
        }
        found = await reasons_of(house, {name: changes for name, (changes, _) in others.items()})
        assert found == {name: reason for name, (_, reason) in others.items()}
        at_the_edge = house.cluster.mint(
            house.cluster.claims(house.audience) | {"exp": now - 29, "iat": now - 60, "nbf": now - 60}
        )
        assert (await house.gateway.exchange(at_the_edge))[0] == 200
        clock.now += 1
        assert await refusals(house, at_the_edge) == "token_expired", "though it was remembered a moment ago"
        clock.now -= 3600
        assert (await house.gateway.exchange(at_the_edge))[0] != 200


async def test_a_token_is_for_us_and_for_nobody_else(house: House):
    ours = house.audience
    shapes: list[Any] = ["", [], [""], 5, True, {}, {ours: 1}, [[ours]], [ours, 5], [ours, None], [ours, ""]]
    foreign: list[Any] = [
        [ours, "https://other.example"], f"{ours}/", ours[:-1], ours.upper(), f"{ours}:443", f" {ours}", f"{ours} ",
        ours.replace("sts", "%73ts"), ours.replace("https", "http"), f"{ours}#", f"{ours},{ours}", "*", ["*"],
        [f"https://{i}.example" for i in range(300)],
    ]  # fmt: skip
    reserved: list[Any] = [
        "https://kubernetes.default.svc", [ours, "https://kubernetes.default.svc"], house.cluster.issuer,
        "sts.amazonaws.com", [ours, "vault"], "api://AzureADTokenExchange",
    ]  # fmt: skip
    for reason, values in (("invalid_claim", shapes), ("wrong_audience", foreign), ("reserved_audience", reserved)):
        found = await reasons_of(house, {str(value): {"aud": value} for value in values})
        assert set(found.values()) == {reason}, found
    assert set((await reasons_of(house, {"null": {"aud": None}})).values()) == {"missing_claim"}


async def test_an_issuer_is_named_code_point_by_code_point(house: House):
    iss = house.cluster.issuer
    host = iss.removeprefix("https://")
    strangers = [
        f"{iss}/", iss.upper(), f"https://{host.upper()}", f"https://good@{host}", f"https://{host}@evil.example",
        f"https://{host}.evil.example", f"https://{host}:443", iss.replace("https", "http"), f" {iss}", f"{iss}#",
        f"{iss}?x",
        iss.replace("e", "\u0435", 1), iss.replace(".", "\u3002"), iss[:-1], "", house.audience, "file:///etc/passwd",
        "http://169.254.169.254/latest/meta-data/",
    ]  # fmt: skip
    assert set((await reasons_of(house, {one: {"iss": one} for one in strangers})).values()) == {"unknown_issuer"}
    for value in ([iss], {"x": iss}, 5, True):
        assert set((await reasons_of(house, {"": {"iss": value}})).values()) == {"invalid_claim"}
    fetched = dict(house.cluster.fetches)
    assert fetched == {"discovery": 1, "jwks": 1}, "a token of nobody's makes us ask nobody"


async def test_a_subject_is_printable_and_of_its_platforms_shape(house: House):
    good = "system:serviceaccount:billing:invoicer"
    subjects: list[Any] = [
        "", " ", f"{good} ", f" {good}", f"{good}\u0430", "system:serviceaccount:billing:\u0456nvoicer", "s" * 256, 5,
        True, [good], {"x": good}, "system:serviceaccount:billing:a:b", "system:serviceaccount:billing:",
        "system:node:x",
        "system:serviceaccount:Billing:invoicer", f'{good}"><script>alert(1)</script>', "\u202e", "\ufeff" + good,
    ]  # fmt: skip
    found = await reasons_of(house, {str(subject): {"sub": subject} for subject in subjects})
    assert set(found.values()) == {"invalid_claim"}, found
    assert set((await reasons_of(house, {"": {"sub": None}})).values()) == {"missing_claim"}
    twins = {"Sub": good, "SUB": good, "\u017fub": good, "sub ": good}
    strange = {"sub": "system:serviceaccount:other:pod"} | twins
    assert set((await reasons_of(house, {"twins": strange})).values()) == {"no_matching_trust"}


async def test_what_a_platform_always_says_has_to_be_there_as_itself(house: House):
    whole = house.cluster.claims(house.audience)["kubernetes.io"]
    missing: list[Any] = [
        None,
        "",
        {},
        [],
        "x",
        [whole],
        5,
        whole | {"namespace": None},
        whole | {"serviceaccount": []},
    ]
    missing += [{"kubernetes.io": whole}, whole | {"serviceaccount": {"name": "x", "uid": ""}}]
    found = await reasons_of(house, {str(value): {"kubernetes.io": value} for value in missing})
    assert set(found.values()) == {"missing_claim"}, found


async def test_a_token_id_is_a_short_string(house: House):
    for value in ("", "a" * 257, 5, True, ["a"], {}, None):
        assert set((await reasons_of(house, {"": {"jti": value}})).values()) == {"invalid_claim"}, value


async def test_a_claim_of_another_type_matches_nothing(house: House):
    """``repository_id: "300400"`` in the policy is text; so is ``environment: production``."""
    for changes in (
        {"repository_id": 300400}, {"environment": ["production"]}, {"environment": {"production": True}},
        {"environment": "Production"}, {"environment": "production "}, {"environment": "production\u200b"},
        {"event_name": "push,"}, {"environment": True}, {"event_name": "pull_request_target"},
        {"repository_id": "3004000"}, {"repository_id": "300400\u0660"},
    ):  # fmt: skip
        token = house.github.mint(house.github.claims(house.audience) | changes)
        assert await refusals(house, token) == "no_matching_trust", changes
    token = house.github.mint(house.github.claims(house.audience) | {"environment": None})
    assert await refusals(house, token) == "no_matching_trust"


async def test_an_act_claim_of_a_workload_token_counts_for_nothing(house: House):
    deep: dict[str, Any] = {"sub": "root"}
    for _ in range(5):
        deep = {"sub": "root", "act": deep}
    forged = {"act": deep, "may_act": {"sub": "root"}, "scope": "ledger:write deploy:write", "client_id": "web-deploy"}
    token = house.cluster.mint(house.cluster.claims(house.audience) | forged)
    status, body = await house.gateway.exchange(token)
    assert (status, body["scope"]) == (200, "ledger:read ledger:write")
    status, body = await house.gateway.exchange(token, client_id="web-deploy", resource="deploy-api")
    assert (status, body["reason"]) == (400, "no_matching_trust")


async def test_hostile_claims_are_shown_without_their_teeth(tmp_path: Path):
    """Answers, records, metrics and health repeat a verified token's claims: never so that they act."""
    teeth = ('"', "\\", "\u2028", "\u202e", "\u00e9", "<script>", "\u0430")
    async with besieged(tmp_path) as house:
        for tooth in teeth:
            for claim in ("sub", "aud", "jti", "iss"):
                text = f"{tooth}{{{{7*7}}}}${{jndi:x}}"
                token = house.cluster.mint(
                    house.cluster.claims(house.audience) | {claim: text * 20, f"x{tooth}": tooth}
                )
                await refused(house, exchange_form(token))
                await refused(house, assertion_form(token))
        for page in ("metrics", "readyz"):
            text = await house.gateway.get(f"{house.gateway.admin_url}/{page}")
            assert "jndi" not in text
            assert "<script>" not in text
        assert all(record["decision"] == "denied" for record in records(house))
        await still_serves(house)


# ---------------------------------------------------------------- the JSON suite, as payloads under a good signature


TOO_LARGE = ("token_too_large", "request_too_large")


def signed_by(key: SigningKey, payload: bytes) -> str:
    return key.sign({"alg": key.algorithm, "kid": key.key_id}, payload)


@needs_vectors
async def test_no_text_of_the_json_suite_is_a_payload(tmp_path: Path):
    async with besieged(tmp_path) as house:
        key = house.cluster.signing_key()
        for path in json_texts():
            token = signed_by(key, path.read_bytes())
            reason = (await refused(house, exchange_form(token)))[2]
            assert reason in {"malformed_claims", "malformed_token", "missing_claim", *TOO_LARGE}, path.name


@needs_vectors
async def test_a_text_of_the_json_suite_as_a_claim_is_refused_or_changes_nothing(tmp_path: Path):
    async with besieged(tmp_path) as house:
        key = house.cluster.signing_key()
        good = json.dumps(house.cluster.claims(house.audience)).encode()[:-1]
        for path in json_texts():
            status, body = await house.gateway.exchange(signed_by(key, good + b',"x":' + path.read_bytes() + b"}"))
            if path.name.startswith("n_"):
                assert body.get("reason") in {"malformed_claims", *TOO_LARGE}, path.name
            elif status == 200:
                assert body["scope"] == "ledger:read ledger:write", path.name
            else:
                assert body["reason"] in {"malformed_claims", *TOO_LARGE}, path.name
