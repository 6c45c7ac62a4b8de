"""Requests that no HTTP library would send (RFC 9112): each is understood in one way, or not at all."""

import asyncio
import json
import logging
from pathlib import Path

import pytest

from tests.attacks.hostile import FORM, Wire, besieged, exchange_form, records, request, still_serves, wire
from tests.support.house import House
from tests.support.running import JWT, TOKEN_EXCHANGE


def form_of(token: str) -> bytes:
    return f"grant_type={TOKEN_EXCHANGE}&subject_token={token}&subject_token_type={JWT}".encode()


def post(body: bytes, *headers: str, line: str = "POST /token HTTP/1.1", host: str = "Host: sts.example.com") -> bytes:
    lines = [line, host, f"Content-Type: {FORM}", *(headers or (f"Content-Length: {len(body)}",))]
    return request("\n".join(one for one in lines if one), body)


def chunked(*chunks: bytes, extension: bytes = b"", trailer: bytes = b"") -> bytes:
    sent = b"".join(b"%x%s\r\n%s\r\n" % (len(chunk), extension, chunk) for chunk in chunks)
    return sent + b"0\r\n" + trailer + b"\r\n"


def ambiguous(form: bytes) -> dict[str, bytes]:
    """What two parsers in a row would cut in two different places, or read in two different ways."""
    length = f"Content-Length: {len(form)}"
    te = "Transfer-Encoding: chunked"
    good = post(form)
    return {
        "a length and chunks": post(chunked(form), length, te),
        "chunks and a length": post(chunked(form), te, length),
        "two lengths": post(form, length, length),
        "two different lengths": post(form, length, "Content-Length: 3"),
        "a list of lengths": post(form, f"{length}, {len(form)}"),
        "a length with a sign": post(form, f"Content-Length: +{len(form)}"),
        "a length below nought": post(form, "Content-Length: -1"),
        "a length in hexadecimal": post(form, f"Content-Length: {len(form):#x}"),
        "a length beyond any number": post(form, "Content-Length: " + "9" * 50),
        "a length with a blank inside": post(form, "Content-Length: 1 0"),
        "a blank before the colon": post(chunked(form), "Transfer-Encoding : chunked"),
        "a coding that is none": post(form, "Transfer-Encoding: identity"),
        "a coding that nearly is": post(chunked(form), "Transfer-Encoding: xchunked"),
        "a coding behind chunked": post(chunked(form), "Transfer-Encoding: chunked, identity"),
        "two codings": post(chunked(form), te, "Transfer-Encoding: identity"),
        "a folded header": post(form, "X: a\n b", length),
        "a NUL in a header": post(form, "X: a\0b", length),
        "a lone carriage return": post(form, "X: a\rContent-Length: 0", length),
        "bare line feeds": good.replace(b"\r\n", b"\n"),
        "two hosts": post(form, "Host: other.example", length),
        "no host": post(form, length, host=""),
        "two content types": post(form, "Content-Type: text/plain", length),
        "two authorizations": post(form, "Authorization: Basic eDp5", "Authorization: Basic eDp6", length),
        "HTTP 0.9": post(form, length, line="POST /token HTTP/0.9"),
        "HTTP 2 in text": post(form, length, line="POST /token HTTP/2.0"),
        "HTTP 1.2": post(form, length, line="POST /token HTTP/1.2"),
        "no version": b"GET /.well-known/jwks.json\r\n\r\n",
        "the preface of HTTP 2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "a method in small letters": post(form, length, line="post /token HTTP/1.1"),
        "an unknown method": post(form, length, line="GRANT /token HTTP/1.1"),
        "bytes beyond ASCII in the path": post(form, length, line="POST /token\xff HTTP/1.1"),
        "a path beyond 8 KiB": post(form, length, line=f"POST /{'a' * 9000} HTTP/1.1"),
        "a header beyond 8 KiB": post(form, f"X: {'a' * 9000}", length),
        "two hundred headers": post(form, *(f"X{number}: y" for number in range(200)), length),
        "a chunk whose size is no number": post(b"zz\r\n" + form + b"\r\n0\r\n\r\n", te),
        "a chunk that is longer than it says": post(b"5\r\nabcdefgh\r\n0\r\n\r\n", te),
        "a chunk below nought": post(b"-5\r\nabcde\r\n0\r\n\r\n", te),
        "a hundred thousand trailers": post(chunked(form, trailer=b"X: y\r\n" * 1000), te),
        "the handshake of TLS": bytes.fromhex("16030100c8010000c40303") + bytes(100),
        "a form without a head": form + b"\r\n\r\n",
        "a form of 60 KB without a head": form + b"&x=" + b"y" * 60_000,
    }


