"""Keys rotate under load, with verifiers that cache key sets as real ones do, and nobody notices.

Two gateways share a Redis. Days pass by a clock that is moved by hand; the verifiers tell the same time.
"""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import aiohttp
import jwt
import pytest

from gateway.app import Gateway
from gateway.identity.fetcher import HttpFetcher
from gateway.identity.trust import TrustStore
from gateway.resource_server import AccessDenied, Verifier
from gateway.tokens.key_schedule import revoking, taking_over
from tests.faults.neighbourhood import Neighbourhood
from tests.support.parts import eventually, program
from tests.support.redis_server import RedisServer
from tests.support.running import ISSUER, RunningGateway, settings
from tests.support.time import HandClock

HOUR, DAY = 3600, 86400
CACHE_FOR_SECONDS = 300
STEP_SECONDS = 60
LEDGER = "https://ledger.example.com"
NODE = Path(__file__).parent.parent / "interoperability" / "node"


class Judge(Protocol):
    """An API that verifies tokens on its own."""

    async def accepts(self, token: str) -> bool:
        """Whether it takes the token."""


class PyJwt:
    """PyJWT's client. It never asks again for a key that it does not know, as Envoy does not."""

    def __init__(self, jwks_uri: str, clock: HandClock, monkeypatch: pytest.MonkeyPatch) -> None:
        for module in ("jwt.jwks_client", "jwt.jwk_set_cache", "jwt.api_jwk"):
            monkeypatch.setattr(f"{module}.time", SimpleNamespace(monotonic=clock), raising=False)
        self._keys = jwt.PyJWKClient(jwks_uri, lifespan=CACHE_FOR_SECONDS, cooldown_duration=10**9)

    async def accepts(self, token: str) -> bool:
        return await asyncio.to_thread(self._accepts, token)

    def _accepts(self, token: str) -> bool:
        try:
            key = self._keys.get_signing_key_from_jwt(token)
            jwt.decode(
                token, key, algorithms=["ES256"], audience=LEDGER, issuer=ISSUER,
                options={"verify_exp": False, "verify_iat": False, "verify_nbf": False},  # it reads the wall clock
            )  # fmt: skip
        except jwt.PyJWTError:
            return False
        return True


class Ours:
    """``gateway.resource_server``, which reads the key set in the background."""

    def __init__(self, jwks_uri: str, clock: HandClock) -> None:
        self._verifier = Verifier(issuer=ISSUER, audience=LEDGER, jwks_uri=jwks_uri, insecure_http=True, clock=clock)

    async def accepts(self, token: str) -> bool:
        try:
            await self._verifier.verify_async(token)
        except AccessDenied:
            return False
        return True


class Jose:
    """npm jose, in a process of its own. It keeps a key set for ten minutes, twice as long as it is told."""

    def __init__(self, process: asyncio.subprocess.Process, clock: HandClock) -> None:
        self._process = process
        self._clock = clock

    @classmethod
    @asynccontextmanager
    async def started(cls, jwks_uri: str, clock: HandClock) -> AsyncIterator["Jose"]:
        process = await asyncio.create_subprocess_exec(
            program("node", "nodejs"), "verifying.mjs", jwks_uri, ISSUER, LEDGER,
            cwd=NODE, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            yield cls(process, clock)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            await process.wait()

    async def accepts(self, token: str) -> bool:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"seconds": self._clock(), "token": token}).encode() + b"\n")
        return await asyncio.wait_for(self._process.stdout.readline(), 10) == b"true\n"


class Scene:
    """The gateways, and the APIs that verify what they mint."""

    def __init__(
        self, clock: HandClock, around: Neighbourhood, gateways: list[RunningGateway], judges: dict[str, Judge]
    ) -> None:
        self.clock = clock
        self.around = around
        self.gateways = gateways
        self.judges = judges

    async def pass_time(self, seconds: int) -> None:
        for gateway in self.gateways:
            await gateway.gateway.mirror.refresh()
        await self.clock.advance(seconds)

    async def token(self, gateway: RunningGateway) -> str:
        status, body = await gateway.exchange(self.around.pod_token(), resource="ledger-api")
        assert status == 200, body
        return str(body["access_token"])

    async def refused(self, tokens: list[str]) -> Counter[str]:
        """How many of the tokens which judge refuses."""
        found: Counter[str] = Counter()
        for name, judge in self.judges.items():
            for token in tokens:
                found[name] += not await judge.accepts(token)
        return +found


