"""The client certificate of a request, over real TLS connections, behind a real nginx, and in headers that lie."""

import ssl
from base64 import b64encode
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, get_args
from unittest.mock import Mock
from urllib.parse import quote

import aiohttp
import pytest
import trustme
import uvloop
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from gateway.http.client_certificate import (
    MAX_HEADER_CHARACTERS,
    ClientCertificateOf,
    Header,
    client_certificate,
    parse_xfcc_element,
)
from gateway.http.tls import tls_context
from gateway.model import ClientCertificate
from gateway.oauth.errors import Refusal
from gateway.policy.problems import ConfigurationProblems
from gateway.settings import load_settings
from tests.support.certificates import Issued, authority, common_name, issue, san
from tests.support.nginx_server import nginx_server
from tests.support.parts import free_port

SERVER_CA = trustme.CA()
CA = authority()
OF_OUR_CA = issue(common_name("backup"), san(dns=["backup.example.com"]), by=CA)
OF_ANOTHER_CA = issue(common_name("backup"), by=authority("Another CA"))
SELF_SIGNED = issue(common_name("self-signed"))
ANOTHER_SELF_SIGNED = issue(common_name("self-signed"))

PROXY = "127.0.0.1"
HEADERS: dict[Header, str] = {
    "nginx": "X-SSL-Client-Cert",
    "ingress-nginx": "ssl-client-cert",
    "envoy": "X-Forwarded-Client-Cert",
    "rfc9440": "Client-Cert",
}


# ---------------------------------------------------------------- a server that tells what it saw


def answer(of: ClientCertificateOf) -> Any:
    async def handle(request: web.Request) -> web.Response:
        try:
            found = of(request)
        except Refusal as refusal:
            return web.json_response({"refused": refusal.reason.code}, status=refusal.reason.status)
        if found is None:
            return web.json_response({"certificate": None})
        return web.json_response({"certificate": found.der.hex(), "chain_verified": found.chain_verified})

    return handle


