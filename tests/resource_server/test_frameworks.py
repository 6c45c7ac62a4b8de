"""One contract for every framework: the same API on aiohttp, Starlette, FastAPI and Flask, over real sockets."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from tests.resource_server.apis import FRAMEWORKS, OPTIONS, Framework, records
from tests.resource_server.minting import AUDIENCE, WORKLOAD, Mint, bound
from tests.resource_server.test_request import CLIENT as SUITE_CLIENT
from tests.resource_server.test_request import OPENID_SUITE
from tests.support.proofs import ProvingClient
from tests.support.tokens import NOW

CLIENT = ProvingClient()
ACT = json.dumps(WORKLOAD, separators=(",", ":"))
UNKNOWN = ("-", "-", "-")


class Api:
    """A running API as its clients see it."""

    def __init__(self, framework: Framework, base: str, mint: Mint, session: aiohttp.ClientSession) -> None:
        self.framework = framework
        self.base = base
        self.mint = mint
        self._session = session

    async def ask(
        self,
        token: str | None = None,
        *,
        method: str = "GET",
        path: str = "/entries",
        headers: Any = (),
        **options: Any,
    ) -> tuple[int, Any, Any]:
        """Status, body (JSON, or text where it is none) and headers."""
        sent = [*headers, *([("Authorization", f"Bearer {token}")] if token else [])]
        async with self._session.request(method, f"{self.base}{path}", headers=sent, **options) as answer:
            text = await answer.text()
            return answer.status, json.loads(text) if text[:1] == "{" else text, answer.headers

    async def prove(self, token: str, *proofs: str, **options: Any) -> tuple[int, Any, Any]:
        """A request under the scheme DPoP."""
        headers = [("Authorization", f"DPoP {token}"), *(("DPoP", proof) for proof in proofs)]
        return await self.ask(headers=headers, **options)


@pytest.fixture(params=FRAMEWORKS)
async def api(request: pytest.FixtureRequest) -> AsyncIterator[Api]:
    framework, mint = FRAMEWORKS[request.param], Mint()
    application = framework.application(mint.verifier(), **OPTIONS)
    async with framework.served(application) as base, aiohttp.ClientSession() as session:
        yield Api(framework, base, mint, session)


async def test_the_handler_gets_who_called(api: Api) -> None:
    status, body, _ = await api.ask(api.mint.token())
    assert status == 200
    assert body == {"client_id": "invoicer", "sub": "invoicer", "act": WORKLOAD, "scopes": ["ledger:read"]}


async def test_br_05_without_a_token_there_is_a_challenge(api: Api) -> None:
    status, body, headers = await api.ask()
    assert status == 401
    assert headers["WWW-Authenticate"].startswith(f'Bearer realm="{AUDIENCE}", DPoP ')
    assert headers["Content-Type"] == "application/json"
    assert headers["Cache-Control"] == "no-store"
    assert body == {"error_description": "An access token is needed."}


async def test_a_path_is_open_only_where_it_is_named_to_the_letter(api: Api) -> None:
    assert (await api.ask(path="/healthz"))[0] == 200
    for path in ("/healthz/", "/healthz//", "/healthz;x", "/HEALTHZ", "/healthz/../entries", "/nowhere", "/"):
        assert (await api.ask(path=path))[0] in {401, 308}, path


async def test_br_06_a_bad_token_is_401(api: Api) -> None:
    for token in ("nonsense", api.mint.token(exp=NOW - 60), api.mint.token(aud="x"), Mint().token()):
        status, body, headers = await api.ask(token)
        assert (status, body["error"]) == (401, "invalid_token")
        assert 'error="invalid_token"' in headers["WWW-Authenticate"]


async def test_br_02_two_methods_or_two_headers_are_400(api: Api) -> None:
    token = api.mint.token()
    twice = [("Authorization", f"Bearer {token}")] * 2
    assert (await api.ask(path=f"/entries?access_token={token}"))[0] == 400
    assert (await api.ask(token, path=f"/entries?access_token={token}"))[0] == 400
    status, body, _ = await api.ask(headers=twice)
    assert (status, body["error"]) == (400, "invalid_request")


async def test_br_06_a_scope_that_is_missing_is_403(api: Api) -> None:
    status, body, headers = await api.ask(api.mint.token(scope="other"))
    assert (status, body["error"]) == (403, "insufficient_scope")
    assert 'scope="ledger:read"' in headers["WWW-Authenticate"]


async def test_a_handler_asks_for_a_scope_of_its_own(api: Api) -> None:
    status, body, headers = await api.ask(api.mint.token(), method="POST")
    assert (status, body["error"]) == (403, "insufficient_scope")
    assert 'scope="ledger:write"' in headers["WWW-Authenticate"]
    status, body, _ = await api.ask(api.mint.token(scope="ledger:read ledger:write"), method="POST")
    assert (status, body["scopes"]) == (201, ["ledger:read", "ledger:write"])


async def test_a_head_request_is_refused_without_a_body_that_would_be_the_next_answer(api: Api) -> None:
    for _ in range(2):
        status, body, _ = await api.ask(method="HEAD")
        assert (status, body) == (401, "")
    assert (await api.ask(api.mint.token()))[0] == 200


async def test_while_the_gateway_is_away_the_answer_is_503(api: Api) -> None:
    api.mint.away = True
    status, body, headers = await api.ask(api.mint.token())
    assert (status, body["error"], headers["Retry-After"]) == (503, "temporarily_unavailable", "5")
    assert "WWW-Authenticate" not in headers


async def test_dp_16_a_bound_token_with_its_proof_opens_once(api: Api) -> None:
    token = bound(api.mint, CLIENT)
    proof = CLIENT.proof("GET", f"{AUDIENCE}/entries", access_token=token)
    assert (await api.prove(token, proof, path="/entries?page=2"))[0] == 200
    status, body, headers = await api.prove(token, proof)
    assert (status, body["error"]) == (401, "invalid_dpop_proof")
    assert "DPoP " in headers["WWW-Authenticate"]
    fresh = CLIENT.proof("GET", f"{AUDIENCE}/entries", access_token=token)
    assert (await api.prove(token, fresh))[0] == 200


async def test_openid_suite_14_every_bad_proof_is_refused(api: Api) -> None:
    """The signing key is another one than that of the suite's token, so the proofs are made anew where it counts."""
    token = bound(api.mint, SUITE_CLIENT)
    for name, proofs in OPENID_SUITE.items():
        status, body, _ = await api.prove(token, *proofs)
        assert (status, body["error"]) == (401, "invalid_dpop_proof"), name
    good = [SUITE_CLIENT.proof("GET", f"{AUDIENCE}/entries", access_token=token) for _ in range(4)]
    assert (await api.prove(token, *good[:2]))[0] == 401, "two good ones"
    assert (await api.ask(token, headers=[("DPoP", good[2])]))[0] == 401, "as Bearer"
    assert (await api.prove(api.mint.token(), good[2]))[0] == 401, "an unbound token"
    assert (await api.prove(token, good[3], method="POST"))[0] == 401, "another method"
    assert (await api.prove(token, good[3]))[0] == 200


