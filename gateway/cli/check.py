"""``gateway check``: says whether settings and policies would load, and everything that is wrong."""

import json
from dataclasses import asdict
from pathlib import Path

import typer

from gateway.cli.serve import ConfigOption, InsecureHttpOption

DEFAULT_ISSUER = "https://sts.example.com"


def check(
    config: Path | None = ConfigOption,
    policies: Path | None = typer.Option(None, "--policies", "-p", help="Check this folder of policies alone."),
    issuer: str = typer.Option(DEFAULT_ISSUER, help="With --policies: the gateway's issuer URL."),
    insecure_http: bool = InsecureHttpOption,
    output: str = typer.Option("text", "--output", "-o", help="text or json."),
) -> None:
    """Check settings and policies without starting anything.

    Everything that is wrong is reported at once, with file, line, path and the nearest valid name. The tests inside
    the policies run once nothing else is wrong. Exit code 0: it would load; 1: it would not.

        gateway check --config gateway.yaml
        gateway check --policies policies/
    """
    from gateway.cli.problems import as_json, exit_with_problems
    from gateway.identity.presets.common import is_reserved_audience
    from gateway.kinds import PRESETS
    from gateway.policy.loading import load_policies
    from gateway.policy.problems import ConfigurationProblems
    from gateway.settings import load_settings

    if output not in {"text", "json"}:
        raise typer.BadParameter("is text or json", param_hint="--output")
    try:
        if policies is None:
            settings = load_settings(config, insecure_http=insecure_http)
            policies, issuer = settings.policies, settings.issuer
        generation = load_policies(
            policies,
            presets=PRESETS,
            gateway_issuer=issuer,
            insecure_http=insecure_http,
            number=1,
            is_reserved_audience=is_reserved_audience,
        )
    except ConfigurationProblems as problems:
        exit_with_problems(problems, output)
        return
    counts = {kind.replace("_", " "): number for kind, number in asdict(generation.counts).items()}
    if output == "json":
        warnings = [as_json(warning) for warning in generation.warnings]
        print(json.dumps({"ok": True, "counts": counts, "sha256": generation.sha256, "warnings": warnings}, indent=2))
        return
    for warning in generation.warnings:
        typer.echo(f"warning: {warning}", err=True)
    print(
        "Good: " + ", ".join(f"{number} {kind if number != 1 else kind[:-1]}" for kind, number in counts.items()) + "."
    )
