"""``gateway policy``: everything that whoever writes policies asks of them, offline, from the files alone."""

import typer

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="""Explain, test and review policies before they reach the server. Nothing here mints or changes anything.""",
)
