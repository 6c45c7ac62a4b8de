"""The promise of step 5: no record, no token."""

import asyncio
import json

import pytest

from gateway.audit.base import SinkError
from gateway.audit.log import AuditLog
from gateway.audit.record import to_json_line
from gateway.model import AuditRecord
from gateway.oauth.errors import Refusal
from tests.support.chains import bare, file_sink

RECORD = AuditRecord(
    time=1_800_000_000.0,
    request_id="req-1",
    grant="token-exchange",
    decision="denied",
    reason="token_expired",
    stage="claims",
    source="192.0.2.7",
    policy_generation=1,
)


class ListSink:
    """A sink that keeps lines in memory, and fails while told to."""

    def __init__(self):
        self.lines = []
        self.error = None
        self.closed = False

    async def append(self, line):
        if self.error is not None:
            raise SinkError(self.error)
        await asyncio.sleep(0)
        self.lines.append(line)

    def reopen(self):
        self.lines = []

    async def close(self):
        self.closed = True
        if self.error is not None:
            raise SinkError(self.error)


@pytest.fixture(params=[1, 2, 3])
def sinks(request):
    return [ListSink() for _ in range(request.param)]


def test_an_audit_log_without_a_sink_cannot_be():
    with pytest.raises(ValueError, match="needs a sink"):
        AuditLog([])


async def test_a_record_is_in_every_sink_once_write_returns(sinks):
    log = AuditLog(sinks)
    await log.write(RECORD)
    assert [sink.lines for sink in sinks] == [[to_json_line(RECORD)]] * len(sinks)
    assert (log.written, log.failed, log.last_error) == (1, 0, None)


@pytest.mark.parametrize("failing", [0, -1])
async def test_a_sink_that_fails_is_audit_unavailable(sinks, failing):
    sinks[failing].error = "no space left"
    log = AuditLog(sinks)
    with pytest.raises(Refusal) as caught:
        await log.write(RECORD)
    assert caught.value.reason.code == "audit_unavailable"
    assert caught.value.reason.status == 503
    assert caught.value.internal == "no space left"
    assert "space" not in caught.value.public
    assert (log.written, log.failed, log.last_error) == (0, 1, "no space left")


async def test_a_log_that_recovers_says_so(sinks):
    log = AuditLog(sinks)
    sinks[0].error = "no space left"
    with pytest.raises(Refusal):
        await log.write(RECORD)
    sinks[0].error = None
    await log.write(RECORD)
    assert (log.written, log.failed, log.last_error) == (1, 1, None)


async def test_a_caller_who_hangs_up_at_once_takes_the_record_out_of_no_sink(tmp_path, opened):
    files = [opened(file_sink(tmp_path / name)) for name in ("a", "b")]
    log = AuditLog(files)
    write = asyncio.ensure_future(log.write(RECORD))
    await asyncio.sleep(0)
    write.cancel()
    with pytest.raises(asyncio.CancelledError):
        await write
    await log.close()
    for name in ("a", "b"):
        assert json.loads((tmp_path / name).read_bytes())["request_id"] == "req-1"


async def test_every_sink_is_closed_even_if_one_fails(sinks):
    sinks[0].error = "gone"
    with pytest.raises(SinkError, match="gone"):
        await AuditLog(sinks).close()
    assert all(sink.closed for sink in sinks)


async def test_after_logrotate_every_sink_opens_anew(tmp_path, opened):
    log = AuditLog([opened(file_sink(tmp_path / name)) for name in ("a", "b")])
    await log.write(RECORD)
    for name in ("a", "b"):
        (tmp_path / name).rename(tmp_path / f"{name}.1")
    log.reopen()
    await log.write(RECORD)
    assert [bare((tmp_path / name).read_bytes()) for name in ("a", "b", "a.1", "b.1")] == [to_json_line(RECORD)] * 4
