"""No token without a record: what cannot be written down does not leave, and nothing that left was forgotten."""

import asyncio
import os
import resource
import subprocess
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.faults.load import load
from tests.faults.neighbourhood import Neighbourhood
from tests.faults.observed import assert_proven, metric, readiness, recorded_token_ids, records, token_ids
from tests.faults.sender import Sender
from tests.faults.serving import Serving, real_neighbours, serving
from tests.support.parts import eventually
from tests.support.running import JWT, TOKEN_EXCHANGE

SMALL_DISK_BYTES = 2 * 1024 * 1024


@pytest.fixture
async def around() -> AsyncIterator[Neighbourhood]:
    async with real_neighbours() as found:
        yield found


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, small enough to fill."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK_BYTES},mode=0700", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        message = "a small file system cannot be mounted here: run as root, in a container with CAP_SYS_ADMIN"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fill(disk: Path) -> Path:
    """A file that takes up what is left of a disk."""
    ballast = disk / "ballast"
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1024))
    return ballast


async def assert_no_answer_without_its_record(gateway: Serving, around: Neighbourhood, *files: Path) -> None:
    """Be it a grant or a denial. (A short record may still find room where a longer one did not.)"""
    for token in (around.pod_token(), around.job_token(), "no token at all", around.pod_token()[:-9] + "AAAAAAAAA"):
        form = {"grant_type": TOKEN_EXCHANGE, "subject_token": token, "subject_token_type": JWT}
        status, body, headers = await gateway.post(form | {"resource": "ledger-api"})
        if body.get("reason") == "audit_unavailable":
            assert (status, body["error"]) == (503, "temporarily_unavailable")
            assert int(headers["Retry-After"]) > 0
            assert body.keys() == {"error", "error_description", "reason", "request_id"}
        else:
            assert headers["X-Request-Id"] in {record["request_id"] for record in records(*files)}


def assert_recorded(tokens: Iterable[str], *files: Path) -> None:
    """Every token that a client received has its one record."""
    received, recorded = token_ids(tokens), recorded_token_ids(records(*files))
    assert len(received) > 0
    assert len(set(recorded)) == len(recorded)
    assert set(received) <= set(recorded)


async def assert_trouble_is_told(gateway: Serving, why: str) -> None:
    """By the probe, which stays good, and by the metrics."""

    async def told() -> bool:
        status, body = await readiness(gateway)
        assert status == 200
        return why in (body["audit"]["last_error"] or "")

    await eventually(told)
    assert await metric(gateway, "gateway_audit_failures_total") > 0


async def test_a_full_disk_stops_tokens_and_free_space_brings_them_back(
    around: Neighbourhood, tmp_path: Path, small_disk: Path
):
    audit_file = small_disk / "audit.jsonl"
    audit = {"sinks": [f"file://{audit_file}"], "key": f"file://{tmp_path}/audit.pem"}
    async with serving(tmp_path, around.policies(), audit=audit) as gateway:
        async with load(gateway.url, around.pod_token) as clients:
            await clients.more(20)
            for _ in range(3):
                ballast = fill(small_disk)
                await clients.until_refused("audit_unavailable", 20)
                await assert_no_answer_without_its_record(gateway, around, audit_file)
                await assert_trouble_is_told(gateway, "No space left on device")
                assert_recorded(clients.tokens, audit_file)
                ballast.unlink()
                await clients.more(20)
        assert clients.broken == []
        assert set(clients.refused) == {"audit_unavailable"}
        assert (await readiness(gateway))[1]["audit"]["last_error"] is None
        gateway.terminate()
        assert await gateway.ended() == 0
        assert_recorded(clients.tokens, audit_file)
        assert assert_proven(tmp_path, audit_file).chains[0].unsigned_lines == 0


