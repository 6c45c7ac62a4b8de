"""Remembering that a signature was good changes no answer."""

import pytest

from gateway.model import Entitlement
from gateway.oauth.errors import Refusal
from gateway.tokens import recent
from gateway.tokens.access_token import mint
from gateway.tokens.recent import REMEMBERED_SECONDS, RecentTokens
from gateway.tokens.signing_key import SigningKey
from tests.support.signing import signing_keys, stored
from tests.support.time import HandClock
from tests.support.tokens import NOW

ISSUER = "https://sts.example.com"
KEY, OTHER_KEY = SigningKey.generate("ES256", NOW), SigningKey.generate("ES256", NOW)


def token(token_id: str = "jti-1", *, lifetime: int = 900, key: SigningKey = KEY) -> str:
    entitlement = Entitlement("shop", "web", "orders", "https://orders.example.com", ("read",), lifetime, {})
    return mint(entitlement, None, key, issuer=ISSUER, now=NOW, token_id=token_id, entitled_by="prod/web").token


class Counting:
    """Counts how often a signature is really verified."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.verified = 0
        really = recent.verify_own_token

        def verify(*arguments):
            self.verified += 1
            return really(*arguments)

        monkeypatch.setattr(recent, "verify_own_token", verify)


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> Counting:
    return Counting(monkeypatch)


def test_a_signature_is_verified_once_a_minute(counting: Counting):
    clock = HandClock()
    tokens = RecentTokens(signing_keys([KEY]), ISSUER, clock)
    first = token()
    for _ in range(10):
        assert tokens.verify(first).token_id == "jti-1"
    assert counting.verified == 1
    clock.now += REMEMBERED_SECONDS
    tokens.verify(first)
    assert counting.verified == 2


def test_a_remembered_token_expires_to_the_second():
    clock = HandClock()
    tokens = RecentTokens(signing_keys([KEY]), ISSUER, clock)
    short = token(lifetime=20)
    clock.now += 19.9
    tokens.verify(short)
    clock.now = NOW + 20
    with pytest.raises(Refusal, match="token_expired"):
        tokens.verify(short)


def test_a_remembered_token_is_worth_nothing_once_its_key_is_gone():
    keys = signing_keys([KEY, OTHER_KEY])
    tokens = RecentTokens(keys, ISSUER, HandClock())
    ours = token()
    tokens.verify(ours)
    keys.take(stored(OTHER_KEY))
    with pytest.raises(Refusal, match="unknown_key"):
        tokens.verify(ours)


def test_a_refused_token_is_refused_every_time_and_takes_no_place(counting: Counting):
    tokens = RecentTokens(signing_keys([KEY]), ISSUER, HandClock())
    for bad in (token(key=OTHER_KEY), token()[:-4] + "AAAA", "a.b.c", "\udc80", "x" * 20_000):
        for _ in range(2):
            with pytest.raises(Refusal):
                tokens.verify(bad)
    assert counting.verified == 10


def test_no_more_is_remembered_than_was_allowed(counting: Counting):
    tokens = RecentTokens(signing_keys([KEY]), ISSUER, HandClock(), capacity=2)
    first, *others = [token(f"jti-{number}") for number in range(3)]
    for one in (first, *others, *others):
        tokens.verify(one)
    assert counting.verified == 3
    tokens.verify(first)
    assert counting.verified == 4
