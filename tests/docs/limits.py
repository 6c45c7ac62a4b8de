"""How large, long and deep things may be, read from the code that refuses the rest."""

import inspect
from collections.abc import Callable
from typing import Any

from gateway import explanations
from gateway.audit import group_commit, record
from gateway.http import form
from gateway.identity import fetcher, issuer_keys, trust, verification
from gateway.jose import compact, jwks, strict_json
from gateway.oauth import parameters
from gateway.policy import cel, cel_cost, conditions, delegation, documents, files, isolation, yaml_reader
from gateway.policy.documents import duration_text
from gateway.settings import AdminSettings, LimitSettings
from gateway.state import redis, sqlite, table
from gateway.state.memory import MemoryState

Rows = tuple[tuple[str, str], ...]


def _default(function: Callable[..., Any], parameter: str) -> Any:
    return inspect.signature(function).parameters[parameter].default


def _size(count: int) -> str:
    """Bytes in powers of 1024."""
    for unit, size in (("MiB", 2**20), ("KiB", 2**10)):
        if count >= size and count % size == 0:
            return f"{count // size} {unit}"
    return f"{count} bytes"


_PACE = issuer_keys.Pace()

POLICIES: Rows = (
    ("policy files", f"{files.MAX_FILES:,}"),
    ("folders within folders", f"{files.MAX_FOLDER_DEPTH}, {files.MAX_FOLDERS:,} in all"),
    ("one policy file", _size(files.MAX_FILE_BYTES)),
    ("all policy files", _size(files.MAX_TOTAL_BYTES)),
    ("levels of a YAML document", f"{yaml_reader.MAX_DEPTH}"),
    ("one text in a file", f"{yaml_reader.MAX_SCALAR_CHARACTERS:,} characters"),
    ("a whole number in a file", f"{yaml_reader.MAX_DIGITS} digits"),
    ("roles of a service account", f"{documents.MAX_ROLES}"),
    ("entries of `access`", f"{documents.MAX_ACCESS}"),
    ("trust rules of a service account", f"{documents.MAX_TRUST_RULES:,}"),
    ("a value of `match`", f"{conditions.MAX_MATCH_CHARACTERS:,} characters"),
    ("a glob", f"{conditions.MAX_GLOB_CHARACTERS} characters, {conditions.MAX_GLOB_STARS} stars"),
    ("a claim that `like` looks at", f"{conditions.MAX_LIKE_CHARACTERS:,} characters; a longer one fits nothing"),
    ("a CEL expression", f"{cel.MAX_SOURCE_CHARACTERS:,} characters"),
    ("what it costs", f"{cel_cost.BUDGET:,} steps of some 30 ns, with {cel_cost.LEAST_CLAIMS} values or more"),
    ("loops within each other in it", f"{cel_cost.MAX_NESTED_LOOPS}"),
    ("a repetition in its regular expressions", f"{cel.MAX_REPETITIONS:,}"),
    ("levels of a claim that CEL looks at", f"{cel.MAX_CLAIM_DEPTH}"),
    ("a text in `token_claims`", f"{cel.MAX_MAPPED_CHARACTERS:,} printable characters"),
    ("a list in `token_claims`", f"{cel.MAX_MAPPED_ENTRIES} texts"),
    ("the life of an access token", f"`{duration_text(documents.MAX_LIFETIME_SECONDS)}`"),
    ("the least that a policy may set for it", f"`{duration_text(documents.MIN_LIFETIME_SECONDS)}`"),
    ("compilations of one load by folder", f"{isolation.MAX_COMPILATIONS}"),
    ("actors in one chain", f"{delegation.MAX_ACTORS}"),
    ("scopes in one request", f"{parameters.MAX_SCOPES}"),
    ("a workload token", _size(compact.MAX_TOKEN_LENGTH)),
    ("its header, decoded", _size(compact.MAX_HEADER_BYTES)),
    ("levels of its claims", f"{_default(strict_json.parse_json_object, 'max_depth')}"),
    ("a whole number in it", f"{strict_json.MAX_INTEGER_DIGITS} digits"),
    ("its `sub`", f"{verification.MAX_SUBJECT_LENGTH} characters"),
    ("its `jti`", f"{verification.MAX_TOKEN_ID_LENGTH} characters"),
    ("its `kid`", f"{compact.MAX_KEY_ID_LENGTH} characters"),
    ("an issuer's key set", f"{_size(jwks.MAX_KEY_SET_BYTES)}, {jwks.MAX_KEYS} keys"),
    ("the time until a changed `jwks_file` is seen", f"{_PACE.file_seconds:.0f} s"),
    ("an RSA key in a key set", f"{jwks.MIN_RSA_BITS} to {jwks.MAX_RSA_BITS} bits, exponent {jwks.RSA_EXPONENT}"),
)
"""What bounds policies, and the tokens and key sets that they speak of."""

SERVER: Rows = (
    ("token requests at once", f"`limits.in_flight`: {LimitSettings().in_flight}"),
    ("the body of a request", f"{_size(form.MAX_BODY_BYTES)}, {form.MAX_FIELDS} parameters"),
    ("an audit record", _size(record.MAX_LINE_BYTES)),
    ("one text in it", f"{_size(record.MAX_TEXT_BYTES)}; the rest is cut, and the text says so"),
    ("records that wait for a sink", f"{group_commit.MAX_WAITING_LINES:,}, each for {group_commit.WAIT_SECONDS:.0f} s"),
    ("replay marks in memory", f"{_default(MemoryState, 'capacity'):,}"),
    ("shared records", f"{table.MAX_RECORDS:,}, each of {_size(table.MAX_RECORD_BYTES)}"),
    ("the time that a request waits for Redis", f"{redis.CONNECT_SECONDS + redis.COMMAND_SECONDS:.0f} s"),
    ("the time that a request waits for SQLite", f"{sqlite.WAIT_SECONDS:.0f} s"),
    ("a fetch from an issuer", f"{fetcher.TOTAL_SECONDS:.0f} s, {_size(fetcher.MAX_BODY_BYTES)}, no redirects"),
    ("its time to connect", f"{fetcher.CONNECT_SECONDS:.0f} s"),
    ("the time that a request waits for it", f"{_PACE.wait_seconds} s"),
    ("fetches of one issuer for tokens with an unknown key or a bad signature",
     f"{_PACE.budget} in {_PACE.budget_seconds:.0f} s, {_PACE.cooldown_seconds:.0f} s apart"),
    ("decisions kept to be explained", f"`admin.explanations`: {AdminSettings().explanations:,}"),
    ("the memory and the time that they are kept",
     f"{_size(explanations.MAX_BYTES)}, `{duration_text(explanations.MAX_AGE_SECONDS)}`"),
    ("verified tokens that are remembered", f"{_default(trust.TrustStore, 'remembered_workloads'):,}"),
)  # fmt: skip
"""What one process takes on, and how long it waits."""
