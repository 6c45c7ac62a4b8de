"""Yesterday's decisions under tomorrow's policies: each recorded request decided again, and what would change.

Only what the policy decides is decided again: that a token verified, and that a client's credential was good, is taken
from the record. What the record does not tell is counted, never guessed. Pure.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from gateway.model import (
    ClaimPath,
    Client,
    Decision,
    Entitlement,
    GrantType,
    RecordedDecision,
    TokenRequest,
    TrustedIssuer,
    Workload,
)
from gateway.oauth.parameters import TOKEN_TYPE_JWT
from gateway.oauth.reasons import GRANTED
from gateway.policy.cel import Condition
from gateway.policy.cel_cost import LARGEST_CLAIMS
from gateway.policy.conditions import Like, Match, claim_at
from gateway.policy.decision import decide, decide_client
from gateway.policy.generation import Generation, TrustRule
from gateway.policy.wording import listed, shown

MAX_GROUPS = 1000
"""Changes that are told apart; of more, only the number is known."""
MAX_SUBJECTS = 20
"""Subjects that are told of one group."""


class Undecided(StrEnum):
    """Why a record cannot be decided again."""

    BEFORE_POLICY = "before_policy"
    """The request was refused before the policy was asked."""
    NO_ANSWER = "no_answer"
    """The server failed before there was an answer."""
    OWN_TOKEN = "own_token"
    """It was about a token of the gateway's own: narrowed, or passed on."""
    CLAIMS_UNKNOWN = "claims_unknown"
    """The policies look at a claim that is not in the record."""
    ISSUER_AMBIGUOUS = "issuer_ambiguous"
    """The issuer's name is gone, and several have its URL."""


class Answer(StrEnum):
    """What a request would come to under the other policies."""

    UNCHANGED = "unchanged"
    DENIED = "denied"
    """It was granted, and would not be."""
    GRANTED = "granted"
    """It was denied, and would not be."""
    DIFFERENT = "different"
    """It would be granted something else, or by another rule."""
    OTHER_REASON = "other_reason"
    """It would still be denied, for another reason."""


@dataclass(frozen=True, slots=True)
class Difference:
    """In what two grants differ: ``service_account``, ``rule``, ``resource``, ``scopes`` or ``lifetime``."""

    name: Literal["service_account", "rule", "resource", "scopes", "lifetime"]
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Kind:
    """What the records of one group have in common."""

    answer: Answer
    issuer: str | None
    service_account: str | None
    """Which it was; of what was denied, which it would be."""
    rule: str | None
    reason: str = ""
    """Why it would be denied, or why it was."""
    differences: tuple[Difference, ...] = ()


@dataclass(slots=True)
class Group:
    """Records that would change alike."""

    kind: Kind
    example: str
    """The ``request_id`` of the first."""
    wanted: str
    """What the policies want of the first, in words, where they would deny it."""
    gives: str
    """What they give to the first, in words, where they would grant it."""
    first: float
    last: float
    count: int = 0
    subjects: Counter[str] = field(default_factory=Counter)
    other_subjects: int = 0
    """Records of further subjects."""

    def take(self, recorded: RecordedDecision) -> None:
        """Counts one more."""
        self.count += 1
        self.first, self.last = min(self.first, recorded.time), max(self.last, recorded.time)
        subject = recorded.subject or ""
        if subject in self.subjects or len(self.subjects) < MAX_SUBJECTS:
            self.subjects[subject] += 1
        else:
            self.other_subjects += 1


