"""From policy documents to a generation: everything checked against everything, all problems told at once.

Takes documents one by one and keeps of a service account only what is compiled, so that a hundred thousand of them
fit. Pure: the documents, the presets and what is reserved are handed in.
"""

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import PurePath
from sys import intern
from typing import Any, Self, TypeVar, cast
from urllib.parse import urlsplit

from pydantic import ValidationError

from gateway.model import (
    CertificateField,
    ClaimPath,
    ClaimTable,
    KeySource,
    Preset,
    RegisteredCertificate,
    RegisteredClient,
    RegisteredKeys,
    RegisteredSecret,
    TrustedIssuer,
)
from gateway.oauth.distinguished_name import check_subject_dn
from gateway.oauth.errors import Refusal
from gateway.oauth.parameters import parse_scope
from gateway.oauth.reasons import REASONS
from gateway.policy.cel import CelError, Condition, Mapped, Unknown, parse_claim_path, parse_condition, parse_mapped
from gateway.policy.conditions import Like, Match, parse_like, parse_match
from gateway.policy.documents import (
    KINDS,
    Access,
    Certificate,
    ClientKeys,
    Credentials,
    Document,
    GuardrailDocument,
    IssuerDocument,
    PolicyTest,
    RateLimit,
    ResourceDocument,
    RoleDocument,
    ServiceAccountDocument,
    SourceDocument,
    TestsDocument,
    TrustDocument,
)
from gateway.policy.generation import (
    Counts,
    Generation,
    Guardrail,
    Resource,
    ServiceAccount,
    TestCase,
    TrustRule,
    index_rules,
)
from gateway.policy.guardrails import GlobError, Guardrails, Limits, parse_folders, parse_globs
from gateway.policy.isolation import TOP, Contender, Isolation
from gateway.policy.policy_tests import failures
from gateway.policy.problems import (
    MAX_COMPARED,
    NO_SUCH_FIELD,
    Path,
    Place,
    PolicyProblems,
    Problem,
    described,
    nearest,
    problems_of,
)
from gateway.policy.templates import MAX_TEMPLATES, NameTemplate, TemplateError, parse_name_template

RESERVED_CLAIMS = frozenset({
    "iss", "sub", "aud", "exp", "nbf", "iat", "jti", "client_id", "scope", "scp", "act", "may_act", "cnf", "typ", "azp",
    "auth_time", "acr", "amr", "nonce", "at_hash", "c_hash", "s_hash", "sid", "sub_jwk", "events", "toe", "txn",
    "authorization_details", "token_introspection", "active", "token_type", "entitled_by",
})  # fmt: skip
"""Claims of RFC 7519, 7662, 8693, 9068 and 9396 that the policy may not map: the gateway or nobody says them."""

DECISION_REASONS = tuple(code for code, reason in REASONS.items() if reason.stage in {"policy", "target", "scope"})
"""The reasons that a test may expect."""

MAX_NAMES_COMPARED = 50_000
"""How many names one load compares misspelt ones with. Each takes some 40 microseconds."""

_PRIVATE_MEMBERS = ("d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv")  # RFC 7518 sections 6.2.2, 6.3.2, 6.4

_REGISTERED = frozenset({"iss", "sub", "aud", "exp", "nbf", "iat", "jti"})  # RFC 7519 section 4.1

_Grants = Mapping[str, tuple[str, ...]]
_Access = tuple[tuple[str, tuple[str, ...]], ...]
"""Resources and scopes there, as written."""
_AccessKey = tuple[tuple[str, ...], _Access]
"""Roles and access of a service account, as written."""
_Shared = TypeVar("_Shared")


def compile_documents(
    documents: Iterable[SourceDocument],
    *,
    presets: Mapping[str, Preset],
    gateway_issuer: str,
    insecure_http: bool,
    number: int,
    is_reserved_audience: Callable[[str], bool],
    key_sources: Mapping[str, KeySource] | None = None,
    unread: list[Problem] | None = None,
    keep_tests: bool = False,
    isolation: Isolation | None = None,
) -> Generation:
    """The generation that the documents describe, its tests passed; or kept in it unplayed (``keep_tests``).

    ``key_sources`` replaces the keys of the issuers whose URLs it has. ``unread`` is where whoever yields the documents
    notes what could not be read. With ``isolation`` what is wrong is told of the folder that is to blame: first what
    each document says by itself, then what two claim, then what they say together. Raises ``PolicyProblems``, with
    lines no finer than where a document begins.
    """
    compilation = _Compilation(
        presets=presets,
        gateway_issuer=gateway_issuer,
        insecure_http=insecure_http,
        is_reserved_audience=is_reserved_audience,
        key_sources=key_sources or {},
        unread=[] if unread is None else unread,
        keep_tests=keep_tests,
        isolation=isolation,
    )
    for source in documents:
        compilation.take(source)
    return compilation.finish(number)


@dataclass(frozen=True, slots=True)
class _DraftRule:
    """A trust rule whose references are not resolved."""

    name: str
    issuer: str
    match: tuple[Match, ...]
    like: tuple[Like, ...]
    when: Condition | None
    scopes: tuple[str, ...] | None
    token_lifetime_seconds: int | None
    token_claims: tuple[Mapped, ...]
    paths: tuple[ClaimPath, ...]


@dataclass(frozen=True, slots=True)
class _DraftAccount:
    """A service account whose references are not resolved."""

    place: Place
    name: str
    owner: str | None
    access: _AccessKey
    rules: tuple[_DraftRule, ...]
    token_lifetime_seconds: int | None
    rate_limit: RateLimit | None
    credentials: Credentials | None
    registered: RegisteredClient | None
    template: NameTemplate | None
    constant_claims: Mapping[str, Any]
    tests: tuple[PolicyTest, ...]