@asynccontextmanager
async def scene(
    folder: Path, redis: RedisServer, around: Neighbourhood, clock: HandClock, monkeypatch: pytest.MonkeyPatch,
    **keys: Any,
) -> AsyncIterator[Scene]:  # fmt: skip
    """Two gateways on one Redis; every token lives for 24 hours, as long as any may."""
    key_file = folder / "encryption.key"
    key_file.write_text("A" * 43)
    key_file.chmod(0o600)
    (folder / "policies").mkdir()
    policies = around.policies().replace("token_lifetime: 15m", "token_lifetime: 24h")
    (folder / "policies" / "policies.yaml").write_text(policies)
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())
        gateways = []
        for name in ("one", "other"):
            configured = settings(
                folder,
                state=redis.url,
                keys={"store": "state://", "encryption_key_file": str(key_file), **keys},
                audit={"sinks": [f"file://{folder}/{name}.jsonl"]},
                quotas={"enabled": False},
            )
            gateway = Gateway(configured, insecure_http=True, clock=clock, sleep=clock.sleep)
            gateway.trust = TrustStore(HttpFetcher(), clock=clock, sleep=clock.sleep, jitter=lambda: 1.0)
            await gateway.start()
            stack.push_async_callback(gateway.stop)
            gateways.append(RunningGateway(gateway, session))
        jwks_uris = [f"{gateway.url}/.well-known/jwks.json" for gateway in gateways]
        judges: dict[str, Judge] = {
            "PyJWT": PyJwt(jwks_uris[0], clock, monkeypatch),
            "ours": Ours(jwks_uris[1], clock),
            "jose": await stack.enter_async_context(Jose.started(jwks_uris[0], clock)),
        }
        await clock.until_sleeping(2 + 2 * 2)
        yield Scene(clock, around, gateways, judges)


def kid_of(token: str) -> str:
    return str(jwt.get_unverified_header(token)["kid"])


async def test_keys_rotate_under_load_and_no_verifier_refuses_a_token(
    redis_server: RedisServer, around: Neighbourhood, clock: HandClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    full_faults: bool,
):  # fmt: skip
    """Rotation as fast as the settings allow: a new key every two hours, known to caches for a few minutes."""
    fast = {"rotate_every": "2h", "publish_ahead": "11m", "keep_for": "25h"}
    minted = 0
    kids = set()
    kept: list[tuple[float, str]] = []
    async with scene(tmp_path, redis_server, around, clock, monkeypatch, **fast) as found:
        duration = 5 * DAY if full_faults else 30 * HOUR
        end = clock.now + duration
        step = STEP_SECONDS if full_faults else 5 * STEP_SECONDS
        while clock.now < end:
            await found.pass_time(step)
            tokens = await asyncio.gather(*(found.token(gateway) for gateway in found.gateways))
            minted += len(tokens)
            kids |= {kid_of(token) for token in tokens}
            # The oldest that still live belong to keys that stopped signing long ago.
            kept = [(at, token) for at, token in kept if at + DAY - step > clock.now]
            kept.append((clock.now, tokens[0]))
            assert await found.refused([*tokens, kept[0][1], kept[len(kept) // 2][1]]) == Counter()
        assert all(gateway.gateway.key_rotation.failures == 0 for gateway in found.gateways)
    assert len(kids) >= duration // (2 * HOUR)
    assert minted == 2 * duration // step


async def test_a_revoked_key_is_taken_for_no_longer_than_key_sets_are_cached(
    redis_server: RedisServer, around: Neighbourhood, clock: HandClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The emergency: the upcoming key takes over at once and every verifier knows it already; the old tokens end."""
    known = {"rotate_every": "24h", "publish_ahead": "12h"}
    async with scene(tmp_path, redis_server, around, clock, monkeypatch, **known) as found:
        for _ in range(13):
            await found.pass_time(HOUR)
            tokens = await asyncio.gather(*(found.token(gateway) for gateway in found.gateways))
            assert await found.refused(tokens) == Counter()
        store = found.gateways[0].gateway.settings.keys.open_store(found.gateways[0].gateway.mirror)
        rows = [one.row for one in await store.load()]
        bad = kid_of(tokens[0])
        (upcoming,) = (row.kid for row in rows if row.kid != bad)
        assert await store.replace(rows, revoking(taking_over(rows, upcoming, clock(), ""), bad, clock(), "leak"))

        async def replaced() -> bool:
            return {kid_of(await found.token(gateway)) for gateway in found.gateways} == {upcoming}

        await eventually(replaced, within_seconds=2)
        last_accepted = dict.fromkeys(found.judges, 0)
        for after in range(0, 1500, 60):
            fresh = await asyncio.gather(*(found.token(gateway) for gateway in found.gateways))
            assert await found.refused(fresh) == Counter()
            refused = await found.refused(tokens)
            last_accepted |= {name: after for name in found.judges if not refused[name]}
            await found.pass_time(60)
        assert last_accepted["PyJWT"] <= CACHE_FOR_SECONDS
        assert last_accepted["ours"] <= CACHE_FOR_SECONDS + 60
        assert last_accepted["jose"] <= 600, "it caches for ten minutes whatever it is told"
