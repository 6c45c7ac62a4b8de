"""Audit logs as input of a command: which files, which time, progress on the terminal, and what was no record."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import typer

if TYPE_CHECKING:
    from gateway.audit.reading import RecordReader
    from gateway.model import RecordedDecision

SinceOption = typer.Option(
    None, metavar="TIME", help="Leave out what is older: 2026-11-01, 2026-11-01T06:00:00Z, or 7d for a week ago."
)
UntilOption = typer.Option(None, metavar="TIME", help="Leave out what was then or later.")

_WHY_SKIPPED = {
    "too_long": "too long",
    "not_json": "no JSON",
    "repeated_name": "with a name twice",
    "not_a_record": "no audit record",
    "torn": "torn at the end of a file",
    "damaged_archive": "a damaged archive, and all that follows in it",
}


class Period(NamedTuple):
    """From when to when, in seconds since the epoch; the end is not in it."""

    since: float | None
    until: float | None

    def holds(self, time: float) -> bool:
        """Whether a time is in it."""
        return (self.since is None or time >= self.since) and (self.until is None or time < self.until)


def period(since: str | None, until: str | None) -> Period:
    """The time that the options name. Raises ``typer.BadParameter``."""
    found = Period(_time(since, "--since"), _time(until, "--until"))
    if found.since is not None and found.until is not None and found.since >= found.until:
        raise typer.BadParameter("ends before it begins", param_hint="--until")
    return found


@contextmanager
def open_records(
    files: Sequence[Path], within: Period, doing: str
) -> Iterator[tuple["RecordReader", Iterator["RecordedDecision"]]]:
    """The reader of these files, and the decisions in the period. Shows how far it is, on a terminal.

    Raises ``typer.BadParameter`` for a file that cannot be read.
    """
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    from gateway.audit.reading import bytes_of, read_records

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    try:
        total = bytes_of(files)
        with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as progress:
            task = progress.add_task(doing, total=total)
            reader = read_records(files, lambda count: progress.advance(task, count))
            yield reader, (record for record in reader if within.holds(record.time))
    except OSError as error:
        if error.filename is None:  # not of a file that was named here: a pipe that broke
            raise
        raise typer.BadParameter(f"{error.filename}: {error.strerror}", param_hint="FILE") from None


def skipped_in_words(reader: "RecordReader") -> str:
    """What the files held beside records, on one line; empty where there was nothing."""
    if not reader.skipped:
        return ""
    counts = ", ".join(f"{count:,} {_WHY_SKIPPED[why]}" for why, count in sorted(reader.skipped.items()))
    return f"{reader.skipped.total():,} lines were skipped: {counts}."


def nothing_found(reader: "RecordReader", within: Period) -> str:
    """What to say of files in which no decision was found."""
    if within.since is not None or within.until is not None:
        return "holds no decision of that time"
    return f"holds no decision. {skipped_in_words(reader)}".rstrip()


def time_text(seconds: float | None) -> str | None:
    """Seconds since the epoch as RFC 3339 in UTC, to the second."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _time(text: str | None, option: str) -> float | None:
    from gateway.clock import SteadyClock
    from gateway.policy.documents import parse_duration

    if text is None:
        return None
    try:
        return SteadyClock()() - parse_duration(text)
    except ValueError:
        pass
    try:
        found = datetime.fromisoformat(text)
        return (found if found.tzinfo is not None else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise typer.BadParameter(
            f"{text!r} is no time: 2026-11-01, 2026-11-01T06:00:00Z or 7d", param_hint=option
        ) from None
