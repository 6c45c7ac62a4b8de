"""The contract of ``Sink`` over every kind, and what each kind alone promises.

Slow and failing disks are made by the ``fdatasync`` that a sink is given and by limits on a subprocess.
"""

import asyncio
import contextlib
import errno
import fcntl
import json
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from gateway.audit.base import SinkError
from gateway.audit.verification import verify
from tests.support.chains import bare, file_sink, stream_sink

ROOT = Path(__file__).resolve().parents[2]


def line(number):
    return b'{"n":%d}\n' % number


class Disk:
    """An ``fdatasync`` that counts, waits to be let go, and fails on demand."""

    def __init__(self, *, held=False):
        self.calls = 0
        self.failures = []
        self.entered = threading.Event()
        self.free = threading.Event()
        if not held:
            self.free.set()

    def __call__(self, descriptor):
        self.calls += 1
        self.entered.set()
        assert self.free.wait(20)
        if self.failures:
            raise self.failures.pop(0)
        os.fdatasync(descriptor)

    async def is_busy(self):
        await asyncio.to_thread(self.entered.wait, 20)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "audit.jsonl"


class Pipe:
    def __init__(self):
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)

    def read(self):
        return os.read(self.reader, 1_000_000)

    def close(self):
        for descriptor in (self.reader, self.writer):
            with contextlib.suppress(OSError):  # a test may have closed its end
                os.close(descriptor)


@pytest.fixture
def pipe():
    pipe = Pipe()
    yield pipe
    pipe.close()


@pytest.fixture(params=["file", "stdout"])
def kind(request, path, pipe, opened):
    """A sink and a way to see what it wrote."""
    if request.param == "file":
        return opened(file_sink(path)), path.read_bytes
    return opened(stream_sink(pipe.writer)), pipe.read


class TestEveryKind:
    async def test_a_line_is_there_once_append_returns(self, kind):
        sink, written = kind
        await sink.append(line(1))
        assert bare(written()) == line(1)

    async def test_lines_keep_their_order_and_none_is_mixed_into_another(self, kind):
        sink, written = kind
        await asyncio.gather(*(sink.append(line(n)) for n in range(500)))
        assert bare(written()) == b"".join(map(line, range(500)))

    async def test_what_is_waiting_is_written_before_close_returns(self, kind):
        sink, written = kind
        appends = [asyncio.ensure_future(sink.append(line(n))) for n in range(50)]
        await asyncio.sleep(0)
        await sink.close()
        assert bare(written()) == b"".join(map(line, range(50)))
        assert await asyncio.gather(*appends) == [None] * 50

    async def test_a_closed_sink_takes_nothing(self, kind):
        sink, _ = kind
        await sink.append(line(1))
        await sink.close()
        await sink.close()
        with pytest.raises(SinkError, match="is closed"):
            await sink.append(line(2))

    async def test_a_sink_that_is_opened_anew_goes_on(self, kind):
        sink, written = kind
        sink.reopen()
        await sink.append(line(1))
        assert bare(written()) == line(1)

    async def test_a_sink_that_was_never_used_closes(self, kind):
        sink, _ = kind
        await sink.close()
        with pytest.raises(SinkError):
            await sink.append(line(1))

    async def test_a_caller_who_hangs_up_leaves_the_line_behind(self, kind):
        sink, written = kind
        append = asyncio.ensure_future(sink.append(line(1)))
        await asyncio.sleep(0)
        append.cancel()
        await sink.append(line(2))
        assert append.cancelled()
        assert bare(written()) == line(1) + line(2)


