"""The kinds of policy document as pydantic models: what may stand in a file, each field described.

The reference and the editors' schema are generated from here. What one document cannot know alone (references,
globs, conditions) is checked by the compiler. Does no I/O.
"""

import ipaddress
import re
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import CoreSchema, core_schema

from gateway.model import ClaimPath, SenderConstraint, SigningAlgorithm
from gateway.policy.conditions import VERIFIED_ELSEWHERE

MAX_LIFETIME_SECONDS = 24 * 3600
MIN_LIFETIME_SECONDS = 60
MAX_LEEWAY_SECONDS = 60
MAX_ROLES = 64
"""Roles of one service account. With the two below it bounds what a few bytes of a file can ask of a load."""
MAX_ACCESS = 256
"""Entries of ``access``, in a role or a service account."""
MAX_TRUST_RULES = 1000
"""Trust rules of one service account: all of them are looked at for whoever asks to be it."""

_DURATION = re.compile(r"(0|[1-9][0-9]{0,8})([smhd])")
DURATION_PATTERN = f"^{_DURATION.pattern}$"
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_RATE = re.compile(r"([1-9][0-9]{0,8})/(second|minute|hour|day)")
_PERIOD_SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}
_URL = re.compile(r"[A-Za-z0-9._~:/@!$&'()+,;=%?#\[\]-]{1,2048}")


@dataclass(frozen=True, slots=True)
class _Wording:
    """Says in words what a pattern wants."""

    words: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.custom_error_schema(handler(source), "wording", custom_error_message=self.words)


def parse_duration(text: object) -> int:
    """``90s``, ``10m``, ``24h``, ``30d`` as seconds. Raises ``ValueError``."""
    found = _DURATION.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise ValueError("a duration is a whole number with a unit: 90s, 10m, 24h, 30d")
    return int(found[1]) * _UNIT_SECONDS[found[2]]


def duration_text(seconds: int) -> str:
    """Seconds as a duration of the files: ``900`` reads ``15m``, ``86400`` reads ``24h``."""
    for unit in ("d", "h", "m"):
        if seconds >= 2 * _UNIT_SECONDS[unit] and seconds % _UNIT_SECONDS[unit] == 0:
            return f"{seconds // _UNIT_SECONDS[unit]}{unit}"
    return f"{seconds}s"


@dataclass(frozen=True, slots=True)
class _Between:
    """Bounds of a duration, told in the unit of the files."""

    least: int
    most: int

    def __call__(self, seconds: int) -> int:
        if not self.least <= seconds <= self.most:
            raise ValueError(f"must be from {duration_text(self.least)} to {duration_text(self.most)}")
        return seconds


def _seconds(least: int, most: int) -> Any:
    return (
        BeforeValidator(parse_duration),
        AfterValidator(_Between(least, most)),
        WithJsonSchema({"type": "string", "pattern": DURATION_PATTERN}),
    )


def parse_rate(text: object) -> "RateLimit":
    """``60/minute`` as requests in seconds. Raises ``ValueError``."""
    found = _RATE.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise ValueError("a rate is a number per second, minute, hour or day: 60/minute")
    return RateLimit(requests=int(found[1]), period_seconds=_PERIOD_SECONDS[found[2]])


def _checked_date(text: str) -> str:
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        raise ValueError("a date reads 2026-11-30") from None


def _checked_address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise ValueError("is not an IP address") from None


def _checked_url(text: str) -> str:
    """An absolute http(s) URL without user, and of the characters of RFC 3986. The scheme is the compiler's matter."""
    if not _URL.fullmatch(text):
        raise ValueError("is not a URL: only the characters of RFC 3986, and no wildcards")
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ValueError("is not a URL") from None
    if parts.scheme not in {"https", "http"} or not host:
        raise ValueError("is not a URL: it starts with https:// and a host")
    if "@" in parts.netloc:
        raise ValueError("may not hold a user or a password")
    if "#" in text:
        raise ValueError("may not have a fragment")
    return text


