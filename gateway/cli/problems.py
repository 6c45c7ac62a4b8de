"""Shows what is wrong with settings or policies, all at once, for people and for scripts."""

import json

import typer

from gateway.policy.problems import ConfigurationProblems, Problem


def exit_with_problems(found: ConfigurationProblems, output: str = "text") -> None:
    """Prints the problems and exits with 1."""
    if output == "json":
        told = [as_json(problem) for problem in found.problems]
        print(json.dumps({"ok": False, "problems": told, "left_out": found.left_out}, indent=2))
    else:
        typer.echo(str(found), err=True)
        count = len(found.problems) + found.left_out
        typer.echo(f"{count} problem{'s' * (count != 1)}; nothing was loaded.", err=True)
    raise typer.Exit(1)


def as_json(problem: Problem) -> dict[str, object]:
    """One problem with its fields apart."""
    return {name: getattr(problem, name) for name in ("file", "line", "path", "message", "suggestion")}
