"""Whether one rule lets in everybody that another lets in: a yes is never wrong, and the usual ones are found."""

import re
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from gateway.policy.cel import parse_condition
from gateway.policy.conditions import MAX_LIKE_CHARACTERS, parse_glob, parse_like, parse_match
from gateway.policy.generation import TrustRule
from gateway.policy.implication import admits_everybody, demands, glob_implies, implies, is_disjoint
from tests.support.policies import generation_of

LETTERS = "ab/:"
GLOBS = st.lists(st.sampled_from([*LETTERS, "*", "**"]), min_size=1, max_size=7).map("".join).filter(
    lambda glob: "***" not in glob
)  # fmt: skip
TEXTS = st.text(LETTERS, max_size=7)
SCALARS = st.sampled_from(["a", "b", "a/b", "ab", "", "1", "true", 1, 0, True, False])
CLAIM_VALUES = SCALARS | st.none() | st.lists(SCALARS, max_size=2)
PATHS = ("p", "q")
WHENS = ("true", 'claims.p == "a"', "has(claims.q)")


def rule(
    match: Mapping[str, Any] | None = None,
    like: Mapping[str, Any] | None = None,
    when: str | None = None,
    issuer: str = "github",
) -> TrustRule:
    parsed_match, wrong_match = parse_match(match or {})
    parsed_like, wrong_like = parse_like(like or {})
    assert not wrong_match + wrong_like
    return TrustRule(
        service_account="app",
        name="rule-1",
        ordinal=0,
        position=0,
        issuer=issuer,
        match=tuple(parsed_match),
        like=tuple(parsed_like),
        when=parse_condition(when) if when is not None else None,
        grants={},
        token_lifetime_seconds=None,
        token_claims=(),
        paths=(),
    )


@st.composite
def rules(draw: st.DrawFn) -> TrustRule:
    names = st.sampled_from(PATHS)
    flat = st.dictionaries(names, SCALARS | st.lists(SCALARS, min_size=1, max_size=3), max_size=2)
    nested = st.dictionaries(names, st.dictionaries(names, SCALARS, min_size=1, max_size=1), max_size=1)
    globs = st.dictionaries(names, GLOBS | st.lists(GLOBS, min_size=1, max_size=2), max_size=2)
    return rule(draw(flat | nested), draw(globs), draw(st.none() | st.sampled_from(WHENS)))


CLAIMS = st.dictionaries(
    st.sampled_from(PATHS), CLAIM_VALUES | TEXTS | st.dictionaries(st.sampled_from(PATHS), SCALARS, max_size=2)
)

# ---------------------------------------------------------------- a yes is never wrong


@given(GLOBS, GLOBS, st.lists(TEXTS, min_size=1, max_size=20))
@settings(max_examples=500, deadline=None)
@example("a*b", "a**b", ["a/b"])
@example("*/*", "**", ["a/b/a"])
@example("a**", "a*", ["a/b"])
@example("*", "a*", ["b"])
@example("a*a", "a*", ["a/a", "aba"])
def test_whatever_fits_the_narrow_glob_fits_the_wide_one(narrow, wide, texts):
    if glob_implies(narrow, wide):
        assert [text for text in texts if parse_glob(narrow).fits(text) and not parse_glob(wide).fits(text)] == []


@st.composite
def widened(draw: st.DrawFn, glob: str) -> str:
    """The glob with some of its pieces replaced by stars."""
    pieces = [draw(st.sampled_from([piece, piece, "*", "**", ""])) for piece in glob.replace("**", "\0")]
    wide = "".join(pieces).replace("\0", "**")
    return re.sub(r"\*{3,}", "**", wide) or "*"


@given(GLOBS, st.data())
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
def test_texts_made_from_the_narrow_glob_fit_the_wide_one(narrow, data):
    wide = data.draw(widened(narrow))
    assume(glob_implies(narrow, wide))
    text = ""
    for piece in narrow.replace("**", "\0").replace("*", "\1"):
        runs = {"\0": TEXTS, "\1": st.text("ab", max_size=4)}
        text += data.draw(runs[piece]) if piece in runs else piece
    assert parse_glob(narrow).fits(text)
    assert parse_glob(wide).fits(text)


@given(rules(), rules(), st.lists(CLAIMS, min_size=1, max_size=12))
@settings(max_examples=400, deadline=None)
def test_whoever_satisfies_the_narrow_rule_satisfies_the_wide_one(narrow, wide, workloads):
    if implies(narrow, wide):
        assert [claims for claims in workloads if narrow.admits(claims) and not wide.admits(claims)] == []


@given(rules(), rules(), st.lists(CLAIMS, min_size=1, max_size=12))
@settings(max_examples=200, deadline=None)
def test_nobody_satisfies_two_disjoint_rules(one, other, workloads):
    if is_disjoint(one, other):
        assert [claims for claims in workloads if one.admits(claims) and other.admits(claims)] == []