def _checked_issuer_url(text: str) -> str:
    if "?" in text:
        raise ValueError("an issuer may not have a query (OpenID Connect Discovery section 3)")
    return _checked_url(text)


Name = Annotated[
    str,
    Field(pattern=r"^[a-z0-9]([a-z0-9._-]*[a-z0-9])?$", max_length=128),
    _Wording(
        "a name has at most 128 lower-case letters, digits, dots, dashes and underscores, "
        "and starts and ends with a letter or digit"
    ),
]
TemplateName = Annotated[
    str,
    Field(pattern=r"^[a-z0-9]([a-z0-9._{}-]*[a-z0-9}])?$", max_length=128),
    _Wording(
        "a name has at most 128 lower-case letters, digits, dots, dashes and underscores, "
        "and starts and ends with a letter or digit"
    ),
]
PlaceholderName = Annotated[
    str,
    Field(pattern=r"^[a-z][a-z0-9_]{0,31}$"),
    _Wording("a placeholder has at most 32 lower-case letters, digits and underscores"),
]
Scope = Annotated[
    str,
    Field(pattern=r"^[\x21\x23-\x5b\x5d-\x7e]+$", max_length=128),
    _Wording("a scope is at most 128 printable characters without space, quote and backslash (RFC 6749 section 3.3)"),
]
Audience = Annotated[
    str,
    Field(pattern=r"^[\x21-\x7e]+$", max_length=1000),
    _Wording("an audience is at most 1000 printable ASCII characters without spaces"),
]
Identifier = Annotated[
    str,
    Field(pattern=r"^[\x21\x24-\x5b\x5d-\x7e]+$", max_length=1000),
    _Wording("an identifier is printable ASCII without spaces, quotes, backslashes and fragment (RFC 8707 section 2)"),
]
ClaimName = Annotated[
    str,
    Field(pattern=r"^[\x21-\x7e]+$", max_length=128),
    _Wording("a claim's name is at most 128 printable ASCII characters without spaces"),
]
Title = Annotated[
    str,
    Field(pattern=r"^\S[^\x00-\x1f\x7f]{0,199}$"),
    _Wording("a title is one line of at most 200 characters"),
]
Digest = Annotated[
    str,
    Field(pattern=r"^sha256:[0-9a-f]{64}$"),
    _Wording('a digest reads "sha256:" and 64 lower-case hexadecimal digits'),
]
Expression = Annotated[str, Field(min_length=1)]
_URL_SCHEMA = WithJsonSchema({"type": "string", "pattern": rf"^https?://{_URL.pattern}$"})
Url = Annotated[str, AfterValidator(_checked_url), _URL_SCHEMA]
IssuerUrl = Annotated[str, AfterValidator(_checked_issuer_url), _URL_SCHEMA]
FileName = Annotated[str, Field(min_length=1, max_length=1024)]
Day = Annotated[
    str, AfterValidator(_checked_date), WithJsonSchema({"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"})
]
Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519"]
DEFAULT_CLIENT_ALGORITHMS: tuple[Algorithm, ...] = (
    "ES256", "ES384", "ES512", "PS256", "PS384", "PS512", "EdDSA", "Ed25519",
)  # fmt: skip
"""What a client may sign its assertions with: all but PKCS #1 v1.5 (FAPI 2.0 Security Profile §5.4)."""
TokenLifetime = Annotated[int, *_seconds(MIN_LIFETIME_SECONDS, MAX_LIFETIME_SECONDS)]
TokenAge = Annotated[int, *_seconds(60, 30 * 86400)]
Leeway = Annotated[int, *_seconds(0, MAX_LEEWAY_SECONDS)]
KeyAge = Annotated[int, *_seconds(60, 30 * 86400)]
AssertionLifetime = Annotated[int, *_seconds(10, 3600)]
RefreshInterval = Annotated[int, *_seconds(30, 86400)]
RotationInterval = Annotated[int, *_seconds(3600, 366 * 86400)]
Overlap = Annotated[int, *_seconds(300, 90 * 86400)]
SecretStoreUrl = Annotated[
    str,
    Field(pattern=r"^(aws-secretsmanager|azure-keyvault|kubernetes|vault)://[\x21-\x7e]{1,2000}$"),
    _Wording("a secret store reads aws-secretsmanager://, azure-keyvault://, kubernetes:// or vault:// and its place"),
]