async def test_a_disk_that_turns_read_only_stops_tokens_until_it_may_be_written_to(
    around: Neighbourhood, tmp_path: Path, small_disk: Path
):
    audit_file = small_disk / "audit.jsonl"
    audit = {"sinks": [f"file://{audit_file}"], "key": f"file://{tmp_path}/audit.pem"}

    def remount(how: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{how}", str(small_disk)], check=True)

    async with serving(tmp_path, around.policies(), audit=audit) as gateway:
        async with load(gateway.url, around.pod_token) as clients:
            await clients.more(20)
            ballast = fill(small_disk)
            await clients.until_refused("audit_unavailable", 20)
            ballast.unlink()
        # A file system turns read-only while nobody has a file on it open for writing.
        fill(small_disk)
        await assert_no_answer_without_its_record(gateway, around, audit_file)
        await asyncio.to_thread(remount, "ro")
        status, body = await gateway.exchange(around.pod_token())
        assert (status, body["reason"]) == (503, "audit_unavailable")
        await assert_trouble_is_told(gateway, "Read-only file system")
        await asyncio.to_thread(remount, "rw")
        (small_disk / "ballast").unlink()
        async with load(gateway.url, around.pod_token) as more:
            await more.more(20)
        assert (clients.broken, more.broken, more.refused) == ([], [], {})
        gateway.terminate()
        assert await gateway.ended() == 0
        assert_recorded([*clients.tokens, *more.tokens], audit_file)
        assert_proven(tmp_path, audit_file)


async def test_a_file_that_may_not_grow_stops_tokens_until_it_may(around: Neighbourhood, tmp_path: Path):
    """The same where nobody may mount a disk: a limit on the size of files, set and lifted from outside."""
    async with serving(tmp_path, around.policies()) as gateway:
        async with load(gateway.url, around.pod_token) as clients:
            await clients.more(20)
            limit = gateway.audit_file.stat().st_size + 5000
            resource.prlimit(gateway.process.pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            await clients.until_refused("audit_unavailable", 20)
            await assert_no_answer_without_its_record(gateway, around, gateway.audit_file)
            await assert_trouble_is_told(gateway, "File too large")
            assert gateway.audit_file.stat().st_size <= limit
            assert_recorded(clients.tokens, gateway.audit_file)
            resource.prlimit(
                gateway.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
            )
            await clients.more(20)
        assert clients.broken == []
        assert_recorded(clients.tokens, gateway.audit_file)
        gateway.terminate()
        assert await gateway.ended() == 0
        assert_proven(tmp_path, gateway.audit_file)


async def test_a_reader_of_stdout_that_stalls_stops_tokens_until_it_reads_again(around: Neighbourhood, tmp_path: Path):
    audit = {"sinks": ["stdout", f"file://{tmp_path}/audit.jsonl"], "key": f"file://{tmp_path}/audit.pem"}
    async with serving(tmp_path, around.policies(), audit=audit, stdout=asyncio.subprocess.PIPE) as gateway:
        output = gateway.process.stdout
        assert output is not None
        async with load(gateway.url, around.pod_token) as clients:
            await clients.until_refused("audit_unavailable")
            assert (await readiness(gateway))[0] == 200
            assert await metric(gateway, "gateway_audit_failures_total") > 0
            written = bytearray()

            async def drain() -> None:
                while chunk := await output.read(65536):
                    written.extend(chunk)

            reader = asyncio.create_task(drain())
            await clients.more(20)
        assert clients.broken == []
        gateway.terminate()
        assert await gateway.ended() == 0
        await reader
        (tmp_path / "stdout.jsonl").write_bytes(written)
        for log in (tmp_path / "stdout.jsonl", gateway.audit_file):
            assert_recorded(clients.tokens, log)
            assert assert_proven(tmp_path, log).chains[0].unsigned_lines == 0


async def test_a_reader_of_stdout_that_is_gone_stops_tokens(around: Neighbourhood, tmp_path: Path):
    reading, writing = os.pipe()
    try:
        async with serving(tmp_path, around.policies(), audit={"sinks": ["stdout"]}, stdout=writing) as gateway:
            assert (await gateway.exchange(around.pod_token()))[0] == 200
            os.close(writing)
            os.close(reading)
            reading = writing = -1
            await assert_no_answer_without_its_record(gateway, around)
    finally:
        for descriptor in {reading, writing} - {-1}:
            os.close(descriptor)


async def test_logrotate_under_load_loses_no_record(around: Neighbourhood, tmp_path: Path, full_faults: bool):
    async with serving(tmp_path, around.policies()) as gateway:
        moved = [tmp_path / f"audit.jsonl.{number}" for number in range(50 if full_faults else 5)]
        async with load(gateway.url, around.pod_token) as clients:
            for file in moved:
                await clients.more(10)
                gateway.audit_file.rename(file)
                gateway.hang_up()
                await eventually(lambda: asyncio.to_thread(gateway.audit_file.exists))
        assert (clients.broken, clients.refused) == ([], {})
        assert_recorded(clients.tokens, *moved, gateway.audit_file)
        gateway.terminate()
        assert await gateway.ended() == 0
        assert_proven(tmp_path, *moved, gateway.audit_file)


async def test_rotation_by_the_gateway_itself_under_load_loses_neither_a_record_nor_the_chain(
    around: Neighbourhood, tmp_path: Path
):
    audit = {
        "sinks": [f"file://{tmp_path}/audit.jsonl"],
        "key": f"file://{tmp_path}/audit.pem",
        "checkpoint_records": 20,
        "rotate_size": "64KiB",
    }
    async with serving(tmp_path, around.policies(), audit=audit) as gateway:
        async with load(gateway.url, around.pod_token) as clients:
            await clients.more(300)
        assert (clients.broken, clients.refused) == ([], {})
        gateway.terminate()
        assert await gateway.ended() == 0
    files = [file for file in tmp_path.glob("audit.jsonl*") if not file.name.endswith(".keys.json")]
    assert len(files) > 3
    assert_recorded(clients.tokens, *files)
    assert assert_proven(tmp_path, *files).chains[0].unsigned_lines == 0


async def test_a_client_that_hangs_up_leaves_its_record_behind(around: Neighbourhood, tmp_path: Path):
    """The safe direction: what is written down may not have arrived, what arrived is written down."""
    async with serving(tmp_path, around.policies()) as gateway:
        for number in range(20):
            sender = Sender(gateway, around.pod_token())
            await sender.begin()
            if number % 2:
                await sender.send(sender.body[20:])
            sender.hang_up()

        async def all_recorded() -> bool:
            return len(records(gateway.audit_file)) == 20

        await eventually(all_recorded)
        found = records(gateway.audit_file)
        granted = await metric(gateway, "gateway_exchanges_total", outcome="granted")
        assert len(recorded_token_ids(found)) == granted
        assert "Traceback" not in gateway.log_file.read_text()
