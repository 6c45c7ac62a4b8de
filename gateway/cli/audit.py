"""``gateway audit``: whether the audit log is what was written, and what stands in it."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer

from gateway.cli.policy.audit_files import SinceOption, UntilOption
from gateway.cli.serve import ConfigOption, InsecureHttpOption

if TYPE_CHECKING:
    from gateway.audit.keys import PublicKeys
    from gateway.audit.search import Condition, Found
    from gateway.audit.verification import ChainReport, Checkpoint, Report

Output = Literal["text", "json"]
OutputOption = Annotated[Output, typer.Option("--output", "-o", help="text, or json for scripts.")]
FilesArgument = Annotated[
    list[str],
    typer.Argument(metavar="FILES...", help="Audit logs in any order, also compressed with gzip; - is standard input."),
]

_MAX_SHOWN = 50
_COLUMNS = ("time", "reason", "client_id", "issuer", "subject", "request_id")

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""The audit log: prove that it is what was written, and find what stands in it.

    Every line names the SHA-256 of the line before it. With `audit.key` the gateway signs a **checkpoint** every
    `audit.checkpoint_records` records or `audit.checkpoint_every`: everything up to it stands under that signature.""",
)


@app.command("verify")
def verify(
    files: FilesArgument,
    keys: Annotated[
        Path | None,
        typer.Option("--keys", help="JWK set with the public halves of the audit keys, kept elsewhere than the log."),
    ] = None,
    since_checkpoint: Annotated[
        Path | None,
        typer.Option("--since-checkpoint", help="Checkpoints of an earlier time, kept elsewhere: they must be there."),
    ] = None,
    save_checkpoint: Annotated[
        Path | None,
        typer.Option(
            "--save-checkpoint", help="If all is well, write the last checkpoint of every chain to this file."
        ),
    ] = None,
    allow_missing_start: Annotated[
        bool,
        typer.Option("--allow-missing-start", help="Older files were removed on purpose, by logrotate for example."),
    ] = False,
    output: OutputOption = "text",
) -> None:
    """Find any change, removal, insertion or reordering in audit logs, and say what is still proven.

    Give all files of a log at once, with those that were rotated. With **--keys** the signatures of checkpoints are
    checked; without it, only that the log fits together, which whoever wrote it anew would see to. A log whose end was
    cut off fits together, too: keep a checkpoint elsewhere now and then, and show it to the next run. Print the keys
    with `gateway audit key`.

        gateway audit verify /var/log/gateway/audit.jsonl* --keys audit-keys.json
        gateway audit verify audit.jsonl --keys keys.json --since-checkpoint last.json --save-checkpoint last.json
        kubectl logs deployment/gateway | gateway audit verify - --keys keys.json --output json

    Exit code 0: nothing is wrong, and with --keys every chain is signed; 1: something is wrong; 2: used wrongly.
    """
    from gateway.audit import verification

    known = _checkpoints(since_checkpoint) if since_checkpoint is not None else []
    public_keys = _public_keys(keys) if keys is not None else None
    # The checkpoints beside a log, and the keys, are no part of it, though a pattern finds them.
    chosen = _distinct(files)
    with _progress(chosen, "Verifying") as on_bytes:
        report = verification.verify(
            chosen, keys=public_keys, since=known, allow_missing_start=allow_missing_start, on_bytes=on_bytes
        )
    if not report.chains and not report.problems:
        raise typer.BadParameter("hold no line of an audit log", param_hint="FILES")
    if report.ok and save_checkpoint is not None:
        _save([chain.checkpoint for chain in report.chains], save_checkpoint)
    if output == "json":
        print(json.dumps(_as_json(report), indent=2))
    else:
        _show(report)
    if not report.ok:
        raise typer.Exit(1)


