"""The contract of ``KeyStore`` over every kind, and what the file store alone promises."""

import json
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.tokens.signing_key import SigningKey
from gateway.tokens.signing_keys import SigningKeys
from gateway.tokens.stores.base import KeyStoreError
from gateway.tokens.stores.file import FileKeyStore
from gateway.tokens.stores.memory import MemoryKeyStore

NOW = 1_800_000_000.0
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "keys"


@pytest.fixture(params=["file", "memory"])
def store(request, folder):
    return {"file": lambda: FileKeyStore(folder), "memory": MemoryKeyStore}[request.param]()


@pytest.fixture
def key():
    return SigningKey.generate("ES256", NOW)


@pytest.fixture
def kept(folder, key):
    """The two files of a key in a file store."""
    assert FileKeyStore(folder).save(key, [])
    return folder / f"{key.kid}.pem", folder / f"{key.kid}.json"


def kids(store):
    return {key.kid for key in store.load()}


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


class TestEveryKind:
    def test_a_new_store_is_empty(self, store):
        assert store.load() == []

    @pytest.mark.parametrize("algorithm", ["ES256", "EdDSA", "RS256"])
    def test_what_was_saved_is_loaded(self, store, algorithm):
        key = SigningKey.generate(algorithm, NOW)
        assert store.save(key, []) is True
        (loaded,) = store.load()
        assert (loaded.kid, loaded.algorithm, loaded.created_at) == (key.kid, algorithm, int(NOW))

    def test_a_key_is_saved_only_over_the_keys_that_are_known(self, store, key):
        second, third = SigningKey.generate("ES256", NOW), SigningKey.generate("ES256", NOW)
        assert store.save(key, []) is True
        assert store.save(second, []) is False
        assert store.save(second, ["something else"]) is False
        assert kids(store) == {key.kid}
        assert store.save(second, [key.kid]) is True
        assert store.save(third, [key.kid]) is False
        assert kids(store) == {key.kid, second.kid}

    def test_of_many_first_keys_at_once_one_is_kept_and_all_use_it(self, store):
        barrier, used = threading.Barrier(8), []

        def start():
            barrier.wait()
            used.append(SigningKeys.open(store, "ES256", NOW).current().kid)

        threads = [threading.Thread(target=start) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(used) == 8
        assert {*used} == kids(store)
        assert len(kids(store)) == 1


class TestFiles:
    def test_the_key_file_is_readable_by_its_owner_only(self, kept, folder):
        assert [mode(path) for path in kept] == [0o600, 0o600]
        assert mode(folder) == 0o700

    def test_not_even_a_generous_umask_opens_the_key_file(self, folder, key):
        before = os.umask(0)
        try:
            FileKeyStore(folder).save(key, [])
        finally:
            os.umask(before)
        assert {mode(path) for path in folder.iterdir()} == {0o600}
        assert mode(folder) == 0o700

    def test_the_key_file_is_plain_pkcs_8(self, kept, key):
        private_key = serialization.load_pem_private_key(kept[0].read_bytes(), None)
        assert kept[0].read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----\n")
        assert SigningKey(private_key, 0).kid == key.kid
        assert json.loads(kept[1].read_bytes()) == {"kid": key.kid, "alg": "ES256", "created_at": int(NOW)}

    def test_nothing_else_is_left_behind(self, kept, folder):
        assert {path.name for path in folder.iterdir()} == {".lock", kept[0].name, kept[1].name}

    @pytest.mark.parametrize("which", [0, 1])
    @pytest.mark.parametrize("open_to", [0o640, 0o604, 0o620, 0o602, 0o666])
    def test_a_key_file_that_others_can_touch_is_an_error_that_says_what_to_run(self, kept, folder, which, open_to):
        kept[which].chmod(open_to)
        with pytest.raises(
            KeyStoreError, match=rf"is open to others \(mode 0{open_to:o}\); run: chmod 600 .*{kept[which].name}"
        ):
            FileKeyStore(folder).load()

    def test_a_folder_that_others_can_touch_is_an_error_that_says_what_to_run(self, kept, folder):
        folder.chmod(0o750)
        with pytest.raises(KeyStoreError, match=f"mode 0750.; run: chmod 700 {folder}"):
            FileKeyStore(folder).load()
        with pytest.raises(KeyStoreError, match="chmod 700"):
            FileKeyStore(folder).save(SigningKey.generate("ES256", NOW), [])

    def test_the_command_that_it_says_can_be_pasted(self, tmp_path, key):
        store = FileKeyStore(tmp_path / "my keys; rm")
        store.save(key, [])
        (tmp_path / "my keys; rm").chmod(0o755)
        with pytest.raises(KeyStoreError) as caught:
            store.load()
        command = str(caught.value).partition("run: ")[2]
        subprocess.run(command, shell=True, check=True)
        assert kids(store) == {key.kid}

    def test_a_linked_folder_is_refused(self, kept, folder, tmp_path):
        (tmp_path / "link").symlink_to(folder)
        with pytest.raises(KeyStoreError, match="symbolic link"):
            FileKeyStore(tmp_path / "link").load()

    def test_a_linked_key_file_is_refused(self, kept, folder, tmp_path):
        kept[0].rename(tmp_path / "elsewhere.pem")
        kept[0].symlink_to(tmp_path / "elsewhere.pem")
        with pytest.raises(KeyStoreError, match="symbolic link"):
            FileKeyStore(folder).load()

    def test_a_linked_lock_is_refused(self, folder, key, tmp_path):
        folder.mkdir(mode=0o700)
        (folder / ".lock").symlink_to(tmp_path / "victim")
        with pytest.raises(KeyStoreError):
            FileKeyStore(folder).save(key, [])
        assert not (tmp_path / "victim").exists()

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
    @pytest.mark.parametrize("which", ["folder", "pem", "json"])
    def test_a_foreign_owner_is_refused(self, kept, folder, which):
        os.chown({"folder": folder, "pem": kept[0], "json": kept[1]}[which], 65534, -1)
        with pytest.raises(KeyStoreError, match="belongs to user 65534, not to user 0"):
            FileKeyStore(folder).load()

    @pytest.mark.parametrize("kind", ["fifo", "folder"])
    def test_only_a_plain_file_is_a_key(self, kept, folder, kind):
        kept[0].unlink()
        os.mkfifo(kept[0], 0o600) if kind == "fifo" else kept[0].mkdir(0o700)
        with pytest.raises(KeyStoreError, match="not a plain file"):
            FileKeyStore(folder).load()

    def test_a_key_under_another_name_is_refused(self, kept, folder):
        for path in kept:
            path.rename(folder / f"backup{path.suffix}")
        with pytest.raises(KeyStoreError, match="its name or its description is another's"):
            FileKeyStore(folder).load()

    def test_a_key_whose_content_was_exchanged_is_refused(self, kept, folder):
        kept[0].write_bytes(SigningKey.generate("ES256", NOW).private_pem())
        with pytest.raises(KeyStoreError, match="its name or its description is another's"):
            FileKeyStore(folder).load()

    @pytest.mark.parametrize(
        "pem", [b"", b"hello", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", b"\0" * 300]
    )
    def test_a_damaged_key_is_refused(self, kept, folder, pem):
        kept[0].write_bytes(pem)
        with pytest.raises(KeyStoreError, match="is no unencrypted private key on P-256"):
            FileKeyStore(folder).load()

    def test_a_key_on_another_curve_is_refused(self, kept, folder):
        private_key = ec.generate_private_key(ec.SECP384R1())
        kept[0].write_bytes(
            private_key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        with pytest.raises(KeyStoreError, match="P-256"):
            FileKeyStore(folder).load()

    def test_an_oversized_file_is_not_read(self, kept, folder):
        kept[0].write_bytes(b"x" * 20_000)
        with pytest.raises(KeyStoreError, match="larger than 16384 bytes"):
            FileKeyStore(folder).load()

    @pytest.mark.parametrize(
        "change",
        [
            {"created_at": "now"},
            {"created_at": True},
            {"revoked_at": 1},
            {"alg": "RS256"},
            {"kid": "another"},
        ],
        ids=["text", "boolean", "a later version's member", "another algorithm", "another kid"],
    )
    def test_a_description_that_does_not_fit_is_refused(self, kept, folder, change):
        kept[1].write_text(json.dumps(json.loads(kept[1].read_text()) | change))
        with pytest.raises(KeyStoreError):
            FileKeyStore(folder).load()

    @pytest.mark.parametrize("text", ["", "[]", "null", "{", "{}"])
    def test_a_damaged_description_is_refused(self, kept, folder, text):
        kept[1].write_text(text)
        with pytest.raises(KeyStoreError, match="does not say kid, alg and created_at"):
            FileKeyStore(folder).load()

    def test_a_key_without_its_description_is_refused(self, kept, folder):
        kept[1].unlink()
        with pytest.raises(KeyStoreError, match=r"\.json is missing beside its key"):
            FileKeyStore(folder).load()

    def test_what_a_crash_left_between_the_two_files_is_no_key(self, kept, folder, key):
        kept[0].rename(folder / f".{key.kid}.pem.new")
        assert FileKeyStore(folder).load() == []
        assert FileKeyStore(folder).save(key, []) is True
        assert kids(FileKeyStore(folder)) == {key.kid}

    def test_a_store_that_cannot_be_written_is_an_error_that_names_it(self, tmp_path, key):
        (tmp_path / "file").write_text("")
        with pytest.raises(KeyStoreError, match=str(tmp_path / "file")):
            FileKeyStore(tmp_path / "file" / "keys").save(key, [])
        with pytest.raises(KeyStoreError, match=str(tmp_path / "file")):
            FileKeyStore(tmp_path / "file").load()

    def test_a_read_only_folder_with_a_key_is_enough_to_serve(self, kept, folder, key):
        # What root may do anyway a mount may still forbid: nothing is written, so the folder does not change at all.
        (folder / ".lock").unlink()
        before = folder.stat().st_mtime_ns
        assert SigningKeys.open(FileKeyStore(folder), "ES256", NOW).current().kid == key.kid
        assert folder.stat().st_mtime_ns == before
        assert not (folder / ".lock").exists()

    def test_two_processes_that_start_at_once_use_the_same_key(self, folder):
        program = (
            "import sys; from pathlib import Path\n"
            "from gateway.tokens.signing_keys import SigningKeys; from gateway.tokens.stores.file import FileKeyStore\n"
            "print('ready', flush=True); sys.stdin.readline()\n"
            f"print(SigningKeys.open(FileKeyStore(Path({str(folder)!r})), 'ES256', {NOW}).current().kid)\n"
        )
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
        assert used == kids(FileKeyStore(folder))
        assert len(used) == 1
