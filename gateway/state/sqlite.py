"""State in one SQLite file, for several processes on one machine that share a disk.

All of it happens in one thread of its own, so that a slow disk or another process's lock never holds up the event
loop. What arrives while a transaction is under way shares the next one, and with it the sync to disk.
"""

import asyncio
import contextlib
import logging
import os
import re
import shlex
import sqlite3
import stat
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from gateway.model import Clock
from gateway.state.base import Changes, Record, StateUnavailableError, mark_of
from gateway.state.table import MAX_RECORDS, PURGE_STEP, end_of, is_live, kind_and_key, must_tell_all, name_of

log = logging.getLogger("gateway.state")

WAIT_SECONDS = 2.0
"""How long one caller waits for an answer."""
BUSY_SECONDS = 1.0
"""How long the thread waits for another process's transaction."""
MAX_WAITING = 1024
"""How many calls wait at once."""

_MAX_BATCH = 256
_SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE marks (mark BLOB PRIMARY KEY, until REAL NOT NULL) WITHOUT ROWID;
CREATE INDEX marks_by_end ON marks (until);
CREATE TABLE records (name BLOB PRIMARY KEY, value BLOB, version INTEGER NOT NULL, until REAL, ends REAL) WITHOUT ROWID;
CREATE UNIQUE INDEX records_by_version ON records (version);
CREATE INDEX records_by_end ON records (ends) WHERE ends IS NOT NULL;
CREATE TABLE versions (latest INTEGER NOT NULL, floor INTEGER NOT NULL);
INSERT INTO versions VALUES (0, 0);
PRAGMA user_version = 1;
"""

_Work = Callable[[sqlite3.Connection], Any]


def sqlite_path(url: str) -> Path:
    """The file of ``sqlite:///absolute/path.db``. Raises ``ValueError``."""
    if not re.fullmatch(r"sqlite:///[^?#\x00-\x1f]*[^/?#\x00-\x1f]", url):
        raise ValueError("is sqlite:///absolute/path.db")
    return Path("/" + url.removeprefix("sqlite://").lstrip("/"))


@dataclass(slots=True, eq=False)
class _Job:
    """One call: what to do in the thread, and where its answer goes."""

    work: _Work
    now: float
    writes: bool
    answer: "asyncio.Future[Any]"
    result: Any = None
    failure: str | None = None


