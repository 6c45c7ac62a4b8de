"""One chain through many files: set aside by us or by logrotate, cut by others, shared by processes, over restarts."""

import asyncio
import gzip
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.audit.base import SinkError
from gateway.audit.chain import parse_link, position_of
from gateway.audit.keys import AuditKey
from gateway.audit.rotation import Rotation
from gateway.audit.verification import Report, verify
from tests.support.chains import bare, chain_writer, file_sink, public_keys
from tests.support.time import HandClock

ROOT = Path(__file__).resolve().parents[2]
KEY = AuditKey(Ed25519PrivateKey.generate())


def record(number: int) -> bytes:
    return b'{"time":"2026-11-25T10:00:00.000000Z","request_id":"r-%d","x":"%b"}\n' % (number, b"x" * 200)


def all_files(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{path.name}*"))


def report_on(path: Path) -> Report:
    return verify(all_files(path), keys=public_keys(KEY))


def whats(report: Report) -> list[str]:
    return [problem.what for problem in report.problems]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


async def test_a_full_file_is_set_aside_and_the_next_goes_on_with_its_chain(path: Path, opened):
    sink = opened(file_sink(path, chain_writer(KEY), rotation=Rotation(max_bytes=3000)))
    for number in range(40):
        await sink.append(record(number))
    await sink.close()
    report, files = report_on(path), all_files(path)
    assert report.ok, report.problems
    assert len(report.chains) == 1
    assert len(files) > 3
    assert all(file.stat().st_size < 3000 + 1500 for file in files)
    lines = b"".join(bare(file.read_bytes()) for file in [*files[1:], files[0]])
    assert lines == b"".join(map(record, range(40)))
    assert whats(verify([*files[:2], *files[3:]], keys=public_keys(KEY))) == ["missing"]


async def test_an_old_file_is_set_aside_also_when_it_was_begun_before_a_restart(path: Path, opened):
    clock, rotation = HandClock(), Rotation(max_age_seconds=3600)
    sink = file_sink(path, chain_writer(KEY, clock), clock, rotation=rotation)
    line = b'{"time":"%b"}\n' % clock_text(clock)
    await sink.append(line)
    await sink.close()
    clock.now += 3599
    sink = opened(file_sink(path, chain_writer(KEY, clock), clock, rotation=rotation))
    await sink.append(line)
    assert len(all_files(path)) == 1
    clock.now += 2
    await sink.append(line)
    assert len(all_files(path)) == 2
    await sink.close()
    assert report_on(path).ok


def clock_text(clock: HandClock) -> bytes:
    return datetime.fromtimestamp(clock(), UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ").encode()


async def test_files_beyond_those_that_are_kept_go_and_the_chain_accounts_for_them(path: Path, opened):
    sink = opened(file_sink(path, chain_writer(KEY), rotation=Rotation(max_bytes=2000, keep=2)))
    for number in range(40):
        await sink.append(record(number))
    await sink.close()
    report, files = report_on(path), all_files(path)
    assert report.ok, report.problems
    assert len(files) == 3
    assert report.chains[0].first > 1
    files[1].unlink()  # the oldest that is left
    assert whats(report_on(path)) == ["start_missing"]


async def test_what_a_log_says_of_files_that_went_counts_under_a_signature_only(path: Path, opened):
    """Whoever adds a line that accounts for what he took away has no signature for it."""
    sink = opened(file_sink(path, chain_writer(KEY)))
    for number in range(4):
        await sink.append(record(number))
    await sink.close()
    lines = path.read_bytes().splitlines(keepends=True)
    chain = json.loads(lines[0])["chain"]
    forger = chain_writer()
    last = lines[-1][:-1]
    forger.resume(position_of(last, parse_link(last)), is_signed=True)
    forger.note("discarded", file="audit.jsonl.1", discarded_chain=chain, discarded_sequence=2)
    path.write_bytes(b"".join(lines[2:]) + forger.compose([]).data)
    assert whats(report_on(path)) == ["start_missing"]
    assert verify([path]).ok  # as without keys nothing is proven


async def test_a_file_that_cannot_be_set_aside_goes_on(path: Path, opened, caplog):
    sink = opened(file_sink(path, chain_writer(KEY), HandClock(), rotation=Rotation(max_bytes=500)))

    def refuse(target):
        raise PermissionError(13, "Permission denied")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "rename", lambda _, target: refuse(target))
        for number in range(5):
            await sink.append(record(number))
    await sink.close()
    assert caplog.text.count("cannot be set aside") == 1
    assert bare(path.read_bytes()) == b"".join(map(record, range(5)))
    assert report_on(path).ok


async def test_a_file_that_logrotate_copied_and_truncated_goes_on_and_tells(path: Path, opened, caplog):
    sink = opened(file_sink(path, chain_writer(KEY)))
    await sink.append(record(1))
    path.with_name("audit.jsonl.1").write_bytes(path.read_bytes())
    os.truncate(path, 0)
    await sink.append(record(2))
    await sink.close()
    report = report_on(path)
    assert report.ok, report.problems
    assert [note.kind for note in report.notes] == ["shortened"]
    assert "copytruncate" in caplog.text


async def test_records_lost_between_copy_and_truncation_are_found(path: Path, opened):
    sink = opened(file_sink(path, chain_writer(KEY)))
    await sink.append(record(1))
    path.with_name("audit.jsonl.1").write_bytes(path.read_bytes())
    await sink.append(record(2))
    os.truncate(path, 0)
    await sink.append(record(3))
    await sink.close()
    assert whats(report_on(path)) == ["missing"]


@pytest.mark.parametrize("name", ["audit.jsonl.1", "audit.jsonl-20261125", "audit-20261125.jsonl", "audit.jsonl.1.gz"])
@pytest.mark.parametrize("torn", [b"", b'{"time":"2026'])
async def test_a_chain_goes_on_though_its_file_was_moved_while_nobody_ran(path: Path, opened, name: str, torn: bytes):
    sink = file_sink(path, chain_writer(KEY))
    await sink.append(record(1))
    await sink.close()
    data = path.read_bytes() + torn
    path.unlink()
    path.with_name(name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    for left_by_a_kill in (None, b'{"half'):
        if left_by_a_kill is not None:
            path.write_bytes(left_by_a_kill)
        sink = opened(file_sink(path, chain_writer(KEY)))
        if left_by_a_kill is not None:
            await sink.append(record(2))
        await sink.close()
    report = verify([path, path.with_name(name)], keys=public_keys(KEY))
    assert report.ok, report.problems
    assert len(report.chains) == 1
    assert {note.kind for note in report.notes} == {"torn_line"}


async def test_the_chain_of_another_log_in_the_folder_is_left_alone(path: Path, opened):
    other = file_sink(path.with_name("audit-2.jsonl"), chain_writer(KEY))
    await other.append(record(1))
    await other.close()
    path.with_name("audit.jsonl.keys.json").write_bytes(b"{}")
    sink = opened(file_sink(path, chain_writer(KEY)))
    await sink.append(record(1))
    assert b'"sequence":1,"previous":null' in path.read_bytes()


async def test_a_file_that_took_the_place_of_another_is_written_to_at_once(path: Path, opened):
    """As logrotate's ``create`` leaves it: no signal is needed, and nothing runs into a file that is being packed."""
    sink = opened(file_sink(path, chain_writer(KEY)))
    await sink.append(record(1))
    old = path.rename(path.with_suffix(".jsonl.1"))
    path.touch(0o600)
    await sink.append(record(2))
    assert (bare(old.read_bytes()), bare(path.read_bytes())) == (record(1), record(2))


async def test_a_link_put_in_place_of_the_file_is_not_followed(path: Path, opened):
    sink = opened(file_sink(path, chain_writer(KEY)))
    await sink.append(record(1))
    path.rename(path.with_suffix(".jsonl.1"))
    path.symlink_to(path.with_name("elsewhere"))
    with pytest.raises(SinkError, match="symbolic link"):
        await sink.append(record(2))
    assert not path.with_name("elsewhere").exists()


_WRITER = """
import asyncio, os, sys
from pathlib import Path
from gateway.audit.keys import AuditKey
from gateway.audit.rotation import Rotation
from tests.support.chains import chain_writer, file_sink

async def main():
    path, name, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    key = AuditKey.open(path.with_name("audit.pem"))
    sink = file_sink(path, chain_writer(key, every_lines=20), rotation=Rotation(max_bytes=100_000))
    async def client(c):
        for n in range(count):
            await sink.append(b'{"writer":"%b","client":%d,"n":%d,"x":"%b"}\\n' % (name.encode(), c, n, b"x" * 300))
            os.write(1, b"%b %d %d\\n" % (name.encode(), c, n))
    await asyncio.gather(*(client(c) for c in range(8)))
    await sink.close()

asyncio.run(main())
"""


def writer(path: Path, name: str, count: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", _WRITER, path, name, str(count)], cwd=ROOT, stdout=subprocess.PIPE)


def test_processes_that_share_a_file_write_one_chain_though_one_of_them_is_killed_again_and_again(tmp_path: Path):
    path = tmp_path / "audit.jsonl"
    acknowledged: set[bytes] = set()
    with writer(path, "a", 400) as lasting:
        for turn in range(4):
            with writer(path, f"k{turn}", 1_000_000) as killed:
                assert killed.stdout is not None
                told = [killed.stdout.readline() for _ in range(100)]
                killed.kill()
                told += killed.stdout.readlines()
            acknowledged |= {one.strip() for one in told if one.endswith(b"\n")}
        assert lasting.stdout is not None
        acknowledged |= {one.strip() for one in lasting.stdout.readlines()}
    assert lasting.returncode == 0
    files = all_files(path)
    report = verify(files, keys=public_keys(AuditKey.open(tmp_path / "audit.pem")))
    assert report.ok, report.problems
    assert len(report.chains) == 1
    lines = [json.loads(one) for file in files for one in file.read_bytes().splitlines()]
    written = [b"%b %d %d" % (one["writer"].encode(), one["client"], one["n"]) for one in lines if "writer" in one]
    assert len(acknowledged) >= 3600
    assert acknowledged <= set(written)
    assert len(written) == len(set(written))


async def test_a_disk_that_fails_now_and_then_leaves_no_hole(path: Path, opened):
    """Whatever was refused has no place in the chain, and whatever was not has one."""
    calls = 0

    def sync(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls % 3 == 0:
            raise OSError(5, "Input/output error")
        os.fdatasync(descriptor)

    sink = opened(file_sink(path, chain_writer(KEY, every_lines=4), fdatasync=sync))
    accepted = []
    for number in range(30):
        answers = await asyncio.gather(
            *(sink.append(record(10 * number + one)) for one in range(3)), return_exceptions=True
        )
        accepted += [10 * number + one for one, answer in enumerate(answers) if answer is None]
    calls = 0
    await sink.close()
    assert bare(path.read_bytes()) == b"".join(map(record, accepted))
    assert 50 < len(accepted) < 70
    report = report_on(path)
    assert report.ok, report.problems
