"""One exchange: what is sent, what is believed, what is refused, what is tried again."""

import asyncio
import json
import logging
import ssl
import traceback
from email.utils import formatdate
from functools import partial

import pytest
import trustme

from gateway.client import ClientError, Denied, FileToken, Misuse, NoWorkloadToken, Unavailable, UntrustedAnswer
from gateway.client.exchange import exchange
from gateway.model import GrantType
from gateway.oauth.parameters import TOKEN_TYPE_JWT

SECRET = "eyJ.workload-secret.sig"


@pytest.fixture
def ask(small_gateway, stopwatch):
    """Exchanges a token with the small gateway, in a thread."""

    async def ask(url=None, token=SECRET, **settings):
        settings = {"insecure_http": True, "timing": stopwatch.timing} | settings
        return await asyncio.to_thread(partial(exchange, url or small_gateway.url, token, **settings))

    return ask


# ---------------------------------------------------------------- the request and the token


async def test_a_token_exchange_sends_the_parameters_of_rfc_8693(ask, small_gateway):
    await ask(client_id="nightly", resource="backup-api", scope="a b", lifetime_seconds=300)
    assert small_gateway.forms == [
        {
            "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
            "subject_token": SECRET,
            "subject_token_type": TOKEN_TYPE_JWT,
            "client_id": "nightly",
            "resource": "backup-api",
            "scope": "a b",
            "requested_expires_in": "300",
        }
    ]


