"""CEL: what an expression reads, what hostile expressions and hostile claims come to."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.policy.cel import CelError, Unknown, claims_read, parse_condition, parse_mapped

MENTIONS = [
    ('claims.a.b == "x"', (("a", "b"),)),
    ('claims["x"].y == 1', (("x", "y"),)),
    ("claims['https://x/'].y == 1", (("https://x/", "y"),)),
    ('has(claims["kubernetes.io"].pod.uid)', (("kubernetes.io", "pod", "uid"),)),
    ('claims.a.startsWith("x")', (("a",),)),
    ('claims.a == "x" || claims.b == "y" || claims.a == "z"', (("a",), ("b",))),
    ("claims . a == 1", (("a",),)),
    ("claims.l[0] == 1", (("l",),)),
    ("size(claims) == 1", ()),
    ("claims.exists(name, name == 'a')", ()),
    ('claims["a" + "b"] == 1', ()),
    ('claims["a\\u0062"] == 1', ()),
    ("claims.`a-b` == 1", ()),
    ("claims // all of them\n.a == 1", ()),
    ("issuer == 'x'", ()),
]


@pytest.mark.parametrize(("source", "paths"), MENTIONS)
def test_the_claims_that_an_expression_mentions_are_known(source, paths):
    assert claims_read(source) == paths
    assert parse_condition(source).paths == paths


@pytest.mark.parametrize(
    "source",
    [
        "size(claims) == 2",
        "claims.exists(name, name == 'a')",
        'claims["a" + ""] == "x"',
        'claims["\\u0061"] == "x"',
        "claims.`a` == 'x'",
        "claims // c\n.a == 'x'",
        "claims. // c\na == 'x'",
        "claims.a // c\n.startsWith('x')",
        "claims\n.\na == 'x'",
        "[claims].exists(c, c.a == 'x')",
        ".claims.a == 'x'",
        "[1].map(claims, claims == 1)[0]",
        "('claims.b' + 'x') == 'claims.bx' && claims.a == 'x'",
        'claims["""a"""] == "x"',
        'claims[r"a"] == "x"',
        "(claims).a == 'x'",
        "(true ? claims : claims).a == 'x'",
    ],
)
def test_an_expression_sees_every_claim_however_it_names_it(source):
    assert parse_condition(source).holds({"a": "x", "b": "y"}, "here")


HOSTILE_SOURCES = [
    "(" * 500 + "true" + ")" * 500,
    "[" * 500 + "]" * 500 + " == []",
    "claims" + ".a" * 900 + " == 1",
    "1" + " + 1" * 400 + " == 1",
    "true" + "|| true" * 1000,
    'claims.a == "x\0y"',
    'claims.a == "\ud800"',
    "claims.a == ",
    "",
    "now() == 1",
    "claims.a = 1",
    "\u0441laims.a == 1",  # a Cyrillic letter
    "claims.a.matches(claims.b)",
    'claims.a.matches("a" + claims.b)',
    "[0, 1].all(x, " * 5 + "true" + ")" * 5,
    "claims.l.all(a, claims.l.all(b, claims.l.all(c, claims.l == claims.l)))",
    "claims.l.map(a, claims.l.map(b, claims.l.map(c, claims.l))) == claims.l",
    'claims.a.matches("(\\\\pL){1000}")',
]


@pytest.mark.parametrize("source", HOSTILE_SOURCES)
def test_a_hostile_or_senseless_source_is_refused_when_it_is_loaded(source):
    with pytest.raises(CelError):
        parse_condition(source)


HOSTILE_EVALUATIONS = [
    ("claims.l.all(a, claims.l.all(b, claims.l.all(c, a == b && b == c)))", {"l": ["x"] * 1000}),
    ("[0,1,2,3,4,5,6,7,8,9].all(x, " * 4 + "true" + ")" * 4, {}),
    ("claims.l.all(a, claims.l == claims.l)", {"l": [1] * 2000}),
    ('claims.a.matches("(a*)*b")', {"a": "a" * 100_000}),
    ("claims.a == 'x'", {"a": "x\0"}),
    ("claims.a.b == 'x'", {"a": {"b": "x\0"}}),
    ("claims.a.b == 'x'", {"a": {"b\0c": "x"}}),
    ("size(claims) == 1", {"a\0": "x"}),
    ("claims.a == 'x'", {"a": "\ud800"}),
    ("size(claims) == 1", {"a": "\udc00x"}),
    ("claims.a == 18446744073709551616.0", {"a": 2**64}),
    ("claims.a.b == 1", {"a": "text"}),
    ("claims.a[3] == 1", {"a": [1]}),
]  # fmt: skip


@pytest.mark.parametrize(("source", "claims"), HOSTILE_EVALUATIONS)
def test_what_cannot_be_worked_out_neither_holds_nor_is_false(source, claims):
    condition = parse_condition(source)
    assert not condition.holds(claims, "here")
    if "matches(" not in source:
        assert not condition.is_false(claims, "here")
        assert condition.why_unknown(claims, "here")


def test_deeply_nested_claims_do_not_reach_the_runtime():
    deep: list = []
    for _ in range(50_000):
        deep = [deep]
    condition = parse_condition("claims.a == claims.b")
    assert not condition.holds({"a": deep, "b": deep}, "here")
    assert condition.why_unknown({"a": deep, "b": 1}, "here") == "claims are nested too deep"


def test_a_text_with_nul_is_not_cut_there():
    # The runtime reads C strings: without care, production\0evil would equal production.
    assert not parse_condition('claims.a == "production"').holds({"a": "production\0evil"}, "here")
    assert parse_mapped("x", "claims.a").value({"a": "production\0evil"}, "here") == Unknown(
        "a claim holds a NUL character"
    )


def test_a_claim_that_is_not_named_does_no_harm():
    assert parse_condition("claims.a == 1").holds({"a": 1, "b": "\ud800", "c": 2**90, "d": "\0"}, "here")


@pytest.mark.parametrize(
    ("source", "claims", "value"),
    [
        ("claims.a", {"a": "x"}, "x"),
        ("claims.a", {"a": 7}, 7),
        ("claims.a", {"a": True}, True),
        ("claims.a", {"a": ["x", "y"]}, ["x", "y"]),
        ('"team-" + claims.a', {"a": "x"}, "team-x"),
        ('has(claims.a) ? claims.a : "none"', {}, "none"),
        ("[claims.a, issuer]", {"a": "x"}, ["x", "here"]),
        ("size(claims.a) > 1", {"a": ["x", "y"]}, True),
    ],
)
def test_a_claim_is_mapped_to_a_text_a_number_a_boolean_or_a_list_of_texts(source, claims, value):
    mapped = parse_mapped("name", source).value(claims, "here")
    assert mapped == value
    assert type(mapped) is type(value)


UNMAPPABLE = [None, {}, [1], ["x", None], "x\ny", "x" * 1025, ["x"] * 65]


@pytest.mark.parametrize("claims", [{}, *({"a": value} for value in UNMAPPABLE)])
def test_anything_else_is_not_mapped(claims):
    assert isinstance(parse_mapped("name", "claims.a").value(claims, "here"), Unknown)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from(["a", "b", "c"]), json_values))
@settings(max_examples=400, deadline=None)
def test_no_claims_make_an_expression_raise(claims):
    for source in ('claims.a == "x"', "claims.a.b.c == 1", "size(claims) > 1", "claims.a.exists(e, e == claims.b)"):
        condition = parse_condition(source)
        assert not (condition.holds(claims, "here") and condition.is_false(claims, "here"))
    parse_mapped("x", "claims.a").value(claims, "here")


@pytest.mark.parametrize("values", [(1, True, "1"), (True, 1, "1"), ("1", True, 1)])
def test_what_is_remembered_of_one_claim_is_not_said_of_another_type(values):
    condition = parse_condition("claims.x == 1")
    for _ in range(2):
        for value in values:
            assert condition.holds({"x": value}, "issuer") is (value == 1 and type(value) is int)


def test_what_is_remembered_of_one_issuer_is_not_said_of_another():
    condition = parse_condition('issuer == "a" && claims.x == "y"')
    assert [condition.holds({"x": "y"}, issuer) for issuer in ("a", "b", "a")] == [True, False, True]
