"""The tightest trust rules that the traffic supports: what was seen, per rule, and what the rule might say instead.

A suggestion is never wider than the rule: conditions are narrowed to the values that were seen, or added; none is taken
away. So it admits all that was observed, and nobody whom the rule refused. Pure.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gateway.model import ClaimPath, Claims, RecordedDecision
from gateway.policy.conditions import Like, Match, ScalarKey, claim_at, parse_match, scalar_key
from gateway.policy.documents import MIN_LIFETIME_SECONDS
from gateway.policy.generation import Generation, ServiceAccount, TestCase, TrustRule
from gateway.policy.policy_tests import play, played_claims
from gateway.policy.replay import Again, said_yes

MAX_VALUES = 8
"""A claim with more values than these stays as it is."""
MAX_SHAPES = 24
"""Different requests that are remembered of one rule, for its tests."""
MAX_TEXT_CHARACTERS = 256
"""A longer value goes into no file."""

Scalar = str | int | bool


@dataclass(frozen=True, slots=True)
class Pins:
    """The claims by which the tokens of one platform are tied to one workload."""

    always: tuple[ClaimPath, ...]
    """Immutable ids, or what the platform never gives to anybody else."""
    context: tuple[tuple[ClaimPath, ...], ...] = ()
    """Under which circumstances it runs: the first group that can be pinned is enough."""
    only_true: tuple[ClaimPath, ...] = ()
    """Claims that are worth something where they are the text ``true``."""
    names: Mapping[ClaimPath, ClaimPath] = field(default_factory=dict)
    """Names that can change hands, each with the id that cannot."""


_SUBJECT = Pins(always=(("sub",),))
_PINS = {
    "github-actions": Pins(
        always=(("repository_owner_id",), ("repository_id",), ("event_name",)),
        context=((("environment",),), (("ref",), ("ref_type",)), (("job_workflow_ref",),)),
        names={("repository",): ("repository_id",), ("repository_owner",): ("repository_owner_id",)},
    ),
    "gitlab-ci": Pins(
        always=(("namespace_id",), ("project_id",)),
        context=((("environment",),), (("ref",), ("ref_type",))),
        only_true=(("ref_protected",),),
        names={("project_path",): ("project_id",), ("namespace_path",): ("namespace_id",)},
    ),
    "aws-sts": Pins(always=(("https://sts.amazonaws.com/", "aws_account"), ("sub",))),
}
"""Of every other platform it is the subject."""

VOLATILE = frozenset({
    "exp", "iat", "nbf", "jti", "run_id", "run_number", "run_attempt", "check_run_id", "sha", "workflow_sha",
    "job_workflow_sha", "pipeline_id", "job_id", "ci_config_sha", "runner_id",
})  # fmt: skip
"""Claims that differ from token to token."""
_VOLATILE_WITHIN = {
    "kubernetes.io": frozenset({"pod", "node", "warnafter", "secret"}),
    "https://sts.amazonaws.com/": frozenset({"original_session_exp", "request_tags", "ec2_source_instance_arn"}),
}


def pins_of(preset: str) -> Pins:
    """The claims to pin of a platform's tokens."""
    return _PINS.get(preset, _SUBJECT)


def is_volatile(path: ClaimPath) -> bool:
    """Whether a claim is another one in every token, so that no rule can ask for its value."""
    return path[0] in VOLATILE or (len(path) > 1 and path[1] in _VOLATILE_WITHIN.get(path[0], ()))


# ---------------------------------------------------------------- what was seen


