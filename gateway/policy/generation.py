"""A policy generation: everything that the files say, checked and compiled, frozen, and swapped as one.

Owns the compiled kinds and the index that keeps a decision's time from growing with the number of service accounts.
Pure.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from gateway.model import ClaimPath, Claims, RegisteredClient, SenderConstraint, SigningAlgorithm, TrustedIssuer
from gateway.policy.cel import Condition, Mapped
from gateway.policy.conditions import Like, Match, ScalarKey, claim_at, scalar_key
from gateway.policy.documents import Credentials, GuardrailDocument, PolicyTest, RateLimit
from gateway.policy.problems import Place, Problem
from gateway.policy.templates import NameTemplate


@dataclass(frozen=True, slots=True)
class Resource:
    """An API that tokens are for. ``scopes`` in the order of the file."""

    name: str
    identifier: str
    scopes: tuple[str, ...]
    descriptions: tuple[str, ...]
    token_lifetime_seconds: int
    sender_constraint: SenderConstraint
    served_by: frozenset[str]
    owner: str | None
    place: Place
    signing_algorithm: SigningAlgorithm | None = None
    """None for the one of the settings."""


@dataclass(frozen=True, slots=True, eq=False)
class TrustRule:
    """One way to become a service account. Rules of all accounts are numbered in file order by ``ordinal``."""

    service_account: str
    name: str
    ordinal: int
    position: int
    """Its place among the rules of its service account, from 0."""
    issuer: str
    match: tuple[Match, ...]
    like: tuple[Like, ...]
    when: Condition | None
    grants: Mapping[str, tuple[str, ...]]
    """From a resource's name to the scopes that this rule grants there, in the resource's order."""
    token_lifetime_seconds: int | None
    """The least of rule and service account; None where neither says."""
    token_claims: tuple[Mapped, ...]
    """Those of the service account and of the rule; the rule's win."""
    paths: tuple[ClaimPath, ...]
    """The claims that it looks at."""

    @property
    def label(self) -> str:
        """What the trace and the audit record call it."""
        return f"{self.service_account}/{self.name}"

    def admits(self, claims: Claims) -> bool:
        """Whether a workload of the rule's issuer with these claims fulfils every condition."""
        for match in self.match:
            if not match.holds(claims):
                return False
        for like in self.like:
            if not like.holds(claims):
                return False
        return self.when is None or self.when.holds(claims, self.issuer)


@dataclass(frozen=True, slots=True, eq=False)
class ServiceAccount:
    """An identity that workloads may act as."""

    name: str
    owner: str | None
    access: Mapping[str, tuple[str, ...]]
    """From a resource's name to the scopes there, in the resource's order; its own and its roles' together."""
    rules: tuple[TrustRule, ...]
    token_lifetime_seconds: int | None
    rate_limit: RateLimit | None
    credentials: Credentials | None
    """As written."""
    registered: RegisteredClient | None
    """Its own credentials as client authentication reads them, where it has any in the policies."""
    place: Place
    template: NameTemplate | None = None
    """Where each workload has an account of its own by it: then ``name`` is that of the template."""
    constant_claims: Mapping[str, Any] = field(default_factory=dict)
    """The mapped claims that look at no workload: those that a token of ``client_credentials`` carries."""
    roles: tuple[str, ...] = ()
    """The roles that ``access`` comes from in part, in the order of the file."""


@dataclass(frozen=True, slots=True, eq=False)
class Guardrail:
    """A condition under which nobody gets anything, whatever the trust rules say."""

    name: str
    deny_when: Condition
    place: Place


@dataclass(frozen=True, slots=True)
class RuleIndex:
    """The rules of one issuer, each filed under one exact value of one claim, the rest in ``scan``."""

    buckets: tuple[tuple[ClaimPath, Mapping[ScalarKey, tuple[TrustRule, ...]]], ...]
    scan: tuple[TrustRule, ...]

    def candidates(self, claims: Claims) -> list[TrustRule]:
        """Every rule that may admit these claims, each once, in no particular order."""
        found = list(self.scan)
        for path, bucket in self.buckets:
            key = scalar_key(claim_at(claims, path))
            if key is not None:
                found += bucket.get(key, ())
        return found


@dataclass(frozen=True, slots=True)
class TestCase:
    """A test, the service account that it is about, and where it stands."""

    __test__ = False  # pytest collects what is called Test

    service_account: str
    test: PolicyTest
    place: Problem
    """A problem without words, to be filled in if the test fails."""
    sample: Claims | None = None
    """The sample token that its claims begin with, where it names a preset."""


