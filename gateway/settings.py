"""``gateway.yaml``: how this server runs. Every setting can be given by an environment variable as well.

``GATEWAY_ADMIN__LISTEN`` is ``admin.listen``. The environment wins over the file. Unknown keys are errors in both.
"""

import ipaddress
import os
import re
import secrets
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from gateway.audit.base import Sink
from gateway.audit.chain import ChainWriter, Checkpoints, chain_name
from gateway.audit.group_commit import MAX_WAITING_LINES
from gateway.audit.keys import AuditKey
from gateway.audit.parts import SinkParts
from gateway.audit.rotation import Rotation
from gateway.kinds import AUDIT_KEYS, AUDIT_SINKS, KEY_STORES, STATE_BACKENDS, STATE_URLS, scheme
from gateway.model import Clock, SigningAlgorithm
from gateway.policy.documents import MAX_LIFETIME_SECONDS, RateLimit, duration_text, parse_duration, parse_rate
from gateway.policy.files import load_yaml_document
from gateway.policy.problems import ConfigurationProblems, Locate, Problem, nearest, problems_of
from gateway.policy.problems import Path as ProblemPath
from gateway.state.mirror import Mirror
from gateway.tokens.key_schedule import MAX_KEYS_AT_ONCE, PROPAGATION_SECONDS, KeyTimings, least_keep_for
from gateway.tokens.stores.base import KeyStore, KeyStoreParts

ENVIRONMENT_PREFIX = "GATEWAY_"
DEFAULT_FILE = "gateway.yaml"
_COMMAND_LINE_VARIABLES = re.compile(r"GATEWAY_(CONFIG|URL|TOKEN_\w+|INSECURE_HTTP)")
_SERVICE_LINK = re.compile(r"GATEWAY_(SERVICE_(HOST|PORT\w*)|PORT(_\d+_(TCP|UDP)\w*)?)")
"""What Kubernetes sets in every pod of a namespace that has a Service called ``gateway``."""


def _address(text: str) -> str:
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError("is host:port, such as 0.0.0.0:8080 or [::]:8080")
    bare = host.removeprefix("[").removesuffix("]")
    if host != "localhost":
        try:
            ipaddress.ip_address(bare)
        except ValueError:
            raise ValueError("names an IP address before the port, such as 0.0.0.0:8080") from None
    return text


