"""Files that hurt whoever reads them: a reload that fails, fast, says why, and changes nothing (promise 4)."""

import asyncio
import json
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import pairwise
from pathlib import Path
from time import process_time

import pytest

from gateway.policy.cel import CelError, parse_condition
from gateway.policy.files import Sources, policy_files
from gateway.policy.problems import Problem
from tests.attacks.hostile import besieged, exchange_form, refused, still_serves
from tests.support.house import House

FAST_SECONDS = 3.0
ISSUER = "kind: Issuer\nname: x\nurl: https://x.example\n"
ACCOUNT = "kind: ServiceAccount\nname: x\naccess: [{resource: ledger-api, scopes: [ledger:read]}]\n"

TEXTS: dict[str, bytes] = {
    "tag directives": b"".join(b"%%TAG !a%d! x\n" % number for number in range(200_000)) + b"---\na: b\n",
    "underscores": b"kind: 1" + b"_" * 60_000 + b"x",
    "digits and underscores": b"kind: 1" + b"0_" * 30_000 + b".x",
    "a number of base sixty": b"kind: 1" + b":1" * 30_000 + b"x",
    "a key of underscores": b"1" + b"_" * 60_000 + b"x: 1",
    "a million opening brackets": b"[" * 1_000_000,
    "a million dashes": b"- " * 500_000,
    "a million question marks": b"? " * 500_000,
    "anchors and aliases": b"a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n",
    "a merge key": b"kind: Issuer\n<<: {name: x}\n",
    "a python object": b"kind: !!python/object/apply:os.system ['touch /tmp/x']\n",
    "a tag": b"kind: !include /etc/passwd\n",
    "the same key twice": b"kind: Issuer\nkind: Issuer\nname: x\n",
    "a NUL": b"kind: Issuer\0\n",
    "UTF-16": "kind: Issuer\n".encode("utf-16"),
    "not UTF-8": b"kind: \xff\xfe\n",
    "nine megabytes": b"#" * 9_000_000,
    "controls that terminals obey": b'kind: "\\e[31m\\x9b31m\\u202e\\u2028"\nname: x\n',
    "a secret that a link leads to": b"not-for-the-log-8e1f\n",
    "a document that is a list": b"- kind: Issuer\n",
    "an unfinished quote": b'kind: "' + b"x" * 1_000_000,
    "fifty thousand unknown fields": ISSUER.encode() + b"".join(b"f%d: 1\n" % number for number in range(50_000)),
    "misspelt names of two thousand": b"---\n".join(
        [
            *(
                b"kind: Role\nname: reads-the-ledger-%04d-x\naccess: [{resource: ledger-api, scopes: [ledger:read]}]\n"
                % number
                for number in range(2000)
            ),
            *(
                ACCOUNT.encode().replace(b"name: x", b"name: x%d" % number)
                + b"roles: [reads-tho-ledger-%04d-y]\n" % number
                for number in range(1000)
            ),
        ]
    ),
    "roles beyond number with access beyond number": b"kind: Role\nname: r\naccess:\n"
    + b"- {resource: ledger-api, scopes: [ledger:read]}\n" * 20_000
    + b"---\n"
    + ACCOUNT.encode()
    + b"roles: ["
    + b"r," * 100_000
    + b"]\n",
    "rules and tests beyond number": ACCOUNT.encode()
    + b"trust:\n"
    + b"- {issuer: github, like: {sub: 'x*y'}}\n" * 10_000
    + b"tests:\n"
    + b"- {name: t, issuer: github, claims: {sub: y}, expect: {deny: no_matching_trust}}\n" * 3_000,
    "thirty thousand empty rules": ACCOUNT.encode() + b"trust:\n" + b"- {}\n" * 30_000,
    "thirty thousand bad globs": ACCOUNT.encode()
    + b"trust:\n- {issuer: github, like: {ref: ["
    + b"'***'," * 30_000
    + b"]}}\n",
    "a field that looks like a type": b"kind: Issuer\nn[ame: x\nurl: https://x.example\n",
    "fields that look like types": b"kind: Role\nname: x\nfunction-x: 1\nnullable: 1\naccess: [{lax-or-strict: 1}]\n",
    "a number with more digits than fit": b"kind: " + b"9" * 60_000,
    "a name with a line feed": b'kind: Issuer\nname: "a\\nb"\nurl: https://x.example\n',
    "an issuer with a wildcard": b"kind: Issuer\nname: x\nurl: https://*.example\n",
    "an issuer over http in a user's clothes": b"kind: Issuer\nname: x\nurl: https://good@evil.example\n",
    "a rule for everybody": ACCOUNT.encode() + b"trust: [{issuer: github}]\n",
    "a rule for an empty match": ACCOUNT.encode() + b"trust: [{issuer: github, match: {}}]\n",
    "a rule for an empty list": ACCOUNT.encode() + b"trust: [{issuer: github, match: {sub: []}}]\n",
    "a rule for null": ACCOUNT.encode() + b"trust: [{issuer: github, match: {sub: null}}]\n",
    "a condition that is a text": ACCOUNT.encode() + b"trust: [{issuer: github, when: '\"true\"'}]\n",
    "a mapped claim of ours": ACCOUNT.encode()
    + b"trust: [{issuer: github, match: {sub: x}, token_claims: {aud: claims.sub}}]\n",
    "a private key": ISSUER.encode() + b"keys: {jwks: {keys: [{kty: RSA, n: AQAB, e: AQAB, d: AQAB}]}}\n",
    "an audience of everybody": ISSUER.encode() + b"audiences: [https://kubernetes.default.svc]\n",
    "a resource that is the gateway": b"kind: Resource\nname: x\nidentifier: https://sts.example.com\nscopes: {a: b}\n",
}


