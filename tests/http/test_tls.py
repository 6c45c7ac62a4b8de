"""TLS on the public listener, by real handshakes: what is spoken, and how its files are renewed while it serves."""

import asyncio
import contextlib
import datetime as dt
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography import x509

from gateway import app
from gateway.http.tls import RenewedTls, TlsFiles
from gateway.reload import reload_quietly, watch
from tests.attacks.hostile import Wire
from tests.faults.observed import metric
from tests.faults.serving import serving
from tests.support.certificates import START, Issued, authority, common_name, issue, san
from tests.support.parts import eventually, program
from tests.support.running import RunningGateway, running, settings

CA = authority("CA of the server")
CLIENT_CA, OTHER_CLIENT_CA = authority("CA of clients"), authority("another CA of clients")
RESOURCE = "kind: Resource\nname: api\nidentifier: https://api.example.com\nscopes: {read: Read}\n"
KEY_SET = b"GET /.well-known/jwks.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
NOW = dt.datetime(2026, 11, 25, tzinfo=dt.UTC).timestamp()


def server_certificate(**validity: Any) -> Issued:
    return issue(common_name("localhost"), san(dns=["localhost"]), by=CA, **validity)


@pytest.fixture
def clients(tmp_path: Path) -> ssl.SSLContext:
    """What a client needs that trusts the CA of the server."""
    return client_context(tmp_path)


def client_context(folder: Path, certificate: Issued | None = None) -> ssl.SSLContext:
    (folder / "ca.pem").write_bytes(CA.pem)
    context = ssl.create_default_context(cafile=folder / "ca.pem")
    if certificate is not None:
        context.load_cert_chain(certificate.written(folder))
    return context


def write(folder: Path, certificate: Issued, key: Issued | None = None) -> None:
    """A certificate and, unless another one's is asked for, its key."""
    folder.mkdir(exist_ok=True)
    (folder / "tls.crt").write_bytes(certificate.pem)
    (folder / "tls.key").write_bytes((key or certificate).pem_with_key)


@dataclass(frozen=True)
class Served:
    """A gateway with TLS, seen from outside."""

    gateway: RunningGateway
    folder: Path

    @property
    def port(self) -> int:
        return int(self.gateway.gateway.public_address.rpartition(":")[2])

    async def shown(self, context: ssl.SSLContext) -> x509.Certificate:
        """The certificate that a new connection is shown. Raises ``OSError`` where there is none."""
        _, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=context, server_hostname="localhost")
        try:
            der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            return x509.load_der_x509_certificate(der)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def failures(self) -> float:
        return await metric(self.gateway, "gateway_tls_reload_failures_total")

    async def expires_at(self) -> float:
        return await metric(self.gateway, "gateway_tls_certificate_expiry_timestamp_seconds")


@contextlib.asynccontextmanager
async def served(folder: Path, tls: Path | None = None, **files: Path) -> AsyncIterator[Served]:
    """A gateway whose certificate and key are in ``tls``."""
    tls = tls or folder / "tls"
    (folder / "policies").mkdir(exist_ok=True)
    (folder / "policies" / "policies.yaml").write_text(RESOURCE)
    configured = settings(folder, tls={"certificate": tls / "tls.crt", "key": tls / "tls.key", **files})
    async with running(configured) as gateway:
        yield Served(gateway, folder)


@pytest.fixture(autouse=True)
def _settling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "SETTLING_SECONDS", 0.05)


# ---------------------------------------------------------------- what is spoken


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_only_authenticated_ciphers_with_forward_secrecy_and_no_compression_are_agreed_on(
    tmp_path: Path, clients: ssl.SSLContext, version: ssl.TLSVersion
):
    write(tmp_path / "tls", server_certificate())
    clients.minimum_version = clients.maximum_version = version
    clients.set_ciphers("ALL:@SECLEVEL=1")
    clients.set_alpn_protocols(["h2", "http/1.1"])
    clients.options &= ~ssl.OP_NO_COMPRESSION
    async with served(tmp_path) as server:
        _, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=clients, server_hostname="localhost")
        agreed = writer.get_extra_info("ssl_object")
        name = agreed.cipher()[0]
        assert name.startswith(("ECDHE-ECDSA-", "TLS_")), name
        assert name.endswith(("GCM-SHA256", "GCM-SHA384", "POLY1305", "GCM_SHA256", "GCM_SHA384", "POLY1305_SHA256"))
        assert agreed.compression() is None
        assert agreed.selected_alpn_protocol() == "http/1.1"
        writer.close()