class _KnownClaims(frozenset[str]):
    """The top-level claims of a platform's tokens by name; ``prefixes`` are those of names that it makes up."""

    prefixes: tuple[str, ...]

    def __new__(cls, table: ClaimTable) -> Self:
        """From a preset's table, where ``*`` at the end of a name stands for any rest."""
        listed = table.optional | table.ignored
        exact = {name for name in listed if not name.endswith("*")} | {path[0] for path in table.required}
        known = super().__new__(cls, exact | _REGISTERED)
        known.prefixes = tuple(name.removesuffix("*") for name in listed if name.endswith("*"))
        return known


class _Compilation:
    """One load: ``take`` each document, then ``finish``."""

    def __init__(
        self,
        *,
        presets: Mapping[str, Preset],
        gateway_issuer: str,
        insecure_http: bool,
        is_reserved_audience: Callable[[str], bool],
        key_sources: Mapping[str, KeySource],
        unread: list[Problem],
        keep_tests: bool,
        isolation: Isolation | None,
    ) -> None:
        self._presets = presets
        self._gateway_issuer = gateway_issuer
        self._insecure_http = insecure_http
        self._is_reserved_audience = is_reserved_audience
        self._key_sources = key_sources
        self._unread = unread
        self._keep_tests = keep_tests
        self._isolation = isolation
        self._contested: list[Problem] = []
        self._nameless = False
        self._problems: list[Problem] = []
        self._warnings: list[Problem] = []
        self._paths: dict[str, str] = {}
        self._names: dict[str, dict[str, Place]] = {kind: {} for kind in KINDS}
        self._named: list[tuple[str, str, Place]] = []
        self._issuers: list[tuple[IssuerDocument, Place, str]] = []
        self._resource_documents: list[tuple[ResourceDocument, Place]] = []
        self._role_documents: list[tuple[RoleDocument, Place]] = []
        self._guardrail_documents: list[tuple[GuardrailDocument, Place]] = []
        self._tests_documents: list[tuple[TestsDocument, Place]] = []
        self._drafts: list[_DraftAccount] = []
        self._resources: dict[str, Resource] = {}
        self._answering: dict[str, tuple[str, Place]] = {}
        self._roles: dict[str, _Access] = {}
        self._conditions: dict[str, Condition] = {}
        self._claims_of: dict[str, _KnownClaims] = {}
        self._known: dict[Any, Any] = {}
        self._names_compared = 0
        self._access: dict[_AccessKey, _Grants] = {}
        self._narrowed: dict[tuple[_AccessKey, tuple[str, ...]], _Grants] = {}

    # ---------------------------------------------------------------- each document on its own

    def take(self, source: SourceDocument) -> None:
        """Checks one document by itself and keeps it."""
        place = Place(source.file, source.line, source.number)
        self._paths[source.file] = source.path
        document = self._validated(source, place)
        match document:
            case IssuerDocument():
                self._issuers.append((document, place, source.folder))
            case ResourceDocument():
                self._resource_documents.append((document, place))
            case RoleDocument():
                self._role_documents.append((document, place))
            case GuardrailDocument():
                self._guardrail_documents.append((document, place))
            case ServiceAccountDocument():
                self._drafts.append(self._draft(document, place, source.folder))
            case TestsDocument():
                for position, test in enumerate(document.tests):
                    self._check_test(test, place, ("tests", position))
                self._tests_documents.append((document, place))
            case None:
                pass

    def _validated(self, source: SourceDocument, place: Place) -> Document | None:
        value = source.value
        if not isinstance(value, dict):
            self._nameless = True
            # A text is not shown: a link may lead to a file that holds a secret and nothing else.
            given = described(value) if isinstance(value, list) else "one value alone"
            self._problems.append(place.problem((), f"expected a mapping with kind and name, got {given}"))
            return None
        kind = value.get("kind")
        model = KINDS.get(kind) if isinstance(kind, str) else None
        if model is None:
            self._nameless = True
            given = f"must be one of {', '.join(KINDS)}, not {described(kind)}" if "kind" in value else "is missing"
            self._problems.append(place.problem(("kind",), given, self._nearest(kind, KINDS)))
            return None
        # The name counts as taken even if the rest is wrong: what refers to it is not wrong as well.
        self._claim_name(cast("str", kind), value.get("name"), place)
        try:
            return model.model_validate(value)
        except ValidationError as error:
            problems = problems_of(error, place.file, lambda _path: place.line, model, place.number, self._nearest)
            self._problems += problems
            return _as_probably_meant(model, value, problems)

    def _claim_name(self, kind: str, name: Any, place: Place) -> None:
        if not isinstance(name, str):
            return
        self._named.append((kind, name, place))
        first = self._names[kind].setdefault(name, place)
        if first is not place:
            words = f"another {kind} is called {described(name)[1:-1]}"
            one, other = (
                Contender(at, name, at.problem(("name",), f"{words} ({there.file}:{there.line})"))
                for at, there in ((first, place), (place, first))
            )
            self._contest(kind, one, other)

    def _contest(self, kind: str, first: Contender, later: Contender) -> None:
        """Tells of the later of two documents that cannot both be; of two in different folders that are isolated, of
        whichever is new to what it claims.
        """
        if self._isolation is None or self._isolation.folder(first.place) == self._isolation.folder(later.place):
            self._problems.append(later.problem)
        else:
            self._contested += [one.problem for one in self._isolation.to_blame(kind, first, later)]

    def _draft(self, document: ServiceAccountDocument, place: Place, folder: str) -> _DraftAccount:
        names = [rule.name or f"rule-{position}" for position, rule in enumerate(document.trust, 1)]
        for position, name in enumerate(names):
            if name in names[:position]:
                self._problems.append(
                    place.problem(("trust", position, "name"), f"another rule of this account is called {name}")
                )
        claims = self._mapped(document.token_claims, place, ())
        template = self._template(document, place)
        for position, test in enumerate(document.tests):
            self._check_test(test, place, ("tests", position))
        return _DraftAccount(
            place=place,
            name=document.name,
            owner=document.owner,
            access=self._shared((document.roles, _access_of(document.access))),
            rules=tuple(
                self._draft_rule(rule, names[position], place, ("trust", position), claims, template)
                for position, rule in enumerate(document.trust)
            ),
            token_lifetime_seconds=document.token_lifetime,
            rate_limit=self._shared(document.rate_limit),
            credentials=document.credentials,
            registered=self._registered(document, place, folder),
            template=template,
            constant_claims=self._constant_claims(claims, place),
            tests=document.tests,
        )

    def _template(self, document: ServiceAccountDocument, place: Place) -> NameTemplate | None:
        if document.for_each is None:
            if "{" in document.name or "}" in document.name:
                self._problems.append(place.problem(("name",), "has a placeholder that no for_each fills"))
            return None
        if document.credentials is not None:
            words = "go with one service account: each of for_each is a workload that its platform vouches for"
            self._problems.append(place.problem(("credentials",), words))
        claims = {}
        for placeholder, source in document.for_each.items():
            try:
                claims[placeholder] = parse_claim_path(source)
            except CelError as error:
                self._problems.append(place.problem(("for_each", placeholder), str(error), error.suggestion))
        if len(claims) < len(document.for_each):
            return None
        try:
            return parse_name_template(document.name, claims)
        except TemplateError as error:
            self._problems.append(place.problem(("name",), str(error)))
            return None

    def _registered(self, document: ServiceAccountDocument, place: Place, folder: str) -> RegisteredClient | None:
        """The account's own credentials, in the words of those that check them."""
        credentials = document.credentials
        if credentials is None:
            return None
        return RegisteredClient(
            client_id=document.name,
            secrets=tuple(
                RegisteredSecret(secret.id, secret.digest, _midnight(secret.created), _midnight(secret.expires))
                for secret in credentials.secrets
            ),
            keys=self._registered_keys(credentials.keys, place, folder) if credentials.keys is not None else None,
            certificates=tuple(
                self._registered_certificate(certificate, place, ("credentials", "certificates", position))
                for position, certificate in enumerate(credentials.certificates)
            ),
        )

    def _registered_keys(self, keys: ClientKeys, place: Place, folder: str) -> RegisteredKeys:
        path: Path = ("credentials", "keys")
        if keys.jwks_uri is not None:
            self._check_https(keys.jwks_uri, place, (*path, "jwks_uri"))
        if keys.jwks is not None:
            self._check_key_set(keys.jwks, place, (*path, "jwks"))
        return RegisteredKeys(
            source=KeySource(
                jwks_uri=keys.jwks_uri,
                jwks_file=_within(folder, keys.jwks_file),
                jwks=keys.jwks,
                ca_file=_within(folder, keys.ca_file),
                private_network=keys.private_network,
                insecure_http=self._insecure_http,
            ),
            algorithms=frozenset(keys.algorithms),
            max_assertion_lifetime_seconds=keys.max_assertion_lifetime,
            accept_token_endpoint_audience=keys.accept_token_endpoint_audience,
            replay=keys.replay,
        )

    def _registered_certificate(self, certificate: Certificate, place: Place, path: Path) -> RegisteredCertificate:
        field, value = next((name, value) for name, value in certificate if value is not None)
        if field == "subject_dn":
            try:
                check_subject_dn(value)
            except ValueError as error:
                self._problems.append(place.problem((*path, field), str(error)))
        return RegisteredCertificate(cast("CertificateField", field), value)

    def _constant_claims(self, claims: tuple[Mapped, ...], place: Place) -> dict[str, Any]:
        """What the account's mappings give that look at no workload: ``client_credentials`` has none behind it."""
        found: dict[str, Any] = {}
        for mapped in claims:
            if not mapped.is_constant:
                continue
            value = mapped.value({}, "")
            if isinstance(value, Unknown):
                self._problems.append(place.problem(("token_claims", mapped.name), value.why))
            else:
                found[mapped.name] = value
        return found

    def _draft_rule(
        self,
        rule: TrustDocument,
        name: str,
        place: Place,
        path: Path,
        account_claims: tuple[Mapped, ...],
        template: NameTemplate | None,
    ) -> _DraftRule:
        if not rule.match and not rule.like and rule.when is None:
            words = "would trust every token of the issuer: add match, like or when"
            self._problems.append(place.problem(path, words))
        match, match_errors = parse_match(rule.match)
        like, like_errors = parse_like(rule.like)
        self._problems += [place.problem((*path, "match", *error.path), str(error)) for error in match_errors]
        self._problems += [place.problem((*path, "like", *error.path), str(error)) for error in like_errors]
        when = self._condition(rule.when, place, (*path, "when"))
        claims = self._mapped(rule.token_claims, place, path)
        own = {mapped.name for mapped in claims}
        paths = [one.path for one in match] + [one.path for one in like] + list(when.paths if when else ())
        paths += [claim for _, claim in template.placeholders] if template is not None else []
        return _DraftRule(
            name=intern(name),
            issuer=intern(rule.issuer),
            match=self._shared(tuple(match)),
            like=self._shared(tuple(like)),
            when=when,
            scopes=self._shared(rule.scopes),
            token_lifetime_seconds=rule.token_lifetime,
            token_claims=tuple(mapped for mapped in account_claims if mapped.name not in own) + claims,
            paths=self._shared(tuple(dict.fromkeys(paths))),
        )

    def _condition(self, source: str | None, place: Place, path: Path) -> Condition | None:
        if source is None:
            return None
        if source not in self._conditions:
            try:
                self._conditions[source] = parse_condition(source)
            except CelError as error:
                self._problems.append(place.problem(path, str(error), error.suggestion))
                return None
        return self._conditions[source]

    def _mapped(self, written: Mapping[str, str], place: Place, above: Path) -> tuple[Mapped, ...]:
        found = []
        for name, source in written.items():
            path = (*above, "token_claims", name)
            if name in RESERVED_CLAIMS:
                self._problems.append(place.problem(path, "is a claim that only the gateway sets"))
                continue
            try:
                found.append(self._shared_mapped(name, source))
            except CelError as error:
                self._problems.append(place.problem(path, str(error), error.suggestion))
        return tuple(found)

    def _shared_mapped(self, name: str, source: str) -> Mapped:
        key = ("token_claims", name, source)
        if key not in self._known:
            self._known[key] = parse_mapped(name, source)
        return cast("Mapped", self._known[key])

    def _check_test(self, test: PolicyTest, place: Place, path: Path) -> None:
        if test.scope is not None:
            try:
                parse_scope(test.scope)
            except Refusal as refusal:
                self._problems.append(place.problem((*path, "scope"), refusal.public))
        if test.expect.deny is not None and test.expect.deny not in DECISION_REASONS:
            words = f"no decision has the reason {described(test.expect.deny)[1:-1]}"
            near = self._nearest(test.expect.deny, DECISION_REASONS)
            self._problems.append(place.problem((*path, "expect", "deny"), words, near))
        if test.like_preset is not None and test.like_preset not in self._presets:
            near = self._nearest(test.like_preset, self._presets)
            words = f"no preset is called {test.like_preset}"
            self._problems.append(place.problem((*path, "like_preset"), words, near))
        for fraction in _fractions(test.claims, (*path, "claims")):
            self._problems.append(place.problem(fraction, "a claim is never a fraction: write it in quotes"))

    def _shared(self, value: _Shared) -> _Shared:
        """An equal value met before, or this one: a hundred thousand accounts say much the same."""
        return cast("_Shared", self._known.setdefault(value, value))

    # ---------------------------------------------------------------- all documents together

    def finish(self, number: int) -> Generation:
        """Resolves the references, compiles, runs the tests. Raises ``PolicyProblems``."""
        limits = self._limits()
        if self._isolation is not None and (self._unread or self._problems):
            raise PolicyProblems(self._unread + self._problems)
        issuers = [one for one in map(self._issuer, self._issuers) if one is not None]
        self._claims_of = {issuer.name: _KnownClaims(issuer.claims) for issuer in issuers}
        self._check_told_apart(issuers)
        conditions = self._issuer_conditions()
        for resource_document, place in self._resource_documents:
            self._add_resource(resource_document, place)
        for role, place in self._role_documents:
            self._roles[role.name] = _access_of(role.access)
            self._check_access(self._roles[role.name], place)
        guardrails = self._guardrails()
        self._check_limits(limits)
        counted = sum(len(draft.rules) for draft in self._drafts)
        accounts, tests = self._accounts(limits)
        tests += self._tests_of_documents(accounts)
        if self._contested or self._unread or self._problems:
            raise PolicyProblems(self._contested or self._unread + self._problems)
        generation = Generation(
            number=number,
            issuers=tuple(issuers),
            issuers_by_name={issuer.name: issuer for issuer in issuers},
            issuer_conditions=conditions,
            guardrails=guardrails,
            resources=self._resources,
            resources_by_identifier={resource.identifier: resource for resource in self._resources.values()},
            service_accounts=accounts,
            index=index_rules(rule for account in accounts.values() for rule in account.rules),
            counts=Counts(
                issuers=len(issuers),
                resources=len(self._resources),
                roles=len(self._roles),
                service_accounts=len(accounts),
                trust_rules=counted,
                guardrails=len(self._guardrail_documents),
                tests=len(tests),
            ),
            issuer_places={document.name: place for document, place, _ in self._issuers},
            role_places=dict(self._names["Role"]),
            roles={name: _scopes_by_resource(access) for name, access in self._roles.items()},
            written_guardrails=tuple(self._guardrail_documents),
            warnings=tuple(self._warnings),
        )
        if self._keep_tests:
            return replace(generation, tests=tuple(tests))
        if failed := failures(generation, tests):
            raise PolicyProblems(failed)
        return generation

    def _issuer_conditions(self) -> dict[str, Condition]:
        found = {}
        for document, place, _ in self._issuers:
            condition = self._condition(document.when, place, ("when",))
            if condition is not None:
                found[document.name] = condition
                looked_at = [(("when",), path) for path in condition.paths]
                self._warn_of_unknown_claims(document.name, looked_at, place)
        return found

    def _issuer(self, kept: tuple[IssuerDocument, Place, str]) -> TrustedIssuer | None:
        document, place, folder = kept
        preset = self._presets.get(document.preset)
        if preset is None:
            words = f"no preset is called {document.preset}"
            self._problems.append(place.problem(("preset",), words, self._nearest(document.preset, self._presets)))
            return None
        url = document.url or preset.url
        if url is None:
            self._problems.append(
                place.problem(("url",), f"is missing: the preset {preset.name} stands for many issuers")
            )
            return None
        self._check_https(url, place, ("url",))
        if url == self._gateway_issuer:
            words = "is this gateway's own issuer: its tokens are exchanged as access tokens, not trusted as workloads"
            self._problems.append(place.problem(("url",), words))
        if not re.fullmatch(preset.url_pattern, url):
            words = f"{url} does not look like an issuer of {preset.title}"
            self._warnings.append(place.problem(("url",), words))
        audiences = self._audiences(document, preset, url, place)
        return TrustedIssuer(
            name=document.name,
            preset=preset.name,
            url=url,
            audiences=audiences,
            algorithms=frozenset(document.algorithms or preset.algorithms),
            keys=self._key_sources.get(url) or self._key_source(document, preset, url, place, folder),
            claims=preset.claims,
            companion_audiences=frozenset(document.companion_audiences),
            reserved_audiences=(preset.reserved_audiences | {url}) - audiences,
            token_types=_token_types(document.token_types) or preset.token_types,
            subject_pattern=preset.subject_pattern,
            leeway_seconds=document.leeway,
            max_token_age_seconds=document.max_token_age or preset.max_token_age_seconds,
            max_token_lifetime_seconds=document.max_token_lifetime or preset.max_token_lifetime_seconds,
            allow_missing_kid=document.allow_missing_kid,
            replay=document.replay,
            bound_to_subject_token=document.bound_to_subject_token,
            explain_denials=document.explain_denials,
        )

    def _audiences(self, document: IssuerDocument, preset: Preset, url: str, place: Place) -> frozenset[str]:
        audiences = document.audiences or (self._gateway_issuer,)
        for position, audience in enumerate(audiences):
            reserved = self._is_reserved_audience(audience) or audience in preset.reserved_audiences or audience == url
            if reserved and not document.allow_reserved_audiences:
                path: Path = ("audiences", position) if document.audiences else ("audiences",)
                words = f"{audience} belongs to another relying party: whoever gets such a token could use it here"
                self._problems.append(place.problem(path, words))
        return frozenset(audiences)

    def _key_source(self, document: IssuerDocument, preset: Preset, url: str, place: Place, folder: str) -> KeySource:
        keys = document.keys
        for name in ("discovery_url", "jwks_uri"):
            if (target := getattr(keys, name)) is not None:
                self._check_https(target, place, ("keys", name))
        if keys.jwks is not None:
            self._check_key_set(keys.jwks, place, ("keys", "jwks"))
        anywhere = keys.discovery_url or keys.jwks_uri or keys.jwks_file or keys.jwks
        # OpenID Connect Discovery section 4.1: one trailing slash goes before the path is appended.
        discovery = f"{url.removesuffix('/')}/.well-known/openid-configuration"
        return KeySource(
            discovery_url=keys.discovery_url if anywhere is not None else discovery,
            jwks_uri=keys.jwks_uri,
            jwks_file=_within(folder, keys.jwks_file),
            jwks=keys.jwks,
            ca_file=_within(folder, keys.ca_file),
            bearer_token_file=_within(folder, keys.bearer_token_file),
            private_network=preset.private_network if keys.private_network is None else keys.private_network,
            insecure_http=self._insecure_http,
            refresh_every_seconds=keys.refresh_every,
            max_age_seconds=keys.max_age,
        )

    def _check_https(self, url: str, place: Place, path: Path) -> None:
        if urlsplit(url).scheme != "https" and not self._insecure_http:
            self._problems.append(place.problem(path, f"must be https: {url}"))

    def _check_key_set(self, jwks: Mapping[str, Any], place: Place, path: Path) -> None:
        keys = jwks.get("keys")
        if not isinstance(keys, list) or not keys or not all(isinstance(key, dict) for key in keys):
            self._problems.append(place.problem((*path, "keys"), "a key set holds a list of keys (RFC 7517 section 5)"))
            return
        for position, key in enumerate(keys):
            if any(member in key for member in _PRIVATE_MEMBERS):
                words = "holds a private or symmetric key: remove it here, and replace it where it was made"
                self._problems.append(place.problem((*path, "keys", position), words))

    def _check_told_apart(self, issuers: list[TrustedIssuer]) -> None:
        """Issuers may share a URL, as the keys that verify tell them apart: not so where they share those, too."""
        places = {document.name: place for document, place, _ in self._issuers}
        seen: dict[tuple[str, str], str] = {}
        for issuer in issuers:
            keys = issuer.keys
            source = keys.discovery_url or keys.jwks_uri or keys.jwks_file or json.dumps(keys.jwks, sort_keys=True)
            other = seen.setdefault((issuer.url, source), issuer.name)
            if other != issuer.name:
                words = "{} has this url and the same keys: nothing tells the two apart"
                first, later = (
                    Contender(places[one], issuer.url, places[one].problem(("url",), words.format(told)))
                    for one, told in ((other, issuer.name), (issuer.name, other))
                )
                self._contest("Issuer", first, later)

    def _add_resource(self, document: ResourceDocument, place: Place) -> None:
        for answer in {document.identifier, document.name}:
            other, at = self._answering.setdefault(answer, (document.name, place))
            if other != document.name:
                words = "the Resource {} answers to {}, too"
                first, later = (
                    Contender(one, answer, one.problem(("identifier",), words.format(told, answer)))
                    for one, told in ((at, document.name), (place, other))
                )
                self._contest("Resource", first, later)
        if document.identifier == self._gateway_issuer:
            words = "is the gateway's own issuer: tokens for it could be traded for others"
            self._problems.append(place.problem(("identifier",), words))
        for position, name in enumerate(document.served_by):
            self._check_reference("ServiceAccount", name, place, ("served_by", position))
        self._resources[document.name] = Resource(
            name=document.name,
            identifier=document.identifier,
            scopes=tuple(document.scopes),
            descriptions=tuple(text or "" for text in document.scopes.values()),
            token_lifetime_seconds=document.token_lifetime,
            sender_constraint=document.sender_constraint,
            served_by=frozenset(document.served_by),
            owner=document.owner,
            place=place,
            signing_algorithm=document.signing_algorithm,
        )

    def _warn_of_unknown_claims(self, issuer: str, looked_at: Iterable[tuple[Path, ClaimPath]], place: Place) -> None:
        """Warns of claims that the platform's tokens do not have: a rule on them never matches, and a guardrail on
        them that asks for their presence first never holds.
        """
        known = self._claims_of.get(issuer)
        for path, claim in looked_at:
            if known is not None and claim[0] not in known and not claim[0].startswith(known.prefixes):
                words = f"no token of {issuer} is known to have the claim {described(claim[0])[1:-1]}"
                self._warnings.append(place.problem(path, words, self._nearest(claim[0], known)))

    def _guardrails(self) -> dict[str, tuple[Guardrail, ...]]:
        """For each issuer's name the conditions under which nobody gets anything."""
        found: dict[str, list[Guardrail]] = {}
        for document, place in self._guardrail_documents:
            if document.issuer is not None:
                self._check_reference("Issuer", document.issuer, place, ("issuer",))
            if document.deny_when is None:
                continue
            condition = self._condition(document.deny_when, place, ("deny_when",))
            if condition is None:
                continue
            if document.issuer is not None:
                looked_at = [(("deny_when",), path) for path in condition.paths]
                self._warn_of_unknown_claims(document.issuer, looked_at, place)
            for issuer in self._issuers_meant(document):
                found.setdefault(issuer, []).append(Guardrail(document.name, condition, place))
        return {issuer: tuple(guardrails) for issuer, guardrails in found.items()}

    def _issuers_meant(self, document: GuardrailDocument) -> Collection[str]:
        """The issuers that a guardrail is about: the one that it names, and those that have the same URL. Whoever could
        declare a platform a second time would be rid of its limits otherwise.
        """
        if document.issuer is None:
            return self._names["Issuer"]
        urls = {issuer.name: self._url_of(issuer) for issuer, _, _ in self._issuers}
        url = urls.get(document.issuer)
        return [name for name in urls if name == document.issuer or (url is not None and urls[name] == url)]

    def _url_of(self, document: IssuerDocument) -> str | None:
        preset = self._presets.get(document.preset)
        return document.url or (preset.url if preset is not None else None)

    def _limits(self) -> Guardrails:
        """The guardrails over what files may say, held against what each document says by itself."""
        found = [limits for limits in map(self._limits_of, self._guardrail_documents) if limits is not None]
        limits = Guardrails(found, self._paths)
        self._problems += limits.about_files()
        for kind, name, place in self._named:  # also those whose name another has
            self._problems += limits.about_document(kind, name, place)
        for resource, place in self._resource_documents:
            self._problems += limits.about_resource(resource, place)
        return limits

    def _limits_of(self, kept: tuple[GuardrailDocument, Place]) -> Limits | None:
        document, place = kept
        if self._isolation is not None and self._isolation.folder(place) != TOP:
            # Whatever becomes of a folder, no limit on others goes with it.
            words = "stands at the top of the policies folder where folders are isolated"
            self._problems.append(place.problem(("kind",), words))
        folders = self._globs(parse_folders, document.folders, place, "folders")
        only_in = self._globs(parse_folders, document.only_in, place, "only_in")
        names = self._globs(parse_globs, document.names, place, "names")
        identifiers = self._globs(parse_globs, document.identifiers, place, "identifiers")
        written = (document.folders, document.only_in, document.names, document.identifiers)
        if (folders, only_in, names, identifiers).count(None) > written.count(None):
            return None
        return Limits(
            document=document,
            place=place,
            folders=folders,
            only_in=only_in,
            names=names or (),
            identifiers=identifiers or (),
            pinned_issuers=frozenset(self._issuers_meant(document)) if document.issuer is not None else None,
        )

    def _check_limits(self, limits: Guardrails) -> None:
        """What guardrails and roles refer to; the service accounts come one by one."""
        self._warnings += limits.idle()
        for document, place in self._guardrail_documents:
            for position, issuer in enumerate(document.issuers or ()):
                self._check_reference("Issuer", issuer, place, ("issuers", position))
            self._check_access(_access_of(document.access or ()), place)
            pins = enumerate(document.pins or ())
            looked_at = [(("pins", position), claim) for position, claims in pins for claim in claims]
            for issuer in self._issuers_meant(document):
                self._warn_of_unknown_claims(issuer, looked_at, place)
        for role, place in self._role_documents:
            self._problems += limits.about_access(self._roles[role.name], place, self._resources)

    def _globs(
        self, parse: Callable[[Sequence[str]], _Shared], written: Sequence[str] | None, place: Place, field: str
    ) -> _Shared | None:
        if written is None:
            return None
        try:
            return parse(written)
        except GlobError as error:
            self._problems.append(place.problem((field, error.position), str(error)))
            return None

    def _accounts(self, limits: Guardrails) -> tuple[dict[str, ServiceAccount], list[TestCase]]:
        accounts: dict[str, ServiceAccount] = {}
        tests: list[TestCase] = []
        ordinal = 0
        self._drafts.reverse()
        templates = self._templates()
        while self._drafts:
            draft = self._drafts.pop()
            for template, place in templates:
                if draft.template is None and template.fits(draft.name):
                    words = f"could be what {template.text} makes for some workload: take another name"
                    made = f"could make {draft.name}, which is another service account: take another name"
                    first = Contender(place, template.text, place.problem(("name",), made))
                    later = Contender(draft.place, draft.name, draft.place.problem(("name",), words))
                    self._contest("ServiceAccount", first, later)
            account = self._account(draft, ordinal)
            self._problems += limits.about_account(account, draft.access[1], self._roles, self._resources)
            accounts[draft.name] = account if self._isolation is None else self._isolation.capped(account)
            ordinal += len(draft.rules)
            tests += self._test_cases(draft.name, account, draft.tests, draft.place)
        return accounts, tests

    def _tests_of_documents(self, accounts: Mapping[str, ServiceAccount]) -> Iterator[TestCase]:
        """The tests that stand in documents of their own."""
        templates = [account for account in accounts.values() if account.template is not None]
        for document, place in self._tests_documents:
            name = document.service_account
            made_by = (one for one in templates if one.template is not None and one.template.fits(name))
            account = accounts.get(name) or next(made_by, None)
            if account is None:
                self._check_reference("ServiceAccount", name, place, ("service_account",))
            elif self._isolation is not None and self._isolation.folder(place) not in {
                TOP,
                self._isolation.folder(account.place),
            }:
                # A test that fails keeps a change out: that is not for another team to say.
                words = f"{name} is of another folder: where folders are isolated, such tests stand at the top"
                self._problems.append(place.problem(("service_account",), words))
            yield from self._test_cases(name, account, document.tests, place)

    def _test_cases(
        self, name: str, account: ServiceAccount | None, tests: Iterable[PolicyTest], place: Place
    ) -> Iterator[TestCase]:
        """Tests of one service account; None for one that is not there."""
        for position, test in enumerate(tests):
            self._check_reference("Issuer", test.issuer, place, ("tests", position, "issuer"))
            if test.expect.rule is not None and account is not None:
                rules = [rule.name for rule in account.rules]
                if test.expect.rule not in rules:
                    words = f"no trust rule of {account.name} is called {test.expect.rule}"
                    path = ("tests", position, "expect", "rule")
                    self._problems.append(place.problem(path, words, self._nearest(test.expect.rule, rules)))
            preset = self._presets.get(test.like_preset) if test.like_preset is not None else None
            sample = preset.sample if preset is not None else None
            yield TestCase(name, test, place.problem(("tests", position), ""), sample)

    def _templates(self) -> list[tuple[NameTemplate, Place]]:
        """The templates, none of which can make a name that another makes."""
        found: list[tuple[NameTemplate, Place]] = []
        for draft in self._drafts:
            if draft.template is None:
                continue
            for other, place in found:
                if draft.template.may_meet(other):
                    words = "could make a name that {} makes: neither may begin as the other does"
                    first, later = (
                        Contender(at, own.text, at.problem(("name",), words.format(one.text)))
                        for at, own, one in ((place, other, draft.template), (draft.place, draft.template, other))
                    )
                    self._contest("ServiceAccount", first, later)
            found.append((draft.template, draft.place))
            if len(found) == MAX_TEMPLATES + 1:
                self._problems.append(
                    draft.place.problem(("for_each",), f"is one of more than {MAX_TEMPLATES} templates")
                )
        return found[:MAX_TEMPLATES]

    def _account(self, draft: _DraftAccount, ordinal: int) -> ServiceAccount:
        access = self._access_of_account(draft)
        is_complete = draft.access in self._access
        granted = {scope for scopes in access.values() for scope in scopes}
        if draft.rules and is_complete and not access:
            self._warnings.append(draft.place.problem((), f"{draft.name} has trust rules, but no access to anything"))
        for position, rule in enumerate(draft.rules):
            path = ("trust", position)
            self._check_reference("Issuer", rule.issuer, draft.place, (*path, "issuer"))
            self._warn_of_unknown_claims(rule.issuer, _looked_at(rule, path), draft.place)
            self._warn_of_unknown_claims(rule.issuer, _filled_in(draft), draft.place)
            for inner, scope in enumerate(rule.scopes or ()):
                if scope not in granted and is_complete:
                    words = f"{scope} is not in the access of this service account"
                    is_real = scope in self._scopes_anywhere
                    near = "" if is_real else self._nearest(scope, granted)
                    self._problems.append(draft.place.problem((*path, "scopes", inner), words, near))
        return ServiceAccount(
            name=draft.name,
            owner=draft.owner,
            access=access,
            rules=tuple(
                self._rule(rule, draft, access, ordinal + position, position)
                for position, rule in enumerate(draft.rules)
            ),
            token_lifetime_seconds=draft.token_lifetime_seconds,
            rate_limit=draft.rate_limit,
            credentials=draft.credentials,
            registered=draft.registered,
            place=draft.place,
            template=draft.template,
            constant_claims=draft.constant_claims,
            roles=draft.access[0],
        )

    @cached_property
    def _scopes_anywhere(self) -> frozenset[str]:
        """The scopes of all resources. Asked for only once these are known."""
        return frozenset(scope for resource in self._resources.values() for scope in resource.scopes)

    def _rule(self, rule: _DraftRule, draft: _DraftAccount, access: _Grants, ordinal: int, position: int) -> TrustRule:
        lifetimes = [
            seconds for seconds in (rule.token_lifetime_seconds, draft.token_lifetime_seconds) if seconds is not None
        ]
        return TrustRule(
            service_account=draft.name,
            name=rule.name,
            ordinal=ordinal,
            position=position,
            issuer=rule.issuer,
            match=rule.match,
            like=rule.like,
            when=rule.when,
            grants=self._narrowed_access(draft.access, access, rule.scopes),
            token_lifetime_seconds=min(lifetimes, default=None),
            token_claims=rule.token_claims,
            paths=rule.paths,
        )

    def _narrowed_access(self, key: _AccessKey, access: _Grants, scopes: tuple[str, ...] | None) -> _Grants:
        if scopes is None:
            return access
        if (key, scopes) not in self._narrowed:
            narrowed = {name: tuple(one for one in granted if one in scopes) for name, granted in access.items()}
            self._narrowed[key, scopes] = {name: granted for name, granted in narrowed.items() if granted}
        return self._narrowed[key, scopes]

    def _access_of_account(self, draft: _DraftAccount) -> _Grants:
        """What the account may ask for: its roles' access and its own together, scopes in the resource's order."""
        if draft.access in self._access:
            return self._access[draft.access]
        roles, own = draft.access
        before = len(self._problems)
        for position, name in enumerate(roles):
            self._check_reference("Role", name, draft.place, ("roles", position))
        self._check_access(own, draft.place)
        found: dict[str, set[str]] = {}
        for name, scopes in (*(pair for role in roles for pair in self._roles.get(role, ())), *own):
            found.setdefault(name, set()).update(scopes)
        access = {
            name: tuple(scope for scope in self._resources[name].scopes if scope in scopes)
            for name, scopes in found.items()
            if name in self._resources
        }
        if len(self._problems) == before:
            self._access[draft.access] = access
        return access

    def _check_access(self, access: _Access, place: Place) -> None:
        for position, (name, scopes) in enumerate(access):
            path: Path = ("access", position)
            self._check_reference("Resource", name, place, (*path, "resource"))
            resource = self._resources.get(name)
            for inner, scope in enumerate(scopes):
                if resource is not None and scope not in resource.scopes:
                    words = f"{scope} is not a scope of {name}"
                    self._problems.append(
                        place.problem((*path, "scopes", inner), words, self._nearest(scope, resource.scopes))
                    )

    def _nearest(self, name: object, valid: Collection[str]) -> str:
        """As ``nearest``, for the first of many mistakes: to look for what was meant takes longer than all the rest."""
        self._names_compared += min(len(valid), MAX_COMPARED)
        return nearest(name, valid) if self._names_compared <= MAX_NAMES_COMPARED else ""

    def _check_reference(self, kind: str, name: str, place: Place, path: Path) -> None:
        known: Collection[str] = self._names[kind]
        # What could not be read may be what is referred to: repairing that comes first.
        if name not in known and not self._unread and not self._nameless:
            self._problems.append(place.problem(path, f"no {kind} is called {name}", self._nearest(name, known)))


