"""State in Redis 6.2 or newer, or in Valkey, for any number of replicas.

Whatever has to happen in one step is a script that the server runs. The server's memory policy has to be
``noeviction``: an evicted mark is a token that works twice.
"""

import asyncio
import math
import re
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from redis.asyncio import BlockingConnectionPool, Connection, Redis, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.commands.core import AsyncScript
from redis.exceptions import RedisError, ResponseError

from gateway.model import Clock
from gateway.state.base import Changes, Record, StateUnavailableError, mark_of
from gateway.state.breaker import Breaker
from gateway.state.table import MAX_RECORDS, PURGE_STEP, TOMBSTONE_SECONDS, is_live, kind_and_key, name_of

CONNECT_SECONDS = 0.5
COMMAND_SECONDS = 0.5
MAX_CONNECTIONS = 16
MARK_MARGIN_SECONDS = 60
"""How much longer than asked for a mark stays: the clocks of replicas may differ by as much."""

PREFIX = "gateway:"
# The braces keep the tables together on one node of a cluster.
_TABLES = [f"{PREFIX}{{records}}:{table}" for table in ("versions", "values", "order", "ends")]
_LATEST_END_SECONDS = 1e11
"""The year 5138: ends beyond it are cut to it, so that they stay numbers that Redis knows."""

_FAILURES = (
    RedisError, OSError, EOFError, ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError,
)  # fmt: skip
"""What redis-py raises, the latter ones where the other end of a connection is no Redis."""

_CLAIM = """
-- KEYS: the mark. ARGV: its end by the caller's clock, and how far off that is; both in milliseconds.
-- The later of two ends: a server whose clock is ahead must not forget the mark before its time.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ends = string.format('%.0f', math.max(tonumber(ARGV[1]), now + tonumber(ARGV[2])))
if redis.call('SET', KEYS[1], '', 'NX', 'PXAT', ends) then return 1 end
return 0
"""

_PUT = """
-- KEYS: versions (latest, floor), values by name, names by version, names by end.
-- ARGV: name, '1' for a value or '0' for a removal, value, until or '', version wanted or '', the caller's time,
-- how long a removal is told, most records, most entries to clear away.
-- A value is kept as version:until:kept:value. Returns 1 done, 0 another version, -1 full.
local versions, values, order, ends = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local name, kept, value, until_, wanted = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local time = redis.call('TIME')
local server_now, caller_now = time[1] + time[2] / 1000000, tonumber(ARGV[6])
-- Of two clocks, the slower one says what is over.
local now = math.min(server_now, caller_now)
local floor = tonumber(redis.call('HGET', versions, 'floor') or 0)
local latest = tonumber(redis.call('HGET', versions, 'latest') or 0)

for _, ended in ipairs(redis.call('ZRANGEBYSCORE', ends, '-inf', string.format('%.6f', now), 'LIMIT', 0, ARGV[9])) do
  floor = math.max(floor, tonumber(redis.call('ZSCORE', order, ended) or 0))
  redis.call('ZREM', order, ended)
  redis.call('ZREM', ends, ended)
  redis.call('HDEL', values, ended)
end
if latest > 0 then redis.call('HSET', versions, 'floor', string.format('%.0f', floor)) end

local found = redis.call('HGET', values, name)
local there = '0'
if found then
  local version, found_until, found_kept = string.match(found, '^(%d+):([^:]*):([01]):')
  if found_kept == '1' and (found_until == '' or tonumber(found_until) > caller_now) then there = version end
end
if wanted ~= '' and wanted ~= there then return 0 end
if kept == '0' and there == '0' then return 1 end
if not found and redis.call('HLEN', values) >= tonumber(ARGV[8]) then return -1 end

-- Versions follow the time, so that a table which was lost and begun anew is told apart from the one before.
local version = math.max(latest + 1, math.floor(server_now * 1000000))
local written = string.format('%.0f', version)
if latest == 0 then redis.call('HSET', versions, 'floor', string.format('%.0f', version - 1)) end
redis.call('HSET', versions, 'latest', written)
redis.call('HSET', values, name, written .. ':' .. until_ .. ':' .. kept .. ':' .. value)
redis.call('ZADD', order, written, name)
if kept == '0' then
  redis.call('ZADD', ends, string.format('%.6f', math.max(server_now, caller_now) + tonumber(ARGV[7])), name)
elseif until_ ~= '' then
  redis.call('ZADD', ends, until_, name)
else
  redis.call('ZREM', ends, name)
end
return 1
"""