KindName = Literal["Issuer", "Resource", "Role", "ServiceAccount", "Tests", "Guardrail"]


def parse_pin(written: object) -> tuple[ClaimPath, ...]:
    """The claims of an entry of ``pins``, any one of which has to be fixed. Raises ``ValueError``."""
    if isinstance(written, list) and not written:
        raise ValueError("an empty list can never be fixed: name a claim")
    return tuple(_pinned_claim(one) for one in (written if isinstance(written, list) else [written]))


def _pinned_claim(written: object) -> ClaimPath:
    path: list[str] = []
    while isinstance(written, dict) and len(written) == 1:
        ((name, written),) = written.items()
        path.append(name)
    if not isinstance(written, str) or not all(map(_CLAIM_NAME.fullmatch, [*path, written])):
        raise ValueError("a claim is its name, or {object: name} for one within an object, or a list of such")
    path.append(written)
    if path[0] in VERIFIED_ELSEWHERE:
        raise ValueError(f"{path[0]} is judged by verification, with the clock: no rule can fix it")
    return tuple(path)


_CLAIM_NAME = re.compile(r"[\x21-\x7e]{1,128}")
Pin = Annotated[
    Any,
    BeforeValidator(parse_pin),
    WithJsonSchema({"type": ["string", "object", "array"], "minLength": 1, "minItems": 1, "minProperties": 1}),
]

_LIST = Field(strict=False)  # a YAML list becomes a tuple; what is in it stays strict


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


@dataclass(frozen=True, slots=True)
class RateLimit:
    """So many requests in so many seconds."""

    requests: int
    period_seconds: int


class Keys(_Model):
    """Where verification keys come from. At most one of the first four; none of them means discovery at `url`."""

    discovery_url: Url | None = Field(
        default=None, description="A discovery document at another place; the `issuer` in it must still equal `url`."
    )
    jwks_uri: Url | None = Field(default=None, description="The key set's URL, without discovery.")
    jwks_file: FileName | None = Field(
        default=None, description="A file with the key set, relative to this file; read again when it changes."
    )
    jwks: dict[str, Any] | None = Field(default=None, description="The key set itself (RFC 7517 section 5).")
    ca_file: FileName | None = Field(
        default=None, description="PEM certificates that the key server's certificate must chain to."
    )
    bearer_token_file: FileName | None = Field(
        default=None, description="A token sent to the key server, read again at each use (a projected token rotates)."
    )
    private_network: bool | None = Field(
        default=None,
        description="Whether loopback, private and link-local addresses may be dialled for the keys. "
        "Default: what the preset says.",
    )
    refresh_every: RefreshInterval = Field(
        default=300, description="How often keys are fetched anew in the background, 30s to 24h. Default `5m`."
    )
    max_age: KeyAge = Field(
        default=86400,
        description="How long the last good keys serve while the issuer cannot be reached, up to 30d. Default `24h`.",
    )

    @model_validator(mode="after")
    def _one_source(self) -> "Keys":
        given = [name for name in ("discovery_url", "jwks_uri", "jwks_file", "jwks") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)}: give one of them")
        if given and given[0] in {"jwks_file", "jwks"}:
            idle = [name for name in ("ca_file", "bearer_token_file", "private_network") if getattr(self, name)]
            if idle:
                raise ValueError(f"{idle[0]} has no effect beside {given[0]}: nothing is fetched")
        return self