@app.command("search")
def search(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="[FIELD=VALUE]... FILES...",
            help="What to find, and where: fields of a record, claims as /name, * for any text in a value.",
        ),
    ],
    request: Annotated[str | None, typer.Option("--request", help="The `request_id` of one answer.")] = None,
    since: str | None = SinceOption,
    until: str | None = UntilOption,
    limit: Annotated[int, typer.Option("--limit", min=0, help="Stop after so many; 0 for all.")] = 0,
    output: OutputOption = "text",
) -> None:
    """Find records by any field and any claim.

    All conditions have to hold. A value is compared as text; `*` stands for any text, a list fits by one member, and
    nothing after the `=` finds records without the field. With **--output json** the lines come as they were written.

        gateway audit search client_id=web-deployer decision=denied /var/log/gateway/audit.jsonl* --since 1d
        gateway audit search --request gT_RTNgmboDdklOBdDFAFw audit.jsonl
        gateway audit search /repository_id=1296269 'subject=*:environment:production' audit.jsonl audit.jsonl.1.gz
        gateway audit search reason=no_matching_trust audit.jsonl --output json | jq .detail

    Exit code 0: something was found; 1: nothing was; 2: used wrongly.
    """
    from gateway.audit.search import Condition
    from gateway.audit.search import search as find
    from gateway.cli.policy.audit_files import period

    within = period(since, until)
    conditions, files = _sorted_out(arguments)
    if request is not None:
        conditions.append(Condition("request_id", request))
    if not files:
        raise typer.BadParameter("names no file to search", param_hint="FILES")
    count = 0
    with _progress(files, "Searching") as on_bytes:
        for found in find(files, conditions, within.holds if since or until else None, on_bytes):
            _print_found(found, output)
            count += 1
            if count == limit:
                break
    if count == 0:
        typer.echo("Nothing was found.", err=True)
        raise typer.Exit(1)


@app.command("key")
def key(config: Path | None = ConfigOption, insecure_http: bool = InsecureHttpOption) -> None:
    """Print the public half of the audit key as a JWK set, for `gateway audit verify --keys`.

    Keep it where whoever can change the log cannot change it. After the key was replaced, put the new one beside the
    old one in `keys`: older checkpoints stay signed with the old one.

        gateway audit key --config gateway.yaml > audit-keys.json
    """
    from gateway.audit.base import SinkError
    from gateway.cli.problems import exit_with_problems
    from gateway.kinds import AUDIT_KEYS, scheme
    from gateway.policy.problems import ConfigurationProblems
    from gateway.settings import load_settings

    try:
        url = load_settings(config, insecure_http=insecure_http).audit.key
    except ConfigurationProblems as problems:
        exit_with_problems(problems)
        return
    if url is None:
        _fail("audit.key is not set: nothing signs the log")
    if not Path(url.removeprefix("file://")).exists():
        _fail(f"{url} is not there yet: the gateway makes it when it starts")
    try:
        print(json.dumps({"keys": [AUDIT_KEYS[scheme(url)](url).public_jwk()]}, indent=2))
    except SinkError as error:
        _fail(str(error))


# ---------------------------------------------------------------- what is given


def _distinct(files: Sequence[str]) -> list[str]:
    """Each file once, without those beside a log that are none."""
    from gateway.audit.rotation import KEYS_SUFFIX

    return list(dict.fromkeys(file for file in files if not file.endswith(KEYS_SUFFIX)))


def _public_keys(file: Path) -> "PublicKeys":
    from gateway.audit.keys import PublicKeys

    try:
        return PublicKeys.parse(file.read_bytes())
    except OSError as error:
        raise typer.BadParameter(f"{file}: {error.strerror}", param_hint="--keys") from None
    except ValueError as error:
        raise typer.BadParameter(f"{file} is no JWK set with Ed25519 keys: {error}", param_hint="--keys") from None


def _checkpoints(file: Path) -> list["Checkpoint"]:
    from gateway.audit.verification import MAX_CHECKPOINT_FILE_BYTES, parse_checkpoints

    try:
        with file.open("rb") as opened:
            return parse_checkpoints(opened.read(MAX_CHECKPOINT_FILE_BYTES))
    except OSError as error:
        raise typer.BadParameter(f"{file}: {error.strerror}", param_hint="--since-checkpoint") from None
    except ValueError as error:
        raise typer.BadParameter(f"{file}: {error}", param_hint="--since-checkpoint") from None


def _sorted_out(arguments: Sequence[str]) -> tuple[list["Condition"], list[str]]:
    """Conditions and files. What names a file that is there is one, whatever it looks like."""
    from gateway.audit.search import parse_condition

    files = [one for one in arguments if "=" not in one or Path(one).exists()]
    try:
        return [parse_condition(one) for one in arguments if one not in files], _distinct(files)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="FIELD=VALUE") from None