class TestGroupCommit:
    async def test_many_appends_at_once_share_one_sync(self, path, opened):
        disk = Disk(held=True)
        sink = opened(file_sink(path, fdatasync=disk))
        first = asyncio.ensure_future(sink.append(line(0)))
        await disk.is_busy()
        rest = [asyncio.ensure_future(sink.append(line(n))) for n in range(1, 101)]
        await asyncio.sleep(0)
        disk.free.set()
        await asyncio.gather(first, *rest)
        assert disk.calls == 2

    async def test_no_append_returns_before_its_sync(self, path, opened):
        disk = Disk(held=True)
        sink = opened(file_sink(path, fdatasync=disk))
        append = asyncio.ensure_future(sink.append(line(0)))
        await disk.is_busy()
        assert bare(path.read_bytes()) == line(0)
        assert not append.done()
        disk.free.set()
        await append

    async def test_a_sink_that_does_not_keep_up_refuses_at_once(self, path, opened):
        disk = Disk(held=True)
        sink = opened(file_sink(path, fdatasync=disk, max_waiting_lines=3))
        waiting = [asyncio.ensure_future(sink.append(line(n))) for n in range(3)]
        await disk.is_busy()
        with pytest.raises(SinkError, match="does not keep up: 3 lines are waiting"):
            await sink.append(line(3))
        disk.free.set()
        await asyncio.gather(*waiting)
        await sink.append(line(4))
        assert bare(path.read_bytes()) == b"".join(map(line, (0, 1, 2, 4)))

    async def test_a_disk_that_hangs_fails_its_waiters_in_time_and_serves_again_when_it_moves(self, path, opened):
        disk = Disk(held=True)
        sink = opened(file_sink(path, fdatasync=disk, wait_seconds=0.05))
        waiting = [asyncio.ensure_future(sink.append(line(n))) for n in range(2)]
        await disk.is_busy()
        waiting.append(asyncio.ensure_future(sink.append(line(2))))
        answers = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(answer) for answer in answers] == [SinkError] * 3
        assert "took longer than 0.05 s" in str(answers[0])
        disk.free.set()
        while b'"n":3' not in path.read_bytes():
            try:
                await sink.append(line(3))
            except SinkError:
                continue
        # Late, but in order and not lost: a record without its token is the safe side.
        assert bare(path.read_bytes()).startswith(b"".join(map(line, range(3))))

    async def test_a_hanging_disk_does_not_hold_up_the_end(self, path):
        disk = Disk(held=True)
        sink = file_sink(path, fdatasync=disk, wait_seconds=0.05)
        append = asyncio.ensure_future(sink.append(line(0)))
        await disk.is_busy()
        with pytest.raises(SinkError, match="did not finish within"):
            await sink.close()
        with pytest.raises(SinkError):
            await append
        disk.free.set()

    async def test_cancelled_waiters_neither_lose_their_lines_nor_disturb_the_others(self, path, opened):
        disk = Disk(held=True)
        sink = opened(file_sink(path, fdatasync=disk))
        appends = [asyncio.ensure_future(sink.append(line(n))) for n in range(10)]
        await disk.is_busy()
        for append in appends[::2]:
            append.cancel()
        disk.free.set()
        answers = await asyncio.gather(*appends, return_exceptions=True)
        assert [type(answer) for answer in answers] == [asyncio.CancelledError, type(None)] * 5
        assert bare(path.read_bytes()) == b"".join(map(line, range(10)))

    async def test_a_mistake_in_the_writer_refuses_the_batch_and_does_not_end_the_writer(self, path, opened, caplog):
        disk = Disk()
        disk.failures = [ZeroDivisionError()]
        sink = opened(file_sink(path, fdatasync=disk))
        with pytest.raises(SinkError, match="unexpected error"):
            await sink.append(line(0))
        await sink.append(line(1))
        assert "ZeroDivisionError" in caplog.text