class IssuerDocument(_Model):
    """A platform that signs workload tokens, trusted from here on."""

    kind: Literal["Issuer"] = Field(description="`Issuer`")
    name: Name = Field(description="How policies, logs and metrics call it.")
    preset: Name = Field(
        default="generic", description="Fills in what is true of every token of that platform. Default `generic`."
    )
    url: IssuerUrl | None = Field(
        default=None,
        description="The `iss` of its tokens, byte for byte. May be left out where the preset's platform has only one.",
    )
    audiences: Annotated[tuple[Audience, ...], _LIST] | None = Field(
        default=None,
        min_length=1,
        max_length=64,
        description="The `aud` values accepted; one of them must be in the token. Default: the gateway's own issuer.",
    )
    companion_audiences: Annotated[tuple[Audience, ...], _LIST] = Field(
        default=(),
        max_length=64,
        description="Audiences that may stand beside one of ours. Any other refuses the token.",
    )
    allow_reserved_audiences: bool = Field(
        default=False,
        description="Accept an audience that belongs to another relying party. Such tokens can be replayed there and "
        "here: only for platforms where the workload cannot choose.",
    )
    keys: Keys = Field(default_factory=Keys, description="Where its verification keys come from.")
    algorithms: Annotated[tuple[Algorithm, ...], _LIST] | None = Field(
        default=None, min_length=1, description="Signature algorithms accepted. Default: the preset's."
    )
    token_types: Annotated[tuple[str, ...], _LIST] | None = Field(
        default=None,
        min_length=1,
        max_length=16,
        description='`typ` headers accepted; "" stands for none. Default: the preset\'s.',
    )
    leeway: Leeway = Field(default=30, description="Clock skew forgiven, 0s to 60s. Default `30s`.")
    max_token_age: TokenAge | None = Field(
        default=None, description="How long after `iat` a token is still accepted. Default: the preset's."
    )
    max_token_lifetime: TokenAge | None = Field(
        default=None, description="The longest `exp` - `iat` accepted. Default: the preset's."
    )
    allow_missing_kid: bool = Field(default=False, description="Accept tokens whose header names no key.")
    replay: Literal["allow", "reject"] = Field(
        default="allow", description="`reject`: each token works once. Not for Kubernetes, whose pods reuse theirs."
    )
    bound_to_subject_token: bool = Field(
        default=False, description="Access tokens end no later than the workload token that they were traded for."
    )
    explain_denials: Literal["reason", "full"] = Field(
        default="reason", description="`full`: callers whose token verified are told what the policy wanted."
    )
    when: Expression | None = Field(default=None, description="A CEL condition that every token of it must meet.")


class ResourceDocument(_Model):
    """An API that access tokens are for."""

    kind: Literal["Resource"] = Field(description="`Resource`")
    name: Name = Field(description="How policies call it; clients may send it as `resource` or `audience`.")
    identifier: Identifier = Field(description="What becomes `aud`, usually the API's URL.")
    scopes: dict[Scope, str | None] = Field(
        min_length=1, max_length=256, description="The scopes that it knows, each with a description."
    )
    token_lifetime: TokenLifetime = Field(
        default=900, description="The longest life of a token for it, 60s to 24h. Default `15m`."
    )
    sender_constraint: SenderConstraint = Field(
        default="none",
        description="What a token for it must be bound to: a key of the client that it proves at each request "
        "(`dpop`, RFC 9449), or its TLS certificate (`mtls`, RFC 8705). Default `none`.",
    )
    signing_algorithm: SigningAlgorithm | None = Field(
        default=None,
        description="What tokens for it are signed with, where its libraries cannot verify what the settings say. "
        "Default: `keys.algorithm` of the settings.",
    )
    owner: Title | None = Field(default=None, description="Whose API it is: whom to ask, and for guardrails.")
    served_by: Annotated[tuple[Name, ...], _LIST] = Field(
        default=(), description="The API's own service accounts: they may introspect its tokens and pass calls on."
    )


class Access(_Model):
    """Scopes at one resource."""

    resource: Name = Field(description="The name of a `Resource`.")
    scopes: Annotated[tuple[Scope, ...], _LIST] = Field(
        min_length=1, max_length=256, description="Scopes that it declares."
    )


class RoleDocument(_Model):
    """Named access, shared by service accounts."""

    kind: Literal["Role"] = Field(description="`Role`")
    name: Name = Field(description="What service accounts list under `roles`.")
    access: Annotated[tuple[Access, ...], _LIST] = Field(
        min_length=1, max_length=MAX_ACCESS, description="What it gives."
    )


