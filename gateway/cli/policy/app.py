"""``gateway policy``: everything that whoever writes policies asks of them, offline, from the files alone."""

import typer

from gateway.cli.policy.diff import diff
from gateway.cli.policy.explain import explain
from gateway.cli.policy.lint import lint
from gateway.cli.policy.new import new
from gateway.cli.policy.replay import replay
from gateway.cli.policy.schema import schema
from gateway.cli.policy.suggest import suggest
from gateway.cli.policy.test import run_tests
from gateway.cli.policy.who_can import who_can

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="""Explain, test and review policies before they reach the server, and see what those in force have done.

    Nothing here mints anything; **new** and **suggest --write** alone write files.""",
)
app.command("explain")(explain)
app.command("test")(run_tests)
app.command("lint")(lint)
app.command("diff")(diff)
app.command("who-can")(who_can)
app.command("replay")(replay)
app.command("suggest")(suggest)
app.command("new")(new)
app.command("schema")(schema)
