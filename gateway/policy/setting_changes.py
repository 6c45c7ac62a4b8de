"""What changed in a policy beside who may do what: issuers, guardrails, resources, roles, credentials. Pure.

Each change says what it means for callers, and whether it lets in more (``wider``), less (``narrower``) or others.
"""

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from gateway.model import (
    KeySource,
    RegisteredCertificate,
    RegisteredClient,
    RegisteredKeys,
    RegisteredSecret,
    TrustedIssuer,
)
from gateway.policy.documents import LIMITS, GuardrailDocument, RateLimit, RotationSchedule, duration_text
from gateway.policy.generation import Generation, Guardrail, Resource, ServiceAccount
from gateway.policy.problems import Place, Problem, path_text
from gateway.policy.reach import certificate_in_words, key_set_in_words
from gateway.policy.wording import listed

Direction = Literal["wider", "narrower", "other"]
About = Literal[
    "issuer", "guardrail", "resource", "role", "service_account", "credentials", "lifetime", "token_claims", "order"
]

_NOWHERE = Problem("", 0, (), "")


@dataclass(frozen=True, slots=True)
class SettingChange:
    """One change that is no gain or loss of scopes by itself. ``sentence`` says what it means."""

    about: About
    name: str
    """Of the issuer, guardrail, resource, role or service account."""
    direction: Direction
    sentence: str
    everybody: bool = False
    """Whether it lets in more of everybody at an issuer."""
    place: Problem = _NOWHERE
    """Where it stands in the new files, or in the old ones if it is gone: a problem without words."""


# ---------------------------------------------------------------- issuers

_Words = tuple[Direction, str]


def issuer_changes(
    old: Generation, new: Generation, renamed: Mapping[str, str], folders: tuple[str, str]
) -> Iterator[SettingChange]:
    """Issuers that came, went or are other than before. ``renamed``: from old names to new ones."""
    for name, issuer in new.issuers_by_name.items():
        place = new.issuer_places[name].problem((), "")
        before = next((one for one in old.issuers if renamed.get(one.name, one.name) == name), None)
        if before is None:
            words = f"is trusted from now on: {issuer.url}, keys from {keys_in_words(issuer.keys, folders[1])}"
            yield SettingChange("issuer", name, "wider", words, place=place)
            continue
        if before.name != name:
            yield SettingChange("issuer", name, "other", f"was called {before.name}", place=place)
        for direction, words in [*_audience_fields(before, issuer), *_condition_changes(old, new, before.name, name)]:
            yield SettingChange("issuer", name, direction, words, everybody=direction == "wider", place=place)
        for direction, words in _issuer_fields(before, issuer, folders):
            yield SettingChange("issuer", name, direction, words, place=place)
    for name, issuer in old.issuers_by_name.items():
        if renamed.get(name, name) not in new.issuers_by_name:
            place = old.issuer_places[name].problem((), "")
            yield SettingChange("issuer", name, "narrower", f"is no longer trusted: {issuer.url}", place=place)


def keys_in_words(source: KeySource, folder: str) -> str:
    """Where verification keys come from. A file is named as the policies name it, relative to their folder."""
    if source.jwks is not None:
        return key_set_in_words(source.jwks)
    if source.jwks_file is not None:
        return f"the file {_relative(source.jwks_file, folder)}"
    return f"{source.jwks_uri}" if source.jwks_uri is not None else f"discovery at {source.discovery_url}"


def _audience_fields(old: TrustedIssuer, new: TrustedIssuer) -> Iterator[_Words]:
    yield from _members(
        old.audiences, new.audiences, "tokens made for {} are accepted, too", "tokens made for {} are refused"
    )
    yield from _members(
        old.companion_audiences,
        new.companion_audiences,
        "tokens that are also for {} are accepted",
        "tokens that are also for {} are refused",
    )


