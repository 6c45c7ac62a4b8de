"""Random forms and tokens through the real parsing and verification: one kind of exception, and no yes by luck."""

import base64
import json
import random
from typing import Any
from urllib.parse import quote_plus

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.http.form import parse_form
from gateway.identity.verification import verify_compact
from gateway.jose.compact import parse_base64url
from gateway.jose.jwks import ALGORITHMS, parse_key_set
from gateway.jose.strict_json import parse_json_object
from gateway.model import GrantType, TokenRequest, Workload
from gateway.oauth.errors import Refusal, error_description
from gateway.oauth.parameters import KNOWN_PARAMETERS, parse_token_request
from gateway.policy.decision import decide
from gateway.policy.problems import PolicyProblems
from gateway.tokens.own_token import verify_own_token
from gateway.tokens.signing_key import SigningKey
from tests.attacks.hostile import DESCRIPTION
from tests.support.policies import BASE, generation_of
from tests.support.signing import signing_keys
from tests.support.tokens import AUDIENCE, NOW, SigningIssuer, base64url, compact

bounded = settings(max_examples=150, deadline=None, database=None, suppress_health_check=list(HealthCheck))

SIGNER = SigningIssuer("ES256", url="https://cluster.example.com", name="cluster")
TRUSTED = SIGNER.issuer()
KEYS = SIGNER.key_set
ACCOUNT = """
kind: ServiceAccount
name: reader
access: [{resource: ledger-api, scopes: [ledger:read]}]
trust:
  - issuer: cluster
    match: {sub: reader, nested: {number: 7, flag: true}}
    like: {ref: refs/heads/*}
    when: claims.team != "evil" && size(claims.groups) == 2
"""
GENERATION = generation_of(ACCOUNT)
GOOD = SIGNER.claims({
    "sub": "reader", "nested": {"number": 7, "flag": True}, "ref": "refs/heads/main", "team": "x", "groups": ["a", "b"],
})  # fmt: skip


def told(refusal: Refusal) -> str:
    """The reason of a refusal whose words fit into an answer."""
    assert DESCRIPTION.fullmatch(error_description(refusal.public)), refusal.public
    return refusal.reason.code


def verified(token: str) -> Workload | str:
    """The workload, or the reason why there is none. Any exception but ``Refusal`` is a finding."""
    try:
        return verify_compact(token, TRUSTED, KEYS, NOW)
    except Refusal as refusal:
        return told(refusal)


def granted(workload: Workload) -> bool:
    request = TokenRequest(GrantType.TOKEN_EXCHANGE, "", "")
    return decide(GENERATION, workload, request).entitlement is not None


def may_be_granted(claims: dict[str, Any]) -> bool:
    """The rule once more, written down by somebody else."""
    nested, ref, groups = claims.get("nested"), claims.get("ref"), claims.get("groups")
    audiences = claims.get("aud") if isinstance(claims.get("aud"), list) else [claims.get("aud")]
    return (
        claims.get("iss") == "https://cluster.example.com"
        and claims.get("sub") == "reader"
        and set(map(repr, audiences or [0])) == {repr(AUDIENCE)}
        and isinstance(nested, dict)
        and repr(nested.get("number")) == "7"
        and nested.get("flag") is True
        and isinstance(ref, str)
        and ref.startswith("refs/heads/")
        and not set("/:") & set(ref.removeprefix("refs/heads/"))
        and claims.get("team") not in (None, "evil")
        and isinstance(groups, list | str | dict)
        and all(type(claims.get(name)) is int for name in ("exp", "iat"))
        and claims["exp"] + 30 > NOW >= claims["iat"] - 30
    )


def test_the_good_token_is_good():
    workload = verified(SIGNER.token(json.dumps(GOOD).encode()))
    assert isinstance(workload, Workload)
    assert granted(workload)


# ---------------------------------------------------------------- mutations of the text


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Some bytes changed, cut, doubled or moved."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(changed) + 1)
        match chance.randrange(6):
            case 0:
                changed[place : place + 1] = bytes([chance.randrange(256)])
            case 1:
                del changed[place : place + chance.randint(1, 8)]
            case 2:
                changed[place:place] = changed[place : place + chance.randint(1, 64)]
            case 3:
                changed[place:place] = chance.choice(TOKENS)
            case 4:
                flipped = changed[place : place + 1] or b"\0"
                changed[place : place + 1] = bytes([flipped[0] ^ (1 << chance.randrange(8))])
            case 5:
                other = chance.randrange(len(changed) + 1)
                changed[place:place] = changed[min(place, other) : max(place, other)][:200]
    return bytes(changed)