async def test_what_is_not_one_request_gets_400_and_an_end(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """Neither the answer nor the log repeats what was received: a token may be in it, and somebody else's at that."""
    caplog.set_level(logging.DEBUG)
    async with besieged(tmp_path) as house:
        secret = house.pod_token()
        for name, sent in ambiguous(form_of(secret)).items():
            async with wire(house.gateway.gateway.public_address) as attacker:
                await attacker.send(sent)
                received = await attacker.rest()
            assert received.split(b" ")[1] == b"400", (name, received[:200])
            assert received.count(b"\r\n\r\n") == 1, (name, received)
            assert b"access_token" not in received, name
            for part in (secret, secret[-40:], "eDp5", "subject_token"):
                assert part.encode() not in received, name
                assert part not in caplog.text, name
        assert "Traceback" not in caplog.text
        assert not any(record["decision"] == "granted" for record in records(house))
        await still_serves(house)


async def test_what_is_one_request_is_one(tmp_path: Path):
    async with besieged(tmp_path) as house:
        token = house.pod_token()
        form = form_of(token)
        length, te = f"Content-Length: {len(form)}", "Transfer-Encoding: chunked"
        granted = {
            "as everybody sends it": post(form),
            "in chunks": post(chunked(form), te),
            "in chunks of one byte": post(chunked(*(form[n : n + 1] for n in range(len(form)))), te),
            "in chunks with extensions": post(chunked(form, extension=b";a=b"), te),
            "with a trailer": post(chunked(form, trailer=b"X-Forwarded-For: 1.2.3.4\r\n"), te),
            "in absolute form": post(form, length, line="POST http://sts.example.com/token HTTP/1.1"),
            "asking first": post(form, "Expect: 100-continue", length),
            "asking for HTTP 2": post(form, "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", length),
            "asking for a web socket": post(form, "Connection: Upgrade", "Upgrade: websocket", length),
            "as HTTP 1.0": post(form, length, line="POST /token HTTP/1.0"),
        }
        for name, sent in granted.items():
            async with wire(house.gateway.gateway.public_address) as client:
                await client.send(sent)
                status, _, body = await client.answer()
                if status == 100:
                    status, _, body = await client.answer()
                assert (status, b"access_token" in body) == (200, True), name


async def test_codings_of_the_body_are_refused_and_not_guessed(house: House):
    form = form_of(house.pod_token())
    length = f"Content-Length: {len(form)}"
    for headers in (
        ("Content-Encoding: gzip", length), ("Content-Encoding: br", length),
        ("Content-Encoding: identity, gzip", length), ("Transfer-Encoding: gzip, chunked",),
    ):  # fmt: skip
        body = chunked(form) if headers[0].startswith("Transfer") else form
        async with wire(house.gateway.gateway.public_address) as client:
            await client.send(post(body, *headers))
            status, _, answer = await client.answer()
        assert (status, json.loads(answer)["reason"]) == (415, "unsupported_encoding"), headers


async def test_answers_keep_to_their_requests(house: House):
    """Pipelined behind each other, behind a refusal and behind a body nobody wanted: no answer moves up."""
    form = form_of(house.pod_token())
    too_large = post(b"a" * 70_000)
    unwanted = request(f"GET /.well-known/jwks.json HTTP/1.1\nHost: x\nContent-Length: {len(form)}", form)
    async with wire(house.gateway.gateway.public_address) as client:
        await client.send(b"".join([post(form), unwanted, too_large, post(b"grant_type=x"), post(form)]))
        answers = [await client.answer() for _ in range(5)]
    assert [status for status, _, _ in answers] == [200, 200, 413, 400, 200]
    assert b'"keys"' in answers[1][2]
    assert all(b"access_token" in answers[number][2] for number in (0, 4))


async def test_a_body_that_is_a_request_is_never_carried_out(house: House):
    before = len(records(house))
    smuggled = post(form_of(house.pod_token()))
    async with wire(house.gateway.gateway.public_address) as attacker:
        await attacker.send(request(f"GET /nowhere HTTP/1.1\nHost: x\nContent-Length: {len(smuggled)}", smuggled))
        status, _, _ = await attacker.answer()
        assert status == 404
        attacker.writer.write_eof()
        assert await attacker.rest() == b""
    assert len(records(house)) == before


async def test_an_expectation_that_is_none_is_refused(house: House):
    async with wire(house.gateway.gateway.public_address) as client:
        for line in ("POST /token HTTP/1.1", "GET /nowhere HTTP/1.1"):
            for expected in ("<script>", "100-contin\xb1e", "100-continue, 100-continue", ""):
                await client.send(post(b"a=b", f"Expect: {expected}", "Content-Length: 3", line=line))
                status, _, body = await client.answer()
                assert (status, body) == (417, b"417: Expectation Failed"), (line, expected)


async def test_whoever_pipelines_and_never_reads_waits_alone(house: House):
    async with wire(house.gateway.gateway.public_address) as greedy:
        one = request("GET /.well-known/jwks.json HTTP/1.1\nHost: x")
        greedy.writer.write(one * 50_000)
        await asyncio.gather(*(still_serves(house) for _ in range(20)))


async def test_halves_of_requests_hold_up_nobody(house: House):
    form = form_of(house.pod_token())
    address = house.gateway.gateway.public_address
    halves = [post(form)[:20], post(form)[:-10], post(b"5\r\nab", "Transfer-Encoding: chunked"), b"P"]
    connections: list[Wire] = []
    for number in range(150):
        reader, writer = await asyncio.open_connection(*address.rsplit(":", 1))
        connections.append(Wire(reader, writer))
        await connections[-1].send(halves[number % len(halves)])
    try:
        async with asyncio.timeout(5):
            await asyncio.gather(*(still_serves(house) for _ in range(20)))
    finally:
        for connection in connections:
            connection.writer.close()


# ---------------------------------------------------------------- where it came from


@pytest.mark.parametrize(
    ("trusted", "forwarded", "source"),
    [
        ([], "203.0.113.9", "127.0.0.1"),
        (["10.0.0.0/8"], "203.0.113.9", "127.0.0.1"),
        (["127.0.0.0/8"], "203.0.113.9", "203.0.113.9"),
        (["127.0.0.0/8"], "198.51.100.1, 203.0.113.9", "203.0.113.9"),
        (["127.0.0.0/8"], "198.51.100.1, 127.0.0.2", "198.51.100.1"),
        (["127.0.0.0/8"], "", "127.0.0.1"),
        (["127.0.0.0/8"], "unknown", "127.0.0.1"),
        (["127.0.0.0/8"], "<script>, 127.0.0.2", "127.0.0.1"),
        (["127.0.0.0/8"], "203.0.113.9:443", "127.0.0.1"),
        (["127.0.0.0/8"], "2001:db8::1", "2001:db8::1"),
        (["127.0.0.0/8"], "fe80::1%" + "x" * 500 + ", 127.0.0.2", "127.0.0.1"),
        (["127.0.0.0/8"], '2001:db8::1%"}{"', "127.0.0.1"),
        (["127.0.0.0/8"], ",".join(["127.0.0.1"] * 700), "127.0.0.1"),
        (["0.0.0.0/0", "::/0"], "203.0.113.9", "127.0.0.1"),
    ],
)
async def test_a_source_is_what_trusted_proxies_say(tmp_path: Path, trusted: list[str], forwarded: str, source: str):
    async with besieged(tmp_path, trusted_proxies=trusted) as house:
        headers = {"X-Forwarded-For": forwarded, "Forwarded": "for=1.1.1.1", "X-Real-IP": "1.1.1.1"}
        status, _, _ = await house.gateway.post(exchange_form(house.pod_token()), headers=headers)
        assert status == 200
        assert records(house)[-1]["source"] == source


# ---------------------------------------------------------------- the admin listener


async def test_the_admin_listener_answers_three_questions_and_no_other(house: House):
    address = house.gateway.gateway.admin_address
    for line in (
        "POST /metrics", "PUT /readyz", "DELETE /livez", "PATCH /metrics", "TRACE /readyz", "OPTIONS *", "CONNECT x:1",
        "GET /", "GET /metrics/", "GET //metrics", "GET /metrics/../../etc/passwd", "GET /..%2f..%2fetc%2fpasswd",
        "GET /%2e%2e/etc/passwd", "GET /token", "GET /.well-known/jwks.json", "GET /debug",
        "GET /api/keys", "POST /token",
    ):  # fmt: skip
        async with wire(address) as client:
            await client.send(request(f"{line} HTTP/1.1\nHost: x"))
            status, _, body = await client.answer()
        assert status in {400, 404, 405}, line
        assert b"root:" not in body, line


ACCEPTS = (
    "application/openmetrics-text; version=abc",
    "application/openmetrics-text; version=\u00b2.0.0",
    "application/openmetrics-text;version=1e400",
    "application/openmetrics-text;version=" + "9" * 4000,
    "application/openmetrics-text;version=-1;escaping=no",
    "a" * 8000,
    ";" * 8000,
    ",".join(["text/plain"] * 700),
    "application/openmetrics-text;" + "version=1;" * 700,
    '"',
    "*/*;q=nan",
    "",
)


async def test_no_accept_header_breaks_a_scrape(house: House):
    url = f"{house.gateway.admin_url}/metrics"
    for accept in ACCEPTS:
        async with house.gateway.session.get(url, headers={"Accept": accept}) as answer:
            assert answer.status == 200, accept[:60]
            assert "gateway_exchanges" in await answer.text(), accept[:60]
