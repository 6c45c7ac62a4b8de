"""``gateway policy test``: plays the tests of the policies, says what is different, and what they leave unproven."""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from gateway.cli.policy.files import GatewayIssuerOption, OutputOption, PoliciesOption
from gateway.cli.serve import ConfigOption, InsecureHttpOption

if TYPE_CHECKING:
    from gateway.model import Decision
    from gateway.policy.coverage import Coverage
    from gateway.policy.generation import Generation, TestCase, TrustRule
    from gateway.policy.policy_tests import Difference
    from gateway.policy.problems import Problem

MAX_GAPS_SHOWN = 50
MAX_CLAIMS_SHOWN = 12


class Played(NamedTuple):
    """A test, what came out, and how that differs from what was expected."""

    case: "TestCase"
    decision: "Decision"
    differences: "tuple[Difference, ...]"

    @property
    def place(self) -> "Problem":
        """Where it stands: of a failed test the expectation that does not hold."""
        from dataclasses import replace

        if not self.differences:
            return self.case.place
        return replace(self.case.place, path=(*self.case.place.path, *self.differences[0].path))


def run_tests(
    policies: Path | None = PoliciesOption,
    config: Path | None = ConfigOption,
    gateway_issuer: str = GatewayIssuerOption,
    insecure_http: bool = InsecureHttpOption,
    named: str | None = typer.Option(
        None, "-k", metavar="TEXT", help="Only tests with this text in their name, service account or file."
    ),
    min_coverage: float | None = typer.Option(
        None, min=0, max=100, metavar="PERCENT", help="Fail where the tests cover less of the trust rules."
    ),
    junit: Path | None = typer.Option(None, metavar="FILE", help="Write the results as JUnit XML, for CI systems."),
    output: str = OutputOption,
) -> None:
    """Play the tests in the policies.

    Each plays the claims of a token and says what must come out. A failed one is shown with what was expected, what
    came out and why. What no test proves is shown as well: a trust rule is **reached** by a test that is granted
    something by it, and **guarded** by a test that is refused although at most one of the rule's conditions fails. Half
    of the coverage is rules that are reached, half is rules that are guarded.

    Exit code 0: all passed; 1: a test failed, the files do not load, or the coverage is too low.

        gateway policy test
        gateway policy test --policies policies/ -k web-deployer
        gateway policy test --min-coverage 100 --junit policy-tests.xml
    """
    from gateway.cli.policy.files import policy_files
    from gateway.cli.policy.junit import write_junit
    from gateway.cli.problems import exit_with_problems
    from gateway.policy.coverage import measure_coverage
    from gateway.policy.problems import ConfigurationProblems

    if output not in {"text", "json"}:
        raise typer.BadParameter("is text or json", param_hint="--output")
    if named is not None and min_coverage is not None:
        raise typer.BadParameter("goes with all tests, not with some of them (-k)", param_hint="--min-coverage")
    try:
        generation = policy_files(config, policies, gateway_issuer, insecure_http).generation(keep_tests=True)
    except ConfigurationProblems as problems:
        exit_with_problems(problems, output)
        return
    chosen = [case for case in generation.tests if named is None or _is_named(case, named)]
    if named is not None and not chosen:
        raise typer.BadParameter(f"no test has {named!r} in its name, service account or file", param_hint="-k")
    results = list(_played(generation, chosen))
    coverage = None
    if named is None:
        coverage = measure_coverage(generation, ((one.case, one.decision) for one in results))
    is_covered = coverage is None or min_coverage is None or coverage.percent >= min_coverage
    failed = [one for one in results if one.differences]
    if junit is not None:
        write_junit(junit, results)
    if output == "json":
        print(json.dumps(_json(generation, results, coverage, ok=not failed and is_covered), indent=2))
    else:
        for warning in generation.warnings:
            typer.echo(f"warning: {warning}", err=True)
        _tell_failures(generation, failed)
        if coverage is not None:
            _tell_gaps(generation, coverage)
        _tell_summary(len(results), len(failed), coverage)
        if not is_covered:
            typer.secho(f"The coverage is below {min_coverage:g} %.", fg="red")
    if failed or not is_covered:
        raise typer.Exit(1)


def _is_named(case: "TestCase", text: str) -> bool:
    return any(text.lower() in one.lower() for one in (case.test.name, case.service_account, case.place.file))


def _played(generation: "Generation", cases: Sequence["TestCase"]) -> Iterator[Played]:
    """What comes of each test. Shows how far it is, on a terminal."""
    from rich.console import Console
    from rich.progress import track

    from gateway.policy.policy_tests import differences, play

    console = Console(stderr=True)
    for case in track(cases, "Testing", console=console, transient=True, disable=not sys.stderr.isatty()):
        decision = play(generation, case)
        yield Played(case, decision, differences(case.test, decision))


# ---------------------------------------------------------------- for people