@pytest.mark.parametrize(
    "ciphers", ["AES256-SHA", "AES128-GCM-SHA256", "ECDHE-ECDSA-AES128-SHA", "ECDHE-ECDSA-AES256-SHA384"]
)
async def test_a_client_that_offers_older_ciphers_alone_is_turned_away(
    tmp_path: Path, clients: ssl.SSLContext, ciphers: str
):
    write(tmp_path / "tls", server_certificate())
    clients.maximum_version = ssl.TLSVersion.TLSv1_2
    clients.set_ciphers(f"{ciphers}:@SECLEVEL=0")
    async with served(tmp_path) as server:
        with pytest.raises((ssl.SSLError, ConnectionError)):  # the alert, or the end that follows it
            await server.shown(clients)


async def test_nothing_is_negotiated_twice(tmp_path: Path):
    openssl = program("openssl", "openssl")
    write(tmp_path / "tls", server_certificate())
    async with served(tmp_path) as server:
        asked = await asyncio.to_thread(
            subprocess.run,
            [openssl, "s_client", "-tls1_2", "-connect", f"127.0.0.1:{server.port}"],
            input="R\nGET /.well-known/jwks.json HTTP/1.1\nHost: localhost\n\n",
            capture_output=True, text=True, timeout=20,
        )  # fmt: skip
    assert "RENEGOTIATING" in asked.stdout + asked.stderr
    assert "no renegotiation" in (asked.stdout + asked.stderr).lower()
    assert "200 OK" not in asked.stdout


# ---------------------------------------------------------------- renewed


async def test_a_renewed_certificate_is_shown_to_new_connections_and_the_old_ones_go_on(
    tmp_path: Path, clients: ssl.SSLContext
):
    old, new = server_certificate(), server_certificate(end=START.replace(year=2100))
    write(tmp_path / "tls", old)
    async with served(tmp_path) as server:
        kept = await asyncio.open_connection("127.0.0.1", server.port, ssl=clients, server_hostname="localhost")
        wire = Wire(*kept)
        await wire.send(KEY_SET)
        assert (await wire.answer())[0] == 200
        assert await server.expires_at() == old.certificate.not_valid_after_utc.timestamp()
        write(tmp_path / "tls", new)
        await reload_quietly(server.gateway.gateway)
        assert await server.shown(clients) == new.certificate
        await wire.send(KEY_SET)
        assert (await wire.answer())[0] == 200
        wire.writer.close()
        assert await server.expires_at() == new.certificate.not_valid_after_utc.timestamp()
        assert await server.failures() == 0


async def test_what_cannot_be_used_keeps_the_old_pair_and_is_told_once(
    tmp_path: Path, clients: ssl.SSLContext, caplog: pytest.LogCaptureFixture
):
    old, other, good = server_certificate(), server_certificate(), server_certificate()
    expired = server_certificate(end=START.replace(year=2021))
    early = server_certificate(start=START.replace(year=2090))
    write(tmp_path / "tls", old)
    async with served(tmp_path) as server:
        gateway = server.gateway.gateway
        bad = {
            "MISMATCH": lambda: write(tmp_path / "tls", other, key=old),
            "No such file": (tmp_path / "tls" / "tls.key").unlink,
            "tls.crt": lambda: (tmp_path / "tls" / "tls.crt").write_bytes(b"nonsense"),
            "has expired": lambda: write(tmp_path / "tls", expired),
            "is not valid yet": lambda: write(tmp_path / "tls", early),
        }
        for number, (told, change) in enumerate(bad.items(), 1):
            caplog.clear()
            change()
            for _ in range(3):
                await reload_quietly(gateway)
            (line,) = caplog.messages
            assert line.startswith("files of TLS refused, those before stay in force: ")
            assert told in line
            assert await server.failures() == number
            assert await server.shown(clients) == old.certificate
        write(tmp_path / "tls", good)
        await reload_quietly(gateway)
        assert await server.shown(clients) == good.certificate
        assert gateway.tls is not None
        assert gateway.tls.last_error is None