class SqliteState:
    """``sqlite:///path`` (``State``). What was answered is on the disk.

    Bounded on both sides: ``max_waiting`` unanswered calls, each for ``wait_seconds``. A put that took longer may yet
    come to be; a claim as well, and its token is then used up.
    """

    def __init__(
        self,
        path: Path,
        clock: Clock,
        *,
        wait_seconds: float = WAIT_SECONDS,
        busy_seconds: float = BUSY_SECONDS,
        max_waiting: int = MAX_WAITING,
        max_records: int = MAX_RECORDS,
    ) -> None:
        """Makes the file, with mode 0600, where it is not there. Its folder must be.

        Raises ``OSError`` for a file that cannot be used, or that others may read.
        """
        self._path = path
        self._clock = clock
        self._wait_seconds = wait_seconds
        self._busy_seconds = busy_seconds
        self._max_waiting = max_waiting
        self._max_records = max_records
        self._database: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._waiting = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended: asyncio.Future[None] | None = None
        self._closed = False
        _make_private(path)

    async def claim_once(self, issuer: str, token_key: str, until: float) -> bool:
        """See ``ReplayMarks``."""
        mark, now = mark_of(issuer, token_key), self._clock()

        def claim(database: sqlite3.Connection) -> bool:
            """A mark whose end has come, and that is not cleared away yet, is as good as none."""
            done = database.execute(
                "INSERT INTO marks VALUES (?1, ?2)"
                " ON CONFLICT (mark) DO UPDATE SET until = excluded.until WHERE marks.until <= ?3",
                (mark, float(until), now),
            )
            return done.rowcount == 1

        return bool(await self._run(claim, now, writes=True))

    async def put(
        self, kind: str, key: str, value: bytes | None, *, until: float | None = None, if_version: int | None = None
    ) -> bool:
        """See ``SharedRecords``."""
        name, now = name_of(kind, key, value), self._clock()

        def put(database: sqlite3.Connection) -> bool:
            found = database.execute("SELECT name, value, version, until FROM records WHERE name = ?", (name,))
            row = found.fetchone()
            there = row[2] if row is not None and is_live(_record(*row), now) else 0
            if if_version is not None and if_version != there:
                return False
            if value is None and not there:
                return True
            if row is None and self._is_full(database):
                raise StateUnavailableError(f"{self._path}: all {self._max_records} shared records are in use")
            database.execute(
                "INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?, ?)",
                (name, value, _next_version(database, now), until if value is not None else None,
                 end_of(value, until, now)),
            )  # fmt: skip
            return True

        return bool(await self._run(put, now, writes=True))

    async def changes(self, since: int) -> Changes:
        """See ``SharedRecords``."""
        now = self._clock()

        def read(database: sqlite3.Connection) -> Changes:
            version, floor = database.execute("SELECT latest, floor FROM versions").fetchone()
            whole = must_tell_all(since, version, floor)
            if since == version and not whole:
                return Changes(version, ())
            rows = database.execute(
                "SELECT name, value, version, until FROM records WHERE version > ? ORDER BY version",
                (0 if whole else since,),
            )
            records = [_record(*row) for row in rows]
            return Changes(version, [one for one in records if is_live(one, now)] if whole else records, whole)

        found: Changes = await self._run(read, now, writes=False)
        return found

    async def close(self) -> None:
        """See ``State``. Answers what is waiting, then ends the thread, for which it does not wait for long."""
        if self._closed:
            return
        self._closed = True
        if self._ended is None:
            return
        self._jobs.put(None)
        try:
            async with asyncio.timeout(self._wait_seconds):
                await self._ended
        except TimeoutError:
            log.warning("the state in %s did not finish within %s s", self._path, self._wait_seconds)

    # ------------------------------------------------------------ in the event loop

    async def _run(self, work: _Work, now: float, *, writes: bool) -> Any:
        if self._closed:
            raise StateUnavailableError(f"{self._path} is closed")
        if self._waiting >= self._max_waiting:
            raise StateUnavailableError(f"{self._path} does not keep up: {self._max_waiting} calls are waiting")
        loop = self._loop or self._start()
        job = _Job(work, now, writes, loop.create_future())
        self._waiting += 1
        self._jobs.put(job)
        try:
            async with asyncio.timeout(self._wait_seconds):
                return await job.answer
        except TimeoutError:
            raise StateUnavailableError(f"{self._path} took longer than {self._wait_seconds} s") from None

    def _start(self) -> asyncio.AbstractEventLoop:
        self._loop = asyncio.get_running_loop()
        self._ended = self._loop.create_future()
        threading.Thread(target=self._work, args=(self._loop,), name=f"state {self._path}", daemon=True).start()
        return self._loop

    def _answer(self, batch: list[_Job]) -> None:
        for job in batch:
            self._waiting -= 1
            if job.answer.done():  # given up by its caller
                continue
            if job.failure is None:
                job.answer.set_result(job.result)
            else:
                job.answer.set_exception(StateUnavailableError(job.failure))

    def _end(self) -> None:
        assert self._ended is not None
        if not self._ended.done():
            self._ended.set_result(None)

    # ------------------------------------------------------------ in the thread

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        """The thread: takes what waits, does it, answers."""
        try:
            more = True
            while more:
                batch, more = self._next_batch()
                wanted = [job for job in batch if not job.answer.done()]
                self._transact([job for job in wanted if job.writes], "BEGIN IMMEDIATE")
                self._transact([job for job in wanted if not job.writes], "BEGIN")
                loop.call_soon_threadsafe(self._answer, batch)
            self._let_go()
            loop.call_soon_threadsafe(self._end)
        except RuntimeError:
            self._let_go()
            log.debug("the event loop ended before the state in %s was closed", self._path)

    def _next_batch(self) -> tuple[list[_Job], bool]:
        """Waits for a job; returns it with those behind it, and whether there may be more."""
        batch: list[_Job] = []
        job = self._jobs.get()
        while job is not None:
            batch.append(job)
            if len(batch) == _MAX_BATCH:
                return batch, True
            try:
                job = self._jobs.get_nowait()
            except Empty:
                return batch, True
        return batch, False

    def _transact(self, jobs: list[_Job], begin: str) -> None:
        """Does the jobs in one transaction: all of them are on the disk, or each says why not."""
        if not jobs:
            return
        failure = None
        try:
            database = self._opened()
            database.execute(begin)
            for job in jobs:
                try:
                    job.result = job.work(database)
                except StateUnavailableError as refused:  # before it changed anything
                    job.failure = str(refused)
            if jobs[0].writes:
                _purge(database, min(job.now for job in jobs))
            database.execute("COMMIT")
        except sqlite3.Error as error:
            failure = f"{self._path}: {error}"
        except OSError as error:
            failure = str(error)
        except Exception:
            # The thread must live on: without it no token that works once would ever be taken again.
            log.exception("unexpected error in the state %s", self._path)
            failure = f"{self._path}: unexpected error"
        if failure is not None:
            self._let_go()  # and with it the transaction
            for job in jobs:
                job.failure = failure

    def _is_full(self, database: sqlite3.Connection) -> bool:
        (count,) = database.execute("SELECT count(*) FROM records").fetchone()
        return bool(count >= self._max_records)

    def _opened(self) -> sqlite3.Connection:
        """The database; opened anew where the file at the path is no longer the one that was opened."""
        if self._database is not None and _identity(self._path) != self._identity:
            log.warning("the state file %s was replaced: it is opened anew", self._path)
            self._let_go()
        if self._database is None:
            _make_private(self._path)
            self._identity = _identity(self._path)
            self._database = self._connected()
        return self._database

    def _connected(self) -> sqlite3.Connection:
        database = sqlite3.connect(self._path, timeout=self._busy_seconds, isolation_level=None)
        try:
            self._enter_wal(database)
            database.execute("PRAGMA synchronous = FULL")
            if _schema_version(database) == 0:
                _make_tables(database)
            if _schema_version(database) != _SCHEMA_VERSION:
                raise sqlite3.DatabaseError("made by another version of the gateway")
        except BaseException:
            database.close()
            raise
        return database

    def _enter_wal(self, database: sqlite3.Connection) -> None:
        """Switches the file to its write-ahead log. SQLite does not wait for other processes here, so this does."""
        patience = time.monotonic() + self._busy_seconds
        mode = ""
        while not mode:
            try:
                (mode,) = database.execute("PRAGMA journal_mode = WAL").fetchone()
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() >= patience:
                    raise
                time.sleep(0.01)
        if mode != "wal":
            raise sqlite3.DatabaseError("this file system cannot hold a database that processes share")

    def _let_go(self) -> None:
        database, self._database = self._database, None
        if database is not None:
            with contextlib.suppress(sqlite3.Error):
                database.close()