def _tell_failures(generation: "Generation", failed: Sequence[Played]) -> None:
    from gateway.policy.files import locate_problems
    from gateway.policy.problems import visible

    for one, place in zip(failed, locate_problems(one.place for one in failed), strict=True):
        where = f"{place.file}:{place.line}: {one.case.service_account}: {one.case.test.name}"
        typer.secho("FAILED ", fg="red", bold=True, nl=False)
        typer.secho(visible(where), bold=True)
        for difference in one.differences:
            typer.secho(visible(f"  expected  {difference.expected}"), fg="green")
            typer.secho(visible(f"  got       {difference.got}"), fg="red")
        if one.decision.wanted:
            typer.echo(visible(f"  because   {one.decision.wanted}"))
        if claims := _claims_that_mattered(generation, one.case):
            typer.echo(visible(f"  claims    {', '.join(claims)}"))
        typer.echo()


def _claims_that_mattered(generation: "Generation", case: "TestCase") -> list[str]:
    """The claims that the rules in question look at, with what the test gave them."""
    from gateway.policy.conditions import claim_at
    from gateway.policy.policy_tests import played_claims
    from gateway.policy.problems import path_text
    from gateway.policy.wording import seen_in_words

    issuer = generation.issuers_by_name[case.test.issuer]
    claims = played_claims(case, issuer)
    account = generation.service_accounts.get(case.service_account)
    rules = [rule for rule in account.rules if rule.issuer == issuer.name] if account is not None else []
    paths = list(dict.fromkeys(path for rule in rules for path in rule.paths))[:MAX_CLAIMS_SHOWN]
    return [f"{path_text(path)} {seen_in_words(claim_at(claims, path))}" for path in paths]


def _tell_gaps(generation: "Generation", coverage: "Coverage") -> None:
    gaps = [
        *((rule, "no test is granted anything by it") for rule in coverage.unreached),
        *((rule, "no test that is refused comes close to it") for rule in coverage.unguarded),
    ]
    gaps.sort(key=lambda gap: gap[0].ordinal)
    shown = gaps[:MAX_GAPS_SHOWN]
    for (rule, words), (file, line) in zip(shown, _places(generation, [rule for rule, _ in shown]), strict=True):
        typer.echo(f"not covered: {file}:{line}: {rule.label}: {words}")
    if len(gaps) > len(shown):
        typer.echo(f"not covered: {len(gaps) - len(shown):,} more; --output json has them all")
    if gaps:
        typer.echo()


def _tell_summary(count: int, failed: int, coverage: "Coverage | None") -> None:
    told = f"{count:,} test{'s' * (count != 1)}: {count - failed:,} passed, {failed:,} failed."
    typer.secho(told, fg="red" if failed else "green", bold=True, nl=coverage is None)
    if coverage is not None:
        reached, guarded = (coverage.rules - len(missing) for missing in (coverage.unreached, coverage.unguarded))
        typer.echo(
            f" Trust rules: {reached:,} of {coverage.rules:,} reached, {guarded:,} guarded:"
            f" coverage {coverage.percent:g} %."
        )


def _places(generation: "Generation", rules: Iterable["TrustRule"]) -> list[tuple[str, int]]:
    """File and line of each rule; the file's name as it can be shown."""
    from gateway.policy.files import locate_problems
    from gateway.policy.problems import visible

    found = [
        generation.service_accounts[rule.service_account].place.problem(("trust", rule.position), "") for rule in rules
    ]
    return [(visible(place.file), place.line) for place in locate_problems(found)]


# ---------------------------------------------------------------- for scripts


def _json(
    generation: "Generation", results: Sequence[Played], coverage: "Coverage | None", *, ok: bool
) -> dict[str, Any]:
    from gateway.policy.files import locate_problems

    failed = sum(bool(one.differences) for one in results)
    places = locate_problems(one.place for one in results)
    return {
        "ok": ok,
        "passed": len(results) - failed,
        "failed": failed,
        "tests": [_test_json(one, place) for one, place in zip(results, places, strict=True)],
        "coverage": _coverage_json(generation, coverage) if coverage is not None else None,
    }


def _test_json(one: Played, place: "Problem") -> dict[str, Any]:
    entitlement = one.decision.entitlement
    return {
        "name": one.case.test.name,
        "service_account": one.case.service_account,
        "issuer": one.case.test.issuer,
        "file": place.file,
        "line": place.line,
        "passed": not one.differences,
        "reason": one.decision.reason,
        "rule": entitlement.rule if entitlement is not None else None,
        "scopes": list(entitlement.scopes) if entitlement is not None else None,
        "lifetime_seconds": entitlement.lifetime_seconds if entitlement is not None else None,
        "wanted": one.decision.wanted,
        "differences": [
            {"path": list(difference.path), "expected": difference.expected, "got": difference.got}
            for difference in one.differences
        ],
    }


def _coverage_json(generation: "Generation", coverage: "Coverage") -> dict[str, Any]:
    def listed(rules: Sequence["TrustRule"]) -> list[dict[str, Any]]:
        return [
            {"service_account": rule.service_account, "rule": rule.name, "file": file, "line": line}
            for rule, (file, line) in zip(rules, _places(generation, rules), strict=True)
        ]

    return {
        "percent": coverage.percent,
        "rules": coverage.rules,
        "unreached": listed(coverage.unreached),
        "unguarded": listed(coverage.unguarded),
    }
