"""base64url without padding (RFC 7515 §2), in its one canonical form."""

import base64


def encode(data: bytes) -> bytes:
    """The text for any bytes, as ASCII bytes."""
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def parse(segment: str) -> bytes:
    """The bytes of one segment. Raises ``ValueError`` for padding, foreign characters and stray bits."""
    data = base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
    # The library skips what it does not know and drops left-over bits: whatever it forgave shows here.
    if encode(data) != segment.encode("ascii"):
        raise ValueError("not canonical base64url")
    return data
