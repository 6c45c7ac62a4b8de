"""Places in the chain, and when checkpoints come: none for what was refused, one for all that is left at the end."""

import asyncio
import hashlib
import json
import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from gateway.audit.base import SinkError
from gateway.audit.chain import SIGNED_PREFIX, chain_name, parse_link
from gateway.audit.keys import AuditKey, PublicKeys, publish
from gateway.audit.record import MAX_LINE_BYTES
from gateway.audit.verification import verify
from gateway.jose import base64url
from tests.support.chains import bare, chain_writer, file_sink, public_keys, stream_sink
from tests.support.parts import eventually

KEY = AuditKey(Ed25519PrivateKey.generate())


def line(number: int, room: int = 0) -> bytes:
    return b'{"n":%d,"x":"%b"}\n' % (number, b"x" * room)


def checkpoints(data: bytes) -> list[int]:
    """The sequence numbers of the checkpoints."""
    lines = map(json.loads, data.splitlines())
    return [one["sequence"] for one in lines if one.get("event") == "checkpoint"]


class TestPlaces:
    def test_a_line_names_the_sha256_of_the_exact_bytes_before_it(self):
        first, second = chain_writer().compose([line(1), line(2)]).data.splitlines()
        assert json.loads(first)["previous"] is None
        assert json.loads(second)["previous"] == hashlib.sha256(first).hexdigest()
        assert (json.loads(first)["sequence"], json.loads(second)["sequence"]) == (1, 2)

    def test_a_group_that_was_not_accepted_took_no_place(self):
        chain = chain_writer()
        chain.accept(chain.compose([line(1)]))
        refused, written = chain.compose([line(2)]), chain.compose([line(3)])
        assert (refused.end.sequence, written.end.sequence) == (2, 2)

    @given(st.dictionaries(st.text(max_size=5), st.text(max_size=30) | st.integers(), max_size=4))
    def test_what_stands_in_a_record_never_looks_like_its_place(self, members: dict[str, object]):
        forged = ',"chain":"evil","sequence":7,"previous":"' + "0" * 64 + '"}'
        record = json.dumps({**members, "last": forged}).encode() + b"\n"
        group = chain_writer().compose([record])
        found = parse_link(group.data.rstrip(b"\n"))
        assert found is not None
        assert (found.chain, found.sequence) == (group.end.chain, 1)
        assert parse_link(record[:-1]) is None

    def test_any_host_makes_a_name_that_a_line_can_hold(self):
        for host in ("", "größe\x1b[31m", 'a"b', "x" * 300, "gateway-7f9c.example"):
            name = chain_name(host, 1_795_600_000.0, "00ff00ff")
            linked = chain_writer().compose([line(1)]).data.replace(b"test", name.encode())
            assert parse_link(linked.splitlines()[0]) is not None


class TestCheckpoints:
    def test_there_is_one_after_so_many_lines_and_one_at_the_end(self):
        chain = chain_writer(KEY, every_lines=3)
        data = b""
        for number in range(8):
            group = chain.compose([line(number)], last=number == 7)
            chain.accept(group)
            data += group.data
        assert checkpoints(data) == [4, 8, 11]

    def test_it_is_signed_over_the_prefix_and_the_line_without_its_signature(self):
        """As somebody would check it who has nothing of ours."""
        text = chain_writer(KEY).compose([line(1)], last=True).data.splitlines()[-1]
        unsigned, _, signature = text[:-2].rpartition(b',"signature":"')
        x = base64url.parse(KEY.public_jwk()["x"])
        Ed25519PublicKey.from_public_bytes(x).verify(bytes.fromhex(signature.decode()), SIGNED_PREFIX + unsigned + b"}")

    async def test_a_record_waits_for_one_no_longer_than_it_was_set_though_no_other_comes(self, tmp_path, opened):
        path = tmp_path / "audit.jsonl"
        sink = opened(file_sink(path, chain_writer(KEY, every_seconds=0.02)))
        await sink.append(line(1))

        async def signed() -> bool:
            return checkpoints(path.read_bytes()) == [2]

        await eventually(signed)
        await sink.close()
        assert checkpoints(path.read_bytes()) == [2]

    async def test_what_a_killed_process_left_unsigned_is_signed_with_the_next_record(self, tmp_path, opened):
        path = tmp_path / "audit.jsonl"
        path.write_bytes(chain_writer(KEY).compose([line(1), line(2)]).data)
        sink = opened(file_sink(path, chain_writer(KEY)))
        await sink.append(line(3))
        assert checkpoints(path.read_bytes()) == [4]
        assert verify([path], keys=public_keys(KEY)).ok

    async def test_a_log_that_goes_on_without_them_is_not_proven(self, tmp_path, opened):
        path = tmp_path / "audit.jsonl"
        sink = file_sink(path, chain_writer(KEY, every_lines=5, max_lines_at_once=5))
        await sink.append(line(1))
        await sink.close()
        # The key was taken out of the settings, or forged lines follow.
        sink = opened(file_sink(path, chain_writer()))
        for number in range(10):
            await sink.append(line(number))
        assert verify([path], keys=public_keys(KEY)).ok
        await sink.append(line(10))
        assert [one.what for one in verify([path], keys=public_keys(KEY)).problems] == ["checkpoints_stopped"]

    async def test_a_disk_that_fails_does_not_make_the_writer_spin(self, tmp_path, opened):
        path = tmp_path / "audit.jsonl"
        calls = 0

        def sync(descriptor: int) -> None:
            nonlocal calls
            calls += 1
            if calls > 1:
                raise OSError(5, "Input/output error")

        sink = opened(file_sink(path, chain_writer(KEY, every_seconds=0.01), fdatasync=sync))
        await sink.append(line(1))

        async def tried() -> bool:
            return calls > 1

        await eventually(tried)
        await sink.close()  # the last try
        assert calls <= 4


