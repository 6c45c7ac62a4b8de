"""``gateway client``: secrets of service accounts, made, listed, ended, and rotated in secret stores.

A secret in clear goes to standard output once, or into a secret store; everything else goes to standard error.
"""

import asyncio
import json
import os
import secrets
import sys
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn, TypeVar

import typer

from gateway.cli.serve import ConfigOption, InsecureHttpOption
from gateway.clock import SteadyClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gateway.identity.clients.stored_secrets import SecretRegister
    from gateway.model import RegisteredSecret
    from gateway.policy.documents import RotationSchedule
    from gateway.policy.generation import Generation, ServiceAccount
    from gateway.rotation.progress import Progress
    from gateway.rotation.rotation import Order, Rotated
    from gateway.settings import Settings
    from gateway.state.base import State

Output = Literal["text", "json"]
Answer = TypeVar("Answer")

DAY_SECONDS = 86400
EXPIRES_SOON_SECONDS = 14 * DAY_SECONDS

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The service account: the client_id.")]
OutputOption = Annotated[Output, typer.Option("--output", "-o", help="text, or json for scripts.")]
OverlapOption = Annotated[
    str | None, typer.Option(metavar="DURATION", help="How long the secrets before go on working. Default 24h.")
]
ExpiresOption = Annotated[
    str | None,
    typer.Option(metavar="DURATION", help="How long the new secret works, such as 90d. Default: until it is ended."),
]

Asked = Callable[[str, str], Coroutine[Any, Any, bool]]
"""Whether the gateway takes a client's secret."""

