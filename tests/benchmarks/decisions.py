"""Policies of several sizes: how long they take to load, how much memory, and how long a decision takes.

Each size has a process of its own, so that the peak of memory is that of this load alone; run as a program, this
module is such a process, and prints one line of JSON.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from time import perf_counter

from rich.console import Console

from gateway.identity.presets.common import is_reserved_audience
from gateway.kinds import PRESETS
from gateway.model import GrantType, TokenRequest, Workload
from gateway.policy.decision import decide
from gateway.policy.generation import Generation
from gateway.policy.loading import load_policies
from gateway.standin.shapes import github_actions_claims
from tests.benchmarks.workload import ISSUER, JWT, new_key, write_policies

SIZES = (10, 1000, 100_000)
ROUNDS, DECISIONS = 15, 2000


def measure(folder: Path, console: Console) -> list[dict[str, float]]:
    """What the process of each size found."""
    results = []
    for size in SIZES:
        console.print(f"Loading {size:,} service accounts ...")
        policies = folder / str(size)
        write_policies(policies, new_key(), size)
        command = [sys.executable, "-m", "tests.benchmarks.decisions", str(policies), str(size)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        results.append(json.loads(done.stdout))
    return results


def print_table(results: list[dict[str, float]]) -> None:
    print("| service accounts | load s | peak MiB | decision µs, client_id given | decision µs, implied |")
    print("|---|---|---|---|---|")
    for result in results:
        print(
            f"| {result['accounts']:,} | {result['load_seconds']:.1f} | {result['peak_mib']:.0f} "
            f"| {result['named_microseconds']:.1f} | {result['implied_microseconds']:.1f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("accounts", type=int)
    arguments = parser.parse_args()
    started = perf_counter()
    generation = load_policies(
        arguments.folder,
        presets=PRESETS,
        gateway_issuer=ISSUER,
        insecure_http=False,
        number=1,
        is_reserved_audience=is_reserved_audience,
    )
    load_seconds = perf_counter() - started
    issuer = next(issuer for issuer in generation.issuers if issuer.name == "github")
    workloads = []
    for number in range(0, arguments.accounts, max(1, arguments.accounts // 100)):
        claims = github_actions_claims(1793610000, ISSUER, repository_id=str(number))
        workloads.append(Workload(issuer, claims["sub"], claims, claims["exp"], claims["iat"], "id", "sha256", "kid"))
    implied = [(workload, TokenRequest(GrantType.TOKEN_EXCHANGE, "", JWT)) for workload in workloads]
    named = [
        (workload, TokenRequest(GrantType.TOKEN_EXCHANGE, "", JWT, f"repository-{workload.claims['repository_id']}"))
        for workload in workloads
    ]
    for workload, request in implied + named:
        assert decide(generation, workload, request).entitlement is not None
    result = {
        "accounts": arguments.accounts,
        "load_seconds": load_seconds,
        "peak_mib": peak_mib(),
        "implied_microseconds": microseconds(generation, implied),
        "named_microseconds": microseconds(generation, named),
    }
    print(json.dumps(result))


def peak_mib() -> float:
    """Of this process alone: getrusage would count what its parent held when it forked."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def microseconds(generation: Generation, cases: list[tuple[Workload, TokenRequest]]) -> float:
    """The median over rounds of the time that one decision takes."""
    times = []
    for _ in range(ROUNDS):
        started = perf_counter()
        for number in range(DECISIONS):
            workload, request = cases[number % len(cases)]
            decide(generation, workload, request)
        times.append((perf_counter() - started) / DECISIONS * 1e6)
    return statistics.median(times)


if __name__ == "__main__":
    main()