def _issuer_fields(old: TrustedIssuer, new: TrustedIssuer, folders: tuple[str, str]) -> Iterator[_Words]:
    if old.url != new.url:
        yield "other", f"tokens of {new.url} are accepted instead of those of {old.url}: whoever signs there gets in"
    if old.preset != new.preset:
        yield "other", f"its tokens are checked as those of the preset {new.preset} instead of {old.preset}"
    yield from _members(old.algorithms, new.algorithms, "signatures by {} are accepted", "signatures by {} are refused")
    yield from _members(
        old.token_types, new.token_types, "tokens of the type {} are accepted", "tokens of the type {} are refused"
    )
    yield from _key_source_fields(old.keys, new.keys, folders)
    for field, words in _LIMITS:
        yield from _grown(getattr(old, field), getattr(new, field), words)
    for field, wider, narrower in _SWITCHES:
        before, after = getattr(old, field), getattr(new, field)
        if before != after:
            yield ("wider", wider) if _is_loose(field, after) else ("narrower", narrower)
    if old.explain_denials != new.explain_denials:
        told = "are told what the policy wanted" if new.explain_denials == "full" else "are told the reason only"
        yield "other", f"callers that are refused {told}"


_LIMITS = (
    ("max_token_age_seconds", "a token is accepted for {} after it was made"),
    ("max_token_lifetime_seconds", "a token may live {}"),
    ("leeway_seconds", "a clock may be wrong by {}"),
)
_SWITCHES = (
    ("replay", "a token works any number of times", "a token works once"),
    ("allow_missing_kid", "tokens that name no key are accepted", "tokens that name no key are refused"),
    (
        "bound_to_subject_token",
        "access tokens may outlive the token that they were traded for",
        "access tokens end with the token that they were traded for",
    ),
)
_LOOSE = {"replay": "allow", "allow_missing_kid": True, "bound_to_subject_token": False}


def _is_loose(field: str, value: Any) -> bool:
    return bool(_LOOSE[field] == value)


def _key_source_fields(old: KeySource, new: KeySource, folders: tuple[str, str]) -> Iterator[_Words]:
    before, after = keys_in_words(old, folders[0]), keys_in_words(new, folders[1])
    if before != after:
        yield "other", f"its keys come from {after} instead of {before}: whoever holds those can sign its tokens"
    elif old.jwks != new.jwks:
        yield "other", f"{after} has other keys under the same ids"
    for field, what in (("ca_file", "the CA of its key server"), ("bearer_token_file", "the token for its key server")):
        one, other = (
            _relative(getattr(old, field) or "", folders[0]),
            _relative(getattr(new, field) or "", folders[1]),
        )
        if one != other:
            yield "other", f"{what} is read from {other or 'no file'} instead of {one or 'no file'}"
    if old.private_network != new.private_network:
        if new.private_network:
            yield "wider", "its keys may be fetched from loopback, private and link-local addresses"
        else:
            yield "narrower", "its keys may not be fetched from loopback, private and link-local addresses"
    if old.refresh_every_seconds != new.refresh_every_seconds:
        yield "other", f"its keys are fetched every {duration_text(new.refresh_every_seconds)}"
    yield from _grown(old.max_age_seconds, new.max_age_seconds, "its last good keys serve {} without it")


def _condition_changes(old: Generation, new: Generation, before: str, after: str) -> Iterator[_Words]:
    one, other = old.issuer_conditions.get(before), new.issuer_conditions.get(after)
    was, is_now = (one.source if one is not None else ""), (other.source if other is not None else "")
    if was == is_now:
        return
    if not is_now:
        yield "wider", f"no token is refused any more for want of {was}"
    elif not was:
        yield "narrower", f"tokens are refused without {is_now}"
    else:
        yield "other", f"tokens are refused without {is_now}; it was {was}"


# ---------------------------------------------------------------- guardrails


def guardrail_changes(old: Generation, new: Generation, renamed: Mapping[str, str]) -> Iterator[SettingChange]:
    """What guardrails refuse that they did not, and the reverse; then what they let files say. Another name alone is no
    change.
    """
    kept = {renamed.get(name, name) for name in old.issuers_by_name} & new.issuers_by_name.keys()
    before, after = _by_condition(old, renamed, kept), _by_condition(new, {}, kept)
    for source, (guardrail, issuers) in after.items():
        more = issuers - (before[source][1] if source in before else set())
        if more:
            words = f"refuses, unless it is false, at {_issuers(more, kept)}: {source}"
            yield _guardrail_change(guardrail, "narrower", words)
    for source, (guardrail, issuers) in before.items():
        fewer = issuers - (after[source][1] if source in after else set())
        if fewer:
            words = f"no longer refuses at {_issuers(fewer, kept)}: {source}"
            yield replace(_guardrail_change(guardrail, "wider", words), everybody=True)
    yield from _limit_changes(old, new)