class Replay:
    """Takes one record after the other and keeps what it comes to under a generation."""

    def __init__(self, generation: Generation, *, assumed_audience: str | None = None) -> None:
        """``assumed_audience`` stands for the gateway's own issuer where nobody said what it is: issuers that take no
        other audience take that of the record.
        """
        self.records = 0
        self.first: float | None = None
        self.last: float | None = None
        self.answers: Counter[Answer] = Counter()
        self.undecided: Counter[Undecided] = Counter()
        self.ungrouped = 0
        """Changes beyond ``MAX_GROUPS`` groups."""
        self._again = Again(generation, assumed_audience=assumed_audience)
        self._groups: dict[Kind, Group] = {}

    @property
    def decided(self) -> int:
        """How many records were decided again."""
        return self.answers.total()

    @property
    def changes(self) -> int:
        """How many of them would be answered otherwise: granted or not, or granted something else."""
        return self.answers[Answer.DENIED] + self.answers[Answer.GRANTED] + self.answers[Answer.DIFFERENT]

    @property
    def tells_nothing(self) -> bool:
        """Whether not one record could be decided again, and some of them may well have another answer."""
        unknown = self.undecided[Undecided.CLAIMS_UNKNOWN] + self.undecided[Undecided.ISSUER_AMBIGUOUS]
        return self.decided == 0 and unknown > 0

    def groups(self) -> list[Group]:
        """What would change, the most frequent first."""
        return sorted(self._groups.values(), key=lambda group: (-group.count, group.first, group.example))

    def take(self, recorded: RecordedDecision) -> None:
        """Decides one record again. Never raises."""
        self.records += 1
        self.first = recorded.time if self.first is None else min(self.first, recorded.time)
        self.last = recorded.time if self.last is None else max(self.last, recorded.time)
        decision = self._again.decide(recorded)
        if isinstance(decision, Undecided):
            self.undecided[decision] += 1
            return
        kind = compared(recorded, decision)
        self.answers[kind.answer] += 1
        if kind.answer not in {Answer.UNCHANGED, Answer.OTHER_REASON}:
            self._group(kind, recorded, decision)

    def _group(self, kind: Kind, recorded: RecordedDecision, decision: Decision) -> None:
        group = self._groups.get(kind)
        if group is None:
            if len(self._groups) == MAX_GROUPS:
                self.ungrouped += 1
                return
            gives = given_in_words(decision.entitlement) if decision.entitlement is not None else ""
            when = recorded.time
            self._groups[kind] = group = Group(kind, recorded.request_id, decision.wanted, gives, when, when)
        group.take(recorded)


class Again:
    """Decides recorded requests under a generation."""

    def __init__(self, generation: Generation, *, assumed_audience: str | None = None) -> None:
        self._generation = generation
        self._assumed = frozenset() if assumed_audience is None else frozenset({assumed_audience})
        self._by_url: dict[str, list[TrustedIssuer]] = {}
        for issuer in generation.issuers:
            self._by_url.setdefault(issuer.url, []).append(issuer)

    def decide(self, recorded: RecordedDecision) -> Decision | Undecided:
        """The decision for a recorded request, or why there is none. Reads no clock, does no I/O, never raises."""
        if recorded.delegated:
            return Undecided.OWN_TOKEN
        if not was_answered(recorded):
            return Undecided.NO_ANSWER if recorded.stage == "server" else Undecided.BEFORE_POLICY
        if recorded.issuer is None:
            return self._client(recorded)
        issuer = self._issuer(recorded)
        if isinstance(issuer, Undecided | Decision):
            return issuer
        if not recorded.claims_are_complete and self._looks_at_unknown(issuer.name, recorded):
            return Undecided.CLAIMS_UNKNOWN
        return decide(self._generation, _workload(issuer, recorded), _request(recorded))

    def _client(self, recorded: RecordedDecision) -> Decision | Undecided:
        """Of a client with a credential of its own."""
        if recorded.authentication is None or recorded.service_account is None:
            return Undecided.BEFORE_POLICY
        method, _, credential = recorded.authentication.partition("/")
        return decide_client(self._generation, Client(recorded.service_account, method, credential), _request(recorded))

    def _issuer(self, recorded: RecordedDecision) -> TrustedIssuer | Decision | Undecided:
        """The issuer that would have verified the token: that of the name, or else the one of its URL."""
        found = self._generation.issuers_by_name.get(recorded.issuer or "")
        iss = recorded.claims.get("iss")
        if isinstance(iss, str) and (found is None or found.url != iss):
            same_url = self._by_url.get(iss, [])
            if len(same_url) > 1:
                return Undecided.ISSUER_AMBIGUOUS
            found = same_url[0] if same_url else None
        if found is None:
            return self._denial("unknown_issuer", f"no issuer is called {shown(recorded.issuer)}")
        if recorded.claims_are_complete and found.audiences != self._assumed and not _is_for(recorded, found):
            wanted = f"{found.name} takes the audiences {listed(sorted(found.audiences))}"
            return self._denial("wrong_audience", wanted)
        return found

    def _denial(self, reason: str, wanted: str) -> Decision:
        return Decision(reason, None, self._generation.number, wanted=wanted)

    # ------------------------------------------------------------ records that hold some of the claims

    def _looks_at_unknown(self, issuer: str, recorded: RecordedDecision) -> bool:
        """Whether the answer may hang on a claim that is not in the record."""
        generation = self._generation
        before = [guardrail.deny_when for guardrail in generation.guardrails.get(issuer, ())]
        if (condition := generation.issuer_conditions.get(issuer)) is not None:
            before.append(condition)
        if not all(_is_known(condition, recorded) for condition in before):
            return True
        rules = self._rules_in_question(issuer, recorded)
        return rules is None or any(_hangs_on_unknown(rule, recorded) for rule in rules)

    def _rules_in_question(self, issuer: str, recorded: RecordedDecision) -> Iterable[TrustRule] | None:
        """The rules that may admit the workload; None where it is not known which."""
        client_id = _client_id(recorded)
        if client_id is not None:
            account = self._generation.service_account(client_id)
            return [rule for rule in account.rules if rule.issuer == issuer] if account is not None else []
        index = self._generation.index.get(issuer)
        if index is None:
            return []
        known = all(is_known(path, recorded) for path, _ in index.buckets)
        return index.candidates(recorded.claims) if known else None


