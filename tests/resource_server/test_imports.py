"""What an API has to install, and what importing costs: the extra's three distributions, and nothing of the server."""

import json
import subprocess
import sys
import textwrap
from importlib import metadata

import pytest

from tests.resource_server.minting import AUDIENCE, ISSUER, JWKS_URI, Mint

SERVER = (
    "aiohttp", "pydantic", "pydantic_settings", "cachetools", "starlette", "fastapi", "flask", "werkzeug", "typer",
    "rich", "yaml", "redis", "prometheus_client", "uvloop", "limits", "multidict", "yarl", "cel_expr_python",
    "watchfiles", "requests", "httpx", "gateway.identity", "gateway.policy", "gateway.tokens", "gateway.audit",
    "gateway.http", "gateway.client", "gateway.app", "gateway.settings",
)  # fmt: skip
MODULES = ("", ".asgi", ".wsgi", ".logging", ".certificates")

ONLY_THE_EXTRA = """
import sys

ALLOWED = {"gateway", "jwt", "cryptography", "cffi", "_cffi_backend", "orjson", *sys.stdlib_module_names}

class Refusing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in ALLOWED:
            raise ModuleNotFoundError(f"{name} is not installed here", name=name)
        return None

for name in [name for name in sys.modules if name.partition(".")[0] not in ALLOWED | {"__main__"}]:
    del sys.modules[name]
sys.meta_path.insert(0, Refusing())
"""


def run(script: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *arguments], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("module", MODULES)
def test_importing_brings_in_nothing_of_the_server(module: str) -> None:
    loaded = run(f"import sys, gateway.resource_server{module}; print(*sys.modules)").split()
    assert f"gateway.resource_server{module}" in loaded
    assert not {name for name in loaded if name in SERVER or name.partition(".")[0] in SERVER}


def test_it_verifies_with_only_the_extras_distributions_installed() -> None:
    mint = Mint()
    script = ONLY_THE_EXTRA + textwrap.dedent("""
        import json, time
        from gateway.resource_server import AccessDenied, Verifier
        import gateway.resource_server.asgi, gateway.resource_server.wsgi, gateway.resource_server.logging
        from gateway.resource_server.fetch import Fetched

        token, jwks, issuer, audience, jwks_uri, now = sys.argv[1:]
        verifier = Verifier(
            issuer=issuer, audience=audience, jwks_uri=jwks_uri, clock=lambda: float(now),
            fetch=lambda url, etag: Fetched(200, jwks.encode()),
        )
        print(verifier.verify(token, scopes=["ledger:read"]).client_id)
        try:
            verifier.verify(token[:-4] + "AAAA")
        except AccessDenied as denied:
            print(denied.status, denied.error)
        try:
            import aiohttp
        except ModuleNotFoundError:
            print("and nothing else")
    """)
    claims = mint.claims()
    printed = run(script, mint.token(), json.dumps(mint.jwks), ISSUER, AUDIENCE, JWKS_URI, str(claims["iat"]))
    assert printed.splitlines() == ["invoicer", "401 invalid_token", "and nothing else"]


def test_the_extra_names_what_is_needed() -> None:
    wanted = metadata.requires("workload-identity-gateway") or []
    extra = [line.partition(";")[0] for line in wanted if 'extra == "resource-server"' in line.replace("'", '"')]
    assert sorted(line.partition("<")[0].partition(">")[0].lower() for line in extra) == [
        "cryptography", "orjson", "pyjwt",
    ]  # fmt: skip
