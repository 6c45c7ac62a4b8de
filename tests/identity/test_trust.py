import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from gateway.identity.fetcher import HttpFetcher
from gateway.identity.issuer_keys import Pace
from gateway.identity.presets import kubernetes
from gateway.identity.trust import TrustStore
from gateway.model import KeySource, TrustedIssuer, Workload
from gateway.oauth.errors import Refusal
from tests.support.issuer_server import issuer_server
from tests.support.time import HandClock
from tests.support.tokens import ABSENT, NOW, SigningIssuer, private_key

SIGNER = SigningIssuer("ES256")
OTHER = SigningIssuer("ES256", number=1, name="other", url="https://other.example")
NEXT = SigningIssuer("ES256", number=2)


@asynccontextmanager
async def trusting(
    *issuers: TrustedIssuer, clock: HandClock | None = None, **options: Any
) -> AsyncIterator[TrustStore]:
    clock = clock or HandClock()
    options = {"pace": Pace(wait_seconds=5), "sleep": clock.sleep, "jitter": lambda: 0.5} | options
    store = TrustStore(HttpFetcher(total_seconds=2), clock=clock, **options)
    await store.start(issuers)
    try:
        yield store
    finally:
        await store.close()


async def refusal(store: TrustStore, token: str) -> Refusal:
    with pytest.raises(Refusal) as refused:
        await store.authenticate(token)
    return refused.value


async def code(store: TrustStore, token: str) -> str:
    return (await refusal(store, token)).reason.code


def at_once(coroutine: Coroutine[Any, Any, Workload]) -> Workload:
    """What a coroutine returns without ever giving way to another task."""
    with pytest.raises(StopIteration) as stopped:
        coroutine.send(None)
    workload = stopped.value.value
    assert isinstance(workload, Workload)
    return workload


# ------------------------------------------------------------ whose token it is


async def test_a_token_of_a_trusted_issuer_proves_its_workload() -> None:
    async with trusting(SIGNER.issuer(), OTHER.issuer()) as store:
        assert (await store.authenticate(SIGNER.token())).issuer.name == "issuer"
        assert (await store.authenticate(OTHER.token())).issuer.name == "other"


@pytest.mark.parametrize(
    "iss",
    ["https://unknown.example", "https://issuer.example/", "https://ISSUER.example", "https://issuer.example:443"],
)
async def test_a_token_of_an_unknown_issuer_causes_no_fetch(iss: str) -> None:
    """RFC 8725 §3.10; CVE-2025-52477, CVE-2026-22772."""
    async with issuer_server(SIGNER) as server, trusting(server.issuer()) as store:
        refused = await refusal(store, SIGNER.token({"iss": iss}))
        assert refused.reason.code == "unknown_issuer"
        assert iss not in refused.public
        assert await code(store, SIGNER.token({"iss": server.base})) == "unknown_issuer"
        await store.authenticate(SIGNER.token())
        assert server.fetches == 1


@pytest.mark.parametrize(("iss", "expected"), [(ABSENT, "missing_claim"), (None, "missing_claim")])
@pytest.mark.parametrize("more", [{}, {"sub": "spiffe://example/x"}])
async def test_a_token_without_issuer_is_refused(iss: Any, expected: str, more: dict[str, Any]) -> None:
    async with trusting(SIGNER.issuer()) as store:
        assert await code(store, SIGNER.token({"iss": iss} | more)) == expected


@pytest.mark.parametrize("iss", [1, True, [], ["https://issuer.example"], {}])
async def test_an_issuer_that_is_no_string_is_refused(iss: Any) -> None:
    async with trusting(SIGNER.issuer()) as store:
        assert await code(store, SIGNER.token({"iss": iss})) == "invalid_claim"


async def test_the_key_of_one_issuer_signs_for_no_other() -> None:
    """RFC 8725 §3.8."""
    async with trusting(SIGNER.issuer(), OTHER.issuer()) as store:
        assert await code(store, SIGNER.token({"iss": OTHER.url})) == "unknown_key"
        assert await code(store, SIGNER.token({"iss": OTHER.url}, header={"kid": OTHER.kid})) == "bad_signature"


@pytest.mark.parametrize("text", ["", "x", "a.b.c", "a" * 20_000, "\udc80.a.b", '{"payload":""}'])
async def test_what_is_no_token_is_refused(text: str) -> None:
    async with trusting(SIGNER.issuer()) as store:
        assert (await refusal(store, text)).reason.stage == "malformed"


async def test_issuers_are_found_by_their_exact_url() -> None:
    async with trusting(SIGNER.issuer(), OTHER.issuer(url=SIGNER.url)) as store:
        assert [issuer.name for issuer in store.issuers_named(SIGNER.url)] == ["issuer", "other"]
        assert store.issuers_named(f"{SIGNER.url}/") == ()


