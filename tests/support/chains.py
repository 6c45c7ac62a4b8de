"""Sinks with chains of their own, and what they wrote without its places in the chain."""

import re
from itertools import count
from pathlib import Path
from typing import Any

import orjson

from gateway.audit.chain import ChainWriter, Checkpoints
from gateway.audit.file import FileSink
from gateway.audit.keys import AuditKey, PublicKeys
from gateway.audit.stdout import StreamSink
from gateway.clock import SteadyClock
from gateway.model import Clock

_PLACE = re.compile(
    rb',"chain":"[^"]+","sequence":\d+,"previous":(null|"[0-9a-f]{64}")(,"signature":"[0-9a-f]{128}")?\}'
)
_EVENT = re.compile(rb'\{"time":"[^"]+","endpoint":"audit"[^\n]*\n')
_numbers = count(1)


def chain_writer(key: AuditKey | None = None, clock: Clock | None = None, **often: Any) -> ChainWriter:
    """A chain under a name of its own; with a key, checkpoints every 1000 lines or minute, or as ``often`` says."""
    signed = (
        Checkpoints(key, **{"every_lines": 1000, "every_seconds": 60, "max_lines_at_once": 2048} | often)
        if key
        else None
    )
    return ChainWriter(lambda: f"test-{next(_numbers)}", clock or SteadyClock(), signed)


def file_sink(path: Path, chain: ChainWriter | None = None, clock: Clock | None = None, **options: Any) -> FileSink:
    """A sink for a file."""
    clock = clock or SteadyClock()
    return FileSink(path, chain or chain_writer(clock=clock), clock, **options)


def stream_sink(descriptor: int, chain: ChainWriter | None = None, **options: Any) -> StreamSink:
    """A sink for a descriptor."""
    return StreamSink(chain or chain_writer(), descriptor, **options)


def bare(data: bytes) -> bytes:
    """Lines as they were handed to the sink, without those about the log itself."""
    return _PLACE.sub(b"}", _EVENT.sub(b"", data))


def public_keys(*keys: AuditKey) -> PublicKeys:
    """What checks the signatures of these keys."""
    return PublicKeys.parse(orjson.dumps({"keys": [key.public_jwk() for key in keys]}))
