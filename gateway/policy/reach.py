"""Who can get where: every way to a service account and to the scopes of a resource, in words. Pure.

The question of reviews, read from the policies alone: a way says what a token must show, not that anybody has one. With
audit records it also says when each way was last gone.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

from gateway.model import RecordedDecision, RegisteredCertificate, RegisteredClient, RegisteredKeys, SenderConstraint
from gateway.policy.documents import duration_text
from gateway.policy.generation import Generation, Resource, ServiceAccount, TrustRule
from gateway.policy.implication import admits_everybody
from gateway.policy.problems import Problem, path_text
from gateway.policy.wording import conditions_in_words, listed

_Scopes = Mapping[str, tuple[str, ...]]
_Key = TypeVar("_Key")


@dataclass(frozen=True, slots=True)
class Granted:
    """Scopes at a resource, how long tokens with them live, and what those are bound to."""

    resource: str
    scopes: tuple[str, ...]
    lifetime_seconds: int
    sender_constraint: SenderConstraint
    roles: tuple[str, ...] = ()
    """The roles that give some of them."""

    def in_words(self) -> str:
        """``deploy:write at deploy-api``."""
        return f"{' '.join(self.scopes)} at {self.resource}"


@dataclass(frozen=True, slots=True)
class Way:
    """One way to act as a service account, and what it gives.

    ``name`` is that of the trust rule, of the credential (``secret:s1``), or of the service account that passes calls
    on. ``conditions`` are what the token of ``issuer`` must show; of a credential, what the client must have.
    """

    service_account: str
    how: Literal["trust", "credential", "delegation"]
    name: str
    access: tuple[Granted, ...]
    place: Problem
    """Where it stands: a problem without words."""
    issuer: str | None = None
    conditions: tuple[str, ...] = ()
    everybody: bool = False
    """Whether its conditions hold of whatever the issuer signs."""
    made_from: tuple[str, ...] = ()
    """Of a template: which claim each part of the name is."""
    limits: tuple[str, ...] = ()
    """What else must hold for every token of the issuer: its own condition, and guardrails."""

    def who_in_words(self) -> str:
        """``ref is refs/heads/main of issuer github``."""
        if self.how == "trust":
            return who_in_words(self.issuer or "", self.conditions, everybody=self.everybody)
        return ", ".join(self.conditions)


def who_in_words(issuer: str, conditions: Iterable[str], *, everybody: bool) -> str:
    """The workloads that a trust rule speaks of."""
    told = ", ".join(conditions)
    return f"everybody at issuer {issuer} ({told})" if everybody else f"{told} of issuer {issuer}"


def who_can(
    generation: Generation,
    *,
    service_account: str | None = None,
    resource: str | None = None,
    scope: str | None = None,
    issuer: str | None = None,
) -> Iterator[Way]:
    """Every way to a service account, to a resource (by identifier or name), to one scope there, or from an issuer.

    Sorted by service account; of each the trust rules in the order of the file, then its credentials, then whoever may
    pass calls on. A name that is not in the policies leads nowhere: it is not an error here.
    """
    found = generation.resource(resource) if resource is not None else None
    wanted = _Wanted(found.name if found is not None else resource, scope)
    accounts = _accounts(generation, service_account)
    for account in sorted(accounts, key=lambda one: one.name):
        if not wanted.touches(account.access):
            continue
        yield from _by_trust(generation, account, wanted, issuer)
        if issuer is None and account.template is None:
            yield from _by_credentials(generation, account, wanted)
        yield from _by_delegation(generation, account, wanted, issuer)


def granted(
    generation: Generation, account: ServiceAccount, scopes: _Scopes, seconds: int | None
) -> tuple[Granted, ...]:
    """What scopes at resources come to. ``seconds`` is the longest life that rule and account allow, if they say so."""
    found = []
    for name, some in scopes.items():
        resource = generation.resources[name]
        lifetime = resource.token_lifetime_seconds if seconds is None else min(seconds, resource.token_lifetime_seconds)
        roles = tuple(
            role for role in account.roles if not set(some).isdisjoint(generation.roles.get(role, {}).get(name, ()))
        )
        found.append(Granted(name, some, lifetime, resource.sender_constraint, roles))
    return tuple(found)


def credentials_in_words(client: RegisteredClient | None) -> dict[str, str]:
    """What a client may authenticate with by the policies: from the name of each credential to words, without digests.

    It may have secrets in the shared state beside.
    """
    if client is None:
        return {}
    found = {f"secret:{one.id}": f"the secret {one.id} (client_secret_basic or _post)" for one in client.secrets}
    if client.keys is not None:
        found["key"] = f"a key of {_source_in_words(client.keys)} (private_key_jwt)"
    for certificate in client.certificates:
        by = "" if certificate.field == "thumbprint" else f"{certificate.field}="
        found[f"certificate:{by}{certificate.value}"] = certificate_in_words(certificate)
    return found


def certificate_in_words(certificate: RegisteredCertificate) -> str:
    """Which certificates a line of the policies lets in."""
    if certificate.field == "thumbprint":
        return f"the certificate with the thumbprint {certificate.value} (self_signed_tls_client_auth)"
    return f"a certificate whose {certificate.field} is {certificate.value} (tls_client_auth)"


# ---------------------------------------------------------------- the ways


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What was asked about: a resource's name and a scope; None stands for any."""

    resource: str | None
    scope: str | None

    def touches(self, scopes: _Scopes) -> bool:
        """Whether any of it is among these scopes. An account without access is asked about only by its name."""
        return (self.resource is None and self.scope is None) or bool(self.of(scopes))

    def of(self, scopes: _Scopes) -> dict[str, tuple[str, ...]]:
        """These scopes at the resources in question."""
        return {
            name: some
            for name, some in scopes.items()
            if self.resource in {None, name} and (self.scope is None or self.scope in some)
        }