class TestStdout:
    async def test_part_of_a_group_that_is_out_keeps_its_places_and_the_torn_line_is_accounted_for(
        self, tmp_path, opened
    ):
        """A file that may not grow stands for whatever takes a part of a line and no more."""
        path = tmp_path / "out.jsonl"
        with path.open("wb", buffering=0) as file:
            sink = opened(stream_sink(file.fileno(), chain_writer(KEY)))
            with limited_file_size(1000):
                answers = await asyncio.gather(
                    *(sink.append(line(number, 300)) for number in range(4)), return_exceptions=True
                )
                assert any(isinstance(answer, SinkError) for answer in answers)
                with pytest.raises(SinkError):
                    await sink.append(line(9))
            await sink.append(line(5))
            await sink.close()
        report = verify([path], keys=public_keys(KEY))
        assert report.ok, report.problems
        assert [note.kind for note in report.notes] == ["torn_line"]
        assert bare(path.read_bytes()).endswith(line(5))
        # The same line put in once more is not accounted for.
        torn = next(one for one in path.read_bytes().splitlines(keepends=True) if not one.endswith(b"}\n"))
        path.write_bytes(torn + path.read_bytes())
        assert [one.what for one in verify([path], keys=public_keys(KEY)).problems] == ["not_of_a_chain"]


@contextmanager
def limited_file_size(size: int) -> Iterator[None]:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


class TestKey:
    def test_it_is_made_once_for_its_owner_alone_and_stays(self, tmp_path: Path):
        path = tmp_path / "deep" / "audit.pem"
        key = AuditKey.open(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert AuditKey.open(path).kid == key.kid
        assert list(path.parent.iterdir()) == [path]
        assert key.kid in repr(key)
        assert "PRIVATE" not in repr(key)

    def test_of_processes_that_make_it_at_once_all_use_one(self, tmp_path: Path):
        async def all_at_once() -> list[AuditKey]:
            return await asyncio.gather(*(asyncio.to_thread(AuditKey.open, tmp_path / "audit.pem") for _ in range(16)))

        assert len({key.kid for key in asyncio.run(all_at_once())}) == 1

    @pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
    def test_one_that_others_can_read_is_refused(self, tmp_path: Path, mode: int):
        AuditKey.open(tmp_path / "audit.pem")
        (tmp_path / "audit.pem").chmod(mode)
        with pytest.raises(SinkError, match="is open to others"):
            AuditKey.open(tmp_path / "audit.pem")

    def test_another_kind_of_key_a_folder_and_nonsense_are_refused(self, tmp_path: Path):
        pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        for number, content in enumerate((pem, b"", b"nonsense", b"-----BEGIN PRIVATE KEY-----\n")):
            file = tmp_path / str(number)
            file.write_bytes(content)
            file.chmod(0o600)
            with pytest.raises(SinkError, match="is no Ed25519 private key"):
                AuditKey.open(file)
        with pytest.raises(SinkError):
            AuditKey.open(tmp_path)

    def test_public_halves_gather_beside_the_log(self, tmp_path: Path):
        file, other = tmp_path / "audit.jsonl.keys.json", AuditKey(Ed25519PrivateKey.generate())
        file.write_bytes(b"damaged")
        for key in (KEY, other, KEY):
            publish(key, file)
        assert [one["kid"] for one in json.loads(file.read_bytes())["keys"]] == [KEY.kid, other.kid]
        keys = PublicKeys.parse(file.read_bytes())
        assert keys.have_signed(KEY.kid, b"x", KEY.sign(SIGNED_PREFIX + b"x"))
        assert keys.have_signed(KEY.kid, b"x", other.sign(SIGNED_PREFIX + b"x")) is False
        assert keys.have_signed("nobody", b"x", b"") is None

    def test_a_key_goes_by_its_own_name_whatever_a_key_set_calls_it(self):
        renamed = {**KEY.public_jwk(), "kid": "another"}
        assert PublicKeys.parse(json.dumps(renamed).encode()).have_signed("another", b"", b"") is None

    @pytest.mark.parametrize(
        "data", [b"", b"[]", b"1", b"{}", b'{"keys":1}', b'{"keys":[]}', b'{"keys":[1]}', b"\xff", b"[" * 70_000,
                 b'{"keys":[{"kty":"OKP","crv":"Ed25519","x":"AA"}]}', b'{"keys":[{"kty":"OKP","crv":"Ed25519"}]}']
    )  # fmt: skip
    def test_what_is_no_key_set_is_told(self, data: bytes):
        with pytest.raises(ValueError):
            PublicKeys.parse(data)


def test_the_longest_record_with_its_place_is_still_read(tmp_path: Path):
    chain = chain_writer(KEY)
    path = tmp_path / "audit.jsonl"
    path.write_bytes(chain.compose([line(1, MAX_LINE_BYTES - 20)] * 5, last=True).data)
    assert verify([path], keys=public_keys(KEY)).ok
