"""Step 5 of the hallway: a record is in every sink, or the decision does not stand."""

import asyncio
import logging
from collections.abc import Sequence

from gateway.audit.base import Sink, SinkError
from gateway.audit.record import to_json_line
from gateway.model import AuditRecord
from gateway.oauth.errors import Refusal

log = logging.getLogger("gateway.audit")


class AuditLog:
    """Writes each record to all sinks at once. ``written`` and ``failed`` count records since the start.

    ``last_error`` says why the latest record failed, and is None when it did not.
    """

    def __init__(self, sinks: Sequence[Sink]) -> None:
        """Raises ``ValueError`` without a sink: nothing is minted without a record."""
        if not sinks:
            raise ValueError("an audit log needs a sink")
        self.written = 0
        self.failed = 0
        self.last_error: str | None = None
        self._failed_in_a_row = 0
        self._sinks = tuple(sinks)
        self._only = self._sinks[0] if len(self._sinks) == 1 else None

    async def write(self, record: AuditRecord) -> None:
        """Returns once every sink has the record. Raises ``Refusal`` (``audit_unavailable``) when one has not."""
        line = to_json_line(record)
        try:
            if self._only is not None:
                await self._only.append(line)
            else:
                await self._append_to_all(line)
        except SinkError as error:
            self._take_failure(str(error))
            raise Refusal("audit_unavailable", internal=str(error)) from error
        self.written += 1
        if self.last_error is not None:
            self._take_recovery()

    def _take_failure(self, error: str) -> None:
        """Told once for each outage: a line for each refused request would fill a second disk."""
        self.failed += 1
        self._failed_in_a_row += 1
        if self.last_error is None:
            log.error("no tokens until records can be written: %s", error)
        self.last_error = error

    def _take_recovery(self) -> None:
        log.warning("records are written again, after %d were refused", self._failed_in_a_row)
        self._failed_in_a_row = 0
        self.last_error = None

    def reopen(self) -> None:
        """Has every sink open anew what its name stands for; for SIGHUP."""
        for sink in self._sinks:
            sink.reopen()

    async def close(self) -> None:
        """Closes every sink, the others too when one of them fails. Raises ``SinkError``."""
        _raise_first(await asyncio.gather(*(sink.close() for sink in self._sinks), return_exceptions=True))

    async def _append_to_all(self, line: bytes) -> None:
        appends = asyncio.gather(*(sink.append(line) for sink in self._sinks), return_exceptions=True)
        # A caller that hangs up must not take the line out of a sink that has not begun with it.
        _raise_first(await asyncio.shield(appends))


def _raise_first(answers: Sequence[BaseException | None]) -> None:
    for answer in answers:
        if answer is not None:
            raise answer
