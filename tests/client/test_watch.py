"""A file that is kept fresh."""

import stat

import pytest

from gateway.client import Token, Unavailable
from gateway.client.watch import keep_fresh, write_private


class Enough(Exception):
    """Ends a watch that would go on for ever."""


@pytest.fixture
def watched(stopwatch):
    """Runs a watch over these outcomes of exchanges; gives what was delivered (with the time) and reported."""

    def watched(outcomes, lifetime_seconds=1000):
        delivered, reported, coming = [], [], iter(outcomes)

        def fetch():
            outcome = next(coming, None)
            if outcome is None:
                raise Enough
            if isinstance(outcome, Exception):
                raise outcome
            return Token(outcome, int(stopwatch.now) + lifetime_seconds, "a")

        def deliver(token):
            delivered.append((token.access_token, stopwatch.now))

        with pytest.raises(Enough):
            keep_fresh(fetch(), fetch, deliver, reported.append, timing=stopwatch.timing)
        return delivered, reported

    return watched


def test_each_successor_is_delivered_at_80_percent_of_its_predecessors_life(watched, stopwatch):
    start = stopwatch.now
    delivered, _ = watched(["one", "two", "three"])
    assert [(token, at - start) for token, at in delivered] == [
        ("two", pytest.approx(800)),
        ("three", pytest.approx(1600)),
    ]


def test_what_fails_is_reported_and_tried_again_with_growing_pauses(watched, stopwatch):
    delivered, reported = watched(["one", *[Unavailable("down")] * 3, "two"])
    assert [token for token, _ in delivered] == ["two"]
    assert [str(fault) for fault in reported] == ["down"] * 3
    assert [pause for pause in stopwatch.pauses if 1 < pause < 5] == [1.25, 1.5, 2.0]


def test_a_server_that_asks_for_patience_is_given_it(watched, stopwatch):
    watched(["one", Unavailable("busy", retry_after_seconds=90), "two"])
    assert 91.25 in stopwatch.pauses


def test_a_tokens_short_life_makes_no_busy_loop(watched, stopwatch):
    watched(["one", "two", "three"], lifetime_seconds=1)
    assert stopwatch.pauses == [1.0, 1.0, 1.0]


def test_the_clock_is_looked_at_every_minute_so_that_a_suspended_machine_catches_up(watched, stopwatch):
    watched(["one"])
    assert max(stopwatch.pauses) <= 60


def test_a_file_is_private_whatever_stood_there_before(tmp_path):
    file = tmp_path / "token"
    file.write_text("old")
    file.chmod(0o666)
    write_private(file, "new")
    assert file.read_text() == "new"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [file]


def test_a_symlink_in_the_place_of_the_file_is_replaced_and_its_target_left_alone(tmp_path):
    target = tmp_path / "target"
    target.write_text("precious")
    (tmp_path / "token").symlink_to(target)
    write_private(tmp_path / "token", "new")
    assert target.read_text() == "precious"
    assert not (tmp_path / "token").is_symlink()


def test_a_reader_never_sees_a_part(tmp_path):
    file = tmp_path / "token"
    write_private(file, "old")
    with file.open() as reader:
        write_private(file, "new and longer")
        assert reader.read() == "old"


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path):
    folder = tmp_path / "token"
    folder.mkdir()
    (folder / "kept").touch()
    with pytest.raises(OSError, match="directory"):
        write_private(folder, "new")
    assert list(tmp_path.iterdir()) == [folder]


def test_a_folder_that_does_not_exist_is_an_error_that_names_the_path(tmp_path):
    with pytest.raises(FileNotFoundError, match="missing"):
        write_private(tmp_path / "missing" / "token", "new")