async def test_an_assertion_grant_sends_the_parameters_of_rfc_7523(ask, small_gateway):
    await ask(grant=GrantType.JWT_BEARER)
    assert small_gateway.forms == [
        {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": SECRET},
    ]


async def test_the_token_endpoint_is_found_in_the_metadata(ask, small_gateway):
    small_gateway.metadata["token_endpoint"] = f"{small_gateway.url}/elsewhere"
    await ask()
    assert small_gateway.paths == ["GET /.well-known/oauth-authorization-server", "POST /elsewhere"]


async def test_the_metadata_of_an_issuer_with_a_path_lie_between_host_and_path(ask, small_gateway):
    small_gateway.metadata["issuer"] = f"{small_gateway.url}/sts"
    await ask(f"{small_gateway.url}/sts/")
    assert small_gateway.paths[0] == "GET /.well-known/oauth-authorization-server/sts"


async def test_a_given_token_endpoint_is_asked_without_looking_for_one(ask, small_gateway):
    await ask("https://sts.example.com", token_endpoint=f"{small_gateway.url}/token")
    assert small_gateway.paths == ["POST /token"]


async def test_a_token_expires_by_the_moment_of_the_request(ask, stopwatch):
    token = await ask()
    assert token.expires_at == int(stopwatch.now) + 600
    assert (token.access_token, token.scope, token.token_type) == ("at.1", "backup:read", "Bearer")
    assert token.authorization == "Bearer at.1"


async def test_a_scope_that_is_left_out_is_the_one_asked_for(ask, small_gateway, raw_server, raw_json):
    document = {name: value for name, value in small_gateway.issued(1).items() if name != "scope"}
    async with raw_server(raw_json(document)) as server:
        assert (await ask(token_endpoint=server.url, scope="backup:write")).scope == "backup:write"


# ---------------------------------------------------------------- denials


async def test_a_denial_carries_error_reason_description_and_request_id_and_is_not_repeated(
    ask, small_gateway, stopwatch
):
    small_gateway.refuse(
        400, error="invalid_request", reason="no_matching_trust", error_description="No rule.", request_id="r-1"
    )
    with pytest.raises(Denied, match=r"^no_matching_trust: No rule\.$") as caught:
        await ask()
    denial = caught.value
    assert (denial.status, denial.error, denial.reason) == (400, "invalid_request", "no_matching_trust")
    assert (denial.description, denial.request_id) == ("No rule.", "r-1")
    assert len(small_gateway.forms) == 1
    assert stopwatch.pauses == []


@pytest.mark.parametrize("status", [400, 401, 403, 500])
async def test_an_oauth_error_is_never_repeated(ask, small_gateway, status):
    small_gateway.refuse(status, error="invalid_client")
    with pytest.raises(Denied, match="invalid_client"):
        await ask()
    assert len(small_gateway.forms) == 1


async def test_what_a_denial_says_cannot_steer_a_terminal(ask, small_gateway):
    small_gateway.refuse(400, error="invalid_request", error_description="\x1b]0;title\x07\nnext line" + "x" * 9000)
    with pytest.raises(Denied) as caught:
        await ask()
    assert caught.value.description.startswith("?]0;title??next line")
    assert len(caught.value.description) == 1024


# ---------------------------------------------------------------- another try


@pytest.mark.parametrize("status", [429, 502, 503, 504])
async def test_a_server_that_asks_for_patience_is_asked_again(ask, small_gateway, stopwatch, status):
    small_gateway.refuse(status, error="temporarily_unavailable")
    small_gateway.refuse(status, error="temporarily_unavailable")
    assert (await ask()).access_token == "at.3"
    assert stopwatch.pauses == [0.25, 0.5]


@pytest.mark.parametrize(("chance", "pauses"), [(0.0, [0, 0, 0, 0]), (1.0, [0.5, 1, 2, 4])])
async def test_pauses_double_and_are_spread_over_their_whole_length(ask, small_gateway, stopwatch, chance, pauses):
    stopwatch.chance = chance
    for _ in pauses:
        small_gateway.refuse(503, error="temporarily_unavailable")
    await ask()
    assert stopwatch.pauses == pauses


async def test_trying_ends_in_the_time_that_was_given(ask, small_gateway, stopwatch):
    for _ in range(30):
        small_gateway.refuse(503, error="temporarily_unavailable", reason="overloaded", error_description="Busy.")
    with pytest.raises(Unavailable, match=r"answered 503: overloaded Busy\."):
        await ask(timeout_seconds=30)
    assert sum(stopwatch.pauses) < 30
    assert len(small_gateway.forms) == len(stopwatch.pauses) + 1


async def test_retry_after_in_seconds_is_waited_out_before_the_spread(ask, small_gateway, stopwatch):
    small_gateway.refuse(429, error="slow_down", headers={"Retry-After": "7"})
    await ask()
    assert stopwatch.pauses == [7.25]


async def test_retry_after_as_a_date_is_read_against_the_clock_of_the_server(ask, small_gateway, stopwatch):
    an_hour_ahead = stopwatch.now + 3600
    small_gateway.refuse(
        503,
        error="temporarily_unavailable",
        headers={
            "Retry-After": formatdate(an_hour_ahead + 9, usegmt=True),
            "Date": formatdate(an_hour_ahead, usegmt=True),
        },
    )
    await ask()
    assert stopwatch.pauses == [9.25]


async def test_retry_after_as_a_date_without_a_server_date_is_read_against_our_clock(
    ask, small_gateway, stopwatch, raw_server, raw_json
):
    then = formatdate(stopwatch.now + 100, usegmt=True)
    async with raw_server(raw_json({}, f"Retry-After: {then}", status="503 Busy")) as server:
        with pytest.raises(Unavailable) as caught:
            await ask(token_endpoint=server.url)
    assert caught.value.retry_after_seconds == 100


@pytest.mark.parametrize("value", ["soon", "-5", "1.5", "9" * 40, "Mon, 99 Xxx 99999 99:99:99 GMT"])
async def test_a_retry_after_that_says_nothing_is_ignored(ask, small_gateway, stopwatch, value):
    small_gateway.refuse(503, error="temporarily_unavailable", headers={"Retry-After": value})
    await ask()
    assert stopwatch.pauses == [0.25]


async def test_a_wait_longer_than_allowed_is_not_begun(ask, small_gateway, stopwatch):
    small_gateway.refuse(429, error="slow_down", headers={"Retry-After": "3600"})
    with pytest.raises(Unavailable) as caught:
        await ask()
    assert caught.value.retry_after_seconds == 3600
    assert stopwatch.pauses == []


async def test_a_server_that_is_not_there_is_tried_again_until_the_time_is_up(ask, small_gateway, stopwatch):
    await small_gateway.close()
    with pytest.raises(Unavailable, match=r"No answer from 127\.0\.0\.1:\d+: Connection refused"):
        await ask(timeout_seconds=5)
    assert len(stopwatch.pauses) > 2
    await small_gateway.start()


async def test_an_answer_that_breaks_off_is_tried_again(ask, raw_server, raw_json, stopwatch):
    whole = raw_json({"access_token": "at.1"})
    async with raw_server(whole[:-4]) as server:
        with pytest.raises(Unavailable, match="IncompleteRead"):
            await ask(token_endpoint=server.url, timeout_seconds=1)
        assert server.connections == len(stopwatch.pauses) + 1 > 1


async def test_every_try_presents_the_token_that_the_file_holds_then(ask, small_gateway, stopwatch, tmp_path):
    file = tmp_path / "token"
    file.write_text("first.token.x\n")

    def rotate_and_sleep(seconds):
        file.write_text("second.token.x\n")
        stopwatch.sleep(seconds)

    timing = type(stopwatch.timing)(
        clock=lambda: stopwatch.now, monotonic=lambda: stopwatch.now, sleep=rotate_and_sleep, random=lambda: 0.5
    )
    small_gateway.refuse(503, error="temporarily_unavailable")
    await ask(token=FileToken(file), timing=timing)
    assert [form["subject_token"] for form in small_gateway.forms] == ["first.token.x", "second.token.x"]


async def test_the_metadata_are_fetched_once_however_often_the_endpoint_is_asked(ask, small_gateway):
    small_gateway.refuse(503, error="temporarily_unavailable")
    small_gateway.refuse(503, error="temporarily_unavailable")
    await ask()
    assert [path for path in small_gateway.paths if path.startswith("GET")] == [
        "GET /.well-known/oauth-authorization-server"
    ]


# ---------------------------------------------------------------- whom a token is sent to


async def test_http_is_refused_before_anything_is_sent(ask, small_gateway):
    with pytest.raises(Misuse, match="would show the token"):
        await ask(insecure_http=False)
    with pytest.raises(Misuse, match="would show the token"):
        await ask("https://sts.example.com", token_endpoint=f"{small_gateway.url}/token", insecure_http=False)
    assert small_gateway.paths == []


@pytest.mark.parametrize(
    "url",
    [
        "", "sts.example.com", "ftp://sts.example.com", "https://", "https:///token", "https://sts.example.com:port",
        "https://sts.example.com:99999", "https://u:p@sts.example.com", "https://sts.example.com/#x",
        "https://sts.example.com/ x", "https://sts.exa\nmple.com", "https://sts.example.com/\r\nX: y", "https://[::1",
        "https://sts.example.com?x=1", "file:///etc/passwd", "https://sts.exämple.com", "https://h/" + "x" * 5000,
    ],
)  # fmt: skip
async def test_a_url_that_is_not_plainly_an_https_server_is_refused(ask, url):
    with pytest.raises(Misuse):
        await asyncio.to_thread(exchange, url, SECRET)


async def test_metadata_of_another_issuer_are_refused_and_nothing_is_presented(ask, small_gateway):
    small_gateway.metadata["issuer"] = "https://evil.example"
    with pytest.raises(UntrustedAnswer, match=r"says that its name is https://evil\.example"):
        await ask()
    assert small_gateway.forms == []


@pytest.mark.parametrize("endpoint", ["http://sts.example.com/token", "javascript:alert(1)", "https://u@h/", ""])
async def test_metadata_with_an_unusable_token_endpoint_are_refused(endpoint, start_gateway, tmp_path):
    authority, server = await secure_gateway(start_gateway)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    server.metadata["token_endpoint"] = endpoint
    with pytest.raises(UntrustedAnswer, match="unusable token endpoint"):
        await asyncio.to_thread(exchange, server.url, SECRET, ca_file=str(tmp_path / "ca.pem"))
    assert server.forms == []


@pytest.mark.parametrize("document", [[], {}, "x", {"issuer": 1, "token_endpoint": "x"}, None])
async def test_metadata_of_another_shape_are_refused(ask, raw_server, raw_json, document):
    async with raw_server(raw_json(document)) as server:
        with pytest.raises(UntrustedAnswer):
            await ask(server.url)


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
async def test_a_redirect_is_never_followed(ask, small_gateway, raw_server, raw_json, status):
    location = f"Location: {small_gateway.url}/token"
    async with raw_server(raw_json({}, location, status=status)) as server:
        with pytest.raises(UntrustedAnswer, match="redirects"):
            await ask(token_endpoint=server.url)
        assert server.connections == 1
    assert small_gateway.paths == []


async def secure_gateway(start_gateway):
    authority = trustme.CA()
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    return authority, await start_gateway(tls)


async def test_a_gateway_of_a_private_authority_is_trusted_by_its_ca_file(start_gateway, tmp_path):
    authority, server = await secure_gateway(start_gateway)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    token = await asyncio.to_thread(exchange, server.url, SECRET, ca_file=str(tmp_path / "ca.pem"))
    assert token.access_token == "at.1"


async def test_an_untrusted_certificate_ends_the_exchange_at_once(start_gateway, stopwatch):
    _, server = await secure_gateway(start_gateway)
    with pytest.raises(UntrustedAnswer, match="CA file"):
        await asyncio.to_thread(partial(exchange, server.url, SECRET, timing=stopwatch.timing))
    assert (server.paths, stopwatch.pauses) == ([], [])


async def test_a_certificate_for_another_name_ends_the_exchange_at_once(start_gateway, tmp_path):
    authority, server = await secure_gateway(start_gateway)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    with pytest.raises(UntrustedAnswer, match="certificate"):
        await asyncio.to_thread(exchange, f"https://localhost:{server.port}", SECRET, ca_file=str(tmp_path / "ca.pem"))


@pytest.mark.parametrize("content", [None, "no certificate"])
async def test_a_ca_file_that_is_missing_or_empty_is_misuse(tmp_path, content):
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content)
    with pytest.raises(Misuse, match="CA file"):
        await asyncio.to_thread(exchange, "https://127.0.0.1:1", SECRET, ca_file=str(file))