class TrustDocument(_Model):
    """One way to become a service account. At least one of `match`, `like` and `when`; all of them must hold."""

    issuer: Name = Field(description="The name of an `Issuer`.")
    name: Name | None = Field(default=None, description="For logs and explanations. Default: `rule-1`, `rule-2`, ...")
    match: dict[str, Any] = Field(
        default_factory=dict,
        description="Claims and the exact value each must have, of the same type; a list means any of. "
        "A nested mapping matches a nested object.",
    )
    like: dict[str, Any] = Field(
        default_factory=dict,
        description="Claims and a glob each must fit: `*` stops at `/` and `:`, `**` does not. A list means any of.",
    )
    when: Expression | None = Field(
        default=None, description="A CEL condition over `claims` and `issuer`. Anything but `true` is a denial."
    )
    scopes: Annotated[tuple[Scope, ...], _LIST] | None = Field(
        default=None, min_length=1, description="Narrows the access of the service account. Default: all of it."
    )
    token_lifetime: TokenLifetime | None = Field(default=None, description="Shortens the life of tokens got this way.")
    token_claims: dict[ClaimName, Expression] = Field(
        default_factory=dict, max_length=32, description="Further claims of the access token, each a CEL expression."
    )


class Secret(_Model):
    """A client secret, of which only the digest is kept."""

    id: Name = Field(description="For logs and rotation.")
    digest: Digest = Field(description="`sha256:` and the hexadecimal digest of the secret.")
    created: Day | None = Field(default=None, description="When it was made, such as 2026-11-01.")
    expires: Day | None = Field(default=None, description="The first day on which it no longer works.")


class ClientKeys(_Model):
    """The public keys of a client that authenticates with `private_key_jwt`. One of the first three."""

    jwks_uri: Url | None = Field(default=None, description="The key set's URL.")
    jwks_file: FileName | None = Field(default=None, description="A file with the key set, relative to this file.")
    jwks: dict[str, Any] | None = Field(default=None, description="The key set itself (RFC 7517 section 5).")
    ca_file: FileName | None = Field(
        default=None, description="PEM certificates that the key server's certificate must chain to."
    )
    private_network: bool = Field(
        default=False, description="Whether loopback, private and link-local addresses may be dialled for `jwks_uri`."
    )
    algorithms: Annotated[tuple[Algorithm, ...], _LIST] = Field(
        default=DEFAULT_CLIENT_ALGORITHMS,
        min_length=1,
        description="Signature algorithms accepted. Default: all but those of PKCS #1 v1.5 (`RS256`), which older "
        "clients need.",
    )
    max_assertion_lifetime: AssertionLifetime = Field(
        default=300, description="The longest `exp` - `iat` of an assertion, 10s to 1h. Default `5m`."
    )
    accept_token_endpoint_audience: bool = Field(
        default=False,
        description="Whether `aud` may be the URL of the token endpoint, as older clients send, instead of the "
        "gateway's issuer.",
    )
    replay: Literal["allow", "reject"] = Field(
        default="reject",
        description="`allow`: an assertion works again until it expires. For clients that send one several times, as "
        "MSAL does with a certificate.",
    )

    @model_validator(mode="after")
    def _one_source(self) -> "ClientKeys":
        _check_exactly_one(self, ("jwks_uri", "jwks_file", "jwks"))
        if self.jwks_uri is None and (self.ca_file is not None or self.private_network):
            raise ValueError("ca_file and private_network go with jwks_uri: nothing else is fetched")
        return self


