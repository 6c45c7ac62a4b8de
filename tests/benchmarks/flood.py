"""What a well-behaved client notices of a flood: its latency beside each kind of flood, against that alone.

A flood is wrk at full speed, as many requests as the gateway answers; the client asks at its own pace from another
address (``paced.py``). The gateway has the quotas that it has by default. What is told are medians over rounds, and of
the ratios within each.
"""

import json
import secrets
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from gateway.jose import base64url
from gateway.oauth.client_secret import new_client_secret
from tests.benchmarks import clients, workload
from tests.benchmarks.loader import finish, start, write_forms
from tests.benchmarks.servers import HERE, cores, gateway, write_settings

RATE = 200
"""Requests a second of the well-behaved client."""
WELL_BEHAVED, GREEDY, LARGE = "well-behaved", "greedy", "large"
RATE_LIMITS = ((WELL_BEHAVED, "60000/minute"), (GREEDY, "60/minute"), (LARGE, "900000000/minute"))
OWN_ADDRESS = "127.0.0.2"
FLOOD_BEGINS_SECONDS = 1
"""A flood runs for so long before anything is measured, and for so long after it: its quotas are spent by then."""


@dataclass(frozen=True)
class Stock:
    """What the forms of floods are made from."""

    credentials: clients.Credentials
    signing_input: str
    """Of a workload token that would be good."""


@dataclass(frozen=True)
class Flood:
    """One kind of flood. ``forms`` gives the lines of a file for ``load.lua``."""

    title: str
    forms: Callable[[Stock], Iterator[str]]
    answered: bool = False


def wrong_secrets(_: Stock) -> Iterator[str]:
    """A stranger who guesses the secret of the very client that is measured, from one address."""
    for _number in range(5000):
        yield clients.secret_form(WELL_BEHAVED, new_client_secret(secrets.token_bytes)) + "\t192.0.2.1"


def too_many(stock: Stock) -> Iterator[str]:
    """A client that is known, and asks without end."""
    yield clients.secret_form(GREEDY, stock.credentials.secret) + "\t192.0.2.2"


def forged_tokens(stock: Stock) -> Iterator[str]:
    """Tokens that only lack the signature, each from another address: no quota counts them together."""
    for number in range(20_000):
        signature = base64url.encode(secrets.token_bytes(256)).decode()
        yield workload.form_of(f"{stock.signing_input}.{signature}") + f"\t10.0.{number // 250}.{number % 250}"


def within_limits(stock: Stock) -> Iterator[str]:
    """As many requests of another client that all have their answer: what a flood costs that nothing stops."""
    yield clients.secret_form(LARGE, stock.credentials.secret) + "\t192.0.2.3"


FLOODS = (
    Flood("wrong secrets for its name, one address", wrong_secrets),
    Flood("a client far over its `rate_limit`", too_many),
    Flood("forged tokens, each from another address", forged_tokens),
    Flood("for comparison: a client without a limit", within_limits, answered=True),
)


@dataclass(frozen=True)
class Noticed:
    """Latencies of the well-behaved client in one run, in microseconds, and the flood's requests per second."""

    p50: float
    p99: float
    flood: float = 0


def measure(
    folder: Path, *, seconds: int, repeats: int, connections: int, console: Console
) -> dict[str | None, list[Noticed]]:
    """The runs beside each flood, by its title; those alone under None."""
    form = _prepare(folder)
    noticed: dict[str | None, list[Noticed]] = {}
    with gateway(folder) as port:
        _ask(port, form, seconds=1)  # warms up
        for turn in range(repeats):
            console.print(f"Round {turn + 1} of {repeats}: a client alone ...")
            noticed.setdefault(None, []).append(_ask(port, form, seconds))
            for number, flood in enumerate(FLOODS):
                console.print(f"Round {turn + 1} of {repeats}: a client beside {flood.title} ...")
                length = seconds + 2 * FLOOD_BEGINS_SECONDS
                running = start(folder / f"{number}.forms", port, length, connections)
                time.sleep(FLOOD_BEGINS_SECONDS)
                own = _ask(port, form, seconds)
                run = finish(running)
                if flood.answered is bool(run.refused):
                    raise SystemExit(f"{flood.title}: {run.refused} requests were refused")
                noticed.setdefault(flood.title, []).append(Noticed(own.p50, own.p99, run.requests_per_second))
    return noticed


def _prepare(folder: Path) -> str:
    """Writes policies, settings and the floods; returns the form of the well-behaved client."""
    key, credentials = workload.new_key(), clients.Credentials.new()
    workload.write_policies(folder / "policies", key, accounts=10)
    clients.write_policies(folder / "policies", credentials, RATE_LIMITS)
    write_settings(
        folder, trusted_proxies=["127.0.0.1/32"]
    )  # the floods' addresses are believed, that of others is not
    stock = Stock(credentials, workload.github_token(key, int(time.time())).rpartition(".")[0])
    for number, flood in enumerate(FLOODS):
        write_forms(folder / f"{number}.forms", list(flood.forms(stock)))
    return clients.secret_form(WELL_BEHAVED, credentials.secret)


def _ask(port: int, form: str, seconds: int) -> Noticed:
    command = [
        "taskset", "-c", str(cores()[1]), sys.executable, str(HERE / "paced.py"), str(port), OWN_ADDRESS, form,
        "--rate", str(RATE), "--seconds", str(seconds),
    ]  # fmt: skip
    found = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    return Noticed(found["p50_microseconds"], found["p99_microseconds"])


def print_table(noticed: dict[str | None, list[Noticed]]) -> None:
    alone = noticed[None]
    print(f"| {RATE} requests/s of a client beside | flood requests/s | p50 ms | of alone | p99 ms | of alone |")
    print("|---|---|---|---|---|---|")
    for title, runs in noticed.items():
        flood = f"{statistics.median(run.flood for run in runs):,.0f}" if title else ""
        cells = [title or "nothing", flood]
        for name in ("p50", "p99"):
            own, base = [getattr(run, name) for run in runs], [getattr(run, name) for run in alone]
            ratio = statistics.median(a / b for a, b in zip(own, base, strict=True))
            cells += [f"{statistics.median(own) / 1000:.2f}", f"{ratio:.1f}" if title else ""]
        print(f"| {' | '.join(cells)} |")
