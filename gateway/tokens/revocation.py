"""Access tokens that are no longer good though they have not expired: one by one, or all of a kind.

A revocation is a record in the shared state, and every process holds all of them in memory: whoever checks a token
waits for nobody, and looks a handful of names up, however many revocations there are. A wide one (all tokens of a
service account, of an issuer, ...) ends what was minted up to its moment. What is minted afterwards is for the
policies to decide.
"""

import heapq
import logging
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Literal, Self

import orjson

from gateway.model import Clock
from gateway.oauth.errors import Refusal
from gateway.state.base import Record, StateUnavailableError
from gateway.state.mirror import Mirror
from gateway.tokens.own_token import OwnToken

log = logging.getLogger("gateway.revocation")

KIND = "revocation"
"""The kind of its records in the shared state."""

MAX_AGE_SECONDS = 5.0
"""How old what is known of the shared state may be before nobody can say that a token is not revoked."""
CLOCK_SKEW_SECONDS = 5
"""How far the clocks of replicas may lie apart. A wide revocation reaches so far beyond its moment: a token that was
minted before it by a clock ahead, or in the instant before it is known everywhere, does not escape."""
MAX_TOKEN_REVOCATIONS = 50_000
"""Single tokens that may be revoked at once: whoever holds tokens must not fill the state up, for an operator's
wide revocation needs room there."""

_EVERY_MOMENT = 2**53
_Name = tuple[str, ...]
"""What a token may be revoked by: the form and what it names."""


# ---------------------------------------------------------------- what can be revoked


@dataclass(frozen=True, slots=True)
class OneToken:
    """The token with this ``jti``."""

    token_id: str

    @property
    def names(self) -> tuple[_Name, ...]:
        """What such a token goes by."""
        return (("token", self.token_id),)

    @property
    def words(self) -> str:
        """For logs and for people."""
        return f"the token {self.token_id}"


@dataclass(frozen=True, slots=True)
class OfServiceAccount:
    """Every token of a service account."""

    service_account: str

    @property
    def names(self) -> tuple[_Name, ...]:
        """What such a token goes by."""
        return (("service account", self.service_account),)

    @property
    def words(self) -> str:
        """For logs and for people."""
        return f"every token of the service account {self.service_account}"


@dataclass(frozen=True, slots=True)
class OfIssuer:
    """Every token that was got with a token of an issuer, and every one that a workload of it acts with.

    ``issuer`` is its name in the policies, ``iss`` its URL, or empty where it is not known any more.
    """

    issuer: str
    iss: str

    @property
    def names(self) -> tuple[_Name, ...]:
        """What such a token goes by."""
        return ("issuer", self.issuer), *((("iss", self.iss),) if self.iss else ())

    @property
    def words(self) -> str:
        """For logs and for people."""
        return f"every token that was got with a token of the issuer {self.issuer}"


@dataclass(frozen=True, slots=True)
class OfWorkload:
    """Every token that one workload has got or acts with: an issuer, as in ``OfIssuer``, and a subject."""

    issuer: str
    iss: str
    subject: str

    @property
    def names(self) -> tuple[_Name, ...]:
        """What such a token goes by."""
        return (
            ("workload", self.issuer, self.subject),
            *((("iss and sub", self.iss, self.subject),) if self.iss else ()),
        )

    @property
    def words(self) -> str:
        """For logs and for people."""
        return f"every token that {self.subject} of the issuer {self.issuer} has got"


@dataclass(frozen=True, slots=True)
class OfRule:
    """Every token that was got by a trust rule: ``service_account/rule`` in traces."""

    service_account: str
    rule: str

    @property
    def names(self) -> tuple[_Name, ...]:
        """What such a token goes by."""
        return (("rule", self.service_account, self.rule),)

    @property
    def words(self) -> str:
        """For logs and for people."""
        return f"every token that was got by the trust rule {self.service_account}/{self.rule}"


@dataclass(frozen=True, slots=True)
class OfCredential:
    """Every token that was got with one credential of a service account: ``secret:s1``, ``key:2026-11``, ..."""

    service_account: str
    credential: str

    @property
    def names(self) -> tuple[_Name, ...]:
        """What such a token goes by."""
        return (("credential", self.service_account, self.credential),)

    @property
    def words(self) -> str:
        """For logs and for people."""
        return f"every token that {self.service_account} has got with {self.credential}"


