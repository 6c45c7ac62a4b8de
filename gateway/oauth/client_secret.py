"""Client secrets: their form, so that a leaked one is recognised, and the digest that is kept in their place.

``wigs_``, then 256 random bits as 43 letters and digits, then their CRC-32 as 6: secret scanners find it by the
prefix and tell it from a look-alike by the checksum. Every client encodes these characters alike (RFC 6749 §2.3.1).
"""

import hashlib
import re
import zlib
from collections.abc import Callable

PREFIX = "wigs_"
PATTERN = r"wigs_[0-9A-Za-z]{49}"
"""What secret scanners look for."""
RANDOM_BYTES = 32

_BODY_CHARACTERS = 43  # 62 ** 43 > 2 ** 256
_CHECKSUM_CHARACTERS = 6  # 62 ** 6 > 2 ** 32
_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def new_client_secret(random_bytes: Callable[[int], bytes]) -> str:
    """A new secret from 256 random bits; ``random_bytes`` is ``secrets.token_bytes`` outside tests."""
    body = PREFIX + _base62(int.from_bytes(random_bytes(RANDOM_BYTES)), _BODY_CHARACTERS)
    return body + _checksum(body)


def is_client_secret(text: str) -> bool:
    """Whether a text is a secret of this form, its checksum included. Says nothing about whose it is."""
    return (
        re.fullmatch(PATTERN, text) is not None
        and _checksum(text[:-_CHECKSUM_CHARACTERS]) == text[-_CHECKSUM_CHARACTERS:]
    )


def secret_digest(secret: str) -> str:
    """``sha256:`` and the hex digest: what policies and state keep. A plain hash suffices for 256 random bits."""
    return "sha256:" + hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _checksum(body: str) -> str:
    return _base62(zlib.crc32(body.encode("ascii")), _CHECKSUM_CHARACTERS)


def _base62(number: int, length: int) -> str:
    digits = []
    for _ in range(length):
        number, digit = divmod(number, 62)
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))
