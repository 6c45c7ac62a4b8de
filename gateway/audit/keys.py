"""The audit key: it signs checkpoints, and nothing else. Whoever has its public half can tell who wrote a log."""

import os
import secrets
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import orjson
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from gateway.audit.base import SinkError
from gateway.audit.chain import SIGNED_PREFIX
from gateway.jose import base64url
from gateway.jose.thumbprint import jwk_thumbprint

_MAX_FILE_BYTES = 64 * 1024
_MAX_KEYS = 1000


class AuditKey:
    """An Ed25519 key with its name (``kid``), the RFC 7638 thumbprint of its public half (``Signer``)."""

    def __init__(self, private_key: Ed25519PrivateKey) -> None:
        self._private_key = private_key
        self._jwk = _public_jwk(private_key.public_key())
        self.kid = jwk_thumbprint(self._jwk)

    @classmethod
    def open(cls, path: Path) -> Self:
        """The key in a file (PKCS#8 PEM) that nobody else can read; made, with its folder, where there is none.

        Raises ``SinkError``.
        """
        try:
            if not os.path.lexists(path):
                _write_new(path)
            return cls(_parse(path, _read_private(path)))
        except OSError as error:
            raise SinkError(f"{path}: {error.strerror}") from error

    def sign(self, data: bytes) -> bytes:
        """An Ed25519 signature (RFC 8032): 64 bytes."""
        return self._private_key.sign(data)

    def public_jwk(self) -> dict[str, str]:
        """The public half, for those who verify (RFC 8037 §2)."""
        return {**self._jwk, "kid": self.kid, "use": "sig", "alg": "EdDSA"}

    def __repr__(self) -> str:
        return f"AuditKey({self.kid})"


class PublicKeys:
    """The public halves that signatures are checked with, by name."""

    def __init__(self, keys: Mapping[str, Ed25519PublicKey]) -> None:
        self._keys = keys

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """From a JWK set or one JWK (RFC 7517 §4, §5). Keys of another kind than Ed25519 are left out.

        Raises ``ValueError``, also where no key is left.
        """
        document = orjson.loads(data) if len(data) <= _MAX_FILE_BYTES else None
        members = document.get("keys", [document]) if isinstance(document, dict) else None
        if not isinstance(members, list) or len(members) > _MAX_KEYS:
            raise ValueError("is no JWK set")
        keys = dict(_parse_jwk(member) for member in members if _is_ed25519(member))
        if not keys:
            raise ValueError("holds no Ed25519 key")
        return cls(keys)

    def have_signed(self, kid: str, unsigned: bytes, signature: bytes) -> bool | None:
        """Whether the signature of a checkpoint is that of the key; None for a key that is not among these."""
        key = self._keys.get(kid)
        if key is None:
            return None
        try:
            key.verify(signature, SIGNED_PREFIX + unsigned)
        except InvalidSignature:
            return False
        return True


def publish(key: AuditKey, path: Path) -> None:
    """Adds the public half to a JWK set in a file, which keeps those of earlier keys. Raises ``OSError``.

    For convenience: whoever can change a log can change what lies beside it. What proves is a copy elsewhere.
    """
    keys: list[dict[str, Any]] = []
    with suppress(FileNotFoundError, orjson.JSONDecodeError, AttributeError):
        found = orjson.loads(path.read_bytes()).get("keys")
        keys = [one for one in found if _is_ed25519(one)] if isinstance(found, list) else []
    if any(one.get("kid") == key.kid for one in keys):
        return
    keys = [*keys[-_MAX_KEYS + 1 :], key.public_jwk()]
    new = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    new.write_bytes(orjson.dumps({"keys": keys}, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    new.rename(path)


def _public_jwk(key: Ed25519PublicKey) -> dict[str, str]:
    return {"kty": "OKP", "crv": "Ed25519", "x": base64url.encode(key.public_bytes_raw()).decode("ascii")}


def _is_ed25519(member: Any) -> bool:
    return isinstance(member, dict) and (member.get("kty"), member.get("crv")) == ("OKP", "Ed25519")


def _parse_jwk(member: Mapping[str, Any]) -> tuple[str, Ed25519PublicKey]:
    """The key goes by the name that anybody can work out, whatever the JWK says."""
    x = member.get("x")
    key = Ed25519PublicKey.from_public_bytes(base64url.parse(x if isinstance(x, str) else ""))
    return jwk_thumbprint(_public_jwk(key)), key


def _write_new(path: Path) -> None:
    """Whole and durable, or not there at all. Of several processes that do it at once, one wins."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    pem = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    new = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(descriptor)
        with suppress(FileExistsError):
            os.link(new, path)
    finally:
        new.unlink()
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _read_private(path: Path) -> bytes:
    """What is in the file. One that root owns and a group may read is what Kubernetes mounts from a Secret."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise SinkError(f"{path} is not a plain file")
        if status.st_uid not in {0, os.geteuid()}:
            raise SinkError(f"{path} belongs to user {status.st_uid}, not to user {os.geteuid()}")
        mode = stat.S_IMODE(status.st_mode)
        is_mounted = status.st_uid == 0 and os.geteuid() != 0
        if mode & (0o037 if is_mounted else 0o077):
            raise SinkError(f"{path} is open to others (mode {mode:04o}); chmod 0600 closes it")
        return os.read(descriptor, _MAX_FILE_BYTES)
    finally:
        os.close(descriptor)


def _parse(path: Path, pem: bytes) -> Ed25519PrivateKey:
    try:
        key = serialization.load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise SinkError(f"{path} is no Ed25519 private key as PKCS#8 PEM without a passphrase")
    return key
