"""The servers that are measured, each a process of its own on the one core that servers have."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.benchmarks.workload import ISSUER

HERE = Path(__file__).parent


def cores() -> tuple[int, int]:
    """One core for the server, another one for the loader."""
    available = sorted(os.sched_getaffinity(0))
    return available[0], available[-1]


@contextmanager
def floor(check: str, evidence: str = "") -> Iterator[int]:
    """The floor handler with one of its checks; yields its port."""
    command = [*_on_its_core(), str(HERE / "floor.py"), check, evidence]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline())
        finally:
            process.terminate()


def write_settings(folder: Path, **others: Any) -> None:
    """The settings of a whole gateway: audit on disk, metrics and quotas on, the policies in ``folder/policies``."""
    settings: Mapping[str, Any] = {
        "issuer": ISSUER,
        "policies": "policies",
        "keys": {"store": f"file://{folder}/keys"},
        "audit": {"sinks": [f"file://{folder}/audit.jsonl"]},
        "admin": {"listen": "127.0.0.1:0"},
        "log_level": "info",
        **others,
    }
    (folder / "gateway.yaml").write_text(yaml.safe_dump(settings))


@contextmanager
def gateway(folder: Path) -> Iterator[int]:
    """A whole gateway, as ``gateway serve`` runs it; yields its port."""
    command = [*_on_its_core(), "-m", "gateway", "serve", "--config", "gateway.yaml"]
    environment = {**os.environ, "GATEWAY_LISTEN": "127.0.0.1:0"}
    with subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield _announced_port(process)
        finally:
            process.kill()


def _announced_port(process: subprocess.Popen[str]) -> int:
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        found = re.search(r" public=\S+:(\d+)", line)
        if found is not None:
            return int(found[1])
        said.append(line)
    raise SystemExit(f"the gateway did not start\n{''.join(said)}")


def _on_its_core() -> list[str]:
    return ["taskset", "-c", str(cores()[0]), sys.executable]