@dataclass(slots=True)
class Values:
    """The values of one claim of the workloads that a rule admitted."""

    found: dict[ScalarKey, "_Value"] = field(default_factory=dict)
    missing: int = 0
    """How often it was absent, or no scalar."""
    has_more: bool = False
    """Whether there were more than ``MAX_VALUES``."""

    def take(self, value: Any, time: float) -> None:
        """Notes the value of one more token."""
        key = scalar_key(value)
        if key is None:
            self.missing += 1
            return
        known = self.found.get(key)
        if known is not None:
            known.count += 1
            known.first = min(known.first, time)
        elif len(self.found) == MAX_VALUES:
            self.has_more = True
        else:
            self.found[key] = _Value(value, time)

    def settled(self, first: float, last: float) -> bool:
        """Whether these are all the values that there will be, as far as can be told: none of several was new in the
        later half of the time.
        """
        if self.has_more or not self.found:
            return False
        middle = first + (last - first) / 2
        return len(self.found) == 1 or all(one.first <= middle for one in self.found.values())

    @property
    def commonest(self) -> Scalar:
        """The value that was seen most often."""
        return max(self.found.values(), key=lambda one: one.count).value


@dataclass(slots=True)
class _Value:
    """One value, when it was first seen, and how often."""

    value: Scalar
    first: float
    count: int = 1


@dataclass(slots=True)
class Shape:
    """Requests that were alike in all that a test plays."""

    claims: Claims
    resource: str | None
    scopes: tuple[str, ...] | None
    count: int = 0


@dataclass(slots=True)
class Observed:
    """What one rule granted."""

    rule: TrustRule
    deciding: tuple[ClaimPath, ...] | None
    """The claims that the policies look at; None where they may look at any."""
    values: dict[ClaimPath, Values]
    count: int = 0
    first: float = 0.0
    last: float = 0.0
    incomplete: int = 0
    """Grants whose records do not hold all claims."""
    passed_on: int = 0
    """Calls that were passed on by it."""
    given: dict[str, set[str]] = field(default_factory=dict)
    """By the resource's name, the scopes."""
    longest_seconds: int = 0
    shapes: dict[Any, Shape] = field(default_factory=dict)
    further_shapes: bool = False

    @property
    def was_used(self) -> bool:
        """Whether anybody got anything by it."""
        return bool(self.count or self.incomplete or self.passed_on)

    def take(self, recorded: RecordedDecision, given: tuple[str, tuple[str, ...], int]) -> None:
        """Notes one grant: the resource's name, the scopes and the lifetime in seconds."""
        resource, scopes, lifetime = given
        self.first = min(self.first, recorded.time) if self.count else recorded.time
        self.last = max(self.last, recorded.time)
        self.count += 1
        self.given.setdefault(resource, set()).update(scopes)
        self.longest_seconds = max(self.longest_seconds, lifetime)
        keys = []
        for path, values in self.values.items():
            value = claim_at(recorded.claims, path)
            values.take(value, recorded.time)
            keys.append(scalar_key(value))
        shape_key = (*keys, recorded.resource_asked, recorded.scopes_asked)
        shape = self.shapes.get(shape_key)
        if shape is None:
            if len(self.shapes) == MAX_SHAPES:
                self.further_shapes = True
                return
            paths = None if self.deciding is None else (*self.deciding, *self.values)
            claims = projected(recorded.claims, paths)
            shape = self.shapes[shape_key] = Shape(claims, recorded.resource_asked, recorded.scopes_asked)
        shape.count += 1