Target = OneToken | OfServiceAccount | OfIssuer | OfWorkload | OfRule | OfCredential

_FORMS: Mapping[str, type[Target]] = {
    "token": OneToken,
    "service_account": OfServiceAccount,
    "issuer": OfIssuer,
    "workload": OfWorkload,
    "rule": OfRule,
    "credential": OfCredential,
}
_FORM_OF = {target: form for form, target in _FORMS.items()}


def names_of(own: OwnToken) -> Iterator[_Name]:
    """Everything that a token may be revoked by.

    Of the workload that got the token the issuer is known by its name, for two may share one URL. Whoever the call was
    passed on to is known by the URL alone.
    """
    yield "token", own.token_id
    yield "service account", own.service_account
    got_with, _, how = own.entitled_by.partition("/")
    by_workload = bool(got_with) and ":" not in how  # no rule has a colon in its name, and every credential has one
    if by_workload:
        yield "issuer", got_with
        yield "rule", own.service_account, how
    elif how:
        yield "credential", own.service_account, how
    act = own.act
    while act:
        before = act.get("act")
        iss, sub = str(act.get("iss", "")), str(act.get("sub", ""))
        if by_workload and not before:
            yield "workload", got_with, sub
        else:
            yield "iss", iss
            yield "iss and sub", iss, sub
        act = before


# ---------------------------------------------------------------- one revocation


@dataclass(frozen=True, slots=True)
class Revocation:
    """What is revoked, and which tokens of it. Times are in seconds since the epoch."""

    id: str
    target: Target
    made_at: int
    issued_until: int
    """Tokens are revoked whose ``iat`` is not behind this."""
    until: int
    """When every token that it can reach has expired."""
    reason: str = ""

    @classmethod
    def of_token(cls, token_id: str, expires_at: int, now: float, reason: str = "") -> Self:
        """Revokes one token, by its ``jti`` and its ``exp``."""
        until = expires_at + CLOCK_SKEW_SECONDS
        return cls(f"jti:{token_id}", OneToken(token_id), math.floor(now), _EVERY_MOMENT, until, reason)

    @classmethod
    def of_all(cls, id_: str, target: Target, now: float, *, max_lifetime_seconds: int, reason: str = "") -> Self:
        """Revokes what was minted up to ``now``. No token lives longer than ``max_lifetime_seconds``."""
        issued_until = math.ceil(now) + CLOCK_SKEW_SECONDS  # iat is in whole seconds, rounded down
        until = issued_until + max_lifetime_seconds + CLOCK_SKEW_SECONDS
        return cls(id_, target, math.floor(now), issued_until, until, reason)

    def to_json(self) -> bytes:
        """The value of its record."""
        form = _FORM_OF[type(self.target)]
        document = {
            "form": form, **asdict(self.target), "made_at": self.made_at, "issued_until": self.issued_until,
            "until": self.until, "reason": self.reason,
        }  # fmt: skip
        return orjson.dumps(document)

    @classmethod
    def parse(cls, id_: str, value: bytes) -> Self:
        """What ``to_json`` wrote. Raises ``ValueError``."""
        match orjson.loads(value):
            case {
                "form": str(form), "made_at": int(made_at), "issued_until": int(issued_until), "until": int(until),
                "reason": str(reason), **named,
            } if form in _FORMS:  # fmt: skip
                return cls(id_, _target(form, named), made_at, issued_until, until, reason)
        raise ValueError("is no revocation that this version knows")


def _target(form: str, named: Mapping[object, object]) -> Target:
    fields = {str(name): text for name, text in named.items() if isinstance(text, str)}
    try:
        return _FORMS[form](**fields)
    except TypeError as error:
        raise ValueError(f"is no revocation by {form}") from error


# ---------------------------------------------------------------- all of them


