"""``gateway dev``: a whole gateway on this machine, with stand-in issuers, and one exchange of each shown."""

import asyncio
import base64
import contextlib
import json
import logging
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from gateway.model import KeySource
    from gateway.standin.issuer import StandInIssuer

TOKEN_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
JWT = "urn:ietf:params:oauth:token-type:jwt"
REFRESH_SECONDS = 120
"""How often the token files are written anew: GitHub's tokens live five minutes."""


def dev(
    policies: Path = typer.Option(Path("policies"), "--policies", "-p", help="Folder of policy files."),
    port: int = typer.Option(8080, help="Port of the gateway; the next ones are its admin and the issuers' port."),
    once: bool = typer.Option(False, "--once", help="Show the exchanges and stop."),
) -> None:
    """Try everything on this machine.

    Starts a gateway on embedded defaults (keys and state in memory, audit to a temporary file), and local stand-ins
    for Kubernetes, GitHub Actions, GitLab CI and AWS STS that sign tokens shaped exactly like the real ones. Exchanges
    one token of each, shows a denial, prints commands to try, and serves until Ctrl-C.

        gateway dev
        gateway dev --policies my-policies/ --port 9000
    """
    import uvloop

    from gateway.audit.base import SinkError
    from gateway.cli.problems import exit_with_problems
    from gateway.policy.problems import ConfigurationProblems
    from gateway.tokens.stores.base import KeyStoreError

    logging.basicConfig(level=logging.WARNING)
    try:
        with tempfile.TemporaryDirectory(prefix="gateway-dev-") as folder:
            uvloop.run(_dev(policies, port, Path(folder), once=once))
    except ConfigurationProblems as problems:
        exit_with_problems(problems)
    except (OSError, KeyStoreError, SinkError) as error:
        typer.echo(f"gateway: {error}. Try another --port.", err=True)
        raise typer.Exit(1) from error


async def _dev(policies: Path, port: int, folder: Path, *, once: bool) -> None:
    from rich.console import Console

    from gateway.app import Gateway, watch
    from gateway.clock import SteadyClock
    from gateway.settings import Settings
    from gateway.standin.issuer import StandInIssuer, StandInServer
    from gateway.standin.platforms import PLATFORMS

    clock = SteadyClock()
    console = Console(soft_wrap=True, highlight=False)
    issuers = [StandInIssuer(platform, clock=clock) for platform in PLATFORMS]
    async with StandInServer(*issuers, port=port + 2 if port else 0):
        settings = Settings.model_validate({
            "issuer": f"http://127.0.0.1:{port}",
            "listen": f"127.0.0.1:{port}",
            "admin": {"listen": f"127.0.0.1:{port + 1 if port else 0}"},
            "policies": policies,
            "audit": {"sinks": [f"file://{folder}/audit.jsonl"]},
        })  # fmt: skip
        gateway = Gateway(settings, insecure_http=True, key_sources=_stood_in(policies, issuers), clock=clock)
        await gateway.start()
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        try:
            demonstration = Demonstration(console, f"http://{gateway.public_address}", settings.issuer, folder)
            await demonstration.show(issuers)
            if not once:
                demonstration.invite(issuers, gateway.admin_address, policies)
                tasks = [asyncio.create_task(watch(gateway, stop)), asyncio.create_task(demonstration.refresh(issuers))]
                await stop.wait()
                for task in tasks:
                    task.cancel()
        finally:
            await gateway.stop()


def _stood_in(policies: Path, issuers: "list[StandInIssuer]") -> "dict[str, KeySource]":
    """By name, for each issuer of the policies that a stand-in plays: where the stand-in publishes its keys."""
    from gateway.identity.presets.common import is_reserved_audience
    from gateway.kinds import PRESETS
    from gateway.model import KeySource
    from gateway.policy.loading import load_policies

    generation = load_policies(
        policies,
        presets=PRESETS,
        gateway_issuer="http://127.0.0.1",
        insecure_http=True,
        number=1,
        is_reserved_audience=is_reserved_audience,
    )
    published = {
        issuer.issuer: KeySource(discovery_url=issuer.discovery_url, insecure_http=True, private_network=True)
        for issuer in issuers
    }
    return {issuer.name: published[issuer.url] for issuer in generation.issuers if issuer.url in published}


