"""The loader: wrk on a core of its own, which sends as fast as it is answered."""

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.servers import HERE, cores


@dataclass(frozen=True)
class Run:
    """What the loader saw in one run; times in microseconds."""

    requests_per_second: float
    p50: float
    p90: float
    p99: float
    refused: int


def write_forms(file: Path, forms: Sequence[str]) -> None:
    """What is to be sent, one after the other and over again; behind a tab, from which address (``load.lua``)."""
    file.write_text("\n".join(forms) + "\n")


def load(forms: Path, port: int, seconds: float, connections: int) -> Run:
    """One run. Ends the benchmark where a request gets no answer."""
    return finish(start(forms, port, seconds, connections))


def start(forms: Path, port: int, seconds: float, connections: int) -> subprocess.Popen[str]:
    """Begins a run, for something else to be measured beside it."""
    command = [
        "taskset", "-c", str(cores()[1]), "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "5s",
        "-s", str(HERE / "load.lua"), f"http://127.0.0.1:{port}",
    ]  # fmt: skip
    return subprocess.Popen(command, env={**os.environ, "FORMS": str(forms)}, stdout=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> Run:
    """Waits for the end of a run."""
    output, _ = process.communicate()
    result = next((line for line in output.splitlines() if line.startswith("RESULT")), None)
    if result is None:
        raise SystemExit(f"wrk failed\n{output}")
    requests, duration, p50, p90, p99, refused, errors = map(int, result.split()[1:])
    if errors:
        raise SystemExit(f"{errors} requests failed\n{output}")
    return Run(requests / duration * 1e6, p50, p90, p99, refused)
