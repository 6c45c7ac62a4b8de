"""Comments that silence a rule: found where YAML has a comment, and nowhere else."""

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from yaml import BaseLoader, YAMLError, load

from gateway.policy.lint.comments import Ignore, ignores_in


def found(text):
    return [(one.covers, one.rule, one.reason) for one in ignores_in(text)]


def test_a_comment_covers_its_own_line():
    assert list(ignores_in("a: b  # lint: ignore REF001 we know why\n")) == [Ignore(1, 1, "REF001", "we know why")]


def test_a_comment_alone_covers_the_next_line_with_something_on_it():
    text = "a:\n  # lint: ignore REF001 first\n\n  # lint: ignore REF002 second\n  # in words\n  b: c\n"
    assert found(text) == [(6, "REF001", "first"), (6, "REF002", "second")]


def test_several_rules_are_silenced_on_one_line():
    assert found("a: b # lint: ignore A one # lint: ignore B two\n") == [(1, "A", "one"), (1, "B", "two")]


@pytest.mark.parametrize(
    "text", ["a: b #lint:ignore\n", "a: b # lint: ignored\n", "a: b # lint: disable A b\n", "# lint:"]
)
def test_a_comment_that_cannot_be_read_names_no_rule(text):
    assert [one.rule for one in ignores_in(text)] == [""]


def test_a_comment_without_a_reason_has_none():
    assert found("a: b # lint: ignore REF001  \n") == [(1, "REF001", "")]


@pytest.mark.parametrize(
    "text",
    [
        'a: "b # lint: ignore X y"\n',
        "a: 'b # lint: ignore X y'\n",
        "a: 'b\n  # lint: ignore X y\n  c'\n",
        "a: |\n  b\n  # lint: ignore X y\n",
        "a: >-\n  b # lint: ignore X y\n",
        "a: b#lint: ignore\n",
        "a: |2\n   # lint: ignore X y\n\n",
        '"# lint: ignore X y": b\n',
    ],
)
def test_text_that_looks_like_a_comment_is_none(text):
    assert found(text) == []


@pytest.mark.parametrize(
    ("text", "covered"),
    [
        ('a: "b # c" # lint: ignore X y\n', 1),
        ("a: | # lint: ignore X y\n  # b\n", 1),
        ("a: |\n  # b\n# lint: ignore X y\nc: d\n", 4),
        ("é: 'ü😀' # lint: ignore X y\n", 1),
        ("a: [b, # lint: ignore X y\n  c]\n", 1),
        ("a: b\r\nc: d # lint: ignore X y\r\n", 2),
        ("---\na: b\n--- # lint: ignore X y\nc: d\n", 3),
    ],
)
def test_a_comment_is_found_beside_quotes_blocks_and_other_scripts(text, covered):
    assert found(text) == [(covered, "X", "y")]


def test_a_file_whose_texts_have_no_end_has_no_comments():
    assert found('a: b # lint: ignore X y\nc: "d\n') == []


LINES = [
    "a: b", "  c: d", "- e", "  - f: 'g # lint: ignore Q1 r'", 'k: "l # lint: ignore Q2 r"', "m: |", "s: 't", "u'",
    "  n # lint: ignore Q3 r", "# lint: ignore R1 r", "  # lint: ignore R2 r", "o: p # lint: ignore R3 r", "q: >-", "",
]  # fmt: skip


@given(st.lists(st.sampled_from(LINES), max_size=8))
@example(["m: |", "# lint: ignore R1 r", "  # lint: ignore R2 r"])
def test_a_comment_is_what_can_be_emptied_without_a_change_of_what_the_file_says(picked):
    text = "\n".join(picked) + "\n"
    try:
        before = load(text, BaseLoader)
    except YAMLError:
        return
    for one in ignores_in(text):
        changed = text.split("\n")
        at = changed[one.line - 1].rindex("# lint:")
        changed[one.line - 1] = changed[one.line - 1][:at] + "#"  # without it, a block above might go on below
        assert load("\n".join(changed), BaseLoader) == before


def test_a_file_full_of_comments_is_read_in_no_time():
    begun = time.process_time()
    assert len(found("# lint: ignore A b\n" * 100_000 + "a: b\n")) == 100_000
    assert time.process_time() - begun < 5