# ------------------------------------------------------------ several clusters with one url

NORTH = SigningIssuer("ES256", number=3, name="north", url="https://kubernetes.default.svc")
SOUTH = SigningIssuer("ES256", number=4, name="south", url="https://kubernetes.default.svc")


async def test_the_key_tells_clusters_with_one_url_apart() -> None:
    async with trusting(NORTH.issuer(), SOUTH.issuer()) as store:
        assert (await store.authenticate(NORTH.token())).issuer.name == "north"
        assert (await store.authenticate(SOUTH.token())).issuer.name == "south"


async def test_the_key_tells_clusters_apart_though_their_kids_are_the_same() -> None:
    same = {"kid": "key-1"}
    north = NORTH.issuer(keys=KeySource(jwks={"keys": [NORTH.jwk(**same)]}))
    south = SOUTH.issuer(keys=KeySource(jwks={"keys": [SOUTH.jwk(**same)]}))
    async with trusting(north, south) as store:
        assert (await store.authenticate(NORTH.token(header=same))).issuer.name == "north"
        assert (await store.authenticate(SOUTH.token(header=same))).issuer.name == "south"
        assert await code(store, NORTH.token(header=same, key=private_key("ES256", 9))) == "bad_signature"


async def test_a_token_that_one_cluster_signed_is_not_tried_with_the_others_rules() -> None:
    strict = NORTH.issuer(audiences=frozenset({"elsewhere"}))
    lenient = replace(strict, name="lenient", audiences=SIGNER.issuer().audiences)
    async with trusting(strict, lenient) as store:
        refused = await refusal(store, NORTH.token())
        assert refused.reason.code == "wrong_audience"
        assert refused.issuer == strict


async def test_a_cluster_that_is_down_harms_its_own_callers_alone() -> None:
    async with issuer_server(SOUTH) as server:
        server.down = True
        async with trusting(NORTH.issuer(), server.issuer()) as store:
            assert (await store.authenticate(NORTH.token())).issuer.name == "north"
            refused = await refusal(store, SOUTH.token())
            assert (refused.reason.code, refused.reason.status) == ("issuer_unavailable", 503)


async def test_an_unknown_key_is_looked_for_in_every_cluster_of_that_url_and_in_no_other() -> None:
    clock = HandClock()
    async with issuer_server(NORTH) as north, issuer_server(SOUTH) as south, issuer_server(OTHER) as other:
        issuers = (north.issuer(), south.issuer(), other.issuer())
        async with trusting(*issuers, clock=clock) as store:
            await clock.until_sleeping(3)
            clock.now += 10
            south.jwks = SOUTH.jwks(NEXT.jwk())
            workload = await store.authenticate(NEXT.token({"iss": SOUTH.url}))
            assert workload.issuer.name == "south"
            assert (north.fetches, south.fetches, other.fetches) == (2, 2, 1)


# ------------------------------------------------------------ keys that are not at hand


async def test_a_rotated_key_is_fetched_when_its_first_token_arrives() -> None:
    clock = HandClock()
    async with issuer_server(SIGNER) as server, trusting(server.issuer(discovery=True), clock=clock) as store:
        await clock.until_sleeping()
        clock.now += 10
        server.jwks = NEXT.jwks()
        assert (await store.authenticate(NEXT.token())).key_id == NEXT.kid
        assert await code(store, SIGNER.token()) == "unknown_key"


async def test_a_kid_that_was_given_to_a_new_key_is_fetched_when_a_signature_fails() -> None:
    """As Jenkins does, whose kid is the name of a credential."""
    clock = HandClock()
    async with issuer_server(SIGNER) as server, trusting(server.issuer(), clock=clock) as store:
        await clock.until_sleeping()
        clock.now += 10
        server.jwks = {"keys": [NEXT.jwk(kid=SIGNER.kid)]}
        assert (await store.authenticate(NEXT.token(header={"kid": SIGNER.kid}))).subject == "workload"


async def test_an_unknown_key_of_a_healthy_issuer_is_the_tokens_fault() -> None:
    clock = HandClock()
    async with issuer_server(SIGNER) as server, trusting(server.issuer(), clock=clock) as store:
        await clock.until_sleeping()
        for seconds in (0, 10):
            clock.now += seconds
            refused = await refusal(store, NEXT.token())
            assert (refused.reason.code, refused.reason.status) == ("unknown_key", 400)
            assert refused.issuer is not None


async def test_an_unknown_key_of_a_failing_issuer_is_not_the_tokens_fault() -> None:
    clock = HandClock()
    async with issuer_server(SIGNER) as server, trusting(server.issuer(), clock=clock) as store:
        await clock.until_sleeping()
        server.down = True
        clock.now += 10
        for _ in range(2):
            refused = await refusal(store, NEXT.token())
            assert (refused.reason.code, refused.reason.status) == ("issuer_unavailable", 503)
            assert refused.reason.retry_after_seconds
        assert (await store.authenticate(SIGNER.token())).subject == "workload"