@given(rules(), rules(), st.lists(CLAIMS, min_size=1, max_size=12))
@settings(max_examples=200, deadline=None)
def test_rules_of_the_same_demands_admit_the_same(one, other, workloads):
    if demands(one) == demands(other):
        assert [one.admits(claims) for claims in workloads] == [other.admits(claims) for claims in workloads]
        assert implies(one, other)


def test_a_text_that_is_too_long_to_be_like_anything_implies_no_glob():
    long = "a" * (MAX_LIKE_CHARACTERS + 1)
    assert not implies(rule({"p": long}), rule(like={"p": "**"}))
    assert not implies(rule({"p": long}), rule(like={"p": "a*"}))
    assert implies(rule({"p": long[1:]}), rule(like={"p": "a*"}))


# ---------------------------------------------------------------- the usual ones are found


@given(rules())
def test_a_rule_implies_itself(one):
    assert implies(one, one)


@pytest.mark.parametrize(
    ("narrow", "wide"),
    [
        ("refs/heads/main", "refs/heads/*"),
        ("refs/heads/*", "refs/**"),
        ("refs/heads/release/*", "refs/heads/**"),
        ("repo:acme/web:ref:refs/heads/*", "repo:acme/*:ref:refs/heads/*"),
        ("repo:acme/web:ref:refs/heads/*", "repo:acme/**"),
        ("repo:acme/*:ref:refs/heads/main", "repo:*/*:ref:**"),
        ("system:serviceaccount:team-a-*:*", "system:serviceaccount:team-*:*"),
        ("a*b*c", "a*c"),
        ("ab*", "a*"),
    ],
)
def test_a_narrower_glob_is_found_to_be_narrower(narrow, wide):
    assert glob_implies(narrow, wide)
    assert not glob_implies(wide, narrow)


@pytest.mark.parametrize(
    ("narrow", "wide"),
    [
        (rule({"p": "a", "q": "b"}), rule({"p": "a"})),
        (rule({"p": "a"}), rule({"p": ["a", "b"]})),
        (rule({"p": ["a", "ab"]}), rule(like={"p": "a*"})),
        (rule(like={"p": ["a", "b"]}), rule({"p": ["b", "a", "ab"]})),
        (rule({"p": "a"}, when="has(claims.q)"), rule({"p": "a"})),
        (rule({"p": "a"}, when="has(claims.q)"), rule(when="has(claims.q)")),
    ],
)
def test_a_narrower_rule_is_found_to_be_narrower(narrow, wide):
    assert implies(narrow, wide)
    assert not implies(wide, narrow)


@pytest.mark.parametrize(
    ("narrow", "wide"),
    [
        (rule({"p": 1}), rule({"p": True})),
        (rule({"p": "1"}), rule({"p": 1})),
        (rule({"p": 1}), rule(like={"p": "**"})),
        (rule({"p": {"q": "a"}}), rule({"q": "a"})),
        (rule({"p": "a"}), rule({"p": "a"}, issuer="gitlab")),
        (rule(when='claims.p == "a"'), rule({"p": "a"})),
    ],
)
def test_what_is_not_sure_is_not_implied(narrow, wide):
    assert not implies(narrow, wide)


def test_the_values_that_a_rules_own_globs_leave_are_those_that_count():
    both, exact = rule({"p": ["a", "b"]}, {"p": "a*"}), rule({"p": "a"})
    assert implies(both, exact)
    assert implies(exact, both)


def test_order_and_repetition_make_no_other_demands():
    one = rule({"p": ["a", "b"], "q": 1}, {"p": ["a*", "b*"]})
    assert demands(one) == demands(rule({"q": 1, "p": ["b", "a", "a"]}, {"p": ["b*", "a*"]}))
    assert demands(one) != demands(rule({"q": True, "p": ["b", "a"]}, {"p": ["b*", "a*"]}))


def test_long_globs_full_of_stars_are_compared_in_no_time():
    wide, narrow = "*a" * 16 + "b" * 400, "a*" * 16 + "b" * 400
    assert not glob_implies(narrow, wide + "c")


@pytest.mark.parametrize(
    "open_to_all",
    [
        rule(like={"sub": "**"}),
        rule(like={"repository_id": "*"}),
        rule(when="true"),
        rule({"iss": "https://token.actions.githubusercontent.com"}, {"sub": ["repo:acme/*", "**"]}),
    ],
)
def test_a_rule_that_asks_for_nothing_admits_everybody(open_to_all):
    github = generation_of().issuers_by_name["github"]
    assert admits_everybody(open_to_all, github)


@pytest.mark.parametrize("closed", [rule({"repository_id": "1"}), rule(like={"sub": "repo:**"}), rule(when="false")])
def test_a_rule_that_asks_for_something_does_not_admit_everybody(closed):
    assert not admits_everybody(closed, generation_of().issuers_by_name["github"])
