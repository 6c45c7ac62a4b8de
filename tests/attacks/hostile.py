"""A house under siege: what an attacker sends, and what has to be true of every answer and every record."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.clock import SteadyClock
from gateway.model import Clock
from gateway.standin.issuer import StandInIssuer, StandInServer
from gateway.standin.platforms import GITHUB_ACTIONS, KUBERNETES
from tests.support.house import POLICIES, House
from tests.support.running import JWT, JWT_BEARER, TOKEN_EXCHANGE, running, settings

FORM = "application/x-www-form-urlencoded"
DESCRIPTION = re.compile(r"[\x20\x21\x23-\x5b\x5d-\x7e]{1,600}")  # RFC 6749 §5.2

INVALID_REQUEST, INVALID_GRANT = (400, "invalid_request"), (400, "invalid_grant")


@asynccontextmanager
async def besieged(
    folder: Path, *, policies: str = "", clock: Clock | None = None, **overrides: Any
) -> AsyncIterator[House]:
    """The house of ``tests.support.house``, with more policies, another clock, other settings. Its cluster signs with
    ES256, or RS256 when asked to.
    """
    clock = clock or SteadyClock()
    cluster = StandInIssuer(KUBERNETES, clock=clock, algorithms=("ES256", "RS256"))
    github = StandInIssuer(GITHUB_ACTIONS, clock=clock)
    async with StandInServer(cluster, github):
        (folder / "policies").mkdir()
        text = POLICIES.format(kubernetes=cluster.discovery_url, github=github.discovery_url)
        (folder / "policies" / "policies.yaml").write_text(text)
        if policies:
            (folder / "policies" / "more.yaml").write_text(policies)
        # An attack is a flood of failures from one address: what refuses a flood is shown in tests of its own.
        configured = settings(folder, **{"quotas": {"enabled": False}, **overrides})
        async with running(configured, clock=clock) as gateway:
            yield House(gateway, cluster, github, folder, configured.issuer)


def records(house: House, behind: int = 0) -> list[dict[str, Any]]:
    """The audit records behind so many bytes, every one of them a line of printable JSON."""
    lines = (house.folder / "audit.jsonl").read_bytes()[behind:].splitlines()
    for line in lines:
        assert len(line) < 16 * 1024
        assert not any(byte < 0x20 or byte == 0x7F for byte in line)
    return [json.loads(line) for line in lines]


async def refused(house: House, form: Any, **request: Any) -> tuple[int, str, str]:
    """Status, error and reason of an answer that has to be a refusal in good form, and has to be written down."""
    before = (house.folder / "audit.jsonl").stat().st_size
    status, body, headers = await house.gateway.post(form, **request)
    assert 400 <= status < 500, (status, body)
    assert set(body) == {"error", "error_description", "reason", "request_id"}, body
    assert DESCRIPTION.fullmatch(body["error_description"]), body
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Content-Type-Options"] == "nosniff"
    written = records(house, before)
    assert len(written) == 1, written
    assert written[0]["decision"] == "denied"
    assert (written[0]["request_id"], written[0]["reason"]) == (body["request_id"], body["reason"])
    return status, body["error"], body["reason"]


async def refusals(house: House, token: str) -> tuple[str, str, str]:
    """The reason of a token that neither grant takes; with the error that each of them owes to its RFC."""
    status, error, reason = await refused(house, exchange_form(token))
    assert (status, error) == INVALID_REQUEST, (status, error, reason)  # RFC 8693 §2.2.2
    status, error, same = await refused(house, assertion_form(token))
    assert (status, error) == (INVALID_GRANT if token else INVALID_REQUEST), (status, error, same)  # RFC 7523 §3.1
    assert same == reason
    return reason


def exchange_form(token: str, **parameters: str) -> dict[str, str]:
    return {"grant_type": TOKEN_EXCHANGE, "subject_token": token, "subject_token_type": JWT, **parameters}


def assertion_form(token: str, **parameters: str) -> dict[str, str]:
    return {"grant_type": JWT_BEARER, "assertion": token, **parameters}


async def still_serves(house: House) -> None:
    """Whoever is honest gets a token as ever."""
    status, body = await house.gateway.exchange(house.pod_token())
    assert status == 200, body


@dataclass
class Wire:
    """A connection of one's own, for what no HTTP library would send."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def rest(self, seconds: float = 5) -> bytes:
        """All that arrives until the peer closes."""
        received = b""
        async with asyncio.timeout(seconds):
            with suppress(ConnectionResetError):  # what was sent behind the answer's cause was never read
                while more := await self.reader.read(65536):
                    received += more
        return received

    async def answer(self, seconds: float = 5) -> tuple[int, bytes, bytes]:
        """Status, head and body of the next answer."""
        async with asyncio.timeout(seconds):
            head = await self.reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"(?i)\r\ncontent-length: ([0-9]+)", head)
            body = await self.reader.readexactly(int(length[1])) if length else b""
        return int(head.split(b" ")[1]), head, body


@asynccontextmanager
async def wire(address: str) -> AsyncIterator[Wire]:
    """A connection to ``host:port``."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield Wire(reader, writer)
    finally:
        writer.close()


def request(head: str, body: bytes = b"") -> bytes:
    """A request from the lines of its head."""
    return head.replace("\n", "\r\n").encode("latin-1") + b"\r\n\r\n" + body
