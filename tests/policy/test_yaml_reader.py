"""Strict YAML: what a text becomes, and what is refused, where."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.policy.problems import ConfigurationProblems, Problem
from gateway.policy.yaml_reader import parse_yaml_document, read_documents

AMBIGUOUS = "is read as different numbers by different parsers: write it in quotes, or in plain decimal"
TAB = "while scanning a plain scalar, found a tab character that violates indentation"
ALIASED = "a: &x 1\nb: *x\n"


def problems(text: str) -> list[str]:
    found: list[Problem] = []
    documents = list(read_documents(text, "f.yaml", found))
    assert not (found and documents)
    return [str(problem) for problem in found]


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("text", "text"),
        ('"1"', "1"),
        ("'true'", "true"),
        ("1", 1),
        ("0", 0),
        ("-7", -7),
        ("true", True),
        ("False", False),
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("off", "off"),
        ("y", "y"),
        ("null", None),
        ("~", None),
        ("", None),
        ("2026-11-01", "2026-11-01"),
        ("2026-11-01T12:00:00Z", "2026-11-01T12:00:00Z"),
        ("1e5", "1e5"),
        ("1.5", 1.5),
        (".5", 0.5),
        ("1.2.3", "1.2.3"),
        ("10.0.0.1:8080", "10.0.0.1:8080"),
        ("0123abc", "0123abc"),
        ("-", [None]),
        ("+", "+"),
        ("=", "="),
        ("{backup:read: Read}", {"backup:read": "Read"}),
        ("[a, 1, true, null]", ["a", 1, True, None]),
        ("|\n  two\n  lines\n", "two\nlines\n"),
        ('claims.a == "x" && claims.b == "*y"', 'claims.a == "x" && claims.b == "*y"'),
        ("refs/heads/*", "refs/heads/*"),
        ("999999999999999999", 999999999999999999),
    ],
)
def test_only_the_core_types_are_resolved(written, value):
    text = f"key: {written}\n" if "\n" not in written and written != "-" else f"key:{' ' + written}"
    if written == "-":
        text = "key:\n  -\n"
    data, _ = parse_yaml_document(text, "f.yaml")
    assert data == {"key": value}
    assert type(data["key"]) is type(value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: 1\nb: 2\na: 3\n", "f.yaml:3: a: stands here twice"),
        ("a:\n  - b: 1\n    b: 2\n", "f.yaml:3: a[0].b: stands here twice"),
        ("a: &x 1\n", "f.yaml:1: a: anchors (&) are not accepted"),
        ("a: {b: &x [1]}\n", "f.yaml:1: a.b: anchors (&) are not accepted"),
        ("a: !!str 1\n", "f.yaml:1: a: tags (!) are not accepted"),
        ("a: !!python/object:os.system x\n", "f.yaml:1: a: tags (!) are not accepted"),
        ("a: ! x\n", "f.yaml:1: a: tags (!) are not accepted"),
        ("%TAG ! tag:example.com,2026:\n---\na: 1\n", "f.yaml:1: tags are not accepted"),
        ("a:\n  <<: {b: 1}\n", "f.yaml:2: a: merge keys (<<) are not accepted"),
        ("1: x\n", "f.yaml:1: the key 1 is not text: write it in quotes"),
        ("a: {true: x}\n", "f.yaml:1: a: the key true is not text: write it in quotes"),
        ("? [a]\n: x\n", "f.yaml:1: a key must be plain text"),
        ("a: 0123\n", f"f.yaml:1: a: 0123 {AMBIGUOUS}"),
        ("a: 0x1f\n", f"f.yaml:1: a: 0x1f {AMBIGUOUS}"),
        ("a: [1_000]\n", f"f.yaml:1: a[0]: 1_000 {AMBIGUOUS}"),
        ("a: 12:30\n", f"f.yaml:1: a: 12:30 {AMBIGUOUS}"),
        ("a: 123456789012345678901\n", "f.yaml:1: a: a number of more than 20 digits: write it in quotes"),
        ("a: [1\nb: 2\n", "f.yaml:2: not YAML: while parsing a flow sequence, did not find expected ',' or ']'"),
        ("a: 1\n\tb: 2\n", f"f.yaml:2: not YAML: {TAB}"),
        ("a: x\x07y\n", "f.yaml:1: not YAML: U+0007 may not stand in a file"),
        ("a: *x\n", "f.yaml:1: a: aliases (*) are not accepted: write the value out"),
    ],
)  # fmt: skip
def test_what_could_surprise_is_refused(text, problem):
    assert problems(text) == [problem]


def test_an_anchor_and_its_alias_are_both_told():
    assert problems(ALIASED) == [
        "f.yaml:1: a: anchors (&) are not accepted",
        "f.yaml:2: b: aliases (*) are not accepted: write the value out",
    ]


def test_an_alias_bomb_is_refused_without_being_expanded():
    lines = ["a0: &a0 [x, x]"] + [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 60)]
    assert len(problems("\n".join(lines))) == 60 + 59 * 2


@pytest.mark.parametrize("bomb", ["[" * 200_000, "{a: " * 200_000, "- " * 200_000, "? " * 200_000])
def test_a_nesting_bomb_is_refused_at_the_first_level_too_deep(bomb):
    (problem,) = problems(bomb)
    assert any(why in problem for why in ("nested deeper than 32", "a key must be plain text", "maximum nesting depth"))


def test_a_document_of_very_many_lists_is_refused():
    assert problems(f"[{'[],' * 100_000}]") == ["f.yaml:1: more than 100000 lists and mappings"]
    assert problems(f"[{'[],' * 99_999}]") == []


def test_a_scalar_has_a_limit():
    assert problems(f"a: {'x' * 65537}\n") == ["f.yaml:1: a: is longer than 65536 characters"]
    assert problems(f"a: {'x' * 65536}\n") == []


def test_several_documents_are_read_and_empty_ones_left_out():
    found: list[Problem] = []
    documents = list(read_documents("# nothing\n---\na: 1\n---\n---\n\nb: 2\n", "f.yaml", found))
    assert [(one.value, one.line) for one in documents] == [({"a": 1}, 3), ({"b": 2}, 7)]
    assert found == []


def test_a_document_with_a_problem_does_not_hide_the_others():
    found: list[Problem] = []
    documents = list(read_documents("a: 1\na: 2\n---\nb: 2\n---\nc: &x 3\n", "f.yaml", found))
    assert [one.value for one in documents] == [{"b": 2}]
    assert [problem.document for problem in found] == [0, 2]


def test_a_path_is_found_on_its_line():
    _, locate = parse_yaml_document("a:\n  b:\n    - x\n    - c: 1\n      d: 2\n  'e.f': 3\n", "f.yaml")
    assert [locate(path) for path in [(), ("a",), ("a", "b"), ("a", "b", 0), ("a", "b", 1, "d"), ("a", "e.f")]] == [
        1, 1, 2, 3, 5, 6,
    ]  # fmt: skip
    assert locate(("a", "b", 1, "missing")) == 4


def test_one_document_is_one_document():
    with pytest.raises(ConfigurationProblems, match="more than one document"):
        parse_yaml_document("a: 1\n---\nb: 2\n", "f.yaml")
    assert parse_yaml_document("# nothing\n", "f.yaml")[0] == {}


@given(st.text(alphabet="ab:-[]{}&*!|>'\"%#? \n\t,1.~", max_size=60))
def test_any_text_is_a_value_or_a_problem_and_never_an_exception(text):
    found: list[Problem] = []
    for document in read_documents(text, "f.yaml", found):
        assert isinstance(document.value, str | int | float | bool | list | dict)


@given(st.text(max_size=40))
def test_any_unicode_is_a_value_or_a_problem(text):
    found: list[Problem] = []
    list(read_documents(text, "f.yaml", found))