def said_yes(recorded: RecordedDecision) -> bool:
    """Whether the policy granted it, whatever a quota, a one-time token or the server said afterwards."""
    if recorded.reason == GRANTED or recorded.stage in {"quota", "replay"}:
        return True
    if recorded.reason == "sender_constraint_missing":
        return True
    return recorded.rule is not None and recorded.reason != "unmappable_claim"


def was_answered(recorded: RecordedDecision) -> bool:
    """Whether the policy was asked, and what it said is known."""
    return said_yes(recorded) or recorded.stage in {"policy", "target", "scope"}


def compared(recorded: RecordedDecision, decision: Decision) -> Kind:
    """What a recorded request comes to by this decision, against what it came to."""
    given = decision.entitlement
    if not said_yes(recorded):
        if given is not None:
            return Kind(Answer.GRANTED, recorded.issuer, given.service_account, given.rule, recorded.reason)
        answer = Answer.UNCHANGED if decision.reason == recorded.reason else Answer.OTHER_REASON
        return Kind(answer, recorded.issuer, recorded.service_account, None)
    if given is None:
        return Kind(Answer.DENIED, recorded.issuer, recorded.service_account, recorded.rule, decision.reason)
    differences = tuple(_differences(recorded, given))
    answer = Answer.DIFFERENT if differences else Answer.UNCHANGED
    return Kind(answer, recorded.issuer, recorded.service_account, recorded.rule, differences=differences)


def given_in_words(given: Entitlement) -> str:
    """An entitlement on one line: ``ledger:read at ledger-api for 900 s``."""
    return f"{' '.join(given.scopes)} at {given.resource} for {given.lifetime_seconds} s"


def is_known(path: ClaimPath, recorded: RecordedDecision) -> bool:
    """Whether the record tells the whole value of a claim, or that it is absent."""
    if recorded.claims_are_complete:
        return True
    return any(path[:length] in recorded.known_claims for length in range(1, len(path) + 1))