TOKENS = (
    b'"', b"\\", b"{", b"}", b"[", b"]", b":", b",", b"\\u0000", b"\\ud800", b"\\u0022", b"NaN", b"1e9", b"-0", b"null",
    b"true", b".", b"=", b"\0", b"\n", b"\xff", b"\xef\xbb\xbf", b'"sub":"reader",', b'"exp":9999999999,',
    b'"alg":"none",', b"&", b"%00", b"%", b"+", b"%26", b"9" * 30,
)  # fmt: skip


@pytest.mark.parametrize("seed", range(4))
def test_no_change_to_a_signed_token_passes(seed: int):
    chance = random.Random(seed)
    token = SIGNER.token(json.dumps(GOOD).encode())
    for _ in range(400):
        text = mutated(token.encode(), chance).decode("latin-1")
        if text != token:
            assert isinstance(verified(text), str), text


@pytest.mark.parametrize("seed", range(4))
def test_what_a_trusted_issuer_signs_is_granted_only_as_the_rule_says(seed: int):
    chance = random.Random(seed)
    good = json.dumps(GOOD, separators=(",", ":")).encode()
    for _ in range(300):
        payload = mutated(good, chance)
        workload = verified(SIGNER.token(payload))
        if isinstance(workload, Workload):
            assert workload.claims == json.loads(payload), payload
            assert not granted(workload) or may_be_granted(json.loads(payload)), payload


@pytest.mark.parametrize("seed", range(4))
def test_a_mutated_header_changes_nothing_or_refuses(seed: int):
    chance = random.Random(seed)
    good = json.dumps({"alg": "ES256", "kid": SIGNER.kid, "typ": "JWT"}).encode()
    for _ in range(300):
        header = mutated(good, chance)
        workload = verified(compact(header, GOOD, "ES256", SIGNER.key))
        if isinstance(workload, Workload):
            read = json.loads(header)
            assert (read["alg"], read["kid"]) == ("ES256", SIGNER.kid), header
            assert read.get("typ", "JWT").lower() in {"jwt", "application/jwt"}, header
            assert not {"crit", "b64", "jku", "jwk", "x5u", "zip", "cty"} & read.keys(), header


@pytest.mark.parametrize("seed", range(2))
def test_no_change_to_a_token_of_our_own_passes(seed: int):
    chance = random.Random(seed)
    key = SigningKey.generate("ES256", NOW)
    keys = signing_keys([key])
    claims = {
        "iss": AUDIENCE,
        "sub": "a",
        "client_id": "a",
        "aud": "b",
        "iat": NOW,
        "nbf": NOW - 5,
        "exp": NOW + 60,
        "jti": "j",
        "act": {},
        "entitled_by": "cluster/pod",
    }
    token = key.sign(json.dumps(claims).encode())
    assert verify_own_token(token, keys, AUDIENCE, NOW).service_account == "a"
    for _ in range(400):
        text = mutated(token.encode(), chance).decode("latin-1")
        if text != token:
            with pytest.raises(Refusal):
                verify_own_token(text, keys, AUDIENCE, NOW)


@pytest.mark.parametrize("seed", range(4))
def test_a_mutated_form_is_read_or_refused(seed: int):
    chance = random.Random(seed)
    good = "&".join(
        f"{name}={quote_plus(value)}"
        for name, value in {
            "grant_type": GrantType.TOKEN_EXCHANGE.value, "subject_token": SIGNER.token(), "client_id": "reader",
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt", "scope": "a b", "resource": "https://a.example",
            "requested_expires_in": "60",
        }.items()
    ).encode()  # fmt: skip
    for _ in range(400):
        try:
            asked = parse_token_request(parse_form(mutated(good, chance)))
        except Refusal as refusal:
            told(refusal)
            continue
        assert asked.lifetime_seconds is None or 1 <= asked.lifetime_seconds < 10**9
        assert asked.client_id is None or asked.client_id.isprintable()
        assert len(asked.scopes or ()) <= 64


@pytest.mark.parametrize("seed", range(2))
def test_a_mutated_key_set_is_read_or_refused(seed: int):
    chance = random.Random(seed)
    good = json.dumps(SIGNER.jwks(SigningIssuer("EdDSA").jwk(), SigningIssuer("RS256").jwk())).encode()
    for _ in range(200):
        document = mutated(good, chance)
        try:
            keys = parse_key_set(document, algorithms=ALGORITHMS)
        except ValueError:
            continue
        assert all(key.algorithms <= ALGORITHMS for key in keys.keys)