class Certificate(_Model):
    """What a client's TLS certificate must show (RFC 8705 section 2.1.2). One of them."""

    subject_dn: Annotated[str, Field(min_length=1, max_length=1024)] | None = Field(
        default=None, description="The subject as RFC 4514 writes it."
    )
    san_dns: Annotated[str, Field(min_length=1, max_length=253)] | None = Field(default=None, description="A DNS name.")
    san_uri: Annotated[str, Field(min_length=1, max_length=2048)] | None = Field(default=None, description="A URI.")
    san_ip: Annotated[str, AfterValidator(_checked_address)] | None = Field(default=None, description="An IP address.")
    san_email: Annotated[str, Field(pattern=r"^[^@\s]+@[^@\s]+$"), _Wording("is not an e-mail address")] | None = Field(
        default=None, description="An e-mail address."
    )
    thumbprint: (
        Annotated[
            str,
            Field(pattern=r"^[A-Za-z0-9_-]{43}$"),
            _Wording("a thumbprint is the base64url SHA-256 of the certificate: 43 characters (RFC 8705 section 3.1)"),
        ]
        | None
    ) = Field(default=None, description="`x5t#S256` of a self-signed certificate.")

    @model_validator(mode="after")
    def _one_name(self) -> "Certificate":
        _check_exactly_one(self, ("subject_dn", "san_dns", "san_uri", "san_ip", "san_email", "thumbprint"))
        return self


class RotationSchedule(_Model):
    """How often `gateway client rotate --due` gives the client a new secret, and where it puts it."""

    every: RotationInterval = Field(description="How long after one rotation the next is due, 1h to 366d.")
    overlap: Overlap = Field(
        default=86400, description="How long the secret before goes on working, 5m to 90d. Default `24h`."
    )
    to: Annotated[tuple[SecretStoreUrl, ...], _LIST] = Field(
        min_length=1, max_length=8, description="The secret stores that the client reads from; all get the same one."
    )

    @model_validator(mode="after")
    def _overlap_ends(self) -> "RotationSchedule":
        if self.overlap >= self.every:
            raise ValueError("overlap must be shorter than every")
        if len(set(self.to)) < len(self.to):
            raise ValueError("to names a store twice")
        return self


class Credentials(_Model):
    """Classic client authentication of a service account. Several of a sort at once are the overlap of a rotation."""

    secrets: Annotated[tuple[Secret, ...], _LIST] = Field(default=(), max_length=16, description="Client secrets.")
    keys: ClientKeys | None = Field(default=None, description="Public keys, for `private_key_jwt`.")
    certificates: Annotated[tuple[Certificate, ...], _LIST] = Field(
        default=(), max_length=64, description="TLS client certificates."
    )
    rotate: RotationSchedule | None = Field(
        default=None, description="The schedule on which its secret is rotated in secret stores."
    )

    @model_validator(mode="after")
    def _distinct_secrets(self) -> "Credentials":
        if len({secret.id for secret in self.secrets}) < len(self.secrets):
            raise ValueError("two secrets have the same id")
        return self


class Expectation(_Model):
    """What a test expects: `allow` or `deny`."""

    allow: Annotated[tuple[Scope, ...], _LIST] | None = Field(
        default=None, min_length=1, description="Exactly these scopes are granted."
    )
    deny: str | None = Field(default=None, description="The request is refused for this reason.")
    lifetime: TokenLifetime | None = Field(default=None, description="With `allow`: exactly this lifetime.")
    rule: Name | None = Field(default=None, description="With `allow`: the trust rule that grants.")
    token_claims: dict[ClaimName, Any] = Field(
        default_factory=dict,
        max_length=32,
        description="With `allow`: these further claims, each with exactly this value; null for one that must not be "
        "there.",
    )

    @model_validator(mode="after")
    def _allow_or_deny(self) -> "Expectation":
        _check_exactly_one(self, ("allow", "deny"))
        if self.deny is not None:
            for name in ("lifetime", "rule", "token_claims"):
                if getattr(self, name):
                    raise ValueError(f"{name} goes with allow")
        return self