class Traffic:
    """Takes the records of an audit log and keeps what each trust rule of a generation granted."""

    def __init__(self, generation: Generation, *, assumed_audience: str | None = None) -> None:
        """``assumed_audience`` as of ``Replay``."""
        self.records = 0
        self.refused_now = 0
        """Requests that were granted and that these policies refuse: no rule can be suggested from them."""
        self.by_other_ways: set[str] = set()
        """Service accounts whose access is used without one of their rules: by a credential, or in a chain of calls."""
        self._generation = generation
        self._again = Again(generation, assumed_audience=assumed_audience)
        self._observed: dict[tuple[str, str], Observed] = {}

    def of(self, account: ServiceAccount, rule: TrustRule) -> Observed:
        """What was seen of a rule."""
        return self._observed.get((account.name, rule.name)) or self._empty(rule)

    def take(self, recorded: RecordedDecision) -> None:
        """Notes one record, if something was granted. Never raises."""
        self.records += 1
        if not said_yes(recorded):
            return
        if recorded.delegated or recorded.issuer is None:
            self._take_other_way(recorded)
            return
        if not recorded.claims_are_complete:
            if (rule := self._rule(recorded.service_account, recorded.rule)) is not None:
                self._seen(rule).incomplete += 1
            return
        decision = self._again.decide(recorded)
        given = getattr(decision, "entitlement", None)
        rule = self._rule(given.service_account, given.rule) if given is not None else None
        if given is None or rule is None:
            self.refused_now += 1
            return
        self._seen(rule).take(recorded, (given.resource, given.scopes, given.lifetime_seconds))

    def _take_other_way(self, recorded: RecordedDecision) -> None:
        name = recorded.service_account
        if name is not None and name in self._generation.service_accounts:  # a log may name any number of others
            self.by_other_ways.add(name)
        if recorded.issuer is None or recorded.rule is None:
            return
        # Of a call that was passed on the record does not name the actor's account: it may be any with such a rule.
        index = self._generation.index.get(recorded.issuer)
        for rule in index.candidates(recorded.claims) if index is not None else ():
            if rule.name == recorded.rule and (not recorded.claims_are_complete or rule.admits(recorded.claims)):
                self._seen(rule).passed_on += 1
                self.by_other_ways.add(rule.service_account)

    def _rule(self, account_name: str | None, rule_name: str | None) -> TrustRule | None:
        account = self._generation.service_account(account_name) if account_name is not None else None
        rules = account.rules if account is not None else ()
        return next((rule for rule in rules if rule.name == rule_name), None)

    def _seen(self, rule: TrustRule) -> Observed:
        key = (rule.service_account, rule.name)
        if key not in self._observed:
            self._observed[key] = self._empty(rule)
        return self._observed[key]

    def _empty(self, rule: TrustRule) -> Observed:
        issuer = self._generation.issuers_by_name[rule.issuer]
        pins = pins_of(issuer.preset)
        wanted = (*pins.always, *(path for group in pins.context for path in group), *pins.only_true)
        conditions: tuple[Match | Like, ...] = (*rule.match, *rule.like)
        paths = dict.fromkeys((*wanted, *(condition.path for condition in conditions)))
        return Observed(rule, self._deciding(rule), {path: Values() for path in paths})

    def _deciding(self, rule: TrustRule) -> tuple[ClaimPath, ...] | None:
        """The claims that decide about a workload of this rule; None where a condition may look at any of them."""
        generation = self._generation
        conditions = [guardrail.deny_when for guardrail in generation.guardrails.get(rule.issuer, ())]
        conditions += [one for one in (rule.when, generation.issuer_conditions.get(rule.issuer)) if one is not None]
        if any(condition.roots is None for condition in conditions):
            return None
        if not all(mapping.names_what_it_reads for mapping in rule.token_claims):
            return None
        read = (path for condition in conditions for path in condition.paths)
        mapped = (path for mapping in rule.token_claims for path in mapping.paths)
        return tuple(dict.fromkeys((*rule.paths, *read, *mapped)))


def projected(claims: Claims, paths: tuple[ClaimPath, ...] | None) -> dict[str, Any]:
    """Of the claims those at these paths, for a test: it is told what decides, and nothing else of the token."""
    if paths is None:
        return {name: value for name, value in claims.items() if name not in VOLATILE and name not in {"iss", "aud"}}
    found: dict[str, Any] = {}
    for path in sorted(paths, key=len):
        value = claim_at(claims, path)
        if value is None or path[0] in {"iss", "aud"}:
            continue
        holder = found
        for name in path[:-1]:
            holder = holder.setdefault(name, {})
            if not isinstance(holder, dict):
                break
        else:
            holder.setdefault(path[-1], value)
    return found


# ---------------------------------------------------------------- what a rule might say


