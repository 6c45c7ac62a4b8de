"""What can be seen of a gateway from outside: readiness, metrics, audit records, the ids in tokens."""

import base64
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from gateway.audit.keys import AuditKey, PublicKeys
from gateway.audit.verification import Report, verify
from tests.support.running import RunningGateway


async def readiness(gateway: RunningGateway) -> tuple[int, dict[str, Any]]:
    """Status and body of ``/readyz``."""
    async with gateway.session.get(f"{gateway.admin_url}/readyz") as answer:
        return answer.status, await answer.json()


async def key_state(gateway: RunningGateway, issuer: str = "prod-cluster") -> str:
    """What ``/readyz`` says of an issuer's keys: ok, stale, waiting or down."""
    state: str = (await readiness(gateway))[1]["issuers"][issuer]["state"]
    return state


async def metric(gateway: RunningGateway, name: str, **labels: str) -> float:
    """The sum of all samples of a metric that have these labels."""
    text = await gateway.get(f"{gateway.admin_url}/metrics")
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def records(*files: Path) -> list[dict[str, Any]]:
    """The records of audit files, without lines about the log itself. A last line without its line end was not
    accepted: it does not count.
    """
    lines = (line for file in files for line in file.read_bytes().split(b"\n")[:-1] if line)
    return [record for record in map(json.loads, lines) if record.get("endpoint") != "audit"]


def assert_proven(folder: Path, *files: Path) -> Report:
    """The audit log is one chain of what was written, up to its end under signatures of the key in a folder."""
    keys = PublicKeys.parse(json.dumps({"keys": [AuditKey.open(folder / "audit.pem").public_jwk()]}).encode())
    report = verify(files, keys=keys)
    assert report.ok, report.problems
    assert len(report.chains) == 1
    return report


def recorded_token_ids(found: Iterable[dict[str, Any]]) -> list[str]:
    """The ``jti`` of every token that was granted, as often as it was written down."""
    return [record["access_token_id"] for record in found if record["decision"] == "granted"]


def claims_of(token: str) -> dict[str, Any]:
    """The claims of a JWT, unverified."""
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    return claims


def token_ids(tokens: Iterable[str]) -> list[str]:
    """The ``jti`` of each token."""
    return [claims_of(token)["jti"] for token in tokens]