class TunnelProxy:
    """A proxy that serves CONNECT and remembers every byte that clients send through it."""

    async def __aenter__(self):
        self.seen = bytearray()
        self._tasks = set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self._server.close()
        await self._server.wait_closed()
        await asyncio.gather(*self._tasks)

    async def _serve(self, reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        self.seen += head
        host, port = head.split()[1].decode().split(":")
        onward_reader, onward_writer = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        back = asyncio.create_task(self._copy(onward_reader, writer))
        self._tasks.add(back)
        await self._copy(reader, onward_writer, self.seen)

    async def _copy(self, reader, writer, record=None):
        try:
            while piece := await reader.read(65536):
                if record is not None:
                    record += piece
                writer.write(piece)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()


async def test_a_proxy_is_a_tunnel_that_sees_no_token(start_gateway, tmp_path, monkeypatch):
    authority, server = await secure_gateway(start_gateway)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    async with TunnelProxy() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://job:p%40ss@127.0.0.1:{proxy.port}")
        token = await asyncio.to_thread(exchange, server.url, SECRET, ca_file=str(tmp_path / "ca.pem"))
        assert token.access_token == "at.1"
        assert proxy.seen.startswith(f"CONNECT 127.0.0.1:{server.port} HTTP/1.".encode())
        assert b"Proxy-Authorization: Basic am9iOnBAc3M=" in proxy.seen
        assert SECRET.encode() not in proxy.seen


async def test_no_proxy_is_used_where_the_environment_excepts_the_host(start_gateway, tmp_path, monkeypatch):
    authority, server = await secure_gateway(start_gateway)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert await asyncio.to_thread(exchange, server.url, SECRET, ca_file=str(tmp_path / "ca.pem"))


@pytest.mark.parametrize("proxy", ["https://p:1", "socks5://p:1", "http://", "http://p:port"])
async def test_a_proxy_of_another_kind_is_misuse(monkeypatch, proxy):
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    with pytest.raises(Misuse, match="HTTPS_PROXY"):
        await asyncio.to_thread(exchange, "https://sts.example.com", SECRET)


# ---------------------------------------------------------------- what is believed


@pytest.mark.parametrize(
    "changes",
    [
        {"access_token": None}, {"access_token": ""}, {"access_token": 7}, {"access_token": "a b"},
        {"access_token": "a\nb"}, {"access_token": "a" * 70000}, {"access_token": "%0A"},
        {"expires_in": None}, {"expires_in": "600"}, {"expires_in": 600.0}, {"expires_in": True}, {"expires_in": 0},
        {"expires_in": -1}, {"expires_in": 10**30},
        {"token_type": None}, {"token_type": "DPoP"}, {"token_type": "N_A"},
        {"issued_token_type": None}, {"issued_token_type": TOKEN_TYPE_JWT},
        {"scope": 5}, {"scope": ["a"]},
    ],
    ids=lambda changes: repr(changes)[:40],
)  # fmt: skip
async def test_an_answer_that_is_no_usable_token_is_refused(ask, small_gateway, changes):
    small_gateway.answer(**changes)
    with pytest.raises(UntrustedAnswer):
        await ask()
    assert len(small_gateway.forms) == 1


async def test_the_token_type_is_compared_without_regard_to_case(ask, small_gateway):
    small_gateway.answer(token_type="bearer")
    assert (await ask()).token_type == "Bearer"


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"\xff\xfe", b"[" * 100_000, b'"token"', b"null", b"[1]", b'{"a":' + b"9" * 5000 + b"}"],
    ids=lambda body: repr(body[:12]),
)
async def test_an_answer_that_is_not_a_json_object_is_refused(ask, raw_server, raw_json, body):
    async with raw_server(raw_json(body)) as server:
        with pytest.raises(UntrustedAnswer):
            await ask(token_endpoint=server.url)