_now = SteadyClock()

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Secrets of classic machine clients: made, listed, ended, rotated.

    A service account may have several secrets at once, so that nothing breaks while one takes the place of another:
    make a new one, let the old one work for an overlap, give the new one to the client. Only digests are kept, in the
    shared state of the gateways or in policy files.""",
)


@app.command("new-secret")
def new_secret(
    *,
    name: NameArgument,
    expires: ExpiresOption = None,
    overlap: OverlapOption = None,
    id_: Annotated[
        str | None,
        typer.Option("--id", metavar="ID", help="Its name in lists and records. Default: the day and eight digits."),
    ] = None,
    to_policy: Annotated[
        bool, typer.Option("--to-policy", help="Print the line for a policy file, and change nothing.")
    ] = False,
    config: Path | None = ConfigOption,
    insecure_http: bool = InsecureHttpOption,
    output: OutputOption = "text",
) -> None:
    """Make a secret, print it once, and let the ones before end.

    The secret goes to standard output and is kept nowhere; its digest is registered in the shared state, and every
    gateway takes it within a second. All older secrets that would live longer end after the overlap.

        gateway client new-secret nightly-backup --expires 90d --overlap 24h
        gateway client new-secret nightly-backup --to-policy

    With --to-policy the digest is printed as a line for `credentials.secrets` of the service account, for a pull
    request, together with the lines there that should be given an end.
    """
    from gateway.policy.documents import duration_text

    lifetime, overlap_seconds = _duration(expires, "--expires"), _duration(overlap, "--overlap")
    overlap_seconds = DAY_SECONDS if overlap_seconds is None else overlap_seconds
    if lifetime is not None and lifetime <= overlap_seconds:
        raise typer.BadParameter(
            f"the new secret would end before the ones that it replaces: make it longer than --overlap "
            f"({duration_text(overlap_seconds)})",
            param_hint="--expires",
        )
    house = _house(config, insecure_http=insecure_http)
    account = _account(house, name)
    secret_id = _checked_id(id_)
    if not to_policy:
        _check_shared(house, f"gateway client new-secret {name} --to-policy")
    _run(_new_secret(house, account, secret_id, lifetime, overlap_seconds, to_policy=to_policy, output=output))


@app.command("list")
def list_(
    *,
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="One service account. Default: all.")] = None,
    config: Path | None = ConfigOption,
    insecure_http: bool = InsecureHttpOption,
    output: OutputOption = "text",
) -> None:
    """List secrets: how old they are, when they end, when they were last used, and what is due.

    Due is: **expired**; **expires soon** (within 14 days, and no newer secret lives longer); **overlap** (it ends, and
    a newer one takes over: make sure that the client has the newer one); **rotation overdue** (older than
    `credentials.rotate.every` says); **never used** (a day after it was made).

        gateway client list
        gateway client list nightly-backup --output json
    """
    house = _house(config, insecure_http=insecure_http)
    if name is not None:
        _account(house, name)
    _run(_list(house, name, output))


@app.command("expire")
def expire(
    *,
    name: NameArgument,
    secret_id: Annotated[str, typer.Argument(metavar="ID", help="Which of its secrets: see gateway client list.")],
    at: Annotated[
        str | None,
        typer.Option(metavar="WHEN", help="2026-12-01, 2026-12-01T06:00:00Z, or a duration from now. Default: now."),
    ] = None,
    config: Path | None = ConfigOption,
    insecure_http: bool = InsecureHttpOption,
    output: OutputOption = "text",
) -> None:
    """End a secret, at once or at a time. It is never made to live longer.

    Takes effect in every gateway within a second. Access tokens that were got with it live on until they expire by
    themselves. A secret in a policy file is ended there: this tells file and line, and exits with 1.

        gateway client expire nightly-backup 2026-11-25-5e0f9a61
        gateway client expire nightly-backup s1 --at 2026-12-01T06:00:00Z
    """
    now = _now()
    ends_at = now if at is None else _time(at, now)
    house = _house(config, insecure_http=insecure_http)
    account = _account(house, name)
    held = next((one for one in _in_policy(account) if one.secret.id == secret_id), None)
    if held is not None:
        _fail(
            f"{secret_id} stands in {held.file}:{held.line}. Give it there "
            f"`expires: {_day(ends_at, up=False)}` (or remove the line), and let the gateways reload."
        )
    _check_shared(house, "the policy files: a secret in memory ends with its process")
    _run(_expire(house, name, secret_id, ends_at, output))


@app.command("rotate")
def rotate(
    *,
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="The service account: the client_id.", show_default=False)
    ] = None,
    to: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help="A secret store; may be repeated. Default: those of credentials.rotate."),
    ] = None,
    overlap: OverlapOption = None,
    expires: ExpiresOption = None,
    every: Annotated[
        str | None, typer.Option(metavar="DURATION", help="With --if-due: how long after one rotation the next is due.")
    ] = None,
    if_due: Annotated[bool, typer.Option("--if-due", help="Do nothing, and exit with 0, unless it is due.")] = False,
    due: Annotated[
        bool, typer.Option("--due", help="Rotate all service accounts that are due by credentials.rotate.")
    ] = False,
    gateway: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Where new secrets are tried. Default: the issuer of the settings."),
    ] = None,
    ca_file: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Trust the authorities in this file for --gateway.")
    ] = None,
    config: Path | None = ConfigOption,
    insecure_http: bool = InsecureHttpOption,
    output: OutputOption = "text",
) -> None:
    """Give a client a new secret in the secret stores that it reads from.

    The new secret is registered, put into the stores as pending, tried at the gateway, made current; the ones before
    end after the overlap. Whatever happens on the way, what the stores have as current works, and the next run goes on.

        gateway client rotate nightly-backup --to kubernetes://storage/nightly-backup
        gateway client rotate nightly-backup --if-due --every 90d --to vault://secret/apps/nightly-backup
        gateway client rotate --due        # what a CronJob runs daily

    Stores: `aws-secretsmanager://NAME-or-ARN?region=...`, `azure-keyvault://vault-name/secret-name`,
    `kubernetes://namespace/name?key=client_secret`, `vault://mount/path?address=...`. Each logs in as its platform's
    tools do; no secret is given on a command line.
    """
    if due and (name or to or overlap or expires or every or if_due):
        raise typer.BadParameter("--due takes everything from the policies: leave the rest out.")
    if not due and not name:
        raise typer.BadParameter("Name a service account, or say --due.")
    house = _house(config, insecure_http=insecure_http)
    _check_shared(house, "gateway client new-secret --to-policy and a pull request")
    if due:
        jobs = [_scheduled(house, account) for account in house.generation.service_accounts.values() if _plan(account)]
        if not jobs:
            typer.echo("No service account has credentials.rotate: nothing to do.", err=True)
    else:
        account = _account(house, name or "")
        jobs = [_ordered(house, account, to, overlap, expires, every, if_due=if_due)]
    ask = _endpoint(gateway or house.settings.issuer, ca_file, insecure_http=insecure_http)
    failed = _run(_rotate(house, jobs, ask, output))
    if failed:
        raise typer.Exit(1)


# ---------------------------------------------------------------- settings, policies, state


@dataclass(frozen=True, slots=True)
class _House:
    """What the commands work on: the settings and the policies in force."""

    settings: "Settings"
    generation: "Generation"


@dataclass(frozen=True, slots=True)
class _Held:
    """A secret, and where it is kept: in a policy file at a line, or (file empty) in the shared state."""

    client_id: str
    secret: "RegisteredSecret"
    file: str = ""
    line: int = 0

    @property
    def lives_in(self) -> str:
        """In words."""
        return f"{self.file}:{self.line}" if self.file else "state"


def _house(config: Path | None, *, insecure_http: bool) -> _House:
    from gateway.cli.policy.files import generation_of
    from gateway.cli.problems import exit_with_problems
    from gateway.policy.problems import ConfigurationProblems
    from gateway.settings import load_settings

    try:
        settings = load_settings(config, insecure_http=insecure_http)
        with _busy("loading the policies"):
            generation = generation_of(settings, insecure_http=insecure_http)
    except ConfigurationProblems as problems:
        exit_with_problems(problems)
        raise
    return _House(settings, generation)


def _account(house: _House, name: str) -> "ServiceAccount":
    from gateway.policy.problems import nearest

    account = house.generation.service_accounts.get(name)
    if account is None:
        meant = nearest(name, house.generation.service_accounts)
        raise typer.BadParameter(
            f"The policies have no service account {name}{f'; did you mean {meant}?' if meant else '.'}"
        )
    return account


def _check_shared(house: _House, instead: str) -> None:
    """Refuses where nothing is shared: a secret registered here would be known to this process alone."""
    from gateway.kinds import scheme

    if scheme(house.settings.state) == "memory":
        _fail(
            "the settings say `state: memory://`, which no gateway shares. Use `state: redis://host:6379/0`, or "
            f"`state: sqlite:///var/lib/gateway/state.db` for gateways of one machine; or else {instead}."
        )


@asynccontextmanager
async def _state(house: _House) -> "AsyncIterator[State]":
    from gateway.kinds import STATE_BACKENDS, scheme

    state = STATE_BACKENDS[scheme(house.settings.state)](house.settings.state, _now)
    try:
        yield state
    finally:
        await state.close()


@asynccontextmanager
async def _register(house: _House) -> "AsyncIterator[SecretRegister]":
    from gateway.identity.clients.stored_secrets import SecretRegister

    async with _state(house) as state:
        yield SecretRegister(state, _now)


def _in_policy(account: "ServiceAccount") -> list[_Held]:
    """The secrets of an account that stand in its policy file, each with its line."""
    registered = account.registered.secrets if account.registered is not None else ()
    if not registered:
        return []
    lines = list(_lines_of_secrets(account))
    return [
        _Held(account.name, secret, account.place.file, lines[position] if position < len(lines) else 0)
        for position, secret in enumerate(registered)
    ]


def _lines_of_secrets(account: "ServiceAccount") -> Iterator[int]:
    from gateway.policy.yaml_reader import lines_of, nearest_line, read_documents

    assert account.registered is not None
    text = Path(account.place.file).read_text(encoding="utf-8-sig")
    for document in read_documents(text, account.place.file, []):
        value = document.value
        if isinstance(value, dict) and (value.get("kind"), value.get("name")) == ("ServiceAccount", account.name):
            lines = lines_of(text, {document.number})[document.number]
            for position in range(len(account.registered.secrets)):
                yield nearest_line(lines, ("credentials", "secrets", position))


# ---------------------------------------------------------------- new-secret


async def _new_secret(
    house: _House,
    account: "ServiceAccount",
    secret_id: str | None,
    lifetime: int | None,
    overlap_seconds: int,
    *,
    to_policy: bool,
    output: Output,
) -> None:
    from gateway.model import RegisteredSecret
    from gateway.oauth.client_secret import new_client_secret, secret_digest
    from gateway.rotation.rotation import ends_with, new_secret_id

    now = float(int(_now()))
    secret = new_client_secret(secrets.token_bytes)
    new = RegisteredSecret(
        secret_id or new_secret_id(now, secrets.token_bytes),
        secret_digest(secret),
        now,
        None if lifetime is None else now + lifetime,
    )
    ends_at = now + overlap_seconds
    held = _in_policy(account)
    if to_policy:
        ending = [one for one in held if ends_with(new, one.secret, ends_at)]
        _check_free(new.id, held)
        _show_secret(account.name, secret, new, ending, ends_at, output, where="policy")
        _say(f"Put this line into credentials.secrets of {account.name} in {account.place.file}:")
        _say(f"  {_policy_line(new)}")
        _tell_policy_lines(ending, ends_at)
        return
    async with _register(house) as register:
        held += [_Held(account.name, one) for one in await register.of(account.name)]
        _check_free(new.id, held)
        ending = [one for one in held if ends_with(new, one.secret, ends_at)]
        if not await register.add(account.name, new):
            _fail(f"somebody has just made a secret {new.id} of {account.name}: run this again")
        try:
            _show_secret(account.name, secret, new, ending, ends_at, output, where="state")
        except OSError:
            _drop_output()
            await register.end(account.name, new.id, now)
            _fail("the secret could not be printed, so it was ended at once; the ones before work on")
        for one in ending:
            if not one.file:
                await register.end(account.name, one.secret.id, ends_at)
                _say(f"{one.secret.id} ends {_when(ends_at)}.")
    _tell_policy_lines([one for one in ending if one.file], ends_at)


def _show_secret(
    client_id: str,
    secret: str,
    new: "RegisteredSecret",
    ending: Sequence[_Held],
    ends_at: float,
    output: Output,
    *,
    where: str,
) -> None:
    """Prints the secret, this one time. Raises ``OSError`` where it cannot."""
    if output == "json":
        shown: dict[str, Any] = {
            "client_id": client_id,
            "id": new.id,
            "client_secret": secret,
            "lives_in": where,
            "created": _when(new.created_at),
            "expires": _when(new.expires_at),
            "ending": [{"id": one.secret.id, "expires": _when(ends_at)} for one in ending if not one.file],
            "to_be_ended_in_policy_files": [
                {"id": one.secret.id, "lives_in": one.lives_in, "expires": _day(ends_at, up=True)}
                for one in ending
                if one.file
            ],
        }
        if where == "policy":
            shown["policy_line"] = _policy_line(new)
        print(json.dumps(shown, indent=2), flush=True)
    else:
        print(secret, flush=True)
        end = f"works until {_when(new.expires_at)}" if new.expires_at is not None else "works until it is ended"
        _say(f"The secret {new.id} of {client_id} {end}. It is shown this once and kept nowhere.")


def _policy_line(new: "RegisteredSecret") -> str:
    created = f", created: {_day(new.created_at, up=False)}" if new.created_at is not None else ""
    expires = f", expires: {_day(new.expires_at, up=False)}" if new.expires_at is not None else ""
    return f'- {{id: {new.id}, digest: "{new.digest}"{created}{expires}}}'


def _tell_policy_lines(ending: Iterable[_Held], ends_at: float) -> None:
    """Which lines of policy files should be given an end: no command changes a policy file."""
    for one in ending:
        _say(f"{one.lives_in}: give {one.secret.id} `expires: {_day(ends_at, up=True)}`, or it goes on working.")


def _check_free(secret_id: str, held: Iterable[_Held]) -> None:
    for one in held:
        if one.secret.id == secret_id:
            raise typer.BadParameter(f"{one.client_id} has a secret {secret_id} already ({one.lives_in}).")


# ---------------------------------------------------------------- list


@dataclass(frozen=True, slots=True)
class _Row:
    """One line of the list."""

    held: _Held
    last_used_at: float | None
    due: tuple[str, ...]


async def _list(house: _House, name: str | None, output: Output) -> None:
    from gateway.kinds import scheme

    accounts = house.generation.service_accounts
    held = [one for account in accounts.values() if name in {None, account.name} for one in _in_policy(account)]
    uses: Mapping[tuple[str, str], float] | None = None
    if scheme(house.settings.state) == "memory":
        _say("The state is memory://: secrets there and last uses are known to the gateway's own process alone.")
    else:
        async with _register(house) as register:
            stored, uses = await register.all()
        held += [_Held(one.client_id, one.secret) for one in stored if name in {None, one.client_id}]
    now = _now()
    schedules = {account.name: _plan(account) for account in accounts.values()}
    rows = [
        _Row(
            one,
            (uses or {}).get((one.client_id, one.secret.id)),
            _due(one, held, schedules.get(one.client_id), uses, now, is_account=one.client_id in accounts),
        )
        for one in sorted(held, key=lambda one: (one.client_id, one.secret.created_at or 0, one.secret.id))
    ]
    if output == "json":
        print(json.dumps([_json_row(row) for row in rows], indent=2))
    elif rows:
        _print_table(rows, now)
    else:
        _say(f"{name or 'No service account'} has {'no' if name else 'a'} secret.")


def _due(
    one: _Held,
    held: Sequence[_Held],
    schedule: "RotationSchedule | None",
    uses: Mapping[tuple[str, str], float] | None,
    now: float,
    *,
    is_account: bool,
) -> tuple[str, ...]:
    """What is to be done about a secret, in the words of the help."""
    secret, found = one.secret, []
    age = now - secret.created_at if secret.created_at is not None else None
    newer = [
        other.secret
        for other in held
        if other.client_id == one.client_id and (other.secret.created_at or 0) > (secret.created_at or 0)
    ]
    if not is_account:
        found.append("no such service account")
    if secret.expires_at is not None and secret.expires_at <= now:
        return (*found, "expired")
    if secret.expires_at is not None and any((other.expires_at or now + 1e12) > secret.expires_at for other in newer):
        return (*found, "overlap")
    if secret.expires_at is not None and secret.expires_at - now < EXPIRES_SOON_SECONDS:
        found.append("expires soon")
    if schedule is not None and not newer and age is not None and age > schedule.every + DAY_SECONDS:
        found.append("rotation overdue")
    if uses is not None and (one.client_id, secret.id) not in uses and age is not None and age > DAY_SECONDS:
        found.append("never used")
    return tuple(found)


def _json_row(row: _Row) -> dict[str, object]:
    secret = row.held.secret
    return {
        "client_id": row.held.client_id,
        "id": secret.id,
        "lives_in": row.held.lives_in,
        "created": _when(secret.created_at),
        "expires": _when(secret.expires_at),
        "last_used": _when(row.last_used_at),
        "due": list(row.due),
    }


def _print_table(rows: Sequence[_Row], now: float) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("client", "id", "lives in", "created", "age", "expires", "last use", "due"):
        table.add_column(heading, no_wrap=heading in {"client", "id", "lives in", "expires"}, overflow="fold")
    for row in rows:
        secret = row.held.secret
        cells = (
            row.held.client_id,
            secret.id,
            row.held.lives_in,
            _day(secret.created_at, up=False) if secret.created_at is not None else "",
            _span(now - secret.created_at) if secret.created_at is not None else "",
            _when(secret.expires_at) or "never",
            f"{_span(now - row.last_used_at)} ago" if row.last_used_at is not None else "",
        )
        due = Text(", ".join(row.due), style="" if row.due in {(), ("overlap",)} else "yellow")
        table.add_row(*(Text(cell) for cell in cells), due)
    # Ids are there to be copied, and a pipe has no width: neither is wrapped.
    console = Console()
    console.print(table, crop=False, width=None if console.is_terminal else 10_000)


# ---------------------------------------------------------------- expire


async def _expire(house: _House, name: str, secret_id: str, ends_at: float, output: Output) -> None:
    from gateway.policy.problems import nearest

    async with _register(house) as register:
        held = {one.id: one for one in await register.of(name)}
        found = held.get(secret_id)
        if found is None:
            meant = nearest(secret_id, held)
            _fail(f"{name} has no secret {secret_id}" + (f"; did you mean {meant}?" if meant else "."))
        if found.expires_at is not None and found.expires_at <= ends_at:
            ends_at = found.expires_at
        await register.end(name, secret_id, ends_at)
    if output == "json":
        print(json.dumps({"client_id": name, "id": secret_id, "expires": _when(ends_at)}, indent=2))
    else:
        ended = "has ended" if ends_at <= _now() else "ends"
        print(f"{secret_id} of {name} {ended} {_when(ends_at)}.")


# ---------------------------------------------------------------- rotate


@dataclass(frozen=True, slots=True)
class _Job:
    """A rotation to be run, at once or if it is due after so many seconds."""

    account: "ServiceAccount"
    order: "Order"
    every_seconds: int | None


def _plan(account: "ServiceAccount") -> "RotationSchedule | None":
    return account.credentials.rotate if account.credentials is not None else None


def _scheduled(house: _House, account: "ServiceAccount") -> _Job:
    return _ordered(house, account, None, None, None, None, if_due=True)


def _ordered(
    house: _House,
    account: "ServiceAccount",
    to: Sequence[str] | None,
    overlap: str | None,
    expires: str | None,
    every: str | None,
    *,
    if_due: bool,
) -> _Job:
    """What is asked for; what is left out is taken from the policy."""
    from gateway.rotation.rotation import PROVISIONAL_SECONDS, Order

    plan = _plan(account)
    targets = tuple(dict.fromkeys(to or ())) or (plan.to if plan is not None else ())
    if not targets:
        raise typer.BadParameter(f"Say --to, or give {account.name} credentials.rotate in {account.place.file}.")
    for url in targets:
        _check_target(url)
    overlap_seconds = _duration(overlap, "--overlap")
    if overlap_seconds is None:
        overlap_seconds = plan.overlap if plan is not None else DAY_SECONDS
    every_seconds = _duration(every, "--every")
    if every_seconds is None and plan is not None:
        every_seconds = plan.every
    if if_due and every_seconds is None:
        raise typer.BadParameter(f"--if-due needs --every, or credentials.rotate of {account.name}.")
    lifetime = _duration(expires, "--expires")
    if lifetime is not None and lifetime < PROVISIONAL_SECONDS:
        raise typer.BadParameter("--expires is at least 1h: the new secret has to outlive its own rotation.")
    return _Job(account, Order(account.name, targets, overlap_seconds, lifetime), every_seconds if if_due else None)


def _check_target(url: str) -> None:
    from gateway.kinds import SECRET_STORES, scheme
    from gateway.policy.problems import nearest
    from gateway.rotation.base import SecretStoreError

    kind = scheme(url)
    if kind not in SECRET_STORES or "://" not in url:
        meant = nearest(kind, SECRET_STORES)
        hint = f"did you mean {meant}://?" if meant else f"there are {', '.join(f'{one}://' for one in SECRET_STORES)}"
        raise typer.BadParameter(f"{kind}:// is no secret store; {hint}", param_hint="--to")
    try:
        SECRET_STORES[kind](url)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--to") from None
    except SecretStoreError:
        pass  # a setting is missing: this is told of each store when its turn comes


def _endpoint(url: str, ca_file: Path | None, *, insecure_http: bool) -> Asked:
    from gateway.client.errors import Misuse
    from gateway.client.fetch import check_url
    from gateway.rotation.probe import SecretProbe

    try:
        check_url(url, insecure_http=insecure_http)
    except Misuse as fault:
        raise typer.BadParameter(str(fault), param_hint="--gateway") from None
    ca = str(ca_file) if ca_file is not None else None
    return SecretProbe(url, ca_file=ca, insecure_http=insecure_http).authenticates


async def _rotate(house: _House, jobs: Sequence[_Job], ask: Asked, output: Output) -> int:
    """Runs every job, whatever becomes of the others. Returns how many failed."""
    from gateway.rotation.base import SecretStoreError
    from gateway.rotation.progress import RotationError, read_progress
    from gateway.state.base import StateUnavailableError

    results: list[dict[str, Any]] = []
    failed = 0
    async with _state(house) as state:
        recorded = await read_progress(state)
        for job in jobs:
            name = job.order.client_id
            try:
                results.append(await _rotate_one(state, job, recorded.get(name), ask))
            except (RotationError, SecretStoreError, StateUnavailableError, ValueError) as error:
                failed += 1
                results.append({"client_id": name, "rotated": False, "error": str(error)})
                _say(f"{name}: {error}")
    if output == "json":
        print(json.dumps(results, indent=2))
    return failed


async def _rotate_one(
    state: "State",
    job: _Job,
    recorded: "Progress | None",
    ask: Asked,
) -> dict[str, Any]:
    from gateway.identity.clients.stored_secrets import SecretRegister
    from gateway.kinds import SECRET_STORES, scheme
    from gateway.rotation.rotation import Rotation
    from gateway.rotation.schedule import Schedule, why_due

    name, order = job.order.client_id, job.order
    register = SecretRegister(state, _now)
    in_policy = _in_policy(job.account)
    if job.every_seconds is not None:
        schedule = Schedule(job.every_seconds, order.overlap_seconds, order.targets)
        why = why_due(schedule, recorded, await register.of(name), _now())
        if why is None:
            _say(f"{name}: not due")
            return {"client_id": name, "rotated": False, "error": None}
        _say(f"{name}: {why}")
    if recorded is not None:
        for url in sorted(set(recorded.targets) - set(order.targets)):
            _say(f"{name}: {url} had the secret before and gets no new one: what it holds ends after the overlap")
    rotation = Rotation(
        order,
        open_store=lambda url: SECRET_STORES[scheme(url)](url),
        secrets=register,
        records=state,
        authenticates=ask,
        clock=_now,
        random_bytes=secrets.token_bytes,
        known=[one.secret for one in in_policy],
        report=lambda text: _say(f"{name}: {text}"),
    )
    with _busy(f"rotating {name}"):
        rotated = await rotation.run()
    left = [one for one in in_policy if (one.secret.expires_at or rotated.others_end_at + 1) > rotated.others_end_at]
    _tell_policy_lines(left, rotated.others_end_at)
    return _json_rotated(rotated, left)


def _json_rotated(rotated: "Rotated", left: Sequence[_Held]) -> dict[str, Any]:
    return {
        "client_id": rotated.client_id,
        "rotated": True,
        "error": None,
        "id": rotated.secret_id,
        "targets": list(rotated.targets),
        "expires": _when(rotated.expires_at),
        "others_end": _when(rotated.others_end_at),
        "ending": list(rotated.ending),
        "to_be_ended_in_policy_files": [{"id": one.secret.id, "lives_in": one.lives_in} for one in left],
    }


# ---------------------------------------------------------------- time, words, exits


def _duration(text: str | None, option: str) -> int | None:
    from gateway.policy.documents import parse_duration

    if text is None:
        return None
    try:
        return parse_duration(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r}: {error}", param_hint=option) from None


def _time(text: str, now: float) -> float:
    from gateway.policy.documents import parse_duration

    try:
        return now + parse_duration(text)
    except ValueError:
        pass
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is no time: 2026-12-01, 2026-12-01T06:00:00Z or 24h", param_hint="--at"
        ) from None
    return (found if found.tzinfo is not None else found.replace(tzinfo=UTC)).timestamp()


def _checked_id(text: str | None) -> str | None:
    from pydantic import TypeAdapter, ValidationError

    from gateway.policy.documents import Name

    if text is None:
        return None
    try:
        return TypeAdapter[str](Name).validate_python(text)
    except ValidationError as error:
        raise typer.BadParameter(error.errors()[0]["msg"], param_hint="--id") from None


def _when(seconds: float | None) -> str | None:
    return None if seconds is None else f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _day(seconds: float, *, up: bool) -> str:
    """The day of a time, or, where ``up``, the first that begins at it or after it."""
    moment = datetime.fromtimestamp(seconds, UTC)
    day = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    return f"{day + timedelta(days=1) if up and day < moment else day:%Y-%m-%d}"


def _span(seconds: float) -> str:
    for unit, length in (("d", DAY_SECONDS), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{int(seconds // length)}{unit}"
    return f"{max(0, int(seconds))}s"


@contextmanager
def _busy(doing: str) -> Iterator[None]:
    """Shows on a terminal that something is under way."""
    from rich.console import Console

    with Console(stderr=True).status(f"{doing} ..."):
        yield


def _drop_output() -> None:
    """Forgets what is left to be printed: at exit Python would try once more, and end with a code of its own."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _fail(text: str) -> NoReturn:
    typer.echo(f"gateway client: {text}", err=True)
    raise typer.Exit(1)


def _run(work: Coroutine[Any, Any, Answer]) -> Answer:
    from gateway.rotation.progress import RotationError
    from gateway.state.base import StateUnavailableError

    try:
        return asyncio.run(work)
    except (StateUnavailableError, RotationError, OSError) as error:
        _fail(str(error))