async def test_a_bad_signature_stays_one_while_the_issuer_fails() -> None:
    clock = HandClock()
    async with issuer_server(SIGNER) as server, trusting(server.issuer(), clock=clock) as store:
        await clock.until_sleeping()
        server.down = True
        clock.now += 10
        assert await code(store, SIGNER.token(key=private_key("ES256", 9))) == "bad_signature"


async def test_known_keys_verify_through_an_outage_until_they_are_too_old() -> None:
    clock = HandClock()
    async with (
        issuer_server(SIGNER) as server,
        trusting(server.issuer(keys=server.source(max_age_seconds=7200)), clock=clock) as store,
    ):
        await clock.until_sleeping()
        server.down = True
        await clock.advance(7000)
        assert await store.authenticate(SIGNER.token(now=clock()))
        await clock.advance(300)
        assert await code(store, SIGNER.token(now=clock())) == "issuer_unavailable"


async def test_the_first_token_waits_for_the_first_fetch() -> None:
    async with issuer_server(SIGNER) as server, trusting(server.issuer()) as store:
        assert (await store.authenticate(SIGNER.token())).subject == "workload"


async def test_a_dead_issuer_delays_neither_start_nor_the_others() -> None:
    async with issuer_server(OTHER) as server:
        hanging = asyncio.Event()

        async def hang(_: Any) -> Any:
            await hanging.wait()

        server.instead = hang
        async with asyncio.timeout(2):
            async with trusting(server.issuer(), SIGNER.issuer(), pace=Pace(wait_seconds=0.01)) as store:
                assert at_once(store.authenticate(SIGNER.token())).subject == "workload"
                assert await code(store, OTHER.token()) == "issuer_unavailable"
                hanging.set()


async def test_ten_thousand_unknown_keys_in_a_second_are_one_fetch_and_harm_no_known_key() -> None:
    clock = HandClock()
    async with issuer_server(SIGNER) as server, trusting(server.issuer(), OTHER.issuer(), clock=clock) as store:
        await clock.until_sleeping()
        clock.now += 10
        token = SIGNER.token(header={"kid": "unknown"})
        header, rest = token.split(".", 1)
        tokens = [SIGNER.token(header={"kid": f"unknown-{number}"}).split(".", 1)[0] for number in range(1000)]
        flood = [f"{unknown}.{rest}" for unknown in tokens] + [f"{header}.{rest}"] * 9000

        async def attempt(text: str) -> str:
            return await code(store, text)

        codes = await asyncio.gather(*map(attempt, flood))
        # Whoever finds no place to wait for the one fetch is told to come again.
        assert set(codes) == {"unknown_key", "issuer_unavailable"}
        assert server.fetches == 2
        assert at_once(store.authenticate(SIGNER.token())).subject == "workload"
        assert at_once(store.authenticate(OTHER.token())).subject == "workload"


async def test_bad_signatures_under_a_known_key_are_one_fetch_per_cooldown() -> None:
    clock = HandClock()
    async with issuer_server(SIGNER) as server, trusting(server.issuer(), clock=clock) as store:
        await clock.until_sleeping()
        forged = SIGNER.token(key=private_key("ES256", 9))
        for _ in range(20):
            clock.now += 1
            assert await code(store, forged) == "bad_signature"
        assert server.fetches == 2


@pytest.mark.parametrize("header", [{"typ": "at+jwt"}, {"alg": "RS256"}, {"alg": "none"}, {"kid": ABSENT}])
async def test_a_token_that_no_key_could_help_causes_no_fetch(header: dict[str, Any]) -> None:
    clock = HandClock()
    async with issuer_server(SIGNER) as server, trusting(server.issuer(), clock=clock) as store:
        await clock.until_sleeping()
        clock.now += 10
        await refusal(store, SIGNER.token(header=header))
        assert server.fetches == 1


# ------------------------------------------------------------ tokens that come again


async def test_verification_gives_way_to_no_other_task_while_keys_are_at_hand() -> None:
    async with trusting(SIGNER.issuer()) as store:
        token = SIGNER.token()
        first, second, third = (at_once(store.authenticate(token)) for _ in range(3))
        assert first is not second, "a token that comes but once is not worth keeping"
        assert second is third


async def remembered(store: TrustStore, token: str) -> None:
    """Presents a token until it is remembered."""
    for _ in range(2):
        await store.authenticate(token)
    assert store._remembered