@contextmanager
def _progress(files: Sequence[str], doing: str) -> Iterator[Callable[[int], None]]:
    """Shows how far it is, on a terminal. Raises ``typer.BadParameter`` for a file that cannot be read."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    from gateway.audit.reading import bytes_of

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    try:
        total = bytes_of(files)
        console = Console(stderr=True)
        with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as progress:
            task = progress.add_task(doing, total=total)
            yield lambda count: progress.advance(task, count)
    except OSError as error:
        if error.filename is None:  # not of a file that was named here: a pipe that broke
            raise
        raise typer.BadParameter(f"{error.filename}: {error.strerror}", param_hint="FILES") from None


# ---------------------------------------------------------------- what is told


def _show(report: "Report") -> None:
    from gateway.policy.problems import visible

    for chain in report.chains:
        print(f"{chain.name}: {chain.lines:,} lines, {chain.first:,} to {chain.last:,}")
        for line in _proven_in_words(chain, report):
            print(f"  {line}")
    for note in report.notes[:_MAX_SHOWN]:
        print(visible(f"note: {note.place}: {note.message}" if note.place else f"note: {note.message}"))
    _tell_of_more(report.note_counts.total(), "notes")
    for problem in report.problems[:_MAX_SHOWN]:
        print(visible(f"PROBLEM: {problem.place or problem.chain}: {problem.message} [{problem.what}]"))
    _tell_of_more(report.problem_counts.total(), "problems")
    print(_verdict(report))


def _proven_in_words(chain: "ChainReport", report: "Report") -> Iterator[str]:
    for one in chain.proven:
        signed = f"signed by {one.signed_by}" if report.signatures_checked else "signature not checked"
        word = "proven" if report.signatures_checked else "consistent"
        yield f"{word} from {one.first:,} to {one.last:,}: checkpoint of {one.time} at {one.checkpoint}, {signed}"
    if not chain.proven:
        yield "no checkpoint: nothing shows who wrote it"


def _tell_of_more(count: int, what: str) -> None:
    if count > _MAX_SHOWN:
        print(f"... {count:,} {what} in all")


def _verdict(report: "Report") -> str:
    if not report.ok:
        count = report.problem_counts.total()
        return f"Not proven: {count:,} problem{'s' if count > 1 else ''} in {report.lines:,} lines."
    if report.signatures_checked:
        return f"Proven: {report.lines:,} lines are what was written, but for ends without a checkpoint."
    return (
        f"Consistent: {report.lines:,} lines fit together. This proves no more than that: without --keys, somebody who "
        "wrote the whole log anew is not found out."
    )


def _as_json(report: "Report") -> dict[str, Any]:
    from gateway.audit.verification import checkpoint_as_json

    def place(found: Any) -> dict[str, Any]:
        return {"file": found.file, "line": found.line or None} if found else {"file": None, "line": None}

    return {
        "ok": report.ok,
        "signatures": "checked" if report.signatures_checked else "not_checked",
        "lines": report.lines,
        "chains": [
            {
                "chain": chain.name,
                "first": chain.first,
                "last": chain.last,
                "lines": chain.lines,
                "unsigned_lines": chain.unsigned_lines,
                "proven": [
                    {
                        "first": one.first, "last": one.last, "time": one.time, "key_id": one.signed_by,
                        **place(one.checkpoint),
                    }
                    for one in chain.proven
                ],
                "checkpoint": checkpoint_as_json(chain.checkpoint),
            }
            for chain in report.chains
        ],
        "problems": [
            {
                "what": one.what, **place(one.place), "chain": one.chain, "sequence": one.sequence,
                "message": one.message,
            }
            for one in report.problems
        ],
        "problem_counts": dict(report.problem_counts),
        "notes": [
            {"what": one.kind, **place(one.place), "chain": one.chain, "message": one.message} for one in report.notes
        ],
        "note_counts": dict(report.note_counts),
    }  # fmt: skip


def _save(checkpoints: Sequence["Checkpoint"], file: Path) -> None:
    """Whole, or as it was: an earlier checkpoint in the file is worth keeping until there is a later one."""
    from gateway.audit.verification import checkpoint_as_json

    new = file.with_name(f".{file.name}.new")
    try:
        new.write_text("".join(json.dumps(checkpoint_as_json(one)) + "\n" for one in checkpoints), encoding="utf-8")
        new.replace(file)
    except OSError as error:
        _fail(f"{file}: {error.strerror}")


def _print_found(found: "Found", output: Output) -> None:
    from gateway.policy.problems import visible

    if output == "json":
        # On a terminal, characters beyond ASCII could be more than letters.
        on_terminal = sys.stdout.isatty()
        print(json.dumps(found.document) if on_terminal else found.text.decode("utf-8", "replace"))
        return
    told = found.document if found.document.get("endpoint") != "audit" else {"reason": found.document.get("event")}
    time, *others = (told.get(name, found.document.get(name)) for name in _COLUMNS)
    print(visible("  ".join([str(time or "-"), *(_cell(one) for one in others)])))


def _cell(value: Any) -> str:
    return value if isinstance(value, str) and value else "-"


def _fail(message: str) -> NoReturn:
    from gateway.policy.problems import visible

    typer.echo(f"gateway: {visible(message)}", err=True)
    raise typer.Exit(1)