class TestFile:
    async def test_the_file_is_readable_by_its_owner_only(self, path, opened):
        before = os.umask(0)
        try:
            opened(file_sink(path))
        finally:
            os.umask(before)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    async def test_what_was_there_stays(self, path, opened):
        path.write_bytes(line(1))
        sink = opened(file_sink(path))
        await sink.append(line(2))
        assert bare(path.read_bytes()) == line(1) + line(2)
        assert sink.torn_bytes == 0

    @pytest.mark.parametrize("tail", [b"{", b'{"n":2', b'{"n":2}', b"\0" * 4000])
    async def test_a_torn_tail_is_cut_and_counted(self, path, opened, tail):
        path.write_bytes(line(1) + tail)
        sink = opened(file_sink(path))
        assert sink.torn_bytes == len(tail)
        await sink.append(line(2))
        assert bare(path.read_bytes()) == line(1) + line(2)

    async def test_a_file_with_nothing_but_a_torn_line_starts_anew(self, path, opened):
        path.write_bytes(b'{"n":')
        sink = opened(file_sink(path))
        await sink.append(line(1))
        assert bare(path.read_bytes()) == line(1)

    async def test_a_torn_tail_is_left_alone_while_another_process_writes(self, path, opened):
        path.write_bytes(line(1) + b'{"n":2')
        other = os.open(path, os.O_RDWR | os.O_APPEND)
        try:
            fcntl.flock(other, fcntl.LOCK_EX)
            sink = opened(file_sink(path))
            append = asyncio.ensure_future(sink.append(line(3)))
            await asyncio.sleep(0)
            os.write(other, b"}\n")
            assert path.read_bytes() == line(1) + line(2)
        finally:
            os.close(other)
        await append
        assert bare(path.read_bytes()) == line(1) + line(2) + line(3)
        assert sink.torn_bytes == 0

    async def test_two_sinks_on_one_file_do_not_mix_their_lines(self, path, opened):
        one, other = opened(file_sink(path)), opened(file_sink(path))
        await asyncio.gather(*(sink.append(line(n)) for n in range(200) for sink in (one, other)))
        lines = bare(path.read_bytes()).splitlines(keepends=True)
        assert sorted(lines) == sorted([line(n) for n in range(200)] * 2)

    @pytest.mark.parametrize("content", [b"root:x:0:0", b"#!/bin/sh\n", b"\x7fELF", b"{" + b"x" * 70_000])
    def test_a_file_that_is_no_audit_log_is_not_touched(self, path, content):
        path.write_bytes(content)
        with pytest.raises(SinkError, match="is not an audit log"):
            file_sink(path)
        assert bare(path.read_bytes()) == content

    def test_a_link_a_fifo_and_a_missing_folder_are_refused(self, tmp_path):
        (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
        os.mkfifo(tmp_path / "fifo")
        with pytest.raises(SinkError, match="symbolic link"):
            file_sink(tmp_path / "link")
        with pytest.raises(SinkError, match="not a plain file"):
            file_sink(tmp_path / "fifo")
        with pytest.raises(SinkError, match="No such file or directory"):
            file_sink(tmp_path / "missing" / "audit.jsonl")
        with pytest.raises(SinkError, match="Is a directory"):
            file_sink(tmp_path)
        assert not (tmp_path / "elsewhere").exists()

    async def test_after_logrotate_lines_go_to_the_new_file(self, path, opened):
        sink = opened(file_sink(path))
        await sink.append(line(1))
        old = path.rename(path.with_suffix(".1"))
        await sink.append(line(2))
        sink.reopen()
        await sink.append(line(3))
        assert bare(old.read_bytes()) == line(1) + line(2)
        assert bare(path.read_bytes()) == line(3)

    async def test_while_the_folder_is_gone_nothing_is_accepted(self, tmp_path, opened):
        folder = tmp_path / "log"
        folder.mkdir()
        sink = opened(file_sink(folder / "audit.jsonl"))
        folder.rename(tmp_path / "moved")
        sink.reopen()
        for _ in range(2):
            with pytest.raises(SinkError, match="No such file or directory"):
                await sink.append(line(1))
        folder.mkdir()
        await sink.append(line(2))
        assert bare((folder / "audit.jsonl").read_bytes()) == line(2)

    async def test_a_failed_sync_fails_the_whole_batch_and_the_next_one_starts_on_a_new_descriptor(self, path, opened):
        used = []
        disk = Disk(held=True)

        def sync(descriptor):
            used.append(os.fstat(descriptor).st_ino)
            disk(descriptor)

        sink = opened(file_sink(path, fdatasync=sync))
        first = asyncio.ensure_future(sink.append(line(0)))
        await disk.is_busy()
        batch = [asyncio.ensure_future(sink.append(line(n))) for n in range(1, 4)]
        await asyncio.sleep(0)
        path.rename(path.with_suffix(".old"))
        disk.failures = [OSError(errno.EIO, os.strerror(errno.EIO))]
        disk.free.set()
        answers = await asyncio.gather(first, *batch, return_exceptions=True)
        assert isinstance(answers[0], SinkError)
        assert "Input/output error" in str(answers[0])
        assert answers[1:] == [None] * 3
        assert len(used) == 2
        assert used[0] != used[1]
        assert bare(path.read_bytes()) == b"".join(map(line, range(1, 4)))
        assert path.with_suffix(".old").read_bytes() == b""

    async def test_after_a_failed_sync_what_may_be_lost_is_taken_back_and_leaves_no_hole(self, path, opened):
        disk = Disk()
        disk.failures = [OSError(errno.EIO, os.strerror(errno.EIO))]
        sink = opened(file_sink(path, fdatasync=disk))
        with pytest.raises(SinkError):
            await sink.append(line(0))
        await sink.append(line(1))
        await sink.append(line(2))
        assert bare(path.read_bytes()) == line(1) + line(2)
        assert verify([path]).ok

    def test_a_full_disk_refuses_loses_nothing_acknowledged_and_recovers(self, path):
        program = """
import asyncio, json, resource, sys
from pathlib import Path
from gateway.audit.base import SinkError
from tests.support.chains import file_sink

def line(n):
    return b'{"n":%d,"x":"%s"}\\n' % (n, b"x" * 100)

async def main():
    path = Path(sys.argv[1])
    sink = file_sink(path)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
    full = await asyncio.gather(*(sink.append(line(n)) for n in range(3)), return_exceptions=True)
    refusals = []
    for n in range(3, 20):
        try:
            await sink.append(line(n))
            full.append(None)
        except SinkError as error:
            full.append(error)
            refusals.append(str(error))
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await sink.append(line(20))
    await sink.close()
    acknowledged = [n for n, answer in enumerate(full) if answer is None] + [20]
    print(json.dumps({"acknowledged": acknowledged, "refusals": refusals}))

asyncio.run(main())
"""
        done = subprocess.run(
            [sys.executable, "-c", program, path], cwd=ROOT, capture_output=True, check=True, text=True, timeout=60
        )
        told = json.loads(done.stdout)
        written = [json.loads(text)["n"] for text in path.read_text().splitlines()]
        assert written == told["acknowledged"]
        assert 5 < len(told["refusals"]) < 17
        assert "File too large" in told["refusals"][0]
        assert verify([path]).ok

    def test_no_acknowledged_line_is_lost_when_the_process_is_killed(self, path):
        program = """
import asyncio, os, sys
from pathlib import Path
from tests.support.chains import file_sink

async def client(sink, name):
    for n in range(1_000_000):
        await sink.append(b'{"client":%d,"n":%d,"x":"%s"}\\n' % (name, n, b"x" * 400))
        os.write(1, b"%d %d\\n" % (name, n))

async def main():
    sink = file_sink(Path(sys.argv[1]))
    await asyncio.gather(*(client(sink, name) for name in range(16)))

asyncio.run(main())
"""
        with subprocess.Popen([sys.executable, "-c", program, path], cwd=ROOT, stdout=subprocess.PIPE) as process:
            told = [process.stdout.readline() for _ in range(2000)]
            process.kill()
            told += process.stdout.readlines()
        acknowledged = {tuple(map(int, text.split())) for text in told if text.endswith(b"\n")}
        whole, _, _torn = path.read_bytes().rpartition(b"\n")
        records = [json.loads(text) for text in whole.splitlines()]
        written = {(record["client"], record["n"]) for record in records}
        assert len(acknowledged) >= 2000
        assert acknowledged <= written
        assert len(written) == len(records)


class TestStdout:
    async def test_a_closed_pipe_refuses(self, pipe, opened):
        sink = opened(stream_sink(pipe.writer))
        os.close(pipe.reader)
        with pytest.raises(SinkError, match="stdout: Broken pipe"):
            await sink.append(line(1))

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
    async def test_a_full_device_refuses(self, opened):
        with Path("/dev/full").open("wb", buffering=0) as full:
            sink = opened(stream_sink(full.fileno()))
            with pytest.raises(SinkError, match="No space left on device"):
                await sink.append(line(1))
            await sink.close()

    async def test_a_reader_that_stalls_does_not_hold_up_the_event_loop(self, pipe, opened):
        fcntl.fcntl(pipe.writer, fcntl.F_SETPIPE_SZ, 4096)
        sink = opened(stream_sink(pipe.writer, wait_seconds=0.05))
        big = b'{"x":"' + b"x" * 8000 + b'"}\n'
        with pytest.raises(SinkError, match="took longer"):
            await sink.append(big)
        read = b""
        while not read.endswith(b"\n"):
            try:
                read += pipe.read()
            except BlockingIOError:
                await asyncio.sleep(0)
        assert bare(read) == big
        await sink.append(line(2))
        assert bare(pipe.read()) == line(2)

    async def test_a_pipe_that_somebody_made_non_blocking_gets_every_byte(self, pipe, opened):
        fcntl.fcntl(pipe.writer, fcntl.F_SETPIPE_SZ, 4096)
        os.set_blocking(pipe.writer, False)
        sink = opened(stream_sink(pipe.writer))
        append = asyncio.ensure_future(sink.append(b"x" * 50_000 + b"\n"))
        read = 0
        while read < 50_001:
            try:
                read += len(pipe.read())
            except BlockingIOError:
                await asyncio.sleep(0)
        await append
