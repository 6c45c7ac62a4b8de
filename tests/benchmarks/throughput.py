"""How many tokens a second, against the floor that does the same cryptography.

Runs take turns (floor, gateway, floor, gateway, ...), so that a machine whose speed drifts slows both alike; what is
told is the median of the ratios.
"""

import hashlib
import statistics
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import rsa
from rich.console import Console

from tests.benchmarks import clients, workload
from tests.benchmarks.loader import Run, load, write_forms
from tests.benchmarks.servers import floor, gateway, write_settings

WORKLOAD_ACCOUNTS = 1000
CLIENTS = 100
WARM_UP_SECONDS = 1
MOST_REQUESTS_PER_SECOND = 6000
"""Of the gateway: no token that counts as fresh and no assertion may come twice, so that many are signed."""
BEYOND_REACH = "900000000/minute"
"""Quotas are counted, and refuse nothing."""


@dataclass(frozen=True)
class Case:
    """Something measured against a floor."""

    title: str
    server: str
    forms: str
    """The name of the file with what is sent, for each round; see ``_write_forms``."""
    floor: str
    refusals_expected: bool = False


CASES = (
    Case("floor", "rs256-token", "fresh", "floor"),
    Case("fresh GitHub token", "gateway", "fresh", "floor"),
    Case("the same, with a shadow of these policies", "shadowed", "fresh", "floor"),
    Case("30 % of requests denied", "gateway", "mixed", "floor", refusals_expected=True),
    Case("floor without verification", "nothing", "repeated", "floor without verification"),
    Case("repeated pod token", "gateway", "repeated", "floor without verification"),
    Case("floor with a secret", "secret", "secrets", "floor with a secret"),
    Case("client secret", "gateway", "secrets", "floor with a secret"),
    Case("floor with ES256", "es256-assertion", "assertions", "floor with ES256"),
    Case("`private_key_jwt` (ES256)", "gateway", "assertions", "floor with ES256"),
)


@dataclass(frozen=True)
class Stock:
    """What every caller here has: the key of the platforms, the credentials of the clients."""

    platform_key: rsa.RSAPrivateKey
    credentials: clients.Credentials


def measure(folder: Path, *, seconds: int, repeats: int, connections: int, console: Console) -> dict[str, list[Run]]:
    """The runs of each case, by its title, without the first round, which warms up."""
    stock = Stock(workload.new_key(), clients.Credentials.new())
    _write_configuration(folder, stock)
    runs: dict[str, list[Run]] = {case.title: [] for case in CASES}
    with ExitStack() as stack:
        ports = _start_servers(folder, stock, stack)
        for turn in range(repeats + 1):
            length = seconds if turn else WARM_UP_SECONDS
            console.print(f"Signing what is sent in round {turn + 1} of {repeats + 1} ...")
            _write_forms(folder, stock, MOST_REQUESTS_PER_SECOND * length)
            for case in CASES:
                # No bar that moves: it would take its share of the two cores.
                console.print(f"Round {turn + 1} of {repeats + 1}: {case.title} ...")
                run = load(folder / f"{case.forms}.forms", ports[case.server], length, connections)
                if run.refused and not case.refusals_expected:
                    raise SystemExit(f"{case.title}: {run.refused} requests were refused")
                if turn > 0:
                    runs[case.title].append(run)
    return runs


def _write_configuration(folder: Path, stock: Stock) -> None:
    workload.write_policies(folder / "policies", stock.platform_key, WORKLOAD_ACCOUNTS)
    names = (f"client-{number}" for number in range(CLIENTS))
    clients.write_policies(folder / "policies", stock.credentials, ((name, BEYOND_REACH) for name in names))
    rates = dict.fromkeys(("ceiling", "service_account", "workload", "failures_per_source"), BEYOND_REACH)
    write_settings(folder, quotas=rates)
    shadowed = folder / "shadowed"
    shadowed.mkdir()
    write_settings(shadowed, quotas=rates, policies="../policies", policies_shadow="../policies")


def _start_servers(folder: Path, stock: Stock, stack: ExitStack) -> Mapping[str, int]:
    """Their ports, by the names that cases have for them."""
    evidence = {
        "rs256-token": workload.public_pem(stock.platform_key),
        "es256-assertion": workload.public_pem(stock.credentials.key),
        "secret": hashlib.sha256(stock.credentials.secret.encode()).hexdigest(),
        "nothing": "",
    }
    ports = {check: stack.enter_context(floor(check, text)) for check, text in evidence.items()}
    gateways = {"gateway": folder, "shadowed": folder / "shadowed"}
    return {**ports, **{name: stack.enter_context(gateway(of)) for name, of in gateways.items()}}


def _write_forms(folder: Path, stock: Stock, count: int) -> None:
    """The forms of one round: fresh ones, other fresh ones of which three in ten are denied, one pod's, and those of
    classic clients.
    """
    now = int(time.time())
    granted = workload.github_forms(stock.platform_key, now, count + count * 7 // 10, WORKLOAD_ACCOUNTS)
    denied = workload.github_forms(stock.platform_key, now, count * 3 // 10, WORKLOAD_ACCOUNTS, denied=True)
    fresh, others = granted[:count], granted[count:]
    mixed = [form for n in range(count // 10) for form in (*others[7 * n : 7 * n + 7], *denied[3 * n : 3 * n + 3])]
    names = [f"client-{number}" for number in range(CLIENTS)]
    forms = {
        "fresh": fresh,
        "mixed": mixed,
        "repeated": [workload.pod_form(stock.platform_key, now)],
        "secrets": [clients.secret_form(name, stock.credentials.secret) for name in names],
        "assertions": [clients.assertion_form(names[n % CLIENTS], stock.credentials, now) for n in range(count)],
    }
    for name, lines in forms.items():
        write_forms(folder / f"{name}.forms", lines)


def print_table(runs: dict[str, list[Run]]) -> None:
    print("| one core | requests/s | of its floor | p50 ms | p90 ms | p99 ms |")
    print("|---|---|---|---|---|---|")
    for case in CASES:
        own, base = runs[case.title], runs[case.floor]
        ratio = statistics.median(a.requests_per_second / b.requests_per_second for a, b in zip(own, base, strict=True))
        medians = [statistics.median(getattr(run, name) for run in own) for name in ("p50", "p90", "p99")]
        rate = statistics.median(run.requests_per_second for run in own)
        times = " | ".join(f"{value / 1000:.1f}" for value in medians)
        print(f"| {case.title} | {rate:,.0f} | {'' if case.title == case.floor else f'{ratio:.2f}'} | {times} |")
