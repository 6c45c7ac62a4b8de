"""``gateway token``: the workload's side as a command, for pods, jobs and scripts. Imports the client only.

The access token goes to standard output or into the file, as asked; everything else goes to standard error.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Annotated, Literal, NoReturn

import typer

from gateway.client import (
    ClientError,
    Denied,
    EnvironmentToken,
    FileToken,
    GitHubActionsToken,
    LiteralToken,
    Misuse,
    Token,
    TokenSource,
    Unavailable,
    detect,
    exchange,
)
from gateway.client.sources import MAX_TOKEN_BYTES, TOKEN_FILE, TOKEN_VARIABLE
from gateway.client.watch import keep_fresh, write_private
from gateway.model import GrantType
from gateway.oauth.reasons import REASONS

Source = Literal["auto", "file", "env", "github"]
Output = Literal["token", "json", "exec-credential", "header"]
Grant = Literal["token-exchange", "jwt-bearer"]

_STDIN = "-"
_GRANTS = {grant.label: grant for grant in GrantType}
_EXEC_VERSION = "client.authentication.k8s.io/v1"
_EXEC_VERSIONS = frozenset({_EXEC_VERSION, "client.authentication.k8s.io/v1beta1"})


def token(
    *,
    gateway: Annotated[
        str, typer.Option(envvar="GATEWAY_URL", metavar="URL", help="The gateway's issuer URL.", show_default=False)
    ],
    source: Annotated[
        Source,
        typer.Option(
            envvar="GATEWAY_TOKEN_SOURCE",
            help=f"Where the workload's own token comes from. auto: GitHub's endpoint, else the variable "
            f"{TOKEN_VARIABLE}, else the file {TOKEN_FILE}.",
        ),
    ] = "auto",
    file: Annotated[
        str | None,
        typer.Option(envvar="GATEWAY_TOKEN_FILE", metavar="PATH", help="Read it from this file; - is standard input."),
    ] = None,
    env: Annotated[
        str | None, typer.Option(envvar="GATEWAY_TOKEN_ENV", metavar="NAME", help="Read it from this variable.")
    ] = None,
    audience: Annotated[
        str | None,
        typer.Option(
            envvar="GATEWAY_TOKEN_AUDIENCE",
            metavar="TEXT",
            help="What GitHub is asked to put into aud. Default: the gateway's issuer.",
        ),
    ] = None,
    client_id: Annotated[
        str | None,
        typer.Option(
            envvar="GATEWAY_TOKEN_CLIENT_ID",
            metavar="NAME",
            help="The service account to act as. Needed only if it could be several.",
        ),
    ] = None,
    resource: Annotated[
        str | None,
        typer.Option(
            envvar="GATEWAY_TOKEN_RESOURCE",
            metavar="NAME",
            help="The API the token is for. Needed only if it could be several.",
        ),
    ] = None,
    scope: Annotated[
        list[str] | None,
        typer.Option(
            envvar="GATEWAY_TOKEN_SCOPE",
            metavar="NAMES",
            help="May be repeated, or hold several with spaces. Default: all granted.",
        ),
    ] = None,
    expires_in: Annotated[
        int | None,
        typer.Option(
            envvar="GATEWAY_TOKEN_EXPIRES_IN", metavar="SECONDS", min=1, help="Ask for a shorter life than the usual."
        ),
    ] = None,
    grant: Annotated[Grant, typer.Option(envvar="GATEWAY_TOKEN_GRANT", help="The OAuth grant.")] = "token-exchange",
    token_endpoint: Annotated[
        str | None,
        typer.Option(
            envvar="GATEWAY_TOKEN_ENDPOINT",
            metavar="URL",
            help="Ask there instead of where the gateway's metadata says, e.g. at its name inside the cluster.",
        ),
    ] = None,
    ca_file: Annotated[
        str | None,
        typer.Option(
            envvar="GATEWAY_TOKEN_CA_FILE",
            metavar="PATH",
            help="Trust the certificate authorities in this file for the gateway, and no others.",
        ),
    ] = None,
    insecure_http: Annotated[
        bool, typer.Option("--insecure-http", envvar="GATEWAY_TOKEN_INSECURE_HTTP", help="Allow http. For tests only.")
    ] = False,
    timeout: Annotated[
        float,
        typer.Option(
            envvar="GATEWAY_TOKEN_TIMEOUT", metavar="SECONDS", min=1, help="How long to keep trying altogether."
        ),
    ] = 60.0,
    output: Annotated[
        Output,
        typer.Option(
            envvar="GATEWAY_TOKEN_OUTPUT",
            help="token: nothing else. json: with expiry and scope. exec-credential: for kubectl. "
            "header: an Authorization line for curl --header @file.",
        ),
    ] = "token",
    to_file: Annotated[
        Path | None,
        typer.Option(
            envvar="GATEWAY_TOKEN_TO_FILE",
            metavar="PATH",
            help="Write it there, readable by the owner only and replaced at once, instead of printing it.",
        ),
    ] = None,
    watch: Annotated[
        bool,
        typer.Option("--watch", envvar="GATEWAY_TOKEN_WATCH", help="Keep --to-file fresh until SIGTERM."),
    ] = False,
) -> None:
    """Trade this workload's own token for an access token.

    The workload is a pod with a projected token, a job with an identity of
    its own, or anything else that holds a token of a trusted platform.
    Exit code: 0 with a token, 1 without one, 2 when used wrongly.

    In a pod, with a serviceAccountToken volume for the audience
    https://sts.example.com mounted at /var/run/secrets/gateway:

      gateway token --gateway https://sts.example.com --resource backup-api

    As a sidecar, for a program that reads its token from a file:

      gateway token --gateway https://sts.example.com --to-file /shared/token --watch

    In a step of a GitHub job that has "permissions: id-token: write"
    (the token is masked in the job's log):

      TOKEN=$(gateway token --gateway https://sts.example.com --scope backup:read)

    In a GitLab job with "id_tokens: GATEWAY_ID_TOKEN: aud: https://sts.example.com":

      gateway token --gateway https://sts.example.com --output header --to-file auth
      curl --header @auth https://backup.example.com/
    """
    if watch and to_file is None:
        raise typer.BadParameter("--watch keeps a file fresh: say which one with --to-file.")
    if watch and file == _STDIN:
        raise typer.BadParameter("--watch reads the workload's token again and again: standard input has it once.")

    def fetch() -> Token:
        return exchange(
            gateway,
            _source(source, file, env, insecure_http=insecure_http),
            audience=audience,
            client_id=client_id,
            resource=resource,
            scope=" ".join(scope or ()),
            lifetime_seconds=expires_in,
            grant=_GRANTS[grant],
            token_endpoint=token_endpoint,
            ca_file=ca_file,
            insecure_http=insecure_http,
            timeout_seconds=timeout,
        )

    try:
        _run(fetch, partial(_deliver, output=output, to_file=to_file), watch=watch)
    except Misuse as fault:
        raise typer.BadParameter(str(fault)) from None
    except ClientError as fault:
        _report(fault)
        raise typer.Exit(1) from None
    except OSError as fault:
        _print_error(f"{fault.filename or 'The output'} cannot be written: {fault.strerror or fault}.")
        raise typer.Exit(1) from None


def _run(fetch: Callable[[], Token], deliver: Callable[[Token], None], *, watch: bool) -> None:
    if watch:
        # Before the first exchange: as process 1 of a container nothing else would end us.
        signal.signal(signal.SIGTERM, _stop)
        signal.signal(signal.SIGINT, _stop)
    first = fetch()
    deliver(first)
    if watch:
        keep_fresh(first, fetch, deliver, _report)


def _stop(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)


# ---------------------------------------------------------------- the workload's own token


def _source(source: Source, file: str | None, env: str | None, *, insecure_http: bool) -> TokenSource:
    if file and env:
        raise typer.BadParameter("--file and --env name two tokens: give one of them.")
    if (file and source not in {"auto", "file"}) or (env and source not in {"auto", "env"}):
        raise typer.BadParameter(f"--source {source} does not go with {'--file' if file else '--env'}.")
    if file == _STDIN:
        return LiteralToken(sys.stdin.buffer.read(MAX_TOKEN_BYTES + 2).decode("latin-1"))
    if file or source == "file":
        return FileToken(Path(file or TOKEN_FILE))
    if env or source == "env":
        return EnvironmentToken(env or TOKEN_VARIABLE)
    if source == "github":
        return GitHubActionsToken.from_environment(os.environ, insecure_http=insecure_http)
    return detect(insecure_http=insecure_http)


# ---------------------------------------------------------------- the access token


def _deliver(token: Token, *, output: Output, to_file: Path | None) -> None:
    if os.environ.get("GITHUB_ACTIONS") == "true":
        # The runner reads commands from standard error too; standard output may be on its way into a variable.
        print(f"::add-mask::{token.access_token}", file=sys.stderr, flush=True)
    text = _rendered(token, output)
    if to_file is None:
        print(text, flush=True)
    else:
        write_private(to_file, text)
        _print_error(f"wrote {to_file}, good until {_rfc3339(token.expires_at)}")


def _rendered(token: Token, output: Output) -> str:
    match output:
        case "token":
            return token.access_token
        case "header":
            return f"Authorization: {token.authorization}"
        case "json":
            return json.dumps(
                {
                    "access_token": token.access_token,
                    "token_type": token.token_type,
                    "expires_at": token.expires_at,
                    "scope": token.scope,
                }
            )
        case "exec-credential":
            return json.dumps(
                {
                    "apiVersion": _exec_version(),
                    "kind": "ExecCredential",
                    "status": {"token": token.access_token, "expirationTimestamp": _rfc3339(token.expires_at)},
                }
            )


def _exec_version() -> str:
    # kubectl says which version it wants, and refuses any other.
    try:
        asked_for = json.loads(os.environ.get("KUBERNETES_EXEC_INFO", "{}"))["apiVersion"]
    except (ValueError, LookupError, TypeError, RecursionError):
        asked_for = None
    return asked_for if isinstance(asked_for, str) and asked_for in _EXEC_VERSIONS else _EXEC_VERSION


def _rfc3339(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


# ---------------------------------------------------------------- what went wrong


def _report(fault: ClientError) -> None:
    _print_error(str(fault) if not isinstance(fault, Denied) else "the gateway said no")
    if isinstance(fault, Unavailable) and fault.retry_after_seconds:
        _print_error(f"it asks to wait {fault.retry_after_seconds:.0f} seconds")
    if isinstance(fault, Denied):
        advice = REASONS[fault.reason].advice if fault.reason in REASONS else ""
        told = {
            "error": fault.error,
            "reason": fault.reason,
            "description": fault.description,
            "request_id": fault.request_id,
            "next": advice,
        }
        for name, text in told.items():
            if text:
                print(f"  {name}: {text}", file=sys.stderr)


def _print_error(text: str) -> None:
    print(f"gateway token: {text}", file=sys.stderr)