async def test_a_remembered_token_is_refused_when_its_time_is_over() -> None:
    clock = HandClock()
    async with trusting(SIGNER.issuer(), clock=clock) as store:
        token = SIGNER.token()
        await remembered(store, token)
        clock.now += 329
        assert await store.authenticate(token)
        clock.now += 1
        refused = await refusal(store, token)
        assert refused.public == "The token expired 30 seconds ago."
        assert refused.claims is not None


async def test_a_remembered_token_is_refused_when_it_is_too_old() -> None:
    clock = HandClock()
    async with trusting(SIGNER.issuer(max_token_age_seconds=60), clock=clock) as store:
        token = SIGNER.token()
        await remembered(store, token)
        clock.now += 91
        assert await code(store, token) == "token_too_old"


async def test_a_remembered_token_is_refused_when_its_key_was_removed() -> None:
    clock = HandClock()
    async with issuer_server(SIGNER) as server, trusting(server.issuer(), clock=clock) as store:
        await clock.until_sleeping()
        token = SIGNER.token({"exp": NOW + 3600})
        await remembered(store, token)
        server.jwks = NEXT.jwks()
        await clock.advance(300)
        assert await code(store, token) == "unknown_key"


async def test_a_remembered_token_is_refused_when_its_issuer_is_configured_otherwise() -> None:
    async with trusting(SIGNER.issuer()) as store:
        token = SIGNER.token()
        await remembered(store, token)
        await store.reconfigure([SIGNER.issuer(audiences=frozenset({"elsewhere"}))])
        assert await code(store, token) == "wrong_audience"
        await store.reconfigure([])
        assert await code(store, token) == "unknown_issuer"


async def test_a_refused_token_is_never_remembered() -> None:
    async with trusting(SIGNER.issuer()) as store:
        for _ in range(3):
            assert await code(store, SIGNER.token({"aud": "elsewhere"})) == "wrong_audience"
        assert not store._remembered


async def test_a_token_that_works_once_is_not_remembered() -> None:
    async with trusting(SIGNER.issuer(replay="reject")) as store:
        token = SIGNER.token()
        for _ in range(3):
            await store.authenticate(token)
        assert not store._remembered


async def test_no_more_tokens_are_remembered_than_allowed_and_no_large_ones() -> None:
    async with trusting(SIGNER.issuer(), remembered_workloads=2) as store:
        for number in range(4):
            await remembered(store, SIGNER.token({"jti": str(number)}))
        assert len(store._remembered) == 2
        large = SIGNER.token({"x": "y" * 5000})
        for _ in range(3):
            await store.authenticate(large)
        assert sorted(one.workload.token_id for one in store._remembered.values()) == ["2", "3"]


# ------------------------------------------------------------ configuration


def names(store: TrustStore) -> Iterable[str]:
    return store.keys_by_name().keys()


async def test_keys_are_kept_over_a_change_that_does_not_concern_them() -> None:
    async with issuer_server(SIGNER) as server, trusting(server.issuer()) as store:
        await store.authenticate(SIGNER.token())
        before = store.keys_by_name()["issuer"]
        server.down = True
        await store.reconfigure([server.issuer(audiences=frozenset({"elsewhere"})), OTHER.issuer()])
        assert store.keys_by_name()["issuer"] is before
        assert list(names(store)) == ["issuer", "other"]
        assert await code(store, SIGNER.token()) == "wrong_audience"
        assert server.fetches == 1


@pytest.mark.parametrize("change", [{"url": "https://moved.example"}, {"algorithms": frozenset({"ES256", "RS256"})}])
async def test_keys_are_fetched_anew_when_what_they_depend_on_changes(change: dict[str, Any]) -> None:
    async with issuer_server(SIGNER) as server, trusting(server.issuer()) as store:
        before = store.keys_by_name()["issuer"]
        await store.reconfigure([server.issuer(**change)])
        assert store.keys_by_name()["issuer"] is not before


async def test_an_issuer_that_is_gone_is_asked_no_more() -> None:
    clock = HandClock()
    async with issuer_server(SIGNER) as server, trusting(server.issuer(), clock=clock) as store:
        await clock.until_sleeping()
        await store.reconfigure([])
        clock.now += 1000
        assert list(names(store)) == []
        await asyncio.gather(*store._retiring)
        assert clock._count() == 0


async def test_claims_that_a_preset_does_not_know_are_counted_and_named_once(caplog: pytest.LogCaptureFixture) -> None:
    signer = SigningIssuer("ES256", preset=kubernetes.PRESET)
    nested = {"namespace": "a", "serviceaccount": {"name": "b", "uid": "c"}}
    claims = {"sub": "system:serviceaccount:a:b", "kubernetes.io": nested, "novel": 1, "strange": 1}
    async with trusting(signer.issuer()) as store:
        for number in range(3):
            await store.authenticate(signer.token(claims | {"jti": str(number)}))
        assert store.unaccounted_claims() == {"issuer": 6}
    assert caplog.text.count("'novel'") == 1
