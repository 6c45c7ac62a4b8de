"""A day's audit log under other policies: how long ``gateway policy replay`` takes, and how much memory.

The log is what the gateway would write: jobs of GitHub and pods in turns, one in twenty refused. The policies of the
replay take the write scope away from one job in ten. Run as a program, this module is the process of the command.
"""

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from time import perf_counter

from rich.console import Console

from gateway.audit.record import to_json_line
from gateway.cli.main import app
from gateway.model import AuditRecord
from gateway.standin.shapes import github_actions_claims, kubernetes_claims
from tests.benchmarks.decisions import peak_mib
from tests.benchmarks.workload import ISSUER, new_key, write_policies

ACCOUNTS = 1000
START = 1793610000
PODS_NAMESPACE, PODS_ACCOUNT = "billing", "invoicer"
GRANTED = AuditRecord(
    time=START,
    request_id="",
    grant="token-exchange",
    decision="granted",
    reason="granted",
    stage="granted",
    source="192.0.2.7",
    policy_generation=1,
    verified=True,
    claims_complete=True,
    resource="https://deploy.example.com",
    lifetime_given_seconds=900,
    access_token_key_id="4LCXANwjGIr9Y753j89o-TidZMBATUKp8s6xlNBIkW8",
    key_id="c6a63d6d-a3a9-551b-bfc9-bd845669f721",
)


def measure(folder: Path, console: Console, *, records: int = 1_000_000) -> dict[str, float]:
    """Seconds, peak MiB and counts of one replay of so many records."""
    policies, log = folder / "policies", folder / "audit.jsonl"
    write_policies(policies, new_key(), ACCOUNTS)
    _take_write_from_one_in_ten(policies)
    console.print(f"Writing {records:,} audit records ...")
    with log.open("wb") as file:
        file.writelines(lines(records))
    console.print("Replaying them ...")
    command = [sys.executable, "-m", "tests.benchmarks.replay", str(log), "--policies", str(policies)]
    started = perf_counter()
    done = subprocess.run([*command, "--gateway-issuer", ISSUER], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout) | json.loads(done.stderr.splitlines()[-1])
    assert found["records"] == found["decided"] == records, found
    assert found["changes"] > 0, found
    return {**found, "seconds": perf_counter() - started, "mib": log.stat().st_size / 2**20}


def print_table(result: dict[str, float]) -> None:
    print("| records | MiB of log | replay s | µs a record | peak MiB |")
    print("|---|---|---|---|---|")
    print(
        f"| {result['records']:,.0f} | {result['mib']:,.0f} | {result['seconds']:.0f} "
        f"| {result['seconds'] / result['records'] * 1e6:.0f} | {result['peak_mib']:.0f} |"
    )


def lines(count: int) -> Iterator[bytes]:
    """The lines of an audit log of so many decisions."""
    choose = random.Random(4)
    for number in range(count):
        at = START + number * 0.08
        record = _of_a_job(choose, at) if number % 2 else _of_a_pod(choose, at)
        name = f"{number:022x}"
        yield to_json_line(replace(record, time=at, request_id=name, access_token_id=name[::-1]))


def _of_a_job(choose: random.Random, at: float) -> AuditRecord:
    repository = str(choose.randrange(ACCOUNTS))
    is_refused = choose.random() < 0.1
    claims = github_actions_claims(
        at,
        ISSUER,
        repository_id=repository,
        repository=f"acme/app-{repository}",
        ref=choose.choice(("refs/heads/main", f"refs/heads/release/{choose.randrange(20)}")),
        environment=choose.choice(("production", "staging")),
        event_name="pull_request" if is_refused else "push",
        run_id=str(choose.randrange(10**10)),
        sha=f"{choose.getrandbits(160):040x}",
    )
    job = replace(GRANTED, issuer="github", iss=claims["iss"], subject=claims["sub"], claims=claims, scopes_asked=None)
    if is_refused:
        return replace(
            job,
            decision="denied",
            reason="no_matching_trust",
            stage="policy",
            resource=None,
            lifetime_given_seconds=None,
            detail=f'repository-{repository}/production wants claims.event_name == "push"',
        )
    name = f"repository-{repository}"
    return replace(job, client_id=name, rule="production", scopes_given=("deploy:read", "deploy:write"))


def _of_a_pod(choose: random.Random, at: float) -> AuditRecord:
    pod = f"{PODS_ACCOUNT}-{choose.getrandbits(40):010x}"
    claims = kubernetes_claims(at, ISSUER, namespace=PODS_NAMESPACE, service_account=PODS_ACCOUNT, pod=pod)
    return replace(
        GRANTED,
        issuer="cluster",
        iss=claims["iss"],
        subject=claims["sub"],
        claims=claims,
        client_id="invoicer",
        client_id_asked="invoicer",
        rule="rule-1",
        scopes_asked=("deploy:read",),
        scopes_given=("deploy:read",),
    )


def _take_write_from_one_in_ten(policies: Path) -> None:
    """Rules of every tenth account grant only to read."""
    rule = "  - name: production\n"
    for file in policies.rglob("accounts-*.yaml"):
        file.write_text(file.read_text().replace(rule, f"{rule}    scopes: [deploy:read]\n", 1))


def main() -> None:
    """The command itself, and behind what it prints the peak of this process's memory."""
    app(["policy", "replay", *sys.argv[1:], "--output", "json"], standalone_mode=False)
    print(json.dumps({"peak_mib": peak_mib()}), file=sys.stderr)


if __name__ == "__main__":
    main()