def _by_condition(
    generation: Generation, renamed: Mapping[str, str], kept: Collection[str]
) -> dict[str, tuple[Guardrail, set[str]]]:
    """From each condition to the first guardrail that has it, and the issuers that it holds for."""
    found: dict[str, tuple[Guardrail, set[str]]] = {}
    for name, guardrails in generation.guardrails.items():
        issuer = renamed.get(name, name)
        for guardrail in guardrails if issuer in kept else ():
            found.setdefault(guardrail.deny_when.source, (guardrail, set()))[1].add(issuer)
    return found


_Limit = tuple[str, str, str]
"""Which files a guardrail is about, the field, and its value, as JSON."""


def _limit_changes(old: Generation, new: Generation) -> Iterator[SettingChange]:
    """Limits over what files may say, which count at the next change of the files: for reviewers, not for callers."""
    before, after = _limits(old), _limits(new)
    for (files, field, value), (name, place) in after.items():
        if (files, field, value) not in before:
            words = f"{files} must keep to {field}: {value}"
            yield SettingChange("guardrail", name, "narrower", words, place=place.problem((field,), ""))
    for (files, field, value), (name, place) in before.items():
        if (files, field, value) not in after:
            words = f"{files} need not keep to {field} any more: {value}"
            yield SettingChange("guardrail", name, "wider", words, place=place.problem((field,), ""))


def _limits(generation: Generation) -> dict[_Limit, tuple[str, Place]]:
    found: dict[_Limit, tuple[str, Place]] = {}
    for document, place in generation.written_guardrails:
        files = f"files of {listed(document.folders)}" if document.folders is not None else "files"
        written = document.model_dump(mode="json", exclude_none=True, include=set(LIMITS) - {"deny_when"})
        for field, value in written.items():
            limit = json.dumps(_in_full(document, field, value))
            found.setdefault((files, field, limit), (document.name, place))
    return found


def _in_full(document: GuardrailDocument, field: str, value: Any) -> Any:
    """A limit with what belongs to it."""
    if field == "access":
        return {"access": value, "only_in": document.only_in}
    if field == "pins" and document.issuer is not None:
        return {"pins": value, "issuer": document.issuer}
    return duration_text(value) if field == "max_token_lifetime" else value


def _guardrail_change(guardrail: Guardrail, direction: Direction, words: str) -> SettingChange:
    return SettingChange("guardrail", guardrail.name, direction, words, place=guardrail.place.problem((), ""))


def _issuers(names: Collection[str], every: Collection[str]) -> str:
    return "every issuer" if len(names) == len(every) > 1 else listed(sorted(names))


# ---------------------------------------------------------------- resources


def resource_changes(old: Generation, new: Generation, renamed: Mapping[str, str]) -> Iterator[SettingChange]:
    """Resources that came, went or are other than before. ``renamed``: from old names to new ones."""
    before = {renamed.get(name, name): resource for name, resource in old.resources.items()}
    for name, resource in new.resources.items():
        place = resource.place.problem((), "")
        if name not in before:
            words = f"is new: {resource.identifier}, with {listed(resource.scopes)}"
            yield SettingChange("resource", name, "other", words, place=place)
            for direction, served in _served_by(frozenset(), resource.served_by):
                yield SettingChange("resource", name, direction, served, place=place)
            continue
        for direction, words in _resource_fields(before[name], resource):
            yield SettingChange("resource", name, direction, words, place=place)
    for name, resource in before.items():
        if name not in new.resources:
            words = f"is gone: no token is made for {resource.identifier}"
            yield SettingChange("resource", resource.name, "narrower", words, place=resource.place.problem((), ""))