# ---------------------------------------------------------------- made up from nothing

scalars = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text(max_size=20)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
names = st.sampled_from(sorted(GOOD)) | st.text(max_size=10)


@bounded
@given(st.dictionaries(names, values | st.sampled_from(list(GOOD.values())), max_size=6))
def test_random_claims_are_granted_only_as_the_rule_says(changes: dict[str, Any]):
    claims = GOOD | changes
    payload = json.dumps(claims).encode()
    if len(payload) > 10_000:
        return
    workload = verified(SIGNER.token(payload))
    if isinstance(workload, Workload) and granted(workload):
        assert may_be_granted(claims)


@bounded
@given(st.text() | st.binary().map(lambda data: data.decode("latin-1")))
def test_any_text_is_a_token_or_refused(text: str):
    assert isinstance(verified(text), str)


@bounded
@given(st.binary(max_size=400), st.binary(max_size=400), st.binary(max_size=80))
def test_any_three_segments_are_refused(header: bytes, payload: bytes, signature: bytes):
    assert isinstance(verified(".".join(map(base64url, (header, payload, signature)))), str)


@bounded
@given(st.binary(max_size=2000))
def test_any_body_is_a_form_or_refused(body: bytes):
    try:
        parse_token_request(parse_form(body))
    except Refusal as refusal:
        told(refusal)


@bounded
@given(
    st.lists(
        st.tuples(st.sampled_from(sorted(KNOWN_PARAMETERS)) | st.text(max_size=5), st.text(max_size=50)), max_size=20
    )
)
def test_any_parameters_are_a_request_or_refused(pairs: list[tuple[str, str]]):
    try:
        parse_token_request(pairs)
    except Refusal as refusal:
        told(refusal)


@bounded
@given(st.binary(max_size=300))
def test_json_is_read_as_the_standard_library_reads_it_or_refused(data: bytes):
    try:
        value = parse_json_object(data)
    except ValueError:
        return
    assert value == json.loads(data)


@bounded
@given(values)
def test_plain_json_and_spaced_json_mean_the_same(value: Any):
    """The short way and the long way through the parser agree on everything, refusals included."""

    def read(text: str) -> Any:
        try:
            return parse_json_object(text.encode())
        except ValueError:
            return None

    document = {"x": value}
    plain = read(
        json.dumps(document, separators=(",", ":"), ensure_ascii=False, skipkeys=True)
        .encode("utf-8", "replace")
        .decode()
    )
    spaced = read(json.dumps(document, ensure_ascii=False).encode("utf-8", "replace").decode())
    assert plain == spaced


@bounded
@given(st.text(st.sampled_from("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"), max_size=40))
def test_base64url_has_one_spelling_for_each_value(segment: str):
    try:
        data = parse_base64url(segment)
    except Refusal:
        return
    assert base64.urlsafe_b64encode(data).rstrip(b"=").decode() == segment


# ---------------------------------------------------------------- policy files

POLICIES = (BASE + "---" + ACCOUNT).encode()
PIECES = (
    b"&a ", b"*a", b"!!python/name:os ", b"<<: ", b"- ", b"\n", b"  ", b"{", b"}", b"[", b"]", b"---\n", b": ", b"null",
    b"~", b"0x1", b".inf", b"'", b'"', b"|\n", b">-\n", b"? ", b"\t", b"**", b"***", b"24h", b"match: {}\n",
    b"when: claims.a == 1\n", b"kind: Guardrail\n", b"%TAG ! x\n", b"%YAML 1.2\n", b"nullable", b"function-", b"x[",
    b"\xc2\x9b", b"\xe2\x80\xae",
)  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
def test_a_mutated_policy_file_loads_or_says_what_is_wrong(seed: int):
    chance = random.Random(seed)
    for _ in range(200):
        text = mutated(POLICIES, chance)
        for _ in range(chance.randrange(3)):
            place = chance.randrange(len(text) + 1)
            text = text[:place] + chance.choice(PIECES) + text[place:]
        assert all(said.isprintable() for said in problems_of(text)), text


def problems_of(text: bytes) -> list[str]:
    try:
        generation_of(text.decode("utf-8", "replace"), base="")
    except PolicyProblems as found:
        return list(map(str, found.problems))
    return []