class PolicyTest(_Model):
    """An example that is run at every load; if it fails, the files are not taken over."""

    name: Title = Field(description="What it shows.")
    issuer: Name = Field(description="The name of the `Issuer` whose token is played.")
    like_preset: Name | None = Field(
        default=None,
        description="Begins with all claims of a sample token of this preset's platform; `claims` are what is "
        "different: they are merged in at every level, and null takes a claim out (RFC 7396).",
    )
    claims: dict[str, Any] = Field(
        default_factory=dict, description="The verified claims. `iss` and `aud` are filled in."
    )
    resource: Annotated[str, Field(min_length=1, max_length=1000)] | None = Field(
        default=None, description="The `resource` of the request."
    )
    scope: str | None = Field(default=None, description="The `scope` of the request, separated by spaces.")
    expect: Expectation = Field(description="What must come out.")

    @model_validator(mode="after")
    def _some_claims(self) -> "PolicyTest":
        if self.like_preset is None and "claims" not in self.model_fields_set:
            raise ValueError("give claims, or like_preset, or both")
        return self


class ServiceAccountDocument(_Model):
    """An identity of the organisation that workloads may act as: the OAuth client."""

    kind: Literal["ServiceAccount"] = Field(description="`ServiceAccount`")
    name: TemplateName = Field(
        description="The `client_id`, and the `sub` of its tokens. With `for_each`, a template: `k8s.{namespace}`."
    )
    for_each: dict[PlaceholderName, Expression] | None = Field(
        default=None,
        min_length=1,
        description="Makes every workload a service account of its own: for each placeholder of `name`, the claim that "
        'fills it, such as `claims["kubernetes.io"].namespace`.',
    )
    owner: Title | None = Field(default=None, description="Whom to ask about it.")
    description: Title | None = Field(default=None, description="What it is for.")
    roles: Annotated[tuple[Name, ...], _LIST] = Field(
        default=(), max_length=MAX_ROLES, description="Names of `Role` documents."
    )
    access: Annotated[tuple[Access, ...], _LIST] = Field(
        default=(), max_length=MAX_ACCESS, description="What it may ask for, beside its roles."
    )
    trust: Annotated[tuple[TrustDocument, ...], _LIST] = Field(
        default=(), max_length=MAX_TRUST_RULES, description="Who may become it."
    )
    token_lifetime: TokenLifetime | None = Field(default=None, description="Shortens the life of all its tokens.")
    token_claims: dict[ClaimName, Expression] = Field(
        default_factory=dict, max_length=32, description="Further claims of its access tokens, each a CEL expression."
    )
    rate_limit: (
        Annotated[
            RateLimit,
            BeforeValidator(parse_rate),
            WithJsonSchema({"type": "string", "pattern": f"^{_RATE.pattern}$"}),
        ]
        | None
    ) = Field(default=None, description="Its token requests, such as `60/minute`.")
    credentials: Credentials | None = Field(default=None, description="Classic client authentication.")
    tests: Annotated[tuple[PolicyTest, ...], _LIST] = Field(default=(), description="Examples that gate every load.")


class TestsDocument(_Model):
    """Tests of a service account in a file of their own: of another team, or too many to stand beside it."""

    __test__: ClassVar = False  # pytest collects what is called Test

    kind: Literal["Tests"] = Field(description="`Tests`")
    name: Name = Field(description="What they are called together.")
    service_account: TemplateName = Field(
        description="The `ServiceAccount` that they ask for, by its name or by one that its template makes."
    )
    tests: Annotated[tuple[PolicyTest, ...], _LIST] = Field(min_length=1, description="Examples that gate every load.")