def _resource_fields(old: Resource, new: Resource) -> Iterator[_Words]:
    if old.name != new.name:
        yield "other", f"was called {old.name}: whoever asks for it by that name is refused"
    if old.identifier != new.identifier:
        yield "other", f"its tokens are for {new.identifier} instead of {old.identifier}: APIs check that"
    yield from _members(old.scopes, new.scopes, "knows the scope {}", "does not know the scope {} any more")
    yield from _grown(old.token_lifetime_seconds, new.token_lifetime_seconds, "a token for it lives up to {}")
    if old.sender_constraint != new.sender_constraint:
        if new.sender_constraint == "none":
            yield "wider", f"whoever has a token for it can use it: it need not be bound by {old.sender_constraint}"
        elif old.sender_constraint == "none":
            yield "narrower", f"a token for it must be bound by {new.sender_constraint}"
        else:
            yield "other", f"a token for it must be bound by {new.sender_constraint} instead of {old.sender_constraint}"
    if old.signing_algorithm != new.signing_algorithm:
        signed = new.signing_algorithm or "the algorithm of the settings"
        yield "other", f"its tokens are signed by {signed} instead of {old.signing_algorithm or 'that of the settings'}"
    yield from _served_by(old.served_by, new.served_by)


def _served_by(old: Collection[str], new: Collection[str]) -> Iterator[_Words]:
    yield from _members(
        old,
        new,
        "{} serves it: may introspect its tokens and pass calls on",
        "{} does not serve it any more: may neither introspect its tokens nor pass calls on",
    )


# ---------------------------------------------------------------- service accounts


def account_changes(old: ServiceAccount, new: ServiceAccount, folders: tuple[str, str]) -> Iterator[SettingChange]:
    """What changed of an account beside its access and its trust rules."""
    place = new.place.problem((), "")
    for direction, words in _account_fields(old, new):
        yield SettingChange("service_account", new.name, direction, words, place=place)
    yield from credential_changes(old, new, folders)


def credential_changes(
    old: ServiceAccount | None, new: ServiceAccount | None, folders: tuple[str, str]
) -> Iterator[SettingChange]:
    """What a client may authenticate with that it could not before, and the reverse. None: the account is not there.

    Tells ids and methods, never a digest of a secret.
    """
    account = new or old
    assert account is not None
    before = (old.registered if old is not None else None) or RegisteredClient(account.name)
    after = (new.registered if new is not None else None) or RegisteredClient(account.name)
    found = [
        *_secret_changes(before.secrets, after.secrets),
        *_client_key_changes(before.keys, after.keys, folders),
        *_certificate_changes(before.certificates, after.certificates),
        *_rotation_changes(_rotation(old), _rotation(new)),
    ]
    for direction, words in found:
        yield SettingChange(
            "credentials", account.name, direction, words, place=account.place.problem(("credentials",), "")
        )


def _account_fields(old: ServiceAccount, new: ServiceAccount) -> Iterator[_Words]:
    if old.rate_limit != new.rate_limit:
        yield _rate_change(old.rate_limit, new.rate_limit)
    if old.template is not None and new.template is not None:
        before = dict(old.template.placeholders)
        for placeholder, path in new.template.placeholders:
            if before.get(placeholder) != path:
                was = path_text(before[placeholder]) if placeholder in before else "nothing"
                words = (
                    f"{{{placeholder}}} is {path_text(path)} instead of {was}: workloads become other accounts of it"
                )
                yield "other", words
    if len(old.access) == 1 and len(new.access) > 1:
        yield "narrower", f"whoever leaves out resource is refused: it has {listed(tuple(new.access))} now"
    elif len(old.access) > 1 and len(new.access) == 1:
        yield "wider", f"resource may be left out: it has {next(iter(new.access))} alone"


def _rate_change(old: RateLimit | None, new: RateLimit | None) -> _Words:
    if old is None or new is None:
        limit = (
            f"{_rate(new)} token requests" if new is not None else "as many token requests as the quota of the settings"
        )
        return "other", f"gets {limit}"
    grew = new.requests * old.period_seconds > old.requests * new.period_seconds
    return "wider" if grew else "narrower", f"gets {_rate(new)} token requests instead of {_rate(old)}"


def _rate(limit: RateLimit) -> str:
    return f"{limit.requests} per {duration_text(limit.period_seconds)}"