_CHANGES = """
-- KEYS: as for a put. ARGV: the version since which.
-- Returns the latest version, 1 where all records follow, and names and values by turns.
local versions, values, order = KEYS[1], KEYS[2], KEYS[3]
local latest = redis.call('HGET', versions, 'latest') or '0'
local floor = redis.call('HGET', versions, 'floor') or '0'
local since = tonumber(ARGV[1])
local known = since > 0 and since >= tonumber(floor) and since <= tonumber(latest)
if known then
  local found = {}
  for _, name in ipairs(redis.call('ZRANGEBYSCORE', order, '(' .. ARGV[1], '+inf')) do
    local value = redis.call('HGET', values, name)
    if not value then known = false break end
    found[#found + 1] = name
    found[#found + 1] = value
  end
  if known then return {latest, 0, found} end
end
return {latest, 1, redis.call('HGETALL', values)}
"""


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """Where a Redis is, and how to be let in. ``str`` and ``repr`` tell the former only."""

    host: str = ""
    port: int = 6379
    socket: str = ""
    """The path of its Unix socket, instead of host and port."""
    database: int = 0
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    tls: bool = False
    ca_file: str | None = None
    """The CAs that may vouch for the server; those of the system where None."""

    @classmethod
    def of(cls, url: str) -> Self:
        """The address in ``redis://[[user]:password@]host[:port][/database]``, ``rediss://...[?ca=/path]`` (TLS) or
        ``redis+unix://[[user]:password@]/path/of/socket[?db=1]``.

        Raises ``ValueError`` with words that repeat nothing of the URL.
        """
        if not url.isascii() or not url.isprintable() or " " in url:
            raise ValueError("has characters that a URL encodes (%20 for a space)")
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise ValueError(
                "has no host and port; '/', '?', '#' and '@' in a password read %2F, %3F, %23, %40"
            ) from None
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        if "#" in url or url.endswith("?") or len(options) != (parts.query.count("&") + 1 if parts.query else 0):
            raise ValueError("has a part that means nothing here; '#', '?' and '&' in a password read %23, %3F, %26")
        user, password = _credentials(parts)
        if parts.scheme == "redis+unix":
            return cls(user=user, password=password, **_unix_socket(parts, options))
        if not parts.hostname:
            raise ValueError(f"names a host, such as {parts.scheme}://redis.example.com:6379/0")
        ca_file = options.pop("ca", None)
        if options or (ca_file is not None and parts.scheme != "rediss"):
            raise ValueError("has an option that does not exist; there is ?ca=/path/of/ca.pem for rediss")
        if ca_file is not None and not ca_file.startswith("/"):
            raise ValueError("has a ca that is no absolute path")
        return cls(
            host=parts.hostname,
            port=6379 if port is None else port,
            database=_database(parts.path.removeprefix("/")),
            user=user,
            password=password,
            tls=parts.scheme == "rediss",
            ca_file=ca_file,
        )

    def __str__(self) -> str:
        if self.socket:
            return f"redis+unix://{self.socket}?db={self.database}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'rediss' if self.tls else 'redis'}://{host}:{self.port}/{self.database}"


def connection_pool(
    address: RedisAddress, *, connect_seconds: float, command_seconds: float, max_connections: int
) -> BlockingConnectionPool:
    """Connections to a Redis: nothing is tried twice, and nobody waits for longer than these seconds.

    Raises ``OSError`` for a file of CAs that cannot be read.
    """
    where: dict[str, Any] = {"host": address.host, "port": address.port, "connection_class": Connection}
    if address.socket:
        where = {"path": address.socket, "connection_class": UnixDomainSocketConnection}
    elif address.tls:
        where |= {"connection_class": _TlsConnection, "tls": _tls_context(address.ca_file)}
    return BlockingConnectionPool(
        **where,
        db=address.database,
        username=address.user,
        password=address.password,
        socket_connect_timeout=connect_seconds,
        socket_timeout=command_seconds,
        timeout=command_seconds,
        max_connections=max_connections,
        retry=Retry(NoBackoff(), 0),
        protocol=2,
    )