@dataclass(frozen=True, slots=True)
class Narrowed:
    """A condition that stays on its claim and admits less: exactly these values."""

    path: ClaimPath
    before: Match | Like
    values: tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class RuleSuggestion:
    """What one trust rule might say instead; nothing where it is as tight as its traffic."""

    rule: TrustRule
    observed: Observed
    narrowed: tuple[Narrowed, ...] = ()
    """Conditions that stay on their claims."""
    pinned: tuple[tuple[ClaimPath, tuple[Scalar, ...]], ...] = ()
    scopes: tuple[str, ...] | None = None
    token_lifetime_seconds: int | None = None
    kept: tuple[str, ...] = ()
    """What stays as wide as it is, and why."""

    @property
    def says_something(self) -> bool:
        """Whether anything would change."""
        return bool(self.narrowed or self.pinned or self.scopes is not None or self.token_lifetime_seconds is not None)

    @property
    def values(self) -> dict[ClaimPath, tuple[Scalar, ...]]:
        """The values that it asks for, of the claims that it narrows or pins."""
        return {**{one.path: one.values for one in self.narrowed}, **dict(self.pinned)}

    def as_rule(self) -> TrustRule:
        """The rule as it would be, but for the order of its conditions."""
        changed = {one.path for one in self.narrowed}
        match = [one for one in self.rule.match if one.path not in changed]
        match += [exactly(path, values) for path, values in self.values.items()]
        like = tuple(one for one in self.rule.like if one.path not in changed)
        grants = self.rule.grants
        if self.scopes is not None:
            kept = {name: tuple(one for one in scopes if one in self.scopes) for name, scopes in grants.items()}
            grants = {name: scopes for name, scopes in kept.items() if scopes}
        seconds = self.token_lifetime_seconds or self.rule.token_lifetime_seconds
        return replace(self.rule, match=tuple(match), like=like, grants=grants, token_lifetime_seconds=seconds)


@dataclass(frozen=True, slots=True)
class AccountSuggestion:
    """What one service account might say instead."""

    account: ServiceAccount
    rules: tuple[RuleSuggestion, ...]
    access: Mapping[str, tuple[str, ...]] | None
    """By resource, all the scopes that were asked for; None where that is not certain, or it is all that there is."""
    unused: tuple[TrustRule, ...]
    """Rules by which nobody got anything."""
    refused: tuple[tuple[TrustRule, str], ...]
    """Rules about which nothing is suggested, and why not."""

    @property
    def says_something(self) -> bool:
        """Whether anything would change."""
        return self.access is not None or any(one.says_something for one in self.rules)


def suggestion_for(
    generation: Generation, account: ServiceAccount, traffic: Traffic, *, at_least: int
) -> AccountSuggestion:
    """What the traffic supports for one service account, from ``at_least`` observations of a rule on.

    The tests of the generation are heeded as well: what they expect to be allowed stays allowed.
    """
    if account.template is not None:
        refused = tuple((rule, "a template's rule is for many workloads") for rule in account.rules)
        return AccountSuggestion(account, (), None, (), refused)
    suggested: list[RuleSuggestion] = []
    unused: list[TrustRule] = []
    refused_rules: list[tuple[TrustRule, str]] = []
    for rule in account.rules:
        observed = traffic.of(account, rule)
        if not observed.was_used:
            unused.append(rule)
        elif why := _too_little(observed, at_least):
            refused_rules.append((rule, why))
        else:
            intended = list(_intended(generation, rule))
            suggested.append(_Tightening(generation, rule, observed, intended).suggestion())
    access = None
    if suggested and not unused and not refused_rules:
        access = _narrowed_access(generation, account, suggested, traffic)
    return AccountSuggestion(account, tuple(suggested), access, tuple(unused), tuple(refused_rules))


def _too_little(observed: Observed, at_least: int) -> str:
    """Why nothing can be said of a rule; empty where there is enough."""
    if observed.passed_on:
        return f"it passes calls on ({observed.passed_on} times), and what their records tell is not enough"
    if observed.incomplete:
        return f"{observed.incomplete} records hold only some of the claims (audit.claims: all records them all)"
    if observed.count < at_least:
        return f"{observed.count} observations are fewer than {at_least}"
    return ""


