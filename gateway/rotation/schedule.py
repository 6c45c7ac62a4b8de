"""Whether a rotation is due. Pure."""

from collections.abc import Collection
from dataclasses import dataclass

from gateway.model import RegisteredSecret
from gateway.rotation.progress import Progress, Step

DAY_SECONDS = 86400
_MOST_SLACK_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class Schedule:
    """How often a client's secret is rotated, into which stores, and how long the one before goes on working."""

    every_seconds: int
    overlap_seconds: int
    targets: tuple[str, ...]


def why_due(
    schedule: Schedule, progress: Progress | None, secrets: Collection[RegisteredSecret], now: float
) -> str | None:
    """Why a rotation should run now, in words; None where it should not.

    ``progress`` is what is recorded of the last one, ``secrets`` are those that the gateway has of the client. A
    schedule that runs daily is let off an hour, so that a minute of delay today is no day of delay tomorrow.
    """
    if progress is None:
        return "it was never rotated"
    if progress.step is not Step.DONE:
        return f"the rotation begun before is unfinished ({progress.step})"
    if new := set(schedule.targets) - set(progress.targets):
        return f"{min(new)} has no secret yet"
    current = next((secret for secret in secrets if secret.digest == progress.digest), None)
    if current is None or (current.expires_at is not None and current.expires_at <= now):
        return "the secret in the stores has ended"
    if current.expires_at is not None and current.expires_at - now < schedule.overlap_seconds + DAY_SECONDS:
        return "the secret in the stores ends soon"
    slack = min(_MOST_SLACK_SECONDS, schedule.every_seconds // 10)
    if progress.began_at + schedule.every_seconds - slack <= now:
        return f"the last rotation is {round((now - progress.began_at) / DAY_SECONDS)} days old"
    return None
