"""``gateway dev``: a whole gateway on this machine, with stand-in issuers, and one exchange of each shown."""

import asyncio
import base64
import contextlib
import errno
import json
import logging
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from gateway import standin

if TYPE_CHECKING:
    from rich.console import Console

    from gateway.model import KeySource
    from gateway.policy.generation import Generation
    from gateway.standin.issuer import StandInIssuer

TOKEN_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
JWT = "urn:ietf:params:oauth:token-type:jwt"
SHOWN = ("kubernetes", "github", "gitlab", "aws")
"""The stand-ins of the exchanges that are shown: one for each shape of token. The others have token files, too."""
REFRESH_SECONDS = 120
"""How often the token files are written anew: GitHub's tokens live five minutes."""


def dev(
    policies: Path | None = typer.Option(
        None, "--policies", "-p", help="Folder of policy files; ./policies where there is one, else the samples."
    ),
    port: int = typer.Option(
        8080, min=0, max=65533, help="Port of the gateway; the next two are its admin port and the issuers'."
    ),
    once: bool = typer.Option(False, "--once", help="Show the exchanges and stop."),
) -> None:
    """Try everything on this machine.

    Starts a gateway on embedded defaults (keys and state in memory, audit to a temporary file), and local stand-ins
    for Kubernetes, GitHub Actions, GitLab CI, AWS STS and the rest of the samples that sign tokens shaped exactly like
    the real ones. Exchanges one token of each of the four, shows a denial, prints commands to try, and serves until
    Ctrl-C.

        gateway dev
        gateway dev --policies my-policies/ --port 9000
    """
    import uvloop

    from gateway.cli.problems import exit_with_problems
    from gateway.policy.problems import ConfigurationProblems

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("gateway").setLevel(logging.INFO)
    try:
        with tempfile.TemporaryDirectory(prefix="gateway-dev-") as folder:
            uvloop.run(_dev(policies or _default_policies(), port, Path(folder), once=once))
    except ConfigurationProblems as problems:
        exit_with_problems(problems)
    except OSError as error:
        taken = f"a port from {port} to {port + 2} is taken. Try: gateway dev --port 9000"
        typer.echo(f"gateway: {taken if error.errno == errno.EADDRINUSE else error}", err=True)
        raise typer.Exit(1) from error


def _default_policies() -> Path:
    packaged = Path(standin.__file__).parent / "policies"
    in_source_tree = Path(standin.__file__).parents[2] / "policies"
    return next((folder for folder in (Path("policies"), packaged) if folder.is_dir()), in_source_tree)


async def _dev(policies: Path, port: int, folder: Path, *, once: bool) -> None:
    from rich.console import Console

    from gateway.app import Gateway
    from gateway.clock import SteadyClock
    from gateway.reload import watch
    from gateway.settings import embedded_settings
    from gateway.standin.issuer import StandInIssuer, StandInServer
    from gateway.standin.platforms import PLATFORMS

    clock = SteadyClock()
    console = Console(soft_wrap=True, highlight=False)
    issuers = [StandInIssuer(platform, clock=clock) for platform in PLATFORMS]
    async with StandInServer(*issuers, port=port + 2 if port else 0):
        settings = embedded_settings({
            "issuer": f"http://127.0.0.1:{port}",
            "listen": f"127.0.0.1:{port}",
            "admin": {"listen": f"127.0.0.1:{port + 1 if port else 0}"},
            "policies": policies,
            "audit": {"sinks": [f"file://{folder}/audit.jsonl"]},
        })  # fmt: skip
        gateway = Gateway(settings, insecure_http=True, key_sources=_stood_in(issuers), clock=clock)
        await gateway.start()
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, stop.set)
        try:
            url, generation = f"http://{gateway.public_address}", gateway.policies.generation
            demonstration = Demonstration(console, url, settings.issuer, folder, generation)
            await demonstration.show(issuers)
            if not once:
                demonstration.invite(issuers, gateway.admin_address, policies)
                tasks = [asyncio.create_task(watch(gateway, stop)), asyncio.create_task(demonstration.refresh(issuers))]
                await stop.wait()
                for task in tasks:
                    task.cancel()
        finally:
            await gateway.stop()


def _stood_in(issuers: "list[StandInIssuer]") -> "dict[str, KeySource]":
    """By issuer URL: where its stand-in publishes its keys."""
    from gateway.model import KeySource

    return {
        issuer.issuer: KeySource(discovery_url=issuer.discovery_url, insecure_http=True, private_network=True)
        for issuer in issuers
    }


