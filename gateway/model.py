"""The words of the product as frozen values: what one room of the gateway hands to the next.

Owns no behaviour beyond what a value can say about itself; does no I/O, reads no clock, imports nothing
of the gateway. A name with ``unverified`` in it was read before a signature was checked.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

Clock = Callable[[], float]
"""Seconds since the epoch. Handed in everywhere, so that a test can say what time it is."""

Claims = Mapping[str, Any]
"""A JSON object as parsed: str, int, bool, None, list and dict only, never a float."""

ClaimPath = tuple[str, ...]
"""Keys from the outside in: ``("kubernetes.io", "pod", "uid")``. Claim names may hold dots and slashes."""


class GrantType(StrEnum):
    """The values of ``grant_type`` that the token endpoint serves."""

    TOKEN_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"  # RFC 8693 §2.1
    JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"  # RFC 7523 §2.1
    CLIENT_CREDENTIALS = "client_credentials"  # RFC 6749 §4.4

    @property
    def label(self) -> str:
        """The short name used in metrics, logs and the audit record."""
        return self.value.rsplit(":", 1)[-1]


# ---------------------------------------------------------------- the request


@dataclass(frozen=True, slots=True)
class PresentedSecret:
    """A client secret as it was sent (RFC 6749 §2.3.1).

    ``spellings`` are the pairs of client id and secret that the sender may have meant: one in a form, up to three in
    a Basic header, which clients encode in three ways.
    """

    method: Literal["client_secret_basic", "client_secret_post"]
    spellings: tuple[tuple[str, str], ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class PresentedAssertion:
    """A ``client_assertion`` as it was sent (RFC 7521 §4.2): the client's own JWT, or a workload token."""

    assertion_type: str
    assertion: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """A TLS client certificate whose private key was proven in the handshake, to us or to a trusted proxy."""

    der: bytes = field(repr=False)
    chain_verified: bool
    """Whether it chains to one of the configured CAs (RFC 8705 §2.1)."""


Presented = PresentedSecret | PresentedAssertion | ClientCertificate
"""What a caller authenticates with as a client. Nothing in it is believed but that a certificate's key is held."""


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """What a caller asked of the token endpoint: parsed, bounded, not yet believed.

    ``scopes`` is None when the caller left ``scope`` out (RFC 6749 §3.3), ``resource`` is the one identifier or
    name asked for by ``resource`` or ``audience``, ``lifetime_seconds`` is ``requested_expires_in``. ``token`` is the
    subject token or assertion, and empty for ``client_credentials``.
    """

    grant_type: GrantType
    token: str = field(default="", repr=False)
    token_type: str = ""
    client_id: str | None = None
    resource: str | None = None
    scopes: tuple[str, ...] | None = None
    lifetime_seconds: int | None = None
    actor_token: str | None = field(default=None, repr=False)
    presented: Presented | None = None
    """Client authentication, where the caller sent any."""
    certificate: ClientCertificate | None = None
    """The TLS client certificate of the connection, to which a token can be bound (RFC 8705 §3)."""
    dpop_proofs: tuple[str, ...] = field(default=(), repr=False)
    """The ``DPoP`` headers (RFC 9449 §4.1)."""


# ---------------------------------------------------------------- who is calling


@dataclass(frozen=True, slots=True)
class KeySource:
    """Where an issuer's verification keys come from. Exactly one of the first four is set."""

    discovery_url: str | None = None
    jwks_uri: str | None = None
    jwks_file: str | None = None
    jwks: Mapping[str, Any] | None = None
    ca_file: str | None = None
    bearer_token_file: str | None = None
    private_network: bool = False
    """Loopback, private and link-local addresses may be dialled for this issuer."""
    insecure_http: bool = False
    refresh_every_seconds: int = 300
    max_age_seconds: int = 86400
    """How long the last good keys serve while the issuer cannot be reached."""


