"""The organisation's limits over every team's files: what a document may say, by the folder that it stands in.

Every guardrail only takes away: what one of them refuses no other allows, wherever it is written. Pure.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from gateway.policy.conditions import ManyStars, OneStar, checked_glob, parse_glob
from gateway.policy.documents import KINDS, GuardrailDocument, ResourceDocument, duration_text
from gateway.policy.generation import Resource, ServiceAccount, TrustRule
from gateway.policy.implication import glob_implies
from gateway.policy.problems import Path, Place, Problem, path_text

TEAM_KINDS = tuple(kind for kind in KINDS if kind not in {"Issuer", "Guardrail"})
"""What the files of a folder that a guardrail names may hold unless it says so itself. An issuer decides whose word
counts, a guardrail what others may write: neither is a team's own matter.
"""

AccessWritten = Sequence[tuple[str, Sequence[str]]]
"""Resources and scopes there, in the order of the file."""

_Glob = OneStar | ManyStars
_PLACEHOLDER = re.compile(r"\{[^{}]*\}")
"""What stands for a value in the name of a template. No value has a separator in it, so ``*`` fits them all."""


class GlobError(ValueError):
    """An entry of a list of globs that cannot be used. ``position`` is which."""

    def __init__(self, position: int, message: str) -> None:
        super().__init__(message)
        self.position = position


# ---------------------------------------------------------------- which files


@dataclass(frozen=True, slots=True)
class FolderGlob:
    """A glob over paths. It covers a file that it fits, and all files below a folder that it fits."""

    glob: _Glob
    folded: _Glob
    """The same without regard to upper and lower case."""
    is_of_folders: bool
    """Whether it is about folders alone, as ``teams/storage/**`` is."""


@dataclass(frozen=True, slots=True)
class Folders:
    """Which files a guardrail is about."""

    written: tuple[str, ...]
    globs: tuple[FolderGlob, ...]

    def cover(self, path: str) -> bool:
        """Whether a file is among them: its path seen from the policies folder, its parts separated by ``/``."""
        paths = _path_and_folders(path)
        return any(one.glob.fits(candidate) for one in self.globs for candidate in paths[one.is_of_folders :])

    def differ_in_case(self, path: str) -> str | None:
        """The entry that would cover a file, if upper and lower case were the same; None for one that is covered."""
        if self.cover(path):
            return None
        paths = [_folded(candidate) for candidate in _path_and_folders(path)]
        for written, one in zip(self.written, self.globs, strict=True):
            if any(one.folded.fits(candidate) for candidate in paths[one.is_of_folders :]):
                return written
        return None


def parse_folders(written: Sequence[str]) -> Folders:
    """Globs over files and folders made ready. Raises ``GlobError``."""
    return Folders(tuple(written), tuple(_folder_glob(position, one) for position, one in enumerate(written)))


def _folder_glob(position: int, written: str) -> FolderGlob:
    _check_glob(position, written)
    glob = written
    while glob.endswith(("/", "/**")):
        glob = glob.removesuffix("**").removesuffix("/")
    if {"", ".", ".."} & set(glob.split("/")):
        raise GlobError(position, "is a path seen from the policies folder, such as teams/storage/**")
    # A colon means nothing in a path: without one, * would stop there, and a file with one in its name be left out.
    ready = glob.replace(":", "\0")
    return FolderGlob(parse_glob(ready), parse_glob(_folded(ready)), is_of_folders=glob != written)


def _path_and_folders(path: str) -> list[str]:
    """A path, and the folders around it from the inside out."""
    found = [path.replace(":", "\0")]
    while above := found[-1].rpartition("/")[0]:
        found.append(above)
    return found


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


def parse_globs(written: Sequence[str]) -> tuple[_Glob, ...]:
    """Globs over names or identifiers made ready. Raises ``GlobError``."""
    for position, one in enumerate(written):
        _check_glob(position, one)
    return tuple(map(parse_glob, written))


def _check_glob(position: int, written: str) -> None:
    try:
        checked_glob(written)
    except ValueError as error:
        raise GlobError(position, str(error)) from None


# ---------------------------------------------------------------- the limits


@dataclass(frozen=True, slots=True, eq=False)
class Limits:
    """One guardrail made ready: what it says of the files that it is about."""

    document: GuardrailDocument
    place: Place
    folders: Folders | None
    only_in: Folders | None
    names: tuple[_Glob, ...]
    identifiers: tuple[_Glob, ...]
    pinned_issuers: frozenset[str] | None
    """The issuers whose rules have to fix the pinned claims; None for all."""

    def __str__(self) -> str:
        return f"guardrail {self.document.name}"

    def cover(self, path: str) -> bool:
        """Whether a file is among those that it is about."""
        return self.folders is None or self.folders.cover(path)

    @property
    def kinds(self) -> Sequence[str]:
        """The kinds of documents that its files may hold."""
        if self.document.kinds is not None:
            return self.document.kinds
        return TEAM_KINDS if self.folders is not None else tuple(KINDS)


class Guardrails:
    """The limits of all guardrails over the files of one load."""

    def __init__(self, limits: Iterable[Limits], paths: Mapping[str, str]) -> None:
        """``paths`` has of each file, as places name it, its path seen from the policies folder."""
        self._limits = tuple(limits)
        self._paths = paths
        self._covering: dict[str, tuple[Limits, ...]] = {}

    def of_file(self, file: str) -> tuple[Limits, ...]:
        """The guardrails that a file is under."""
        if file not in self._covering:
            path = self._paths.get(file, "")
            self._covering[file] = tuple(limits for limits in self._limits if limits.cover(path))
        return self._covering[file]

    def about_files(self) -> Iterator[Problem]:
        """Files whose paths escape a guardrail in upper and lower case alone: they look as if they were under it."""
        for file, path in self._paths.items():
            for limits in self._limits:
                entry = limits.folders.differ_in_case(path) if limits.folders is not None else None
                if entry is not None:
                    words = f"lies in {entry} but for upper and lower case: rename it"
                    yield Problem(file, 0, (), f"{words} ({limits})")

    def idle(self) -> Iterator[Problem]:
        """Guardrails that are about no file at all: worth a warning, for they may be misspelt."""
        for limits in self._limits:
            for field, folders in (("folders", limits.folders), ("only_in", limits.only_in)):
                if folders is not None and not any(map(folders.cover, self._paths.values())):
                    yield limits.place.problem((field,), f"no file lies in {', '.join(folders.written)}")

    def about_document(self, kind: str, name: str, place: Place) -> Iterator[Problem]:
        """What is wrong with a document's being there at all, and with its name."""
        for limits in self.of_file(place.file):
            names = limits.document.names
            if kind not in limits.kinds:
                words = f"may not stand here, where files hold {', '.join(limits.kinds)}"
                yield place.problem(("kind",), f"{words} ({limits})")
            if names is not None and not _is_like(name, names, limits.names):
                yield place.problem(("name",), f"has to be like {_one_of(names)} in files here ({limits})")

    def about_resource(self, document: ResourceDocument, place: Place) -> Iterator[Problem]:
        """What is wrong with a resource's being declared there: as whose it is, and for which identifier."""
        for limits in self.of_file(place.file):
            owners, identifiers = limits.document.resource_owners, limits.document.identifiers
            if owners is not None and document.owner not in owners:
                words = f"has to be {_one_of(owners)} of resources declared here"
                yield place.problem(("owner",), f"{words} ({limits})")
            if owners is not None and identifiers is None:
                words = "has to be one that the guardrail allows in identifiers, and it has none"
                yield place.problem(("identifier",), f"{words} ({limits})")
            elif identifiers is not None and not any(glob.fits(document.identifier) for glob in limits.identifiers):
                words = f"has to be like {_one_of(identifiers)} of resources declared here"
                yield place.problem(("identifier",), f"{words} ({limits})")

    def about_access(self, access: AccessWritten, place: Place, resources: Mapping[str, Resource]) -> Iterator[Problem]:
        """What is wrong with the access that a document writes out."""
        for limits in self.of_file(place.file):
            for position, (name, scopes) in enumerate(access):
                path: Path = ("access", position)
                resource = resources.get(name)
                if resource is not None and (words := _not_owned(limits, resource)):
                    yield place.problem((*path, "resource"), words)
                for scope in _kept(limits, self._paths.get(place.file, ""), name, scopes):
                    yield place.problem((*path, "scopes", scopes.index(scope)), _kept_words(limits, name, scope))

    def about_account(
        self,
        account: ServiceAccount,
        own: AccessWritten,
        roles: Mapping[str, AccessWritten],
        resources: Mapping[str, Resource],
    ) -> Iterator[Problem]:
        """What is wrong with a service account: its access (``own``, and what its roles give), trust and lifetime."""
        covering = self.of_file(account.place.file)
        if not covering:
            return
        yield from self.about_access(own, account.place, resources)
        for limits in covering:
            yield from self._about_roles(limits, account, roles, resources)
            for rule in account.rules:
                yield from _about_rule(limits, rule, account.place)
            yield from _about_credentials(limits, account)
            yield from _about_lifetime(limits, account, resources)

    def _about_roles(
        self,
        limits: Limits,
        account: ServiceAccount,
        roles: Mapping[str, AccessWritten],
        resources: Mapping[str, Resource],
    ) -> Iterator[Problem]:
        """What a role gives counts as granted by whoever has it, wherever the role is written."""
        path = self._paths.get(account.place.file, "")
        for position, role in enumerate(account.roles):
            for name, scopes in roles.get(role, ()):
                resource = resources.get(name)
                if resource is not None and (words := _not_owned(limits, resource)):
                    yield account.place.problem(("roles", position), words)
                for scope in _kept(limits, path, name, scopes):
                    yield account.place.problem(("roles", position), _kept_words(limits, name, scope))


def _is_like(name: str, written: Sequence[str], globs: Sequence[_Glob]) -> bool:
    """Whether a name fits one of the globs; of a template, whether every name does that it makes."""
    made = _PLACEHOLDER.sub("*", name)
    if made == name:
        return any(glob.fits(name) for glob in globs)
    return any(glob_implies(made, glob) for glob in written)


def _not_owned(limits: Limits, resource: Resource) -> str:
    owners = limits.document.resource_owners
    if owners is None or resource.owner in owners:
        return ""
    whose = f"belongs to {resource.owner}" if resource.owner is not None else "has no owner"
    return f"{resource.name} {whose}: files here speak of what belongs to {_one_of(owners)} ({limits})"


def _kept(limits: Limits, path: str, resource: str, scopes: Sequence[str]) -> Iterator[str]:
    """Those of the scopes that are kept for other files."""
    if limits.only_in is None or limits.only_in.cover(path):
        return
    for kept in limits.document.access or ():
        if kept.resource == resource:
            yield from (scope for scope in scopes if scope in kept.scopes)


def _kept_words(limits: Limits, resource: str, scope: str) -> str:
    return f"{scope} of {resource} is granted in {_one_of(limits.document.only_in or ())} alone ({limits})"


def _about_rule(limits: Limits, rule: TrustRule, place: Place) -> Iterator[Problem]:
    path: Path = ("trust", rule.position)
    issuers = limits.document.issuers
    if issuers is not None and rule.issuer not in issuers:
        words = f"files here trust {_one_of(issuers)}, not {rule.issuer}"
        yield place.problem((*path, "issuer"), f"{words} ({limits})")
    if limits.pinned_issuers is None or rule.issuer in limits.pinned_issuers:
        fixed = {match.path for match in rule.match}
        for claims in limits.document.pins or ():
            if fixed.isdisjoint(claims):
                words = f"has to fix {_one_of(tuple(map(path_text, claims)))} by match"
                yield place.problem(path, f"{words} ({limits})")


def _about_credentials(limits: Limits, account: ServiceAccount) -> Iterator[Problem]:
    allowed = limits.document.credentials
    if allowed is None or account.credentials is None:
        return
    for field in ("secrets", "keys", "certificates", "rotate"):
        sort = "secrets" if field == "rotate" else field
        if getattr(account.credentials, field) and sort not in allowed:
            words = f"service accounts here have {_one_of(allowed) if allowed else 'no credentials'} of their own"
            yield account.place.problem(("credentials", field), f"{words} ({limits})")


def _about_lifetime(limits: Limits, account: ServiceAccount, resources: Mapping[str, Resource]) -> Iterator[Problem]:
    """A service account is held to the ceiling itself, not only its rules: it may be given a secret at any time, of
    which the files say nothing. A template may not, so there the rules count.
    """
    most = limits.document.max_token_lifetime
    if most is None:
        return
    if account.template is None:
        givers: Iterable[tuple[Path, Iterable[str], int | None]] = [
            ((), account.access, account.token_lifetime_seconds)
        ]
    else:
        givers = [(("trust", rule.position), rule.grants, rule.token_lifetime_seconds) for rule in account.rules]
    for path, access, token_lifetime in givers:
        longest = _longest(access, token_lifetime, resources)
        if longest is not None and longest[0] > most:
            gives = f"tokens for {longest[1]} last {duration_text(longest[0])}: write {duration_text(most)} at most"
            yield account.place.problem((*path, "token_lifetime"), f"{gives} ({limits})")


def _longest(
    access: Iterable[str], token_lifetime: int | None, resources: Mapping[str, Resource]
) -> tuple[int, str] | None:
    """The longest life of a token that can be had, in seconds, and for which resource."""
    found = [(resources[name].token_lifetime_seconds, name) for name in access if name in resources]
    if not found:
        return None
    seconds, name = max(found, key=lambda one: one[0])
    return seconds if token_lifetime is None else min(seconds, token_lifetime), name


def _one_of(names: Sequence[str]) -> str:
    return " or ".join(names)