class GuardrailDocument(_Model):
    """The organisation's own limits over every team's files. Each of them only takes away; at least one."""

    kind: Literal["Guardrail"] = Field(description="`Guardrail`")
    name: Name = Field(description="What a refusal names.")
    folders: Annotated[tuple[str, ...], _LIST] | None = Field(
        default=None,
        min_length=1,
        max_length=256,
        description="Which files the limits are about: globs over the path of a file, or of a folder around it, seen "
        "from the policies folder. Not for `deny_when`. Default: all files.",
    )
    issuer: Name | None = Field(
        default=None,
        description="For `deny_when` and `pins`: the issuer whose tokens they look at, and every other of the same "
        "`url`. Default: all issuers.",
    )
    deny_when: Expression | None = Field(
        default=None,
        description="A CEL condition. Unless it is `false`, the request is refused: an absent claim refuses, too.",
    )
    pins: Annotated[tuple[Pin, ...], _LIST] | None = Field(
        default=None,
        min_length=1,
        max_length=32,
        description="Claims that every trust rule fixes by `match`. A nested one reads `{kubernetes.io: namespace}`; a "
        "list means any of.",
    )
    max_token_lifetime: TokenLifetime | None = Field(
        default=None, description="The longest life of a token that a service account gives."
    )
    issuers: Annotated[tuple[Name, ...], _LIST] | None = Field(
        default=None, min_length=1, max_length=256, description="The issuers that trust rules may use."
    )
    resource_owners: Annotated[tuple[Title, ...], _LIST] | None = Field(
        default=None,
        min_length=1,
        max_length=256,
        description="Whose resources access and roles may speak of: each has one of these as its `owner`.",
    )
    identifiers: Annotated[tuple[str, ...], _LIST] | None = Field(
        default=None,
        min_length=1,
        max_length=256,
        description="Globs that the `identifier` of a resource has to fit. Default: any, and none under "
        "`resource_owners`.",
    )
    names: Annotated[tuple[str, ...], _LIST] | None = Field(
        default=None, min_length=1, max_length=256, description="Globs that the name of a document has to fit."
    )
    kinds: Annotated[tuple[KindName, ...], _LIST] | None = Field(
        default=None,
        min_length=1,
        description="The kinds of documents that may stand there. Default: all, and with `folders` all but `Issuer` "
        "and `Guardrail`.",
    )
    credentials: Annotated[tuple[Literal["secrets", "keys", "certificates"], ...], _LIST] | None = Field(
        default=None,
        description="The credentials of their own that service accounts may have; an empty list means none.",
    )
    access: Annotated[tuple[Access, ...], _LIST] | None = Field(
        default=None, min_length=1, max_length=256, description="Scopes that only the files of `only_in` may grant."
    )
    only_in: Annotated[tuple[str, ...], _LIST] | None = Field(
        default=None, min_length=1, max_length=256, description="Which files may grant `access`: globs as in `folders`."
    )

    @model_validator(mode="after")
    def _some_limit(self) -> "GuardrailDocument":
        limits = [name for name in LIMITS if getattr(self, name) is not None]
        if not limits:
            raise ValueError(f"limits nothing: give at least one of {', '.join(LIMITS)}")
        if (self.access is None) != (self.only_in is None):
            raise ValueError("access and only_in go together: what is kept, and for which files")
        if self.issuer is not None and not {"deny_when", "pins"} & set(limits):
            raise ValueError("issuer goes with deny_when and pins: nothing else looks at one")
        if self.folders is not None and self.deny_when is not None:
            words = "folders does not go with deny_when, which holds for every service account: write two guardrails"
            raise ValueError(words)
        return self


LIMITS = (
    "deny_when", "pins", "max_token_lifetime", "issuers", "resource_owners", "identifiers", "names", "kinds",
    "credentials", "access",
)  # fmt: skip
"""The fields of a guardrail that take something away."""

Document = IssuerDocument | ResourceDocument | RoleDocument | ServiceAccountDocument | TestsDocument | GuardrailDocument

KINDS: dict[str, type[Document]] = {
    "Issuer": IssuerDocument,
    "Resource": ResourceDocument,
    "Role": RoleDocument,
    "ServiceAccount": ServiceAccountDocument,
    "Tests": TestsDocument,
    "Guardrail": GuardrailDocument,
}


@dataclass(frozen=True, slots=True)
class SourceDocument:
    """A YAML document as read, and where it stands. ``folder`` is what relative file names in it are relative to."""

    value: Any
    file: str
    line: int
    number: int
    folder: str
    path: str = ""
    """The file's path from the policies folder, its parts separated by ``/``: what guardrails know it by."""


def _check_exactly_one(model: BaseModel, names: tuple[str, ...]) -> None:
    given = [name for name in names if getattr(model, name) is not None]
    if len(given) != 1:
        found = f", not {' and '.join(given)}" if given else ""
        raise ValueError(f"give exactly one of {', '.join(names)}{found}")
