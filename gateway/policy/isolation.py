"""A load by folder: what is wrong in one team's folder keeps that folder as it was, and nobody else.

A folder is what the files lie in, beside each other. Those at the top are the organisation's own: with them the whole
load stands or falls. A folder that does not load is held back: its last good files stay, or where there are none it is
left out. Pure: what was read is handed in, and so is what compiles it.
"""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import sha256
from itertools import zip_longest
from typing import Any, NamedTuple, NoReturn

from pydantic import ValidationError

from gateway.policy.documents import KINDS, GuardrailDocument, SourceDocument
from gateway.policy.generation import Generation, ServiceAccount
from gateway.policy.guardrails import TEAM_KINDS, GlobError, parse_folders
from gateway.policy.problems import Path, Place, PolicyProblems, Problem
from gateway.policy.yaml_reader import decoded, lines_of, nearest_line, read_documents

TOP = ""
"""The folder of the organisation's own files."""
MAX_COMPILATIONS = 32
"""How often one load compiles at most until it has found which folders to hold back."""

Claim = tuple[str, str]
"""A kind of document, and a name or an identifier that only one document of that kind can have."""


@dataclass(frozen=True, slots=True)
class PolicyFile:
    """A policy file as it was read: its name, and its path seen from the policies folder."""

    file: str
    path: str
    parent: str
    """What relative file names in it are relative to."""
    content: bytes = field(repr=False)

    @property
    def folder(self) -> str:
        """The folder that it stands or falls with."""
        return self.path.rpartition("/")[0]

    @property
    def order(self) -> list[str]:
        """Where it comes among the others."""
        return self.path.split("/")

    def documents(self, problems: list[Problem]) -> Iterator[SourceDocument]:
        """Its documents, one by one; what cannot be read is added to ``problems``."""
        text = decoded(self.content, self.file, problems)
        for one in read_documents(text, self.file, problems):
            yield SourceDocument(one.value, self.file, one.line, one.number, self.parent, self.path)


Contents = Mapping[str, tuple[PolicyFile, ...]]
"""The files of each folder."""


@dataclass(frozen=True, slots=True)
class Reading:
    """All policy files as they are at one moment."""

    root: str
    files: tuple[PolicyFile, ...]
    unreadable: Mapping[str, tuple[Problem, ...]]
    """For a folder what in it cannot be read; of one that cannot be read itself, nothing below it was."""
    problems: tuple[Problem, ...]
    """What is wrong with the whole."""


@dataclass(frozen=True, slots=True, eq=False)
class InForce:
    """What came of a load by folder, and what the next one falls back on."""

    generation: Generation
    contents: Contents
    """The files that the generation was made from."""
    held_back: Mapping[str, tuple[Problem, ...]]
    """The folders whose files are not in force as they are now, and why."""
    caps: Mapping[str, ServiceAccount]
    """The service accounts of these folders by name, as they were when the folder was last good."""


class Contender(NamedTuple):
    """One of two documents that cannot both be: what it claims, and what is told of it if it has to give way."""

    place: Place
    claim: str
    problem: Problem


@dataclass(frozen=True, slots=True, eq=False)
class Isolation:
    """What the compiler has to know of the folders to tell each what is wrong with it, and not another."""

    folder_by_file: Mapping[str, str]
    established: frozenset[tuple[str, str, str]]
    """Folder, kind and claim: names, identifiers and URLs that a folder has in the generation in force."""
    caps: Mapping[str, ServiceAccount]

    def folder(self, place: Place) -> str:
        """The folder that a document is in."""
        return self.folder_by_file.get(place.file, TOP)

    def to_blame(self, kind: str, first: "Contender", later: "Contender") -> tuple["Contender", ...]:
        """Which of two documents that cannot both be gets told: the one whose folder comes new to what it claims. If
        both do, both: the order of their names must not decide. What is claimed at the top is the organisation's.
        """
        ranks = [self._rank(kind, one) for one in (first, later)]
        return tuple(one for one, rank in zip((first, later), ranks, strict=True) if rank == min(ranks))

    def _rank(self, kind: str, one: "Contender") -> int:
        folder = self.folder(one.place)
        return 2 if folder == TOP else int((folder, kind, one.claim) in self.established)

    def capped(self, account: ServiceAccount) -> ServiceAccount:
        """A service account; of a folder that is held back with no more than it had, whatever its roles give now."""
        cap = self.caps.get(account.name)
        if cap is None:
            return account
        access = _intersection(account.access, cap.access)
        rules = tuple(replace(rule, grants=_intersection(rule.grants, access)) for rule in account.rules)
        return replace(account, access=access, rules=rules)


