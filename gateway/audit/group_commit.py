"""Group commit: lines that arrive while one write is under way share the next one.

One thread of its own does the writing, so that a slow disk or a stalled reader never holds up the event loop. Lines
are committed in the order of arrival; every waiter is answered, at the latest when its time is up. The thread is
woken once for all that one turn of the loop has gathered: on a fast disk waking it costs more than the sync.

The thread also commits groups without a line, when what was committed before has become due for something.
"""

import asyncio
import logging
import os
import select
import threading
from collections import deque
from queue import Empty, SimpleQueue
from typing import Protocol

from gateway.audit.base import SinkError

log = logging.getLogger("gateway.audit")

MAX_WAITING_LINES = 2048
WAIT_SECONDS = 2.0
GATHER_SECONDS = 0.001
"""Under load, how long a batch gathers: a sync on a fast disk costs as much processor time as a whole request."""


class Committer(Protocol):
    """What makes lines safe. Everything here runs in the writer thread."""

    def commit(self, lines: list[bytes]) -> None:
        """Raises ``OSError`` or ``SinkError`` when any of the lines is not safe."""

    def due_in_seconds(self) -> float | None:
        """How long until ``commit`` is wanted even without a line; None for not at all."""

    def finish(self) -> None:
        """The last words: no line will come any more. Raises as ``commit`` does."""


class GroupCommit:
    """Bounded on both sides: ``max_waiting_lines`` unanswered ones, each for ``wait_seconds``."""

    def __init__(self, committer: Committer, name: str, *, max_waiting_lines: int, wait_seconds: float) -> None:
        self._committer = committer
        self._name = name
        self._max_waiting_lines = max_waiting_lines
        self._wait_seconds = wait_seconds
        self._gathered: list[bytes] = []
        self._committing = False
        """A batch is with the thread, or will be soon."""
        self._busy = False
        """The last batch had several lines: the next one is worth a short wait."""
        self._batches: SimpleQueue[list[bytes] | None] = SimpleQueue()
        self._waiters: deque[tuple[float, asyncio.Future[None]]] = deque()
        self._alarm: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended: asyncio.Future[None] | None = None
        self._closed = False

    async def append(self, line: bytes) -> None:
        """Returns once the batch with this line is committed. Raises ``SinkError``."""
        if self._closed:
            raise SinkError(f"{self._name} is closed")
        if len(self._waiters) >= self._max_waiting_lines:
            raise SinkError(f"{self._name} does not keep up: {self._max_waiting_lines} lines are waiting")
        loop = self._loop or self._start()
        answer = loop.create_future()
        deadline = loop.time() + self._wait_seconds
        self._waiters.append((deadline, answer))
        self._gathered.append(line)
        if not self._committing:
            self._gather(loop)
        if self._alarm is None:
            self._alarm = loop.call_at(deadline, self._answer_late)
        await answer

    async def close(self) -> None:
        """Commits what is waiting and ends the thread. Raises ``SinkError`` when that takes too long."""
        if self._closed:
            return
        self._closed = True
        if self._ended is None:
            return
        self._hand_over()
        self._batches.put(None)
        try:
            async with asyncio.timeout(self._wait_seconds):
                await self._ended
        except TimeoutError:
            raise SinkError(f"{self._name} did not finish within {self._wait_seconds} s") from None
        if self._alarm is not None:
            self._alarm.cancel()

    def _start(self) -> asyncio.AbstractEventLoop:
        self._loop = asyncio.get_running_loop()
        self._ended = self._loop.create_future()
        threading.Thread(target=self._write, args=(self._loop,), name=f"audit {self._name}", daemon=True).start()
        return self._loop

    def _gather(self, loop: asyncio.AbstractEventLoop) -> None:
        """Has the lines of this turn of the loop, and under load of a few more, handed over together."""
        self._committing = True
        if self._busy:
            loop.call_later(GATHER_SECONDS, self._hand_over)
        else:
            loop.call_soon(self._hand_over)

    def _hand_over(self) -> None:
        """Gives the thread all that was gathered, as one batch."""
        batch, self._gathered = self._gathered, []
        if batch:
            self._batches.put(batch)

    def _write(self, loop: asyncio.AbstractEventLoop) -> None:
        """The thread: takes a batch, commits, answers."""
        try:
            while (batch := self._next_batch()) is not None:
                failure = self._failure_of(batch)
                if batch:
                    loop.call_soon_threadsafe(self._answer, len(batch), failure)
            self._finish()
            loop.call_soon_threadsafe(self._end)
        except RuntimeError:
            log.debug("the event loop ended before the audit sink %s was closed", self._name)

    def _next_batch(self) -> list[bytes] | None:
        """The next lines; none when it is time for a commit without any, None at the end."""
        try:
            return self._batches.get(timeout=self._committer.due_in_seconds())
        except Empty:
            return []

    def _finish(self) -> None:
        try:
            self._committer.finish()
        except (OSError, SinkError) as error:
            log.warning("the audit sink %s ends without its last checkpoint: %s", self._name, error)
        except Exception:
            log.exception("unexpected error at the end of the audit sink %s", self._name)

    def _failure_of(self, lines: list[bytes]) -> str | None:
        try:
            self._committer.commit(lines)
        except SinkError as error:
            return str(error)
        except OSError as error:
            return f"{self._name}: {error.strerror}"
        except Exception:
            # The thread must live on: without it nothing would ever be minted again.
            log.exception("unexpected error in the audit sink %s", self._name)
            return f"{self._name}: unexpected error"
        return None

    def _answer(self, count: int, failure: str | None) -> None:
        waiters = self._waiters
        for _ in range(count):
            _, answer = waiters.popleft()
            if answer.done():  # cancelled, or answered late
                continue
            if failure is None:
                answer.set_result(None)
            else:
                answer.set_exception(SinkError(failure))
        self._busy = count > 1
        self._committing = False
        if self._gathered:
            assert self._loop is not None
            self._gather(self._loop)

    def _answer_late(self) -> None:
        """Answers whoever has waited too long. Their lines keep their place, and may yet be written."""
        self._alarm = None
        assert self._loop is not None
        now = self._loop.time()
        for deadline, answer in self._waiters:
            if deadline > now:
                self._alarm = self._loop.call_at(deadline, self._answer_late)
                return
            if not answer.done():
                answer.set_exception(SinkError(f"{self._name} took longer than {self._wait_seconds} s"))

    def _end(self) -> None:
        assert self._ended is not None
        if not self._ended.done():
            self._ended.set_result(None)


def write_all(descriptor: int, data: bytes) -> tuple[int, OSError | None]:
    """Writes every byte, in as many pieces as it takes. Returns how many are written, and what kept back the rest."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(descriptor, rest) :]
        except BlockingIOError:
            # A pipe that somebody else made non-blocking: its reader is slow, not gone.
            writable = select.poll()
            writable.register(descriptor, select.POLLOUT)
            writable.poll()
        except OSError as error:
            return len(data) - len(rest), error
    return len(data), None
