"""The chain proves itself: whatever is changed, taken out, put in, moved or cut off is found."""

import gzip
import itertools
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.audit.chain import ChainWriter, Checkpoints
from gateway.audit.keys import AuditKey
from gateway.audit.verification import Checkpoint, parse_checkpoints, verify
from tests.support.chains import chain_writer, file_sink, public_keys

KEY, OTHER_KEY = AuditKey(Ed25519PrivateKey.generate()), AuditKey(Ed25519PrivateKey.generate())


def record(number: int, request: str = "r") -> bytes:
    return b'{"time":"2026-11-25T10:00:00.%06dZ","request_id":"%b-%d"}\n' % (number, request.encode(), number)


def log_of(sizes: list[int], key: AuditKey | None = KEY, *, name: str = "one", request: str = "r") -> bytes:
    """A log of groups of so many records, as one chain; the last one ends it."""
    checkpoints = Checkpoints(key, every_lines=5, every_seconds=1e9, max_lines_at_once=10) if key else None
    chain = ChainWriter(lambda: name, lambda: 1_795_600_000.0, checkpoints)
    numbers = itertools.count(1)
    data = b""
    for position, size in enumerate(sizes, 1):
        group = chain.compose([record(next(numbers), request) for _ in range(size)], last=position == len(sizes))
        chain.accept(group)
        data += group.data
    return data


def report_on(folder: Path, *parts: bytes, since: tuple[Checkpoint, ...] = (), keys=None, **options):
    files = []
    for number, part in enumerate(parts):
        files.append(folder / f"audit-{number}.jsonl")
        files[-1].write_bytes(part)
    return verify(files, keys=keys or public_keys(KEY), since=since, **options)


def test_a_log_that_nobody_touched_is_proven_up_to_its_last_checkpoint(tmp_path: Path):
    report = report_on(tmp_path, log_of([1, 7, 3]))
    assert report.ok, report.problems
    (chain,) = report.chains
    assert (chain.first, chain.unsigned_lines) == (1, 0)
    assert [(one.first, one.last) for one in chain.proven] == [(1, chain.last)]
    assert chain.proven[0].signed_by == KEY.kid


SIZES = st.lists(st.integers(1, 6), min_size=1, max_size=5)


@given(SIZES, st.data())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_single_tampering_is_found(tmp_path: Path, sizes: list[int], data: st.DataObject):
    """A changed byte, a line dropped, doubled, moved or put in; and a cut, given a checkpoint kept elsewhere."""
    good = log_of(sizes)
    lines = good.splitlines(keepends=True)
    kept = report_on(tmp_path, good).chains[0].checkpoint
    kind = data.draw(st.sampled_from(["byte", "drop", "double", "swap", "insert", "cut", "splice"]))
    if kind == "byte":
        at = data.draw(st.integers(0, len(good) - 1))
        byte = data.draw(st.integers(0, 255).filter(lambda one: one != good[at]))
        bad = good[:at] + bytes([byte]) + good[at + 1 :]
    elif kind == "drop":
        at = data.draw(st.integers(0, len(lines) - 1))
        bad = b"".join(lines[:at] + lines[at + 1 :])
    elif kind == "double":
        at = data.draw(st.integers(0, len(lines) - 1))
        bad = b"".join(lines[: at + 1] + lines[at:])
    elif kind == "swap":
        at = data.draw(st.integers(0, len(lines) - 2))
        bad = b"".join([*lines[:at], lines[at + 1], lines[at], *lines[at + 2 :]])
    elif kind == "insert":
        at = data.draw(st.integers(0, len(lines)))
        bad = b"".join([*lines[:at], record(999), *lines[at:]])
    elif kind == "cut":
        bad = good[: data.draw(st.integers(0, len(good) - 1))]
    else:
        other = log_of(sizes, request="other").splitlines(keepends=True)
        at = data.draw(st.integers(2, len(lines)))
        bad = b"".join(lines[:at] + other[at - 1 :])
        if data.draw(st.booleans()):
            bad = b"".join(lines[: at - 1] + other[at - 1 :])
    whole_lines = bad[: bad.rfind(b"\n") + 1]
    if good.startswith(whole_lines):  # cut off, be it by a line end that is none any more: no log can tell by itself
        assert not report_on(tmp_path, bad, since=(kept,)).ok, kind
    else:
        assert not report_on(tmp_path, bad).ok, kind


@given(st.lists(st.binary(max_size=200) | SIZES.map(log_of), max_size=4))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_file_breaks_the_verification(tmp_path: Path, parts: list[bytes]):
    report_on(tmp_path, b"".join(parts))