Compile = Callable[[Sequence[PolicyFile], Isolation | None], Generation]
"""The generation of some files; without isolation, as they would be loaded as a whole. Raises ``PolicyProblems``."""


def load_by_folder(reading: Reading, before: InForce | None, compile_files: Compile) -> InForce:
    """The generation of as many folders as load together, the others held back.

    What is in force of a folder is its new files or its last good ones, never some of each. Nobody gets a scope that
    neither would give: what changed in a folder and refers to what is held back is held back as well, and service
    accounts that are held back get no more than they had. Raises ``PolicyProblems`` where the top does not load, or
    where no folder that did not change could stay as it is.
    """
    return _Load(reading, before, compile_files).run()


def _intersection(
    granted: Mapping[str, tuple[str, ...]], most: Mapping[str, tuple[str, ...]]
) -> dict[str, tuple[str, ...]]:
    both = {name: tuple(one for one in scopes if one in most.get(name, ())) for name, scopes in granted.items()}
    return {name: scopes for name, scopes in both.items() if scopes}


# ---------------------------------------------------------------- one load


class _Load:
    def __init__(self, reading: Reading, before: InForce | None, compile_files: Compile) -> None:
        self._reading = reading
        self._before = before
        self._compile_files = compile_files
        self._new = _by_folder(reading.files)
        self._old: Contents = before.contents if before is not None else {}
        self._chosen: dict[str, tuple[PolicyFile, ...]] = dict(self._new)
        self._changed = [one for one in sorted({*self._new, *self._old}) if self._new.get(one) != self._old.get(one)]
        self._held: dict[str, tuple[Problem, ...]] = {}
        self._compilations_left = MAX_COMPILATIONS
        self._folder_by_file = {
            one.file: folder for contents in (self._old, self._new) for folder in contents for one in contents[folder]
        }
        self._sketches: dict[tuple[str, bool], dict[Claim, _Sketch]] = {}

    def run(self) -> InForce:
        """See ``load_by_folder``."""
        if self._reading.problems or TOP in self._reading.unreadable:
            raise PolicyProblems((*self._reading.problems, *self._unreadable()))
        if TOP in self._old and TOP not in self._new:
            raise PolicyProblems([self._said(TOP, "holds no policy files of its own any more: a mount that failed?")])
        for folder, problems in self._reading.unreadable.items():
            for one in {folder, *(known for known in (*self._new, *self._old) if known.startswith(f"{folder}/"))}:
                self._hold(one, problems)
        generation = self._settled()
        return InForce(generation, self._chosen, dict(sorted(self._held.items())), self._caps())

    def _settled(self) -> Generation:
        """Holds back the folders that are told to be wrong, until the rest loads.

        One team can have its folders go wrong one after the other. So half of what there is to compile is kept, to find
        those that load without it.
        """
        while self._compilations_left > MAX_COMPILATIONS // 2:
            try:
                return self._compiled()
            except PolicyProblems as found:
                told = self._told_by_folder(found)
                wrong = [folder for folder in self._open() if folder in told]
                if None in told:
                    self._refuse(found)
                if not wrong:
                    return self._without_harm(found)
                for folder in wrong:
                    self._hold(folder, told[folder])
        together = [self._said(TOP, "too many changes do not load together: some are held back with others")]
        return self._without_harm(PolicyProblems(together))

    def _without_harm(self, found: PolicyProblems) -> Generation:
        """What changed is right by itself, and yet the top or a folder that stays as it was does not load beside it: as
        many of the changes as do it no harm.
        """
        undecided = self._open()
        for folder in undecided:
            self._put_back(folder)
        try:
            generation = self._compiled()
        except PolicyProblems:
            self._refuse(found)
        groups = _halves(undecided) if len(undecided) > 1 else []
        reasons = dict.fromkeys(undecided, found.problems)
        while groups and self._compilations_left > 0:
            group = groups.pop(0)
            for folder in group:
                self._take_over(folder)
            try:
                generation = self._compiled()
            except PolicyProblems as because:
                for folder in group:
                    self._put_back(folder)
                    reasons[folder] = because.problems
                groups += _halves(group) if len(group) > 1 else []
            else:
                for folder in group:
                    reasons.pop(folder)
        for folder, problems in reasons.items():
            self._hold(folder, problems)
        return generation

    def _refuse(self, found: PolicyProblems, *because: Problem) -> NoReturn:
        """Takes nothing over, and tells all that is wrong with the files as they are, or else what came last."""
        try:
            self._compile_files(self._reading.files, None)
        except PolicyProblems as everything:
            found = everything
        standing = sorted(one for one in self._told_by_folder(found) if one and one not in self._changed)
        more = [
            self._said(TOP, f"nothing is taken over: {one} did not change, yet does not load now") for one in standing
        ]
        raise PolicyProblems((*found.problems, *self._unreadable(), *more, *because), found.left_out) from None

    # ---------------------------------------------------------------- which files of a folder

    def _open(self) -> list[str]:
        """The folders that changed and whose change may still be taken over or held back."""
        return [one for one in self._changed if one != TOP and one not in self._held]

    def _hold(self, folder: str, problems: Sequence[Problem]) -> None:
        self._held[folder] = tuple(problems)
        if folder not in self._old and self._before is None and not self._may_be_left_out(folder):
            words = "cannot be left out at the start: it may hold guardrails, unless one at the top names this folder"
            self._refuse(PolicyProblems(problems), self._said(folder, words))
        self._put_back(folder)

    def _put_back(self, folder: str) -> None:
        if folder in self._old:
            self._chosen[folder] = self._old[folder]
        else:
            self._chosen.pop(folder, None)

    def _take_over(self, folder: str) -> None:
        if folder in self._new:
            self._chosen[folder] = self._new[folder]
        else:
            self._chosen.pop(folder, None)

    def _put_aside(self) -> list[str]:
        """The folders whose new files are not those that are compiled."""
        return [one for one in self._changed if self._chosen.get(one) is not self._new.get(one)]

    def _may_be_left_out(self, folder: str) -> bool:
        """Whether it surely holds no guardrail: without one that was meant, others would have more than was meant."""
        if self._is_kept_from_guardrails(folder):
            return True
        if folder in self._reading.unreadable:
            return False
        problems: list[Problem] = []
        for file in self._new.get(folder, ()):
            for source in file.documents(problems):
                kind = source.value.get("kind") if isinstance(source.value, dict) else None
                if kind not in KINDS or kind == "Guardrail":
                    return False
        return not problems

    def _is_kept_from_guardrails(self, folder: str) -> bool:
        """Whether a guardrail at the top names the folder, and lets its files hold no guardrails."""
        for document in self._guardrails_at_top:
            try:
                folders = parse_folders(document.folders or ())
            except GlobError:
                continue
            paths = [f"{folder}/any.yaml", *(file.path for file in self._new.get(folder, ()))]
            if all(map(folders.cover, paths)) and "Guardrail" not in (document.kinds or TEAM_KINDS):
                return True
        return False

    @cached_property
    def _guardrails_at_top(self) -> list[GuardrailDocument]:
        """Those that can be read. With any other the load fails."""
        found = []
        for file in self._new.get(TOP, ()):
            for source in file.documents([]):
                with contextlib.suppress(ValidationError):
                    found.append(GuardrailDocument.model_validate(source.value))
        return found

    # ---------------------------------------------------------------- compiling

    def _compiled(self) -> Generation:
        """The generation of the files that are chosen. Raises ``PolicyProblems``."""
        if mixed := list(self._mixed()):
            raise PolicyProblems(mixed)
        self._compilations_left -= 1
        files = sorted((one for files in self._chosen.values() for one in files), key=lambda one: one.order)
        return self._compile_files(files, Isolation(self._folder_by_file, self._established, self._caps()))

    def _caps(self) -> dict[str, ServiceAccount]:
        if self._before is None:
            return {}
        aside = set(self._put_aside())
        accounts = self._before.generation.service_accounts.values()
        return {
            account.name: self._before.caps.get(account.name, account)
            for account in accounts
            if self._folder_by_file.get(account.place.file) in aside
        }

    @cached_property
    def _established(self) -> frozenset[tuple[str, str, str]]:
        if self._before is None:
            return frozenset()
        generation = self._before.generation
        claims: list[tuple[Place, str, str]] = []
        claims += [(one.place, "ServiceAccount", name) for name, one in generation.service_accounts.items()]
        claims += [(one.place, "Resource", name) for name, one in generation.resources.items()]
        claims += [(one.place, "Resource", one.identifier) for one in generation.resources.values()]
        claims += [(place, "Role", name) for name, place in generation.role_places.items()]
        claims += [(place, "Issuer", name) for name, place in generation.issuer_places.items()]
        claims += [(generation.issuer_places[one.name], "Issuer", one.url) for one in generation.issuers]
        return frozenset((self._folder_by_file.get(place.file, TOP), kind, claim) for place, kind, claim in claims)

    def _told_by_folder(self, found: PolicyProblems) -> dict[str | None, list[Problem]]:
        """What is wrong, by the folder that it is told of; None for what is told of none."""
        told: dict[str | None, list[Problem]] = {}
        for problem in found.problems:
            told.setdefault(self._folder_by_file.get(problem.file), []).append(problem)
        for file in sorted(found.files):  # of very many problems not all are told
            if (folder := self._folder_by_file.get(file)) not in told:
                told[folder] = [Problem(file, 0, (), "is wrong as well")]
        return told

    def _unreadable(self) -> Iterator[Problem]:
        for problems in self._reading.unreadable.values():
            yield from problems

    def _said(self, folder: str, words: str) -> Problem:
        return Problem(f"{self._reading.root}/{folder}".removesuffix("/"), 0, (), words)

    # ---------------------------------------------------------------- documents that change together

    def _mixed(self) -> Iterator[Problem]:
        """Changed documents that cannot be in force beside what is put aside.

        They refer to something whose change is put aside with it: a role that was narrowed in one folder, and is used
        more widely in another. Together they would give what neither the new files nor the old give. Or they take a
        name that is not free again.
        """
        back, gone = self._put_back_claims(), self._left_out_claims()
        if not back and not gone:
            return
        for folder in self._changed:
            if self._chosen.get(folder) is not self._new.get(folder):
                continue
            for claim in self._changed_in(folder, of_old=False):
                sketch = self._sketch(folder, new=True)[claim]
                if claim in back and back[claim] != folder:
                    words = f"{claim[1]} is that of a {claim[0]} whose change in {back[claim]} is held back"
                    yield sketch.problem(("name",), words)
                for referred, path in self._referred_by(sketch):
                    if (other := back.get(referred) or gone.get(referred)) is not None:
                        words = f"refers to the {referred[0]} {referred[1]}, whose change in {other} is held back"
                        yield sketch.problem(path, words)

    def _put_back_claims(self) -> dict[Claim, str]:
        """What is in force again as it was, by the folder that has it: documents that the new files say otherwise."""
        return {claim: folder for folder in self._put_aside() for claim in self._changed_in(folder, of_old=True)}

    def _left_out_claims(self) -> dict[Claim, str]:
        """What only folders that are put aside would have had."""
        aside = self._put_aside()
        found = {claim: folder for folder in aside for claim in self._changed_in(folder, of_old=False)}
        for folder in self._changed if found else ():
            for claim in self._sketch(folder, new=folder not in aside):
                found.pop(claim, None)
        return {claim: folder for claim, folder in found.items() if claim not in self._standing}

    @cached_property
    def _standing(self) -> frozenset[Claim]:
        """What folders that did not change have."""
        changed = set(self._changed)
        return frozenset((kind, claim) for folder, kind, claim in self._established if folder not in changed)

    def _changed_in(self, folder: str, *, of_old: bool) -> list[Claim]:
        """The documents of a folder before (``of_old``) or now that are not the same at the other time."""
        new, old = self._sketch(folder, new=True), self._sketch(folder, new=False)
        these, others = (old, new) if of_old else (new, old)
        return [claim for claim, one in these.items() if claim not in others or others[claim].digest != one.digest]

    def _sketch(self, folder: str, *, new: bool) -> dict[Claim, "_Sketch"]:
        """The documents of a folder, as far as they can be read."""
        if (folder, new) not in self._sketches:
            contents = self._new if new else self._old
            files = contents.get(folder, ())
            self._sketches[folder, new] = {claim: one for file in files for claim, one in _sketched(file)}
        return self._sketches[folder, new]

    def _referred_by(self, sketch: "_Sketch") -> Iterator[tuple[Claim, Path]]:
        """What a service account or a role gives access by: what it names, and the resources of roles that it names."""
        for claim, path in sketch.references:
            yield claim, path
            if claim[0] == "Role":
                yield from ((resource, path) for resource in self._resources_of(claim))

    def _resources_of(self, role: Claim) -> list[Claim]:
        for folder in self._changed:
            if (sketch := self._sketch(folder, new=True).get(role)) is not None:
                return [claim for claim, _ in sketch.references]
        known = self._before.generation.roles.get(role[1], ()) if self._before is not None else ()
        return [("Resource", name) for name in known]


