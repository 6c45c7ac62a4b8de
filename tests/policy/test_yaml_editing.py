"""Changes to policy files: what is meant and nothing else, in the text as it was written."""

import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.policy.yaml_editing import EditError, YamlText, flow, unified_diff
from gateway.policy.yaml_reader import read_documents

ACCOUNT = """\
# head
kind: ServiceAccount   # kind
name: a
access:
  - {resource: x, scopes: [x:r, x:w]}   # first
  - resource: y
    scopes: [y:r]
  # of z
  - {resource: z, scopes: [z:r]}
trust:
  - name: main   # the rule
    issuer: github
    match:
      repository_id: "1"   # id
      environment:   # where
        - production
        - staging
    like:
      ref: refs/heads/*
    # on the condition
    when: claims.x == "y"
  - {issuer: github, match: {a: b}, like: {c: d*, e: f*, g: h*}}
tests:
- name: one
  issuer: github
  claims: {a: b}
  expect: {allow: [x:r]}
# behind
---
kind: other
name: o
"""


def value_of(text, document=0):
    problems = []
    found = [one.value for one in read_documents(text, "", problems)]
    assert problems == []
    return found[document]


def edited(*changes, text=ACCOUNT):
    editing = YamlText(text)
    for name, *arguments in changes:
        getattr(editing, name)(0, *arguments)
    return editing.changed()


def lines_changed(before, after):
    diff = unified_diff("f", before, after).splitlines()[2:]
    return [line for line in diff if line[0] in "+-"]


def test_a_value_is_replaced_where_it_stands_and_the_comment_behind_it_stays():
    after = edited(("replace", ("access", 0, "scopes"), ["x:r"]))
    assert lines_changed(ACCOUNT, after) == [
        "-  - {resource: x, scopes: [x:r, x:w]}   # first",
        "+  - {resource: x, scopes: [x:r]}   # first",
    ]


def test_a_list_on_several_lines_becomes_one_value():
    after = edited(("replace", ("trust", 0, "match", "environment"), "production"))
    assert "      environment: production\n    like:" in after


def test_entries_are_taken_out_with_their_lines_and_no_others():
    after = edited(("remove", ("trust", 0, "like")), ("remove", ("access", 1)))
    assert lines_changed(ACCOUNT, after) == [
        "-  - resource: y",
        "-    scopes: [y:r]",
        "-    like:",
        "-      ref: refs/heads/*",
    ]


@pytest.mark.parametrize("gone", ["c", "e", "g", "ce", "eg", "cg"])
def test_entries_on_one_line_are_taken_out_with_their_commas(gone):
    after = edited(*(("remove", ("trust", 1, "like", name)) for name in gone))
    left = [name for name in "ceg" if name not in gone]
    assert list(value_of(after)["trust"][1]["like"]) == left


@pytest.mark.parametrize("gone", [(0,), (2,), (0, 1), (1, 2), (0, 2)])
def test_items_of_a_list_are_taken_out(gone):
    after = edited(*(("remove", ("access", position)) for position in gone))
    left = [name for position, name in enumerate("xyz") if position not in gone]
    assert [one["resource"] for one in value_of(after)["access"]] == left


def test_the_first_entry_behind_a_dash_gives_its_place_to_the_next():
    assert "  - issuer: github\n    match:" in edited(("remove", ("trust", 0, "name")))


def test_nothing_is_left_empty():
    with pytest.raises(EditError):
        edited(("remove", ("trust", 0, "like", "ref")))


def test_an_entry_is_added_behind_the_others_as_they_are_written():
    after = edited(
        ("add", ("trust", 0, "match"), "repository_owner_id", "100200"),
        ("add", ("trust", 0), "scopes", ["x:r"]),
        ("add", ("trust", 1, "match"), "yes", "no"),
        ("append", ("tests",), {"name": "two", "claims": {"a": "b"}, "expect": {"deny": "no_matching_trust"}}),
    )
    assert '        - staging\n      repository_owner_id: "100200"\n    like:' in after
    assert '    when: claims.x == "y"\n    scopes: [x:r]\n' in after
    assert '  - {issuer: github, match: {a: b, "yes": "no"}' in after
    assert "- {name: two, claims: {a: b}, expect: {deny: no_matching_trust}}\n# behind" in after


def test_a_long_item_is_written_on_several_lines():
    claims = {"https://example.com/": {"x": "y" * 90}, "n": 1, "t": True, "z": None, "l": ["a", 1]}
    after = edited(("append", ("tests",), {"name": "two", "claims": claims, "expect": {"allow": ["x:r"]}}))
    assert "- name: two\n  claims:\n" in after
    assert value_of(after)["tests"][1]["claims"] == claims


def test_tests_are_added_where_there_are_none():
    text = "kind: ServiceAccount\nname: a\n---\nkind: b"
    after = edited(("add", (), "tests", [{"name": "x" * 100}]), text=text)
    assert value_of(after)["tests"] == [{"name": "x" * 100}]
    assert after.endswith("\n---\nkind: b")


def test_an_entry_may_be_renamed_in_its_place():
    after = edited(("rename", ("trust", 0, "like"), "then", {"ref": "refs/heads/main"}))
    assert "    then: {ref: refs/heads/main}\n    # on the condition" in after


def test_line_ends_of_other_systems_stay():
    text = ACCOUNT.replace("\n", "\r\n")
    after = edited(("add", ("trust", 0), "scopes", ["x:r"]), ("remove", ("access", 1)), text=text)
    assert after.count("\n") == after.count("\r\n")
    assert value_of(after) == value_of(edited(("add", ("trust", 0), "scopes", ["x:r"]), ("remove", ("access", 1))))


