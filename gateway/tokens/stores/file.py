"""Keys as files in a folder of the gateway's own: ``<kid>.pem`` (PKCS#8) beside ``<kid>.json`` (when, which algorithm).

The PEM file comes last: a key exists once it is there. Nothing is followed, guessed or repaired: a link, a foreign
owner, a file that others can read or a name that does not fit its key stops the start with a sentence.
"""

import errno
import fcntl
import os
import shlex
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import orjson

from gateway.tokens.signing_key import SigningKey
from gateway.tokens.stores.base import KeyStoreError

_MAX_FILE_BYTES = 16 * 1024
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_LOCK = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


class FileKeyStore:
    """``file:///path`` (``KeyStore``). Processes that share the folder take turns by a lock on ``.lock`` in it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self) -> list[SigningKey]:
        """See ``KeyStore``. A folder that is not there yet holds no key."""
        with self._errors_named():
            if not os.path.lexists(self._folder):
                return []
            with self._open_folder() as folder:
                return [self._load_key(folder, kid) for kid in _kids(folder)]

    def save(self, key: SigningKey, known: Collection[str]) -> bool:
        """See ``KeyStore``."""
        metadata = {"kid": key.kid, "alg": key.algorithm, "created_at": key.created_at}
        with self._errors_named():
            self._make_folder()
            with self._open_folder() as folder, _locked(folder):
                if set(_kids(folder)) != set(known):
                    return False
                _write_file(folder, f"{key.kid}.json", orjson.dumps(metadata) + b"\n")
                _write_file(folder, f"{key.kid}.pem", key.private_pem())
        return True

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

    def _load_key(self, folder: int, kid: str) -> SigningKey:
        path = self._folder / f"{kid}.pem"
        described = _parse_description(self._read_file(folder, f"{kid}.json"))
        if described is None:
            raise KeyStoreError(f"{path.with_suffix('.json')} does not say kid, alg and created_at, and nothing else")
        try:
            key = SigningKey.from_pem(self._read_file(folder, f"{kid}.pem"), described["created_at"])
        except ValueError as error:
            raise KeyStoreError(
                f"{path} is no unencrypted private key on P-256 or Ed25519, or of RSA with 2048 bits or more"
            ) from error
        if not (kid == key.kid == described["kid"] and described["alg"] == key.algorithm):
            raise KeyStoreError(
                f"{path} holds the {key.algorithm} key {key.kid}: its name or its description is another's"
            )
        return key

    def _read_file(self, folder: int, name: str) -> bytes:
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
        return data

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


def _kids(folder: int) -> list[str]:
    return sorted(name.removesuffix(".pem") for name in os.listdir(folder) if _is_key_name(name))


def _is_key_name(name: str) -> bool:
    return name.endswith(".pem") and not name.startswith(".")


def _parse_description(data: bytes) -> dict[str, Any] | None:
    """``kid``, ``alg``, ``created_at``. None also where a later version says more: that may be a revocation."""
    try:
        described = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(described, dict) or described.keys() != {"kid", "alg", "created_at"}:
        return None
    return described if type(described["created_at"]) is int else None


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
