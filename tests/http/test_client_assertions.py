"""Clients that authenticate with an assertion of their own (RFC 7523 §2.2, §3, rfc7523bis §4) or a workload token."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
import pytest
import yaml

from gateway.clock import SteadyClock
from gateway.standin.issuer import StandInIssuer, StandInServer
from gateway.standin.platforms import KUBERNETES
from tests.support.issuer_server import IssuerServer, issuer_server
from tests.support.running import ISSUER, RunningGateway, running, settings
from tests.support.tokens import ABSENT, SigningIssuer, public_jwk

JWT_BEARER = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
CLUSTER = "https://kubernetes.default.svc.cluster.local"


class Signer:
    """A client with a key of its own."""

    def __init__(self, client_id: str, algorithm: str = "ES256", number: int = 0) -> None:
        self.client_id = client_id
        self.signing = SigningIssuer(algorithm, number=number, url=client_id, kid=f"{client_id}-{number}")
        self._count = 0

    def assertion(self, *, header: dict[str, Any] | None = None, **changes: Any) -> str:
        self._count += 1
        now = SteadyClock()()
        claims = {"sub": self.client_id, "aud": ISSUER, "jti": f"{self.client_id}-{self._count}", "nbf": ABSENT}
        return self.signing.token({**claims, **changes}, header=header, now=now)


@dataclass(frozen=True)
class Place:
    gateway: RunningGateway
    cluster: StandInIssuer
    key_server: IssuerServer
    folder: Path


BATCH, REMOTE, OLD_STYLE, RSA = Signer("batch"), Signer("remote"), Signer("old-style", "RS256"), Signer("rsa", "RS256")
FORMER = Signer("batch", number=1)


def policies(cluster: StandInIssuer, key_server: IssuerServer) -> str:
    def account(name: str, keys: dict[str, Any], **more: Any) -> dict[str, Any]:
        access = [{"resource": "ledger-api", "scopes": ["ledger:read"]}]
        return {"kind": "ServiceAccount", "name": name, "access": access, "credentials": {"keys": keys}, **more}

    both = [one.signing.jwk() for one in (BATCH, FORMER)]
    documents = [
        {
            "kind": "Issuer", "name": "cluster", "preset": "kubernetes", "url": CLUSTER,
            "keys": {"discovery_url": cluster.discovery_url, "private_network": True},
        },
        {
            "kind": "Resource", "name": "ledger-api", "identifier": "https://ledger.example.com",
            "scopes": {"ledger:read": "Read"},
        },
        account("batch", {"jwks": {"keys": both}}),
        account("remote", {"jwks_uri": f"{key_server.base}/jwks", "private_network": True}),
        account("rsa", {"jwks": RSA.signing.jwks()}),
        account("old-style", {
            "jwks": OLD_STYLE.signing.jwks(), "algorithms": ["RS256"], "accept_token_endpoint_audience": True,
            "max_assertion_lifetime": "1h",
        }),
        {
            "kind": "ServiceAccount", "name": "pod",
            "access": [{"resource": "ledger-api", "scopes": ["ledger:read"]}],
            "trust": [{"issuer": "cluster", "match": {"sub": "system:serviceaccount:billing:invoicer"}}],
        },
    ]  # fmt: skip
    return yaml.safe_dump_all(documents)


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    cluster = StandInIssuer(KUBERNETES, clock=SteadyClock())
    async with StandInServer(cluster), issuer_server(REMOTE.signing) as key_server:
        (tmp_path / "policies").mkdir()
        (tmp_path / "policies" / "policies.yaml").write_text(policies(cluster, key_server))
        async with running(settings(tmp_path)) as gateway:
            yield Place(gateway, cluster, key_server, tmp_path)


async def ask(place: Place, assertion: str, **form: str) -> tuple[int, dict[str, Any]]:
    form = {"grant_type": "client_credentials", "client_assertion": assertion,
            "client_assertion_type": JWT_BEARER, **form}  # fmt: skip
    status, body, _ = await place.gateway.post(form)
    return status, body


async def refused(place: Place, assertion: str, **form: str) -> str:
    status, body = await ask(place, assertion, **form)
    assert status in {400, 401}
    assert body["error"] == "invalid_client"
    return body["reason"]


async def test_a_client_signs_its_own_assertion(place: Place):
    status, body = await ask(place, BATCH.assertion())
    assert (status, body["scope"]) == (200, "ledger:read")
    claims = jwt.decode(body["access_token"], options={"verify_signature": False})
    assert claims["sub"] == "batch"
    assert claims["entitled_by"] == "private_key_jwt/key:batch-0"


async def test_several_keys_at_once_are_the_overlap_of_a_rotation(place: Place):
    assert (await ask(place, BATCH.assertion()))[0] == 200
    assert (await ask(place, FORMER.assertion(jti="x")))[0] == 200


async def test_keys_may_be_fetched_from_the_client_and_a_new_one_is_seen(place: Place):
    assert (await ask(place, REMOTE.assertion()))[0] == 200
    fetched = place.key_server.fetches
    assert (await ask(place, REMOTE.assertion()))[0] == 200
    assert place.key_server.fetches == fetched


async def test_a_client_whose_keys_cannot_be_had_gets_503(place: Place):
    place.key_server.down = True
    status, body = await ask(place, REMOTE.assertion())
    assert (status, body["error"], body["reason"]) == (503, "temporarily_unavailable", "client_keys_unavailable")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"aud": "https://sts.example.com/token"}, "wrong_audience"),
        ({"aud": [ISSUER, "https://sts.example.com/token"]}, "wrong_audience"),
        ({"aud": [ISSUER, "https://else.example"]}, "wrong_audience"),
        ({"aud": [ISSUER, ISSUER]}, "wrong_audience"),
        ({"aud": f"{ISSUER}/"}, "wrong_audience"),
        ({"aud": ABSENT}, "missing_claim"),
        ({"sub": ABSENT}, "missing_claim"),
        ({"sub": "other"}, "invalid_claim"),
        ({"iss": "old-style"}, "client_authentication_failed"),
        ({"iss": "nobody", "sub": "nobody"}, "client_authentication_failed"),
        ({"iss": ABSENT}, "client_authentication_failed"),
        ({"jti": ABSENT}, "missing_claim"),
        ({"iat": ABSENT}, "missing_claim"),
        ({"exp": ABSENT}, "missing_claim"),
        ({"exp": lambda now: now - 300, "iat": lambda now: now - 500}, "token_expired"),
        ({"exp": lambda now: now + 3600}, "token_lifetime_too_long"),
        ({"nbf": lambda now: now + 200}, "token_not_yet_valid"),
    ],
)
async def test_rfc_7523_section_3_what_an_assertion_must_say(place: Place, changes: dict[str, Any], reason: str):
    now = int(SteadyClock()())
    changes = {name: value(now) if callable(value) else value for name, value in changes.items()}
    assert await refused(place, BATCH.assertion(**changes)) == reason


async def test_one_audience_in_an_array_is_our_issuer_alone(place: Place):
    assert (await ask(place, BATCH.assertion(aud=[ISSUER])))[0] == 200


async def test_rfc_7523bis_the_token_endpoint_as_audience_only_where_the_client_says_so(place: Place):
    now = int(SteadyClock()())
    changes = {"aud": "https://sts.example.com/token", "exp": now + 3600, "jti": "authlib"}
    assert (await ask(place, OLD_STYLE.assertion(header={"kid": ABSENT}, **changes)))[0] == 200


async def test_an_rs256_assertion_is_refused_unless_the_client_is_registered_for_it(place: Place):
    assert await refused(place, RSA.assertion()) == "client_authentication_failed"
    assert (await ask(place, OLD_STYLE.assertion()))[0] == 200


async def test_each_jti_works_once(place: Place):
    assertion = BATCH.assertion()
    assert (await ask(place, assertion))[0] == 200
    assert await refused(place, assertion) == "token_replayed"


async def test_a_refused_request_does_not_use_an_assertion_up(place: Place):
    assertion = BATCH.assertion()
    status, body = await ask(place, assertion, scope="ledger:write")
    assert (status, body["error"]) == (400, "invalid_scope")
    assert (await ask(place, assertion))[0] == 200


@pytest.mark.parametrize("typ", ["client-authentication+jwt", "application/client-authentication+jwt", "JWT", ABSENT])
async def test_the_type_of_an_assertion_may_be_absent(place: Place, typ: Any):
    assert (await ask(place, BATCH.assertion(header={"typ": typ})))[0] == 200


@pytest.mark.parametrize("typ", ["at+jwt", "dpop+jwt", "secevent+jwt"])
async def test_a_jwt_of_another_kind_is_no_assertion(place: Place, typ: str):
    assert await refused(place, BATCH.assertion(header={"typ": typ})) == "client_authentication_failed"


async def test_a_key_in_the_header_is_never_trusted(place: Place):
    mallory = Signer("batch", number=2)
    own = public_jwk(mallory.signing.key, kid="batch-0", use="sig", alg="ES256")
    assert await refused(place, mallory.assertion(header={"kid": "batch-0"})) == "client_authentication_failed"
    assert await refused(place, mallory.assertion(header={"jwk": own})) == "forbidden_header"
    assert await refused(place, mallory.assertion(header={"kid": ABSENT, "x5c": ["AAAA"]})) == (
        "client_authentication_failed"
    )


async def test_a_client_id_of_another_client_is_refused(place: Place):
    assert await refused(place, BATCH.assertion(), client_id="rsa") == "client_mismatch"
    assert (await ask(place, BATCH.assertion(), client_id="batch"))[0] == 200


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        ({"client_assertion": "a.b.c"}, "missing_parameter"),
        ({"client_assertion_type": JWT_BEARER}, "missing_parameter"),
        ({"client_assertion": "a.b.c", "client_assertion_type": "urn:x"}, "invalid_parameter"),
    ],
)
async def test_half_an_assertion_is_a_bad_request(place: Place, form: dict[str, str], reason: str):
    status, body, _ = await place.gateway.post({"grant_type": "client_credentials", **form})
    assert (status, body["error"], body["reason"]) == (400, "invalid_request", reason)


async def test_an_assertion_is_no_subject_token_and_no_grant_assertion(place: Place):
    status, body = await place.gateway.assertion(BATCH.assertion())
    assert (status, body["error"], body["reason"]) == (400, "invalid_grant", "unknown_issuer")
    status, body = await place.gateway.exchange(BATCH.assertion())
    assert (status, body["error"], body["reason"]) == (400, "invalid_request", "unknown_issuer")


async def test_an_access_token_of_ours_is_no_client_assertion(place: Place):
    _, body = await ask(place, BATCH.assertion())
    assert await refused(place, body["access_token"]) == "client_authentication_failed"


# ---------------------------------------------------------------- workload tokens as client assertions


async def test_a_workload_token_is_a_client_assertion_by_the_trust_rules(place: Place):
    status, body = await ask(place, place.cluster.token(ISSUER), client_id="pod")
    assert (status, body["scope"]) == (200, "ledger:read")
    claims = jwt.decode(body["access_token"], options={"verify_signature": False})
    assert claims["sub"] == "pod"
    assert claims["act"] == {"iss": CLUSTER, "sub": "system:serviceaccount:billing:invoicer"}
    assert claims["entitled_by"] == "cluster/rule-1"


async def test_a_pod_may_send_its_token_again(place: Place):
    token = place.cluster.token(ISSUER)
    assert [(await ask(place, token, client_id="pod"))[0] for _ in range(2)] == [200, 200]


@pytest.mark.parametrize(
    ("claims", "client_id", "reason"),
    [
        ({"sub": "system:serviceaccount:sandbox:invoicer"}, "pod", "no_matching_trust"),
        ({}, "batch", "no_matching_trust"),
        ({}, "nobody", "unknown_service_account"),
        ({"aud": "https://else.example"}, "pod", "wrong_audience"),
    ],
)
async def test_a_workload_that_is_not_that_client_is_invalid_client(
    place: Place, claims: dict[str, Any], client_id: str, reason: str
):
    token = place.cluster.mint({**place.cluster.claims(ISSUER), **claims})
    assert await refused(place, token, client_id=client_id) == reason


async def test_the_sdks_for_entra_find_their_route_and_their_default_scope(place: Place):
    form = {
        "grant_type": "client_credentials", "client_id": "pod", "client_assertion": place.cluster.token(ISSUER),
        "client_assertion_type": JWT_BEARER, "scope": "https://ledger.example.com/.default", "x-client-SKU": "x",
    }  # fmt: skip
    url = f"{place.gateway.url}/00000000-0000-0000-0000-000000000000/oauth2/v2.0/token?client-request-id=1"
    async with place.gateway.session.post(url, data=form) as answer:
        body = await answer.json()
    assert (answer.status, body["scope"]) == (200, "ledger:read")


async def test_a_one_time_workload_token_is_used_up_as_an_assertion_for_introspection_too(tmp_path: Path):
    cluster = StandInIssuer(KUBERNETES, clock=SteadyClock())
    async with StandInServer(cluster), issuer_server(REMOTE.signing) as key_server:
        (tmp_path / "policies").mkdir()
        text = policies(cluster, key_server).replace("preset: kubernetes", "preset: kubernetes\nreplay: reject")
        (tmp_path / "policies" / "policies.yaml").write_text(text)
        async with running(settings(tmp_path)) as gateway:
            form = {"token": "x", "client_assertion": cluster.token(ISSUER), "client_assertion_type": JWT_BEARER}
            answers = []
            for _ in range(2):
                async with gateway.session.post(f"{gateway.url}/introspect", data=form) as answer:
                    answers.append((answer.status, (await answer.json()).get("reason")))
            assert answers == [(200, None), (401, "token_replayed")]


async def test_a_jwt_svid_is_a_client_assertion_of_its_own_type(place: Place):
    spire = SigningIssuer("ES256", number=5, url="https://spire.example.com", kid="spire-1")
    text = yaml.safe_dump_all([
        {
            "kind": "Issuer", "name": "spire", "url": spire.url, "keys": {"jwks": spire.jwks()},
            "audiences": [ISSUER],
        },
        {
            "kind": "ServiceAccount", "name": "meshed",
            "access": [{"resource": "ledger-api", "scopes": ["ledger:read"]}],
            "trust": [{"issuer": "spire", "match": {"sub": "spiffe://example.com/ledger/reader"}}],
        },
    ])  # fmt: skip
    (place.folder / "policies" / "spire.yaml").write_text(text)
    await place.gateway.gateway.reload()
    svid = spire.token({"sub": "spiffe://example.com/ledger/reader", "aud": ISSUER}, now=SteadyClock()())
    spiffe = "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe"
    for _ in range(2):  # SVIDs are cached and sent again
        status, body = await ask(place, svid, client_assertion_type=spiffe)
        assert (status, body["scope"]) == (200, "ledger:read")
    assert await refused(place, BATCH.assertion(), client_assertion_type=spiffe) == "unknown_issuer"
