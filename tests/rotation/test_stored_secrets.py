"""Client secrets in the shared state: what the server reads of them, what the command line may change."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.identity.clients.stored_secrets import (
    KIND,
    NOTE_EVERY_SECONDS,
    REMEMBER_ENDED_SECONDS,
    USE_KIND,
    LastUse,
    SecretRegister,
    StoredSecrets,
)
from gateway.model import RegisteredSecret
from gateway.state.base import Changes, StateUnavailableError
from gateway.state.memory import MemoryState
from gateway.state.mirror import Mirror
from tests.rotation.neighbourhood import DAY, MovingClock

DIGEST = "sha256:" + "a" * 64


class Everything:
    """A state, its mirror, and what reads from both."""

    def __init__(self) -> None:
        self.clock = MovingClock()
        self.clock.now = 1000.0
        self.state = MemoryState(self.clock)
        self.mirror = Mirror(self.state, self.clock, self.clock.sleep)
        self.register = SecretRegister(self.state, self.clock)
        self.stored = StoredSecrets(self.mirror)


@pytest.fixture
def everything() -> Everything:
    return Everything()


def secret(secret_id: str, expires_at: float | None = None) -> RegisteredSecret:
    return RegisteredSecret(secret_id, DIGEST, 1000.0, expires_at)


# ---------------------------------------------------------------- the server's side


async def test_the_server_sees_a_secret_once_its_mirror_has_it(everything: Everything):
    await everything.register.add("nightly-backup", secret("s1"))
    assert everything.stored.of("nightly-backup") == ()
    await everything.mirror.refresh()
    assert everything.stored.of("nightly-backup") == (secret("s1"),)
    assert everything.stored.of("nightly") == ()


async def test_the_server_sees_changes_and_removals_and_keeps_clients_apart(everything: Everything):
    for client_id, secret_id in (("a", "s1"), ("a", "s2"), ("b", "s1")):
        await everything.register.add(client_id, secret(secret_id))
    await everything.mirror.refresh()
    await everything.register.end("a", "s1", 5000.0)
    await everything.state.put(KIND, "b/s1", None)
    await everything.mirror.refresh()
    assert {one.id: one.expires_at for one in everything.stored.of("a")} == {"s1": 5000.0, "s2": None}
    assert everything.stored.of("b") == ()


async def test_what_the_mirror_had_before_is_seen_too(everything: Everything):
    await everything.register.add("a", secret("s1"))
    await everything.mirror.refresh()
    assert StoredSecrets(everything.mirror).of("a") == (secret("s1"),)


async def test_an_outage_of_the_backend_takes_no_secret_away(everything: Everything):
    await everything.register.add("a", secret("s1"))
    await everything.mirror.refresh()

    async def away(_since: int) -> Changes:
        raise StateUnavailableError("away")

    everything.state.changes = away
    with pytest.raises(StateUnavailableError):
        await everything.mirror.refresh()
    assert everything.stored.of("a") == (secret("s1"),)


async def test_a_secret_is_forgotten_some_time_after_its_end(everything: Everything):
    now = everything.clock()
    await everything.register.add("a", secret("s1", now + DAY))
    everything.clock.now += DAY + REMEMBER_ENDED_SECONDS - 1
    assert [one.id for one in await everything.register.of("a")] == ["s1"]
    everything.clock.now += 2
    assert await everything.register.of("a") == []
    await everything.register.add("a", secret("s2"))
    await everything.mirror.refresh()
    assert [one.id for one in everything.stored.of("a")] == ["s2"]


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b'"text"',
        b"\xff",
        b'{"digest": "sha256:abc", "created": null, "expires": null}',
        json.dumps({"digest": DIGEST.upper(), "created": None, "expires": None}).encode(),
        json.dumps({"digest": DIGEST, "created": None}).encode(),
        json.dumps({"digest": DIGEST, "created": None, "expires": "never"}).encode(),
        json.dumps({"digest": DIGEST, "created": None, "expires": True}).encode(),
        b'{"digest": "%s", "created": null, "expires": Infinity}' % DIGEST.encode(),
        b'{"digest": "%s", "created": null, "expires": NaN}' % DIGEST.encode(),
        b"[" * 10_000,
    ],
)
async def test_a_record_that_cannot_be_read_lets_nobody_in_and_keeps_nobody_out(everything: Everything, value: bytes):
    await everything.register.add("a", secret("good"))
    await everything.state.put(KIND, "a/bad", value)
    await everything.mirror.refresh()
    assert [one.id for one in everything.stored.of("a")] == ["good"]
    assert [one.id for one in await everything.register.of("a")] == ["good"]


@pytest.mark.parametrize("key", ["", "/", "a", "a/", "/s1"])
async def test_a_record_under_another_key_is_nobodys(everything: Everything, key: str):
    await everything.state.put(KIND, key, json.dumps({"digest": DIGEST, "created": None, "expires": None}).encode())
    await everything.mirror.refresh()
    assert everything.stored.of(key.partition("/")[0]) == ()


@given(st.binary(max_size=200))
async def test_no_bytes_in_a_record_break_the_server(value: bytes):
    everything = Everything()
    await everything.state.put(KIND, "a/s1", value)
    await everything.mirror.refresh()
    assert everything.stored.of("a") == ()


# ---------------------------------------------------------------- the register


async def test_two_secrets_of_one_client_have_two_ids(everything: Everything):
    assert await everything.register.add("a", secret("s1"))
    assert not await everything.register.add("a", secret("s1", 5.0))
    assert await everything.register.add("b", secret("s1"))
    assert await everything.register.of("a") == [secret("s1")]


async def test_an_end_is_never_put_off(everything: Everything):
    await everything.register.add("a", secret("s1", 3000.0))
    assert await everything.register.end("a", "s1", 2000.0)
    assert await everything.register.end("a", "s1", 9000.0)
    assert [one.expires_at for one in await everything.register.of("a")] == [2000.0]
    assert not await everything.register.end("a", "s2", 2000.0)


async def test_only_the_end_that_was_set_is_prolonged(everything: Everything):
    await everything.register.add("a", secret("s1", 3000.0))
    assert await everything.register.prolong("a", "s1", ends_at=3000.0, until=None)
    assert await everything.register.prolong("a", "s1", ends_at=3000.0, until=None)  # it was done already
    await everything.register.end("a", "s1", 2000.0)
    assert not await everything.register.prolong("a", "s1", ends_at=3000.0, until=None)
    assert not await everything.register.prolong("a", "s2", ends_at=3000.0, until=None)
    assert [one.expires_at for one in await everything.register.of("a")] == [2000.0]


async def test_a_change_that_somebody_else_was_quicker_with_is_made_on_what_they_left(everything: Everything):
    await everything.register.add("a", secret("s1"))
    put = everything.state.put
    others = [RegisteredSecret("s1", DIGEST, 1000.0, 1500.0)]

    async def overtaken(kind: str, key: str, value: bytes | None, **conditions: Any) -> bool:
        if others:
            members = {"digest": DIGEST, "created": 1000.0, "expires": others.pop().expires_at}
            await put(kind, key, json.dumps(members).encode())
        return await put(kind, key, value, **conditions)

    everything.state.put = overtaken
    assert await everything.register.end("a", "s1", 2000.0)
    assert [one.expires_at for one in await everything.register.of("a")] == [1500.0]


# ---------------------------------------------------------------- last use


async def uses(everything: Everything) -> dict[tuple[str, str], float]:
    return dict((await everything.register.all())[1])


async def test_last_use_is_written_behind_the_request(everything: Everything):
    last_use = LastUse(everything.state)
    last_use.note("a", "s1", everything.clock())
    assert await uses(everything) == {}
    await last_use.close()
    assert await uses(everything) == {("a", "s1"): everything.clock()}


async def test_one_secret_is_written_once_a_minute_however_often_it_is_used(everything: Everything):
    last_use = LastUse(everything.state)
    written = []
    put = everything.state.put

    async def counted(kind: str, key: str, value: bytes | None, **conditions: Any) -> bool:
        written.append(key)
        return await put(kind, key, value, **conditions)

    everything.state.put = counted
    start = everything.clock()
    for second in range(2 * NOTE_EVERY_SECONDS):
        last_use.note("a", "s1", start + second)
        last_use.note("a", "s2", start + second)
        await last_use.close()
    assert sorted(written) == ["a/s1", "a/s1", "a/s2", "a/s2"]


async def test_a_state_that_is_away_costs_the_note_and_nothing_else(everything: Everything):
    last_use = LastUse(everything.state)
    put = everything.state.put

    async def away(*_arguments: Any, **_conditions: Any) -> bool:
        raise StateUnavailableError("away")

    everything.state.put = away
    last_use.note("a", "s1", everything.clock())
    await last_use.close()
    everything.state.put = put
    last_use.note("a", "s1", everything.clock() + 1)  # not a minute later, but the first was lost
    await last_use.close()
    assert await uses(everything) == {("a", "s1"): everything.clock() + 1}


async def test_a_last_use_that_cannot_be_read_is_none(everything: Everything):
    await everything.state.put(USE_KIND, "a/s1", b'{"at": "yesterday"}')
    assert await uses(everything) == {}