def _secret_changes(old: tuple[RegisteredSecret, ...], new: tuple[RegisteredSecret, ...]) -> Iterator[_Words]:
    before, after = ({secret.id: secret for secret in secrets} for secrets in (old, new))
    for name in sorted(after.keys() | before.keys()):
        if name not in before:
            yield "wider", f"the secret {name} lets it in"
        elif name not in after:
            yield "narrower", f"the secret {name} does not let it in any more"
        elif before[name].digest != after[name].digest:
            yield "other", f"the secret {name} has another value"
        elif before[name].expires_at != after[name].expires_at:
            yield _later(name, before[name].expires_at, after[name].expires_at)


def _later(name: str, old: float | None, new: float | None) -> _Words:
    """That a secret ends at another time; None is never."""
    is_later = new is None or (old is not None and new > old)
    return ("wider", f"the secret {name} works longer") if is_later else ("narrower", f"the secret {name} ends earlier")


def _client_key_changes(
    old: RegisteredKeys | None, new: RegisteredKeys | None, folders: tuple[str, str]
) -> Iterator[_Words]:
    if new is None or old is None:
        if new is not None:
            yield "wider", f"keys of {keys_in_words(new.source, folders[1])} let it in (private_key_jwt)"
        elif old is not None:
            yield "narrower", "keys do not let it in any more (private_key_jwt)"
        return
    before, after = keys_in_words(old.source, folders[0]), keys_in_words(new.source, folders[1])
    if before != after:
        yield "other", f"keys of {after} let it in instead of those of {before} (private_key_jwt)"
    elif old.source.jwks != new.source.jwks:
        yield "other", f"{after} has other keys under the same ids (private_key_jwt)"
    yield from _members(
        old.algorithms, new.algorithms, "its signatures by {} are accepted", "its signatures by {} are refused"
    )
    lifetime = "its assertions may live {}"
    yield from _grown(old.max_assertion_lifetime_seconds, new.max_assertion_lifetime_seconds, lifetime)
    if old.accept_token_endpoint_audience != new.accept_token_endpoint_audience:
        may = new.accept_token_endpoint_audience
        yield (
            "wider" if may else "narrower",
            f"its assertions may {'' if may else 'not '}be made for the token endpoint",
        )
    if old.replay != new.replay:
        yield (
            ("wider", "its assertions work any number of times")
            if new.replay == "allow"
            else (
                "narrower",
                "its assertions work once",
            )
        )


def _certificate_changes(
    old: tuple[RegisteredCertificate, ...], new: tuple[RegisteredCertificate, ...]
) -> Iterator[_Words]:
    for certificate in new:
        if certificate not in old:
            yield "wider", f"{certificate_in_words(certificate)} lets it in"
    for certificate in old:
        if certificate not in new:
            yield "narrower", f"{certificate_in_words(certificate)} does not let it in any more"


def _rotation(account: ServiceAccount | None) -> RotationSchedule | None:
    return account.credentials.rotate if account is not None and account.credentials is not None else None


def _rotation_changes(old: RotationSchedule | None, new: RotationSchedule | None) -> Iterator[_Words]:
    if old == new:
        return
    if new is None:
        yield "other", "its secret is not rotated on a schedule any more"
    else:
        stores = listed([store.partition("?")[0] for store in new.to])
        times = f"every {duration_text(new.every)}, with an overlap of {duration_text(new.overlap)}"
        yield "other", f"its secret is rotated {times}, into {stores}"


# ---------------------------------------------------------------- words


def _members(old: Collection[str], new: Collection[str], more: str, fewer: str) -> Iterator[_Words]:
    """What came into a set and what went from it. The words have a place for the names."""
    added, removed = sorted(set(new) - set(old)), sorted(set(old) - set(new))
    if added:
        yield "wider", more.format(listed(added))
    if removed:
        yield "narrower", fewer.format(listed(removed))


def _grown(old: int, new: int, words: str) -> Iterator[_Words]:
    if old != new:
        said = f"{words.format(duration_text(new))} instead of {duration_text(old)}"
        yield "wider" if new > old else "narrower", said


def _relative(name: str, folder: str) -> str:
    """A file of the policies by its name from their folder, so that two copies of a folder name it alike."""
    return name.removeprefix(f"{folder}/") if folder else name