def _accounts(generation: Generation, name: str | None) -> Iterable[ServiceAccount]:
    if name is None:
        return generation.service_accounts.values()
    written = generation.service_accounts.get(name)  # a template, too, by its name as written
    found = written or generation.service_account(name)
    return () if found is None else (found,)


def _by_trust(generation: Generation, account: ServiceAccount, wanted: _Wanted, issuer: str | None) -> Iterator[Way]:
    for rule in account.rules:
        if issuer not in {None, rule.issuer} or not wanted.touches(rule.grants):
            continue
        yield Way(
            service_account=account.name,
            how="trust",
            name=rule.name,
            access=granted(generation, account, wanted.of(rule.grants), rule.token_lifetime_seconds),
            place=account.place.problem(("trust", rule.position), ""),
            issuer=rule.issuer,
            conditions=tuple(conditions_in_words(rule)),
            everybody=admits_everybody(rule, generation.issuers_by_name.get(rule.issuer)),
            made_from=_made_from(account),
            limits=limits_in_words(generation, rule.issuer),
        )


def _by_credentials(generation: Generation, account: ServiceAccount, wanted: _Wanted) -> Iterator[Way]:
    access = granted(generation, account, wanted.of(account.access), account.token_lifetime_seconds)
    for name, words in credentials_in_words(account.registered).items():
        yield Way(account.name, "credential", name, access, account.place.problem(("credentials",), ""), None, (words,))


def _by_delegation(
    generation: Generation, account: ServiceAccount, wanted: _Wanted, issuer: str | None
) -> Iterator[Way]:
    """Whoever serves a resource that the account calls may call on in its name, where it has access of its own."""
    for called in account.access:
        for server in sorted(generation.resources[called].served_by):
            serving = generation.service_accounts[server]
            rules = [rule for rule in serving.rules if issuer in {None, rule.issuer}]
            shared = _shared(generation.resources, account.access, _united(rules))
            if not wanted.of(shared):
                continue
            bounds = [
                one.token_lifetime_seconds for one in (account, serving) if one.token_lifetime_seconds is not None
            ]
            yield Way(
                service_account=account.name,
                how="delegation",
                name=server,
                access=granted(generation, account, wanted.of(shared), min(bounds, default=None)),
                place=generation.resources[called].place.problem(("served_by",), ""),
                conditions=(f"a workload that is {server} and was called with a token of {account.name} for {called}",),
            )


