"""The one table of everything that comes in kinds. Adding a kind is one new file and one line here."""

from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from gateway.audit.base import Sink
from gateway.audit.file import FileSink
from gateway.audit.stdout import StreamSink
from gateway.identity.presets import (
    aks,
    aws_sts,
    eks,
    generic,
    github_actions,
    gitlab_ci,
    gke,
    kubernetes,
    openshift,
)
from gateway.model import Clock, Preset
from gateway.state.base import ReplayMarks
from gateway.state.memory import MemoryReplayMarks
from gateway.tokens.stores.base import KeyStore
from gateway.tokens.stores.file import FileKeyStore
from gateway.tokens.stores.memory import MemoryKeyStore

PRESETS: Mapping[str, Preset] = {
    preset.name: preset
    for preset in (
        kubernetes.PRESET,
        eks.PRESET,
        gke.PRESET,
        aks.PRESET,
        openshift.PRESET,
        github_actions.PRESET,
        gitlab_ci.PRESET,
        aws_sts.PRESET,
        generic.PRESET,
    )
}

KEY_STORES: Mapping[str, Callable[[str], KeyStore]] = {
    "file": lambda url: FileKeyStore(_path(url)),
    "memory": lambda _: MemoryKeyStore(),
}

STATE_BACKENDS: Mapping[str, Callable[[str, Clock], ReplayMarks]] = {
    "memory": lambda _, clock: MemoryReplayMarks(clock),
}

AUDIT_SINKS: Mapping[str, Callable[[str], Sink]] = {
    "file": lambda url: FileSink(_path(url)),
    "stdout": lambda _: StreamSink(),
}


def scheme(url: str) -> str:
    """The kind that a URL names: ``file`` of ``file:///var/lib/keys``, ``stdout`` of ``stdout``."""
    return url.partition(":")[0]


def _path(url: str) -> Path:
    parts = urlsplit(url)
    if parts.netloc or not parts.path.startswith("/"):
        raise ValueError(f"{url} is not file:///absolute/path")
    return Path(parts.path)