@dataclass(frozen=True, slots=True)
class _Intended:
    """A test whose workload a rule admits: what it names must stay admitted, and what it is given granted."""

    claims: Claims
    """Those that the test itself names."""
    given: Mapping[str, tuple[str, ...]]
    """By the resource's name, the scopes; nothing where it is to be denied."""
    lifetime_seconds: int | None


def _intended(generation: Generation, rule: TrustRule) -> Iterator[_Intended]:
    for case in tests_of(generation, rule):
        given = play(generation, case).entitlement
        scopes = {given.resource: given.scopes} if given is not None and given.rule == rule.name else {}
        yield _Intended(case.test.claims, scopes, case.test.expect.lifetime if scopes else None)


def tests_of(generation: Generation, rule: TrustRule) -> list[TestCase]:
    """The tests of a rule's service account whose workload the rule admits."""
    found = []
    for case in generation.tests_by_account.get(rule.service_account, ()):
        if case.test.issuer == rule.issuer:
            issuer = generation.issuers_by_name[rule.issuer]
            if rule.admits(played_claims(case, issuer)):
                found.append(case)
    return found


class _Tightening:
    """One rule against what it granted."""

    def __init__(
        self, generation: Generation, rule: TrustRule, observed: Observed, intended: Sequence[_Intended]
    ) -> None:
        self._generation = generation
        self._rule = rule
        self._observed = observed
        self._intended = intended
        self._pins = pins_of(generation.issuers_by_name[rule.issuer].preset)
        self._kept: list[str] = []

    def suggestion(self) -> RuleSuggestion:
        """What it might say."""
        narrowed = tuple(self._narrowed())
        exact = {one.path for one in narrowed} | {one.path for one in self._rule.match}
        pinned = tuple(self._pinned(exact))
        self._note_names(exact | {path for path, _ in pinned})
        return RuleSuggestion(
            rule=self._rule,
            observed=self._observed,
            narrowed=narrowed,
            pinned=pinned,
            scopes=self._scopes(),
            token_lifetime_seconds=self._lifetime(),
            kept=tuple(self._kept),
        )

    def _narrowed(self) -> Iterator[Narrowed]:
        for match in self._rule.match:
            kept = self._wanted(match.path)
            if kept is None:
                continue
            wanted = tuple(one for one in match.wanted if scalar_key(one) in kept)
            if 0 < len(wanted) < len(match.wanted):
                yield Narrowed(match.path, match, wanted)
        for like in self._rule.like:
            values = self._pinnable(like.path)
            if isinstance(values, str):
                self._kept.append(f"{_name(like.path)} stays like {_listed(like.wanted)}: {values}")
            else:
                yield Narrowed(like.path, like, values)

    def _pinned(self, exact: set[ClaimPath]) -> Iterator[tuple[ClaimPath, tuple[Scalar, ...]]]:
        for path in self._pins.always:
            if path not in exact and not isinstance(values := self._pinnable(path), str):
                yield path, values
        for path in self._pins.only_true:
            if path not in exact and self._pinnable(path) == ("true",):
                yield path, ("true",)
        for group in self._pins.context:
            found = {path: self._pinnable(path) for path in group if path not in exact}
            if not any(isinstance(values, str) for values in found.values()):
                yield from ((path, values) for path, values in found.items() if not isinstance(values, str))
                return

    def _note_names(self, exact: set[ClaimPath]) -> None:
        for name, identity in self._pins.names.items():
            if name in exact and identity in exact:
                words = f"{_name(name)} stays as well, so that nobody new gets in: it is a name, and may change hands"
                self._kept.append(f"{words}; {_name(identity)} alone is enough")

    def _wanted(self, path: ClaimPath) -> set[ScalarKey | None] | None:
        """The values of a claim that are to stay; None where not all of them are known."""
        values = self._observed.values[path]
        if values.has_more:
            return None
        return {*values.found, *(scalar_key(claim_at(one.claims, path)) for one in self._intended)}

    def _pinnable(self, path: ClaimPath) -> tuple[Scalar, ...] | str:
        """The values that a claim may be asked to have, or why it cannot be asked for one."""
        observed, values = self._observed, self._observed.values[path]
        if is_volatile(path):
            return "it differs from token to token"
        if values.missing:
            return "not every token has it"
        if values.has_more:
            return f"it had more than {MAX_VALUES} values"
        if observed.count > 1 and len(values.found) == observed.count:
            return "it was another one each time"
        if not values.settled(observed.first, observed.last):
            return "new values came until lately"
        found = {key: one.value for key, one in values.found.items()}
        for intended in self._intended:
            value = claim_at(intended.claims, path)
            if (key := scalar_key(value)) is not None:
                found.setdefault(key, value)
        listed = tuple(sorted(found.values(), key=lambda value: (type(value).__name__, value)))
        return listed if len(listed) <= MAX_VALUES and _may_stand_in_a_rule(path, listed) else "of what its values are"

    def _scopes(self) -> tuple[str, ...] | None:
        """The scopes that are enough; None where that is all that the rule grants."""
        used = {scope for scopes in self._observed.given.values() for scope in scopes}
        used |= {scope for one in self._intended for scopes in one.given.values() for scope in scopes}
        granted = dict.fromkeys(scope for scopes in self._rule.grants.values() for scope in scopes)
        narrowed = tuple(scope for scope in granted if scope in used)
        return narrowed if 0 < len(narrowed) < len(granted) else None

    def _lifetime(self) -> int | None:
        """The lifetime that is enough; None where the rule gives no longer one."""
        given = [one.lifetime_seconds for one in self._intended if one.lifetime_seconds is not None]
        enough = max(MIN_LIFETIME_SECONDS, self._observed.longest_seconds, *given)
        longest = max(self._generation.resources[name].token_lifetime_seconds for name in self._rule.grants)
        if self._rule.token_lifetime_seconds is not None:
            longest = min(longest, self._rule.token_lifetime_seconds)
        return enough if enough < longest else None