# ------------------------------------------------------------ which machine did what


async def test_every_record_of_a_request_names_who_called(api: Api) -> None:
    with records() as kept:
        await api.ask(api.mint.token())
        async with asyncio.timeout(5):
            while not kept.of(api.framework.access_log):
                await asyncio.sleep(0.005)
    assert kept.of("ledger.entries") == [("invoicer", "invoicer", ACT)]
    assert kept.of(api.framework.access_log) == [("invoicer", "invoicer", ACT)], "the access log as well"


async def test_a_request_without_a_good_token_names_nobody(api: Api) -> None:
    with records() as kept:
        await api.ask(api.mint.token())
        await api.ask(path="/healthz")
        await api.ask("nonsense")
        async with asyncio.timeout(5):
            while len(kept.of(api.framework.access_log)) < 3:
                await asyncio.sleep(0.005)
        logging.getLogger("ledger").info("between requests")
    assert kept.of("ledger.entries") == [("invoicer", "invoicer", ACT), UNKNOWN]
    assert kept.of(api.framework.access_log)[1:] == [UNKNOWN, UNKNOWN]
    assert kept.of("ledger") == [UNKNOWN]


async def test_requests_at_once_are_told_apart(api: Api) -> None:
    names = [f"client-{number}" for number in range(20)]
    with records() as kept:
        answers = await asyncio.gather(*(api.ask(api.mint.token(sub=name, client_id=name)) for name in names))
    assert [body["client_id"] for _, body, _ in answers] == names
    assert sorted(client for client, _, _ in kept.of("ledger.entries")) == sorted(names)
