"""``gateway check``: says whether settings and policies would load, and everything that is wrong."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from gateway.cli.serve import ConfigOption, InsecureHttpOption

if TYPE_CHECKING:
    from gateway.cli.policy.files import PolicyFiles
    from gateway.policy.problems import Problem
    from gateway.settings import Settings

DEFAULT_ISSUER = "https://sts.example.com"


def check(
    config: Path | None = ConfigOption,
    policies: Path | None = typer.Option(None, "--policies", "-p", help="Check this folder of policies alone."),
    issuer: str = typer.Option(
        DEFAULT_ISSUER, "--gateway-issuer", "--issuer", help="With --policies: the gateway's issuer URL."
    ),
    insecure_http: bool = InsecureHttpOption,
    isolation: str | None = typer.Option(None, help="With --policies: none or per_folder, as the settings would say."),
    output: str = typer.Option("text", "--output", "-o", help="text or json."),
) -> None:
    """Check settings, policies and files of TLS without starting anything.

    Everything that is wrong is reported at once, with file, line, path and the nearest valid name. The tests inside
    the policies run once nothing else is wrong. Where folders are isolated, it says which of them would be held back.
    Exit code 0: all of it would load; 1: it would not.

        gateway check --config gateway.yaml
        gateway check --policies policies/
        gateway check --policies policies/ --isolation per_folder
    """
    from gateway.cli.policy.files import PolicyFiles
    from gateway.cli.problems import as_json, exit_with_problems
    from gateway.policy.problems import ConfigurationProblems, Problem
    from gateway.settings import load_settings

    if output not in {"text", "json"}:
        raise typer.BadParameter("is text or json", param_hint="--output")
    if isolation not in {None, "none", "per_folder"}:
        raise typer.BadParameter("is none or per_folder", param_hint="--isolation")
    if isolation is not None and policies is None:
        raise typer.BadParameter("goes with --policies: else the settings say it", param_hint="--isolation")
    unfit: list[Problem] = []
    dubious: list[Problem] = []
    try:
        if policies is None:
            settings = load_settings(config, insecure_http=insecure_http)
            policies, issuer, isolation = settings.policies, settings.issuer, settings.isolation
            unfit, dubious = _check_listener(settings, config)
        files = PolicyFiles(policies, issuer, insecure_http)
        if isolation == "per_folder" and not unfit:
            _check_by_folder(files, output)
        generation = files.generation()
    except ConfigurationProblems as problems:
        if policies is None and config is None and output == "text":
            _point_at_policies()
        exit_with_problems(ConfigurationProblems([*unfit, *problems.problems], problems.left_out), output)
        return
    if unfit:
        exit_with_problems(ConfigurationProblems(unfit), output)
    found = [*dubious, *generation.warnings]
    counts = {kind.replace("_", " "): number for kind, number in asdict(generation.counts).items()}
    if output == "json":
        warnings = [as_json(warning) for warning in found]
        print(json.dumps({"ok": True, "counts": counts, "sha256": generation.sha256, "warnings": warnings}, indent=2))
        return
    for warning in found:
        typer.echo(f"warning: {warning}", err=True)
    print(
        "Good: " + ", ".join(f"{number} {kind if number != 1 else kind[:-1]}" for kind, number in counts.items()) + "."
    )


def _point_at_policies() -> None:
    """Whoever has policies and no settings yet finds out how to check them alone."""
    from gateway.settings import DEFAULT_FILE

    if not Path(DEFAULT_FILE).exists() and Path("policies").is_dir():
        typer.echo("For the policies alone, without settings: gateway check --policies policies/", err=True)


def _check_listener(settings: "Settings", config: Path | None) -> "tuple[list[Problem], list[Problem]]":
    """What would keep the public listener from opening, and what is dubious about it: the parser, the files of TLS."""
    from gateway.clock import SteadyClock
    from gateway.http.listen import ListenError, check_parser
    from gateway.http.tls import RenewedTls, TlsFiles
    from gateway.policy.problems import Problem
    from gateway.settings import DEFAULT_FILE

    file = str(config or DEFAULT_FILE)
    unfit: list[Problem] = []
    try:
        check_parser()
    except ListenError as error:
        unfit.append(Problem("aiohttp", 0, (), str(error)))
    if settings.tls is None:
        return unfit, []
    tls = settings.tls
    files = TlsFiles(tls.certificate, tls.key, tls.client_ca, tls.client_certificates)
    renewed = RenewedTls(files, SteadyClock())
    try:
        renewed.load()
    except OSError as error:
        return [*unfit, Problem(file, 0, (), str(error))], []
    warning = renewed.warning()
    return unfit, [Problem(file, 0, (), warning)] if warning else []


def _check_by_folder(files: "PolicyFiles", output: str) -> None:
    """Tells which folders would be held back, and exits with 1 if there are some. Raises ``PolicyProblems`` where a
    gateway would not start.
    """
    from gateway.cli.problems import exit_with_problems
    from gateway.policy.problems import PolicyProblems

    held_back = files.by_folder().held_back
    if not held_back:
        return
    told = [problem for problems in held_back.values() for problem in problems]
    try:
        files.generation()
    except PolicyProblems as everything:  # a folder is held back for the first thing that is wrong
        told += [problem for problem in everything.problems if problem not in told]
    exit_with_problems(PolicyProblems(told), output, held_back)
