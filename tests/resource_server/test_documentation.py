"""The APIs that README.md shows are run as they stand there, on real servers."""

import re
import time
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from flask import Flask

from gateway.resource_server import verifier
from tests.docs.markdown import ROOT
from tests.resource_server.apis import on_aiohttp, on_uvicorn, on_werkzeug
from tests.resource_server.minting import Mint

_PYTHON = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)

EXAMPLES = [code for code in _PYTHON.findall((ROOT / "README.md").read_text()) if "gateway.resource_server" in code]


def server_of(app: Any) -> Any:
    if isinstance(app, web.Application):
        return on_aiohttp
    return on_werkzeug if isinstance(app, Flask) else on_uvicorn


@pytest.mark.parametrize("code", EXAMPLES)
async def test_an_example_opens_for_the_right_scope_only(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mint = Mint()

    def token(scope: str) -> str:
        return mint.token(now=time.time(), aud="https://deploy.example.com", scope=scope)

    def fetch(url: str, etag: str | None) -> Any:
        return mint.fetch(url, etag)

    monkeypatch.setattr(verifier, "HttpFetch", lambda **_: fetch)
    names: dict[str, Any] = {"__name__": "example"}
    exec(code, names)
    statuses = []
    async with server_of(names["app"])(names["app"]) as base, aiohttp.ClientSession() as session:
        for authorization in (f"Bearer {token('deploy:write')}", f"Bearer {token('deploy:read')}", "Bearer x", ""):
            headers = {"Authorization": authorization}
            async with session.post(f"{base}/deployments", headers=headers) as answer:
                statuses.append(answer.status)
                if answer.status == 200:
                    assert await answer.json() == {"by": "invoicer"}
    assert statuses == [200, 403, 401, 401]
