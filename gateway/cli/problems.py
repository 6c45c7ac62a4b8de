"""Shows what is wrong with settings or policies, all at once, for people and for scripts."""

import json
from collections.abc import Mapping, Sequence

import typer

from gateway.policy.problems import ConfigurationProblems, Problem, visible


def exit_with_problems(
    found: ConfigurationProblems, output: str = "text", held_back: Mapping[str, Sequence[Problem]] | None = None
) -> None:
    """Prints the problems and exits with 1. ``held_back`` are the folders that they keep out, where all else loads."""
    if output == "json":
        told = [as_json(problem) for problem in found.problems]
        answer: dict[str, object] = {"ok": False, "problems": told, "left_out": found.left_out}
        if held_back is not None:
            answer["held_back"] = {name: [as_json(one) for one in problems] for name, problems in held_back.items()}
        print(json.dumps(answer, indent=2))
    else:
        typer.echo(str(found), err=True)
        count = len(found.problems) + found.left_out
        loaded = f"all would load but {', '.join(map(visible, held_back))}" if held_back else "nothing was loaded"
        typer.echo(f"{count} problem{'s' * (count != 1)}; {loaded}.", err=True)
    raise typer.Exit(1)


def as_json(problem: Problem) -> dict[str, object]:
    """One problem with its fields apart."""
    return {name: getattr(problem, name) for name in ("file", "line", "path", "message", "suggestion")}
