"""Conditions and claims that nobody thought of: in a process of their own, where a crash of the runtime is one."""

import json
import subprocess
import sys
from pathlib import Path

from tests.docs.markdown import ROOT

EVALUATIONS = 20_000
ALL_EVALUATIONS = 1_000_000


def test_no_condition_crashes_the_process_fills_the_memory_or_takes_long(tmp_path: Path, full_faults: bool):
    wanted = ALL_EVALUATIONS if full_faults else EVALUATIONS
    case = tmp_path / "case.json"
    done = subprocess.run(
        [sys.executable, "-m", "tests.policy.cel_fuzzing", str(wanted), str(case)],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    told = f"exit code {done.returncode}, last case {case.read_text()[:2000]}\n{done.stderr[-4000:]}"
    assert done.returncode == 0, told
    report = json.loads(done.stdout)
    assert report["evaluations"] >= wanted
    assert report["loaded"] > wanted / 100, report
