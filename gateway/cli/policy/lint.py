"""``gateway policy lint``: what in policy files is dangerous, useless, or not what its author meant."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote

import typer

from gateway.cli.policy.files import GatewayIssuerOption, PoliciesOption
from gateway.cli.serve import ConfigOption, InsecureHttpOption

if TYPE_CHECKING:
    from gateway.policy.lint.base import Finding, LintRule, Severity
    from gateway.policy.lint.linting import Report
    from gateway.policy.problems import ConfigurationProblems

_COLOURS = {"error": typer.colors.RED, "warning": typer.colors.YELLOW, "info": typer.colors.CYAN}


def lint(
    policies: Path | None = PoliciesOption,
    config: Path | None = ConfigOption,
    gateway_issuer: str = GatewayIssuerOption,
    insecure_http: bool = InsecureHttpOption,
    severity: str = typer.Option("warning", help="The least that is shown: error, warning or info."),
    fail_on: str = typer.Option("error", help="The least that makes the exit code 1: error, warning or info."),
    explain: str | None = typer.Option(None, metavar="RULE", help="Explain one rule, with a bad and a good example."),
    list_rules: bool = typer.Option(False, "--list", help="List all rules."),
    output: str = typer.Option("text", "--output", "-o", help="text, json or sarif."),
) -> None:
    """Find what is dangerous in policies: it knows what each platform's tokens are good for.

    Claims that must be fixed, names that can be taken over, events that run a stranger's code, globs that reach too
    far, rules that never hold or never decide, and more: --list shows all, --explain one with examples. A comment on
    the line of a finding, or alone above it, silences one rule there: # lint: ignore RULE and the reason.
    Exit code 0: nothing as bad as --fail-on; 1: something is, or the files do not load.

        gateway policy lint --policies policies/
        gateway policy lint --policies policies/ --severity info --fail-on warning
        gateway policy lint --policies policies/ --output sarif > lint.sarif
        gateway policy lint --explain REF001
    """
    from gateway.policy.lint.base import SEVERITIES
    from gateway.policy.problems import ConfigurationProblems

    for option, given, valid in (
        ("--output", output, ("text", "json", "sarif")),
        ("--severity", severity, SEVERITIES),
        ("--fail-on", fail_on, SEVERITIES),
    ):
        if given not in valid:
            raise typer.BadParameter(f"is {', '.join(valid[:-1])} or {valid[-1]}", param_hint=option)
    if list_rules or explain is not None:
        if output == "sarif":
            raise typer.BadParameter("is text or json with --list and --explain", param_hint="--output")
        _tell_rules(explain, output)
        return
    # What is not shown can still decide the exit code.
    least = cast("Severity", max(severity, fail_on, key=SEVERITIES.index))
    try:
        report = _report(config, policies, gateway_issuer, insecure_http, least)
    except ConfigurationProblems as problems:
        _tell_problems(problems, output)
        raise typer.Exit(1) from None
    worst = SEVERITIES.index(cast("Severity", fail_on))
    is_good = all(SEVERITIES.index(finding.severity) > worst for finding in report.findings)
    shown = [one for one in report.findings if SEVERITIES.index(one.severity) <= SEVERITIES.index(severity)]
    left_out = report.left_out + len(report.findings) - len(shown)
    if output == "sarif":
        print(_sarif(shown))
    elif output == "json":
        told = {
            "ok": is_good,
            "findings": list(map(_as_json, shown)),
            "silenced": report.silenced,
            "left_out": left_out,
        }
        print(json.dumps(told, indent=2))
    else:
        _tell(shown, report.silenced, left_out)
    raise typer.Exit(0 if is_good else 1)


def _report(
    config: Path | None, policies: Path | None, gateway_issuer: str, insecure_http: bool, least: "Severity"
) -> "Report":
    """Loads the policies without playing their tests, and lints them. Raises ``ConfigurationProblems``."""
    from gateway.cli.policy.files import policy_files
    from gateway.identity.presets.common import is_reserved_audience
    from gateway.kinds import PRESETS
    from gateway.policy.files import locate_problems, policy_text
    from gateway.policy.files import policy_files as files_in
    from gateway.policy.lint.base import Policies
    from gateway.policy.lint.linting import lint as find

    chosen = policy_files(config, policies, gateway_issuer, insecure_http)
    with _working(f"Reading {chosen.folder}"):
        generation = chosen.generation(keep_tests=True)
    files = list(map(str, files_in(chosen.folder, [])))
    with _working(f"Linting {generation.counts.service_accounts:,} service accounts"):
        return find(
            Policies(generation, PRESETS, is_reserved_audience), files, policy_text, locate_problems, severity=least
        )


@contextmanager
def _working(doing: str) -> Iterator[None]:
    """Shows on a terminal that something goes on."""
    from rich.console import Console
    from rich.markup import escape

    if not sys.stderr.isatty():
        yield
        return
    with Console(stderr=True).status(escape(doing)):
        yield


# ---------------------------------------------------------------- findings


def _tell(findings: "list[Finding]", silenced: int, left_out: int) -> None:
    from gateway.policy.lint.sarif import what
    from gateway.policy.problems import visible

    for file, of_file in groupby(findings, key=lambda finding: finding.problem.file):
        typer.secho(visible(file), bold=True)
        for finding in of_file:
            line = str(finding.problem.line or "-")
            severity = typer.style(f"{finding.severity:<7}", fg=_COLOURS[finding.severity])
            typer.echo(f"  {line:>5}  {severity}  {finding.id:<7}  {what(finding)}")
            typer.echo(f"                           {finding.fix}")
        typer.echo()
    counted = {name: sum(one.severity == name for one in findings) for name in _COLOURS}
    parts = [_counted(count, name) for name, count in counted.items() if count]
    told = ", ".join(parts) if parts else "Nothing found"
    more = [f"{silenced} silenced by comments"] if silenced else []
    more += [f"{left_out} of less weight not shown (--severity info shows all)"] if left_out else []
    typer.echo(f"{told}{'; ' if more else ''}{', '.join(more)}.")


def _counted(count: int, name: str) -> str:
    return f"{count} {name}{'s' if count != 1 and name != 'info' else ''}"


def _as_json(finding: "Finding") -> dict[str, object]:
    from gateway.cli.problems import as_json

    return {"rule": finding.id, "severity": finding.severity, **as_json(finding.problem), "fix": finding.fix}


def _sarif(findings: "list[Finding]") -> str:
    from gateway import __version__
    from gateway.policy.lint.catalogue import RULES
    from gateway.policy.lint.sarif import sarif_log

    return json.dumps(sarif_log(findings, RULES.values(), __version__, _uri), indent=2)


def _uri(file: str) -> str:
    """A file as GitHub and others want it: seen from here, where the repository is."""
    path = Path(file).resolve()
    here = Path.cwd()
    if path.is_relative_to(here):
        return quote(path.relative_to(here).as_posix(), errors="surrogateescape")
    return path.as_uri()


def _tell_problems(problems: "ConfigurationProblems", output: str) -> None:
    """What keeps the files from loading."""
    from gateway.cli.problems import exit_with_problems
    from gateway.policy.lint.base import Finding
    from gateway.policy.lint.catalogue import DOES_NOT_LOAD as RULE

    if output != "sarif":
        exit_with_problems(problems, output)
    print(_sarif([Finding(RULE.id, RULE.severity, problem, RULE.fix) for problem in problems.problems]))


# ---------------------------------------------------------------- rules


def _tell_rules(id_of_one: str | None, output: str) -> None:
    from gateway.policy.lint.catalogue import RULES
    from gateway.policy.problems import nearest

    if id_of_one is None:
        if output == "json":
            print(json.dumps([_rule_as_json(rule) for rule in RULES.values()], indent=2))
            return
        for rule in RULES.values():
            typer.echo(f"{rule.id:<8} {rule.severity:<8} {rule.title}")
        return
    chosen = RULES.get(id_of_one.upper())
    if chosen is None:
        near = nearest(id_of_one.upper(), RULES)
        hint = f" (did you mean {near}?)" if near else ""
        raise typer.BadParameter(f"no rule is called so{hint}; see --list", param_hint="--explain")
    bad, good = examples(chosen.id)
    if output == "json":
        print(json.dumps({**_rule_as_json(chosen), "bad": bad, "good": good}, indent=2))
        return
    for line in _page(chosen, bad, good):
        typer.echo(line)


def examples(rule: str) -> tuple[str, str]:
    """The bad and the good example of a rule, as YAML: its case, which the tests lint as well."""
    from importlib.resources import files

    text = (files("gateway.policy.lint") / "cases" / f"{rule}.yaml").read_text(encoding="utf-8")
    bad, _, good = text.partition("\n# Good")
    return bad + "\n", f"# Good{good}"


def _page(rule: "LintRule", bad: str, good: str) -> Iterator[str]:
    from textwrap import fill

    yield typer.style(f"{rule.id}: {rule.title}", bold=True)
    yield typer.style(rule.severity, fg=_COLOURS[rule.severity])
    yield ""
    yield fill(rule.why, 100)
    yield ""
    yield fill(f"What to do: {rule.fix}", 100)
    for example in (bad, good):
        yield ""
        yield from (f"    {line}".rstrip() for line in example.strip().splitlines())


def _rule_as_json(rule: "LintRule") -> dict[str, Any]:
    return {name: getattr(rule, name) for name in ("id", "severity", "title", "why", "fix")}
