"""A suggestion written into policy files: the lines of its trust entry, its access, and the tests that guard it. Pure.

What a test claims comes from tokens that were seen. It holds what the policies look at and no more.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from gateway.model import ClaimPath, Claims
from gateway.policy.conditions import claim_at, scalar_key
from gateway.policy.documents import PolicyTest, duration_text
from gateway.policy.generation import Generation, TestCase
from gateway.policy.policy_tests import merged, play, played_claims
from gateway.policy.problems import Path, Problem, path_text
from gateway.policy.suggest import AccountSuggestion, RuleSuggestion, Scalar, nested, projected, tests_of
from gateway.policy.yaml_editing import YamlText

MAX_TESTS = 5
"""Tests of what is allowed that one rule gets: of the requests that were seen most often."""
MAX_TITLE_CHARACTERS = 120
MAX_CLAIM_CHARACTERS = 2048
"""Of a text in a test."""

TextOf = Callable[[str], YamlText]
"""The text of a policy file by its name, one and the same for every change to it."""


@dataclass(frozen=True, slots=True)
class Written:
    """What was written for one service account."""

    suggestion: AccountSuggestion
    files: tuple[str, ...]
    tests: int
    """New tests."""


def as_suggested(generation: Generation, suggestions: Iterable[AccountSuggestion]) -> Generation:
    """The generation as it would be for whoever names a service account: for playing tests, without an index."""
    accounts = dict(generation.service_accounts)
    for suggestion in suggestions:
        rules = {one.rule.name: one.as_rule() for one in suggestion.rules}
        account = suggestion.account
        access = account.access if suggestion.access is None else suggestion.access
        narrowed = tuple(rules.get(rule.name, rule) for rule in account.rules)
        accounts[account.name] = replace(account, rules=narrowed, access=access)
    return replace(generation, service_accounts=accounts)


def write(generation: Generation, suggested: Generation, suggestion: AccountSuggestion, text_of: TextOf) -> Written:
    """Makes the changes of one suggestion. Raises ``EditError`` where a file cannot be changed so.

    ``suggested`` is the generation as it would be.
    """
    writing = _Writing(generation, suggested, suggestion, text_of)
    writing.write()
    return Written(suggestion, tuple(writing.files), writing.tests)


class _Writing:
    """One service account, written into its files."""

    def __init__(
        self, generation: Generation, suggested: Generation, suggestion: AccountSuggestion, text_of: TextOf
    ) -> None:
        self.files: dict[str, None] = {}
        self.tests = 0
        self._generation = generation
        self._suggested = suggested
        self._suggestion = suggestion
        self._account = suggestion.account
        self._place = suggestion.account.place
        self._text_of = text_of
        self._text = self._of(self._place.file)
        self._document: dict[str, Any] = self._text.value(self._place.number)

    def write(self) -> None:
        said = [one for one in self._suggestion.rules if one.says_something]
        for one in said:
            self._rule(one)
        if self._suggestion.access is not None:
            self._access(self._suggestion.access)
        added: dict[tuple[str, Path], dict[ClaimPath, Scalar]] = {}
        for one in said:
            for case in tests_of(self._generation, one.rule):
                where = (case.place.file, (case.place.document, *case.place.path))
                added.setdefault(where, {}).update(self._missing_claims(one, case))
        for (file, (document, *path)), claims in added.items():
            self._complete(self._of(file), int(document), tuple(path), claims)
        self._add_tests([test for one in said for test in self._new_tests(one)])

    def _of(self, file: str) -> YamlText:
        self.files[file] = None
        return self._text_of(file)

    # ------------------------------------------------------------ the trust entry, and the access

    def _rule(self, one: RuleSuggestion) -> None:
        number, path = self._place.number, ("trust", one.rule.position)
        written = self._document["trust"][one.rule.position]
        match, like = written.get("match", {}), written.get("like", {})
        additions: dict[ClaimPath, Any] = {claim: _one_or_list(values) for claim, values in one.pinned}
        unlike: list[ClaimPath] = []
        changes: dict[ClaimPath, Any] = {}
        for narrowed in one.narrowed:
            stands = claim_at(match, narrowed.path) is not None
            (changes if stands else additions)[narrowed.path] = _one_or_list(narrowed.values)
            if claim_at(like, narrowed.path) is not None:
                unlike.append(narrowed.path)
        gone = _tops(like, unlike)
        if gone == ((),) and "match" not in written:
            self._text.rename(number, (*path, "like"), "match", _tree(additions))
            additions = {}
        else:
            for below in gone:
                self._text.remove(number, (*path, "like", *below))
        if "match" in written:
            self._change(self._text, number, (*path, "match"), changes, additions)
        elif additions:
            self._text.add(number, path, "match", _tree(additions))
        self._set_scopes(one, written, path)
        if one.token_lifetime_seconds is not None:
            self._set(path, written, "token_lifetime", duration_text(one.token_lifetime_seconds))

    def _set_scopes(self, one: RuleSuggestion, written: Mapping[str, Any], path: Path) -> None:
        if one.scopes is None:
            return
        access = self._suggestion.access
        if access is not None and "scopes" not in written:
            left = {scope for scopes in access.values() for scope in scopes}
            if left <= set(one.scopes):  # what is left of the access says it
                return
        self._set(path, written, "scopes", list(one.scopes))

    def _set(self, path: Path, written: Mapping[str, Any], name: str, value: Any) -> None:
        if name in written:
            self._text.replace(self._place.number, (*path, name), value)
        else:
            self._text.add(self._place.number, path, name, value)

    def _access(self, narrowed: Mapping[str, tuple[str, ...]]) -> None:
        for position, entry in enumerate(self._document["access"]):
            kept = [scope for scope in entry["scopes"] if scope in narrowed.get(entry["resource"], ())]
            if not kept:
                self._text.remove(self._place.number, ("access", position))
            elif kept != entry["scopes"]:
                self._text.replace(self._place.number, ("access", position, "scopes"), kept)

    def _change(
        self,
        text: YamlText,
        number: int,
        path: Path,
        changes: Mapping[ClaimPath, Any],
        additions: Mapping[ClaimPath, Any],
    ) -> None:
        """Gives claims of a mapping of claims other values, and adds some: where they stand, while they fit there."""
        present = text.value_at(number, path)
        whole = merged(present, _tree({**changes, **additions}))
        if text.outgrows_its_line(number, path, whole):
            text.replace(number, path, whole)
            return
        for claim, value in changes.items():
            text.replace(number, (*path, *claim), value)
        self._merge(text, number, path, present, _tree(additions))

    def _merge(self, text: YamlText, number: int, path: Path, present: Any, tree: Mapping[str, Any]) -> None:
        """Adds claims to a mapping of claims, below what is there already."""
        for name, value in tree.items():
            if isinstance(present, dict) and isinstance(present.get(name), dict) and isinstance(value, dict):
                self._merge(text, number, (*path, name), present[name], value)
            else:
                text.add(number, path, name, value)

    # ------------------------------------------------------------ the tests that are there

    def _missing_claims(self, one: RuleSuggestion, case: TestCase) -> dict[ClaimPath, Scalar]:
        """What a test has to claim beside what it does, so that the rule still admits its workload."""
        played = played_claims(case, self._generation.issuers_by_name[case.test.issuer])
        missing: dict[ClaimPath, Scalar] = {}
        for path, values in one.values.items():
            if scalar_key(claim_at(played, path)) not in set(map(scalar_key, values)):
                missing[path] = one.observed.values[path].commonest
        return missing

    def _complete(self, text: YamlText, number: int, path: Path, claims: Mapping[ClaimPath, Scalar]) -> None:
        if not claims:
            return
        test = text.value_at(number, path)
        if "claims" in test:
            self._change(text, number, (*path, "claims"), {}, claims)
        else:
            text.add(number, path, "claims", _tree(claims))

    # ------------------------------------------------------------ new tests

    def _new_tests(self, one: RuleSuggestion) -> Iterator[dict[str, Any]]:
        """What was seen is allowed; what is next to it is not."""
        paths = [match.path for match in one.as_rule().match]
        varying = [path for path in paths if len(one.observed.values[path].found) > 1]
        deciding = one.observed.deciding
        needed = None if deciding is None else (*paths, *deciding)
        seen: dict[Any, Mapping[str, Any]] = {}
        for shape in sorted(one.observed.shapes.values(), key=lambda shape: -shape.count):
            key = (*(scalar_key(claim_at(shape.claims, path)) for path in paths), shape.resource, shape.scopes)
            if key in seen or len(seen) == MAX_TESTS:
                continue
            title = f"{one.rule.name}: as seen{_in_words(shape.claims, varying)}"
            test = self._test(one, title, projected(shape.claims, needed), shape.resource, shape.scopes)
            given = self._played(test)
            if given is None or given.entitlement is None or given.entitlement.rule != one.rule.name:
                continue
            seen[key] = test
            yield {**test, "expect": {"allow": list(given.entitlement.scopes)}}
        commonest = next(iter(seen.values()), None)
        if commonest is not None and (denial := self._denial(one, commonest)) is not None:
            yield denial

    def _denial(self, one: RuleSuggestion, test: Mapping[str, Any]) -> dict[str, Any] | None:
        """The same request with one claim a little otherwise, which the rule does not admit any more."""
        for path, values in one.values.items():
            value = _neighbour(values)
            title = f"{one.rule.name}: not{_in_words(nested(path, value), [path])}"
            claims = _with(test["claims"], path, value)
            near = {**test, "name": title[:MAX_TITLE_CHARACTERS], "claims": claims}
            decision = self._played(near)
            if decision is not None and decision.entitlement is None:
                return {**near, "expect": {"deny": decision.reason}}
        return None

    def _test(
        self, one: RuleSuggestion, title: str, claims: Claims, resource: str | None, scopes: tuple[str, ...] | None
    ) -> dict[str, Any]:
        test: dict[str, Any] = {"name": title[:MAX_TITLE_CHARACTERS], "issuer": one.rule.issuer, "claims": dict(claims)}
        if resource is not None:
            test["resource"] = resource
        if scopes is not None:
            test["scope"] = " ".join(scopes)
        return test

    def _played(self, test: Mapping[str, Any]) -> Any:
        """The decision that a test would come to; None for a test that may not stand in a file."""
        if not _is_short(test["claims"]):
            return None
        try:
            checked = PolicyTest.model_validate({**test, "expect": {"deny": "no_matching_trust"}})
        except ValidationError:
            return None
        return play(self._suggested, TestCase(self._account.name, checked, Problem("", 0, (), "")))

    def _add_tests(self, tests: list[dict[str, Any]]) -> None:
        if not tests:
            return
        names = {test.get("name") for test in self._document.get("tests", [])}
        for test in tests:
            title, number = test["name"], 1
            while test["name"] in names:
                number += 1
                test["name"] = f"{title} ({number})"
            names.add(test["name"])
        self.tests += len(tests)
        if "tests" not in self._document:
            self._text.add(self._place.number, (), "tests", tests)
            return
        for test in tests:
            self._text.append(self._place.number, ("tests",), test)


def _one_or_list(values: tuple[Scalar, ...]) -> Any:
    return values[0] if len(values) == 1 else list(values)


def _tree(claims: Mapping[ClaimPath, Any]) -> dict[str, Any]:
    """Values by path as one nested mapping."""
    tree: dict[str, Any] = {}
    for path, value in claims.items():
        holder = tree
        for name in path[:-1]:
            holder = holder.setdefault(name, {})
        holder[path[-1]] = value
    return tree


def _tops(written: Mapping[str, Any], gone: list[ClaimPath], above: ClaimPath = ()) -> tuple[ClaimPath, ...]:
    """The outermost entries that hold nothing but what is gone; ``((),)`` where that is the whole mapping."""
    tops: list[ClaimPath] = []
    everything = True
    for name, value in written.items():
        path = (*above, name)
        if path in gone:
            tops.append(path)
        elif isinstance(value, dict):
            below = _tops(value, gone, path)
            everything = everything and below == (path,)
            tops += below
        else:
            everything = False
    return (above,) if everything and tops else tuple(tops)


def _neighbour(values: tuple[Scalar, ...]) -> Scalar:
    """A value that is none of these, and looks like them."""
    first = values[0]
    if isinstance(first, bool):
        return not first
    if isinstance(first, int):
        return max(value for value in values if isinstance(value, int)) + 1
    if first.isascii() and first.isdigit() and len(first) < 20:
        numbers = [int(value) for value in values if isinstance(value, str) and value.isascii() and value.isdigit()]
        return str(max(numbers) + 1)
    return f"{first}-other"


def _with(claims: Claims, path: ClaimPath, value: Scalar) -> dict[str, Any]:
    """The claims with another value at a path."""
    changed = dict(claims)
    if len(path) == 1:
        changed[path[0]] = value
    else:
        below = changed.get(path[0])
        changed[path[0]] = _with(below if isinstance(below, dict) else {}, path[1:], value)
    return changed


def _in_words(claims: Claims, paths: Iterable[ClaimPath]) -> str:
    """`` with environment staging``, for a title: nothing but letters that every terminal shows as they are."""
    values = ((path, claim_at(claims, path)) for path in paths)
    words = ", ".join(f"{path_text(path)} {value}" for path, value in values if scalar_key(value) is not None)
    return "".join(one if " " <= one <= "~" else "?" for one in f" with {words}") if words else ""


def _is_short(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_is_short(name) and _is_short(member) for name, member in value.items())
    if isinstance(value, list):
        return all(map(_is_short, value))
    return not isinstance(value, str) or len(value) <= MAX_CLAIM_CHARACTERS
