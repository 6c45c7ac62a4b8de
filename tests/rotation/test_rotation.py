"""A rotation that is cut off anywhere, resumed at any time, or overtaken breaks no client and leaves nothing behind."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.model import RegisteredSecret
from gateway.oauth.client_secret import secret_digest
from gateway.rotation.base import ClientSecret, SecretStoreError
from gateway.rotation.progress import LEASE_SECONDS, RotationBusyError, RotationError, Step, read_progress
from gateway.rotation.rotation import PROVE_SECONDS, PROVISIONAL_SECONDS, GatewayUnavailableError
from gateway.state.base import Record
from tests.rotation.neighbourhood import CLIENT, DAY, HOUR, OVERLAP, TARGETS, Killed, Neighbourhood, nothing

EFFECTS = 47
"""What one rotation of two stores does, seen from outside, before and after; held by a test of its own."""
DELAYS = [0, LEASE_SECONDS + 1, PROVISIONAL_SECONDS - 60, 2 * HOUR, 3 * DAY]


async def killed_at(neighbourhood: Neighbourhood, number: int) -> bool:
    """Runs a rotation that dies at its effect of this number; False if it came to its end before."""
    seen = 0

    async def kill(_: str) -> None:
        nonlocal seen
        await neighbourhood.check_that_clients_work()
        seen += 1
        if seen > number:  # and whatever it still tries on its way out
            raise Killed

    neighbourhood.hook = kill
    try:
        await neighbourhood.rotate()
    except Killed:
        return True
    except RotationBusyError:
        return False
    finally:
        neighbourhood.hook = nothing
    return False


async def resumed(neighbourhood: Neighbourhood) -> None:
    """Runs rotations as a schedule would, until one comes to its end."""
    for _ in range(3):
        try:
            await neighbourhood.rotate()
            return
        except RotationBusyError:
            neighbourhood.clock.now += LEASE_SECONDS + 1
        except RotationError:  # its secret has ended meanwhile: the next run makes another
            continue
    raise AssertionError("it does not come to an end")


async def test_a_rotation_puts_one_new_secret_into_every_store_and_ends_the_old_one_after_the_overlap():
    neighbourhood = Neighbourhood()
    old = await neighbourhood.settle()
    began_at = neighbourhood.clock()
    rotated = await neighbourhood.rotate()
    await neighbourhood.check_that_all_is_well()
    assert rotated.ending == ("first",)
    assert [store.history[-1].secret for store in neighbourhood.stores.values()] == [old, old]
    assert await neighbourhood.authenticates(CLIENT, old)
    neighbourhood.clock.now = rotated.others_end_at - 1
    assert await neighbourhood.authenticates(CLIENT, old)
    neighbourhood.clock.now = rotated.others_end_at
    assert not await neighbourhood.authenticates(CLIENT, old)
    assert rotated.others_end_at == pytest.approx(began_at + OVERLAP, abs=60)
    await neighbourhood.check_that_clients_work()


async def test_the_first_rotation_fills_empty_stores():
    neighbourhood = Neighbourhood()
    await neighbourhood.rotate()
    await neighbourhood.check_that_all_is_well()


async def test_the_number_of_effects_is_that_which_the_tests_below_go_through():
    neighbourhood = Neighbourhood()
    await neighbourhood.settle()
    seen = []

    async def see(effect: str) -> None:
        seen.append(effect)

    neighbourhood.hook = see
    await neighbourhood.rotate()
    assert len(seen) == EFFECTS, seen


@pytest.mark.parametrize("delay", DELAYS)
@pytest.mark.parametrize("number", range(EFFECTS))
async def test_a_rotation_killed_at_any_step_is_resumed_and_nothing_is_lost(number: int, delay: int):
    neighbourhood = Neighbourhood()
    await neighbourhood.settle()
    assert await killed_at(neighbourhood, number)
    await neighbourhood.check_that_clients_work()
    neighbourhood.clock.now += delay
    await neighbourhood.check_that_clients_work()
    await resumed(neighbourhood)
    await neighbourhood.check_that_all_is_well()
    neighbourhood.clock.now += OVERLAP
    assert len([one for one in await neighbourhood.register.of(CLIENT) if _lives(one, neighbourhood.clock())]) == 1
    await neighbourhood.check_that_clients_work()


@pytest.mark.parametrize("number", range(EFFECTS))
async def test_a_rotation_killed_and_never_resumed_leaves_no_unproven_secret_that_lives(number: int):
    neighbourhood = Neighbourhood()
    await neighbourhood.settle()
    assert await killed_at(neighbourhood, number)
    neighbourhood.clock.now += 2 * PROVISIONAL_SECONDS
    living = [one for one in await neighbourhood.register.of(CLIENT) if _lives(one, neighbourhood.clock())]
    progress = (await read_progress(neighbourhood.state)).get(CLIENT)
    if progress is None or not progress.reached(Step.PROVEN):
        assert [one.id for one in living] == ["first"]
    await neighbourhood.check_that_clients_work()


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, EFFECTS + 20), st.sampled_from([*DELAYS, 40 * DAY])), max_size=6))
async def test_any_number_of_deaths_at_any_steps_ends_well(deaths: list[tuple[int, int]]):
    neighbourhood = Neighbourhood()
    await neighbourhood.settle()
    for number, delay in deaths:
        await killed_at(neighbourhood, number)
        neighbourhood.clock.now += delay
        await neighbourhood.check_that_clients_work()
    await resumed(neighbourhood)
    await neighbourhood.check_that_all_is_well()


@pytest.mark.parametrize("delay", [LEASE_SECONDS + 1, 2 * HOUR, 2 * DAY])
@pytest.mark.parametrize("runs", [1, 2])
@pytest.mark.parametrize("number", range(EFFECTS))
async def test_a_process_that_slept_while_others_took_over_does_no_harm_when_it_wakes(
    number: int, runs: int, delay: int
):
    neighbourhood = Neighbourhood()
    await neighbourhood.settle()
    seen = 0

    async def overtake(_: str) -> None:
        nonlocal seen
        seen += 1
        await neighbourhood.check_that_clients_work()
        if seen == number + 1:
            for _ in range(runs):
                neighbourhood.clock.now += delay
                await resumed(neighbourhood)
                await neighbourhood.check_that_clients_work()
            left.append(await _record(neighbourhood))

    left: list[Record] = []
    neighbourhood.hook = overtake
    try:
        await neighbourhood.rotate()
    except (RotationError, SecretStoreError):
        pass
    finally:
        neighbourhood.hook = nothing
    assert [await _record(neighbourhood)] == left, "it wrote over what the others had recorded"
    await neighbourhood.check_that_clients_work()
    neighbourhood.clock.now += LEASE_SECONDS + 1
    await resumed(neighbourhood)
    neighbourhood.clock.now += 2 * PROVISIONAL_SECONDS
    await neighbourhood.check_that_clients_work()
    living = [one for one in await neighbourhood.register.of(CLIENT) if one.expires_at is None]
    assert len(living) == 1


async def test_two_at_once_cannot_rotate_one_client():
    neighbourhood = Neighbourhood()
    await neighbourhood.settle()
    refused = []

    async def second(effect: str) -> None:
        if effect == "before asking the gateway" and not refused:
            with pytest.raises(RotationBusyError, match="another process is rotating"):
                await neighbourhood.rotate()
            refused.append(effect)

    neighbourhood.hook = second
    await neighbourhood.rotate()
    assert refused
    await neighbourhood.check_that_all_is_well()


async def test_a_secret_that_was_staged_before_the_crash_is_read_back_and_not_made_anew():
    neighbourhood = Neighbourhood()
    await neighbourhood.settle()

    async def kill(effect: str) -> None:
        if effect == f"after staging in {TARGETS[0]}":
            raise Killed

    neighbourhood.hook = kill
    with pytest.raises(Killed):
        await neighbourhood.rotate()
    neighbourhood.hook = nothing
    staged = neighbourhood.stores[TARGETS[0]].pending
    neighbourhood.clock.now += LEASE_SECONDS + 1
    await neighbourhood.rotate()
    assert neighbourhood.stores[TARGETS[1]].current == staged


async def test_a_secret_that_was_lost_in_a_crash_is_ended_at_once():
    neighbourhood = Neighbourhood()
    await neighbourhood.settle()

    async def kill(effect: str) -> None:
        if effect == f"before staging in {TARGETS[0]}":
            raise Killed

    neighbourhood.hook = kill
    with pytest.raises(Killed):
        await neighbourhood.rotate()
    neighbourhood.hook = nothing
    neighbourhood.clock.now += LEASE_SECONDS + 1
    (lost,) = [one.id for one in await neighbourhood.register.of(CLIENT) if one.id != "first"]
    resumed_at = neighbourhood.clock()
    await neighbourhood.rotate()
    registered = {one.id: one for one in await neighbourhood.register.of(CLIENT)}
    assert registered[lost].expires_at == resumed_at


async def test_the_overlap_begins_with_the_promotion_however_late_the_rest_is_done():
    neighbourhood = Neighbourhood()
    await neighbourhood.settle()
    promoted = []

    async def kill(effect: str) -> None:
        if effect == f"after promoting in {TARGETS[1]}":
            promoted.append(neighbourhood.clock())
        if promoted and effect == "before writing client-secret":
            raise Killed

    neighbourhood.hook = kill
    with pytest.raises(Killed):
        await neighbourhood.rotate()
    neighbourhood.hook = nothing
    neighbourhood.clock.now += 3 * DAY
    await neighbourhood.rotate()
    registered = {one.id: one for one in await neighbourhood.register.of(CLIENT)}
    assert registered["first"].expires_at == promoted[0] + OVERLAP


async def test_a_store_that_somebody_else_fills_meanwhile_is_left_to_them():
    neighbourhood = Neighbourhood()
    theirs = ClientSecret("web-deploy", "theirs")

    async def fill(effect: str) -> None:
        if effect == "after writing client-secret":
            neighbourhood.stores[TARGETS[1]].current = theirs

    neighbourhood.hook = fill
    with pytest.raises(RotationError, match="a secret of web-deploy"):
        await neighbourhood.rotate()
    assert neighbourhood.stores[TARGETS[1]].current == theirs
    assert neighbourhood.stores[TARGETS[1]].pending is None


async def test_nothing_is_promoted_that_the_gateway_does_not_take():
    neighbourhood = Neighbourhood(gateway_knows=False)
    old = await neighbourhood.settle()
    with pytest.raises(RotationError, match="same shared state"):
        await neighbourhood.rotate()
    assert {store.current.secret for store in neighbourhood.stores.values() if store.current} == {old}
    neighbourhood.gateway_knows = True
    await neighbourhood.rotate()  # at once: the lease was given back
    await neighbourhood.check_that_all_is_well()


async def test_an_unreachable_gateway_is_asked_for_a_minute_and_promotes_nothing():
    neighbourhood = Neighbourhood()
    await neighbourhood.settle()
    asked_at = []

    async def nobody(_client_id: str, _secret: str) -> bool:
        asked_at.append(neighbourhood.clock())
        raise GatewayUnavailableError("No answer from sts.example.com: Connection refused.")

    with pytest.raises(RotationError, match="Connection refused"):
        await neighbourhood.rotate(authenticates=nobody)
    assert len(asked_at) > 3
    assert asked_at[-1] - asked_at[0] <= PROVE_SECONDS
    assert all(not store.history for store in neighbourhood.stores.values())


async def test_a_store_that_fails_leaves_the_old_secret_in_force_and_the_next_run_goes_on():
    neighbourhood = Neighbourhood()
    await neighbourhood.settle()

    async def break_down(effect: str) -> None:
        if effect == f"before promoting in {TARGETS[1]}":
            raise SecretStoreError("no answer")

    neighbourhood.hook = break_down
    with pytest.raises(SecretStoreError):
        await neighbourhood.rotate()
    await neighbourhood.check_that_clients_work()
    neighbourhood.hook = nothing
    await neighbourhood.rotate()
    await neighbourhood.check_that_all_is_well()


async def test_a_store_that_holds_somebody_elses_secret_is_refused_before_anything_is_made():
    neighbourhood = Neighbourhood()
    neighbourhood.stores[TARGETS[1]].current = ClientSecret("web-deploy", "theirs")
    with pytest.raises(RotationError, match="a secret of web-deploy, not of nightly-backup"):
        await neighbourhood.rotate()
    assert await neighbourhood.register.of(CLIENT) == []
    assert neighbourhood.stores[TARGETS[1]].current == ClientSecret("web-deploy", "theirs")


async def test_a_store_that_does_not_say_whose_secret_it_holds_is_known_by_the_secret():
    neighbourhood = Neighbourhood()
    old = await neighbourhood.settle()
    neighbourhood.stores[TARGETS[0]].current = ClientSecret(None, old)
    await neighbourhood.rotate()
    await neighbourhood.check_that_all_is_well()
    neighbourhood.stores[TARGETS[0]].current = ClientSecret(None, "a database's password")
    with pytest.raises(RotationError, match="nobody that this gateway knows"):
        await neighbourhood.rotate()


async def test_a_secret_of_the_policy_files_is_known_too():
    neighbourhood = Neighbourhood()
    for store in neighbourhood.stores.values():
        store.current = ClientSecret(None, "from a policy file")
    await neighbourhood.rotate(known=[RegisteredSecret("s1", secret_digest("from a policy file"))])
    assert all(store.current is not None for store in neighbourhood.stores.values())


async def test_an_operator_who_ends_the_new_secret_midway_is_obeyed():
    neighbourhood = Neighbourhood()
    old = await neighbourhood.settle()
    ended = []

    async def end_it(effect: str) -> None:
        if effect == "before asking the gateway" and not ended:
            ended.append(max(await neighbourhood.register.of(CLIENT), key=lambda one: one.created_at or 0).id)
            await neighbourhood.register.end(CLIENT, ended[0], neighbourhood.clock() + 600)

    neighbourhood.hook = end_it
    with pytest.raises(RotationError, match="was ended, or took too long"):
        await neighbourhood.rotate()
    neighbourhood.hook = nothing
    assert {store.current.secret for store in neighbourhood.stores.values() if store.current} == {old}
    neighbourhood.clock.now += 3600
    rotated = await neighbourhood.rotate()
    assert rotated.secret_id not in ended
    await neighbourhood.check_that_all_is_well()


async def test_an_unfinished_rotation_into_other_stores_is_given_up_while_nothing_is_proven():
    neighbourhood = Neighbourhood(gateway_knows=False)
    await neighbourhood.settle()
    with pytest.raises(RotationError):
        await neighbourhood.rotate(targets=TARGETS[:1])
    neighbourhood.gateway_knows = True
    neighbourhood.stores[TARGETS[0]].promote = None
    rotated = await neighbourhood.rotate(targets=TARGETS[1:])
    registered = {one.id: one for one in await neighbourhood.register.of(CLIENT)}
    assert [id_ for id_, one in registered.items() if one.expires_at is None] == [rotated.secret_id]


async def test_an_unfinished_rotation_into_other_stores_is_finished_first_once_it_is_proven():
    neighbourhood = Neighbourhood()
    await neighbourhood.settle()

    async def break_down(effect: str) -> None:
        if effect == f"before promoting in {TARGETS[0]}":
            raise SecretStoreError("no answer")

    neighbourhood.hook = break_down
    with pytest.raises(SecretStoreError):
        await neighbourhood.rotate(targets=TARGETS[:1])
    neighbourhood.hook = nothing
    rotated = await neighbourhood.rotate(targets=TARGETS[1:])
    assert rotated.targets == TARGETS[1:]
    assert all(len(store.history) == 1 for store in neighbourhood.stores.values())
    await neighbourhood.check_that_clients_work()


async def test_a_lifetime_bounds_the_new_secret():
    neighbourhood = Neighbourhood()
    now = neighbourhood.clock()
    rotated = await neighbourhood.rotate(lifetime_seconds=90 * DAY)
    (secret,) = await neighbourhood.register.of(CLIENT)
    assert secret.expires_at == rotated.expires_at == now + 90 * DAY


async def test_secrets_made_by_hand_while_it_runs_are_left_alone():
    neighbourhood = Neighbourhood()
    await neighbourhood.settle()

    async def make(effect: str) -> None:
        if effect == "before asking the gateway":
            await neighbourhood.register.add(
                CLIENT, RegisteredSecret("by-hand", "sha256:" + "a" * 64, neighbourhood.clock())
            )

    neighbourhood.hook = make
    await neighbourhood.rotate()
    registered = {one.id: one for one in await neighbourhood.register.of(CLIENT)}
    assert registered["by-hand"].expires_at is None
    assert registered["first"].expires_at is not None


async def test_a_secret_that_ends_sooner_than_the_overlap_is_not_prolonged():
    neighbourhood = Neighbourhood()
    await neighbourhood.settle()
    soon = neighbourhood.clock() + 3600
    await neighbourhood.register.end(CLIENT, "first", soon)
    rotated = await neighbourhood.rotate()
    registered = {one.id: one for one in await neighbourhood.register.of(CLIENT)}
    assert registered["first"].expires_at == soon
    assert rotated.ending == ()


async def test_no_secret_is_in_a_record_a_report_or_a_repr():
    neighbourhood = Neighbourhood()
    await neighbourhood.settle()
    await neighbourhood.rotate()
    written = [record.value or b"" for record in (await neighbourhood.state.changes(0)).records]
    for store in neighbourhood.stores.values():
        for secret in (store.current, *store.history):
            assert secret is not None
            assert secret.secret.encode() not in b"".join(written)
            assert secret.secret not in "".join(neighbourhood.reports) + repr(store.__dict__)


async def test_a_record_of_a_newer_version_stops_it():
    neighbourhood = Neighbourhood()
    await neighbourhood.state.put("rotation", CLIENT, b'{"holder":"","leased_until":0,"progress":{"step":"mailed"}}')
    with pytest.raises(RotationError, match="newer version"):
        await neighbourhood.rotate()


async def _record(neighbourhood: Neighbourhood) -> Record:
    """What is recorded of the rotation, and its version."""
    records = (await neighbourhood.state.changes(0)).records
    return next(record for record in records if record.kind == "rotation")


def _lives(secret: RegisteredSecret, now: float) -> bool:
    return secret.expires_at is None or secret.expires_at > now
