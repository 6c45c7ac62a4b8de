"""``gateway policy diff``: what a change of the policies means, for reviewers and for pipelines."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from gateway.cli.policy.files import GatewayIssuerOption, PolicyFiles, policy_files
from gateway.cli.serve import ConfigOption, InsecureHttpOption

if TYPE_CHECKING:
    from gateway.policy.generation import Generation
    from gateway.policy.problems import PolicyProblems

MAX_LIMIT = 100_000

_PoliciesOption = typer.Option(
    None,
    "--policies",
    "-p",
    help="The folder that is meant within a git revision. Default: that of the settings, or policies/.",
)


def diff(
    old: str = typer.Argument(
        metavar="OLD", help="The policies before: a folder, a file, or a git revision such as main or HEAD~1."
    ),
    new: str = typer.Argument(
        "", metavar="NEW", show_default=False, help="The policies after, alike. Default: the folder of --policies."
    ),
    policies: Path | None = _PoliciesOption,
    config: Path | None = ConfigOption,
    gateway_issuer: str = GatewayIssuerOption,
    insecure_http: bool = InsecureHttpOption,
    exit_zero: bool = typer.Option(False, "--exit-zero", help="Exit with 0 also where there is a change of effect."),
    limit: int = typer.Option(200, min=1, max=MAX_LIMIT, help="So many of each sort are shown; the rest is counted."),
    output: str = typer.Option("text", "--output", "-o", help="text, json or markdown."),
) -> None:
    """Show what a change of the policies means: not the text, but the effect.

    Who gains and who loses which scopes at which resource, and by which trust rule; what everybody at an issuer gains
    comes first. Then issuers, guardrails, resources, roles, lifetimes, claims and credentials, and tests that come out
    otherwise. Rules that were moved, renamed or written otherwise are no change. Key files are compared by name.

    A folder or file of that name is what is meant; else it is a git revision, also as REVISION:FOLDER. A revision is
    read without running anything of the repository: no hook, no filter, no fetch.

    Exit code 0: no change of effect; 1: there is one, or NEW does not load, or OLD does not and nothing could be
    compared; 2: used wrongly. With --exit-zero a change, and an OLD that does not load, exit with 0.

        gateway policy diff main
        gateway policy diff HEAD~1 HEAD --policies org/policies
        gateway policy diff main:policies new-policies/ --output markdown
        gateway policy diff before/ after/ --output json --exit-zero
    """
    from gateway.cli.policy.diff_report import document_of, print_markdown, print_text
    from gateway.policy.diff import diff as compared
    from gateway.policy.problems import ConfigurationProblems, PolicyProblems

    if output not in {"text", "json", "markdown"}:
        raise typer.BadParameter("is text, json or markdown", param_hint="--output")
    try:
        chosen = _chosen(config, policies, gateway_issuer, insecure_http)
    except ConfigurationProblems as problems:
        raise typer.BadParameter(str(problems), param_hint="--config") from None
    with _side(old, chosen, "OLD") as before, _side(new or str(chosen.folder), chosen, "NEW") as after:
        generations = []
        for side, name in ((before, "old"), (after, "new")):
            try:
                with _doing(f"Loading {side.name}"):
                    generations.append(side.generation())
            except PolicyProblems as problems:
                _show_problems(problems, name, side, output)
                raise typer.Exit(0 if exit_zero and name == "old" else 1) from None
        with _doing("Comparing"):
            found = compared(*generations, folders=(before.root, after.root))
        document = document_of(found, (before, after), limit)
    if output == "json":
        print(json.dumps(document, indent=2))
    elif output == "markdown":
        print_markdown(document)
    else:
        print_text(document)
    if not found.is_empty and not exit_zero:
        raise typer.Exit(1)


class Side(NamedTuple):
    """One of the two that are compared: as it was named, where its files lie now, and what they are called."""

    name: str
    files: PolicyFiles
    is_nothing: bool
    """Whether there are no policy files: then everything is a gain."""
    shown: str
    """What stands for the folder of the files in what is shown."""

    @property
    def root(self) -> str:
        """The absolute folder that names of key files are relative to."""
        folder = self.files.folder.absolute()
        return str(folder.parent if folder.is_file() else folder)

    def file_name(self, file: str) -> str:
        """The name of a file as whoever asked knows it."""
        path, folder = Path(file), self.files.folder
        if path == folder:
            return self.shown
        return f"{self.shown.rstrip('/')}/{path.relative_to(folder)}" if path.is_relative_to(folder) else file

    def generation(self) -> "Generation":
        """The generation of the files, with their tests unplayed. Raises ``PolicyProblems``."""
        return _generation_of_nothing(self.files) if self.is_nothing else self.files.generation(keep_tests=True)


def _generation_of_nothing(files: PolicyFiles) -> "Generation":
    from gateway.identity.presets.common import is_reserved_audience
    from gateway.kinds import PRESETS
    from gateway.policy.compiler import compile_documents

    return compile_documents(
        (),
        presets=PRESETS,
        gateway_issuer=files.gateway_issuer,
        insecure_http=files.insecure_http,
        number=1,
        is_reserved_audience=is_reserved_audience,
    )


@contextmanager
def _doing(what: str) -> Iterator[None]:
    """Shows what takes its time, on a terminal."""
    from rich.console import Console

    from gateway.policy.problems import visible

    if not sys.stderr.isatty():
        yield
        return
    with Console(stderr=True, markup=False).status(visible(what)):
        yield


def _chosen(config: Path | None, policies: Path | None, gateway_issuer: str, insecure_http: bool) -> PolicyFiles:
    """The options of all commands. Two folders can be compared where there are no settings and no policies/."""
    from gateway.settings import DEFAULT_FILE

    if config is None and not Path(DEFAULT_FILE).exists():
        return PolicyFiles(policies or Path("policies"), gateway_issuer, insecure_http)
    return policy_files(config, policies, gateway_issuer, insecure_http)


@contextmanager
def _side(name: str, chosen: PolicyFiles, argument: str) -> Iterator[Side]:
    from gateway.cli.policy.revisions import RevisionError, copied
    from gateway.policy.files import policy_files as files_in

    path = Path(name)
    if _is_there(path):
        is_nothing = argument == "OLD" and path.is_dir() and not files_in(path, [])
        yield Side(name, chosen._replace(folder=path), is_nothing, name)
        return
    try:
        with copied(name, chosen.folder) as found:
            within = name if ":" in name else f"{name}:{chosen.folder}"
            yield Side(name, chosen._replace(folder=found.folder), found.is_empty and argument == "OLD", within)
    except RevisionError as error:
        raise typer.BadParameter(f"{name} {error}", param_hint=argument) from None


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # too long, or with a NUL character in it: no name of a file
        return False


def _show_problems(found: "PolicyProblems", which: str, side: Side, output: str) -> None:
    from gateway.cli.policy.diff_report import print_markdown_of_problems
    from gateway.cli.problems import as_json
    from gateway.policy.problems import ConfigurationProblems

    hidden, shown = str(side.files.folder), side.shown
    known = [
        replace(problem, file=side.file_name(problem.file), message=problem.message.replace(hidden, shown))
        for problem in found.problems
    ]
    if output == "json":
        told: dict[str, Any] = {"ok": False, "which": which, "problems": [as_json(one) for one in known]}
        print(json.dumps({**told, "left_out": found.left_out}, indent=2))
        return
    if output == "markdown":
        print_markdown_of_problems(which, side.name, known, found.left_out)
        return
    typer.echo(str(ConfigurationProblems(known, found.left_out)), err=True)
    typer.echo(f"{which.upper()} ({side.name}) does not load: what changes cannot be told.", err=True)
