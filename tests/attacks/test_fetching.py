"""Issuers that answer something else, and documents that send the gateway elsewhere: it asks only whom it should."""

import asyncio
import gzip
import json
import os
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trustme
from aiohttp import web

from gateway.clock import SteadyClock
from gateway.identity.fetcher import FetchError, HttpFetcher
from gateway.identity.key_sources import loader_for
from gateway.model import KeySource
from gateway.standin.issuer import StandInIssuer, StandInServer
from gateway.standin.platforms import KUBERNETES
from tests.attacks.hostile import besieged, still_serves
from tests.support.house import House
from tests.support.issuer_server import IssuerServer, issuer_server
from tests.support.tokens import SigningIssuer
from tests.support.vectors import json_texts, needs_vectors


def issuer_document(name: str, keys: dict[str, Any]) -> str:
    return f"kind: Issuer\nname: {name}\nurl: https://{name}.example\nkeys: {json.dumps(keys)}\n"


async def state_of(house: House, name: str) -> dict[str, Any]:
    """What the gateway says of an issuer's keys, after one of its callers has asked: who gets 503, never 401 or 500."""
    token = SigningIssuer("RS256", url=f"https://{name}.example").token(now=house.gateway.gateway._clock())
    status, body = await house.gateway.exchange(token)
    assert (status, body["reason"]) == (503, "issuer_unavailable"), (name, body)
    assert body["error"] == "temporarily_unavailable"
    state: dict[str, Any] = json.loads(await house.gateway.get(f"{house.gateway.admin_url}/readyz"))["issuers"][name]
    return state


async def test_no_spelling_of_a_private_address_is_dialled(tmp_path: Path):
    contacts: list[bytes] = []

    async def contacted(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        contacts.append(b"!")
        writer.close()

    server = await asyncio.start_server(contacted, ["127.0.0.1", "::1"] if socket.has_ipv6 else ["127.0.0.1"])
    port = server.sockets[0].getsockname()[1]
    hosts = [
        "127.0.0.1", "127.1", "2130706433", "0x7f000001", "0x7f.1", "017700000001", "0177.0.0.1", "127.0.0.1.", "0",
        "localhost", "LOCALHOST", "localhost.", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::127.0.0.1]",
        "0.0.0.0", "[0:0:0:0:0:ffff:7f00:1]",
        "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "10.0.0.1", "169.254.169.254", "[fe80::1]", "[fd00::1]", "100.64.0.1",
        "224.0.0.1", "255.255.255.255", "[::ffff:169.254.169.254]",
    ]  # fmt: skip
    names = {f"case-{number}": host for number, host in enumerate(hosts)}
    policies = "---\n".join(
        issuer_document(name, {"jwks_uri": f"http://{host}:{port}/jwks"}) for name, host in names.items()
    )
    async with server, besieged(tmp_path, policies=policies) as house:
        states = dict(zip(hosts, await asyncio.gather(*(state_of(house, name) for name in names)), strict=True))
        assert {host: state["state"] for host, state in states.items()} == dict.fromkeys(hosts, "down")
        refused = {host: str(state["last_error"]).split(":")[0] for host, state in states.items()}
        assert set(refused.values()) <= {"forbidden_address", "url", "dns", "protocol"}, refused
        assert contacts == []
        await still_serves(house)


async def answer(request: web.Request) -> web.StreamResponse:
    """A hostile issuer: what is wrong is in the path."""
    case, document = request.match_info["case"], request.match_info["document"]
    here = f"http://{request.host}/{case}"
    if document == "discovery" and case.startswith("keys-"):
        return web.json_response({"issuer": f"https://{case}.example", "jwks_uri": f"{here}/jwks"})
    return await ANSWERS[case](request)


async def drip(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b" ")
        await asyncio.sleep(0.05)


async def without_end(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b" " * 65536)


def says(**answer: Any) -> Any:
    async def handler(_request: web.Request) -> web.Response:
        return web.Response(**answer)

    return handler


def discovers(case: str, **members: Any) -> Any:
    return says(text=json.dumps({"issuer": f"https://{case}.example"} | members), content_type="application/json")