@dataclass(frozen=True, slots=True)
class ClaimTable:
    """What a platform's token holds. Whatever is in none of the three lists is counted as unaccounted for.

    A required claim that is absent, null or empty refuses the token. A name that ends in ``*`` stands for every
    claim that begins so.
    """

    required: tuple[ClaimPath, ...]
    optional: frozenset[str]
    ignored: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Preset:
    """What is true of every token of one platform: the defaults of an ``Issuer`` document that names it."""

    name: str
    title: str
    url: str | None
    """The platform's one issuer, where it has one."""
    url_pattern: str
    """A regular expression for the whole issuer URL, used to warn of a typing mistake."""
    algorithms: tuple[str, ...]
    claims: ClaimTable
    sample: Claims = field(hash=False)
    """All claims of one token as the platform writes it, of an invented workload: what tests of policies begin from."""
    subject_pattern: str = r"[\x21-\x7e]{1,255}"
    """A regular expression that the whole ``sub`` fulfils."""
    token_types: frozenset[str] = frozenset({"", "jwt"})
    """Accepted ``typ`` headers in lower case, without ``application/``; the empty string stands for none."""
    max_token_lifetime_seconds: int = 86400
    max_token_age_seconds: int = 86400
    private_network: bool = False
    reserved_audiences: frozenset[str] = frozenset()
    """Audiences of this platform beyond the common ones that mean another relying party."""


@dataclass(frozen=True, slots=True)
class TrustedIssuer:
    """An ``Issuer`` document with its preset filled in: all that verification needs to know."""

    name: str
    preset: str
    url: str
    audiences: frozenset[str]
    algorithms: frozenset[str]
    keys: KeySource
    claims: ClaimTable
    companion_audiences: frozenset[str] = frozenset()
    """Audiences that may stand beside one of ours in the token; any other refuses it."""
    reserved_audiences: frozenset[str] = frozenset()
    token_types: frozenset[str] = frozenset({"", "jwt"})
    subject_pattern: str = r"[\x21-\x7e]{1,255}"
    leeway_seconds: int = 30
    max_token_age_seconds: int = 86400
    max_token_lifetime_seconds: int = 86400
    allow_missing_kid: bool = False
    replay: Literal["allow", "reject"] = "allow"
    bound_to_subject_token: bool = False
    explain_denials: Literal["reason", "full"] = "reason"


@dataclass(frozen=True, slots=True)
class UnverifiedToken:
    """A compact JWS taken apart (RFC 7515 §7.1). Nothing in it has been checked against a key."""

    unverified_header: Mapping[str, Any]
    unverified_payload: bytes
    signing_input: bytes = field(repr=False)
    signature: bytes = field(repr=False)
    sha256: str
    """Hex SHA-256 of the token as it was sent: its name in logs and in the audit record."""


@dataclass(frozen=True, slots=True)
class Workload:
    """Who is calling, proven: the verified claims of a workload token."""

    issuer: TrustedIssuer
    subject: str
    claims: Claims
    expires_at: int
    issued_at: int | None
    token_id: str | None
    token_sha256: str
    key_id: str | None
    unaccounted_claims: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RegisteredSecret:
    """A secret that a client may authenticate with, by its digest (``sha256:`` and hex)."""

    id: str
    digest: str
    created_at: float | None = None
    expires_at: float | None = None
    """The second from which it no longer works."""


@dataclass(frozen=True, slots=True)
class RegisteredKeys:
    """The public keys that a client's assertions verify with (``private_key_jwt``)."""

    source: KeySource
    algorithms: frozenset[str]
    max_assertion_lifetime_seconds: int = 300
    accept_token_endpoint_audience: bool = False
    """Whether ``aud`` may be the token endpoint's URL, which rfc7523bis §4 forbids and older clients send."""
    replay: Literal["allow", "reject"] = "reject"
    """``reject``: each assertion works once."""


CertificateField = Literal["subject_dn", "san_dns", "san_uri", "san_ip", "san_email", "thumbprint"]