def test_a_log_that_was_written_anew_with_another_key_is_found(tmp_path: Path):
    report = report_on(tmp_path, log_of([3, 4], OTHER_KEY))
    assert not report.ok
    assert {problem.what for problem in report.problems} == {"unknown_key", "never_signed"}


def test_a_log_without_signatures_is_consistent_and_proves_nothing_with_keys(tmp_path: Path):
    unsigned = log_of([3, 4], None)
    assert not report_on(tmp_path, unsigned).ok
    (tmp_path / "alone.jsonl").write_bytes(unsigned)
    report = verify([tmp_path / "alone.jsonl"])
    assert report.ok
    assert not report.signatures_checked


def test_a_signature_of_one_checkpoint_is_none_of_another(tmp_path: Path):
    lines = log_of([6, 6]).splitlines(keepends=True)
    first, second = (number for number, line in enumerate(lines) if b'"signature"' in line)
    signature = lines[first].partition(b'"signature":')[2]
    lines[second] = lines[second].partition(b'"signature":')[0] + b'"signature":' + signature
    assert not report_on(tmp_path, b"".join(lines)).ok


def test_a_cut_behind_a_checkpoint_is_found_by_the_one_that_was_kept_elsewhere(tmp_path: Path):
    whole = log_of([6, 6])
    lines = whole.splitlines(keepends=True)
    first = next(number for number, line in enumerate(lines) if b'"signature"' in line)
    cut = b"".join(lines[: first + 1])
    assert report_on(tmp_path, cut).ok  # nothing in the log itself can tell
    kept = report_on(tmp_path, whole).chains[0].checkpoint
    problems = report_on(tmp_path, cut, since=(kept,)).problems
    assert [problem.what for problem in problems] in (["checkpoint_missing"], ["cut_off"]), problems


def test_a_checkpoint_that_is_kept_reads_back_from_json_and_from_its_line(tmp_path: Path):
    whole = log_of([6])
    kept = report_on(tmp_path, whole).chains[0].checkpoint
    chain, sequence, digest = kept.position
    as_json = json.dumps({"chain": chain, "sequence": sequence, "sha256": digest, "time": kept.time}).encode()
    assert parse_checkpoints(as_json) == [kept]
    assert parse_checkpoints(whole.splitlines()[-1]) == [kept]


def test_several_chains_and_files_in_any_order_compressed_or_not(tmp_path: Path):
    one, other = log_of([4, 9, 2]).splitlines(keepends=True), log_of([5], name="other")
    parts = [b"".join(one[6:]), gzip.compress(other), b"".join(one[:6])]
    report = report_on(tmp_path, *parts)
    assert report.ok, report.problems
    assert [chain.first for chain in report.chains] == [1, 1]


@pytest.mark.parametrize(
    ("tamper", "found"),
    [
        (lambda one: [*one[:6], one[6].replace(b"r-", b"R-"), *one[7:]], [("changed", 7)]),
        (lambda one: [*one[:6], *one[7:]], [("missing", 7)]),
        (lambda one: [*one[:6], *one[8:]], [("missing", 7)]),
        (lambda one: [*one[:7], *one[6:]], [("repeated", 8)]),
        (lambda one: [*one[:6], one[7], one[6], *one[8:]], [("out_of_order", 7)]),
        (lambda one: [*one[:6], b'{"request_id":"r-1"}\n', *one[6:]], [("not_of_a_chain", 7)]),
        (lambda one: [*one[:6], b"\n", *one[6:]], [("not_of_a_chain", 7)]),
        (lambda one: one[3:], [("start_missing", 1)]),
    ],
    ids=["changed", "removed", "two removed", "repeated", "swapped", "put in", "blank line", "beginning removed"],
)
def test_it_is_said_what_happened_and_in_which_line(tmp_path: Path, tamper, found):
    lines = tamper(log_of([4, 9, 2]).splitlines(keepends=True))
    problems = report_on(tmp_path, b"".join(lines)).problems
    assert [(problem.what, problem.place.line) for problem in problems] == found
    assert all(problem.place.file.endswith("audit-0.jsonl") for problem in problems)


def test_what_is_still_proven_is_said_on_both_sides_of_a_break(tmp_path: Path):
    lines = log_of([4, 9, 2]).splitlines(keepends=True)
    del lines[2]
    (chain,) = report_on(tmp_path, b"".join(lines)).chains
    assert [one.first for one in chain.proven] == [4]
    lines = log_of([6, 9, 2]).splitlines(keepends=True)
    del lines[9]
    (chain,) = report_on(tmp_path, b"".join(lines)).chains
    assert [(one.first, one.last) for one in chain.proven] == [(1, 7), (11, len(lines) + 1)]