class Demonstration:
    """Shows exchanges on a terminal, as a client sees them."""

    def __init__(self, console: "Console", url: str, audience: str, folder: Path) -> None:
        self._console = console
        self._url = url
        self._audience = audience
        self._folder = folder

    async def show(self, issuers: "list[StandInIssuer]") -> None:
        """One exchange for every stand-in, then one that is refused."""
        self._write_tokens(issuers)
        for issuer in issuers:
            await self._show_exchange(issuer.platform.title, issuer.token(self._audience))
        github = next(issuer for issuer in issuers if issuer.platform.name == "github")
        stranger = github.token(self._audience, event_name="pull_request_target")
        await self._show_exchange("A pull request from a stranger", stranger)

    def invite(self, issuers: "list[StandInIssuer]", admin_address: str, policies: Path) -> None:
        """Prints what to try while the gateway serves."""
        token = self._token_file(issuers[0])
        self._console.rule("Try it", align="left", style="dim")
        self._console.print(
            f"curl -s {self._url}/token -d grant_type={TOKEN_EXCHANGE} \\\n"
            f"  -d subject_token_type={JWT} \\\n"
            f"  --data-urlencode subject_token@{token}\n"
            f"\n.venv/bin/gateway token --gateway {self._url} --insecure-http --file {token} --output json\n"
            f"\ncurl -s http://{admin_address}/readyz      # what it knows of its issuers"
            f"\ncurl -s http://{admin_address}/metrics     # for Prometheus"
            f"\ntail -f {self._folder}/audit.jsonl         # every decision, granted or denied"
            f"\n$EDITOR {policies}/                        # changes are taken over at once, or refused whole"
        )
        self._console.print(f"\nServing on {self._url}; Ctrl-C ends it.", style="bold")

    async def refresh(self, issuers: "list[StandInIssuer]") -> None:
        """Keeps the token files fresh, as a kubelet does."""
        with contextlib.suppress(asyncio.CancelledError):
            while True:
                await asyncio.sleep(REFRESH_SECONDS)
                self._write_tokens(issuers)

    def _write_tokens(self, issuers: "list[StandInIssuer]") -> None:
        for issuer in issuers:
            self._token_file(issuer).write_text(issuer.token(self._audience))

    def _token_file(self, issuer: "StandInIssuer") -> Path:
        return self._folder / f"{issuer.platform.name}.token"

    async def _show_exchange(self, title: str, token: str) -> None:
        import aiohttp

        form = {"grant_type": TOKEN_EXCHANGE, "subject_token_type": JWT, "subject_token": token}
        async with aiohttp.ClientSession() as session, session.post(f"{self._url}/token", data=form) as answer:
            status, body = answer.status, await answer.json()
        self._console.rule(title, align="left", style="bold")
        self._console.print(f"POST {self._url}/token", style="cyan")
        self._console.print(f"  grant_type          {TOKEN_EXCHANGE}")
        self._console.print(f"  subject_token_type  {JWT}")
        self._console.print("  subject_token       " + _shown(token, ("iss", "sub", "aud")), markup=False)
        self._console.print(f"{status}", style="green" if status == 200 else "red")
        for name, value in body.items():
            shown = _shown(value) if name == "access_token" else str(value)
            self._console.print(f"  {name:19} {shown}", markup=False)
        self._console.print()


def _shown(token: str, names: tuple[str, ...] | None = None) -> str:
    """A token cut short, with its claims decoded below; only the named ones where names are given."""
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    chosen = {name: claims[name] for name in names or claims if name in claims}
    rest = len(claims) - len(chosen)
    lines = [f"    {name}: {json.dumps(value)}" for name, value in chosen.items()]
    if rest:
        lines.append(f"    ... and {rest} more claims")
    return f"{token[:24]}...{token[-8:]}\n" + "\n".join(lines)
