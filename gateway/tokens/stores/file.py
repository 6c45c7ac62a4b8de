"""Keys as files in a folder of the gateway's own: ``<kid>.pem`` (PKCS#8) beside ``<kid>.json`` (its row).

The PEM file comes last: a key exists once it is there. Of a revoked key the row stays alone. Nothing is followed,
guessed or repaired: a link, a foreign owner, a file that others can read or a name that does not fit its key stops the
start with a sentence.
"""

import asyncio
import errno
import fcntl
import os
import shlex
import stat
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import orjson

from gateway.tokens.key_schedule import KeyRow
from gateway.tokens.signing_key import SigningKey, is_encrypted
from gateway.tokens.stores.base import MAX_KEYS, KeyStoreError, StoredKey
from gateway.tokens.stores.rows import parse_row, row_as_json
from gateway.tokens.stores.secret_file import read_secret_file

_MAX_FILE_BYTES = 16 * 1024
_LOOK_EVERY_SECONDS = 5.0
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_LOCK = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


class FileKeyStore:
    """``file:///path`` (``KeyStore``). Processes that share the folder take turns by a lock on ``.lock`` in it."""

    look_every_seconds = _LOOK_EVERY_SECONDS

    def __init__(self, folder: Path, passphrase_file: Path | None = None) -> None:
        """With a passphrase, private keys are written encrypted (PKCS#8); those that are not are read on.

        Raises ``KeyStoreError`` for a passphrase that cannot be read.
        """
        self._folder = folder
        self._passphrase = read_secret_file(passphrase_file).encode() if passphrase_file is not None else None
        self._loaded: dict[str, tuple[tuple[int, ...], SigningKey]] = {}
        """By ``kid`` the key, and which file it was read from."""

    async def load(self) -> Sequence[StoredKey]:
        """See ``KeyStore``. A folder that is not there yet holds no key."""
        return await asyncio.to_thread(self._load)

    async def replace(
        self, before: Collection[KeyRow], after: Collection[KeyRow], new: Iterable[SigningKey] = ()
    ) -> bool:
        """See ``KeyStore``. What a crash may leave half done is harmless: keys come before they sign, and go last."""
        return await asyncio.to_thread(self._replace, before, after, tuple(new))

    def on_change(self, callback: Callable[[], None]) -> None:
        """See ``KeyStore``. A folder tells of nothing: it is looked at."""

    def _load(self) -> list[StoredKey]:
        with self._errors_named():
            if not os.path.lexists(self._folder):
                return []
            with self._open_folder() as folder:
                return [self._load_key(folder, row) for row in self._rows(folder)]

    def _replace(self, before: Collection[KeyRow], after: Collection[KeyRow], new: Sequence[SigningKey]) -> bool:
        with self._errors_named():
            self._make_folder()
            with self._open_folder() as folder, _locked(folder):
                if set(self._rows(folder)) != set(before):
                    return False
                rows = {row.kid: row for row in after}
                for key in new:
                    self._write_row(folder, rows[key.kid])
                    _write_file(folder, f"{key.kid}.pem", key.private_pem(self._passphrase))
                # Who takes over is written before who is taken out.
                for row in sorted(set(after) - set(before), key=lambda row: row.revoked_at is not None):
                    if row.kid not in {key.kid for key in new}:
                        self._write_row(folder, row)
                    if row.revoked_at is not None:
                        _remove_file(folder, f"{row.kid}.pem")
                for kid in {row.kid for row in before} - rows.keys():
                    _remove_file(folder, f"{kid}.pem")
                    _remove_file(folder, f"{kid}.json")
        return True

    def _write_row(self, folder: int, row: KeyRow) -> None:
        _write_file(folder, f"{row.kid}.json", orjson.dumps(row_as_json(row)) + b"\n")

    def _make_folder(self) -> None:
        parent = self._folder.parent
        parent.mkdir(parents=True, exist_ok=True)
        self._folder.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    @contextmanager
    def _open_folder(self) -> Iterator[int]:
        if self._folder.is_symlink():
            raise KeyStoreError(f"{self._folder} is a symbolic link; name the folder itself")
        folder = os.open(self._folder, _READ | os.O_DIRECTORY)
        try:
            self._check_private(os.fstat(folder), self._folder, "700")
            yield folder
        finally:
            os.close(folder)

    def _rows(self, folder: int) -> list[KeyRow]:
        """The rows of all keys. Raises ``KeyStoreError``."""
        kids, described = _names(folder, ".pem"), _names(folder, ".json")
        if len(kids | described) > MAX_KEYS:
            raise KeyStoreError(f"{self._folder} holds more than {MAX_KEYS} keys")
        rows = [self._row(folder, kid) for kid in sorted(kids | described)]
        # Without its private key a row is that of a revoked key, or of one whose writing was cut short.
        return [row for row in rows if row.kid in kids or row.revoked_at is not None]

    def _row(self, folder: int, kid: str) -> KeyRow:
        path = self._folder / f"{kid}.json"
        data, _ = self._read_file(folder, path.name)
        try:
            row = parse_row(orjson.loads(data))
        except orjson.JSONDecodeError:
            row = None
        if row is None:
            raise KeyStoreError(f"{path} does not say kid, alg, created_at and sign_from as this version writes them")
        if row.kid != kid:
            raise KeyStoreError(f"{path} describes the key {row.kid}: its name or its description is another's")
        return row

    def _load_key(self, folder: int, row: KeyRow) -> StoredKey:
        if row.revoked_at is not None:
            return StoredKey(row, None)
        path = self._folder / f"{row.kid}.pem"
        pem, status = self._read_file(folder, path.name)
        file = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        read_before = self._loaded.get(row.kid)
        if read_before is not None and read_before[0] == file:
            return StoredKey(row, read_before[1])
        key = self._parse_key(path, pem, row.created_at)
        if (key.kid, key.algorithm) != (row.kid, row.algorithm):
            raise KeyStoreError(
                f"{path} holds the {key.algorithm} key {key.kid}: its name or its description is another's"
            )
        self._loaded[row.kid] = file, key
        return StoredKey(row, key)

    def _parse_key(self, path: Path, pem: bytes, created_at: int) -> SigningKey:
        if is_encrypted(pem) and self._passphrase is None:
            raise KeyStoreError(f"{path} is encrypted: set keys.passphrase_file")
        try:
            return SigningKey.from_pem(pem, created_at, self._passphrase)
        except ValueError as error:
            if is_encrypted(pem):
                words = "is not encrypted with the passphrase of keys.passphrase_file, or damaged"
            else:
                words = "is no private key on P-256 or Ed25519, or of RSA with 2048 to 8192 bits, as PKCS#8"
            raise KeyStoreError(f"{path} {words}") from error

    def _read_file(self, folder: int, name: str) -> tuple[bytes, os.stat_result]:
        path = self._folder / name
        try:
            descriptor = os.open(name, _READ, dir_fd=folder)
        except FileNotFoundError:
            raise KeyStoreError(f"{path} is missing beside its key") from None
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise KeyStoreError(f"{path} is a symbolic link; put the file itself there") from None
            raise
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise KeyStoreError(f"{path} is not a plain file")
            self._check_private(status, path, "600")
            data = os.read(descriptor, _MAX_FILE_BYTES + 1)
        finally:
            os.close(descriptor)
        if len(data) > _MAX_FILE_BYTES:
            raise KeyStoreError(f"{path} is larger than {_MAX_FILE_BYTES} bytes: that is no key")
        return data, status

    def _check_private(self, status: os.stat_result, path: Path, wanted: str) -> None:
        if status.st_uid != os.geteuid():
            raise KeyStoreError(
                f"{path} belongs to user {status.st_uid}, not to user {os.geteuid()} that the gateway runs as"
            )
        mode = stat.S_IMODE(status.st_mode)
        if mode & 0o077:
            raise KeyStoreError(
                f"{path} is open to others (mode {mode:04o}); run: chmod {wanted} {shlex.quote(str(path))}"
            )

    @contextmanager
    def _errors_named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            where = self._folder / str(error.filename or "")
            raise KeyStoreError(f"{where}: {error.strerror}") from error


def _names(folder: int, suffix: str) -> set[str]:
    """What stands before the suffix in the names of files, hidden ones left out."""
    return {
        name.removesuffix(suffix) for name in os.listdir(folder) if name.endswith(suffix) and not name.startswith(".")
    }


@contextmanager
def _locked(folder: int) -> Iterator[None]:
    lock = os.open(".lock", _LOCK, 0o600, dir_fd=folder)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _write_file(folder: int, name: str, data: bytes) -> None:
    """Whole and durable, or not there at all. The caller holds the lock, so that one temporary name will do."""
    temporary = f".{name}.new"
    with suppress(FileNotFoundError):  # left by a crash
        os.unlink(temporary, dir_fd=folder)
    descriptor = os.open(temporary, _WRITE, 0o600, dir_fd=folder)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(descriptor)
    os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    os.fsync(folder)


def _remove_file(folder: int, name: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)
    os.fsync(folder)
