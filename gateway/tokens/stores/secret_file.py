"""Files that hold a secret which other secrets are locked away with."""

import os
import stat
from pathlib import Path

from gateway.tokens.stores.base import KeyStoreError

_MAX_BYTES = 4096


def read_secret_file(path: Path) -> str:
    """The text of a file that nobody else can read, without the space around it.

    A file that belongs to root and that a group may read is one that Kubernetes has mounted from a Secret for the group
    of the pod. Links are followed for the same reason: whoever can place one in that folder can replace the file.
    Raises ``KeyStoreError``.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise KeyStoreError(f"{path}: {error.strerror}") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise KeyStoreError(f"{path} is not a plain file")
        _check_private(path, status)
        data = os.read(descriptor, _MAX_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(data) > _MAX_BYTES:
        raise KeyStoreError(f"{path} is larger than {_MAX_BYTES} bytes")
    try:
        text = data.decode().strip()
    except UnicodeDecodeError:
        raise KeyStoreError(f"{path} is not text") from None
    if not text:
        raise KeyStoreError(f"{path} is empty")
    return text


def _check_private(path: Path, status: os.stat_result) -> None:
    if status.st_uid not in {0, os.geteuid()}:
        raise KeyStoreError(
            f"{path} belongs to user {status.st_uid}, not to user {os.geteuid()} that the gateway runs as"
        )
    mounted = status.st_uid == 0 and os.geteuid() != 0
    mode = stat.S_IMODE(status.st_mode)
    if mode & (0o037 if mounted else 0o077):
        raise KeyStoreError(f"{path} is open to others (mode {mode:04o}); chmod 0400 closes it")
