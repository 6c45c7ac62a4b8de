"""The contract of ``KeyStore`` over every kind, and what the file store and the state store alone promise."""

import asyncio
import json
import os
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from redis import Redis

from gateway.jose import base64url
from gateway.state.base import State
from gateway.state.memory import MemoryState
from gateway.state.mirror import Mirror
from gateway.state.redis import RedisAddress, RedisState
from gateway.state.sqlite import SqliteState
from gateway.tokens.signing_key import SigningKey
from gateway.tokens.stores.base import MAX_KEYS, KeyStore, KeyStoreError, KeyStoreUnavailableError
from gateway.tokens.stores.file import FileKeyStore
from gateway.tokens.stores.memory import MemoryKeyStore
from gateway.tokens.stores.state import KIND, Sealer, StateKeyStore
from tests.support.redis_server import RedisServer
from tests.support.signing import row_of
from tests.support.time import HandClock

NOW = 1_800_000_000.0
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Place:
    """Where keys are kept."""

    open: Callable[[], KeyStore]
    """One more user of the store: as another process has it."""
    everything: Callable[[], bytes]
    """All bytes that lie there."""


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "keys"


def secret_file(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


@pytest.fixture
def encryption_key_file(tmp_path):
    return secret_file(tmp_path / "encryption.key", new_encryption_key())


def new_encryption_key() -> str:
    return base64url.encode(os.urandom(32)).decode() + "\n"


@pytest.fixture
def passphrase_file(tmp_path):
    return secret_file(tmp_path / "passphrase", "correct horse battery staple\n")


def in_state(state: State, encryption_key_file: Path) -> StateKeyStore:
    return StateKeyStore(Mirror(state, HandClock(NOW), asyncio.sleep), encryption_key_file)


def bytes_below(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def bytes_in_redis(server: RedisServer) -> bytes:
    with Redis(port=server.port) as client:
        return b"".join(client.hvals("gateway:{records}:values"))


@pytest.fixture(params=["file", "file with a passphrase", "memory", "state in sqlite", "state in redis"])
async def place(request, tmp_path, folder, encryption_key_file, passphrase_file) -> AsyncIterator[Place]:
    opened: list[State] = []

    def keeping(state: State) -> StateKeyStore:
        opened.append(state)
        return in_state(state, encryption_key_file)

    async with AsyncExitStack() as stack:
        match request.param:
            case "file":
                yield Place(lambda: FileKeyStore(folder), lambda: bytes_below(folder))
            case "file with a passphrase":
                yield Place(lambda: FileKeyStore(folder, passphrase_file), lambda: bytes_below(folder))
            case "memory":
                memory = MemoryKeyStore()
                yield Place(lambda: memory, lambda: b"")
            case "state in sqlite":
                (tmp_path / "state").mkdir()
                file = tmp_path / "state" / "state.db"
                yield Place(
                    lambda: keeping(SqliteState(file, HandClock(NOW), wait_seconds=30, busy_seconds=20)),
                    lambda: bytes_below(tmp_path / "state"),
                )
            case "state in redis":
                server = RedisServer(tmp_path)
                await server.start()
                stack.push_async_callback(server.kill)
                address = RedisAddress.of(server.url)
                yield Place(
                    lambda: keeping(RedisState(address, HandClock(NOW), connect_seconds=20, command_seconds=20)),
                    lambda: bytes_in_redis(server),
                )
        for state in opened:
            await state.close()


@pytest.fixture
def store(place):
    return place.open()


@pytest.fixture
def key():
    return SigningKey.generate("ES256", NOW)


@pytest.fixture
async def kept(folder, key):
    """The two files of a key in a file store."""
    assert await FileKeyStore(folder).replace([], [row_of(key)], [key])
    return folder / f"{key.kid}.pem", folder / f"{key.kid}.json"


async def kids(store):
    return {one.row.kid for one in await store.load()}


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


class TestEveryKind:
    async def test_a_new_store_is_empty(self, store):
        assert list(await store.load()) == []

    @pytest.mark.parametrize("algorithm", ["ES256", "EdDSA", "RS256"])
    async def test_what_was_put_in_is_loaded(self, place, algorithm):
        key = SigningKey.generate(algorithm, NOW)
        row = replace(row_of(key, sign_from=int(NOW) + 9), note="mira@ops: first of its kind")
        assert await place.open().replace([], [row], [key]) is True
        (loaded,) = await place.open().load()
        assert loaded.row == row
        assert loaded.key is not None
        assert (loaded.key.kid, loaded.key.algorithm, loaded.key.created_at) == (key.kid, algorithm, int(NOW))
        assert loaded.key.has_signed(b"x.y", key._sign(b"x.y"))

    async def test_a_key_that_was_loaded_before_is_the_same_object(self, store, key):
        await store.replace([], [row_of(key)], [key])
        first, second = await store.load(), await store.load()
        assert first[0].key is second[0].key

    async def test_rows_are_replaced_only_where_they_are_still_as_they_were(self, place, key):
        store, other = place.open(), place.open()
        second, third = SigningKey.generate("ES256", NOW), SigningKey.generate("ES256", NOW)
        first_row, second_row, third_row = row_of(key), row_of(second), row_of(third)
        assert await store.replace([], [first_row], [key]) is True
        assert await kids(other) == {key.kid}
        assert await other.replace([], [second_row], [second]) is False
        assert await other.replace([replace(first_row, sign_from=5)], [second_row], [second]) is False
        assert await kids(other) == {key.kid}
        assert await other.replace([first_row], [first_row, second_row], [second]) is True
        assert await store.replace([first_row], [first_row, third_row], [third]) is False
        assert await kids(store) == {key.kid, second.kid}

    async def test_a_schedule_is_changed_in_one_step(self, place, key):
        store, second = place.open(), SigningKey.generate("EdDSA", NOW)
        before = [row_of(key), row_of(second)]
        await store.replace([], before, [key, second])
        after = [replace(before[0], sign_from=int(NOW) + 5, note="n"), replace(before[1], revoked_at=int(NOW))]
        assert await store.replace(before, after) is True
        loaded = {one.row: one.key for one in await place.open().load()}
        assert loaded.keys() == set(after)
        assert loaded[after[0]] is not None

    async def test_the_private_half_of_a_revoked_key_is_destroyed(self, place, key):
        store = place.open()
        await store.replace([], [row_of(key)], [key])
        gone = row_of(key, revoked_at=int(NOW) + 1)
        assert await store.replace([row_of(key)], [gone]) is True
        for user in (store, place.open()):
            (loaded,) = await user.load()
            assert (loaded.row, loaded.key) == (gone, None)

    async def test_a_forgotten_key_leaves_nothing(self, place, key):
        store, other = place.open(), SigningKey.generate("ES256", NOW)
        rows = [row_of(key), row_of(other, revoked_at=5)]
        await store.replace([], [row_of(key), row_of(other)], [key, other])
        await store.replace([row_of(key), row_of(other)], rows)
        assert await store.replace(rows, []) is True
        assert list(await place.open().load()) == []

    async def test_of_many_first_keys_at_once_one_is_kept_and_all_use_it(self, place):
        async def start() -> str:
            store = place.open()
            while not (stored := await store.load()):
                key = await asyncio.to_thread(SigningKey.generate, "ES256", NOW)
                await store.replace([], [row_of(key)], [key])
            (one,) = stored
            return one.row.kid

        used = await asyncio.gather(*(start() for _ in range(8)))
        assert len({*used}) == 1
        assert {*used} == await kids(place.open())

    async def test_no_private_key_lies_there_in_clear_where_it_is_encrypted(self, request, place, key):
        await place.open().replace([], [row_of(key)], [key])
        private = key.private_pem().splitlines()[1]
        assert (private in place.everything()) == ("[file]" in request.node.name)


class TestFiles:
    async def test_the_key_file_is_readable_by_its_owner_only(self, kept, folder):
        assert [mode(path) for path in kept] == [0o600, 0o600]
        assert mode(folder) == 0o700

    async def test_not_even_a_generous_umask_opens_the_key_file(self, folder, key):
        before = os.umask(0)
        try:
            await FileKeyStore(folder).replace([], [row_of(key)], [key])
        finally:
            os.umask(before)
        assert {mode(path) for path in folder.iterdir()} == {0o600}
        assert mode(folder) == 0o700

    async def test_the_key_file_is_plain_pkcs_8(self, kept, key):
        private_key = serialization.load_pem_private_key(kept[0].read_bytes(), None)
        assert kept[0].read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----\n")
        assert SigningKey(private_key, 0).kid == key.kid
        assert json.loads(kept[1].read_bytes()) == {
            "kid": key.kid,
            "alg": "ES256",
            "created_at": int(NOW),
            "sign_from": int(NOW),
        }

    async def test_nothing_else_is_left_behind(self, kept, folder):
        assert {path.name for path in folder.iterdir()} == {".lock", kept[0].name, kept[1].name}

    @pytest.mark.parametrize("which", [0, 1])
    @pytest.mark.parametrize("open_to", [0o640, 0o604, 0o620, 0o602, 0o666])
    async def test_a_key_file_that_others_can_touch_is_an_error_that_says_what_to_run(
        self, kept, folder, which, open_to
    ):
        kept[which].chmod(open_to)
        with pytest.raises(
            KeyStoreError, match=rf"is open to others \(mode 0{open_to:o}\); run: chmod 600 .*{kept[which].name}"
        ):
            await FileKeyStore(folder).load()

    async def test_a_folder_that_others_can_touch_is_an_error_that_says_what_to_run(self, kept, folder, key):
        folder.chmod(0o750)
        with pytest.raises(KeyStoreError, match=f"mode 0750.; run: chmod 700 {folder}"):
            await FileKeyStore(folder).load()
        with pytest.raises(KeyStoreError, match="chmod 700"):
            await FileKeyStore(folder).replace([], [row_of(key)], [key])

    async def test_the_command_that_it_says_can_be_pasted(self, tmp_path, key):
        store = FileKeyStore(tmp_path / "my keys; rm")
        await store.replace([], [row_of(key)], [key])
        (tmp_path / "my keys; rm").chmod(0o755)
        with pytest.raises(KeyStoreError) as caught:
            await store.load()
        command = str(caught.value).partition("run: ")[2]
        subprocess.run(command, shell=True, check=True)
        assert await kids(store) == {key.kid}

    async def test_a_linked_folder_is_refused(self, kept, folder, tmp_path):
        (tmp_path / "link").symlink_to(folder)
        with pytest.raises(KeyStoreError, match="symbolic link"):
            await FileKeyStore(tmp_path / "link").load()

    async def test_a_linked_key_file_is_refused(self, kept, folder, tmp_path):
        kept[0].rename(tmp_path / "elsewhere.pem")
        kept[0].symlink_to(tmp_path / "elsewhere.pem")
        with pytest.raises(KeyStoreError, match="symbolic link"):
            await FileKeyStore(folder).load()

    async def test_a_linked_lock_is_refused(self, folder, key, tmp_path):
        folder.mkdir(mode=0o700)
        (folder / ".lock").symlink_to(tmp_path / "victim")
        with pytest.raises(KeyStoreError):
            await FileKeyStore(folder).replace([], [row_of(key)], [key])
        assert not (tmp_path / "victim").exists()

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
    @pytest.mark.parametrize("which", ["folder", "pem", "json"])
    async def test_a_foreign_owner_is_refused(self, kept, folder, which):
        os.chown({"folder": folder, "pem": kept[0], "json": kept[1]}[which], 65534, -1)
        with pytest.raises(KeyStoreError, match="belongs to user 65534, not to user 0"):
            await FileKeyStore(folder).load()

    @pytest.mark.parametrize("kind", ["fifo", "folder"])
    async def test_only_a_plain_file_is_a_key(self, kept, folder, kind):
        kept[0].unlink()
        os.mkfifo(kept[0], 0o600) if kind == "fifo" else kept[0].mkdir(0o700)
        with pytest.raises(KeyStoreError, match="not a plain file"):
            await FileKeyStore(folder).load()

    async def test_a_key_under_another_name_is_refused(self, kept, folder):
        for path in kept:
            path.rename(folder / f"backup{path.suffix}")
        with pytest.raises(KeyStoreError, match="its name or its description is another's"):
            await FileKeyStore(folder).load()

    async def test_a_key_whose_content_was_exchanged_is_refused(self, kept, folder):
        kept[0].write_bytes(SigningKey.generate("ES256", NOW).private_pem())
        with pytest.raises(KeyStoreError, match="its name or its description is another's"):
            await FileKeyStore(folder).load()

    @pytest.mark.parametrize(
        "pem", [b"", b"hello", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", b"\0" * 300]
    )
    async def test_a_damaged_key_is_refused(self, kept, folder, pem):
        kept[0].write_bytes(pem)
        with pytest.raises(KeyStoreError, match="is no private key on P-256"):
            await FileKeyStore(folder).load()

    async def test_a_key_on_another_curve_is_refused(self, kept, folder):
        private_key = ec.generate_private_key(ec.SECP384R1())
        kept[0].write_bytes(
            private_key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        with pytest.raises(KeyStoreError, match="P-256"):
            await FileKeyStore(folder).load()

    async def test_an_oversized_file_is_not_read(self, kept, folder):
        kept[0].write_bytes(b"x" * 20_000)
        with pytest.raises(KeyStoreError, match="larger than 16384 bytes"):
            await FileKeyStore(folder).load()

    @pytest.mark.parametrize(
        "change",
        [
            {"created_at": "now"},
            {"created_at": True},
            {"retain": True},
            {"sign_from": -1},
            {"sign_from": 1.5},
            {"revoked_at": "yes"},
            {"note": ["x"]},
            {"note": "x" * 301},
            {"alg": "RS256"},
            {"kid": "another"},
        ],
        ids=[
            "text",
            "boolean",
            "a later version's member",
            "before time",
            "a fraction",
            "no time",
            "no text",
            "a long text",
            "another algorithm",
            "another kid",
        ],
    )
    async def test_a_description_that_does_not_fit_is_refused(self, kept, folder, change):
        kept[1].write_text(json.dumps(json.loads(kept[1].read_text()) | change))
        with pytest.raises(KeyStoreError):
            await FileKeyStore(folder).load()

    @pytest.mark.parametrize("text", ["", "[]", "null", "{", "{}"])
    async def test_a_damaged_description_is_refused(self, kept, folder, text):
        kept[1].write_text(text)
        with pytest.raises(KeyStoreError, match="does not say kid, alg, created_at and sign_from"):
            await FileKeyStore(folder).load()

    async def test_a_key_without_its_description_is_refused(self, kept, folder):
        kept[1].unlink()
        with pytest.raises(KeyStoreError, match=r"\.json is missing beside its key"):
            await FileKeyStore(folder).load()

    async def test_what_a_crash_left_between_the_two_files_is_no_key(self, kept, folder, key):
        kept[0].rename(folder / f".{key.kid}.pem.new")
        assert await FileKeyStore(folder).load() == []
        assert await FileKeyStore(folder).replace([], [row_of(key)], [key]) is True
        assert await kids(FileKeyStore(folder)) == {key.kid}

    async def test_a_store_that_cannot_be_written_is_an_error_that_names_it(self, tmp_path, key):
        (tmp_path / "file").write_text("")
        with pytest.raises(KeyStoreError, match=str(tmp_path / "file")):
            await FileKeyStore(tmp_path / "file" / "keys").replace([], [row_of(key)], [key])
        with pytest.raises(KeyStoreError, match=str(tmp_path / "file")):
            await FileKeyStore(tmp_path / "file").load()

    async def test_a_read_only_folder_with_a_key_is_enough_to_serve(self, kept, folder, key):
        # What root may do anyway a mount may still forbid: nothing is written, so the folder does not change at all.
        (folder / ".lock").unlink()
        before = folder.stat().st_mtime_ns
        assert await kids(FileKeyStore(folder)) == {key.kid}
        assert folder.stat().st_mtime_ns == before
        assert not (folder / ".lock").exists()

    async def test_two_processes_that_start_at_once_use_the_same_key(self, folder):
        program = f"""
import asyncio, sys
from pathlib import Path
from gateway.tokens.signing_key import SigningKey
from gateway.tokens.stores.file import FileKeyStore
from tests.support.signing import row_of

async def start():
    store = FileKeyStore(Path({str(folder)!r}))
    while not (stored := await store.load()):
        key = SigningKey.generate("ES256", {NOW})
        await store.replace([], [row_of(key)], [key])
    print(stored[0].row.kid)

print("ready", flush=True)
sys.stdin.readline()
asyncio.run(start())
"""
        command = [sys.executable, "-c", program]
        processes = [
            subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for _ in range(3)
        ]
        for process in processes:
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            process.stdin.write("\n")
            process.stdin.flush()
        used = {process.communicate(timeout=30)[0].strip() for process in processes}
        assert used == await kids(FileKeyStore(folder))
        assert len(used) == 1

    async def test_files_of_the_older_form_are_read_on(self, kept, folder, key):
        """They had no schedule: a key signed from when it was made."""
        kept[1].write_text(json.dumps({"kid": key.kid, "alg": "ES256", "created_at": int(NOW)}))
        (loaded,) = await FileKeyStore(folder).load()
        assert loaded.row == row_of(key)

    async def test_the_row_of_a_revoked_key_stays_alone(self, kept, folder, key):
        await FileKeyStore(folder).replace([row_of(key)], [row_of(key, revoked_at=int(NOW))])
        assert not kept[0].exists()
        assert json.loads(kept[1].read_bytes())["revoked_at"] == int(NOW)

    async def test_a_private_key_that_is_put_back_beside_a_revoked_row_is_not_used(self, kept, folder, key):
        pem = kept[0].read_bytes()
        await FileKeyStore(folder).replace([row_of(key)], [row_of(key, revoked_at=int(NOW))])
        kept[0].write_bytes(pem)
        kept[0].chmod(0o600)
        (loaded,) = await FileKeyStore(folder).load()
        assert (loaded.row.revoked_at, loaded.key) == (int(NOW), None)

    async def test_a_file_that_was_replaced_is_read_again(self, kept, folder):
        store = FileKeyStore(folder)
        await store.load()
        kept[0].write_bytes(SigningKey.generate("ES256", NOW).private_pem())
        with pytest.raises(KeyStoreError, match="another's"):
            await store.load()

    async def test_a_folder_with_too_many_keys_is_not_read(self, kept, folder):
        for number in range(MAX_KEYS):
            (folder / f"{number}.json").write_text("{}")
        with pytest.raises(KeyStoreError, match="more than 100 keys"):
            await FileKeyStore(folder).load()


class TestPassphrase:
    @pytest.fixture
    async def encrypted(self, folder, key, passphrase_file):
        await FileKeyStore(folder, passphrase_file).replace([], [row_of(key)], [key])
        return folder / f"{key.kid}.pem"

    async def test_the_file_is_encrypted_pkcs_8(self, encrypted, key):
        assert encrypted.read_bytes().startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n")
        private_key = serialization.load_pem_private_key(encrypted.read_bytes(), b"correct horse battery staple")
        assert SigningKey(private_key, 0).kid == key.kid

    async def test_without_the_passphrase_it_says_which_setting_is_missing(self, encrypted, folder):
        with pytest.raises(KeyStoreError, match=r"is encrypted: set keys\.passphrase_file"):
            await FileKeyStore(folder).load()

    async def test_another_passphrase_opens_nothing(self, encrypted, folder, passphrase_file):
        passphrase_file.write_text("incorrect horse")
        with pytest.raises(KeyStoreError, match="is not encrypted with the passphrase"):
            await FileKeyStore(folder, passphrase_file).load()

    async def test_keys_that_were_there_before_are_read_on(self, kept, folder, key, passphrase_file):
        assert await kids(FileKeyStore(folder, passphrase_file)) == {key.kid}


class TestSecretFiles:
    @pytest.mark.parametrize("open_to", [0o640, 0o604, 0o620, 0o602])
    def test_a_file_that_others_can_touch_is_refused(self, folder, passphrase_file, open_to):
        passphrase_file.chmod(open_to)
        with pytest.raises(KeyStoreError, match=f"open to others .mode 0{open_to:o}."):
            FileKeyStore(folder, passphrase_file)

    @pytest.mark.parametrize(
        ("text", "words"), [("", "is empty"), (" \n", "is empty"), ("x" * 5000, "larger than 4096 bytes")]
    )
    def test_a_file_without_a_passphrase_is_refused(self, folder, passphrase_file, text, words):
        passphrase_file.write_text(text)
        with pytest.raises(KeyStoreError, match=words):
            FileKeyStore(folder, passphrase_file)

    def test_a_missing_file_is_named(self, folder, tmp_path):
        with pytest.raises(KeyStoreError, match="nowhere: No such file"):
            FileKeyStore(folder, tmp_path / "nowhere")

    def test_only_a_plain_file_is_read(self, folder, tmp_path):
        os.mkfifo(tmp_path / "pipe", 0o600)
        with pytest.raises(KeyStoreError, match="not a plain file"):
            FileKeyStore(folder, tmp_path / "pipe")

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
    @pytest.mark.parametrize(("mounted", "read"), [(0o440, True), (0o400, True), (0o444, False), (0o460, False)])
    def test_a_secret_that_kubernetes_mounted_for_the_group_of_the_pod_is_read(
        self, folder, passphrase_file, monkeypatch, mounted, read
    ):
        passphrase_file.chmod(mounted)
        (passphrase_file.parent / "link").symlink_to(passphrase_file)
        monkeypatch.setattr("os.geteuid", lambda: 65532)
        if read:
            FileKeyStore(folder, passphrase_file.parent / "link")
        else:
            with pytest.raises(KeyStoreError, match="open to others"):
                FileKeyStore(folder, passphrase_file)

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
    def test_a_foreign_owner_is_refused(self, folder, passphrase_file):
        os.chown(passphrase_file, 65534, -1)
        with pytest.raises(KeyStoreError, match="belongs to user 65534"):
            FileKeyStore(folder, passphrase_file)

    def test_no_error_repeats_what_is_in_the_file(self, tmp_path):
        with pytest.raises(KeyStoreError) as caught:
            Sealer.of_file(secret_file(tmp_path / "key", "hunter2\n"))
        assert "hunter2" not in str(caught.value)
        assert "32 random bytes" in str(caught.value)

    def test_the_command_that_it_says_makes_a_key(self, tmp_path):
        with pytest.raises(KeyStoreError) as caught:
            Sealer.of_file(secret_file(tmp_path / "key", "AAAA"))
        command = str(caught.value).partition("make them with: ")[2]
        made = subprocess.run(command, shell=True, check=True, capture_output=True, text=True).stdout
        sealer = Sealer.of_file(secret_file(tmp_path / "key", made))
        assert sealer.open(sealer.seal(b"x")) == b"x"


class TestState:
    @pytest.fixture
    def state(self):
        return MemoryState(HandClock(NOW))

    @pytest.fixture
    async def sealed(self, state, encryption_key_file, key) -> bytes:
        assert await in_state(state, encryption_key_file).replace([], [row_of(key)], [key])
        (record,) = (await state.changes(0)).records
        return record.value

    async def test_replicas_with_the_same_key_share_the_signing_keys(self, state, sealed, encryption_key_file, key):
        assert await kids(in_state(state, encryption_key_file)) == {key.kid}

    async def test_nothing_of_the_keys_can_be_seen_in_the_state(self, sealed, key):
        assert key.kid.encode() not in sealed

    async def test_a_replica_with_another_key_says_what_to_do(self, state, sealed, encryption_key_file):
        encryption_key_file.write_text(new_encryption_key())
        with pytest.raises(KeyStoreError, match="give every replica the same file"):
            await in_state(state, encryption_key_file).load()

    async def test_the_encryption_key_is_exchanged_line_by_line(self, state, sealed, encryption_key_file, key):
        old, new = encryption_key_file.read_text(), new_encryption_key()
        encryption_key_file.write_text(old + new)  # every replica can read both
        assert await kids(in_state(state, encryption_key_file)) == {key.kid}
        encryption_key_file.write_text(new + old)  # what is written now is sealed with the new one
        row = replace(row_of(key), note="x")
        store = in_state(state, encryption_key_file)
        await store.load()
        assert await store.replace([row_of(key)], [row])
        encryption_key_file.write_text(new)
        assert await kids(in_state(state, encryption_key_file)) == {key.kid}

    @pytest.mark.parametrize("where", [0, 7, 8, 19, 20, 60, -1])
    async def test_whoever_can_write_the_state_cannot_change_the_keys(self, state, sealed, encryption_key_file, where):
        changed = bytearray(sealed)
        changed[where] ^= 1
        await state.put(KIND, "all", bytes(changed))
        with pytest.raises(KeyStoreError):
            await in_state(state, encryption_key_file).load()

    @pytest.mark.parametrize("value", [b"", b"x", b"x" * 8, b"x" * 20, b"x" * 1000])
    async def test_rubbish_is_no_key(self, state, sealed, encryption_key_file, value):
        await state.put(KIND, "all", value)
        with pytest.raises(KeyStoreError):
            await in_state(state, encryption_key_file).load()

    async def test_what_was_sealed_for_another_purpose_is_no_key(self, sealed):
        key = os.urandom(32)
        with pytest.raises(KeyStoreError):
            Sealer([os.urandom(32)]).open(Sealer([key]).seal(b"[]"))

    async def test_a_state_that_is_away_is_told_apart(self, tmp_path, encryption_key_file, key):
        store = in_state(RedisState(RedisAddress.of("redis://127.0.0.1:1/0"), HandClock(NOW)), encryption_key_file)
        with pytest.raises(KeyStoreUnavailableError):
            await store.load()
        with pytest.raises(KeyStoreUnavailableError):
            await store.replace([], [row_of(key)], [key])

    async def test_more_keys_than_the_state_takes_are_refused(self, state, encryption_key_file):
        keys = [SigningKey.generate("RS256", NOW) for _ in range(3)]
        rows = [row_of(key) for key in keys]
        many = [replace(row, kid=f"{row.kid}-{number}") for number in range(20) for row in rows]

        class Named:
            def __init__(self, kid: str, key: SigningKey) -> None:
                self.kid, self.private_pem = kid, key.private_pem

        new = [Named(row.kid, keys[0]) for row in many]
        with pytest.raises(KeyStoreError, match="too many signing keys"):
            await in_state(state, encryption_key_file).replace([], many, new)
        assert list((await state.changes(0)).records) == []


def test_a_key_of_our_own_making_can_be_named_on_a_command_line():
    """``-rHDf`` would be an option."""
    assert not any(SigningKey.generate("EdDSA", NOW).kid.startswith("-") for _ in range(300))
