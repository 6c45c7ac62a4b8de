"""``gateway keys``: the keys that sign access tokens, listed, rotated, revoked, imported."""

import asyncio
import getpass
import json
import math
import os
import socket
import sys
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer

from gateway.cli.serve import ConfigOption, InsecureHttpOption
from gateway.clock import SteadyClock
from gateway.model import SigningAlgorithm

if TYPE_CHECKING:
    from gateway.settings import Settings
    from gateway.tokens.key_schedule import KeyRow, KeyTimings, Standing
    from gateway.tokens.signing_key import SigningKey
    from gateway.tokens.stores.base import KeyStore

Output = Literal["text", "json"]

_MAX_REASON_CHARACTERS = 200
_SHORTEST_PREFIX = 6
_MAX_FILE_BYTES = 16 * 1024

OutputOption = Annotated[Output, typer.Option("--output", "-o", help="text, or json for scripts.")]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why, for logs and for `gateway keys list`.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]

_now = SteadyClock()

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""The keys that sign access tokens: what they do, the next one, and the emergency.

    A key is published before it signs (**upcoming**), signs (**active**), stays published until its last token has
    expired (**retiring**), and is **gone**. With `keys.rotate_every` the gateways see to it themselves. These commands
    change the key store of the settings; every gateway on it follows, on `state://` within a second, on `file://` as
    soon as it looks at the files: every few seconds, and on SIGHUP.""",
)


@app.command("list")
def list_(
    config: Path | None = ConfigOption, insecure_http: bool = InsecureHttpOption, output: OutputOption = "text"
) -> None:
    """Show every key: its state, until when, since when it is there, its algorithm.

        gateway keys list --config gateway.yaml
        gateway keys list --output json

    Exit code 0: every algorithm in the store has a key that signs; 1: one has none.
    """
    _run(_list(_house(config, insecure_http=insecure_http), output))


@app.command("rotate")
def rotate(
    algorithm: Annotated[
        SigningAlgorithm | None, typer.Option("--algorithm", help="Of this algorithm. Default: `keys.algorithm`.")
    ] = None,
    now: Annotated[bool, typer.Option("--now", help="Sign with it at once, before verifiers know it.")] = False,
    reason: ReasonOption = "",
    yes: YesOption = False,
    config: Path | None = ConfigOption,
    insecure_http: bool = InsecureHttpOption,
    output: OutputOption = "text",
) -> None:
    """Make the next key. It is published at once, and signs after `keys.publish_ahead`; nobody notices.

    With --now the next key signs at once: the upcoming one, or else a new one. Verifiers that keep the key set for as
    long as they may (`keys.cache_for`) and do not fetch it again for a key that they do not know refuse new tokens for
    that long. The key before stays published: its tokens stay good. If it has leaked, revoke it instead.

        gateway keys rotate --config gateway.yaml
        gateway keys rotate --algorithm RS256 --reason "yearly"
        gateway keys rotate --now --reason "incident 4711"
    """
    house = _house(config, insecure_http=insecure_http)
    note = _note(reason)
    _run(_rotate(house, algorithm or house.settings.keys.algorithm, note, now=now, yes=yes, output=output))


@app.command("revoke")
def revoke(
    kid: Annotated[str, typer.Argument(metavar="KID", help="The key, or the first characters of its name.")],
    reason: ReasonOption = "",
    yes: YesOption = False,
    config: Path | None = ConfigOption,
    insecure_http: bool = InsecureHttpOption,
    output: OutputOption = "text",
) -> None:
    """The emergency: take a key out of use and out of the key set at once, in every gateway.

    Every token that it signed fails: at **/introspect**, **/verify** and as a subject token at once, at APIs that
    verify on their own as soon as they fetch the key set again (`keys.cache_for`). Its private half is destroyed; this
    cannot be taken back. If it was the one that signs, the upcoming key takes over at once, or a new one where there is
    none. What it will break is said before it asks.

        gateway keys revoke LU3m6iK --reason "laptop lost" --config gateway.yaml
        gateway keys revoke LU3m6iK --yes --output json
        gateway keys revoke --yes -- -begins-with-a-dash
    """
    _run(_revoke(_house(config, insecure_http=insecure_http), kid, _note(reason), yes=yes, output=output))


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A private key as PKCS#8 PEM.")],
    passphrase_file: Annotated[
        Path | None, typer.Option("--passphrase-file", help="The passphrase of FILE, where it is encrypted.")
    ] = None,
    reason: ReasonOption = "",
    config: Path | None = ConfigOption,
    insecure_http: bool = InsecureHttpOption,
    output: OutputOption = "text",
) -> None:
    """Take a key that was made elsewhere as the next one. It signs after `keys.publish_ahead`.

    ES256 (P-256), EdDSA (Ed25519) or RS256 (2048 to 8192 bits). The first key of its algorithm signs at once. The file
    is left as it is: destroy it.

        openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out next.pem
        gateway keys import next.pem --reason "made in the vault" --config gateway.yaml
    """
    house = _house(config, insecure_http=insecure_http)
    _run(_import(house, _read_key(file, passphrase_file), _note(reason), output))


# ---------------------------------------------------------------- what is there


@dataclass(frozen=True, slots=True)
class _House:
    settings: "Settings"

    @property
    def timings(self) -> "KeyTimings":
        return self.settings.keys.timings


def _house(config: Path | None, *, insecure_http: bool) -> _House:
    from gateway.cli.problems import exit_with_problems
    from gateway.kinds import scheme
    from gateway.policy.problems import ConfigurationProblems
    from gateway.settings import load_settings

    try:
        settings = load_settings(config, insecure_http=insecure_http)
    except ConfigurationProblems as problems:
        exit_with_problems(problems)
        raise AssertionError from problems
    if scheme(settings.keys.store) == "memory":
        _fail(
            "keys.store is memory://, which no other process can reach. Set it to file:///var/lib/gateway/keys, or to "
            "state:// for replicas"
        )
    return _House(settings)


def _run(work: Coroutine[Any, Any, None]) -> None:
    from gateway.state.base import StateUnavailableError
    from gateway.tokens.stores.base import KeyStoreError

    try:
        asyncio.run(work)
    except (KeyStoreError, StateUnavailableError, OSError) as error:
        _fail(str(error))


async def _with_store(house: _House, work: Callable[["KeyStore"], Coroutine[Any, Any, None]]) -> None:
    from gateway.kinds import STATE_BACKENDS, scheme
    from gateway.state.mirror import Mirror

    url = house.settings.state if scheme(house.settings.keys.store) == "state" else "memory://"
    state = STATE_BACKENDS[scheme(url)](url, _now)
    try:
        await work(house.settings.keys.open_store(Mirror(state, _now, asyncio.sleep)))
    finally:
        await state.close()


def _standings(rows: Sequence["KeyRow"], house: _House) -> tuple["Standing", ...]:
    from gateway.tokens.key_schedule import schedule

    return schedule(rows, _now(), house.timings).standings


def _read_key(file: Path, passphrase_file: Path | None) -> "SigningKey":
    from gateway.tokens.signing_key import SigningKey, is_encrypted
    from gateway.tokens.stores.base import KeyStoreError
    from gateway.tokens.stores.secret_file import read_secret_file

    try:
        with file.open("rb") as opened:
            pem = opened.read(_MAX_FILE_BYTES + 1)
        passphrase = read_secret_file(passphrase_file).encode() if passphrase_file is not None else None
    except OSError as error:
        _fail(f"{file}: {error.strerror}")
    except KeyStoreError as error:
        _fail(str(error))
    if is_encrypted(pem) and passphrase is None:
        _fail(f"{file} is encrypted: give --passphrase-file")
    try:
        return SigningKey.from_pem(pem, int(_now()), passphrase)
    except ValueError:
        _fail(
            f"{file} is no private key on P-256 or Ed25519, or of RSA with 2048 to 8192 bits, as PKCS#8 PEM, or the "
            "passphrase is another one"
        )


# ---------------------------------------------------------------- list


async def _list(house: _House, output: Output) -> None:
    async def show(store: "KeyStore") -> None:
        standings = _standings([one.row for one in await store.load()], house)
        algorithms = {one.row.algorithm for one in standings}
        signing = {one.row.algorithm for one in standings if one.state == "active"}
        if output == "json":
            print(json.dumps({"ok": signing == algorithms, "keys": [_as_json(one) for one in standings]}, indent=2))
        else:
            _print_table(standings)
        if not algorithms:
            typer.echo("There is no key yet; the first gateway that starts makes one.", err=True)
        for algorithm in sorted(algorithms - signing):
            typer.echo(f"No {algorithm} key signs: the next gateway that looks makes one.", err=True)
        if signing != algorithms:
            raise typer.Exit(1)

    await _with_store(house, show)


def _print_table(standings: Sequence["Standing"]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for heading in ("kid", "alg", "state", "", "age", "note"):
        table.add_column(heading, no_wrap=heading == "kid")
    for one in standings:
        age = _span(_now() - one.row.created_at)
        cells = (one.row.kid, one.row.algorithm, one.state, _until(one), age, _visible(one.row.note))
        table.add_row(*map(Text, cells))
    # Names are there to be copied, and a pipe has no width: neither is wrapped.
    console = Console(width=None if sys.stdout.isatty() else 10_000)
    console.print(table, crop=False)


def _until(standing: "Standing") -> str:
    if standing.until is None:
        return ""
    ending = {"upcoming": "signs from", "active": "until", "retiring": "published until", "revoked": "shown until"}
    return f"{ending[standing.state]} {_time(standing.until)}"


def _as_json(standing: "Standing") -> dict[str, Any]:
    row = standing.row
    return {
        "kid": row.kid,
        "algorithm": row.algorithm,
        "state": standing.state,
        "until": None if standing.until is None else _time(standing.until),
        "created_at": _time(row.created_at),
        "sign_from": _time(row.sign_from),
        "revoked_at": None if row.revoked_at is None else _time(row.revoked_at),
        "age_seconds": max(0, math.floor(_now() - row.created_at)),
        "note": row.note,
    }


# ---------------------------------------------------------------- rotate


async def _rotate(
    house: _House, algorithm: SigningAlgorithm, note: str, *, now: bool, yes: bool, output: Output
) -> None:
    async def change(store: "KeyStore") -> None:
        rows = [one.row for one in await store.load()]
        ours = [one for one in _standings(rows, house) if one.row.algorithm == algorithm]
        waiting = [one.row for one in ours if one.state == "upcoming"]
        first = not any(one.state == "active" for one in ours)
        if waiting and not now:
            _fail(
                f"{waiting[-1].kid} is upcoming already and signs from {_time(waiting[-1].sign_from)}; with --now it "
                "signs at once"
            )
        if now and not first:
            _ask(_what_now_breaks(waiting[-1] if waiting else None, house), "Rotate now?", yes=yes)
        if now and waiting:
            await _sign_at_once(store, rows, waiting[-1].kid, note, output)
        else:
            await _add_new(store, rows, await _generated(algorithm), house, note, at_once=now or first, output=output)

    await _with_store(house, change)


def _what_now_breaks(upcoming: "KeyRow | None", house: _House) -> list[str]:
    lines = [_who_takes_over(upcoming, house)]
    lines.append("The key that signs so far stays published: the tokens that it signed stay good.")
    return lines


def _who_takes_over(upcoming: "KeyRow | None", house: _House) -> str:
    cached, known_after = house.timings.cache_for_seconds, house.timings.known_after_seconds
    unknown = (
        f"For up to {_span(cached)} verifiers that cache the key set, and do not fetch it for a key that they do not "
        "know, refuse new tokens."
    )
    if upcoming is None:
        return f"A new key signs at once, and no verifier knows it. {unknown}"
    age = _now() - upcoming.created_at
    if age < known_after:
        return f"{upcoming.kid} signs at once. It was published {_span(age)} ago. {unknown}"
    return f"{upcoming.kid} signs at once. It was published {_span(age)} ago: verifiers that honour max-age know it."


async def _sign_at_once(store: "KeyStore", rows: Sequence["KeyRow"], kid: str, note: str, output: Output) -> None:
    from gateway.tokens.key_schedule import taking_over

    after = taking_over(rows, kid, _now(), note)
    await _replace(store, rows, after)
    (row,) = (row for row in after if row.kid == kid)
    _tell("rotated", row, output, f"{kid} signs from now on.")


async def _add_new(
    store: "KeyStore",
    rows: Sequence["KeyRow"],
    key: "SigningKey",
    house: _House,
    note: str,
    *,
    at_once: bool,
    output: Output,
    done: str = "rotated",
) -> None:
    from gateway.tokens.key_schedule import KeyRow, taking_over

    ahead = 0 if at_once else house.timings.publish_ahead_seconds
    row = KeyRow(key.kid, key.algorithm, key.created_at, key.created_at + ahead, note=note)
    after: Sequence[KeyRow] = [*rows, row]
    if at_once:
        after = taking_over(after, key.kid, _now(), note)
        (row,) = (one for one in after if one.kid == key.kid)
    await _replace(store, rows, after, key)
    when = "signs from now on" if at_once else f"is published, and signs from {_time(row.sign_from)}"
    _tell(done, row, output, f"{key.kid} ({key.algorithm}) {when}.")


async def _generated(algorithm: SigningAlgorithm) -> "SigningKey":
    from gateway.tokens.signing_key import SigningKey

    return await asyncio.to_thread(SigningKey.generate, algorithm, _now())


# ---------------------------------------------------------------- import


async def _import(house: _House, key: "SigningKey", note: str, output: Output) -> None:
    async def change(store: "KeyStore") -> None:
        rows = [one.row for one in await store.load()]
        known = next((row for row in rows if row.kid == key.kid), None)
        if known is not None:
            _fail(f"{key.kid} is {'revoked' if known.revoked_at is not None else 'there already'}")
        first = not any(row.algorithm == key.algorithm and row.revoked_at is None for row in rows)
        await _add_new(store, rows, key, house, note, at_once=first, output=output, done="imported")

    await _with_store(house, change)


# ---------------------------------------------------------------- revoke


async def _revoke(house: _House, kid: str, note: str, *, yes: bool, output: Output) -> None:
    from gateway.tokens.key_schedule import KeyRow, revoking, successor, taking_over

    async def change(store: "KeyStore") -> None:
        rows: Sequence[KeyRow] = [one.row for one in await store.load()]
        chosen = _chosen(_standings(rows, house), kid)
        row = chosen.row
        if chosen.state == "revoked":
            _tell("revoked", row, output, f"{row.kid} is revoked already.", changed=False)
            return
        upcoming = successor(rows, row.kid, _now()) if chosen.state == "active" else None
        _ask(_what_breaks(chosen, upcoming, house), "Revoke?", yes=yes)
        after, new = tuple(rows), None
        if upcoming is not None:
            after = taking_over(after, upcoming.kid, _now(), note)
        elif chosen.state == "active":
            new = await _generated(row.algorithm)
            after = (*after, KeyRow(new.kid, new.algorithm, new.created_at, new.created_at, note=note))
            after = taking_over(after, new.kid, _now(), note)
        after = revoking(after, row.kid, _now(), note)
        await _replace(store, rows, after, new)
        signs = upcoming.kid if upcoming is not None else new.kid if new is not None else None
        words = f"{row.kid} is revoked." + (f" {signs} signs from now on." if signs is not None else "")
        (revoked,) = (one for one in after if one.kid == row.kid)
        _tell("revoked", revoked, output, words, signs=signs)

    await _with_store(house, change)


def _chosen(standings: Sequence["Standing"], kid: str) -> "Standing":
    found = [one for one in standings if one.row.kid == kid]
    if not found and len(kid) >= _SHORTEST_PREFIX:
        found = [one for one in standings if one.row.kid.startswith(kid)]
    if len(found) != 1:
        how = "several keys begin with" if found else "there is no key"
        _fail(f"{how} {kid}; see gateway keys list (the name, or at least {_SHORTEST_PREFIX} characters of it)")
    return found[0]


def _what_breaks(chosen: "Standing", upcoming: "KeyRow | None", house: _House) -> list[str]:
    from gateway.policy.documents import MAX_LIFETIME_SECONDS

    row = chosen.row
    lines = [f"This takes {row.kid} ({row.algorithm}, {chosen.state}) out of use for good, in every gateway."]
    if chosen.state == "active":
        last = _now()
    elif chosen.state == "retiring" and chosen.until is not None:
        last = chosen.until - house.timings.keep_for_seconds
    else:
        lines.append(
            "It signs nothing" + (" yet." if chosen.state == "upcoming" else " any more, and is not published.")
        )
        return lines
    lines.append(
        f"Every token that it signed since {_time(row.sign_from)} fails; without this the last of them would end by "
        f"{_time(last + MAX_LIFETIME_SECONDS)}."
    )
    lines.append(
        "/introspect, /verify and /token refuse them at once. APIs that verify on their own take them until they fetch "
        f"the key set again: for up to {_span(house.timings.cache_for_seconds)}, or longer where they do not honour "
        "max-age. Workloads have to get new tokens."
    )
    if chosen.state == "active":
        lines.append(_who_takes_over(upcoming, house))
    return lines


# ---------------------------------------------------------------- changing, and saying so


async def _replace(
    store: "KeyStore", before: Sequence["KeyRow"], after: Sequence["KeyRow"], new: "SigningKey | None" = None
) -> None:
    if not await store.replace(before, after, [new] if new is not None else []):
        _fail(
            "nothing was changed: a gateway or somebody else changed the keys meanwhile. Look at them, and say it again"
        )


def _ask(lines: Sequence[str], question: str, *, yes: bool) -> None:
    typer.echo("\n".join(lines), err=True)
    if not yes and not typer.confirm(question, err=True):
        _fail("nothing was changed")


def _tell(
    done: str, row: "KeyRow", output: Output, words: str, *, changed: bool = True, signs: str | None = None
) -> None:
    if output == "json":
        document: dict[str, Any] = {
            "ok": True, "done": done, "changed": changed, "kid": row.kid, "algorithm": row.algorithm,
            "sign_from": _time(row.sign_from), "note": row.note,
        }  # fmt: skip
        if done == "revoked":
            document["signs_now"] = signs
        print(json.dumps(document, indent=2))
    else:
        print(words)
    if changed:
        typer.echo(f"gateway.keys: {done} kid={row.kid} {_visible(row.note)}", err=True)


def _note(reason: str) -> str:
    """Who does it, and why."""
    if len(reason) > _MAX_REASON_CHARACTERS:
        raise typer.BadParameter(f"is at most {_MAX_REASON_CHARACTERS} characters", param_hint="--reason")
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = f"user {os.geteuid()}"
    return f"{user[:32]}@{socket.gethostname()[:48]}: {reason or 'no reason given'}"


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _span(seconds: float) -> str:
    """A duration for people, in its largest unit."""
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{round(seconds / length)}{unit}"
    return f"{max(0, round(seconds))}s"


def _visible(text: str) -> str:
    """What somebody chose may go to a terminal."""
    return text if text.isprintable() else ascii(text)[1:-1]


def _fail(message: str) -> NoReturn:
    typer.echo("gateway: " + "\n".join(_visible(line) for line in message.splitlines()), err=True)
    raise typer.Exit(1)
