"""What a sink is made from, beside its URL."""

from dataclasses import dataclass

from gateway.audit.chain import ChainWriter
from gateway.audit.keys import AuditKey
from gateway.audit.rotation import Rotation
from gateway.model import Clock


@dataclass(frozen=True, slots=True)
class SinkParts:
    """Each sink has a chain of its own: a record that one of several refused leaves no hole in another."""

    url: str
    chain: ChainWriter
    clock: Clock
    key: AuditKey | None
    """The audit key, where checkpoints are signed."""
    rotation: Rotation
