"""The row of a key as a JSON object: what stores write beside the private key."""

from typing import Any, get_args

from gateway.model import SigningAlgorithm
from gateway.tokens.key_schedule import KeyRow

_ALGORITHMS = frozenset(get_args(SigningAlgorithm))
_MEMBERS = frozenset({"kid", "alg", "created_at", "sign_from", "revoked_at", "note"})
_ALWAYS = frozenset({"kid", "alg", "created_at"})
MAX_NOTE_CHARACTERS = 300


def row_as_json(row: KeyRow) -> dict[str, Any]:
    """``kid``, ``alg``, ``created_at``, ``sign_from``, and ``revoked_at`` and ``note`` where there are any."""
    document = {"kid": row.kid, "alg": row.algorithm, "created_at": row.created_at, "sign_from": row.sign_from}
    if row.revoked_at is not None:
        document["revoked_at"] = row.revoked_at
    if row.note:
        document["note"] = row.note
    return document


def parse_row(document: object) -> KeyRow | None:
    """What ``row_as_json`` made, of the older form also, which had no ``sign_from``: such a key signed at once.

    None for anything else, also where a later version says more: that may be a reason not to use the key.
    """
    if not isinstance(document, dict) or not _ALWAYS <= document.keys() <= _MEMBERS:
        return None
    kid, algorithm, created_at = (document[name] for name in ("kid", "alg", "created_at"))
    sign_from, revoked_at = document.get("sign_from", created_at), document.get("revoked_at")
    note = document.get("note", "")
    if not all(type(text) is str for text in (kid, algorithm, note)) or len(note) > MAX_NOTE_CHARACTERS:
        return None
    if algorithm not in _ALGORITHMS:
        return None
    times = (created_at, sign_from, created_at if revoked_at is None else revoked_at)
    if not all(type(time) is int and 0 <= time < 2**53 for time in times):
        return None
    return KeyRow(kid, algorithm, created_at, sign_from, revoked_at, note)