async def test_an_error_page_of_somebody_else_is_no_denial(ask, raw_server, raw_json):
    for document in ({"message": "no such route"}, {"error": {"code": 1}}):
        async with raw_server(raw_json(document, status="404 Not Found")) as server:
            with pytest.raises(UntrustedAnswer, match="404"):
                await ask(token_endpoint=server.url)


@pytest.mark.parametrize("declared", [True, False])
async def test_an_answer_that_is_too_large_is_not_read_to_its_end(ask, raw_server, raw_json, declared):
    content = raw_json(b" " * (256 * 1024 + 1))
    if not declared:
        _, _, body = content.partition(b"\r\n\r\n")
        content = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + body
    async with raw_server(content) as server:
        with pytest.raises(UntrustedAnswer, match="more than 256 KiB"):
            await ask(token_endpoint=server.url)


async def test_a_compressed_answer_is_refused(ask, raw_server, raw_json):
    async with raw_server(raw_json({}, "Content-Encoding: gzip")) as server:
        with pytest.raises(UntrustedAnswer, match="compressed"):
            await ask(token_endpoint=server.url)


@pytest.mark.parametrize(
    "beginning",
    [b"", b"HTTP/1.1 200 OK\r\nX-Slow: ", b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n"],
    ids=["status line", "header", "body"],
)
async def test_an_answer_that_drips_is_cut_off_as_a_whole(raw_server, beginning):
    async with raw_server(beginning, drip=True) as server:
        with pytest.raises(Unavailable, match="too long"):
            await asyncio.to_thread(
                partial(
                    exchange, server.url, SECRET, insecure_http=True, token_endpoint=server.url, timeout_seconds=0.2
                )
            )


# ---------------------------------------------------------------- secrets


async def test_no_secret_is_in_a_repr_an_error_or_a_log(ask, small_gateway, caplog):
    caplog.set_level(logging.DEBUG)
    token = await ask()
    shown = [repr(token), str(token), f"{token}"]
    small_gateway.refuse(400, error="invalid_request")
    small_gateway.answer(token_type="N_A")
    for _ in range(2):
        with pytest.raises(ClientError) as caught:
            await ask()
        shown += [repr(caught.value), "".join(traceback.format_exception(caught.value))]
    shown.append(caplog.text)
    assert not any(secret in text for text in shown for secret in (SECRET, "at.1", "at.3"))


@pytest.mark.parametrize("token", ["", "two words", "line\nbreak", "x" * 20000, "ünicode", "a\x00b"])
async def test_what_is_no_token_is_not_sent(ask, small_gateway, token):
    with pytest.raises(NoWorkloadToken) as caught:
        await ask(token=token)
    assert small_gateway.forms == []
    assert not token or token not in str(caught.value)


async def test_a_token_goes_into_the_body_and_never_into_the_url(ask, small_gateway):
    await ask()
    assert not any(SECRET in path for path in small_gateway.paths)
    assert small_gateway.headers[0]["Content-Type"] == "application/x-www-form-urlencoded"
    assert SECRET not in json.dumps(dict(small_gateway.headers[0]))