class Demonstration:
    """Shows exchanges on a terminal, as a client sees them."""

    def __init__(self, console: "Console", url: str, audience: str, folder: Path, generation: "Generation") -> None:
        self._console = console
        self._url = url
        self._audience = audience
        self._folder = folder
        self._generation = generation

    async def show(self, issuers: "list[StandInIssuer]") -> None:
        """One exchange for every shape of token, then one that is refused."""
        self._write_tokens(issuers)
        for issuer in (issuer for issuer in issuers if issuer.platform.name in SHOWN):
            await self._show_exchange(issuer.platform.title, issuer.token(self._audience))
        github = next(issuer for issuer in issuers if issuer.platform.name == "github")
        stranger = github.token(self._audience, event_name="pull_request_target")
        await self._show_exchange("A pull request from a stranger", stranger, ("event_name",))

    def invite(self, issuers: "list[StandInIssuer]", admin_address: str, policies: Path) -> None:
        """Prints what to try while the gateway serves."""
        token = self._token_file(issuers[0])
        names = ", ".join(issuer.platform.name for issuer in issuers)
        self._rule("Try it")
        self._console.print(
            f"curl -s {self._url}/token -d grant_type={TOKEN_EXCHANGE} \\\n"
            f"  -d subject_token_type={JWT} \\\n"
            f"  --data-urlencode subject_token@{token}\n"
            f"\n{sys.argv[0]} token --gateway {self._url} --insecure-http \\\n  --file {token} --output json\n"
            f"\ncurl -s http://{admin_address}/readyz   # what it knows of its issuers"
            f"\ncurl -s http://{admin_address}/metrics  # for Prometheus"
            f"\ntail -f {self._folder}/audit.jsonl   # every decision"
            f"\n$EDITOR {policies}/   # taken over at once, or refused whole\n"
            f"\nTokens: {self._folder}/*.token ({names}), made anew every {REFRESH_SECONDS // 60} minutes;"
            f"\nissuers: {issuers[0].url.rpartition('/')[0]}/ and the same names."
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

    async def _show_exchange(self, title: str, token: str, telling: tuple[str, ...] = ()) -> None:
        import aiohttp

        form = {"grant_type": TOKEN_EXCHANGE, "subject_token_type": JWT, "subject_token": token}
        async with aiohttp.ClientSession() as session, session.post(f"{self._url}/token", data=form) as answer:
            status, body = answer.status, await answer.json()
        show = self._console.print
        self._rule(title)
        show(f"POST {self._url}/token", style="cyan")
        show(f"  grant_type     {TOKEN_EXCHANGE}")
        show("  subject_token  " + _shown(token, ("iss", "sub", "aud", *telling)), markup=False)
        show(f"{status}", style="green" if status == 200 else "red")
        for name, value in body.items():
            if name == "access_token":
                show(f"  access_token   {_shown(value)}", markup=False)
            elif name not in {"issued_token_type", "scope"}:
                show(f"  {name:14} {value}", markup=False)
        show(f"why: {self._why()}\n", markup=False, style="italic")

    def _why(self) -> str:
        """What the audit record of the last request says: for operators, not for the caller."""
        from gateway.policy.wording import conditions_in_words

        record: dict[str, Any] = json.loads((self._folder / "audit.jsonl").read_text().splitlines()[-1])
        if record["decision"] == "denied":
            return str(record.get("detail", record["reason"]))
        account = self._generation.service_account(record["client_id"])
        rules = account.rules if account is not None else ()
        conditions = [words for rule in rules if rule.name == record["rule"] for words in conditions_in_words(rule)]
        return f"rule {record['client_id']}/{record['rule']}: {', '.join(conditions)}"

    def _rule(self, title: str) -> None:
        self._console.print(f"── {title} ".ljust(72, "─"), style="bold")


def _shown(token: str, names: tuple[str, ...] | None = None) -> str:
    """A token cut short, with its claims decoded below; only the named ones where names are given."""
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    chosen = {name: claims[name] for name in names or claims if name in claims}
    lines = [line for name, value in chosen.items() for line in _lines(name, value)]
    if rest := len(claims) - len(chosen):
        lines.append(f"    ... and {rest} more claims")
    return f"{token[:24]}...{token[-8:]}\n" + "\n".join(lines)


def _lines(name: str, value: object) -> list[str]:
    line = f"    {name}: {json.dumps(value)}"
    if len(line) <= 79 or not isinstance(value, dict):
        return [line]
    return [f"    {name}:", *(f"      {inner}: {json.dumps(one)}" for inner, one in value.items())]