async def health(house: House) -> tuple[int, str]:
    async with house.gateway.session.get(f"{house.gateway.admin_url}/readyz") as answer:
        return answer.status, await answer.text()


async def fails(house: House, what: str) -> None:
    """A reload fails within its time, says what is wrong in text that does no harm, and changes nothing."""
    before = house.gateway.gateway.policies.generation
    started = process_time()
    async with asyncio.timeout(30):
        outcome = await house.gateway.gateway.reload()
    assert outcome.result == "failed", what
    assert process_time() - started < FAST_SECONDS, what
    assert house.gateway.gateway.policies.generation is before
    assert outcome.problems
    assert all(str(problem).isprintable() for problem in outcome.problems), what
    assert "not-for-the-log" not in str(outcome.problems), what
    status, text = await health(house)
    assert status == 200, what
    assert json.loads(text)["policies"]["problems"], what
    await still_serves(house)


async def test_a_hostile_file_changes_nothing_and_takes_no_time(tmp_path: Path):
    async with besieged(tmp_path) as house:
        file = tmp_path / "policies" / "hostile.yaml"
        for name, text in TEXTS.items():
            file.write_bytes(text)
            await fails(house, name)
        file.unlink()
        assert (await house.gateway.gateway.reload()).result == "loaded"
        assert "hostile" not in (await health(house))[1]


@contextmanager
def link_to(target: str, folder: Path) -> Iterator[None]:
    (folder / "hostile.yaml").symlink_to(target)
    yield
    (folder / "hostile.yaml").unlink()


@contextmanager
def pipe(folder: Path) -> Iterator[None]:
    os.mkfifo(folder / "hostile.yaml")
    yield
    (folder / "hostile.yaml").unlink()


@contextmanager
def name_that_is_no_unicode(folder: Path) -> Iterator[None]:
    file = folder / os.fsdecode(b"\xff\xfe.yaml")
    file.write_text("kind: [")
    yield
    file.unlink()


@contextmanager
def links_that_multiply(folder: Path) -> Iterator[None]:
    """Three links in each of twelve folders to the next: 3**12 ways to the last."""
    elsewhere = folder.parent / "links"
    elsewhere.mkdir()
    folders = [elsewhere / str(number) for number in range(12)]
    for one in folders:
        one.mkdir()
    for one, following in pairwise(folders):
        for link in ("a", "b", "c"):
            (one / link).symlink_to(following)
    (folder / "hostile").symlink_to(folders[0])
    yield
    (folder / "hostile").unlink()


UNREADABLE: dict[str, Callable[[Path], AbstractContextManager[None]]] = {
    "a pipe": pipe,
    "a device": lambda folder: link_to("/dev/zero", folder),
    "the users of the machine": lambda folder: link_to("/etc/passwd", folder),
    "a link to nowhere": lambda folder: link_to("nowhere.yaml", folder),
    "a link to itself": lambda folder: link_to("hostile.yaml", folder),
    "a link to a name that is too long": lambda folder: link_to("x" * 300, folder),
    "a link to the folder": lambda folder: link_to(".", folder),
    "a name that is no Unicode": name_that_is_no_unicode,
    "links that multiply": links_that_multiply,
}


async def test_a_file_that_cannot_be_read_is_no_file_that_is_not_there(tmp_path: Path):
    """Were it passed over, a guardrail that lost its permissions would be a guardrail less."""
    async with besieged(tmp_path) as house:
        for name, placed in UNREADABLE.items():
            with placed(tmp_path / "policies"):
                await fails(house, name)
                again = await house.gateway.gateway.reload()
                assert again.result == "unchanged", name
            assert (await house.gateway.gateway.reload()).result == "loaded", name
            assert json.loads((await health(house))[1])["policies"]["problems"] == []


def test_a_fingerprint_is_made_of_whatever_lies_there(tmp_path: Path):
    (tmp_path / "a.yaml").write_text("a: b")
    without = Sources(tmp_path).fingerprint()
    for name, placed in UNREADABLE.items():
        with placed(tmp_path):
            assert Sources(tmp_path).fingerprint() != without, name
        assert Sources(tmp_path).fingerprint() == without, name


def test_the_way_through_a_folder_has_an_end(tmp_path: Path):
    (tmp_path / "root").symlink_to("/usr")
    problems: list[Problem] = []
    started = process_time()
    assert policy_files(tmp_path, problems) is not None
    assert process_time() - started < 2 * FAST_SECONDS