ONE_KEY = SigningIssuer("RS256").jwk()
ANSWERS = {
    "another-issuer": discovers("good", jwks_uri="http://127.0.0.1:1/"),
    "issuer-with-slash": says(text='{"issuer": "https://issuer-with-slash.example/", "jwks_uri": "http://127.0.0.1:1/"}'),
    "issuer-twice": says(text='{"issuer": "https://x", "issuer": "https://issuer-twice.example", "jwks_uri": "http://127.0.0.1:1/"}'),
    "no-jwks-uri": discovers("no-jwks-uri"),
    "jwks-uri-list": discovers("jwks-uri-list", jwks_uri=["http://127.0.0.1:1/"]),
    "jwks-uri-file": discovers("jwks-uri-file", jwks_uri="file:///etc/passwd"),
    "jwks-uri-userinfo": discovers("jwks-uri-userinfo", jwks_uri="https://a:b@127.0.0.1/"),
    "jwks-uri-split": discovers("jwks-uri-split", jwks_uri="http://127.0.0.1:1/\r\nX: y"),
    "jwks-uri-long": discovers("jwks-uri-long", jwks_uri="http://127.0.0.1/" + "a" * 5000),
    "jwks-uri-port": discovers("jwks-uri-port", jwks_uri="http://127.0.0.1:99999/"),
    "redirect": says(status=302, headers={"Location": "http://169.254.169.254/latest/meta-data/"}),
    "redirect-home": says(status=307, headers={"Location": "/keys-good/jwks"}),
    "not-modified": says(status=304),
    "html": says(text="<html>", content_type="text/html"),
    "empty": says(body=b""),
    "teapot": says(status=418, text="{}"),
    "keys-empty": says(text='{"keys":[]}'),
    "keys-null": says(text='{"keys":null}'),
    "keys-object": says(text='{"keys":{"0":{}}}'),
    "keys-nested": says(body=b'{"keys":' + b"[" * 40_000 + b"]" * 40_000 + b"}"),
    "keys-thousand": says(text=json.dumps({"keys": [{}] * 10_000})),
    "keys-twice": says(text='{"keys":[],"keys":[]}'),
    "keys-utf16": says(body=json.dumps({"keys": [ONE_KEY]}).encode("utf-16")),
    "keys-large": says(body=b" " * 200_000),
    "keys-gzip": says(body=gzip.compress(b" " * 10_000_000), headers={"Content-Encoding": "gzip"}),
    "keys-deflate": says(body=b"x", headers={"Content-Encoding": "deflate"}),
    "keys-headers": says(text="{}", headers={f"X-{number}": "y" * 100 for number in range(200)}),
    "keys-drip": drip,
    "keys-endless": without_end,
    "keys-numbers": says(body=b'{"keys":[' + b"9" * 90_000 + b"]}"),
}  # fmt: skip


@asynccontextmanager
async def hostile_issuers() -> AsyncIterator[str]:
    application = web.Application()
    application.router.add_get("/{case}/{document}", answer)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def test_a_hostile_answer_is_a_failed_fetch_for_its_own_callers_alone(tmp_path: Path):
    async with hostile_issuers() as url:
        policies = "---\n".join(
            issuer_document(case, {"discovery_url": f"{url}/{case}/discovery", "private_network": True})
            for case in ANSWERS
        )
        async with besieged(tmp_path, policies=policies) as house:
            states = await asyncio.gather(*(state_of(house, case) for case in ANSWERS), still_serves(house))
            found = {case: state for case, state in zip(ANSWERS, states, strict=False) if state["state"] == "ok"}
            assert found == {}
            for case, state in zip(ANSWERS, states, strict=False):
                assert state["last_error"] is None or (
                    state["last_error"].isprintable() and len(state["last_error"]) <= 300
                ), case