@asynccontextmanager
async def serving(of: ClientCertificateOf, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """An aiohttp server on loopback; the value is its port."""
    application = web.Application()
    application.router.add_get("/", answer(of))
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def client_context(folder: Path, certificate: Issued | None, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    SERVER_CA.configure_trust(context)
    if certificate is not None:
        context.load_cert_chain(certificate.written(folder))
    if version is not None:
        context.maximum_version = version
    return context


async def seen(port: int, tls: ssl.SSLContext | None = None, headers: Any = None) -> Any:
    """What the server says that it saw."""
    url = f"https://localhost:{port}/" if tls else f"http://127.0.0.1:{port}/"
    async with aiohttp.ClientSession() as session, session.get(url, ssl=tls or True, headers=headers) as response:
        return await response.json()


def told(certificate: Issued, *, chain_verified: bool) -> dict[str, Any]:
    return {"certificate": certificate.der.hex(), "chain_verified": chain_verified}


NOTHING = {"certificate": None}
REFUSED = {"refused": "invalid_client_certificate"}


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """The server's own PEM files, the CA of its clients, and the self-signed certificates that it knows."""
    issued = SERVER_CA.issue_cert("localhost")
    issued.private_key_pem.write_to_path(str(tmp_path / "tls.key"))
    for pem in issued.cert_chain_pems:
        pem.write_to_path(str(tmp_path / "tls.crt"), append=True)
    (tmp_path / "clients.pem").write_bytes(CA.pem)
    (tmp_path / "pinned.pem").write_bytes(SELF_SIGNED.pem + OF_ANOTHER_CA.pem)
    return {
        "certificate": tmp_path / "tls.crt",
        "key": tmp_path / "tls.key",
        "client_ca": tmp_path / "clients.pem",
        "client_certificates": tmp_path / "pinned.pem",
    }


# ---------------------------------------------------------------- our own TLS


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_what_the_handshake_proved_is_the_clients_certificate(
    files: dict[str, Path], tmp_path: Path, version: ssl.TLSVersion
):
    async with serving(client_certificate(), tls_context(**files)) as port:
        for certificate, expected in (
            (None, NOTHING),
            (OF_OUR_CA, told(OF_OUR_CA, chain_verified=True)),
            (SELF_SIGNED, told(SELF_SIGNED, chain_verified=False)),
            (OF_ANOTHER_CA, told(OF_ANOTHER_CA, chain_verified=False)),
        ):
            assert await seen(port, client_context(tmp_path, certificate, version)) == expected


def test_uvloop_tells_the_same(files: dict[str, Path], tmp_path: Path):
    async def run() -> None:
        async with serving(client_certificate(), tls_context(**files)) as port:
            assert await seen(port, client_context(tmp_path, None)) == NOTHING
            for certificate, verified in ((OF_OUR_CA, True), (SELF_SIGNED, False)):
                told_here = await seen(port, client_context(tmp_path, certificate))
                assert told_here == told(certificate, chain_verified=verified)

    uvloop.run(run())


@pytest.mark.parametrize("with_ca", [True, False])
async def test_a_certificate_that_nobody_vouches_for_ends_the_handshake(
    files: dict[str, Path], tmp_path: Path, with_ca: bool
):
    if not with_ca:
        del files["client_ca"]
    forged = issue(common_name("backup"), by=SELF_SIGNED)
    same_key_and_name = issue(SELF_SIGNED.certificate.subject, key=SELF_SIGNED.key)
    expired = issue(common_name("self-signed"), end=SELF_SIGNED.certificate.not_valid_before_utc.replace(year=2021))
    async with serving(client_certificate(), tls_context(**files)) as port:
        for certificate in (ANOTHER_SELF_SIGNED, forged, same_key_and_name, expired):
            with pytest.raises(aiohttp.ClientError):
                await seen(port, client_context(tmp_path, certificate))


async def test_an_expired_certificate_is_not_let_in_though_it_is_known(files: dict[str, Path], tmp_path: Path):
    expired = issue(common_name("old"), end=SELF_SIGNED.certificate.not_valid_before_utc.replace(year=2021))
    files["client_certificates"].write_bytes(expired.pem)
    async with serving(client_certificate(), tls_context(**files)) as port:
        with pytest.raises(aiohttp.ClientError):
            await seen(port, client_context(tmp_path, expired))


async def test_without_cas_no_certificate_is_asked_for(files: dict[str, Path], tmp_path: Path):
    async with serving(client_certificate(), tls_context(files["certificate"], files["key"])) as port:
        assert await seen(port, client_context(tmp_path, OF_OUR_CA)) == NOTHING


async def test_older_tls_than_1_2_is_not_spoken(files: dict[str, Path], tmp_path: Path):
    context = client_context(tmp_path, None)
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="deprecated"):
        context.minimum_version = ssl.TLSVersion.TLSv1
    with pytest.warns(DeprecationWarning, match="deprecated"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    async with serving(client_certificate(), tls_context(**files)) as port:
        with pytest.raises(aiohttp.ClientError):
            await seen(port, context)


@pytest.mark.parametrize("ca", [True, None])
def test_a_certificate_that_may_sign_others_is_not_trusted_for_itself(files: dict[str, Path], ca: bool | None):
    files["client_certificates"].write_bytes(SELF_SIGNED.pem + issue(common_name("mine"), ca=ca).pem)
    with pytest.raises(OSError, match=r"pinned\.pem: certificate 2 may sign others; .*CA:FALSE"):
        tls_context(**files)


@pytest.mark.parametrize("name", ["certificate", "key", "client_ca", "client_certificates"])
def test_a_file_that_cannot_be_used_is_named(files: dict[str, Path], name: str):
    for content in (None, b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
        files[name].unlink() if content is None else files[name].write_bytes(content)
        with pytest.raises(OSError, match=f"tls.{name} {files[name]}"):
            tls_context(**files)


# ---------------------------------------------------------------- headers


def escaped(certificate: Issued) -> str:
    """As nginx writes it."""
    return quote(certificate.pem, safe="")


def xfcc(certificate: Issued, rest: str = "") -> str:
    """As Envoy writes it."""
    digest = sha256(certificate.der).hexdigest()
    return f'By=spiffe://example.com/gateway;Hash={digest};Cert="{escaped(certificate)}"{rest}'


def header_of(kind: Header, certificate: Issued) -> list[tuple[str, str]]:
    """The headers by which an honest proxy hands on a certificate whose chain it verified."""
    if kind == "envoy":
        return [(HEADERS[kind], xfcc(certificate, ';Subject="CN=backup,O=\\"Example\\"";URI=;DNS=a.example'))]
    if kind == "rfc9440":
        return [(HEADERS[kind], f":{b64encode(certificate.der).decode()}:")]
    verify = "X-SSL-Client-Verify" if kind == "nginx" else "ssl-client-verify"
    return [(HEADERS[kind], escaped(certificate)), (verify, "SUCCESS")]


def read(
    headers: Sequence[tuple[str, str]], kind: Header, *, peer: str | None = PROXY, verified: bool = True
) -> ClientCertificate | None:
    """What is read of a request from a peer, where 127.0.0.0/8 and fd00::/8 are the proxies."""
    of = client_certificate(["127.0.0.0/8", "fd00::/8"], kind, chain_verified_by_proxy=verified)
    plain = Mock(get_extra_info=lambda name, default=None: default)
    request = make_mocked_request("GET", "/", headers=CIMultiDict(headers), transport=plain)
    return of(request.clone(remote=peer or ""))


def refused(headers: Sequence[tuple[str, str]], kind: Header) -> bool:
    with pytest.raises(Refusal) as caught:
        read(headers, kind)
    assert caught.value.reason.code == "invalid_client_certificate"
    assert all(value not in str(caught.value) for _, value in headers if len(value) > 20)
    return True


@pytest.mark.parametrize("kind", HEADERS)
def test_a_named_proxys_header_is_the_clients_certificate(kind: Header):
    headers = header_of(kind, OF_OUR_CA)
    assert read(headers, kind) == ClientCertificate(OF_OUR_CA.der, chain_verified=True)
    assert read(headers, kind, verified=False) == ClientCertificate(OF_OUR_CA.der, chain_verified=False)
    for peer in ("127.0.0.9", "fd00::1", "::ffff:127.0.0.1", "fd00::1%eth0"):
        assert read(headers, kind, peer=peer) is not None


@pytest.mark.parametrize("kind", HEADERS)
def test_anybody_elses_header_is_never_believed(kind: Header):
    for peer in ("192.0.2.1", "128.0.0.1", "::1", "::ffff:192.0.2.1", "fe80::1%127.0.0.1", "", "unix:", None):
        assert read(header_of(kind, OF_OUR_CA), kind, peer=peer) is None
        assert read([(HEADERS[kind], "%%%")], kind, peer=peer) is None, "nor does it trouble anybody"


@pytest.mark.parametrize("kind", HEADERS)
def test_the_header_of_another_kind_of_proxy_is_never_believed(kind: Header):
    others = [pair for other in HEADERS if other != kind for pair in header_of(other, OF_OUR_CA)]
    assert read(others, kind) is None


@pytest.mark.parametrize("kind", HEADERS)
def test_a_header_that_comes_twice_is_refused(kind: Header):
    honest = header_of(kind, OF_OUR_CA)
    for pair in honest:
        assert refused([*honest, pair], kind)
        assert refused([(pair[0].lower(), "x"), *honest], kind)


@pytest.mark.parametrize("kind", HEADERS)
def test_an_oversized_header_is_refused(kind: Header):
    (name, value), *rest = header_of(kind, OF_OUR_CA)
    assert refused([(name, value + " " * MAX_HEADER_CHARACTERS), *rest], kind)


@pytest.mark.parametrize("kind", HEADERS)
def test_without_a_certificate_there_is_none(kind: Header):
    assert read([], kind) is None
    (name, _), *rest = header_of(kind, OF_OUR_CA)
    assert read([(name, ""), *[(other, "NONE") for other, _ in rest]], kind) is None


@pytest.mark.parametrize(
    ("certificate", "verify"),
    [
        *[(escaped(OF_OUR_CA), verify) for verify in (None, "", "NONE", "success", "SUCCESS ", "SUCCESS, FAILED")],
        (None, "SUCCESS"),
        ("", "SUCCESS"),
        (None, "FAILED:x"),
    ],
)
def test_nginx_headers_that_contradict_each_other_are_refused(certificate: str | None, verify: str | None):
    headers = [("X-SSL-Client-Cert", certificate), ("X-SSL-Client-Verify", verify)]
    assert refused([(name, value) for name, value in headers if value is not None], "nginx")


def test_a_chain_that_nginx_did_not_verify_is_not_verified():
    headers = [("X-SSL-Client-Cert", escaped(SELF_SIGNED)), ("X-SSL-Client-Verify", "FAILED:self-signed certificate")]
    assert read(headers, "nginx") == ClientCertificate(SELF_SIGNED.der, chain_verified=False)


PEM = OF_OUR_CA.pem.decode()


@pytest.mark.parametrize(
    "text",
    [
        PEM.replace("\n", " ").strip(),
        quote(PEM, safe="") + "%",
        quote(PEM, safe="") + "%zz",
        quote(PEM + PEM, safe=""),
        quote(PEM + "x", safe=""),
        quote("x" + PEM, safe=""),
        quote(PEM.replace("CERTIFICATE", "X509 CERTIFICATE"), safe=""),
        quote(PEM.replace("CERTIFICATE", "PUBLIC KEY"), safe=""),
        quote(PEM.replace("MII", "MI-"), safe=""),
        quote(PEM.replace("MII", "MI="), safe=""),
        quote(PEM.replace("MII", "M"), safe=""),
        quote("-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n", safe=""),
        quote("-----BEGIN CERTIFICATE-----\n\n-----END CERTIFICATE-----\n", safe=""),
        quote(b"\xff\x00"),
        "é",
        "x",
    ],
)
def test_what_is_not_one_escaped_pem_certificate_is_refused(text: str):
    assert refused([("X-SSL-Client-Cert", text), ("X-SSL-Client-Verify", "SUCCESS")], "nginx")
    assert refused([("X-Forwarded-Client-Cert", f'Hash={sha256(OF_OUR_CA.der).hexdigest()};Cert="{text}"')], "envoy")


def test_plus_signs_are_no_spaces():
    text = quote(PEM, safe="+/=")  # as some proxies write it
    assert "+" in quote(issue_with_plus().pem, safe="+")
    assert read([("X-SSL-Client-Cert", text), ("X-SSL-Client-Verify", "SUCCESS")], "nginx") is not None


def issue_with_plus() -> Issued:
    """A certificate in whose PEM there is a plus sign."""
    return next(one for one in iter(lambda: issue(key=SELF_SIGNED.key), None) if b"+" in one.pem)


@pytest.mark.parametrize(
    "text",
    ["x", "::", ":x:", f":{b64encode(OF_OUR_CA.der).decode()}", f"{b64encode(OF_OUR_CA.der).decode()}:", ":MAA=:",
     f":{b64encode(OF_OUR_CA.der).decode()}:;a=1", f":{b64encode(OF_OUR_CA.der).decode()}:, ::",
     f":{b64encode(OF_OUR_CA.der + b'x').decode()}:", ":" + quote(PEM) + ":", '"MAA="'],
)  # fmt: skip
def test_what_is_no_byte_sequence_of_one_certificate_is_refused(text: str):
    assert refused([("Client-Cert", text)], "rfc9440")


# ---------------------------------------------------------------- Envoy's X-Forwarded-Client-Cert

VICTIM = xfcc(OF_OUR_CA)
MINE = xfcc(SELF_SIGNED)


@pytest.mark.parametrize(
    "text",
    [
        f"{VICTIM},{MINE}",
        f"{MINE},{VICTIM}",
        MINE + f";URI=spiffe://a,{VICTIM}",  # a name in a certificate of my own making, which Envoy does not quote
        MINE + f";DNS=a,{VICTIM}",
        MINE + f';URI=a;Cert="{escaped(OF_OUR_CA)}"',
        MINE + f";URI=a;Hash={sha256(OF_OUR_CA.der).hexdigest()}",
        MINE + f";URI=a;hash={sha256(OF_OUR_CA.der).hexdigest()};CERT={escaped(OF_OUR_CA)}",
        f'Hash={sha256(SELF_SIGNED.der).hexdigest()};Subject="CN=x";URI=a;Cert="{escaped(OF_OUR_CA)}"',
        f"Hash={sha256(SELF_SIGNED.der).hexdigest()};URI=a;{VICTIM}",
        f'By="a,{MINE}',  # a quote left open by the client, where Envoy appends
        f'By="a",{MINE}',
        f'Cert="{escaped(OF_OUR_CA)}"',
        f'Hash=;Cert="{escaped(OF_OUR_CA)}"',
        VICTIM + ";",
        ";" + VICTIM,
        VICTIM + ",",
        "," + VICTIM,
        VICTIM + "x",
        VICTIM + ';Subject="a"b',
        VICTIM + ';Subject=a"b"',
        VICTIM + ';Subject="a\\"',
        VICTIM + ";Subject",
        VICTIM + ";=x",
        " " + VICTIM,
        VICTIM.replace("Cert=", "Cert ="),
        '[{"hash":"x"}]',
    ],
)
def test_an_xfcc_header_that_could_be_forged_or_misread_is_refused(text: str):
    assert refused([("X-Forwarded-Client-Cert", text)], "envoy")


def test_an_xfcc_header_without_the_certificate_holds_none():
    text = f'By=spiffe://a;Hash={sha256(OF_OUR_CA.der).hexdigest()};Subject="";URI=spiffe://b'
    assert read([("X-Forwarded-Client-Cert", text)], "envoy") is None


VALUES = st.text(alphabet=st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=20)
PAIRS = st.dictionaries(st.from_regex("[a-z]{1,6}", fullmatch=True), VALUES, min_size=1, max_size=6)


def quoted(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


@given(PAIRS)
def test_whatever_is_quoted_in_an_xfcc_element_is_read_as_it_was(pairs: dict[str, str]):
    assert parse_xfcc_element(";".join(f"{key}={quoted(value)}" for key, value in pairs.items())) == pairs


@given(PAIRS, PAIRS)
def test_two_xfcc_elements_are_never_read_as_one(one: dict[str, str], other: dict[str, str]):
    texts = [";".join(f"{key}={quoted(value)}" for key, value in pairs.items()) for pairs in (one, other)]
    with pytest.raises(Refusal):
        parse_xfcc_element(",".join(texts))


@given(st.text(alphabet='Hashcert=;,"\\x', max_size=30))
def test_any_xfcc_text_is_one_element_or_refused(text: str):
    try:
        found = parse_xfcc_element(text)
    except Refusal:
        return
    assert found is not None


@given(st.text(alphabet='a=;,"\\', max_size=20))
def test_nothing_that_a_client_puts_before_envoys_element_becomes_part_of_what_is_believed(before: str):
    """Where Envoy appends, the whole is refused or what was before it is not there."""
    try:
        found = read([("X-Forwarded-Client-Cert", before + "," + MINE)], "envoy")
    except Refusal:
        return
    assert found == ClientCertificate(SELF_SIGNED.der, chain_verified=True)


# ---------------------------------------------------------------- over connections


@pytest.mark.parametrize("kind", HEADERS)
async def test_a_client_that_is_no_proxy_cannot_say_which_certificate_it_has(
    kind: Header, files: dict[str, Path], tmp_path: Path
):
    of = client_certificate(["10.0.0.0/8"], kind, chain_verified_by_proxy=True)
    lie = header_of(kind, OF_OUR_CA)
    async with serving(of) as port:
        assert await seen(port, headers=lie) == NOTHING
        assert await seen(port, headers=[*lie, ("X-Forwarded-For", "10.0.0.1")]) == NOTHING
    async with serving(of, tls_context(**files)) as port:
        tls = client_context(tmp_path, SELF_SIGNED)
        assert await seen(port, tls, lie) == told(SELF_SIGNED, chain_verified=False)


async def test_a_proxys_own_certificate_is_never_its_clients(files: dict[str, Path], tmp_path: Path):
    of = client_certificate(["127.0.0.0/8"], "rfc9440", chain_verified_by_proxy=True)
    async with serving(of, tls_context(**files)) as port:
        tls = client_context(tmp_path, OF_OUR_CA)
        assert await seen(port, tls) == NOTHING
        headers = header_of("rfc9440", SELF_SIGNED)
        assert await seen(port, tls, headers) == told(SELF_SIGNED, chain_verified=True)


# ---------------------------------------------------------------- settings


def test_the_settings_name_the_proxies_and_the_form_of_their_header(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GATEWAY_ISSUER", "https://sts.example.com")
    monkeypatch.setenv("GATEWAY_CLIENT_CERTIFICATES__PROXIES", "10.0.0.0/8, fd00::/8")
    with pytest.raises(ConfigurationProblems, match=r"client_certificates\.header: is missing"):
        load_settings(None)
    for kind in get_args(Header):
        monkeypatch.setenv("GATEWAY_CLIENT_CERTIFICATES__HEADER", kind)
        named = load_settings(None).client_certificates
        assert named is not None
        assert (named.proxies, named.header, named.chain_verified_by_proxy) == (["10.0.0.0/8", "fd00::/8"], kind, False)
        assert client_certificate(named.proxies, named.header)


@pytest.mark.parametrize(
    "section", ["{header: nginx}", "{proxies: [], header: nginx}", "{proxies: [10.0.0.1/8], header: nginx}",
                "{proxies: [10.0.0.0/8], header: haproxy}"],
)  # fmt: skip
def test_proxies_that_are_not_named_are_a_mistake(section: str, tmp_path: Path):
    (tmp_path / "gateway.yaml").write_text(f"issuer: https://sts.example.com\nclient_certificates: {section}\n")
    with pytest.raises(ConfigurationProblems, match="client_certificates"):
        load_settings(tmp_path / "gateway.yaml")


def test_the_files_of_tls_are_relative_to_the_settings(tmp_path: Path):
    text = "issuer: https://sts.example.com\ntls: {certificate: a, key: b, client_certificates: c.pem}\n"
    (tmp_path / "gateway.yaml").write_text(text)
    tls = load_settings(tmp_path / "gateway.yaml").tls
    assert tls is not None
    assert tls.client_certificates == tmp_path / "c.pem"


# ---------------------------------------------------------------- a real nginx

NGINX = """
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {folder}/tls.crt;
        ssl_certificate_key {folder}/tls.key;
        ssl_client_certificate {folder}/clients.pem;
        ssl_verify_client optional_no_ca;
        location / {{
            proxy_pass http://127.0.0.1:{upstream};
            proxy_set_header X-SSL-Client-Cert $ssl_client_escaped_cert;
            proxy_set_header X-SSL-Client-Verify $ssl_client_verify;
        }}
    }}
"""


@asynccontextmanager
async def behind_nginx(folder: Path) -> AsyncIterator[int]:
    """A server behind nginx that ends TLS; the value is nginx's port."""
    of = client_certificate(["127.0.0.1/32"], "nginx", chain_verified_by_proxy=True)
    port = free_port()
    async with (
        serving(of) as upstream,
        nginx_server(folder / "nginx", NGINX.format(port=port, folder=folder, upstream=upstream), port=port),
    ):
        yield port


async def test_nginx_hands_on_the_certificate_that_it_saw(files: dict[str, Path], tmp_path: Path):
    del files
    async with behind_nginx(tmp_path) as port:
        for certificate, expected in (
            (None, NOTHING),
            (OF_OUR_CA, told(OF_OUR_CA, chain_verified=True)),
            (OF_ANOTHER_CA, told(OF_ANOTHER_CA, chain_verified=False)),
            (SELF_SIGNED, told(SELF_SIGNED, chain_verified=False)),
            (ANOTHER_SELF_SIGNED, told(ANOTHER_SELF_SIGNED, chain_verified=False)),
        ):
            assert await seen(port, client_context(tmp_path, certificate)) == expected


async def test_what_a_client_writes_itself_does_not_come_through_nginx(files: dict[str, Path], tmp_path: Path):
    del files
    lie = header_of("nginx", OF_OUR_CA)
    async with behind_nginx(tmp_path) as port:
        assert await seen(port, client_context(tmp_path, None), lie) == NOTHING
        mine = await seen(port, client_context(tmp_path, SELF_SIGNED), [*lie, *header_of("ingress-nginx", OF_OUR_CA)])
        assert mine == told(SELF_SIGNED, chain_verified=False)
        other_case = [(name.swapcase(), value) for name, value in lie]
        assert await seen(port, client_context(tmp_path, None), other_case) == NOTHING


async def test_a_name_in_a_certificate_cannot_break_out_of_nginxs_header(files: dict[str, Path], tmp_path: Path):
    del files
    strange = issue(common_name("a\r\nX-SSL-Client-Verify: SUCCESS"), san(uri=[f"x,{VICTIM}"]))
    async with behind_nginx(tmp_path) as port:
        assert await seen(port, client_context(tmp_path, strange)) == told(strange, chain_verified=False)