def _issuer(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in {"https", "http"} or not parts.hostname:
        raise ValueError("is an absolute https URL, such as https://sts.example.com")
    if parts.query or parts.fragment or "?" in text or "#" in text or parts.username is not None:
        raise ValueError("has no query, fragment or user name (RFC 8414 section 2)")
    return text


def _comma_separated(value: object) -> object:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _network(text: str) -> str:
    ipaddress.ip_network(text)
    return text


def _kind_of(kinds: Mapping[str, Any], readers: Mapping[str, Callable[[str], object]] | None = None) -> AfterValidator:
    readers = readers or {}

    def check(url: str) -> str:
        if scheme(url) not in kinds:
            raise ValueError(f"is one of {', '.join(f'{kind}://...' for kind in kinds)}, not {scheme(url)}")
        if url.startswith("file:") and not re.fullmatch(r"file:///[^?#]+", url):
            raise ValueError("is file:///absolute/path")
        if scheme(url) in readers:
            readers[scheme(url)](url)
        return url

    return AfterValidator(check)


def _size(value: object) -> object:
    found = re.fullmatch(r"([0-9]{1,9})(KiB|MiB|GiB)", value) if isinstance(value, str) else None
    if found is None:
        raise ValueError("is a whole number with a unit: 512KiB, 100MiB, 1GiB")
    return int(found[1]) << {"KiB": 10, "MiB": 20, "GiB": 30}[found[2]]


Address = Annotated[str, AfterValidator(_address)]
Network = Annotated[str, AfterValidator(_network)]
KeyStoreUrl = Annotated[str, _kind_of(KEY_STORES)]
StateUrl = Annotated[str, _kind_of(STATE_BACKENDS, STATE_URLS)]
SinkUrl = Annotated[str, _kind_of(AUDIT_SINKS)]
AuditKeyUrl = Annotated[str, _kind_of(AUDIT_KEYS)]
Size = Annotated[int, BeforeValidator(_size)]
Duration = Annotated[int, BeforeValidator(parse_duration), Field(ge=0)]
Rate = Annotated[RateLimit, NoDecode, BeforeValidator(parse_rate)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class AdminSettings(_Section):
    """The listener for Prometheus, probes and operators."""

    listen: Address = Field("127.0.0.1:8081", description="Address of the admin listener; port 0 takes a free one.")
    explanations: int = Field(
        5000,
        ge=0,
        le=100_000,
        description="How many decisions each process keeps, for at most a day, to explain them by `request_id`.",
    )
    allow_loopback: bool = Field(
        False,
        description="Whether `/api/` needs no token from this machine itself: for one that nobody else logs in to.",
    )


class TlsSettings(_Section):
    """TLS ended by the gateway itself; left out where a proxy in front ends it."""

    certificate: Path = Field(description="PEM file with the certificate chain.")
    key: Path = Field(description="PEM file with the private key.")
    client_ca: Path | None = Field(None, description="PEM file of the CAs whose client certificates are asked for.")
    client_certificates: Path | None = Field(
        None,
        description="PEM file of client certificates that no such CA signed (`self_signed_tls_client_auth`), each with "
        "`CA:FALSE`. The handshake ends for any other; only a proxy can let in what is not known beforehand.",
    )


class ClientCertificateSettings(_Section):
    """The client certificates that proxies in front hand on, where these end TLS."""

    proxies: Annotated[list[Network], NoDecode, BeforeValidator(_comma_separated), Field(min_length=1)] = Field(
        description="Networks (CIDR) of the proxies whose header is believed. They must set it over what clients send."
    )
    header: Literal["nginx", "ingress-nginx", "envoy", "rfc9440"] = Field(
        description="Its form: `X-SSL-Client-Cert` from `$ssl_client_escaped_cert` with `X-SSL-Client-Verify` "
        "(`nginx`), `ssl-client-cert` with `ssl-client-verify` (`ingress-nginx`), `X-Forwarded-Client-Cert` with Cert, "
        "by `SANITIZE_SET` (`envoy`), `Client-Cert` (`rfc9440`)."
    )
    chain_verified_by_proxy: bool = Field(
        False,
        description="Whether they hand on only what chains to your CAs, as `tls_client_auth` needs. From nginx it is "
        "the certificates marked `SUCCESS`.",
    )


class KeySettings(_Section):
    """The keys that sign access tokens."""

    store: KeyStoreUrl = Field(
        "memory://",
        description="Where they are kept: `file:///path`, `state://` (in the shared `state`, for replicas), or "
        "`memory://` (lost at exit).",
    )
    algorithm: SigningAlgorithm = Field(
        "ES256", description="JWS algorithm of access tokens, where a resource does not name another."
    )
    cache_for: Duration = Field(
        300, ge=30, le=86400, description="How long verifiers may keep the key set (`max-age`), 30 seconds to a day."
    )
    publish_ahead: Duration = Field(
        "24h",
        validate_default=True,
        description="How long a key is published before it signs. At least `keys.cache_for` and 90 seconds; a day and "
        "more also covers verifiers that keep key sets longer than they are told.",
    )
    keep_for: Duration = Field(
        "25h",
        validate_default=True,
        description="How long a key is published after it stopped signing: longer than any token that it signed lives.",
    )
    rotate_every: Duration | None = Field(
        None, description="How often a new key takes over; left out, only `gateway keys rotate` makes one."
    )
    encryption_key_file: Path | None = Field(
        None,
        description="For `state://`: file with 32 random bytes in base64url, which the keys are encrypted with. Of "
        "several lines the first encrypts and all decrypt.",
    )
    passphrase_file: Path | None = Field(
        None, description="For `file://`: file with the passphrase that private keys are encrypted with."
    )

    @field_validator("publish_ahead")
    @classmethod
    def _check_publish_ahead(cls, seconds: int, info: ValidationInfo) -> int:
        least = info.data.get("cache_for", 0) + PROPAGATION_SECONDS
        if seconds < least:
            raise ValueError(
                f"is at least cache_for and {PROPAGATION_SECONDS} seconds ({least}s): caches have to know a key before "
                "it signs"
            )
        return seconds

    @field_validator("keep_for")
    @classmethod
    def _check_keep_for(cls, seconds: int, info: ValidationInfo) -> int:
        # What the policies of today allow says nothing of the tokens of yesterday: the bound is that of any policy.
        least = least_keep_for(info.data.get("cache_for", 0), MAX_LIFETIME_SECONDS)
        if seconds < least:
            raise ValueError(
                f"is at least {least}s: a token may live 24h, caches and replicas follow a little late, clocks differ"
            )
        return seconds

    @field_validator("rotate_every")
    @classmethod
    def _check_rotate_every(cls, seconds: int | None, info: ValidationInfo) -> int | None:
        ahead, kept = info.data.get("publish_ahead", 0), info.data.get("keep_for", 0)
        if seconds is None:
            return None
        if seconds < ahead:
            raise ValueError(f"is at least publish_ahead ({duration_text(ahead)}): a key is published as long first")
        if seconds * MAX_KEYS_AT_ONCE < kept:
            raise ValueError(
                f"would leave more than {MAX_KEYS_AT_ONCE} keys published, as each is kept for {duration_text(kept)}"
            )
        return seconds

    @field_validator("encryption_key_file")
    @classmethod
    def _check_encryption_key_file(cls, file: Path | None, info: ValidationInfo) -> Path | None:
        if file is not None and scheme(info.data.get("store", "state:")) != "state":
            raise ValueError("goes with store: state://")
        return file

    @field_validator("passphrase_file")
    @classmethod
    def _check_passphrase_file(cls, file: Path | None, info: ValidationInfo) -> Path | None:
        if file is not None and scheme(info.data.get("store", "file:")) != "file":
            raise ValueError("goes with store: file:///path")
        return file

    @property
    def timings(self) -> KeyTimings:
        """How long the states of a key last."""
        return KeyTimings(
            cache_for_seconds=self.cache_for,
            publish_ahead_seconds=self.publish_ahead,
            keep_for_seconds=self.keep_for,
            rotate_every_seconds=self.rotate_every,
        )

    def open_store(self, mirror: Mirror) -> KeyStore:
        """The store; ``mirror`` is that of the shared state. Raises ``KeyStoreError``."""
        parts = KeyStoreParts(
            self.store, mirror, encryption_key_file=self.encryption_key_file, passphrase_file=self.passphrase_file
        )
        return KEY_STORES[scheme(self.store)](parts)


class AuditSettings(_Section):
    """Where every decision is written before its answer leaves."""

    sinks: Annotated[list[SinkUrl], NoDecode, BeforeValidator(_comma_separated), Field(min_length=1)] = Field(
        default_factory=lambda: ["stdout"],
        description="`stdout` or `file:///path`. Every sink must accept the record, or no token leaves.",
    )
    claims: Literal["all", "looked_at"] = Field(
        "all",
        description="Which claims of a workload token stand in its record: `all`, so that it can be decided again "
        "under other policies, or those alone that the deciding rule looked at.",
    )
    key: AuditKeyUrl | None = Field(
        None,
        description="The key that signs checkpoints of the log: `file:///path` of an Ed25519 key of its own, made "
        "where there is none. Left out, `gateway audit verify` can only tell whether a log fits together.",
    )
    checkpoint_records: int = Field(
        1000, ge=1, le=1_000_000, description="After how many records there is a checkpoint."
    )
    checkpoint_every: Duration = Field(
        60, ge=1, le=86400, description="How long a record waits for a checkpoint at most, 1 second to a day."
    )
    rotate_size: Size | None = Field(
        None,
        ge=2**16,
        description="How large a file becomes before it is set aside: `64KiB` or more, such as `100MiB`, `1GiB`.",
    )
    rotate_every: Duration | None = Field(None, ge=1, description="How old a file becomes before it is set aside.")
    rotate_keep: int | None = Field(
        None, ge=1, le=100_000, description="How many files set aside are kept. Left out, all are."
    )

    @field_validator("rotate_keep")
    @classmethod
    def _check_rotate_keep(cls, count: int | None, info: ValidationInfo) -> int | None:
        if count is not None and not info.data.get("rotate_size") and not info.data.get("rotate_every"):
            raise ValueError("goes with rotate_size or rotate_every")
        return count

    def open_sinks(self, clock: Clock) -> list[Sink]:
        """Every sink, each with a chain of its own. Raises ``SinkError``."""
        key = AUDIT_KEYS[scheme(self.key)](self.key) if self.key is not None else None
        return [AUDIT_SINKS[scheme(url)](self._sink_parts(url, clock, key)) for url in self.sinks]

    def _sink_parts(self, url: str, clock: Clock, key: AuditKey | None) -> SinkParts:
        checkpoints = None
        if key is not None:
            checkpoints = Checkpoints(key, self.checkpoint_records, self.checkpoint_every, MAX_WAITING_LINES)

        def new_name() -> str:
            return chain_name(socket.gethostname(), clock(), secrets.token_hex(4))

        return SinkParts(
            url=url,
            chain=ChainWriter(new_name, clock, checkpoints),
            clock=clock,
            key=key,
            rotation=Rotation(self.rotate_size, self.rotate_every, self.rotate_keep),
        )


class RevocationSettings(_Section):
    """Tokens that were revoked before their end."""

    without_state: Literal["closed", "open"] = Field(
        "closed",
        description="What holds while the shared state cannot be read: no token of ours is taken (`closed`), or "
        "those not revoked when it last could be (`open`).",
    )


class ShutdownSettings(_Section):
    """What SIGTERM starts."""

    delay: Duration = Field(
        5,
        description="How long requests are still taken while `/readyz` already says no, for load balancers to notice.",
    )
    grace: Duration = Field(15, description="How long requests in work may take to finish after that.")


class LimitSettings(_Section):
    """What one process takes on at once, and how long it waits for those who send."""

    in_flight: int = Field(512, ge=1, le=100_000, description="Token requests worked on at once; beyond it, 503.")
    connections: int = Field(
        10_000,
        ge=1,
        le=1_000_000,
        description="Connections to the public listener. For one more, idle ones are ended, the oldest first.",
    )
    connections_per_address: int = Field(
        200,
        ge=1,
        le=1_000_000,
        description="Those of one IPv4 address or IPv6 /64. Proxies that are named in `trusted_proxies` or "
        "`client_certificates` may have as many as there are.",
    )
    requests_per_connection: int = Field(
        1000, ge=1, le=1_000_000, description="Requests until a connection is closed, for the next to be balanced anew."
    )
    idle_time: Duration = Field(
        75,
        ge=1,
        description="How long a connection may rest before its first request and between two. Longer than a proxy in "
        "front keeps its own.",
    )
    head_time: Duration = Field(
        10, ge=1, description="How long the head of a request may take from its first byte on; also a TLS handshake."
    )
    body_time: Duration = Field(5, ge=1, description="How long its body may take.")
    answer_time: Duration = Field(
        10, ge=1, description="How long a client may take to read what does not fit into the buffers of its connection."
    )


class QuotaSettings(_Section):
    """How many requests are answered, and how many failures borne, before it is 429."""

    enabled: bool = Field(True, description="Whether anything is counted at all.")
    ceiling: Rate = Field(
        "5000/second",
        validate_default=True,
        description="Tokens that one process gives out to everybody together. The default is above what one can.",
    )
    service_account: Rate = Field(
        "1200/minute",
        validate_default=True,
        description="Requests for one service account that has no `rate_limit` of its own.",
    )
    workload: Rate = Field(
        "600/minute",
        validate_default=True,
        description="Requests of one subject of one issuer (all pods of a deployment have the same), or as many as the "
        "`rate_limit` of the service account allows, where that is higher.",
    )
    failures_per_source: Rate = Field(
        "600/minute",
        validate_default=True,
        description="Failed requests from one IPv4 address or IPv6 /64, counted by each process; beyond it, that "
        "network is refused before any work. Behind a proxy, set `trusted_proxies`, or all callers are one source.",
    )
    without_state: Literal["local", "refuse", "allow"] = Field(
        "local",
        description="While the Redis of `state` is away: each process counts the requests of service accounts and "
        "workloads alone (`local`), refuses them (`refuse`), or lets them through (`allow`).",
    )


class Settings(BaseSettings):
    """Everything about how a gateway runs; who may become what is in the policies."""

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True, case_sensitive=False
    )

    issuer: Annotated[str, AfterValidator(_issuer)] = Field(
        description="This gateway's URL: what clients put into `aud`, what minted tokens carry as `iss`."
    )
    listen: Address = Field("0.0.0.0:8080", description="Address of the public listener; port 0 takes a free one.")
    admin: AdminSettings = Field(default_factory=AdminSettings, description="The admin listener.")
    tls: TlsSettings | None = Field(None, description="TLS on the public listener.")
    policies: Path = Field(Path("policies"), description="Folder of policy files.")
    isolation: Literal["none", "per_folder"] = Field(
        "none",
        description="What is wrong in a policy file keeps all policies as they are (`none`), or those of its folder "
        "alone (`per_folder`).",
    )
    policies_shadow: Path | None = Field(
        None, description="Folder of other policy files, which decide every request as well, without effect."
    )
    state: StateUrl = Field(
        "memory://",
        repr=False,  # a password may be in it
        description="What replicas share: `redis://[user:password@]host:6379/0` (`rediss://` with TLS, and "
        "`?ca=/path/of/ca.pem`; `redis+unix:///path`), `sqlite:///path` for processes on one machine, or `memory://` "
        "for one process (lost at exit).",
    )
    keys: KeySettings = Field(default_factory=KeySettings, description="Signing keys.")
    audit: AuditSettings = Field(default_factory=AuditSettings, description="The audit log.")
    trusted_proxies: Annotated[list[Network], NoDecode, BeforeValidator(_comma_separated)] = Field(
        default_factory=list,
        description="Networks (CIDR) whose `X-Forwarded-For` is believed; left out, the peer's address is the source.",
    )
    client_certificates: ClientCertificateSettings | None = Field(
        None, description="Client certificates handed on by proxies."
    )
    revocation: RevocationSettings = Field(
        default_factory=RevocationSettings, description="Tokens revoked before their end."
    )
    limits: LimitSettings = Field(default_factory=LimitSettings, description="Bounds on work at once.")
    quotas: QuotaSettings = Field(default_factory=QuotaSettings, description="Bounds on requests over time.")
    shutdown: ShutdownSettings = Field(default_factory=ShutdownSettings, description="How to stop.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe line logged.")

    @field_validator("keys")
    @classmethod
    def _check_keys(cls, keys: KeySettings, info: ValidationInfo) -> KeySettings:
        if scheme(keys.store) == "state":
            if keys.encryption_key_file is None:
                raise ValueError("with store: state:// needs encryption_key_file: private keys are not kept in clear")
            if scheme(info.data.get("state", "sqlite:")) == "memory":
                raise ValueError("with store: state:// needs another state than memory://, which is lost at exit")
        return keys

    @field_validator("audit")
    @classmethod
    def _check_audit(cls, audit: AuditSettings, info: ValidationInfo) -> AuditSettings:
        keys = info.data.get("keys")
        if audit.key is not None and keys is not None and scheme(keys.store) == "file":
            store = Path(urlsplit(keys.store).path)
            if store in {Path(urlsplit(audit.key).path), *Path(urlsplit(audit.key).path).parents}:
                raise ValueError("has its key in keys.store: what signs tokens and what signs the log are kept apart")
        return audit

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment before the file; no other source."""
        return env_settings, init_settings


def load_settings(file: Path | None, *, insecure_http: bool = False) -> Settings:
    """The settings in force: the environment before the file before the defaults.

    Without ``file``, ``gateway.yaml`` of the working directory is read where there is one. Relative paths in a file
    are relative to it. Raises ``ConfigurationProblems`` that names everything wrong at once, with its line.
    """
    file = file or (Path(DEFAULT_FILE) if Path(DEFAULT_FILE).exists() else None)
    data, locate = _read(file)
    problems = _unknown_variables(os.environ)
    try:
        settings = Settings(**data)
    except ValidationError as error:
        problems += _problems(error, str(file or "settings"), locate, os.environ)
    else:
        if not insecure_http and settings.issuer.startswith("http:"):
            message = "must be https; --insecure-http allows http for trying out"
            problems.append(Problem(str(file or "settings"), locate(("issuer",)), ("issuer",), message))
        if not problems:
            return settings if file is None else _relative_to(settings, file.parent)
    if file is None and not data:
        nowhere = f"there is no {DEFAULT_FILE} in this folder, and neither --config nor GATEWAY_CONFIG names one"
        problems.insert(0, Problem("settings", 0, (), nowhere))
    raise ConfigurationProblems(problems)


def variable(path: ProblemPath) -> str:
    """The environment variable of a setting: ``("admin", "listen")`` is ``GATEWAY_ADMIN__LISTEN``."""
    return ENVIRONMENT_PREFIX + "__".join(str(part) for part in path).upper()


def setting_paths(model: type[BaseModel] = Settings, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every setting, section by section."""
    for name, field in model.model_fields.items():
        section = _section_of(field.annotation)
        if section is None:
            yield (*above, name)
        else:
            yield from setting_paths(section, (*above, name))


def _section_of(annotation: Any) -> type[BaseModel] | None:
    for one in (annotation, *get_args(annotation)):
        if isinstance(one, type) and issubclass(one, _Section):
            return one
    return None


def _read(file: Path | None) -> tuple[dict[str, Any], Locate]:
    if file is None:
        return {}, lambda _: 0
    data, locate = load_yaml_document(file)
    if data is None:
        return {}, locate
    if not isinstance(data, dict):
        raise ConfigurationProblems([Problem(str(file), 1, (), "expected a mapping of settings")])
    return data, locate


def _known_variables() -> set[str]:
    return {variable(path[:n]) for path in setting_paths() for n in (1, 2)}


def _unknown_variables(environment: Mapping[str, str]) -> list[Problem]:
    known = _known_variables()
    unknown = sorted(
        name
        for name in environment
        if name.upper().startswith(ENVIRONMENT_PREFIX)
        and name.upper() not in known
        and not _COMMAND_LINE_VARIABLES.fullmatch(name)
        and not _SERVICE_LINK.fullmatch(name)
    )
    return [Problem("environment", 0, (name,), "no such setting", nearest(name, known)) for name in unknown]


def _problems(error: ValidationError, file: str, locate: Locate, environment: Mapping[str, str]) -> list[Problem]:
    """What is wrong, said of the variable where the value came from one."""
    set_by = {name.upper() for name in environment}
    known, found = _known_variables(), []
    for problem in problems_of(error, file, locate, Settings):
        named = next((variable(problem.path[:n]) for n in (2, 1) if variable(problem.path[:n]) in set_by), None)
        if named is None:
            found.append(problem)
        elif named in known:  # the others were told already
            found.append(replace(problem, file="environment", line=0, path=(named,)))
    return found


def _relative_to(settings: Settings, folder: Path) -> Settings:
    """Paths of the file, and the default folder of policies, seen from the file's folder; those of variables stay."""
    set_by_variable = {name.upper() for name in os.environ}
    update: dict[str, Any] = {}
    if variable(("policies",)) not in set_by_variable:
        update["policies"] = folder / settings.policies
    if settings.policies_shadow is not None and variable(("policies_shadow",)) not in set_by_variable:
        update["policies_shadow"] = folder / settings.policies_shadow
    if settings.tls is not None and variable(("tls",)) not in set_by_variable:
        names = [
            name
            for name in ("certificate", "key", "client_ca", "client_certificates")
            if getattr(settings.tls, name) is not None and variable(("tls", name)) not in set_by_variable
        ]
        update["tls"] = settings.tls.model_copy(update={name: folder / getattr(settings.tls, name) for name in names})
    if variable(("keys",)) not in set_by_variable:
        names = [
            name
            for name in ("encryption_key_file", "passphrase_file")
            if getattr(settings.keys, name) is not None and variable(("keys", name)) not in set_by_variable
        ]
        update["keys"] = settings.keys.model_copy(
            update={name: folder / getattr(settings.keys, name) for name in names}
        )
    return settings.model_copy(update=update)


class _EmbeddedSettings(Settings):
    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """What is given, and nothing else."""
        return (init_settings,)


def embedded_settings(values: Mapping[str, Any]) -> Settings:
    """Settings from these values alone, whatever the environment says. Raises pydantic's ``ValidationError``."""
    return _EmbeddedSettings(**values)
