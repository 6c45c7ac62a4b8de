"""``make bench``: the gateway against the floor handler, one core for the server and the other for the loader.

Runs take turns (floor, gateway, floor, gateway, ...), so that a machine whose speed drifts slows both alike; what is
told is the median of the ratios. Prints progress to standard error and the table of the README to standard output.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from rich.console import Console

from tests.benchmarks import workload

HERE = Path(__file__).parent
ACCOUNTS = 1000
SIZES = (10, 1000, 100_000)


@dataclass(frozen=True)
class Run:
    """What the loader saw in one run; times in microseconds."""

    requests_per_second: float
    p50: float
    p90: float
    p99: float
    refused: int


@dataclass(frozen=True)
class Case:
    """Something measured against a floor."""

    title: str
    server: str
    forms: str
    """The name of the file with what is sent, for each round; see ``write_forms``."""
    floor: str
    refusals_expected: bool = False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=5, help="length of one run")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--without-decisions", action="store_true", help="leave out the policy sizes")
    arguments = parser.parse_args()
    if shutil.which("wrk") is None:
        print("wrk is not installed: sudo apt-get install wrk", file=sys.stderr)
        return 1
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="gateway-bench-") as name:
        folder = Path(name)
        prepare(folder, arguments, console)
        runs = measure(folder, arguments, console)
        print_table(runs, arguments)
        if not arguments.without_decisions:
            print_decisions([decisions(folder, size, console) for size in SIZES])
    return 0


CASES = (
    Case("floor", "floor", "fresh", "floor"),
    Case("fresh GitHub token", "gateway", "fresh", "floor"),
    Case("30 % of requests denied", "gateway", "mixed", "floor", refusals_expected=True),
    Case("floor without verification", "signing", "repeated", "floor without verification"),
    Case("repeated pod token", "gateway", "repeated", "floor without verification"),
)
MOST_REQUESTS_PER_SECOND = 6000
"""Of the gateway: no token that counts as fresh may come twice, so that many are signed."""


def prepare(folder: Path, arguments: argparse.Namespace, console: Console) -> None:
    """Writes keys, policies, settings, and what is to be sent."""
    key = workload.new_key()
    (folder / "public.pem").write_bytes(workload.public_pem(key))
    workload.write_policies(folder / "policies", key, ACCOUNTS)
    for turn in range(arguments.repeats + 1):
        console.print(f"Signing the tokens of round {turn + 1} of {arguments.repeats + 1} ...")
        write_forms(folder, key, turn, MOST_REQUESTS_PER_SECOND * arguments.seconds)
    settings = {
        "issuer": workload.ISSUER,
        "policies": "policies",
        "keys": {"store": f"file://{folder}/keys"},
        "audit": {"sinks": [f"file://{folder}/audit.jsonl"]},
        "admin": {"listen": "127.0.0.1:0"},
        "log_level": "info",
    }
    (folder / "gateway.yaml").write_text(yaml.safe_dump(settings))


def write_forms(folder: Path, key: RSAPrivateKey, turn: int, count: int) -> None:
    """The forms of one round: fresh ones, other fresh ones of which three in ten are denied, and one pod's."""
    now = int(time.time())
    granted = workload.github_forms(key, now, count + count * 7 // 10, ACCOUNTS)
    denied = workload.github_forms(key, now, count * 3 // 10, ACCOUNTS, denied=True)
    fresh, others = granted[:count], granted[count:]
    mixed = [form for n in range(count // 10) for form in (*others[7 * n : 7 * n + 7], *denied[3 * n : 3 * n + 3])]
    for name, forms in (("fresh", fresh), ("mixed", mixed), ("repeated", [workload.pod_form(key, now)])):
        (folder / f"{name}-{turn}.forms").write_text("\n".join(forms) + "\n")


def measure(folder: Path, arguments: argparse.Namespace, console: Console) -> dict[str, list[Run]]:
    server_core, loader_core = cores()
    runs: dict[str, list[Run]] = {case.title: [] for case in CASES}
    with ExitStack() as stack:
        ports = {
            "floor": stack.enter_context(floor(folder, server_core)),
            "signing": stack.enter_context(floor(folder, server_core, "--without-verification")),
            "gateway": stack.enter_context(gateway(folder, server_core)),
        }
        for turn in range(arguments.repeats + 1):
            for case in CASES:
                # No bar that moves: it would take its share of the two cores.
                console.print(f"Round {turn + 1} of {arguments.repeats + 1}: {case.title} ...")
                run = load(folder / f"{case.forms}-{turn}.forms", ports[case.server], arguments, loader_core)
                if run.refused and not case.refusals_expected:
                    raise SystemExit(f"{case.title}: {run.refused} requests were refused")
                if turn > 0:  # the first round warms up
                    runs[case.title].append(run)
    return runs


def cores() -> tuple[int, int]:
    """One core for the server, another one for the loader."""
    available = sorted(os.sched_getaffinity(0))
    return available[0], available[-1]


@contextmanager
def floor(folder: Path, core: int, *options: str) -> Iterator[int]:
    """The floor handler on a core; yields its port."""
    command = ["taskset", "-c", str(core), sys.executable, str(HERE / "floor.py"), str(folder / "public.pem"), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline())
        finally:
            process.terminate()


@contextmanager
def gateway(folder: Path, core: int) -> Iterator[int]:
    """A whole gateway on a core, as ``gateway serve`` runs it; yields its port."""
    command = ["taskset", "-c", str(core), sys.executable, "-m", "gateway", "serve", "--config", "gateway.yaml"]
    environment = {**os.environ, "GATEWAY_LISTEN": "127.0.0.1:0"}
    with subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            for line in process.stderr:
                if " public=" in line:
                    break
            yield int(line.split(" public=")[1].split()[0].rpartition(":")[2])
        finally:
            process.kill()


def load(forms: Path, port: int, arguments: argparse.Namespace, core: int) -> Run:
    command = [
        "taskset", "-c", str(core), "wrk", "-t1", f"-c{arguments.connections}", f"-d{arguments.seconds}s",
        "--timeout", "5s", "-s", str(HERE / "load.lua"), f"http://127.0.0.1:{port}",
    ]  # fmt: skip
    environment = {**os.environ, "FORMS": str(forms)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT"))
    requests, duration, p50, p90, p99, refused, errors = map(int, line.split()[1:])
    if errors:
        raise SystemExit(f"{forms.name}: {errors} requests failed\n{done.stdout}")
    return Run(requests / duration * 1e6, p50, p90, p99, refused)


def print_table(runs: dict[str, list[Run]], arguments: argparse.Namespace) -> None:
    print("| one core | requests/s | of its floor | p50 ms | p90 ms | p99 ms |")
    print("|---|---|---|---|---|---|")
    for case in CASES:
        own, base = runs[case.title], runs[case.floor]
        ratio = statistics.median(a.requests_per_second / b.requests_per_second for a, b in zip(own, base, strict=True))
        medians = [statistics.median(getattr(run, name) for run in own) for name in ("p50", "p90", "p99")]
        rate = statistics.median(run.requests_per_second for run in own)
        times = " | ".join(f"{value / 1000:.1f}" for value in medians)
        print(f"| {case.title} | {rate:,.0f} | {'' if case.title == case.floor else f'{ratio:.2f}'} | {times} |")
    runs_of = f"{arguments.repeats} runs of {arguments.seconds} s each"
    print(f"\n{runs_of} in turns, {arguments.connections} connections, medians.\n")


def decisions(folder: Path, size: int, console: Console) -> dict[str, float]:
    console.print(f"Loading {size:,} service accounts ...")
    policies = folder / f"policies-{size}"
    workload.write_policies(policies, workload.new_key(), size)
    command = [sys.executable, "-m", "tests.benchmarks.decisions", str(policies), str(size)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=HERE.parent.parent)
    result: dict[str, float] = json.loads(done.stdout)
    return result


def print_decisions(results: list[dict[str, float]]) -> None:
    print("| service accounts | load s | peak MiB | decision µs, client_id given | decision µs, implied |")
    print("|---|---|---|---|---|")
    for result in results:
        print(
            f"| {result['accounts']:,} | {result['load_seconds']:.1f} | {result['peak_mib']:.0f} "
            f"| {result['named_microseconds']:.1f} | {result['implied_microseconds']:.1f} |"
        )


if __name__ == "__main__":
    sys.exit(main())