class RedisState:
    """``redis://``, ``rediss://`` and ``redis+unix://`` (``State``).

    A server that does not answer costs a caller at most ``connect_seconds`` and ``command_seconds`` together; one that
    has not answered for a while, nothing. It is taken up again as soon as it answers.
    """

    def __init__(
        self,
        address: RedisAddress,
        clock: Clock,
        *,
        connect_seconds: float = CONNECT_SECONDS,
        command_seconds: float = COMMAND_SECONDS,
        max_connections: int = MAX_CONNECTIONS,
        max_records: int = MAX_RECORDS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Connects to nothing yet. Raises ``OSError`` for a file of CAs that cannot be read."""
        self._address = address
        self._clock = clock
        self._wait_seconds = connect_seconds + command_seconds
        self._max_records = max_records
        self._breaker = Breaker(monotonic)
        self._closed = False
        self._client = Redis.from_pool(
            connection_pool(
                address,
                connect_seconds=connect_seconds,
                command_seconds=command_seconds,
                max_connections=max_connections,
            )
        )
        self._claim = self._client.register_script(_CLAIM)
        self._put = self._client.register_script(_PUT)
        self._changes = self._client.register_script(_CHANGES)

    def __repr__(self) -> str:
        return f"RedisState({self._address})"

    async def claim_once(self, issuer: str, token_key: str, until: float) -> bool:
        """See ``ReplayMarks``."""
        left_seconds = max(0.0, until - self._clock())
        ends = [_milliseconds(until + MARK_MARGIN_SECONDS), _milliseconds(left_seconds + MARK_MARGIN_SECONDS)]
        answer = await self._run(self._claim, [f"{PREFIX}mark:{mark_of(issuer, token_key).hex()}"], ends)
        return self._one_of({1: True, 0: False}, answer)

    async def put(
        self, kind: str, key: str, value: bytes | None, *, until: float | None = None, if_version: int | None = None
    ) -> bool:
        """See ``SharedRecords``."""
        arguments = [
            name_of(kind, key, value),
            "0" if value is None else "1",
            value or b"",
            "" if until is None or value is None else repr(min(float(until), _LATEST_END_SECONDS)),
            "" if if_version is None else str(if_version),
            repr(self._clock()),
            TOMBSTONE_SECONDS,
            self._max_records,
            PURGE_STEP,
        ]
        answer = await self._run(self._put, _TABLES, arguments)
        if answer == -1:
            raise StateUnavailableError(f"{self._address}: all {self._max_records} shared records are in use")
        return self._one_of({1: True, 0: False}, answer)

    async def changes(self, since: int) -> Changes:
        """See ``SharedRecords``."""
        match await self._run(self._changes, _TABLES, [str(since)]):
            case [bytes() as version, int() as whole, list() as pairs]:
                found = self._changes_of(version, pairs, whole=bool(whole))
            case _:
                raise self._strange()
        return found

    async def close(self) -> None:
        """See ``State``."""
        self._closed = True
        await self._client.aclose()

    async def _run(self, script: AsyncScript, keys: list[str], arguments: Sequence[Any]) -> Any:
        """What the server's script answers. Raises ``StateUnavailableError``, which repeats nothing that the server
        says: servers quote what they were sent, passwords as well.
        """
        if self._closed:
            raise StateUnavailableError(f"{self._address} is closed")
        if not self._breaker.may_try():
            raise StateUnavailableError(f"{self._address} does not answer; it is asked again once a second")
        try:
            async with asyncio.timeout(self._wait_seconds):
                answer = await script(keys=keys, args=arguments)
        except ResponseError as error:
            self._breaker.succeeded()
            raise StateUnavailableError(f"{self._address} refused: {type(error).__name__}") from None
        except _FAILURES as error:
            self._breaker.failed()
            raise StateUnavailableError(f"{self._address}: {_cause(error)}") from None
        self._breaker.succeeded()
        return answer

    def _changes_of(self, version: bytes, pairs: Sequence[bytes], *, whole: bool) -> Changes:
        now = self._clock()
        try:
            found = [_record(name, kept) for name, kept in zip(pairs[::2], pairs[1::2], strict=True)]
            records = sorted(found, key=lambda record: record.version)
            return Changes(int(version), [one for one in records if is_live(one, now)] if whole else records, whole)
        except (ValueError, TypeError, AttributeError):
            raise self._strange() from None

    def _one_of(self, answers: dict[int, bool], answer: Any) -> bool:
        if type(answer) is not int or answer not in answers:
            raise self._strange()
        return answers[answer]

    def _strange(self) -> StateUnavailableError:
        return StateUnavailableError(f"{self._address} holds or answers what the gateway never put there")


def _record(name: bytes, kept: bytes) -> Record:
    """A record as the script wrote it. Raises ``ValueError`` for another one."""
    kind, key = kind_and_key(name)
    version, until, is_kept, value = kept.split(b":", 3)
    return Record(kind, key, value if is_kept == b"1" else None, int(version), float(until) if until else None)


class _TlsConnection(Connection):
    """A connection over TLS with a context that is made once, not for every connection."""

    def __init__(self, *, tls: ssl.SSLContext, **options: Any) -> None:
        self._tls = tls
        super().__init__(**options)

    def _connection_arguments(self) -> dict[str, Any]:
        return {**super()._connection_arguments(), "ssl": self._tls}


def _tls_context(ca_file: str | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise OSError(f"{ca_file}: {error.strerror or 'holds no CA certificate'}") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _credentials(parts: SplitResult) -> tuple[str | None, str | None]:
    if parts.username is None and parts.password is None:
        return None, None
    if not parts.password:
        raise ValueError("names a user without a password; it reads user:password@host, or :password@host")
    return unquote(parts.username or "") or None, unquote(parts.password)


def _unix_socket(parts: SplitResult, options: dict[str, str]) -> dict[str, Any]:
    database = _database(options.pop("db", ""))
    if parts.hostname or parts.path.strip("/") == "" or options:
        raise ValueError("names a socket by its absolute path, such as redis+unix:///run/redis/redis.sock?db=0")
    return {"socket": str(Path(unquote(parts.path))), "database": database}


def _database(text: str) -> int:
    if text and not re.fullmatch(r"[0-9]{1,4}", text):
        raise ValueError("names a database by its number, such as redis://redis.example.com:6379/0")
    return int(text or 0)


def _milliseconds(seconds: float) -> int:
    return math.ceil(min(seconds, _LATEST_END_SECONDS) * 1000)


def _cause(error: BaseException) -> str:
    """What went wrong below redis-py, in the words of the system; else the name of the error."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, TimeoutError):
            return "took too long"
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return "took too long" if "Timeout" in type(error).__name__ else type(error).__name__