def _narrowed_access(
    generation: Generation, account: ServiceAccount, suggested: Iterable[RuleSuggestion], traffic: Traffic
) -> Mapping[str, tuple[str, ...]] | None:
    """What of the account's own access was used, where nobody but its rules can use it."""
    serves = any(account.name in resource.served_by for resource in generation.resources.values())
    if account.roles or account.credentials is not None or serves or account.name in traffic.by_other_ways:
        return None
    used: dict[str, set[str]] = {}
    for one in suggested:
        for name, scopes in one.observed.given.items():
            used.setdefault(name, set()).update(scopes)
        for intended in _intended(generation, one.rule):
            for name, given in intended.given.items():
                used.setdefault(name, set()).update(given)
    narrowed = {
        name: tuple(scope for scope in scopes if scope in used[name])
        for name, scopes in account.access.items()
        if name in used
    }
    return narrowed if narrowed != dict(account.access) else None


def exactly(path: ClaimPath, values: Sequence[Scalar]) -> Match:
    """The condition that a claim is one of these values. Raises ``ValueError`` for what may not stand in a rule."""
    conditions, errors = parse_match(nested(path, list(values)))
    if errors or len(conditions) != 1:
        raise ValueError(str(errors[0]) if errors else "is no value")
    return conditions[0]


def nested(path: ClaimPath, value: Any) -> dict[str, Any]:
    """A mapping with a value at this path, as the files write it."""
    for name in reversed(path):
        value = {name: value}
    return dict(value)


def _may_stand_in_a_rule(path: ClaimPath, values: Sequence[Scalar]) -> bool:
    """Whether the compiler takes these values, and a person can read them."""
    if any(isinstance(value, str) and len(value) > MAX_TEXT_CHARACTERS for value in values):
        return False
    return bool(values) and not parse_match(nested(path, list(values)))[1]


def _name(path: ClaimPath) -> str:
    return " > ".join(path)


def _listed(values: Iterable[str]) -> str:
    return ", ".join(values)