@dataclass(frozen=True, slots=True)
class RegisteredCertificate:
    """What a client's certificate must show (RFC 8705 §2.1.2, §2.2)."""

    field: CertificateField
    value: str


@dataclass(frozen=True, slots=True)
class RegisteredClient:
    """A service account's own credentials, as the policies have them."""

    client_id: str
    secrets: tuple[RegisteredSecret, ...] = ()
    keys: RegisteredKeys | None = None
    certificates: tuple[RegisteredCertificate, ...] = ()


@dataclass(frozen=True, slots=True)
class Client:
    """Who is calling, proven: a service account, by its own credential or by the token of a workload that it trusts."""

    client_id: str
    method: str
    """As RFC 7591 §2 and RFC 8705 §2 name it: ``client_secret_basic``, ``private_key_jwt``, ``tls_client_auth``, ..."""
    credential: str
    """Which of its credentials: ``secret:s1``, ``key:2026-11``, ``certificate:<thumbprint>``."""
    assertion_id: str | None = None
    """``jti`` of the assertion, which works once."""
    assertion_expires_at: int | None = None
    workload: Workload | None = field(default=None, repr=False)
    """Whose token stood as the assertion, where it was that of a platform."""


@dataclass(frozen=True, slots=True)
class PassedOn:
    """What an access token of our own gives to whoever narrows it or passes a call on with it."""

    service_account: str
    audience: str
    scopes: tuple[str, ...]
    act: Mapping[str, Any] | None
    entitled_by: str
    """``issuer/rule`` or ``method/credential``: by what it was got."""


# ---------------------------------------------------------------- what may it do


SigningAlgorithm = Literal["ES256", "EdDSA", "RS256"]
"""What access tokens are signed with (RFC 7518 §3.1, RFC 8037 §3.1)."""

SenderConstraint = Literal["none", "dpop", "mtls"]
"""What an access token is bound to: nothing, a key proven by DPoP (RFC 9449), a TLS certificate (RFC 8705)."""


CheckKind = Literal[
    "identity", "match", "like", "when", "guardrail", "issuer", "name", "resource", "scope", "lifetime", "token_claims"
]
"""What a check looks at: the token itself, a condition of a trust rule, or what a request gets in the end."""


@dataclass(frozen=True, slots=True)
class Check:
    """One line of a decision's trace: what a rule looked at, what it saw, what it wanted."""

    rule: str
    """``service-account/rule`` or ``guardrail/name`` or ``issuer/name``."""
    kind: CheckKind
    path: ClaimPath
    wanted: Any
    seen: Any
    passed: bool
    note: str = ""


@dataclass(frozen=True, slots=True)
class Entitlement:
    """What one request ends up with: a service account, one resource, scopes there, and how long."""

    service_account: str
    rule: str | None
    """The trust rule that grants; None for a client with a credential of its own."""
    resource: str
    """The resource's name in the policies."""
    audience: str
    """The resource's identifier: the ``aud`` of the token."""
    scopes: tuple[str, ...]
    lifetime_seconds: int
    claims: Claims
    """The claims that the policy maps into the access token."""
    sender_constraint: SenderConstraint = "none"
    """What a token for the resource must be bound to."""
    signing_algorithm: SigningAlgorithm | None = None
    """What its API wants tokens signed with; None for what the gateway signs with where nobody says."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What the policy answered. ``entitlement`` is there exactly when the answer is yes."""

    reason: str
    """A code of ``gateway.oauth.reasons``; ``granted`` for yes."""
    entitlement: Entitlement | None
    generation: int
    service_account: str | None = None
    """The service account in question, also of a denial, where one is known."""
    candidates: tuple[str, ...] = ()
    """The service accounts that the workload may become, when the request left it open."""
    looked_at: tuple[tuple[ClaimPath, Any], ...] = ()
    """The claims that the deciding rule looked at, with the values seen (None: absent)."""
    trace: tuple[Check, ...] = ()
    wanted: str = ""
    """What the policy wanted, in words: for operators, and for callers only where ``explain_denials`` is full."""


