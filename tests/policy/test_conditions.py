"""``match``, ``like`` and ``when`` against every sort of claim."""

import json
import re
from functools import lru_cache

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.policy.cel import parse_condition
from gateway.policy.conditions import (
    MAX_LIKE_CHARACTERS,
    OneStar,
    claim_at,
    glob_pattern,
    parse_glob,
    parse_like,
    parse_match,
)
from gateway.policy.yaml_reader import parse_yaml_document

TABLE = """
| condition                                   | the claim a                  | holds |
|---------------------------------------------|------------------------------|-------|
| match: {a: x}                               | "x"                          | yes   |
| match: {a: x}                               | "X"                          | no    |
| match: {a: x}                               | "x "                         | no    |
| match: {a: x}                               | "x\\u0000y"                  | no    |
| match: {a: x}                               | absent                       | no    |
| match: {a: x}                               | null                         | no    |
| match: {a: x}                               | ["x"]                        | no    |
| match: {a: x}                               | {"x": "x"}                   | no    |
| match: {a: ""}                              | ""                           | yes   |
| match: {a: ""}                              | absent                       | no    |
| match: {a: ""}                              | null                         | no    |
| match: {a: "1"}                             | "1"                          | yes   |
| match: {a: "1"}                             | 1                            | no    |
| match: {a: 1}                               | 1                            | yes   |
| match: {a: 1}                               | "1"                          | no    |
| match: {a: 1}                               | true                         | no    |
| match: {a: 1}                               | 1.0                          | no    |
| match: {a: 0}                               | false                        | no    |
| match: {a: 0}                               | null                         | no    |
| match: {a: true}                            | true                         | yes   |
| match: {a: true}                            | "true"                       | no    |
| match: {a: true}                            | 1                            | no    |
| match: {a: "true"}                          | true                         | no    |
| match: {a: false}                           | false                        | yes   |
| match: {a: false}                           | absent                       | no    |
| match: {a: false}                           | 0                            | no    |
| match: {a: [x, y]}                          | "y"                          | yes   |
| match: {a: [x, y]}                          | "z"                          | no    |
| match: {a: [x, y]}                          | ["x", "y"]                   | no    |
| match: {a: [x, 1, true]}                    | 1                            | yes   |
| match: {a: [x, 1]}                          | true                         | no    |
| match: {a: [b, c, d, e, f, g, h, i, j]}     | "j"                          | yes   |
| match: {a: [b, c, d, e, f, g, h, i, 1]}     | true                         | no    |
| match: {a: {b: x}}                          | {"b": "x"}                   | yes   |
| match: {a: {b: x}}                          | {"b": "x", "c": 1}           | yes   |
| match: {a: {b: x}}                          | {"c": "x"}                   | no    |
| match: {a: {b: x}}                          | "b"                          | no    |
| match: {a: {b: x}}                          | [{"b": "x"}]                 | no    |
| match: {a: {b: x}}                          | null                         | no    |
| match: {a: {b: {c: [x, y]}}}                | {"b": {"c": "y"}}            | yes   |
| match: {a: {b: x, c: y}}                    | {"b": "x"}                   | no    |
| like: {a: x*}                               | "x"                          | yes   |
| like: {a: x*}                               | "xyz"                        | yes   |
| like: {a: x*}                               | "xy/z"                       | no    |
| like: {a: x*}                               | "xy:z"                       | no    |
| like: {a: x**}                              | "xy/z:a"                     | yes   |
| like: {a: x*}                               | absent                       | no    |
| like: {a: "*"}                              | null                         | no    |
| like: {a: "**"}                             | 1                            | no    |
| like: {a: "**"}                             | true                         | no    |
| like: {a: "**"}                             | ["x"]                        | no    |
| like: {a: "**"}                             | ""                           | yes   |
| like: {a: x.z}                              | "xyz"                        | no    |
| like: {a: x?z}                              | "xyz"                        | no    |
| like: {a: "[a-z]*"}                         | "b"                          | no    |
| like: {a: "repo:acme/*:ref:refs/heads/**"}  | "repo:acme/w:ref:refs/heads/a/b" | yes |
| like: {a: "repo:acme/*:ref:refs/heads/**"}  | "repo:acme/w/x:ref:refs/heads/a" | no |
| like: {a: "repo:acme/*"}                    | "repo:acme/x:environment:prod"   | no |
| like: {a: refs/heads/release/*}             | "refs/heads/release/1"       | yes   |
| like: {a: refs/heads/release/*}             | "refs/heads/release/1/evil"  | no    |
| like: {a: refs/heads/release/*}             | "refs/heads/release/1\\n"    | yes   |
| like: {a: refs/heads/main}                  | "refs/heads/main"            | yes   |
| like: {a: refs/heads/main}                  | "refs/heads/main\\n"         | no    |
| like: {a: [x*, y*]}                         | "yy"                         | yes   |
| like: {a: [x*, y*]}                         | "zy"                         | no    |
| like: {a: {b: x*}}                          | {"b": "xx"}                  | yes   |
| when: claims.a == "x"                       | "x"                          | yes   |
| when: claims.a == "x"                       | "y"                          | no    |
| when: claims.a == "x"                       | "x\\u0000y"                  | no    |
| when: claims.a == "x"                       | absent                       | no    |
| when: claims.a == "x"                       | 1                            | no    |
| when: claims.a != "x"                       | "y"                          | yes   |
| when: claims.a != "x"                       | absent                       | no    |
| when: claims.a != "x"                       | null                         | no    |
| when: "!(claims.a == 'x')"                  | absent                       | no    |
| when: "!(claims.a in ['x'])"                | null                         | no    |
| when: "!claims.a.startsWith('x')"           | absent                       | no    |
| when: "!claims.a.startsWith('x')"           | 1                            | no    |
| when: claims.a == null                      | null                         | no    |
| when: has(claims.a)                         | null                         | no    |
| when: has(claims.a)                         | absent                       | no    |
| when: has(claims.a)                         | ""                           | yes   |
| when: "!has(claims.a)"                      | absent                       | yes   |
| when: has(claims.a.b)                       | {"b": null}                  | no    |
| when: has(claims.a.b)                       | {"b": 1}                     | yes   |
| when: claims.a.b != 1                       | {"b": null}                  | no    |
| when: claims.a == true                      | true                         | yes   |
| when: claims.a == true                      | "true"                       | no    |
| when: claims.a == true                      | 1                            | no    |
| when: claims.a == 1                         | true                         | no    |
| when: claims.a > 5                          | 6                            | yes   |
| when: claims.a > 5                          | "6"                          | no    |
| when: "'x' in claims.a"                     | ["x", "y"]                   | yes   |
| when: "'x' in claims.a"                     | "x"                          | no    |
| when: "'x' in claims.a"                     | absent                       | no    |
| when: claims.a.all(e, e == "x")             | ["x", "x"]                   | yes   |
| when: claims.a.exists(e, e == "x")          | ["y", "x"]                   | yes   |
| when: claims["a"].b == "x"                  | {"b": "x"}                   | yes   |
| when: "'a' in claims"                       | "x"                          | yes   |
| when: "'a' in claims"                       | null                         | no    |
| when: issuer == "here"                      | absent                       | yes   |
| when: claims.a == "x" \\|\\| true           | absent                       | yes   |
| when: 1 / 0 == 1                            | absent                       | no    |
| when: claims.a.matches("(")                 | "x"                          | no    |
| when: claims.a == "x"                       | 99999999999999999999         | no    |
"""

