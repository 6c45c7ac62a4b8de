"""What lint holds for certain of a workload is true of every workload that the condition lets in."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.policy.cel import parse_condition
from gateway.policy.conditions import claim_at, parse_glob, parse_like, parse_match, scalar_key
from gateway.policy.lint.facts import (
    NOTHING,
    both,
    either,
    facts_of_conditions,
    facts_when,
    with_equal_claims,
)
from gateway.policy.lint.syntax import Call, Claim, Has, ListOf, Literal, Other, syntax_of, walk

ISSUER = "ci"
NAMES = ("a", "b", "c")
VALUES = ("x", "y", "xy", "", 1, 0, True, False)


def facts(source, *, holds=True):
    return facts_when(syntax_of(parse_condition(source)), ISSUER, holds=holds)


def contradictions(certain, claims):
    """What is held for certain and is not true of these claims."""
    found = []
    if () in certain:
        return ["nothing should get here"]
    for path, known in certain.items():
        value = claim_at(claims, path)
        if value is None:
            if known.present:
                found.append(f"{path} is absent")
            continue
        key = scalar_key(value)
        if known.values is not None and key not in known.values:
            found.append(f"{path} is {value!r}, not one of {known.values}")
        if key in known.excluded:
            found.append(f"{path} is {value!r}, which is excluded")
        found += [
            f"{path} is {value!r}, which fits none of {globs}"
            for globs in known.globs
            if not isinstance(value, str) or not any(parse_glob(glob).fits(value) for glob in globs)
        ]
        found += [f"{path} is not {other}" for other in known.same_as if claim_at(claims, other) != value]
    return found


scalars = st.sampled_from(VALUES)
names = st.sampled_from(NAMES)


def _literal(value):
    return json.dumps(value)


comparisons = st.one_of(
    st.builds(
        lambda name, op, value: f"claims.{name} {op} {_literal(value)}", names, st.sampled_from(["==", "!="]), scalars
    ),
    st.builds(
        lambda value, op, name: f"{_literal(value)} {op} claims.{name}", scalars, st.sampled_from(["==", "!="]), names
    ),
    st.builds(
        lambda name, values: f"claims.{name} in [{', '.join(map(_literal, values))}]",
        names,
        st.lists(scalars, max_size=3),
    ),
    st.builds(lambda one, other: f"claims.{one} == claims.{other}", names, names),
    st.builds(lambda name: f"has(claims.{name})", names),
    st.builds(lambda name: f'"{name}" in claims', names),
    st.builds(
        lambda name, function, text: f"claims.{name}.{function}({_literal(text)})",
        names,
        st.sampled_from(["startsWith", "endsWith", "contains"]),
        st.sampled_from(["x", "y", "", "*", "x*"]),
    ),
    st.builds(lambda name, value: f'claims["{name}"].d == {_literal(value)}', names, scalars),
    st.sampled_from(
        ["true", "false", 'issuer == "ci"', 'issuer != "ci"', 'issuer == "other"', 'claims.a.matches("^x$")']
    ),
    st.builds(lambda name: f"claims.{name} > 0", names),
)
expressions = st.recursive(
    comparisons,
    lambda inner: st.one_of(
        st.builds(lambda one: f"!({one})", inner),
        st.builds(lambda one, other: f"({one}) && ({other})", inner, inner),
        st.builds(lambda one, other: f"({one}) || ({other})", inner, inner),
        st.builds(lambda one, two, three: f"(({one}) ? ({two}) : ({three}))", inner, inner, inner),
    ),
    max_leaves=6,
)
claim_sets = st.dictionaries(
    names,
    st.one_of(scalars, st.none(), st.lists(scalars, max_size=2), st.dictionaries(st.just("d"), scalars, max_size=1)),
)


@settings(max_examples=700, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(expressions, st.lists(claim_sets, min_size=4, max_size=8))
def test_what_is_certain_of_a_condition_is_true_of_all_claims_that_it_lets_in_and_of_all_that_it_refuses(source, sets):
    condition = parse_condition(source)
    true, false = facts(source), facts(source, holds=False)
    for claims in sets:
        if condition.holds(claims, ISSUER):
            assert contradictions(with_equal_claims(true), claims) == []
        if condition.is_false(claims, ISSUER):
            assert contradictions(with_equal_claims(false), claims) == []


@settings(max_examples=400, deadline=None)
@given(expressions, expressions, st.lists(claim_sets, min_size=4, max_size=8))
def test_what_is_certain_of_two_conditions_is_what_is_certain_of_both_or_of_either(one, other, sets):
    first, second = parse_condition(one), parse_condition(other)
    for claims in sets:
        held = first.holds(claims, ISSUER), second.holds(claims, ISSUER)
        if all(held):
            assert contradictions(both(facts(one), facts(other)), claims) == []
        if any(held):
            assert contradictions(either(facts(one), facts(other)), claims) == []


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(names, st.one_of(scalars, st.lists(scalars, min_size=1, max_size=3)), max_size=2),
    st.dictionaries(names, st.sampled_from(["x", "x*", "**", "*y", ["x", "y*"]]), max_size=2),
    st.lists(claim_sets, min_size=4, max_size=8),
)
def test_what_is_certain_of_match_and_like_is_true_of_all_claims_that_they_let_in(match, like, sets):
    conditions, errors = parse_match(match)
    globs, more = parse_like(like)
    assert not errors
    assert not more
    for claims in sets:
        if all(one.holds(claims) for one in (*conditions, *globs)):
            assert contradictions(facts_of_conditions(conditions, globs), claims) == []


@pytest.mark.parametrize(
    ("source", "claim", "values"),
    [
        ('claims.a == "x"', "a", {"x"}),
        ('"x" == claims.a', "a", {"x"}),
        ('claims["a"] == "x" // claims.a == "y"', "a", {"x"}),
        (r'claims.a == "\x78"', "a", {"x"}),
        ('claims.a in ["x", "y"] && claims.a != "y"', "a", {"x"}),
        ('claims.a in ["x", "xy", "y"] && claims.a.startsWith("x")', "a", {"x", "xy"}),
        ('claims.a == "x" || claims.a == "y"', "a", {"x", "y"}),
        ('!(claims.a != "x")', "a", {"x"}),
        ('claims.b == "z" ? claims.a == "x" : claims.a == "y"', "a", {"x", "y"}),
        ('issuer == "other" || claims.a == "x"', "a", {"x"}),
        ('claims.b == "x" && claims.a == claims.b', "a", {"x"}),
        ("claims.a == 5", "a", {(int, 5)}),
        ("claims.a == true", "a", {(bool, True)}),
    ],
)
def test_a_condition_fixes_a_claim_where_it_leaves_it_no_other_value(source, claim, values):
    known = with_equal_claims(facts(source))[claim,]
    assert known.present
    assert known.possible == values


@pytest.mark.parametrize(
    "source",
    [
        'claims.a == "x" || claims.b == "x"',
        'claims.a != "x"',
        '!has(claims.a) || claims.a == "x"',
        'claims.a.matches("x")',
        '["x"].exists(one, one == claims.a)',
        'claims.b == "x" || true',
        '"claims.a == \\"x\\"" == claims.b',
    ],
)
def test_a_condition_fixes_nothing_where_another_value_would_do(source):
    known = facts(source).get(("a",), NOTHING)
    assert not (known.present and known.possible)


def test_a_claim_that_equals_another_where_it_is_there_says_nothing_of_the_other_where_it_is_not():
    source = '(!has(claims.a) || claims.a == claims.b) && (!has(claims.a) || claims.a == "x") && has(claims.b)'
    certain = with_equal_claims(facts(source))
    assert parse_condition(source).holds({"b": "y"}, ISSUER)
    assert contradictions(certain, {"b": "y"}) == []
    assert certain[("a",)].values == {"x"}


def test_a_denial_that_holds_for_some_claims_fixes_nothing_of_an_absent_one():
    assert facts('has(claims.a) && claims.a == "x"', holds=False)[("a",)].excluded == {"x"}
    assert not facts('has(claims.a) && claims.a == "x"', holds=False)[("a",)].present


@pytest.mark.parametrize("source", ['claims.a == "x" && claims.a == "y"', 'claims.a == "x" && !has(claims.a)', "false"])
def test_what_cannot_be_is_seen(source):
    certain = facts(source)
    assert () in certain or any(known.is_impossible for known in certain.values())


def test_the_syntax_of_a_condition_is_read_as_the_runtime_reads_it():
    tree = syntax_of(parse_condition('has(claims["kubernetes.io"].pod) && claims.n in [-2, 0, false, "é"] // comment'))
    assert tree == Call(
        "_&&_",
        (
            Has(("kubernetes.io", "pod")),
            Call("@in", (Claim(("n",)), ListOf((Literal(-2), Literal(0), Literal(False), Literal("é"))))),
        ),
    )


def test_what_has_no_name_in_the_syntax_is_other_and_hides_nothing_beside_it():
    tree = syntax_of(parse_condition('claims.l.exists(g, g == "a") && claims.a == "x"'))
    assert tree == Call("_&&_", (Other(), Call("_==_", (Claim(("a",)), Literal("x")))))


def test_a_long_condition_is_read_without_running_out_of_stack():
    source = " && ".join(f'claims.a{number} != "x"' for number in range(90))
    tree = syntax_of(parse_condition(source))
    assert sum(isinstance(node, Claim) for node in walk(tree)) == 90
    assert len(facts(source)) == 90