class Revocations:
    """The revocations in force. Bounded by the shared state, and by forgetting those whose end has come."""

    def __init__(
        self,
        mirror: Mirror,
        clock: Clock,
        *,
        max_age_seconds: float = MAX_AGE_SECONDS,
        without_state: Literal["closed", "open"] = "closed",
        max_token_revocations: int = MAX_TOKEN_REVOCATIONS,
    ) -> None:
        """``without_state`` says what holds while the state cannot be read: nobody passes, or whoever was not revoked
        when it last could be.
        """
        self._mirror = mirror
        self._clock = clock
        self._max_age_seconds = max_age_seconds
        self._without_state = without_state
        self._max_token_revocations = max_token_revocations
        self._in_force: dict[str, Revocation] = {}
        self._ids: dict[_Name, dict[str, int]] = {}
        """By name, the revocations that name it and up to when each of them reaches."""
        self._issued_until: dict[_Name, int] = {}
        """By name, the latest of these. Of an earlier and a later one, the later counts."""
        self._ends: list[tuple[int, str]] = []
        self._single_tokens = 0
        mirror.subscribe(KIND, self._take)
        for record in mirror.of(KIND).values():
            self._apply(record)
        if self._in_force:
            log.warning("%d revocations are in force", len(self._in_force))

    def check(self, own: OwnToken) -> None:
        """Raises ``Refusal``: ``token_revoked``, or ``state_unavailable`` where nobody can know that it is not."""
        if self.is_revoked(own):
            raise Refusal("token_revoked")
        if self._without_state == "closed":
            age = self._mirror.age_seconds(self._clock())
            if age is None or age > self._max_age_seconds:
                raise Refusal("state_unavailable", internal="what was revoked is not known")

    def is_revoked(self, own: OwnToken) -> bool:
        """Whether a token is revoked, as far as this process knows."""
        issued_until = self._issued_until
        if not issued_until:
            return False
        return any(issued_until.get(name, -1) >= own.issued_at for name in names_of(own))

    async def revoke_token(self, own: OwnToken) -> None:
        """Revokes one token: here at once, elsewhere as soon as it is known there. Raises ``Refusal``
        (``state_unavailable``).
        """
        revocation = Revocation.of_token(own.token_id, own.expires_at, self._clock())
        if revocation.id in self._in_force:
            return
        self._forget_ended()
        if self._single_tokens >= self._max_token_revocations:
            raise Refusal("state_unavailable", internal=f"{self._single_tokens} single tokens are revoked already")
        try:
            await self._mirror.put(KIND, revocation.id, revocation.to_json(), until=revocation.until)
        except StateUnavailableError as error:
            raise Refusal("state_unavailable", internal=str(error)) from error

    def active(self) -> int:
        """How many are in force."""
        self._forget_ended()
        return len(self._in_force)

    # ------------------------------------------------------------ following the shared state

    def _take(self, record: Record) -> None:
        known = record.key in self._in_force
        self._forget_ended()
        self._apply(record)
        revocation = self._in_force.get(record.key)
        if revocation is None:
            if known:
                log.warning("no longer revoked: id=%a", record.key)
        elif not known:
            log.warning("revoked: %a id=%a reason=%a", revocation.target.words, record.key, revocation.reason)

    def _apply(self, record: Record) -> None:
        self._drop(record.key)
        if record.value is None:
            return
        try:
            revocation = Revocation.parse(record.key, record.value)
        except ValueError as error:
            log.warning("a revocation cannot be read and is not in force: id=%a: %s", record.key, error)
            return
        self._in_force[revocation.id] = revocation
        self._single_tokens += isinstance(revocation.target, OneToken)
        heapq.heappush(self._ends, (revocation.until, revocation.id))
        for name in revocation.target.names:
            ids = self._ids.setdefault(name, {})
            ids[revocation.id] = revocation.issued_until
            self._issued_until[name] = max(self._issued_until.get(name, -1), revocation.issued_until)

    def _drop(self, id_: str) -> None:
        revocation = self._in_force.pop(id_, None)
        if revocation is None:
            return
        self._single_tokens -= isinstance(revocation.target, OneToken)
        for name in revocation.target.names:
            ids = self._ids[name]
            del ids[id_]
            if ids:
                self._issued_until[name] = max(ids.values())
            else:
                del self._ids[name], self._issued_until[name]

    def _forget_ended(self) -> None:
        now = self._clock()
        while self._ends and self._ends[0][0] <= now:
            until, id_ = heapq.heappop(self._ends)
            revocation = self._in_force.get(id_)
            if revocation is not None and revocation.until == until:
                self._drop(id_)


def all_in_force(records: Iterable[Record]) -> list[Revocation]:
    """Those of some records that can be read, the latest first."""
    found: list[Revocation] = []
    for record in records:
        try:
            found.append(Revocation.parse(record.key, record.value or b""))
        except ValueError:
            continue
    return sorted(found, key=lambda one: (-one.made_at, one.id))