ROWS = [
    [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
    for line in TABLE.strip().splitlines()[2:]
]


def holds(condition: str, claims: dict) -> bool:
    (kind, written), *_ = parse_yaml_document(condition, "table")[0].items()
    if kind == "when":
        return parse_condition(written).holds(claims, "here")
    conditions, errors = parse_match(written) if kind == "match" else parse_like(written)
    assert errors == []
    return all(one.holds(claims) for one in conditions)


@pytest.mark.parametrize(("condition", "claim", "expected"), ROWS, ids=[f"{row[0]} of {row[1]}" for row in ROWS])
def test_a_condition_holds_of_a_claim(condition, claim, expected):
    assert holds(condition, {} if claim == "absent" else {"a": json.loads(claim)}) is (expected == "yes")


def test_the_order_of_a_file_is_the_order_of_the_checks():
    conditions, _ = parse_match({"z": "1", "a": {"y": "2", "b": "3"}, "m": "4"})
    assert [one.path for one in conditions] == [("z",), ("a", "y"), ("a", "b"), ("m",)]


def test_a_claim_name_may_hold_dots_and_slashes():
    claims = {"kubernetes.io": {"pod": {"uid": "1"}}, "https://sts.amazonaws.com/": {"org_id": "o"}}
    assert claim_at(claims, ("kubernetes.io", "pod", "uid")) == "1"
    assert claim_at(claims, ("https://sts.amazonaws.com/", "org_id")) == "o"
    assert claim_at(claims, ("kubernetes", "io")) is None


# ---------------------------------------------------------------- globs


def naive(glob: str, text: str) -> bool:
    """What a glob means, by trying every possibility."""
    tokens = re.findall(r"\*\*|\*|[^*]", glob, re.DOTALL)

    @lru_cache(None)
    def fits(token: int, position: int) -> bool:
        if token == len(tokens):
            return position == len(text)
        if tokens[token] not in {"*", "**"}:
            return text[position : position + 1] == tokens[token] and fits(token + 1, position + 1)
        for end in range(position, len(text) + 1):
            if fits(token + 1, end):
                return True
            if tokens[token] == "*" and text[end : end + 1] in {"/", ":"}:
                return False
        return False

    return fits(0, 0)


globs = st.lists(st.sampled_from(["a", "b", "/", ":", "ab", "*", "**", "."]), min_size=1, max_size=10).map("".join)
texts = st.text(alphabet="aab/:.\n", max_size=14)


@given(globs.filter(lambda glob: "***" not in glob), texts)
@example("**a*b", "a/ab")
@example("a*/b**c*d", "ax/b/c/cd")
@example("*a*a", "aa")
@example("**/*", "/")
@settings(max_examples=1500, deadline=None)
def test_a_glob_fits_what_it_means(glob, text):
    assert parse_glob(glob).fits(text) is naive(glob, text)
    assert (re.compile(glob_pattern(glob), re.DOTALL).fullmatch(text) is not None) is naive(glob, text)


@given(
    st.lists(st.tuples(st.sampled_from(["*", "**"]), st.text("ab/:.", min_size=1, max_size=3)), max_size=8), st.data()
)
@settings(max_examples=300, deadline=None)
def test_a_glob_fits_a_text_made_from_it(pieces, data):
    glob, text = "x", "x"
    for star, literal in pieces:
        glob += star + literal
        text += data.draw(st.text("abc" if star == "*" else "abc/:", max_size=4)) + literal
    assert parse_glob(glob).fits(text)


def test_the_usual_globs_need_no_regular_expression():
    assert all(isinstance(parse_glob(glob), OneStar) for glob in ("x", "refs/heads/*", "*.example.com", "a**b"))


def test_a_claim_longer_than_the_limit_is_like_nothing():
    (like,), _ = parse_like({"a": "**"})
    assert like.holds({"a": "x" * MAX_LIKE_CHARACTERS})
    assert not like.holds({"a": "x" * (MAX_LIKE_CHARACTERS + 1)})


@pytest.mark.parametrize(
    "glob", ["*a" * 16 + "b", "**a" * 16 + "b", "**a*b**c*d", "**" + "*a" * 15 + "b", "**a*a*a*a*b"]
)
def test_a_hostile_claim_cannot_multiply_the_work_of_many_stars(glob):
    # Without atomic groups the work would be the length to the power of the stars, and this would never end.
    (like,), errors = parse_like({"a": glob.replace("***", "**a*")})
    assert errors == []
    assert not like.holds({"a": "a" * MAX_LIKE_CHARACTERS})


@given(
    st.dictionaries(
        st.text(max_size=5),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
            max_leaves=8,
        ),
        max_size=4,
    )
)
@settings(max_examples=300)
def test_whatever_a_file_says_is_a_condition_or_an_error(written):
    for parse in (parse_match, parse_like):
        conditions, errors = parse(written)
        assert bool(conditions) or bool(errors) or not written
