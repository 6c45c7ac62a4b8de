"""``gateway policy suggest``: tighter trust rules from what an audit log shows, as a patch to the policy files."""

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from gateway.cli.policy.audit_files import SinceOption, UntilOption
from gateway.cli.policy.files import GatewayIssuerOption, OutputOption, PoliciesOption
from gateway.cli.serve import ConfigOption, InsecureHttpOption

if TYPE_CHECKING:
    from gateway.audit.reading import RecordReader
    from gateway.cli.policy.files import PolicyFiles
    from gateway.policy.generation import Generation
    from gateway.policy.suggest import AccountSuggestion, RuleSuggestion, Traffic

DEFAULT_AT_LEAST = 20
_BYTE_ORDER_MARK = "\ufeff"


def suggest(
    audit: list[Path] = typer.Option(
        [], "--audit", "-a", metavar="FILE", help="An audit log, also compressed with gzip; - is standard input."
    ),
    more: list[Path] = typer.Argument(
        [], metavar="FILE...", help="Further audit logs, such as a shell's * finds.", show_default=False
    ),
    service_account: str | None = typer.Option(None, metavar="NAME", help="This service account alone."),
    at_least: int = typer.Option(
        DEFAULT_AT_LEAST, min=1, metavar="N", help="Of fewer observations of a rule nothing is concluded."
    ),
    write: bool = typer.Option(False, "--write", help="Change the policy files, besides printing the patch."),
    policies: Path | None = PoliciesOption,
    config: Path | None = ConfigOption,
    gateway_issuer: str = GatewayIssuerOption,
    insecure_http: bool = InsecureHttpOption,
    since: str | None = SinceOption,
    until: str | None = UntilOption,
    output: str = OutputOption,
) -> None:
    """Find the tightest trust rules that the observed traffic supports.

    Prints a patch on standard output that narrows each trust rule to what it was used for: exact values for globs, the
    platform's immutable ids, only the scopes and resources that were asked for, the shortest lifetime in use; and tests
    that hold it so. No rule gets wider, and nothing that was observed is refused. What it is based on, what stays wide
    and which rules nobody uses is told on standard error. The patched files load, with their tests passing: this is
    tried before anything is printed. Exit code 0: here it is, or there is nothing to tighten; 1: too little was seen.

        gateway policy suggest --audit /var/log/gateway/audit.jsonl --policies policies/ > tighter.patch
        git apply tighter.patch
        gateway policy suggest --audit audit.jsonl* --service-account web-deployer --since 30d --write
    """
    from gateway.cli.policy.audit_files import nothing_found, open_records, period
    from gateway.cli.policy.files import DEFAULT_GATEWAY_ISSUER, policy_files
    from gateway.cli.problems import exit_with_problems
    from gateway.policy.policy_tests import failures
    from gateway.policy.problems import ConfigurationProblems, PolicyProblems, nearest
    from gateway.policy.suggest import Traffic, suggestion_for

    if output not in {"text", "json"}:
        raise typer.BadParameter("is text or json", param_hint="--output")
    files = [*audit, *more]
    if not files:
        raise typer.BadParameter("name an audit log", param_hint="--audit")
    within = period(since, until)
    try:
        chosen = policy_files(config, policies, gateway_issuer, insecure_http)
        generation = chosen.generation(keep_tests=True)
        if failed := failures(generation, generation.tests):
            raise PolicyProblems(failed)
    except ConfigurationProblems as problems:
        exit_with_problems(problems, output)
        return
    if service_account is not None and service_account not in generation.service_accounts:
        near = nearest(service_account, generation.service_accounts)
        hint = f" (did you mean {near}?)" if near else ""
        words = f"no service account is called {service_account}{hint}"
        raise typer.BadParameter(words, param_hint="--service-account")
    assumed = chosen.gateway_issuer if chosen.gateway_issuer == DEFAULT_GATEWAY_ISSUER else None
    traffic = Traffic(generation, assumed_audience=assumed)
    with open_records(files, within, "Reading") as (reader, records):
        for recorded in records:
            traffic.take(recorded)
    if traffic.records == 0:
        raise typer.BadParameter(nothing_found(reader, within), param_hint="--audit")
    accounts = generation.service_accounts.values()
    suggestions = [
        suggestion_for(generation, account, traffic, at_least=at_least)
        for account in accounts
        if account.rules and service_account in {None, account.name}
    ]
    outcome = _Drafting(chosen, generation).outcome(suggestions)
    if write:
        for file, (_, after) in outcome.changed.items():
            _write(Path(file), after)
    if output == "json":
        print(json.dumps(_json(outcome, traffic, reader, written=write), indent=2))
    else:
        for line in _notes(outcome, traffic, reader):
            typer.echo(line, err=True)
        print(outcome.patch, end="")
    if not outcome.patch and (outcome.failed or any(one.refused for one in suggestions)):
        raise typer.Exit(1)


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What is suggested of which service accounts, and the files with it."""

    suggestions: list["AccountSuggestion"]
    failed: dict[str, str]
    """Service accounts whose suggestion was dropped, and why."""
    changed: dict[str, tuple[str, str]]
    """By file, the text before and after."""
    patch: str
    tests: dict[str, int]
    """New tests, by service account."""


class _Drafting:
    """Writes suggestions into copies of the files and drops those with which the files would not load."""

    def __init__(self, chosen: "PolicyFiles", generation: "Generation") -> None:
        self._chosen = chosen
        self._generation = generation
        self._failed: dict[str, str] = {}
        self._tests: dict[str, int] = {}

    def outcome(self, suggestions: list["AccountSuggestion"]) -> _Outcome:
        """The patch for all that can be changed."""
        from gateway.policy.yaml_editing import unified_diff

        left = [one for one in suggestions if one.says_something]
        texts: dict[str, str] = {}
        while left:
            texts = self._drafted(left)
            left = [one for one in left if one.account.name not in self._failed]
            dropped = self._refused(left, texts)
            self._failed.update(dropped)
            if not dropped:
                break
            left = [one for one in left if one.account.name not in dropped]
        changed = {file: (_read(file), text) for file, text in sorted(texts.items())} if left else {}
        patch = "".join(unified_diff(self._name(file), *both) for file, both in changed.items())
        return _Outcome(suggestions, self._failed, changed, patch, self._tests)

    def _drafted(self, suggestions: list["AccountSuggestion"]) -> dict[str, str]:
        """The texts of the files with these suggestions. Those that cannot be written are noted as failed."""
        from gateway.policy.suggested_edits import as_suggested
        from gateway.policy.yaml_editing import EditError

        suggested = as_suggested(self._generation, suggestions)
        try:
            return self._written(suggestions, suggested, {})
        except (EditError, OSError):  # one of them spoils it for all: each by itself, then
            texts: dict[str, str] = {}
        for one in suggestions:
            try:
                texts = self._written([one], suggested, texts)
            except (EditError, OSError) as error:
                self._failed[one.account.name] = f"{one.account.place.file} {error}"
        return texts

    def _written(
        self, suggestions: list["AccountSuggestion"], suggested: "Generation", texts: Mapping[str, str]
    ) -> dict[str, str]:
        """These texts with further changes. Raises ``EditError``, and ``OSError`` for a file that cannot be read."""
        from gateway.policy.suggested_edits import write
        from gateway.policy.yaml_editing import YamlText

        drafts: dict[str, tuple[str, YamlText]] = {}

        def text_of(file: str) -> YamlText:
            if file not in drafts:
                mark, text = _marked(texts[file] if file in texts else _read(file))
                drafts[file] = mark, YamlText(text)
            return drafts[file][1]

        tests = {one.account.name: write(self._generation, suggested, one, text_of).tests for one in suggestions}
        changed = {**texts, **{file: mark + draft.changed() for file, (mark, draft) in drafts.items()}}
        self._tests.update(tests)
        return changed

    def _refused(self, suggestions: list["AccountSuggestion"], changed: Mapping[str, str]) -> dict[str, str]:
        """The service accounts with which the files would not load, or a test would fail, and which one."""
        from gateway.policy.policy_tests import failures
        from gateway.policy.problems import ConfigurationProblems

        names = {one.account.name for one in suggestions}
        try:
            generation = self._loaded(changed)
        except ConfigurationProblems as problems:
            places = {(one.account.place.file, one.account.place.number): one.account.name for one in suggestions}
            found = {}
            for problem in problems.problems:
                file = str(self._original(problem.file))
                found[places.get((file, problem.document), "")] = problem.message
            return {name: why for name, why in found.items() if name} or dict.fromkeys(
                names, next(iter(found.values()))
            )
        refused = {}
        for case in generation.tests:
            if case.service_account in names and (failed := failures(generation, [case])):
                refused[case.service_account] = failed[0].message
        return refused

    def _loaded(self, changed: Mapping[str, str]) -> "Generation":
        """The generation of the files with these texts, its tests not played. Raises ``PolicyProblems``."""
        from gateway.policy.files import policy_files

        folder = self._chosen.folder
        with tempfile.TemporaryDirectory() as name:
            self._copied_to = Path(name)
            for file in policy_files(folder, []):
                copy = self._copy_of(file)
                copy.parent.mkdir(parents=True, exist_ok=True)
                if str(file) in changed:
                    copy.write_text(changed[str(file)], encoding="utf-8", newline="")
                else:
                    shutil.copyfile(file, copy)
            return self._chosen._replace(folder=self._copy_of(folder)).generation(keep_tests=True)

    def _copy_of(self, file: Path) -> Path:
        folder = self._chosen.folder
        return self._copied_to / (folder.name if folder.is_file() else "policies") / file.relative_to(folder)

    def _original(self, copy: str) -> Path:
        return self._chosen.folder / Path(copy).relative_to(self._copy_of(self._chosen.folder))

    def _name(self, file: str) -> str:
        """What a patch calls a file: relative to where one is, or else to the folder of policies."""
        path, here = Path(file).absolute(), Path.cwd()
        base = here if path.is_relative_to(here) else self._chosen.folder.absolute()
        return path.relative_to(base.parent if base == path else base).as_posix()


def _read(file: str) -> str:
    """The text to the letter, its line ends and its mark included."""
    return Path(file).read_bytes().decode("utf-8")


def _marked(text: str) -> tuple[str, str]:
    """The byte order mark, where there is one, and the rest."""
    return (_BYTE_ORDER_MARK, text[1:]) if text.startswith(_BYTE_ORDER_MARK) else ("", text)


def _write(file: Path, text: str) -> None:
    """Replaces a file whole: who reads it meanwhile reads the one or the other."""
    target = file.resolve()
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", newline="", dir=target.parent, prefix=f".{target.name}.", delete=False
    ) as draft:
        draft.write(text)
    shutil.copymode(target, draft.name)
    Path(draft.name).replace(target)


# ---------------------------------------------------------------- telling


def _notes(outcome: _Outcome, traffic: "Traffic", reader: "RecordReader") -> Iterator[str]:
    from gateway.cli.policy.audit_files import skipped_in_words
    from gateway.policy.problems import visible

    for suggestion in outcome.suggestions:
        for line in _account_notes(suggestion, outcome):
            yield visible(line)
    if traffic.refused_now:
        yield f"{traffic.refused_now:,} requests that were granted are refused by these policies, and were left out."
    if skipped := skipped_in_words(reader):
        yield skipped
    if not outcome.patch:
        yield "Nothing to suggest."


def _account_notes(suggestion: "AccountSuggestion", outcome: _Outcome) -> Iterator[str]:
    name = suggestion.account.name
    if why := outcome.failed.get(name):
        yield f"{name}: left as it is, for a suggestion would break its file: {why}"
        return
    for one in suggestion.rules:
        yield from _rule_notes(one)
    if suggestion.access is not None:
        used = "; ".join(f"{resource}: {' '.join(scopes)}" for resource, scopes in suggestion.access.items())
        yield f"{name}: access to what was asked for alone: {used}"
    for rule, why in suggestion.refused:
        yield f"{rule.label}: left as it is: {why}"
    for rule in suggestion.unused:
        yield f"{rule.label}: nobody got anything by it in this time: remove it, unless it is for a rare case"


def _rule_notes(one: "RuleSuggestion") -> Iterator[str]:
    from gateway.cli.policy.audit_files import time_text
    from gateway.policy.documents import duration_text
    from gateway.policy.problems import path_text
    from gateway.policy.wording import listed

    seen = one.observed
    based_on = f"{seen.count:,} observations from {time_text(seen.first)} to {time_text(seen.last)}"
    yield f"{one.rule.label}: {based_on}" + ("" if one.says_something else ": as tight as its traffic")
    for narrowed in one.narrowed:
        yield f"  {path_text(narrowed.path)}: {listed(narrowed.values)} instead of {listed(narrowed.before.wanted)}"
    for path, values in one.pinned:
        yield f"  {path_text(path)}: {listed(values)} besides"
    if one.scopes is not None:
        yield f"  scopes: {' '.join(one.scopes)}"
    if one.token_lifetime_seconds is not None:
        yield f"  token_lifetime: {duration_text(one.token_lifetime_seconds)}"
    for kept in one.kept:
        yield f"  {kept}"


def _json(outcome: _Outcome, traffic: "Traffic", reader: "RecordReader", *, written: bool) -> dict[str, Any]:
    return {
        "ok": not outcome.failed,
        "records": traffic.records,
        "refused_now": traffic.refused_now,
        "service_accounts": [_account_json(one, outcome) for one in outcome.suggestions],
        "skipped": dict(reader.skipped),
        "written": written,
        "patch": outcome.patch,
    }


def _account_json(suggestion: "AccountSuggestion", outcome: _Outcome) -> dict[str, Any]:
    account = suggestion.account
    return {
        "service_account": account.name,
        "file": account.place.file,
        "line": account.place.line,
        "failed": outcome.failed.get(account.name),
        "rules": [_rule_json(one) for one in suggestion.rules],
        "access": suggestion.access,
        "unused": [rule.name for rule in suggestion.unused],
        "refused": {rule.name: why for rule, why in suggestion.refused},
        "tests": 0 if account.name in outcome.failed else outcome.tests.get(account.name, 0),
    }


def _rule_json(one: "RuleSuggestion") -> dict[str, Any]:
    from gateway.cli.policy.audit_files import time_text

    return {
        "rule": one.rule.name,
        "issuer": one.rule.issuer,
        "observations": one.observed.count,
        "first": time_text(one.observed.first),
        "last": time_text(one.observed.last),
        "narrowed": [
            {"claim": list(narrowed.path), "before": list(narrowed.before.wanted), "values": list(narrowed.values)}
            for narrowed in one.narrowed
        ],
        "pinned": [{"claim": list(path), "values": list(values)} for path, values in one.pinned],
        "scopes": one.scopes,
        "token_lifetime_seconds": one.token_lifetime_seconds,
        "kept": list(one.kept),
    }