def _scopes_by_resource(access: _Access) -> _Grants:
    """Access as written, each resource once."""
    found: dict[str, dict[str, None]] = {}
    for resource, scopes in access:
        found.setdefault(resource, {}).update(dict.fromkeys(scopes))
    return {resource: tuple(scopes) for resource, scopes in found.items()}


def _access_of(access: tuple[Access, ...]) -> _Access:
    return tuple((one.resource, one.scopes) for one in access)


def _midnight(day: str | None) -> float | None:
    """The first second of a day in UTC."""
    return None if day is None else datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()


def _within(folder: str, name: str | None) -> str | None:
    return None if name is None else str(PurePath(folder) / name)


def _token_types(written: tuple[str, ...] | None) -> frozenset[str]:
    return frozenset(text.lower().removeprefix("application/") for text in written or ())


def _fractions(value: Any, path: Path) -> Iterator[Path]:
    """Where in a value of a file there is a fraction."""
    if isinstance(value, float):
        yield path
    elif isinstance(value, dict):
        for name, member in value.items():
            yield from _fractions(member, (*path, name))
    elif isinstance(value, list):
        for position, member in enumerate(value):
            yield from _fractions(member, (*path, position))


def _looked_at(rule: _DraftRule, path: Path) -> Iterator[tuple[Path, ClaimPath]]:
    """The claims of a rule's conditions, each with its place in the document."""
    for match in rule.match:
        yield (*path, "match", match.path[0]), match.path
    for like in rule.like:
        yield (*path, "like", like.path[0]), like.path
    for claim in rule.when.paths if rule.when is not None else ():
        yield (*path, "when"), claim


def _filled_in(draft: _DraftAccount) -> Iterator[tuple[Path, ClaimPath]]:
    """The claims of a template's name, each with its place in the document."""
    for placeholder, claim in draft.template.placeholders if draft.template is not None else ():
        yield ("for_each", placeholder), claim


def _as_probably_meant(model: type[Document], value: Mapping[str, Any], problems: list[Problem]) -> Document | None:
    """The document with the nearest names in place of the misspelt ones, and without fields that no name is near to;
    None where more is wrong with it. The load fails all the same: this is to tell what else is wrong in one go.
    """
    meant = deepcopy(value)
    for problem in problems:
        holder = _at(meant, problem.path[:-1])
        if problem.message != NO_SUCH_FIELD or not isinstance(holder, dict):
            return None
        misspelt = holder.pop(problem.path[-1])
        if problem.suggestion:
            holder.setdefault(problem.suggestion, misspelt)
    try:
        return model.model_validate(meant)
    except ValidationError:
        return None


def _at(value: Any, path: Path) -> Any:
    for step in path:
        if isinstance(value, dict):
            value = value.get(cast("str", step))
        elif isinstance(value, list) and isinstance(step, int) and step < len(value):
            value = value[step]
        else:
            return None
    return value