@pytest.mark.parametrize(
    "changes",
    [
        [("replace", ("trust", 7), "x")],
        [("replace", ("nowhere",), "x")],
        [("add", ("name",), "x", "y")],
        [("append", ("trust", 0), "x")],
        [("rename", ("access", 0), "x", "y")],
        [("replace", ("access", 0, "scopes"), ["x:r"]), ("remove", ("access", 0))],
    ],
)
def test_a_change_that_has_no_place_is_refused(changes):
    with pytest.raises(EditError):
        edited(*changes)


@pytest.mark.parametrize("text", ["a: [", "a: 1\na: 2\n", "a: &x 1\nb: *x\n", "\ufeffa: 1\n", "a: !!str 1\n"])
def test_a_text_that_the_gateway_would_not_read_is_not_edited(text):
    with pytest.raises(EditError):
        YamlText(text)


@pytest.mark.parametrize("style", ["|", "|-", ">", ">-"])
def test_a_text_of_several_lines_is_walked_around(style):
    text = f"a:\n  w: {style}\n    x\n    # y\n\n  # comment\n  v: {style}\n    z\n# behind\n"
    after = edited(("add", ("a",), "m", 1), ("add", (), "b", 2), text=text)
    assert lines_changed(text, after) == ["+  m: 1", "+b: 2"]
    assert lines_changed(text, edited(("remove", ("a", "v")), text=text)) == [f"-  v: {style}", "-    z"]


def test_blank_lines_that_belong_to_a_text_are_not_written_into():
    with pytest.raises(EditError):
        edited(("add", (), "y", 1), text="x: |+\n  a\n\n\n")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**18), 10**19) | st.text(st.characters(codec="utf-8"), max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)


@settings(max_examples=500, deadline=None)
@given(json_values)
def test_whatever_value_is_written_is_read_again_with_its_type(value):
    written = flow(value)
    assert written.isascii()
    assert written.isprintable()
    read = value_of(f"k: {written}\n")["k"]
    assert repr(read) == repr(value)


@pytest.mark.parametrize(
    "text",
    ["true", "No", "null", "~", "", "7", "0x1F", "1_000", "1:30", "1e3", ".inf", "<<", "=", "a: b", "a #b", "- a",
     "2026-01-01", "{x}", "[x]", "*a", "&a", "!a", "%a", "@a", "`a", "'a'", '"a"', "a\nb", " a", "a ", "\x1b[31m",
     "\u202ea", "a,b", "a:"],
)  # fmt: skip
def test_a_text_that_could_be_taken_for_something_else_is_quoted(text):
    assert flow(text).startswith('"')
    assert value_of(f"{{k: {flow(text)}, {flow(text)}: v}}\n") == {"k": text, text: "v"}


@settings(max_examples=200, deadline=None)
@given(
    st.text(max_size=10), json_values, st.sampled_from([(), ("trust", 0), ("trust", 0, "match"), ("trust", 1, "match")])
)
def test_whatever_is_added_leaves_the_rest_as_it_was(name, value, path):
    def at(value):
        for step in path:
            value = value[step]
        return value

    expected = value_of(ACCOUNT)
    if name in at(expected):
        return
    at(expected)[name] = value
    after = edited(("add", path, name, value))
    assert repr(value_of(after)) == repr(expected)
    assert value_of(after, 1) == value_of(ACCOUNT, 1)
    assert not [line for line in lines_changed(ACCOUNT, after) if line[0] == "-" and "{issuer" not in line]


@pytest.mark.parametrize("tool", ["patch", "git"])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        (ACCOUNT, edited(("add", ("trust", 0), "scopes", ["x:r"]))),
        ("a: 1", "a: 1\nb: 2"),
        ("a: 1\n", "a: 1\nb: 2"),
        ('a: "\u2028\x85"\nb: 1\n', 'a: "\u2028\x85"\nb: 2\n'),
        ("a: 1\r\nb: 2\r\n", "a: 1\r\nb: 3\r\n"),
    ],
)
def test_the_patch_is_taken_by_patch_and_by_git(tmp_path, tool, before, after):
    name = "policies/my file.yaml"
    file = tmp_path / name
    file.parent.mkdir()
    file.write_bytes(before.encode())
    patch = unified_diff(name, before, after).encode()
    command = ["patch", "-p1", "--binary"] if tool == "patch" else ["git", "apply"]
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed")
    done = subprocess.run(command, input=patch, cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert file.read_bytes() == after.encode()


def test_nothing_to_change_is_no_patch_and_a_name_that_breaks_lines_has_none():
    assert unified_diff("f", "a", "a") == ""
    with pytest.raises(EditError):
        unified_diff("a\n+++ b/etc", "a", "b")


lines = st.lists(st.sampled_from(["a", "b", "", "---", "c", "# d"]), max_size=40).map("\n".join)


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed: apt-get install git")
@settings(max_examples=100, deadline=None)
@given(lines, lines)
def test_whatever_differs_the_patch_leads_from_the_one_text_to_the_other(tmp_path_factory, before, after):
    folder = tmp_path_factory.mktemp("patched")
    (folder / "f").write_text(before)
    patch = unified_diff("f", before, after)
    if patch:
        done = subprocess.run(["git", "apply"], input=patch, text=True, cwd=folder, capture_output=True)
        assert done.returncode == 0, done.stderr
    assert (folder / "f").read_text() == after


def test_a_line_that_many_documents_have_is_no_difference():
    before = "---\n".join(f"name: n{number}\nlike: x\nwhen: y\n" for number in range(300))
    after = before.replace("name: n7\n", "name: n7\nowner: o\n")
    assert lines_changed(before, after) == ["+owner: o"]
