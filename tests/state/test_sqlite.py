"""What the file alone promises: processes share it, nothing else may read it, and no lock holds up the event loop."""

import asyncio
import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.state.base import StateUnavailableError
from gateway.state.sqlite import SqliteState, sqlite_path
from tests.state.conftest import LONG_AGO, sqlite

ROOT = Path(__file__).resolve().parents[2]
SOON = LONG_AGO + 300

CLAIM_A_HUNDRED = f"""
import asyncio, sys
from pathlib import Path
from gateway.state.sqlite import SqliteState

async def main():
    state = SqliteState(Path(sys.argv[1]), lambda: {LONG_AGO}, wait_seconds=60, busy_seconds=30)
    sys.stdout.write("ready\\n")
    sys.stdout.flush()
    sys.stdin.readline()
    won = await asyncio.gather(*(state.claim_once("github", f"jti-{{n}}", {SOON}) for n in range(100)))
    done = [await state.put("counter", "c", str(n).encode(), if_version=0) for n in range(20)]
    print("".join("1" if one else "0" for one in won), sum(done))
    await state.close()

asyncio.run(main())
"""


@pytest.fixture
def file(tmp_path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture
async def state(file, clock):
    state = sqlite(file, clock)
    yield state
    await state.close()


def test_of_several_processes_that_claim_at_once_exactly_one_gets_each_token(file):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CLAIM_A_HUNDRED, str(file)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    answers = [process.communicate(timeout=60)[0].split() for process in processes]
    assert all(process.returncode == 0 for process in processes)
    assert [sum(int(won[n]) for won, _ in answers) for n in range(100)] == [1] * 100
    assert sum(int(done) for _, done in answers) == 1


async def test_marks_and_records_outlive_the_process(file, clock):
    state = sqlite(file, clock)
    assert await state.claim_once("github", "jti-1", SOON)
    assert await state.put("secret", "s1", b"1")
    version = (await state.changes(0)).version
    await state.close()
    state = sqlite(file, clock)
    assert not await state.claim_once("github", "jti-1", SOON)
    assert [one.value for one in (await state.changes(0)).records] == [b"1"]
    assert not (await state.changes(version)).whole
    await state.close()


async def test_every_answer_is_on_the_disk_by_its_settings(state):
    await state.put("secret", "s1", b"1")
    asked: dict[str, object] = {}

    def ask(database: sqlite3.Connection) -> None:
        for pragma in ("journal_mode", "synchronous"):
            asked[pragma] = database.execute(f"PRAGMA {pragma}").fetchone()[0]

    await state._run(ask, 0.0, writes=False)
    assert asked == {"journal_mode": "wal", "synchronous": 2}


async def test_only_the_gateway_may_read_its_files(state, file):
    await state.put("secret", "s1", b"1")
    files = sorted(file.parent.iterdir())
    assert [one.name for one in files] == ["state.db", "state.db-shm", "state.db-wal"]
    assert {stat.S_IMODE(one.stat().st_mode) for one in files} == {0o600}


class TestFilesThatWillNotDo:
    def test_a_folder_that_is_not_there(self, tmp_path, clock):
        with pytest.raises(OSError, match="absent: there is no such folder"):
            SqliteState(tmp_path / "absent" / "state.db", clock)

    def test_a_file_that_others_may_read(self, file, clock):
        file.touch(mode=0o644)
        with pytest.raises(OSError, match=r"open to others \(mode 0644\); run: chmod 600 /"):
            SqliteState(file, clock)

    def test_a_link_or_a_folder(self, tmp_path, file, clock):
        target = tmp_path / "target"
        file.symlink_to(target)
        with pytest.raises(OSError, match="not a plain file"):
            SqliteState(file, clock)
        assert not target.exists()
        with pytest.raises(OSError, match="not a plain file"):
            SqliteState(tmp_path, clock)

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
    def test_a_file_of_somebody_else(self, file, clock):
        file.touch(mode=0o600)
        os.chown(file, 65534, 65534)
        with pytest.raises(OSError, match="belongs to user 65534"):
            SqliteState(file, clock)

    async def test_a_file_that_is_no_database(self, file, clock):
        file.write_bytes(b"not a database" * 1000)
        file.chmod(0o600)
        state = SqliteState(file, clock)
        for call in (state.claim_once("github", "jti-1", SOON), state.changes(0), state.put("k", "e", b"1")):
            with pytest.raises(StateUnavailableError, match="file is not a database"):
                await call
        await state.close()
        assert file.read_bytes().startswith(b"not a database")

    async def test_a_database_of_another_version(self, file, clock):
        with sqlite3.connect(file) as database:
            database.execute("PRAGMA user_version = 2")
        database.close()
        file.chmod(0o600)
        state = SqliteState(file, clock)
        with pytest.raises(StateUnavailableError, match="another version of the gateway"):
            await state.claim_once("github", "jti-1", SOON)
        await state.close()


class TestSlow:
    async def test_a_lock_of_another_process_holds_up_nobody_for_long_and_never_the_loop(self, file, clock):
        state = SqliteState(file, clock, wait_seconds=30, busy_seconds=0.3)
        assert await state.claim_once("github", "jti-1", SOON)
        holder = sqlite3.connect(file, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        loop = asyncio.get_running_loop()
        claim = asyncio.create_task(state.claim_once("github", "jti-2", SOON))
        longest, before = 0.0, loop.time()
        while not claim.done():
            await asyncio.sleep(0)
            longest, before = max(longest, loop.time() - before), loop.time()
        with pytest.raises(StateUnavailableError, match="database is locked"):
            await claim
        assert longest < 0.25
        assert (await state.changes(0)).whole, "reading goes on"
        holder.execute("ROLLBACK")
        holder.close()
        assert await state.claim_once("github", "jti-2", SOON), "the claim that failed left no mark"
        await state.close()

    async def test_a_caller_waits_no_longer_than_its_time_and_a_call_given_up_is_not_made(self, file, clock):
        state = SqliteState(file, clock, wait_seconds=0.05, busy_seconds=20)
        assert await patient(state).claim_once("github", "jti-1", SOON)
        state._wait_seconds = 0.05
        holder = sqlite3.connect(file, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        for n in range(3):
            with pytest.raises(StateUnavailableError, match=r"took longer than 0\.05 s"):
                await state.claim_once("github", f"late-{n}", SOON)
        holder.execute("ROLLBACK")
        holder.close()
        patient(state)
        assert await state.claim_once("github", "late-2", SOON), "it was still in the queue, and nobody waited for it"
        await state.close()

    async def test_no_more_than_a_number_wait_at_once(self, file, clock):
        state = SqliteState(file, clock, wait_seconds=30, busy_seconds=20, max_waiting=10)
        assert await state.claim_once("github", "jti-1", SOON)
        holder = sqlite3.connect(file, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        claims = [asyncio.create_task(state.claim_once("github", f"{n}", SOON)) for n in range(15)]
        refused, _ = await asyncio.wait(claims, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.sleep(0)
        refused = [one for one in claims if one.done()]
        assert len(refused) == 5
        for one in refused:
            with pytest.raises(StateUnavailableError, match="does not keep up: 10 calls are waiting"):
                await one
        holder.execute("ROLLBACK")
        holder.close()
        assert await asyncio.gather(*claims[:10]) == [True] * 10
        await state.close()


async def test_a_full_table_takes_nothing_new_and_fails_nobody_else(file, clock):
    state = SqliteState(file, clock, wait_seconds=30, max_records=2)
    calls = [state.put("secret", f"s{n}", b"1") for n in range(4)]
    answers = await asyncio.gather(*calls, state.claim_once("github", "jti-1", SOON), return_exceptions=True)
    assert answers[:2] == [True, True]
    assert answers[4] is True
    assert all("all 2 shared records" in str(one) for one in answers[2:4])
    await state.close()


async def test_a_mistake_in_one_call_ends_neither_the_thread_nor_the_state(state, caplog):
    def wrong(_: sqlite3.Connection) -> None:
        raise RuntimeError("a bug")

    with pytest.raises(StateUnavailableError, match="unexpected error"):
        await state._run(wrong, 0.0, writes=True)
    assert "a bug" in caplog.text
    assert await state.claim_once("github", "jti-1", SOON)


async def test_marks_that_ended_are_cleared_away_faster_than_they_come(state, file, clock):
    await asyncio.gather(*(state.claim_once("github", f"{n}", SOON) for n in range(1000)))
    clock.now = SOON
    for n in range(4):
        await state.claim_once("github", f"new-{n}", SOON + 300)
    database = sqlite3.connect(file)
    assert database.execute("SELECT count(*) FROM marks").fetchone() == (4,)
    database.close()


async def test_a_file_that_was_put_in_place_of_the_open_one_is_the_state_from_then_on(state, file, clock, caplog):
    assert await state.claim_once("github", "jti-1", SOON)
    file.unlink()
    other = sqlite(file, clock)
    assert await other.claim_once("github", "jti-2", SOON)
    assert not await state.claim_once("github", "jti-2", SOON), "both use the same file again"
    assert "was replaced" in caplog.text
    await other.close()


class TestUrl:
    def test_what_a_url_says(self):
        assert sqlite_path("sqlite:///var/lib/gateway/state.db") == Path("/var/lib/gateway/state.db")
        assert sqlite_path("sqlite:////var/lib/state.db") == Path("/var/lib/state.db")
        assert sqlite_path("sqlite:///state") == Path("/state")

    @pytest.mark.parametrize(
        "url",
        ["sqlite://", "sqlite:///", "sqlite://state.db", "sqlite:state.db", "sqlite://host/state.db",
         "sqlite:///var/", "sqlite:///a?mode=ro", "sqlite:///a#b", "sqlite:///a\x00b", "sqlite::memory:"],
    )  # fmt: skip
    def test_what_is_no_absolute_path_is_refused(self, url):
        with pytest.raises(ValueError, match=r"is sqlite:///absolute/path\.db"):
            sqlite_path(url)


def patient(state: SqliteState) -> SqliteState:
    state._wait_seconds = 30
    return state
