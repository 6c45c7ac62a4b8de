"""``gateway policy who-can``: every way to a service account or to a scope, and which of them nobody goes."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from gateway.cli.policy.files import GatewayIssuerOption, OutputOption, PoliciesOption, policy_files
from gateway.cli.serve import ConfigOption, InsecureHttpOption

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from gateway.audit.reading import RecordReader
    from gateway.policy.generation import Generation
    from gateway.policy.problems import Problem
    from gateway.policy.reach import Usage, Use, Way


def who_can(
    service_account: str | None = typer.Option(None, help="Who may become this service account."),
    resource: str | None = typer.Option(None, help="Who gets tokens for this resource: its name or its identifier."),
    scope: str | None = typer.Option(None, help="With --resource: who gets this scope there."),
    issuer: str | None = typer.Option(None, help="By tokens of this issuer alone: its name."),
    audit: list[Path] = typer.Option(
        [],
        metavar="FILE",
        help="Audit log, also compressed with gzip, - for standard input: tells the last use of each.",
    ),
    unused_for: str | None = typer.Option(
        None, metavar="DURATION", help="With --audit: show only what was not used for so long, such as 30d."
    ),
    policies: Path | None = PoliciesOption,
    config: Path | None = ConfigOption,
    gateway_issuer: str = GatewayIssuerOption,
    insecure_http: bool = InsecureHttpOption,
    limit: int = typer.Option(1000, min=1, max=1_000_000, help="So many ways are shown; the rest is counted."),
    output: str = OutputOption,
) -> None:
    """Show who can get where: every issuer and condition that leads to a service account or a scope, in words.

    Trust rules, credentials of classic clients, and whoever may pass calls on (`served_by`), each with its scopes, how
    long its tokens live, the roles that they come from, and what else limits it. Without a question, everything. With
    **--audit** also when each was last used, so that trust which nobody uses can go.

        gateway policy who-can --service-account web-deployer
        gateway policy who-can --resource deploy-api --scope deploy:write
        gateway policy who-can --issuer github --audit audit.jsonl --audit audit.jsonl.1.gz --unused-for 30d
        gateway policy who-can --resource https://ledger.example.com --output json

    Exit code 0: somebody can; 1: nobody can; 2: used wrongly. With --unused-for 0: everything was used; 1: not.
    """
    from gateway.cli.problems import exit_with_problems
    from gateway.policy.problems import ConfigurationProblems
    from gateway.policy.reach import who_can as ways_to

    if output not in {"text", "json"}:
        raise typer.BadParameter("is text or json", param_hint="--output")
    if scope is not None and resource is None:
        raise typer.BadParameter("goes with --resource: a scope is that of one resource", param_hint="--scope")
    period = _seconds(unused_for)
    if period is not None and not audit:
        raise typer.BadParameter("goes with --audit: only records tell what was used", param_hint="--unused-for")
    try:
        generation = policy_files(config, policies, gateway_issuer, insecure_http).generation(keep_tests=True)
    except ConfigurationProblems as problems:
        exit_with_problems(problems, output)
        return
    _check_names(generation, service_account, resource, scope, issuer)
    seen = _seen(audit, generation, period) if audit else None
    ways = ways_to(generation, service_account=service_account, resource=resource, scope=scope, issuer=issuer)
    found = [way for way in ways if seen is None or not seen.is_in_use(way)]
    document = _document(generation, found, seen, limit)
    if output == "json":
        print(json.dumps(document, indent=2))
    else:
        _print(document)
    if bool(found) == (period is not None):
        raise typer.Exit(1)


# ---------------------------------------------------------------- the question


def _seconds(duration: str | None) -> int | None:
    from gateway.policy.documents import parse_duration

    try:
        return None if duration is None else parse_duration(duration)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--unused-for") from None


def _check_names(
    generation: "Generation", service_account: str | None, resource: str | None, scope: str | None, issuer: str | None
) -> None:
    """A name that the policies do not have is a mistyped one, and no answer. Raises ``typer.BadParameter``."""
    if service_account is not None and generation.service_account(service_account) is None:
        _check("--service-account", "service account", service_account, generation.service_accounts)
    if issuer is not None:
        _check("--issuer", "issuer", issuer, generation.issuers_by_name)
    if resource is None:
        return
    found = generation.resource(resource)
    if found is None:
        _check("--resource", "resource", resource, [*generation.resources, *generation.resources_by_identifier])
    elif scope is not None:
        _check("--scope", f"scope of {found.name}", scope, found.scopes)


def _check(option: str, what: str, name: str, known: "Collection[str]") -> None:
    from gateway.policy.problems import nearest
    from gateway.policy.wording import shown

    if name not in known:
        near = nearest(name, known)
        hint = f" (did you mean {near}?)" if near else ""
        raise typer.BadParameter(f"no {what} is called {shown(name)}{hint}", param_hint=option)


# ---------------------------------------------------------------- the records


class _Seen(NamedTuple):
    """What audit records tell."""

    usage: "Usage"
    reader: "RecordReader"
    unused_since: float | None
    """Uses before that do not count."""

    def is_in_use(self, way: "Way") -> bool:
        """Whether it was used in the period that was asked about."""
        use = self.usage.of(way)
        return self.unused_since is not None and use is not None and use.last >= self.unused_since

    def is_short(self) -> bool:
        """Whether the records begin after the period that was asked about: what is used rarely looks unused then."""
        first = self.usage.first
        return self.unused_since is not None and (first is None or first > self.unused_since)


def _seen(files: list[Path], generation: "Generation", period: int | None) -> _Seen:
    from gateway.cli.policy.audit_files import Period, open_records
    from gateway.clock import SteadyClock
    from gateway.policy.reach import Usage

    usage = Usage(generation)
    with open_records(files, Period(None, None), "Reading") as (reader, records):
        for record in records:
            usage.add(record)
    return _Seen(usage, reader, None if period is None else SteadyClock()() - period)


# ---------------------------------------------------------------- the answer


def _document(generation: "Generation", ways: "Sequence[Way]", seen: _Seen | None, limit: int) -> dict[str, Any]:
    from gateway.cli.policy.audit_files import skipped_in_words, time_text

    shown = ways[:limit]
    document: dict[str, Any] = {
        "ways": [_way(way, place, seen) for way, place in zip(shown, _located(shown), strict=True)],
        "left_out": len(ways) - len(shown),
    }
    if seen is None:
        return document
    elsewhere = {
        name: {secret: _use(use) for secret, use in secrets.items()}
        for name in dict.fromkeys(way.service_account for way in ways)
        if (account := generation.service_accounts.get(name)) is not None
        if (secrets := seen.usage.secrets_elsewhere(account))
    }
    return document | {
        "records": {
            "count": seen.usage.records,
            "first": time_text(seen.usage.first),
            "last": time_text(seen.usage.last),
            "skipped": skipped_in_words(seen.reader),
            "others": seen.reader.others,
            "unused_since": time_text(seen.unused_since),
            "too_short": seen.is_short(),
        },
        "secrets_elsewhere": elsewhere,
    }


def _way(way: "Way", place: "Problem", seen: _Seen | None) -> dict[str, Any]:
    document: dict[str, Any] = {
        "service_account": way.service_account,
        "how": way.how,
        "name": way.name,
        "issuer": way.issuer,
        "who": way.who_in_words(),
        "conditions": list(way.conditions),
        "everybody": way.everybody,
        "made_from": list(way.made_from),
        "access": [
            {
                "resource": one.resource,
                "scopes": list(one.scopes),
                "lifetime_seconds": one.lifetime_seconds,
                "sender_constraint": one.sender_constraint,
                "roles": list(one.roles),
            }
            for one in way.access
        ],
        "limits": list(way.limits),
        "file": place.file,
        "line": place.line,
    }
    return document if seen is None else document | {"used": _use(seen.usage.of(way))}


def _use(use: "Use | None") -> dict[str, Any]:
    from gateway.cli.policy.audit_files import time_text

    return {"count": use.count if use is not None else 0, "last": time_text(use.last if use is not None else None)}


def _located(ways: "Sequence[Way]") -> list["Problem"]:
    from dataclasses import replace

    from gateway.policy.files import locate_problems

    numbered = [replace(way.place, message=str(number)) for number, way in enumerate(ways)]
    lines = {int(problem.message): problem for problem in locate_problems(numbered)}
    return [lines[number] for number in range(len(ways))]


def _print(document: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.text import Text

    from gateway.policy.problems import visible

    console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
    styles = {"account": "bold", "way": "", "everybody": "bold yellow", "detail": "dim", "note": "yellow"}
    for style, line in _lines(document):
        console.print(Text(visible(line), styles[style]))


def _lines(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if not document["ways"]:
        unused = document.get("records", {}).get("unused_since")
        yield "account", f"Everything was used since {unused}." if unused else "Nobody."
    account = None
    for way in document["ways"]:
        if way["service_account"] != account:
            account = way["service_account"]
            yield "account", account
            yield from (("detail", f"    {part}") for part in way["made_from"])
        yield "everybody" if way["everybody"] else "way", f"  {way['who']}"
        yield from (("detail", f"      {line}") for line in _details(way))
    if document["left_out"]:
        yield "note", f"... and {document['left_out']:,} more"
    yield from _limits(document)
    yield from _notes(document)


def _details(way: dict[str, Any]) -> Iterator[str]:
    from gateway.policy.documents import duration_text

    for one in way["access"]:
        life = f"tokens live {duration_text(one['lifetime_seconds'])}"
        bound = f", bound by {one['sender_constraint']}" if one["sender_constraint"] != "none" else ""
        roles = f", by role {', '.join(one['roles'])}" if one["roles"] else ""
        yield f"{' '.join(one['scopes'])} at {one['resource']}: {life}{bound}{roles}"
    if not way["access"]:
        yield "no scope anywhere"
    names = {"trust": f"rule {way['name']}, ", "credential": "", "delegation": ""}
    yield f"{names[way['how']]}{way['file']}:{way['line']}"
    if (used := way.get("used")) is not None:
        times = "once" if used["count"] == 1 else f"{used['count']:,} times"
        yield f"used {times}, last at {used['last']}" if used["count"] else "not used in these records"


def _limits(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    limits = dict.fromkeys(limit for way in document["ways"] for limit in way["limits"])
    if limits:
        yield "account", "What else must hold"
        yield from (("way", f"  {limit}") for limit in limits)


def _notes(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    records = document.get("records")
    if records is None:
        return
    for name, secrets in document["secrets_elsewhere"].items():
        listed = ", ".join(f"{secret} (last at {use['last']})" for secret, use in secrets.items())
        yield "note", f"{name} also used secrets that the policies do not have: {listed}"
    span = f", from {records['first']} to {records['last']}" if records["count"] else ""
    yield "detail", f"{records['count']:,} records{span}. {records['skipped']}".rstrip()
    if records["others"]:
        words = "records of introspection and revocation say nothing here: a client that does no more looks unused."
        yield "note", f"{records['others']:,} {words}"
    if records["too_short"]:
        yield "note", f"The records do not reach back to {records['unused_since']}: what is used rarely looks unused."
