"""The policy files on disk: which there are, what is in them, and on which line something stands.

The one reader of ``gateway/policy``; together with ``store.py`` the only part of it that does I/O.
"""

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from gateway.policy.documents import SourceDocument
from gateway.policy.isolation import PolicyFile, Reading
from gateway.policy.problems import ConfigurationProblems, Locate, Problem
from gateway.policy.yaml_reader import decoded, lines_of, nearest_line, parse_yaml_document

MAX_FILE_BYTES = 8 * 1024 * 1024
MAX_TOTAL_BYTES = 512 * 1024 * 1024
MAX_FILES = 100_000
MAX_FOLDERS = 10_000
MAX_FOLDER_DEPTH = 16
SUFFIXES = (".yaml", ".yml")

_TOO_LARGE = f"more than {MAX_TOTAL_BYTES // 2**20} MiB of policy files"
_Signature = tuple[tuple[str, int, int, int], ...]


class Sources:
    """The policy files of a folder (or one file), read in order of their names.

    After ``documents`` has run to its end, ``sha256`` names what was read.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._digest = hashlib.sha256()

    @property
    def sha256(self) -> str:
        """Hex digest over the names and the bytes of all files read so far."""
        return self._digest.hexdigest()

    def documents(self, problems: list[Problem]) -> Iterator[SourceDocument]:
        """Every document of every file; what cannot be read is added to ``problems``."""
        files = policy_files(self._folder, problems)
        before = _signature(files)
        found = False
        for file in self._contents(files, problems):
            for one in file.documents(problems):
                found = True
                yield one
        if not found and not problems:
            problems.append(no_documents(self._folder))
        if _signature(files) != before:
            problems.append(Problem(str(self._folder), 0, (), "the files changed while they were read"))

    def read(self) -> Reading:
        """Every file as it is now, held in memory, with what cannot be read by the folder that it lies in."""
        problems: list[Problem] = []
        files = policy_files(self._folder, problems)
        before = _signature(files)
        contents = tuple(self._contents(files, problems))
        if _signature(files) != before:
            problems.append(Problem(str(self._folder), 0, (), "the files changed while they were read"))
        unreadable: dict[str, list[Problem]] = {}
        names = set(map(str, files))
        for problem in problems:
            path = self._path_of(Path(problem.file))
            if problem.file != str(self._folder):
                folder = path.rpartition("/")[0] if problem.file in names else path
                unreadable.setdefault(folder, []).append(problem)
        return Reading(
            root=str(self._folder),
            files=contents,
            unreadable={folder: tuple(told) for folder, told in unreadable.items()},
            problems=tuple(one for one in problems if one.file == str(self._folder)),
        )

    def _path_of(self, file: Path) -> str:
        """As guardrails know it: seen from the policies folder. Links are not followed for it."""
        return file.name if file == self._folder else file.relative_to(self._folder).as_posix()

    def fingerprint(self) -> str:
        """The digest that ``documents`` would end with now. Never raises: what cannot be read makes another one."""
        problems: list[Problem] = []
        for _ in self._contents(policy_files(self._folder, problems), problems):
            pass
        for problem in problems:
            self._digest.update(f"{problem}\0".encode())
        return self.sha256

    def _contents(self, files: list[Path], problems: list[Problem]) -> Iterator[PolicyFile]:
        total = 0
        too_large = _too_large(files)
        problems += [Problem(str(folder), 0, (), _TOO_LARGE) for folder in too_large]
        for file in files:
            if file.parent in too_large:
                continue
            try:
                content = _bytes_of(file)
            except (OSError, ConfigurationProblems) as error:
                problems.extend(_reading_problems(error, str(file)))
                continue
            total += len(content)
            if total > MAX_TOTAL_BYTES:  # they grew while they were read
                problems.append(Problem(str(self._folder), 0, (), _TOO_LARGE))
                return
            read = PolicyFile(str(file), self._path_of(file), str(file.parent.absolute()), content)
            _note(self._digest, read)
            yield read


def digest_of(files: Iterable[PolicyFile]) -> str:
    """The hex digest of files that were read, in this order: what ``Sources`` says of them."""
    digest = hashlib.sha256()
    for one in files:
        _note(digest, one)
    return digest.hexdigest()


def no_documents(folder: Path) -> Problem:
    """That there is nothing in a folder. An empty one is a mount that failed, not a wish to trust nobody."""
    return Problem(str(folder), 0, (), "holds no policy documents (*.yaml, *.yml)")


def _note(digest: "hashlib._Hash", file: PolicyFile) -> None:
    digest.update(f"{file.file}\0{len(file.content)}\0".encode("utf-8", "surrogateescape"))
    digest.update(file.content)


def load_yaml_document(file: Path) -> tuple[Any, Locate]:
    """The one document of a YAML file, and a function from a path to its line.

    Raises ``ConfigurationProblems``.
    """
    try:
        content = _bytes_of(file)
    except OSError as error:
        raise ConfigurationProblems(_reading_problems(error, str(file))) from None
    problems: list[Problem] = []
    text = decoded(content, str(file), problems)
    if problems:
        raise ConfigurationProblems(problems)
    return parse_yaml_document(text, str(file))


def policy_files(folder: Path, problems: list[Problem]) -> list[Path]:
    """The ``*.yaml`` and ``*.yml`` files under a folder, sorted by path; a file stands for itself.

    Hidden names are skipped, and with them the ``..data`` directories of a ConfigMap volume; links are followed.
    """
    try:
        if folder.is_file():
            return [folder]
        if not folder.is_dir():
            problems.append(Problem(str(folder), 0, (), "no such folder"))
            return []
        return _files_in(folder, problems)
    except OSError as error:
        problems.extend(_reading_problems(error, str(folder)))
        return []
    except _TooManyError as too_many:
        problems.append(Problem(str(folder), 0, (), f"more than {too_many}"))
        return []


def policy_text(file: str) -> str | None:
    """The text of a policy file as it is now; None where it cannot be read."""
    try:
        return _bytes_of(Path(file)).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError, ConfigurationProblems):
        return None


def locate_problems(problems: Iterable[Problem], contents: Mapping[str, bytes] | None = None) -> list[Problem]:
    """The same problems on their exact lines: each file concerned is read once more, or looked up in ``contents``."""
    problems = list(problems)
    numbers: dict[str, set[int]] = {}
    for problem in problems:
        if problem.path and problem.line:
            numbers.setdefault(problem.file, set()).add(problem.document)
    lines = {file: _lines_in(file, wanted, contents or {}) for file, wanted in numbers.items()}
    return [_located(problem, lines) for problem in problems]


def _located(problem: Problem, lines: dict[str, dict[int, dict[tuple[str | int, ...], int]]]) -> Problem:
    known = lines.get(problem.file, {}).get(problem.document)
    if not known or not problem.path or not problem.line:
        return problem
    # A fault of the YAML itself already knows its line, which is at or below the one of its path.
    return replace(problem, line=max(problem.line, nearest_line(known, problem.path)))


def _lines_in(
    file: str, wanted: set[int], contents: Mapping[str, bytes]
) -> dict[int, dict[tuple[str | int, ...], int]]:
    try:
        content = contents[file] if file in contents else _bytes_of(Path(file))
        return lines_of(content.decode("utf-8"), wanted)
    except (OSError, UnicodeDecodeError, ConfigurationProblems):
        return {}


class _TooManyError(Exception):
    """More than can be policies: a link leads out of the folder, or links multiply each other."""


_Above = frozenset[tuple[int, int]]
"""The folders around one, by device and inode."""


def _files_in(folder: Path, problems: list[Problem]) -> list[Path]:
    """The policy files of a folder and all below it, links included. Raises ``_TooManyError``.

    Where that is too much, each link to a folder gets an equal share of what there is without links: one that leads out
    into the rest of the machine is what is wrong then, and not all that is beside it.
    """
    walk = _Walk(MAX_FOLDERS, MAX_FILES)
    with contextlib.suppress(_TooManyError):
        walk.enter(folder, frozenset())
        problems += walk.problems
        return walk.found
    links: dict[Path, _Above] = {}
    walk = _Walk(MAX_FOLDERS, MAX_FILES, links)
    walk.enter(folder, frozenset())
    problems += walk.problems
    found = walk.found
    folders, files = MAX_FOLDERS - walk.folders, MAX_FILES - len(walk.found)
    for link, above in links.items():
        walk = _Walk(folders // len(links), files // len(links))
        try:
            walk.enter(link, above)
        except _TooManyError as too_many:
            problems.append(Problem(str(link), 0, (), f"more than {too_many} are behind this link"))
        else:
            problems += walk.problems
            found += walk.found
    return sorted(found, key=lambda file: file.parts)


class _Walk:
    """One way through a folder and all below it."""

    def __init__(self, max_folders: int, max_files: int, links: dict[Path, _Above] | None = None) -> None:
        """With ``links`` those to folders are noted there, and not followed."""
        self.found: list[Path] = []
        """The policy files, sorted."""
        self.problems: list[Problem] = []
        self.folders = 0
        self._max_folders = max_folders
        self._max_files = max_files
        self._links = links

    def enter(self, folder: Path, above: _Above) -> None:
        """Goes through one folder. Raises ``_TooManyError``."""
        self.folders += 1
        if self.folders > self._max_folders:
            raise _TooManyError(f"{self._max_folders} folders")
        try:
            status = folder.stat()
            here = (status.st_dev, status.st_ino)
            with os.scandir(folder) as listing:
                entries = sorted((one.name, one.is_dir()) for one in listing if not one.name.startswith("."))
        except OSError as error:
            self.problems.append(Problem(str(folder), 0, (), f"cannot be read: {error}"))
            return
        if here in above or len(above) >= MAX_FOLDER_DEPTH:
            self.problems.append(Problem(str(folder), 0, (), "a folder within itself, or folders nested too deep"))
            return
        for name, is_folder in entries:
            if is_folder and self._links is not None and (folder / name).is_symlink():
                self._links[folder / name] = above | {here}
            elif is_folder:
                self.enter(folder / name, above | {here})
            elif name.endswith(SUFFIXES):
                self.found.append(folder / name)
                if len(self.found) > self._max_files:
                    raise _TooManyError(f"{self._max_files} policy files")


def _too_large(files: Iterable[Path]) -> set[Path]:
    """The largest folders, by the files in each, where all together are too large: as few as it takes."""
    sizes: dict[Path, int] = {}
    for file in files:
        with contextlib.suppress(OSError):
            sizes[file.parent] = sizes.get(file.parent, 0) + min(file.stat().st_size, MAX_FILE_BYTES)
    total, found = sum(sizes.values()), set()
    for folder in sorted(sizes, key=lambda one: (-sizes[one], one)):
        if total <= MAX_TOTAL_BYTES:
            break
        found.add(folder)
        total -= sizes[folder]
    return found


def _bytes_of(file: Path) -> bytes:
    if not stat.S_ISREG(file.stat().st_mode):  # before it is opened: to open a pipe is to wait
        raise ConfigurationProblems([Problem(str(file), 0, (), "is not a regular file")])
    with file.open("rb", buffering=0) as stream:
        content = stream.read(MAX_FILE_BYTES + 1) or b""
        while 0 < len(content) <= MAX_FILE_BYTES and (more := stream.read(MAX_FILE_BYTES + 1 - len(content))):
            content += more
    if len(content) > MAX_FILE_BYTES:
        raise ConfigurationProblems([Problem(str(file), 0, (), f"is larger than {MAX_FILE_BYTES // 2**20} MiB")])
    return content


def _reading_problems(error: OSError | ConfigurationProblems, file: str) -> list[Problem]:
    if isinstance(error, ConfigurationProblems):
        return list(error.problems)
    return [Problem(file, 0, (), f"cannot be read: {error.strerror or error}")]


def _signature(files: list[Path]) -> _Signature:
    found = []
    for file in files:
        try:
            status = file.stat()
        except OSError:
            continue
        found.append((str(file), status.st_mtime_ns, status.st_size, status.st_ino))
    return tuple(found)