def test_a_changed_line_at_the_end_of_a_rotated_file_is_found_by_the_next_file(tmp_path: Path):
    lines = log_of([4, 9, 2]).splitlines(keepends=True)
    report = report_on(tmp_path, b"".join([*lines[:2], lines[2].replace(b"r-", b"R-")]), b"".join(lines[3:]))
    assert [(problem.what, problem.place.line) for problem in report.problems] == [("changed", 3)]


def test_a_log_without_signatures_that_was_written_anew_is_found_by_a_checkpoint_kept_elsewhere(tmp_path: Path):
    file = tmp_path / "audit.jsonl"
    file.write_bytes(log_of([3, 4], None))
    kept = verify([file]).chains[0].checkpoint
    file.write_bytes(log_of([3, 4, 2], None))
    assert verify([file], since=[kept]).ok
    file.write_bytes(log_of([3, 4, 2], None, request="forged"))
    assert verify([file]).ok
    assert [problem.what for problem in verify([file], since=[kept]).problems] == ["checkpoint_differs"]


def test_a_log_may_begin_directly_behind_the_checkpoint_that_was_kept(tmp_path: Path):
    lines = log_of([6, 6, 6]).splitlines(keepends=True)
    first = next(number for number, line in enumerate(lines) if b'"signature"' in line)
    (kept,) = parse_checkpoints(lines[first])
    assert report_on(tmp_path, b"".join(lines[first + 1 :]), since=(kept,)).ok
    problems = report_on(tmp_path, b"".join(lines[first + 2 :]), since=(kept,)).problems
    assert {problem.what for problem in problems} == {"start_missing", "checkpoint_missing"}
    assert report_on(tmp_path, b"".join(lines[first + 2 :]), allow_missing_start=True).ok


def test_a_damaged_archive_is_told(tmp_path: Path):
    packed = gzip.compress(log_of([4, 9, 2]))
    for bad in (packed[:-20], packed[:-6] + b"123456", packed[:40] + b"xxxx" + packed[44:]):
        assert "damaged_archive" in {problem.what for problem in report_on(tmp_path, bad).problems}


def test_lines_without_end_and_lines_that_hang_together_nowhere_take_no_room(tmp_path: Path):
    chains = b"".join(log_of([1], None, name=f"chain-{number}") for number in range(3000))
    report = report_on(tmp_path, b"x" * 3_000_000 + b"\n" + chains)
    assert report.problem_counts["not_of_a_chain"] == 1
    assert len(report.problems) == 1000
    assert report.problem_counts["never_signed"] == 3000


def test_a_gap_between_rotated_files_is_found(tmp_path: Path):
    lines = log_of([4, 9, 2]).splitlines(keepends=True)
    report = report_on(tmp_path, b"".join(lines[:4]), b"".join(lines[5:]))
    assert [problem.what for problem in report.problems] == ["missing"]


async def test_a_file_that_a_crash_left_torn_is_mended_told_of_and_proven(tmp_path: Path):
    path = tmp_path / "audit.jsonl"
    sink = file_sink(path, chain_writer(KEY))
    await sink.append(record(1))
    await sink.close()
    with path.open("ab") as file:
        file.write(record(2)[:20])
    again = file_sink(path, chain_writer(KEY))
    await again.append(record(3))
    await again.close()
    report = verify([path], keys=public_keys(KEY))
    assert report.ok, report.problems
    assert [note.kind for note in report.notes] == ["torn_line"]
    assert len(report.chains) == 1, "the chain goes on over a restart"


async def test_a_file_that_logrotate_moved_away_continues_in_the_next(tmp_path: Path):
    path = tmp_path / "audit.jsonl"
    sink = file_sink(path, chain_writer(KEY))
    await sink.append(record(1))
    path.rename(tmp_path / "audit.jsonl.1")
    sink.reopen()
    await sink.append(record(2))
    await sink.close()
    files = sorted(tmp_path.glob("audit.jsonl*"))
    assert len(files) == 2
    report = verify(files, keys=public_keys(KEY))
    assert report.ok, report.problems
    assert len(report.chains) == 1
    assert not verify([path], keys=public_keys(KEY)).ok, "the first file is missed"


@pytest.mark.parametrize("line", [b"", b"x", b'{"chain":1}', b'{"chain":"a","sequence":0,"sha256":null}', b"\xff"])
def test_what_is_no_checkpoint_is_told(line: bytes):
    with pytest.raises(ValueError):
        parse_checkpoints(line)