GROWING = {
    "texts that double": '["aaaaaaaa"]' + ".map(x, x + x)" * 28 + '[0] == "b"',
    "lists that double": "[[1, 1]]" + ".map(x, x + x)" * 25 + " == [[1]]",
    "lists within lists": "dyn([1])" + ".map(x, [x, x])" * 26 + " == dyn([1])" + ".map(x, [x, x])" * 26,
    "sums in a loop": "claims.l.exists(a, claims.l.exists(b, " + " + ".join(["claims.l"] * 12) + " == claims.b))",
    "sums in loops within loops": "claims.l.exists(a, [claims.l + claims.l].exists(b, b.map(c, b).map(d, b) == []))",
    "literals in loops": "claims.l.exists(a, claims.l.map(b, [claims.l]).exists(c, claims.l.all(d, c == [a])))",
    "loops within loops": "[1, 2].all(x, " * 5 + "true" + ")" * 5,
    "a comment between": '["a"]' + ".map(x, x // )\n + x)" * 28 + '[0] == "b"',
    "regular expressions": " || ".join(['claims.a.matches("' + "a{1000}" * 10 + '")'] * 20),
}


@pytest.mark.parametrize("name", GROWING)
def test_a_condition_that_grows_without_bounds_is_refused_when_it_is_loaded(name: str):
    with pytest.raises(CelError, match=r"could take too long|lists within lists|repeat"):
        parse_condition(GROWING[name])


HARMLESS = (
    'claims.groups.exists(g, g == "team-" + claims.team) || claims.groups.exists(g, g.matches("^a+b+c+d+e+f+g+h+i+$"))',
    'claims.groups.all(g, g in ["a", "b"]) && claims.roles.all(r, r in ["c", "d"])',
    'claims.text == "+ + + + + + + + + + .map(x, y)" || claims.list.exists(x, x == r"\\+" || x == \'"+"\')',
    "claims.l.all(a, claims.l.all(b, claims.l.all(c, a == b && b == c)))",
    'claims.groups.filter(g, g.startsWith("team-")).map(g, g + "@" + issuer)[0] == "team-a@prod"',
    'claims.jti.matches("^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$")',
    '"a" + "b" + "c" + "d" + "e" + "f" + "g" + "h" + "i" + "j" == "abcdefghij"',
    'claims.sub.matches("^[a-z]{1,63}$")',
)


@pytest.mark.parametrize("source", HARMLESS)
def test_an_ordinary_condition_is_none_of_those(source: str):
    parse_condition(source)


SLOW = (
    "[claims.a + claims.a + claims.a].exists(x, [x + x + x].exists(y, [y + y + y].exists(z, z == z)))",
    "claims.l.all(a, claims.l.all(b, claims.l.all(c, a == b)))",
    "claims.l.all(a, claims.l.all(b, claims.l == claims.l))",
    "claims.l.all(a, claims.l == claims.l)",
    "claims.l.all(a, !(-1 in claims.l))",
    "claims.l.map(a, claims.l + claims.l).size() > 0",
    "claims.l.map(a, claims.l) == claims.l.map(a, claims.l)",
    "claims.l.filter(a, true) == claims.l",
    'claims.a.matches("' + "(x+x+)+" * 20 + 'y")',
    'claims.l.all(a, !claims.a.matches("x*y"))',
    "claims.l.all(a, !claims.a.contains(claims.b))",
)
"""Of two lists of a token each of these would make seconds, and some of them gigabytes."""


@pytest.mark.parametrize("source", SLOW)
def test_whatever_loads_is_worked_out_in_bounded_time(source: str):
    condition = parse_condition(source)
    for length in (5, 20, 60, 100, 200, 300, 500, 1000, 3000, 6000):
        claims = {"a": "x" * length, "b": "x" * (length // 2) + "y", "l": [1] * length}
        started = process_time()
        condition.work_out(claims, "here")
        assert process_time() - started < 0.5, length


NEITHER_TRUE_NOR_FALSE = (
    "claims.absent == 1",
    "claims.run_id.absent == 1",
    "claims.jti[0] == 1",
    "1 / (size(claims.jti) - 36) == 0",
    'claims.event_name + claims.absent == "x"',
    "int(claims.actor) == 1",
    "claims.absent.all(one, one == 1)",
)


async def test_a_guardrail_that_cannot_be_worked_out_refuses(tmp_path: Path):
    async with besieged(tmp_path) as house:
        for condition in NEITHER_TRUE_NOR_FALSE:
            guardrail = {"kind": "Guardrail", "name": "broken", "issuer": "github", "deny_when": condition}
            (tmp_path / "policies" / "guardrail.yaml").write_text(json.dumps(guardrail))
            assert (await house.gateway.gateway.reload()).result == "loaded"
            reason = (await refused(house, exchange_form(house.job_token(), resource="deploy-api")))[2]
            assert reason == "denied_by_guardrail", condition
        await still_serves(house)
