"""The command line: one module per command, each importing what it needs only when it runs."""

import errno
import os
import sys

import typer

from gateway import __version__
from gateway.cli import audit, client, keys
from gateway.cli.check import check
from gateway.cli.dev import dev
from gateway.cli.policy.app import app as policy
from gateway.cli.revoke import revoke
from gateway.cli.serve import serve
from gateway.cli.token import token

app = typer.Typer(
    name="gateway",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,  # a traceback with local variables would print tokens
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Trades the identity tokens that platforms give to workloads for short-lived, scoped access tokens.

    Start with **gateway dev**: a whole gateway on this machine, with local stand-ins for Kubernetes, GitHub, GitLab
    and AWS, and one exchange of each shown.

    Exit codes: 0 good, 1 the answer is no, 2 used wrongly.""",
)
app.command("dev", rich_help_panel="Run")(dev)
app.command("serve", rich_help_panel="Run")(serve)
app.command("check", rich_help_panel="Policies")(check)
app.add_typer(policy, name="policy", rich_help_panel="Policies")
app.command("revoke", rich_help_panel="Run")(revoke)
app.add_typer(keys.app, name="keys", rich_help_panel="Run")
app.add_typer(audit.app, name="audit", rich_help_panel="Run")
app.command("token", rich_help_panel="Workloads")(token)
app.add_typer(client.app, name="client", rich_help_panel="Clients")


def _version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """Options before the command."""


def main() -> None:
    """Runs the command line; interrupts end it quietly, and a full disk behind standard output in one line."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        if error.errno != errno.ENOSPC or error.filename is not None:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is still buffered goes nowhere, and not wrong again
        print(f"gateway: the output could not be written: {error.strerror}", file=sys.stderr)
        sys.exit(2)
