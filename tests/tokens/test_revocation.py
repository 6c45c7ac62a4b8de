"""What is revoked, and what is not: by name, by moment, in this process and in the next one."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.oauth.errors import Refusal
from gateway.state.base import StateUnavailableError
from gateway.state.memory import MemoryState
from gateway.state.mirror import Mirror
from gateway.tokens.own_token import OwnToken
from gateway.tokens.revocation import (
    CLOCK_SKEW_SECONDS,
    KIND,
    OfCredential,
    OfIssuer,
    OfRule,
    OfServiceAccount,
    OfWorkload,
    OneToken,
    Revocation,
    Revocations,
    Target,
    names_of,
)
from tests.support.time import HandClock
from tests.support.tokens import NOW

DAY = 24 * 3600
CLUSTER = "https://kubernetes.default.svc"
WEB = "system:serviceaccount:shop:web"
API = "system:serviceaccount:orders:api"


def own(**fields: Any) -> OwnToken:
    """A token that the pod ``WEB`` of the cluster ``prod`` has got as ``shop`` by the rule ``web``."""
    token = OwnToken(
        service_account="shop",
        audience="https://orders.example.com",
        scopes=("orders:read",),
        expires_at=NOW + 900,
        issued_at=NOW,
        token_id="jti-1",
        act={"iss": CLUSTER, "sub": WEB},
        entitled_by="prod/web",
        confirmation=None,
        claims={},
        token_sha256="",
    )
    return replace(token, **fields)


BY_SECRET = {"act": None, "entitled_by": "client_secret_basic/secret:s1"}
BY_POST = {"act": None, "entitled_by": "client_secret_post/secret:s1"}
BY_ANOTHER = {"act": None, "entitled_by": "client_secret_basic/secret:s2"}


class House:
    """One process, and the state that it shares with others."""

    def __init__(self, state: MemoryState | None = None, **options: Any) -> None:
        self.clock = HandClock()
        self.state = state or MemoryState(self.clock)
        self.mirror = Mirror(self.state, self.clock, self.clock.sleep)
        self.revocations = Revocations(self.mirror, self.clock, **options)

    async def revoke(self, target: Target, *, at: float = NOW, id_: str = "r1") -> None:
        """As ``gateway revoke`` does it, in another process."""
        revocation = Revocation.of_all(id_, target, at, max_lifetime_seconds=DAY)
        await self.state.put(KIND, revocation.id, revocation.to_json(), until=revocation.until)
        await self.mirror.refresh()

    async def undo(self, id_: str = "r1") -> None:
        await self.state.put(KIND, id_, None)
        await self.mirror.refresh()


@pytest.fixture
async def house() -> House:
    house = House()
    await house.mirror.refresh()
    return house


async def test_nothing_is_revoked_to_begin_with(house: House):
    house.revocations.check(own())
    assert house.revocations.active() == 0


async def test_a_revoked_token_is_refused_at_once_and_no_other_one(house: House):
    await house.revocations.revoke_token(own())
    with pytest.raises(Refusal, match="token_revoked"):
        house.revocations.check(own())
    house.revocations.check(own(token_id="jti-2"))
    assert house.revocations.active() == 1


async def test_a_revoked_token_is_refused_in_a_process_that_starts_later(house: House):
    await house.revocations.revoke_token(own())
    later = House(house.state)
    await later.mirror.refresh()
    with pytest.raises(Refusal, match="token_revoked"):
        later.revocations.check(own())


@pytest.mark.parametrize(
    ("target", "token", "other"),
    [
        (OfServiceAccount("shop"), own(), own(service_account="bank")),
        (OfServiceAccount("shop"), own(**BY_SECRET), own(service_account="bank", **BY_SECRET)),
        (OfIssuer("prod", CLUSTER), own(), own(entitled_by="test/web")),
        (OfIssuer("prod", ""), own(), own(entitled_by="test/web")),
        (OfIssuer("prod", CLUSTER), own(), own(**BY_SECRET)),
        (OfWorkload("prod", CLUSTER, WEB), own(), own(act={"iss": CLUSTER, "sub": API})),
        (OfWorkload("prod", CLUSTER, WEB), own(), own(entitled_by="test/web")),
        (OfRule("shop", "web"), own(), own(entitled_by="prod/rule-2")),
        (OfRule("shop", "web"), own(), own(service_account="bank")),
        (OfCredential("shop", "secret:s1"), own(**BY_SECRET), own()),
        (OfCredential("shop", "secret:s1"), own(**BY_SECRET), own(**BY_ANOTHER)),
        (OfCredential("shop", "secret:s1"), own(**BY_POST), own(service_account="bank", **BY_SECRET)),
    ],
)  # fmt: skip
async def test_a_wide_revocation_reaches_what_it_names_and_nothing_else(
    house: House, target: Target, token: OwnToken, other: OwnToken
):
    await house.revoke(target)
    assert house.revocations.is_revoked(token)
    assert not house.revocations.is_revoked(other)


PASSED_ON = {"act": {"iss": "https://other.example", "sub": API, "act": {"iss": CLUSTER, "sub": WEB}}}


@pytest.mark.parametrize(
    "target",
    [
        OfIssuer("prod", CLUSTER),
        OfIssuer("other", "https://other.example"),
        OfWorkload("prod", CLUSTER, WEB),
        OfWorkload("other", "https://other.example", API),
    ],
)
async def test_a_workload_is_cut_off_wherever_in_the_chain_of_actors_it_stands(house: House, target: Target):
    await house.revoke(target)
    assert house.revocations.is_revoked(own(**PASSED_ON))


async def test_an_actor_in_the_name_of_a_client_with_a_secret_is_cut_off_too(house: House):
    await house.revoke(OfWorkload("prod", CLUSTER, API))
    assert house.revocations.is_revoked(own(act={"iss": CLUSTER, "sub": API}, entitled_by=BY_SECRET["entitled_by"]))


async def test_two_clusters_with_one_url_are_told_apart_by_name(house: House):
    await house.revoke(OfIssuer("prod", CLUSTER))
    assert not house.revocations.is_revoked(own(entitled_by="staging/web"))


async def test_an_issuer_called_like_an_authentication_method_is_no_credential(house: House):
    await house.revoke(OfIssuer("client_secret_basic", "https://odd.example"))
    assert not house.revocations.is_revoked(own(**BY_SECRET))
    assert house.revocations.is_revoked(own(entitled_by="client_secret_basic/secret"))


# ---------------------------------------------------------------- moments


async def test_what_is_minted_afterwards_is_good(house: House):
    await house.revoke(OfServiceAccount("shop"))
    house.revocations.check(own(issued_at=NOW + CLOCK_SKEW_SECONDS + 1))


@given(fraction=st.floats(0, 0.999), ahead=st.floats(0, CLOCK_SKEW_SECONDS), before=st.floats(0, DAY))
def test_no_token_minted_before_escapes_by_rounding_or_by_a_clock_ahead(fraction: float, ahead: float, before: float):
    moment = NOW + fraction
    issued_at = int(moment - before + ahead)
    assert Revocation.of_all("r", OfServiceAccount("shop"), moment, max_lifetime_seconds=DAY).issued_until >= issued_at


@pytest.mark.parametrize("order", [("r1", "r2"), ("r2", "r1")])
async def test_attack_91_of_an_earlier_and_a_later_one_the_later_wins(house: House, order: tuple[str, str]):
    moments = {"r1": NOW - 3600, "r2": NOW}
    for id_ in order:
        await house.revoke(OfServiceAccount("shop"), at=moments[id_], id_=id_)
    assert house.revocations.is_revoked(own())
    await house.undo("r2")
    assert not house.revocations.is_revoked(own())
    assert house.revocations.is_revoked(own(issued_at=NOW - 3600))


async def test_a_revocation_for_one_name_does_not_shadow_a_later_one_for_another(house: House):
    await house.revoke(OfIssuer("prod", CLUSTER), at=NOW, id_="r1")
    await house.revoke(OfServiceAccount("shop"), at=NOW - 7200, id_="r2")
    assert house.revocations.is_revoked(own())


async def test_a_revocation_is_kept_until_the_last_token_that_it_reaches_has_expired():
    revocation = Revocation.of_all("r", OfServiceAccount("shop"), NOW + 0.5, max_lifetime_seconds=DAY)
    assert revocation.until >= revocation.issued_until + DAY
    assert Revocation.of_token("jti", NOW + 900, NOW).until >= NOW + 900


async def test_it_is_forgotten_when_its_end_has_come(house: House):
    await house.revocations.revoke_token(own())
    await house.revoke(OfServiceAccount("shop"))
    house.clock.now += 2 * DAY
    assert house.revocations.active() == 0
    assert not house.revocations.is_revoked(own())


async def test_an_undone_revocation_is_none(house: House, caplog: pytest.LogCaptureFixture):
    await house.revoke(OfServiceAccount("shop"))
    await house.undo()
    house.revocations.check(own())
    assert "no longer revoked" in caplog.text


# ---------------------------------------------------------------- bounds


async def test_to_revoke_a_token_again_and_again_takes_one_place(house: House):
    for _ in range(100):
        await house.revocations.revoke_token(own())
    assert house.revocations.active() == 1


async def test_holders_of_tokens_cannot_take_the_room_that_operators_need():
    house = House(max_token_revocations=3)
    await house.mirror.refresh()
    for number in range(3):
        await house.revocations.revoke_token(own(token_id=f"jti-{number}"))
    with pytest.raises(Refusal, match="state_unavailable"):
        await house.revocations.revoke_token(own(token_id="one-more"))
    await house.revoke(OfServiceAccount("shop"))
    assert house.revocations.is_revoked(own(token_id="one-more"))


async def test_room_comes_back_when_revoked_tokens_expire():
    house = House(max_token_revocations=1)
    await house.mirror.refresh()
    await house.revocations.revoke_token(own())
    house.clock.now += 1000
    await house.revocations.revoke_token(own(token_id="jti-2", expires_at=NOW + 2000))


def test_a_token_goes_by_a_handful_of_names_however_many_revocations_there_are():
    chain: dict[str, Any] = {"iss": CLUSTER, "sub": WEB}
    for _ in range(2):
        chain = {"iss": CLUSTER, "sub": API, "act": chain}
    assert len(list(names_of(own(act=chain)))) <= 10


# ---------------------------------------------------------------- without the shared state


class Away:
    """A state that answers until it is away."""

    def __init__(self, state: MemoryState) -> None:
        self.state = state
        self.away = False

    async def changes(self, since: int) -> Any:
        if self.away:
            raise StateUnavailableError("away")
        return await self.state.changes(since)

    async def put(self, *arguments: Any, **options: Any) -> bool:
        if self.away:
            raise StateUnavailableError("away")
        return await self.state.put(*arguments, **options)


@pytest.fixture
def away() -> Away:
    return Away(MemoryState(HandClock()))


async def test_nobody_passes_before_the_state_was_ever_read(away: Away):
    house = House(away)
    with pytest.raises(Refusal, match="state_unavailable"):
        house.revocations.check(own())


async def test_nobody_passes_once_what_is_known_is_too_old(away: Away):
    house = House(away, max_age_seconds=5)
    await house.mirror.refresh()
    house.clock.now += 5
    house.revocations.check(own())
    house.clock.now += 0.5
    with pytest.raises(Refusal, match="state_unavailable"):
        house.revocations.check(own())
    await house.mirror.refresh()
    house.revocations.check(own())


async def test_open_lets_pass_what_was_not_revoked_when_it_last_could_be(away: Away):
    house = House(away, without_state="open")
    await house.mirror.refresh()
    await house.revocations.revoke_token(own())
    away.away = True
    house.clock.now += 600
    house.revocations.check(own(token_id="jti-2"))
    with pytest.raises(Refusal, match="token_revoked"):
        house.revocations.check(own())


async def test_what_is_known_to_be_revoked_is_told_as_revoked_though_the_state_is_away(away: Away):
    house = House(away)
    await house.mirror.refresh()
    await house.revocations.revoke_token(own())
    house.clock.now += 600
    with pytest.raises(Refusal, match="token_revoked"):
        house.revocations.check(own())


async def test_nothing_is_said_to_be_revoked_that_the_state_did_not_take(away: Away):
    house = House(away)
    await house.mirror.refresh()
    away.away = True
    with pytest.raises(Refusal, match="state_unavailable"):
        await house.revocations.revoke_token(own())
    assert not house.revocations.is_revoked(own())


# ---------------------------------------------------------------- records


@given(
    names=st.lists(st.text(max_size=40), min_size=3, max_size=3),
    moment=st.floats(0, 2**40),
    reason=st.text(st.characters(exclude_categories=["Cs"])),
)
def test_a_record_says_what_was_written(names: list[str], moment: float, reason: str):
    targets = (OneToken(names[0]), OfServiceAccount(names[0]), OfIssuer(*names[:2]), OfWorkload(*names),
               OfRule(*names[:2]), OfCredential(*names[:2]))  # fmt: skip
    for target in targets:
        revocation = Revocation.of_all("id", target, moment, max_lifetime_seconds=DAY, reason=reason)
        assert Revocation.parse("id", revocation.to_json()) == revocation


@pytest.mark.parametrize(
    "value",
    [
        b"", b"[]", b"{", b'"x"', b'{"form": "service_account"}',
        b'{"form":"nonsense","made_at":1,"issued_until":1,"until":1,"reason":""}',
        b'{"form":"rule","service_account":"a","made_at":1,"issued_until":1,"until":1,"reason":""}',
        b'{"form":"rule","service_account":"a","rule":1,"made_at":1,"issued_until":1,"until":1,"reason":""}',
        b'{"form":"token","token_id":"a","more":"b","made_at":1,"issued_until":1,"until":1,"reason":""}',
        b'{"form":"token","token_id":"a","made_at":"1","issued_until":1,"until":1,"reason":""}',
    ],
)  # fmt: skip
async def test_a_record_that_cannot_be_read_is_told_and_harms_no_other(
    house: House, caplog: pytest.LogCaptureFixture, value: bytes
):
    await house.state.put(KIND, "odd", value)
    await house.revoke(OfServiceAccount("shop"))
    assert house.revocations.is_revoked(own())
    assert house.revocations.active() == 1
    assert "cannot be read" in caplog.text


async def test_a_process_logs_one_line_when_a_revocation_comes_into_force(
    house: House, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO, "gateway.revocation")
    await house.revoke(OfWorkload("prod", CLUSTER, "evil\nname"))
    await house.mirror.refresh()
    lines = [record.getMessage() for record in caplog.records if record.name == "gateway.revocation"]
    assert len(lines) == 1
    assert "\n" not in lines[0]


def test_names_of_every_form_meet_those_of_a_token():
    """A form whose names no token goes by would revoke nothing, and nobody would notice."""
    targets: Mapping[str, tuple[Target, OwnToken]] = {
        "token": (OneToken("jti-1"), own()),
        "account": (OfServiceAccount("shop"), own()),
        "issuer": (OfIssuer("prod", CLUSTER), own()),
        "workload": (OfWorkload("prod", CLUSTER, WEB), own()),
        "rule": (OfRule("shop", "web"), own()),
        "credential": (OfCredential("shop", "secret:s1"), own(**BY_SECRET)),
    }
    for target, token in targets.values():
        assert set(target.names) & set(names_of(token))