def _schema_version(database: sqlite3.Connection) -> int:
    (version,) = database.execute("PRAGMA user_version").fetchone()
    return int(version)


def _make_tables(database: sqlite3.Connection) -> None:
    """Makes the tables, unless another process was faster."""
    database.execute("BEGIN IMMEDIATE")
    if _schema_version(database) == 0:
        for statement in _SCHEMA.strip().split(";\n"):
            database.execute(statement)
    database.execute("COMMIT")


def _record(name: bytes, value: bytes | None, version: int, until: float | None) -> Record:
    kind, key = kind_and_key(name)
    return Record(kind, key, value, version, until)


def _next_version(database: sqlite3.Connection, now: float) -> int:
    """The version of a change. It follows the time, so that a file which was lost and begun anew is told apart."""
    (latest,) = database.execute("SELECT latest FROM versions").fetchone()
    version = max(int(latest) + 1, int(now * 1e6))
    if latest == 0:
        database.execute("UPDATE versions SET floor = ?", (version - 1,))
    database.execute("UPDATE versions SET latest = ?", (version,))
    return version


def _purge(database: sqlite3.Connection, now: float) -> None:
    """Clears away a few marks and records whose end has come."""
    database.execute(
        "DELETE FROM marks WHERE mark IN (SELECT mark FROM marks WHERE until <= ? ORDER BY until LIMIT ?)",
        (now, _MAX_BATCH + PURGE_STEP),  # more than one batch can bring
    )
    ended = database.execute(
        "SELECT name, version FROM records WHERE ends <= ? ORDER BY ends LIMIT ?", (now, PURGE_STEP)
    ).fetchall()
    for name, version in ended:
        database.execute("DELETE FROM records WHERE name = ?", (name,))
        database.execute("UPDATE versions SET floor = max(floor, ?)", (version,))


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _make_private(path: Path) -> None:
    """Makes the file where it is not there. Raises ``OSError`` with a sentence for one that will not do."""
    try:
        # Closed at once, and never opened here again: closing a file drops every lock that this process has on it,
        # SQLite's too.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        pass
    except FileNotFoundError:
        raise OSError(
            f"{path.parent}: there is no such folder to keep the state in: make it with install -d -m 0700"
        ) from None
    except OSError as error:
        raise OSError(f"{path}: {error.strerror}") from error
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError(f"{path} is not a plain file")
    if status.st_uid != os.geteuid():
        raise OSError(f"{path} belongs to user {status.st_uid}, not to user {os.geteuid()} that the gateway runs as")
    if stat.S_IMODE(status.st_mode) & 0o077:
        mode = stat.S_IMODE(status.st_mode)
        raise OSError(f"{path} is open to others (mode {mode:04o}); run: chmod 600 {shlex.quote(str(path))}")