def _united(rules: Iterable[TrustRule]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for rule in rules:
        for resource, scopes in rule.grants.items():
            found.setdefault(resource, set()).update(scopes)
    return found


def _shared(
    resources: Mapping[str, Resource], one: _Scopes, other: Mapping[str, set[str]]
) -> dict[str, tuple[str, ...]]:
    """The scopes that both have, in the order of their resource."""
    found = {}
    for name in one:
        both = set(one[name]) & other.get(name, set())
        if both:
            found[name] = tuple(scope for scope in resources[name].scopes if scope in both)
    return found


def _made_from(account: ServiceAccount) -> tuple[str, ...]:
    template = account.template
    if template is None:
        return ()
    parts = (f"{{{placeholder}}} is {path_text(path)}" for placeholder, path in template.placeholders)
    return tuple(parts) if account.name == template.text else (f"its name is made by {template.text}", *parts)


def limits_in_words(generation: Generation, issuer: str) -> tuple[str, ...]:
    """What every token of an issuer must meet beside a rule."""
    condition = generation.issuer_conditions.get(issuer)
    own = (f"issuer {issuer} takes only tokens with {condition.source}",) if condition is not None else ()
    guardrails = (
        f"guardrail {guardrail.name} refuses unless this is false: {guardrail.deny_when.source}"
        for guardrail in generation.guardrails.get(issuer, ())
    )
    return (*own, *guardrails)


def _source_in_words(keys: RegisteredKeys) -> str:
    source = keys.source
    if source.jwks is not None:
        return key_set_in_words(source.jwks)
    return f"the key set at {source.jwks_uri or source.jwks_file}"


def key_set_in_words(jwks: Mapping[str, object]) -> str:
    """A key set of the policies by the ids of its keys."""
    keys = jwks.get("keys")
    members = [key for key in keys if isinstance(key, dict)] if isinstance(keys, list) else []
    ids = [str(key.get("kid", "without kid")) for key in members]
    return f"the key set in the policies ({listed(ids)})"


# ---------------------------------------------------------------- what was used


@dataclass(frozen=True, slots=True)
class Use:
    """How often a way was gone, and when last, in seconds since the epoch."""

    count: int
    last: float


class Usage:
    """The uses of ways, from audit records. What a rule let in counts, also where something later refused it."""

    def __init__(self, generation: Generation) -> None:
        self._generation = generation
        self._rules: dict[tuple[str, str, str], Use] = {}
        self._credentials: dict[str, dict[str, Use]] = {}
        self._delegations: dict[tuple[str, str], Use] = {}
        self.records = 0
        self.first: float | None = None
        """When the oldest record was written."""
        self.last: float | None = None

    def add(self, record: RecordedDecision) -> None:
        """Counts one record."""
        self.records += 1
        self.first = record.time if self.first is None else min(self.first, record.time)
        self.last = record.time if self.last is None else max(self.last, record.time)
        account = self._as_written(record.service_account)
        if record.rule is not None and record.issuer is not None:
            for user in self._actors(record) if record.delegated else [account]:
                _count(self._rules, (user, record.issuer, record.rule), record.time)
                if record.delegated:
                    _count(self._delegations, (account, user), record.time)
        if record.authentication is not None:
            _, _, credential = record.authentication.partition("/")
            _count(self._credentials.setdefault(account, {}), credential, record.time)

    def of(self, way: Way) -> Use | None:
        """The uses of a way; None where there are none.

        A record knows the key or the certificate that was shown, and not by which line of the policies it was let in:
        all keys of a service account are counted as one, and so are its certificates but for those named by thumbprint.
        """
        if way.how == "trust":
            return self._rules.get((self._as_written(way.service_account), way.issuer or "", way.name))
        if way.how == "delegation":
            return self._delegations.get((self._as_written(way.service_account), way.name))
        seen = self._credentials.get(way.service_account, {})
        if way.name in seen or way.name.startswith("secret:"):
            return seen.get(way.name)
        kind, _, _ = way.name.partition(":")
        return _together(use for credential, use in seen.items() if credential.partition(":")[0] == kind)

    def secrets_elsewhere(self, account: ServiceAccount) -> dict[str, Use]:
        """The secrets that the account used and the policies do not have: those of the shared state, or gone ones."""
        known = credentials_in_words(account.registered)
        seen = self._credentials.get(account.name, {})
        return {name: use for name, use in sorted(seen.items()) if name.startswith("secret:") and name not in known}

    def _as_written(self, name: str | None) -> str:
        """A service account as the policies write it: one that a template makes by the template."""
        if name is None or name in self._generation.service_accounts:
            return name or ""
        return next((made.name for made, template in self._generation.templates if template.fits(name)), name)

    def _actors(self, record: RecordedDecision) -> list[str]:
        """Who passed a call on: of that a record names the rule, and the account that it is for."""
        index = self._generation.index.get(record.issuer or "")
        rules = index.candidates(record.claims) if index is not None else ()
        return [rule.service_account for rule in rules if rule.name == record.rule and rule.admits(record.claims)]


def _count(uses: dict[_Key, Use], key: _Key, time: float) -> None:
    before = uses.get(key)
    uses[key] = Use(1, time) if before is None else Use(before.count + 1, max(before.last, time))


def _together(uses: Iterable[Use]) -> Use | None:
    found = list(uses)
    return Use(sum(use.count for use in found), max(use.last for use in found)) if found else None


def lifetime_in_words(access: Iterable[Granted]) -> str:
    """``tokens live 15m``, or how long at each resource where that differs."""
    lives = {one.resource: duration_text(one.lifetime_seconds) for one in access}
    if len(set(lives.values())) == 1:
        return f"tokens live {next(iter(lives.values()))}"
    return ", ".join(f"tokens for {resource} live {life}" for resource, life in lives.items())