async def test_a_key_server_with_a_certificate_of_somebody_else_is_not_believed(tmp_path: Path):
    ca, other_ca = trustme.CA(), trustme.CA()
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("127.0.0.1").configure_cert(tls)
    other_ca.cert_pem.write_to_path(str(tmp_path / "other.pem"))
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    cluster = StandInIssuer(KUBERNETES, clock=SteadyClock(), issuer="https://wrong-ca.example")
    async with StandInServer(cluster, tls=tls):
        policies = "---\n".join(
            issuer_document(name, {"jwks_uri": cluster.jwks_uri, "private_network": True} | ca_file)
            for name, ca_file in {
                "wrong-ca": {"ca_file": str(tmp_path / "other.pem")},
                "public-roots": {},
                "no-plain-file": {"ca_file": "/dev/null"},
            }.items()
        )
        async with besieged(tmp_path, policies=policies) as house:
            for name, outcome in (("wrong-ca", "tls"), ("public-roots", "tls"), ("no-plain-file", "credentials")):
                assert str((await state_of(house, name))["last_error"]).startswith(outcome)
            assert cluster.fetches["jwks"] == 0


async def test_a_file_that_is_no_plain_file_is_never_opened(tmp_path: Path):
    """To open a pipe is to wait for ever, and for the whole gateway where it happens at a reload."""
    os.mkfifo(tmp_path / "pipe")
    elsewhere = {"jwks_uri": "https://127.0.0.1:1/", "private_network": True}
    cases: dict[str, dict[str, Any]] = {}
    for kind, path in (
        ("pipe", tmp_path / "pipe"),
        ("folder", tmp_path),
        ("device", "/dev/zero"),
        ("none", "/nowhere"),
    ):
        cases[f"jwks-{kind}"] = {"jwks_file": str(path)}
        cases[f"ca-{kind}"] = elsewhere | {"ca_file": str(path)}
        cases[f"token-{kind}"] = elsewhere | {"bearer_token_file": str(path)}
    async with besieged(tmp_path) as house:
        documents = "---\n".join(issuer_document(name, keys) for name, keys in cases.items())
        (tmp_path / "policies" / "more.yaml").write_text(documents)
        async with asyncio.timeout(10):
            assert (await house.gateway.gateway.reload()).result == "loaded"
            states = dict(zip(cases, await asyncio.gather(*(state_of(house, name) for name in cases)), strict=True))
        outcomes = {name: str(state["last_error"]).split(":")[0] for name, state in states.items()}
        assert outcomes == {name: "connect" if name.startswith("jwks") else "credentials" for name in cases}
        await still_serves(house)


async def test_a_bearer_token_goes_where_the_operator_says_and_nowhere_else(tmp_path: Path):
    signer = SigningIssuer("RS256")
    (tmp_path / "token").write_text("the-gateways-own-token")
    async with issuer_server(signer) as configured, issuer_server(signer) as elsewhere:
        port = elsewhere.base.rpartition(":")[2]
        for target in (
            f"{elsewhere.base}/jwks", f"http://127.0.0.1:{port}/jwks", f"http://localhost:{port}/jwks",
            f"{elsewhere.base}/../jwks?{configured.base}",
        ):  # fmt: skip
            configured.discovery = {"jwks_uri": target}
            source = configured.source(
                discovery_url=f"{configured.base}/.well-known/openid-configuration",
                bearer_token_file=f"{tmp_path}/token",
            )
            await loader_for(signer.issuer(keys=source), HttpFetcher()).load()
        assert set(configured.authorization) == {"Bearer the-gateways-own-token"}
        assert set(elsewhere.authorization) == {None}


async def outcome_of(server: IssuerServer, signer: SigningIssuer, fetcher: HttpFetcher, keys: KeySource) -> str:
    try:
        await loader_for(signer.issuer(keys=keys), fetcher).load()
    except FetchError as error:
        return error.outcome
    return "ok"


@needs_vectors
async def test_no_text_of_the_json_suite_is_a_discovery_document_or_a_key_set(tmp_path: Path):
    signer, fetcher = SigningIssuer("ES256"), HttpFetcher()
    async with issuer_server(signer) as server:
        sources = (
            server.source(jwks_uri=f"{server.base}/jwks"),
            server.source(discovery_url=f"{server.base}/.well-known/openid-configuration"),
        )
        for path in json_texts():
            body = path.read_bytes()

            async def instead(_request: web.Request, body: bytes = body) -> web.Response:
                return web.Response(body=body)

            server.instead = instead
            for source in sources:
                found = await outcome_of(server, signer, fetcher, source)
                assert found == "too_large" if len(body) > 100 * 1024 else found == "content", path.name