def _differences(recorded: RecordedDecision, given: Entitlement) -> Iterator[Difference]:
    """Of what the record does not tell, nothing is said."""
    if recorded.service_account is not None and recorded.service_account != given.service_account:
        yield Difference("service_account", recorded.service_account, given.service_account)
    if recorded.rule is not None and recorded.rule != given.rule:
        yield Difference("rule", recorded.rule, given.rule or "")
    if recorded.resource is not None and recorded.resource != given.audience:
        yield Difference("resource", recorded.resource, given.audience)
    if recorded.scopes_given is not None and set(recorded.scopes_given) != set(given.scopes):
        yield Difference("scopes", " ".join(recorded.scopes_given), " ".join(given.scopes))
    lifetime = recorded.lifetime_given_seconds
    if lifetime is not None and lifetime != given.lifetime_seconds:
        yield Difference("lifetime", f"{lifetime} s", f"{given.lifetime_seconds} s")


def _client_id(recorded: RecordedDecision) -> str | None:
    """The service account that was asked for: who authenticated as one asks for that one."""
    return recorded.service_account if recorded.authentication is not None else recorded.client_id_asked


def _request(recorded: RecordedDecision) -> TokenRequest:
    return TokenRequest(
        grant_type=GrantType.TOKEN_EXCHANGE,
        token_type=TOKEN_TYPE_JWT,
        client_id=_client_id(recorded),
        resource=recorded.resource_asked,
        scopes=recorded.scopes_asked,
        lifetime_seconds=recorded.lifetime_asked_seconds,
    )


def _workload(issuer: TrustedIssuer, recorded: RecordedDecision) -> Workload:
    return Workload(
        issuer=issuer,
        subject=recorded.subject or "",
        claims=recorded.claims,
        expires_at=0,
        issued_at=None,
        token_id=None,
        token_sha256="",
        key_id=None,
    )


def _is_for(recorded: RecordedDecision, issuer: TrustedIssuer) -> bool:
    """Whether the issuer takes the token's audiences, as verification judges them (RFC 7519 §4.1.3)."""
    aud = recorded.claims.get("aud")
    audiences = aud if isinstance(aud, list) else [aud]
    accepted = issuer.audiences | issuer.companion_audiences
    is_ours = any(isinstance(one, str) and one in issuer.audiences for one in audiences)
    return is_ours and all(isinstance(one, str) and one in accepted for one in audiences)


def _hangs_on_unknown(rule: TrustRule, recorded: RecordedDecision) -> bool:
    """Whether a rule admits the workload, and what it gives, is not to be told from the claims that are known."""
    conditions: tuple[Match | Like, ...] = (*rule.match, *rule.like)
    for condition in conditions:
        if is_known(condition.path, recorded) and not condition.holds(recorded.claims):
            return False
    if rule.when is not None and _is_known(rule.when, recorded) and not rule.when.holds(recorded.claims, rule.issuer):
        return False
    mapped = [path for mapping in rule.token_claims for path in mapping.paths]
    names_them = all(mapping.names_what_it_reads for mapping in rule.token_claims)
    read = names_them and all(_is_known_to_cel(path, recorded) for path in mapped)
    when_is_known = rule.when is None or _is_known(rule.when, recorded)
    return not (read and when_is_known and all(is_known(path, recorded) for path in rule.paths))


def _is_known(condition: Condition, recorded: RecordedDecision) -> bool:
    if condition.roots is None:
        return False
    if condition.largest_claims < LARGEST_CLAIMS:  # whether it would take too long hangs on all that it is given
        return all(is_known((root,), recorded) for root in condition.roots)
    return all(_is_known_to_cel(path, recorded) for path in condition.paths)


def _is_known_to_cel(path: ClaimPath, recorded: RecordedDecision) -> bool:
    """As ``is_known``, to an expression, which can tell an absent claim from one that has nothing to stand in."""
    if recorded.claims_are_complete:
        return True
    for length in range(1, len(path) + 1):
        if path[:length] in recorded.known_claims:
            return (
                length == 1 or claim_at(recorded.claims, path[:length]) is not None or _is_held(path[:length], recorded)
            )
    return False


def _is_held(path: ClaimPath, recorded: RecordedDecision) -> bool:
    """Whether something else is known that stands beside a claim that is absent."""
    above = path[:-1]
    return any(
        known[: len(above)] == above and claim_at(recorded.claims, known) is not None for known in recorded.known_claims
    )
