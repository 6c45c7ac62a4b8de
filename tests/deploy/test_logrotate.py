"""The sample for logrotate, run by the real one against a gateway under load."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.deploy.deployment_files import DEPLOY, command
from tests.faults.load import load
from tests.faults.neighbourhood import Neighbourhood
from tests.faults.observed import assert_proven
from tests.faults.serving import real_neighbours, serving
from tests.support.parts import eventually

SAMPLE = DEPLOY / "logrotate" / "workload-identity-gateway"
SIGNAL = "systemctl kill --kill-whom=main --signal=HUP workload-identity-gateway.service"


@pytest.fixture
async def around() -> AsyncIterator[Neighbourhood]:
    async with real_neighbours() as found:
        yield found


async def test_the_sample_rotates_packs_and_breaks_no_chain(around: Neighbourhood, tmp_path: Path):
    logrotate = command("logrotate", "logrotate")
    async with serving(tmp_path, around.policies()) as gateway:
        sample = SAMPLE.read_text()
        for old, new in (
            ("/var/log/gateway/audit.jsonl {", f"{gateway.audit_file} {{\n    su root root"),
            (SIGNAL, f"kill -HUP {gateway.process.pid}"),
        ):
            assert sample.count(old) == 1
            sample = sample.replace(old, new)
        if (tmp_path.owner(), tmp_path.group()) != ("root", "root"):
            sample = sample.replace("su root root", f"su {tmp_path.owner()} {tmp_path.group()}")
        (tmp_path / "logrotate.conf").write_text(sample)
        async with load(gateway.url, around.pod_token) as clients:
            for _ in range(3):
                await clients.more(20)
                process = await asyncio.create_subprocess_exec(
                    logrotate, "--force", "--state", tmp_path / "state", tmp_path / "logrotate.conf",
                    stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
                )  # fmt: skip
                output, _ = await process.communicate()
                assert (process.returncode, output) == (0, b"")
                await eventually(lambda: asyncio.to_thread(gateway.audit_file.exists))
        assert (clients.broken, clients.refused) == ([], {})
        gateway.terminate()
        assert await gateway.ended() == 0
    files = [tmp_path / name for name in ("audit.jsonl", "audit.jsonl.1", "audit.jsonl.2.gz", "audit.jsonl.3.gz")]
    assert sorted(tmp_path.glob("audit.jsonl*")) == sorted([*files, tmp_path / "audit.jsonl.keys.json"])
    assert assert_proven(tmp_path, *files).lines > 60