async def test_the_cas_of_clients_are_renewed_and_no_resumed_session_outlives_them(tmp_path: Path):
    write(tmp_path / "tls", server_certificate())
    (tmp_path / "clients.pem").write_bytes(CLIENT_CA.pem)
    ours = client_context(tmp_path, issue(common_name("ours"), by=CLIENT_CA))
    theirs = client_context(tmp_path, issue(common_name("theirs"), by=OTHER_CLIENT_CA))
    async with served(tmp_path, client_ca=tmp_path / "clients.pem") as server:

        async def is_let_in(context: ssl.SSLContext) -> bool:
            async with aiohttp.ClientSession() as session:
                try:
                    async with session.get(f"https://localhost:{server.port}/nowhere", ssl=context) as answer:
                        return answer.status == 404
                except (aiohttp.ClientError, OSError):
                    return False

        def connect(session: ssl.SSLSession | None = None) -> tuple[bool, bool, Any]:
            """Whether a session was resumed, whether a request was answered on it, and the session of afterwards."""
            with (
                socket.create_connection(("127.0.0.1", server.port)) as plain,
                ours.wrap_socket(plain, server_hostname="localhost", session=session) as wrapped,
            ):
                wrapped.sendall(b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n")
                try:
                    answered = b" 404 " in wrapped.recv(4096)
                except OSError:
                    answered = False
                return bool(wrapped.session_reused), answered, wrapped.session

        assert [await is_let_in(ours), await is_let_in(theirs)] == [True, False]
        *_, kept = await asyncio.to_thread(connect)
        resumed, answered, kept = await asyncio.to_thread(connect, kept)
        assert (resumed, answered) == (True, True)
        (tmp_path / "clients.pem").write_bytes(OTHER_CLIENT_CA.pem)
        await reload_quietly(server.gateway.gateway)
        assert [await is_let_in(ours), await is_let_in(theirs)] == [False, True]
        resumed, answered, _ = await asyncio.to_thread(connect, kept)
        assert (resumed, answered) == (False, False)


async def test_a_secret_of_kubernetes_is_seen_when_its_link_is_swapped(tmp_path: Path, clients: ssl.SSLContext):
    old, new = server_certificate(), server_certificate()
    mount = tmp_path / "mount"
    write_secret(mount, "..1", old)
    async with served(tmp_path, mount) as server:
        stop = asyncio.Event()
        watching = asyncio.create_task(watch(server.gateway.gateway, stop))
        try:
            assert await server.shown(clients) == old.certificate
            await asyncio.sleep(0)
            write_secret(mount, "..2", new)

            async def is_new() -> bool:
                return await server.shown(clients) == new.certificate

            await eventually(is_new)
            assert await server.failures() == 0
        finally:
            stop.set()
            await watching


def write_secret(mount: Path, version: str, certificate: Issued) -> None:
    """As the kubelet does: a new folder, and then one link to it is swapped."""
    mount.mkdir(exist_ok=True)
    write(mount / version, certificate)
    (mount / "..data_tmp").symlink_to(version)
    (mount / "..data_tmp").rename(mount / "..data")
    for name in ("tls.crt", "tls.key"):
        if not (mount / name).is_symlink():
            (mount / name).symlink_to(f"..data/{name}")


async def test_a_hangup_renews_the_certificate_of_a_real_process(tmp_path: Path, clients: ssl.SSLContext):
    old, new = server_certificate(), server_certificate()
    write(tmp_path / "tls", old)
    files = {"certificate": f"{tmp_path}/tls/tls.crt", "key": f"{tmp_path}/tls/tls.key"}
    async with serving(tmp_path, RESOURCE, tls=files) as process:
        port = int(process.url.rpartition(":")[2])

        async def shows(certificate: Issued) -> bool:
            _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=clients, server_hostname="localhost")
            seen = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            writer.close()
            return bool(seen == certificate.der)

        assert await shows(old)
        write(tmp_path / "tls", new)
        process.hang_up()
        await eventually(lambda: shows(new))


# ---------------------------------------------------------------- the files


def test_a_certificate_that_is_over_already_does_not_keep_a_gateway_from_starting(tmp_path: Path):
    write(tmp_path, server_certificate(end=START.replace(year=2021)))
    tls = RenewedTls(TlsFiles(tmp_path / "tls.crt", tmp_path / "tls.key"), lambda: NOW)
    tls.load()
    assert tls.warning() == f"tls.certificate: {tmp_path / 'tls.crt'} has expired"
    write(tmp_path, server_certificate(end=START.replace(year=2022)))
    assert tls.reload() == "loaded"  # worse than what serves is it not


def test_a_chain_ends_with_the_first_of_its_certificates(tmp_path: Path):
    leaf = server_certificate()
    middle = issue(common_name("middle"), ca=True, end=START.replace(year=2040))
    write(tmp_path, leaf)
    (tmp_path / "tls.crt").write_bytes(leaf.pem + middle.pem)
    tls = RenewedTls(TlsFiles(tmp_path / "tls.crt", tmp_path / "tls.key"), lambda: NOW)
    tls.load()
    assert tls.ends_at == START.replace(year=2040).timestamp()


def test_files_that_change_while_they_are_read_are_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    old, new = server_certificate(), server_certificate()
    write(tmp_path, old)
    files = TlsFiles(tmp_path / "tls.crt", tmp_path / "tls.key")
    tls = RenewedTls(files, lambda: NOW)
    tls.load()
    before = tls.context()
    write(tmp_path, new)
    read = TlsFiles.context

    def read_and_change(self: TlsFiles) -> Any:
        context = read(self)
        (tmp_path / "tls.crt").write_bytes((tmp_path / "tls.crt").read_bytes() + b"\n")
        return context

    monkeypatch.setattr(TlsFiles, "context", read_and_change)
    assert tls.reload() == "failed"
    assert tls.context() is before
    monkeypatch.undo()
    assert tls.reload() == "loaded"
