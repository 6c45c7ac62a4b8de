"""What every backend does alike with records: their names, their bounds, and how long a removal is told."""

from gateway.state.base import Record

MAX_RECORDS = 100_000
"""Records in one backend, with the removed ones that are still told. Beyond it nothing new is taken."""
MAX_RECORD_BYTES = 64 * 1024
"""Kind, key and value of one record together."""
TOMBSTONE_SECONDS = 3600.0
"""How long a backend tells that a record was removed. Who has not asked for longer reads everything anew."""
PURGE_STEP = 64
"""How many ended entries one change clears away at most: no change waits for a great clean-up."""

_KIND_LENGTH_BYTES = 4


def name_of(kind: str, key: str, value: bytes | None) -> bytes:
    """The name under which a backend keeps a record: any two pairs of kind and key have different ones.

    Raises ``ValueError`` for a record, ``value`` included, that is larger than ``MAX_RECORD_BYTES``.
    """
    kind_bytes, key_bytes = kind.encode("utf-8", "surrogatepass"), key.encode("utf-8", "surrogatepass")
    size = len(kind_bytes) + len(key_bytes) + len(value or b"")
    if size > MAX_RECORD_BYTES:
        raise ValueError(f"a shared record of {size} bytes is larger than {MAX_RECORD_BYTES} bytes")
    return len(kind_bytes).to_bytes(_KIND_LENGTH_BYTES, "big") + kind_bytes + key_bytes


def kind_and_key(name: bytes) -> tuple[str, str]:
    """What ``name_of`` was given. Raises ``ValueError`` for bytes that it does not make."""
    length = int.from_bytes(name[:_KIND_LENGTH_BYTES], "big")
    rest = name[_KIND_LENGTH_BYTES:]
    if len(name) < _KIND_LENGTH_BYTES or len(rest) < length:
        raise ValueError("no name of a shared record")
    return rest[:length].decode("utf-8", "surrogatepass"), rest[length:].decode("utf-8", "surrogatepass")


def is_live(record: Record, now: float) -> bool:
    """Whether there is such a record at ``now``: neither removed nor ended."""
    return record.value is not None and (record.until is None or record.until > now)


def end_of(value: bytes | None, until: float | None, now: float) -> float | None:
    """When a record that is put at ``now`` may be forgotten; a removal once everybody has had time to hear of it."""
    return now + TOMBSTONE_SECONDS if value is None else until


def must_tell_all(since: int, version: int, floor: int) -> bool:
    """Whether only the whole table answers ``changes(since)``.

    ``version`` is the latest of the table. Up to ``floor`` some changes were cleared away, or happened before the
    table began. A ``since`` beyond ``version`` comes from a table that was lost.
    """
    return since <= 0 or since < floor or since > version