@dataclass(frozen=True, slots=True)
class _Sketch:
    """Of a document what it is compared by, and what it refers to. Small, for there may be a hundred thousand."""

    digest: bytes
    references: tuple[tuple[Claim, Path], ...]
    file: PolicyFile
    place: Place

    def problem(self, path: Path, words: str) -> Problem:
        """What is wrong at a path of the document, on its exact line."""
        number = self.place.number
        lines = lines_of(decoded(self.file.content, self.file.file, []), {number})[number]
        return replace(self.place.problem(path, words), line=nearest_line(lines, path))


def _sketched(file: PolicyFile) -> Iterator[tuple[Claim, _Sketch]]:
    """What the documents of a file, which may be anything, claim."""
    for source in file.documents([]):
        value = source.value
        kind = value.get("kind") if isinstance(value, dict) else None
        if not isinstance(kind, str) or kind not in KINDS:
            continue
        digest = sha256(json.dumps(value, sort_keys=True).encode()).digest()
        sketch = _Sketch(digest, tuple(_references(value)), file, Place(source.file, source.line, source.number))
        for member in ("name", "identifier") if kind == "Resource" else ("name",):
            if isinstance(value.get(member), str):
                yield (kind, value[member]), sketch


def _references(value: Mapping[str, Any]) -> Iterator[tuple[Claim, Path]]:
    """What a document's access and trust come from, each with its place."""
    if value["kind"] not in {"ServiceAccount", "Role"}:
        return
    for position, role in enumerate(_listed(value.get("roles"))):
        if isinstance(role, str):
            yield ("Role", role), ("roles", position)
    for member, named, kind in (("access", "resource", "Resource"), ("trust", "issuer", "Issuer")):
        for position, one in enumerate(_listed(value.get(member))):
            name = one.get(named) if isinstance(one, dict) else None
            if isinstance(name, str):
                yield (kind, name), (member, position, named)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _by_folder(files: Sequence[PolicyFile]) -> dict[str, tuple[PolicyFile, ...]]:
    found: dict[str, list[PolicyFile]] = {}
    for one in files:
        found.setdefault(one.folder, []).append(one)
    return {folder: tuple(of_folder) for folder, of_folder in found.items()}


def _halves(group: Sequence[str]) -> list[list[str]]:
    """Two parts of some folders. What lies in one folder stays together as long as there is another: it may be one
    team's, and is looked at as such before the folders of others are parted for its sake.
    """
    names = [one.split("/") for one in group]
    depth = next(at for at, parts in enumerate(zip_longest(*names)) if len(set(parts)) > 1)
    within: dict[str, list[str]] = {}
    for folder, parts in zip(group, names, strict=True):
        within.setdefault("".join(parts[depth : depth + 1]), []).append(folder)
    apart = list(within.values())
    middle = len(apart) // 2
    return [[folder for one in some for folder in one] for some in (apart[:middle], apart[middle:])]