# ---------------------------------------------------------------- here is the token


@dataclass(frozen=True, slots=True)
class AccessToken:
    """What was minted (RFC 9068). ``token`` is a secret: it goes into the answer and nowhere else."""

    token: str
    token_id: str
    key_id: str
    issued_at: int
    expires_at: int
    entitlement: Entitlement
    confirmation: Mapping[str, str] | None = None
    """What it is bound to (``cnf``, RFC 7800 §3): ``jkt`` of a DPoP key, ``x5t#S256`` of a certificate."""

    def __repr__(self) -> str:
        return f"AccessToken(token_id={self.token_id!r})"


# ---------------------------------------------------------------- it was written down


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One decision, granted or denied, about a token that was asked for or is out already. No secret and no token is in
    it.
    """

    time: float
    request_id: str
    grant: str
    decision: Literal["granted", "denied"]
    reason: str
    stage: str
    source: str
    policy_generation: int
    endpoint: Literal["token", "introspection", "revocation"] = "token"
    client_id: str | None = None
    authentication: str | None = None
    """How a client proved itself: the method and which of its credentials."""
    client_assertion_id: str | None = None
    issuer: str | None = None
    """The issuer's name in the policies."""
    iss: str | None = None
    subject: str | None = None
    verified: bool = False
    """Whether ``iss`` and ``subject`` stand under a verified signature."""
    rule: str | None = None
    """Whose conditions held; also of a request that was refused after that, by a quota or as a replay."""
    claims: Claims | tuple[tuple[ClaimPath, Any], ...] = ()
    """All verified claims of the workload token, or else those that the deciding rule looked at, with the values seen
    (None: absent).
    """
    claims_complete: bool = False
    """Whether ``claims`` are all that the token had."""
    client_id_asked: str | None = None
    resource_asked: str | None = None
    lifetime_asked_seconds: int | None = None
    resource: str | None = None
    scopes_asked: tuple[str, ...] | None = None
    scopes_given: tuple[str, ...] | None = None
    lifetime_given_seconds: int | None = None
    """What the policy gave. The token ends earlier where its issuer binds it to the workload token."""
    subject_token_sha256: str | None = None
    subject_token_id: str | None = None
    actor_token_sha256: str | None = None
    actor_token_id: str | None = None
    key_id: str | None = None
    access_token_id: str | None = None
    access_token_expires_at: int | None = None
    access_token_key_id: str | None = None
    detail: str = ""
    """What operators are told beyond the reason: the failing check, in words."""


@dataclass(frozen=True, slots=True)
class RecordedDecision:
    """A decision as the audit log tells it: what it is decided again from, and what it is learnt from."""

    time: float
    request_id: str
    grant: str
    """The label of a ``GrantType``."""
    reason: str
    """``granted``, or why not."""
    stage: str
    service_account: str | None
    authentication: str | None
    """The method and credential of a client that proved itself: then ``service_account`` is that client."""
    issuer: str | None
    """The issuer's name in the policies then; None where no token of an issuer was verified."""
    subject: str | None
    rule: str | None
    """Also of a request that was refused after the policy had said yes."""
    claims: Claims
    """Of a token that was verified, and empty of any other."""
    claims_are_complete: bool
    """Whether ``claims`` are all that the token had; else only those that the deciding rule looked at."""
    known_claims: frozenset[ClaimPath]
    """Where they are not complete: the claims that are known, with all below them. Absent ones are null."""
    client_id_asked: str | None
    resource_asked: str | None
    scopes_asked: tuple[str, ...] | None
    lifetime_asked_seconds: int | None
    resource: str | None
    """The identifier of the resource of the token that was minted."""
    scopes_given: tuple[str, ...] | None
    lifetime_given_seconds: int | None
    delegated: bool
    """Whether the subject token was one of ours: narrowed, or passed on. Then rule and claims are the actor's."""