@dataclass(frozen=True, slots=True)
class Counts:
    """How much a generation holds."""

    issuers: int
    resources: int
    roles: int
    service_accounts: int
    trust_rules: int
    guardrails: int
    tests: int


@dataclass(frozen=True, eq=False)
class Generation:
    """The policy as it stands from one load to the next."""

    number: int
    issuers: tuple[TrustedIssuer, ...]
    issuers_by_name: Mapping[str, TrustedIssuer]
    issuer_conditions: Mapping[str, Condition]
    """``when`` of the issuers that have one, by the issuer's name."""
    guardrails: Mapping[str, tuple[Guardrail, ...]]
    """For each issuer's name all that hold for it, those for every issuer included."""
    resources: Mapping[str, Resource]
    resources_by_identifier: Mapping[str, Resource]
    service_accounts: Mapping[str, ServiceAccount]
    index: Mapping[str, RuleIndex]
    """By the issuer's name."""
    counts: Counts
    issuer_places: Mapping[str, Place]
    role_places: Mapping[str, Place]
    roles: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)
    """For each role's name the scopes that it gives, by the resource's name."""
    written_guardrails: tuple[tuple[GuardrailDocument, Place], ...] = ()
    """All guardrails as written, those over what files may say included: they were kept to when these were loaded."""
    tests: tuple[TestCase, ...] = ()
    """The tests of the files, where they were asked for: who serves has no need of them."""
    warnings: tuple[Problem, ...] = ()
    sha256: str = ""
    """Hex digest of the files that it was made from."""

    def trusts(self, issuer: TrustedIssuer) -> bool:
        """Whether this issuer is the one of its name here: not one of a generation before, with other keys or URL."""
        own = self.issuers_by_name.get(issuer.name)
        return own is issuer or own == issuer

    @cached_property
    def tests_by_account(self) -> Mapping[str, tuple[TestCase, ...]]:
        """The tests that were kept, by the service account that they are about."""
        found: dict[str, list[TestCase]] = {}
        for case in self.tests:
            found.setdefault(case.service_account, []).append(case)
        return {name: tuple(cases) for name, cases in found.items()}

    @cached_property
    def templates(self) -> tuple[tuple[ServiceAccount, NameTemplate], ...]:
        """The service accounts that are templates."""
        return tuple((one, one.template) for one in self.service_accounts.values() if one.template is not None)

    def service_account(self, name: str) -> ServiceAccount | None:
        """The service account of a name: one that is written so, or one that a template makes for some workload."""
        account = self.service_accounts.get(name)
        if account is not None:
            return account if account.template is None else None
        for made, template in self.templates:
            if template.fits(name):
                return replace(made, name=name)
        return None

    def registered_client(self, client_id: str) -> RegisteredClient | None:
        """A service account as a client. One without credentials here may have some in the shared state."""
        account = self.service_accounts.get(client_id)
        if account is None or account.template is not None:
            return None
        return account.registered or RegisteredClient(client_id)

    def resource(self, identifier_or_name: str) -> Resource | None:
        """A resource by its identifier, or else by its name."""
        return self.resources_by_identifier.get(identifier_or_name) or self.resources.get(identifier_or_name)


def index_rules(rules: Iterable[TrustRule]) -> dict[str, RuleIndex]:
    """For each issuer's name an index over its rules.

    A rule is filed under its most selective exact match, the one whose commonest value the fewest rules share, once
    for each value of its list. A rule without ``match`` is looked at every time.
    """
    by_issuer: dict[str, list[TrustRule]] = {}
    for rule in rules:
        by_issuer.setdefault(rule.issuer, []).append(rule)
    return {issuer: _indexed(of_issuer) for issuer, of_issuer in by_issuer.items()}


def _indexed(rules: Collection[TrustRule]) -> RuleIndex:
    sharing = Counter((match.path, key) for rule in rules for match in rule.match for key in match.keys)
    buckets: dict[ClaimPath, dict[ScalarKey, list[TrustRule]]] = {}
    scan = []
    for rule in rules:
        if not rule.match:
            scan.append(rule)
            continue
        chosen = min(rule.match, key=lambda match: max(sharing[match.path, key] for key in match.keys))
        bucket = buckets.setdefault(chosen.path, {})
        for key in chosen.keys:
            bucket.setdefault(key, []).append(rule)
    frozen = ((path, {key: tuple(filed) for key, filed in bucket.items()}) for path, bucket in buckets.items())
    return RuleIndex(tuple(frozen), tuple(scan))
