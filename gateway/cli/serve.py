"""``gateway serve``: runs a gateway until it is told to stop."""

import asyncio
import gc
import logging
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from gateway.app import Gateway

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"

ConfigOption = typer.Option(
    None, "--config", "-c", envvar="GATEWAY_CONFIG", help="Settings file; ./gateway.yaml where there is one."
)
InsecureHttpOption = typer.Option(
    False,
    "--insecure-http",
    envvar="GATEWAY_INSECURE_HTTP",
    help="Allow http:// for the issuer and for issuers' URLs. For trying out only.",
)


def serve(config: Path | None = ConfigOption, insecure_http: bool = InsecureHttpOption) -> None:
    """Run a gateway.

    Settings come from **--config** and from the environment (`GATEWAY_ISSUER`, `GATEWAY_ADMIN__LISTEN`, ...), which
    wins. Policies and certificates are reloaded when their files change, and on SIGHUP: whole, or not at all. SIGTERM
    drains.

        gateway serve --config gateway.yaml
    """
    from gateway.app import Gateway
    from gateway.audit.base import SinkError
    from gateway.cli.problems import exit_with_problems
    from gateway.policy.problems import ConfigurationProblems
    from gateway.settings import load_settings
    from gateway.tokens.stores.base import KeyStoreError

    try:
        settings = load_settings(config, insecure_http=insecure_http)
        logging.basicConfig(level=settings.log_level.upper(), format=LOG_FORMAT, stream=sys.stderr)
        run(Gateway(settings, insecure_http=insecure_http))
    except ConfigurationProblems as problems:
        exit_with_problems(problems)
    except (OSError, KeyStoreError, SinkError) as error:
        typer.echo(f"gateway: {error}", err=True)
        raise typer.Exit(1) from error


def run(gateway: "Gateway") -> None:
    """Serves on uvloop until SIGTERM or SIGINT."""
    import uvloop

    uvloop.run(serve_until_stopped(gateway))


def settle() -> None:
    """Spares the garbage collector what lives as long as the process: it would look at all of it again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


async def serve_until_stopped(gateway: "Gateway") -> None:
    """Starts the gateway, reloads on SIGHUP and on changed files, drains on SIGTERM, stops at once on SIGINT and on a
    second SIGTERM.
    """
    from gateway.reload import reload_quietly, watch

    log = logging.getLogger("gateway")
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    hurry = asyncio.Event()

    def interrupt() -> None:
        hurry.set()
        stop.set()

    def terminate() -> None:
        if stop.is_set():  # asked a second time
            hurry.set()
        stop.set()

    await gateway.start()
    settle()
    for warning in gateway.warnings():
        log.warning("%s", warning)
    loop.add_signal_handler(signal.SIGTERM, terminate)
    loop.add_signal_handler(signal.SIGINT, interrupt)
    hangups: set[asyncio.Task[None]] = set()

    async def hang_up() -> None:
        gateway.audit.reopen()
        gateway.key_rotation.look_soon()
        await reload_quietly(gateway)

    def on_hangup() -> None:
        task = loop.create_task(hang_up())
        hangups.add(task)
        task.add_done_callback(hangups.discard)

    loop.add_signal_handler(signal.SIGHUP, on_hangup)
    watcher = loop.create_task(watch(gateway, stop))
    log.info(
        "serving issuer=%s public=%s admin=%s generation=%d",
        gateway.settings.issuer, gateway.public_address, gateway.admin_address, gateway.policies.generation.number,
    )  # fmt: skip
    await stop.wait()
    log.info("stopping drain=%s", not hurry.is_set())
    watcher.cancel()
    await gateway.stop(drain=True, hurry=hurry)
