"""``gateway revoke``: the kill switch. Ends access tokens before their time, in every replica."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import typer

from gateway.cli.serve import ConfigOption, InsecureHttpOption

if TYPE_CHECKING:
    from collections.abc import Collection

    from gateway.policy.generation import Generation
    from gateway.settings import Settings
    from gateway.state.base import State
    from gateway.tokens.revocation import Revocation, Target

_MAX_TEXT = 1024
_Found = TypeVar("_Found")


def revoke(
    jti: str | None = typer.Option(None, "--jti", help="One token, by its `jti`."),
    service_account: str | None = typer.Option(None, help="Every token of this service account."),
    issuer: str | None = typer.Option(None, help="Every token got with a token of this issuer (its name)."),
    subject: str | None = typer.Option(None, help="With --issuer: of this workload alone (its `sub`)."),
    rule: str | None = typer.Option(None, help="Every token got by one trust rule: ACCOUNT/RULE, as traces print it."),
    credential: str | None = typer.Option(
        None, help="Every token got with one credential: NAME/secret:ID, NAME/key:KID, NAME/certificate:THUMBPRINT."
    ),
    reason: str = typer.Option("", help="Why, for the log and for --list."),
    show: bool = typer.Option(False, "--list", help="Show what is revoked."),
    undo: str | None = typer.Option(None, help="Take a revocation back, by its id."),
    yes: bool = typer.Option(False, "--yes", "-y", help="Do not ask."),
    force: bool = typer.Option(False, "--force", help="Also for a name that the policies do not have (any more)."),
    config: Path | None = ConfigOption,
    insecure_http: bool = InsecureHttpOption,
    output: str = typer.Option("text", "--output", "-o", help="text or json."),
) -> None:
    """Revoke access tokens, in every replica within a second.

    A wide revocation ends what was minted up to now. Who may get new ones is for the policies to say: remove the trust
    rule, or the credential, as well. APIs that verify tokens on their own go on taking them until they expire;
    **/introspect** and **/verify** refuse them at once. The tokens are revoked in the shared `state` of the settings;
    with `memory://` there is none.

        gateway revoke --service-account nightly-backup --reason "laptop lost" --config gateway.yaml
        gateway revoke --credential batch/secret:s1 --yes --config gateway.yaml
        gateway revoke --issuer prod-cluster --subject system:serviceaccount:billing:invoicer --config gateway.yaml
        gateway revoke --list --config gateway.yaml

    Exit code 0: done; 1: not done; 2: used wrongly.
    """
    from gateway.cli.problems import exit_with_problems
    from gateway.policy.problems import ConfigurationProblems
    from gateway.settings import load_settings

    if output not in {"text", "json"}:
        raise typer.BadParameter("is text or json", param_hint="--output")
    wide = (service_account, issuer, rule, credential)
    if sum((one is not None for one in (jti, *wide, undo)), start=int(show)) != 1:
        raise typer.BadParameter(
            "say one of --jti, --service-account, --issuer, --rule, --credential, --list and --undo"
        )
    if subject is not None and issuer is None:
        raise typer.BadParameter("goes with --issuer: a subject is one issuer's", param_hint="--subject")
    for text in (jti, subject, reason, *wide):
        if text is not None and len(text) > _MAX_TEXT:
            raise typer.BadParameter(f"no name and no reason is longer than {_MAX_TEXT} characters")
    try:
        settings = load_settings(config, insecure_http=insecure_http)
    except ConfigurationProblems as problems:
        exit_with_problems(problems, output)
        return
    if show:
        _list(settings, output)
    elif undo is not None:
        _undo(settings, undo, output)
    else:
        policies = None if jti is not None else _policies(settings, insecure_http=insecure_http, force=force)
        names = _Names(settings, policies, force=force)
        target = names.target(jti, service_account, issuer, subject, rule, credential)
        _confirm(settings, target, policies, yes=yes)
        _put(settings, target, reason, output)


# ---------------------------------------------------------------- what is meant

_CREDENTIALS = ("secret", "key", "certificate")
"""How a client proves itself: the part before the colon of what tokens say in ``entitled_by``."""


class _Names:
    """Finds what is meant in the policies, if they could be read, and in the shared state."""

    def __init__(self, settings: "Settings", policies: "Generation | None", *, force: bool) -> None:
        self._settings = settings
        self._policies = policies
        self._force = force

    def target(
        self,
        jti: str | None,
        service_account: str | None,
        issuer: str | None,
        subject: str | None,
        rule: str | None,
        credential: str | None,
    ) -> "Target":
        from gateway.tokens.revocation import OfCredential, OfRule, OfServiceAccount, OneToken

        if jti is not None:
            return OneToken(jti)
        if issuer is not None:
            return self._of_issuer(issuer, subject)
        if rule is not None:
            account, name = _in_two(rule, "--rule", "ACCOUNT/RULE")
            self._check_account(account)
            self._check(name, self._rules_of(account), f"trust rule of {account}")
            return OfRule(account, name)
        if credential is not None:
            account, name = _in_two(credential, "--credential", "NAME/secret:ID")
            kind, colon, id_ = name.partition(":")
            if not colon or not id_ or kind not in _CREDENTIALS:
                forms = ", ".join(f"NAME/{one}:ID" for one in _CREDENTIALS)
                raise typer.BadParameter(f"reads {forms}", param_hint="--credential")
            self._check_account(account)
            if kind == "secret":  # the others are known to their owners alone: by kid, by thumbprint
                self._check(id_, self._secrets_of(account), f"secret of {account}")
            return OfCredential(account, name)
        assert service_account is not None
        self._check_account(service_account)
        return OfServiceAccount(service_account)

    def _of_issuer(self, name: str, subject: str | None) -> "Target":
        from gateway.tokens.revocation import OfIssuer, OfWorkload

        known = self._policies.issuers_by_name if self._policies is not None else {}
        self._check(name, known, "issuer")
        iss = known[name].url if name in known else ""
        return OfIssuer(name, iss) if subject is None else OfWorkload(name, iss, subject)

    def _check_account(self, name: str) -> None:
        policies = self._policies
        if policies is None or policies.service_account(name) is None:
            self._check(name, policies.service_accounts if policies is not None else (), "service account")

    def _rules_of(self, account: str) -> "Collection[str]":
        found = self._policies.service_account(account) if self._policies is not None else None
        return [rule.name for rule in found.rules] if found is not None else []

    def _secrets_of(self, account: str) -> "Collection[str]":
        from gateway.clock import SteadyClock
        from gateway.identity.clients.stored_secrets import SecretRegister

        async def read(state: "State") -> list[str]:
            return [secret.id for secret in await SecretRegister(state, SteadyClock()).of(account)]

        registered = self._policies.registered_client(account) if self._policies is not None else None
        in_files = [secret.id for secret in registered.secrets] if registered is not None else []
        return in_files + _with_state(self._settings, read)

    def _check(self, name: str, known: "Collection[str]", what: str) -> None:
        from gateway.policy.problems import nearest

        if name in known or self._force:
            return
        suggestion = nearest(name, known)
        hint = f" (did you mean {suggestion}?)" if suggestion else ""
        _fail(f"there is no {what} {name}{hint}; --force goes on, for what was deleted just now")


def _in_two(text: str, option: str, form: str) -> tuple[str, str]:
    account, slash, name = text.partition("/")
    if not slash or not account or not name:
        raise typer.BadParameter(f"reads {form}", param_hint=option)
    return account, name


def _policies(settings: "Settings", *, insecure_http: bool, force: bool) -> "Generation | None":
    """What the files say; with ``force``, None where they do not load, for that must not keep anybody from revoking."""
    from gateway.cli.policy.files import generation_of
    from gateway.policy.problems import PolicyProblems

    try:
        return generation_of(settings, insecure_http=insecure_http)
    except PolicyProblems as problems:
        if force:
            return None
        _fail(f"names cannot be checked, the policies do not load; --force goes on without:\n{problems}")


# ---------------------------------------------------------------- what it does


def _confirm(settings: "Settings", target: "Target", policies: "Generation | None", *, yes: bool) -> None:
    from gateway.tokens.revocation import OneToken

    _refuse_memory(settings)
    lines = [f"This revokes {_visible(target.words)}."]
    if not isinstance(target, OneToken):
        lines[0] = f"This revokes {_visible(target.words)} up to now."
        touched = _touched(target, policies)
        if touched:
            lines.append(f"It touches the service accounts {touched}.")
        lines.append("Whoever holds one has to get a new one. Who may is for the policies to say, and stays as it is.")
    lines.append("APIs that verify tokens on their own take them until they expire; /introspect and /verify do not.")
    typer.echo("\n".join(lines), err=True)
    if not yes and not typer.confirm("Revoke?", err=True):
        _fail("nothing was revoked")


def _touched(target: "Target", policies: "Generation | None") -> str:
    from gateway.tokens.revocation import OfIssuer

    if policies is None or not isinstance(target, OfIssuer):
        return ""
    names = [
        account.name
        for account in policies.service_accounts.values()
        if any(rule.issuer == target.issuer for rule in account.rules)
    ]
    shown = ", ".join(names[:10])
    return shown if len(names) <= 10 else f"{shown} and {len(names) - 10} more"


def _put(settings: "Settings", target: "Target", reason: str, output: str) -> None:
    import secrets

    from gateway.clock import SteadyClock
    from gateway.policy.documents import MAX_LIFETIME_SECONDS
    from gateway.tokens.revocation import KIND, OneToken, Revocation

    now = SteadyClock()()
    if isinstance(target, OneToken):
        revocation = Revocation.of_token(target.token_id, int(now) + MAX_LIFETIME_SECONDS, now, reason)
    else:
        revocation = Revocation.of_all(
            secrets.token_hex(8), target, now, max_lifetime_seconds=MAX_LIFETIME_SECONDS, reason=reason
        )

    async def put(state: "State") -> bool:
        return await state.put(KIND, revocation.id, revocation.to_json(), until=revocation.until)

    _with_state(settings, put)
    if output == "json":
        print(json.dumps({"ok": True, "revocation": _as_json(revocation)}, indent=2))
    else:
        print(f"Revoked: {_visible(target.words)}. To take it back: gateway revoke --undo {_visible(revocation.id)}")


def _list(settings: "Settings", output: str) -> None:
    from gateway.tokens.revocation import KIND, all_in_force

    async def read(state: "State") -> "list[Revocation]":
        return all_in_force(record for record in (await state.changes(0)).records if record.kind == KIND)

    found = _with_state(settings, read)
    if output == "json":
        print(json.dumps({"ok": True, "revocations": [_as_json(one) for one in found]}, indent=2))
        return
    for one in found:
        why = f" ({_visible(one.reason)})" if one.reason else ""
        print(f"{_visible(one.id)}  {_rfc3339(one.made_at)}  {_visible(one.target.words)}{why}")
    typer.echo(f"{len(found)} in force.", err=True)


def _undo(settings: "Settings", id_: str, output: str) -> None:
    from gateway.tokens.revocation import KIND

    async def remove(state: "State") -> bool:
        there = any(record.kind == KIND and record.key == id_ for record in (await state.changes(0)).records)
        return there and await state.put(KIND, id_, None)

    if not _with_state(settings, remove):
        _fail(f"there is no revocation {id_}; see gateway revoke --list")
    if output == "json":
        print(json.dumps({"ok": True, "undone": id_}, indent=2))
    else:
        print(f"No longer revoked: {_visible(id_)}. What has not expired is good again.")


def _with_state(settings: "Settings", work: Callable[["State"], Awaitable[_Found]]) -> _Found:
    from gateway.clock import SteadyClock
    from gateway.kinds import STATE_BACKENDS, scheme
    from gateway.state.base import StateUnavailableError

    _refuse_memory(settings)

    async def run() -> _Found:
        state = STATE_BACKENDS[scheme(settings.state)](settings.state, SteadyClock())
        try:
            return await work(state)
        finally:
            await state.close()

    try:
        return asyncio.run(run())
    except (StateUnavailableError, OSError) as error:
        _fail(f"nothing was changed, the shared state cannot be reached: {error}")


def _refuse_memory(settings: "Settings") -> None:
    from gateway.kinds import scheme

    if scheme(settings.state) == "memory":
        _fail(
            "state is memory://, which no other process can reach. Set state to sqlite:///var/lib/gateway/state.db for "
            "processes on one machine, or to redis://host:6379/0 for replicas. Until then, restarting with other keys "
            "(keys.store) ends every token."
        )


# ---------------------------------------------------------------- words


def _as_json(revocation: "Revocation") -> dict[str, Any]:
    document = json.loads(revocation.to_json())
    return {"id": revocation.id, "words": revocation.target.words, **document}


def _rfc3339(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _visible(text: str) -> str:
    """What a workload chose may go to a terminal."""
    return text if text.isprintable() else ascii(text)[1:-1]


def _fail(message: str) -> NoReturn:
    typer.echo(f"gateway: {_visible_lines(message)}", err=True)
    raise typer.Exit(1)


def _visible_lines(text: str) -> str:
    return "\n".join(_visible(line) for line in text.splitlines())
