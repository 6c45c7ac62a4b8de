"""A hundred thousand service accounts in ten thousand files: what a load, a reload and the policy commands take.

Each has a process of its own, so that the peak of memory is its own; run as a program, this module is such a process,
and prints one line of JSON. The work is that of the commands, without the writing of what they found. Seconds are those
of the processor: all of it is work of one thread.
"""

import argparse
import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from time import process_time

from rich.console import Console

from gateway.clock import SteadyClock
from gateway.identity.presets.common import is_reserved_audience
from gateway.kinds import PRESETS
from gateway.policy.diff import diff
from gateway.policy.files import locate_problems, policy_files, policy_text
from gateway.policy.generation import Generation
from gateway.policy.lint.base import Policies
from gateway.policy.lint.linting import lint
from gateway.policy.loading import load_policies
from gateway.policy.reach import who_can
from gateway.policy.store import PolicyStore
from tests.benchmarks.decisions import peak_mib
from tests.benchmarks.workload import ISSUER, new_key, write_policies

ACCOUNTS, PER_FILE = 100_000, 10
CHANGED_FILES = 100
"""Of so many files the accounts lose a scope in what ``diff`` compares with."""
SETTINGS = {
    "presets": PRESETS,
    "gateway_issuer": ISSUER,
    "insecure_http": False,
    "is_reserved_audience": is_reserved_audience,
}

Work = Callable[[Path, Path], tuple[float, int]]
"""From the policies and the changed ones to the seconds after loading, and how much was found."""


def measure(folder: Path, console: Console, *, accounts: int = ACCOUNTS) -> dict[str, dict[str, float]]:
    """What the process of each piece of work found, by its title."""
    policies, changed = folder / "policies", folder / "changed"
    console.print(f"Writing {accounts:,} service accounts ...")
    write_policies(policies, new_key(), accounts, per_file=PER_FILE)
    _write_changed(policies, changed)
    results = {}
    for title in WORK:
        console.print(f"{accounts:,} service accounts: {title} ...")
        command = [sys.executable, "-m", "tests.benchmarks.scale", title, str(policies), str(changed)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        results[title] = json.loads(done.stdout)
    return results


def print_table(results: Mapping[str, Mapping[str, float]]) -> None:
    print(f"| {ACCOUNTS:,} service accounts in {ACCOUNTS // PER_FILE:,} files | loading s | then s | peak MiB |")
    print("|---|---|---|---|")
    for title, result in results.items():
        after = f"{result['seconds']:.1f}" if title != "load" else ""
        print(f"| {title} | {result['load_seconds']:.1f} | {after} | {result['peak_mib']:.0f} |")


def _write_changed(policies: Path, changed: Path) -> None:
    shutil.copytree(policies, changed)
    for file in sorted(changed.glob("team-*/*.yaml"))[:CHANGED_FILES]:
        file.write_text(file.read_text().replace("[deploy:read, deploy:write]", "[deploy:read]"))


# ---------------------------------------------------------------- the work


def _load(policies: Path, _: Path) -> tuple[float, int]:
    return 0.0, len(_generation(policies, keep_tests=False).service_accounts)


def _reload(policies: Path, _: Path) -> tuple[float, int]:
    store = PolicyStore(policies, clock=SteadyClock(), **SETTINGS)
    store.load()
    changed = next(policies.glob("team-*/*.yaml"))
    changed.write_text(changed.read_text() + "# changed\n")
    started = process_time()
    outcome = asyncio.run(store.reload_if_changed())
    assert outcome.result == "loaded"
    return process_time() - started, outcome.number


def _lint(policies: Path, _: Path) -> tuple[float, int]:
    generation = _generation(policies)
    started = process_time()
    files = list(map(str, policy_files(policies, [])))
    report = lint(Policies(generation, PRESETS, is_reserved_audience), files, policy_text, locate_problems)
    return process_time() - started, len(report.findings)


def _diff(policies: Path, changed: Path) -> tuple[float, int]:
    old, new = _generation(policies), _generation(changed)
    started = process_time()
    found = diff(old, new, folders=(str(policies), str(changed)))
    assert not found.is_empty
    return process_time() - started, len(found.access)


def _who_can(policies: Path, _: Path) -> tuple[float, int]:
    generation = _generation(policies, keep_tests=False)
    started = process_time()
    ways = sum(bool(way.who_in_words()) for way in who_can(generation, resource="deploy-api", scope="deploy:write"))
    return process_time() - started, ways


WORK: Mapping[str, Work] = {
    "load": _load,
    "reload of one changed file": _reload,
    "`gateway policy lint`": _lint,
    f"`gateway policy diff`, {CHANGED_FILES} files changed": _diff,
    "`gateway policy who-can`, all ways to one scope": _who_can,
}


def _generation(policies: Path, *, keep_tests: bool = True) -> Generation:
    return load_policies(policies, number=1, keep_tests=keep_tests, **SETTINGS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("title", choices=WORK)
    parser.add_argument("policies", type=Path)
    parser.add_argument("changed", type=Path)
    arguments = parser.parse_args()
    started = process_time()
    seconds, found = WORK[arguments.title](arguments.policies, arguments.changed)
    total = process_time() - started
    print(json.dumps({"load_seconds": total - seconds, "seconds": seconds, "found": found, "peak_mib": peak_mib()}))


if __name__ == "__main__":
    main()
