"""Policy files as a git revision has them, copied out without running anything of the repository.

Only git's plumbing is called, with fixed arguments: ``rev-parse``, ``ls-tree`` and ``cat-file --batch``. None of them
checks out, filters or converts anything or runs a hook, and what a hostile ``.git/config`` could still have run (to
fetch objects that are missing) is switched off. Names in the repository become files only where they are harmless.
"""

import os
import re
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from gateway.policy.files import MAX_FILE_BYTES, MAX_FILES, MAX_FOLDER_DEPTH, MAX_TOTAL_BYTES, SUFFIXES

MAX_REVISION_CHARACTERS = 256
MAX_LISTING_BYTES = 64 * 1024 * 1024
GIT_SECONDS = 60

_REVISION = re.compile(r"[A-Za-z0-9_.@][A-Za-z0-9_./@{}^~+-]*")
_OPTIONS = (
    "--no-pager",
    "--no-replace-objects",
    "--literal-pathspecs",
    "-c", "core.hooksPath=/dev/null",
    "-c", "core.fsmonitor=false",
)  # fmt: skip
_ENVIRONMENT = {
    # A missing object is missing. Its repository says how to fetch it, and that may be any command: an old git knows
    # only the first of these.
    "GIT_ALLOW_PROTOCOL": "",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_OPTIONAL_LOCKS": "0",
    "LC_ALL": "C",
}
_REGULAR_FILES = frozenset({"100644", "100755"})


class RevisionError(Exception):
    """A revision that cannot be read, in words for whoever named it."""


class NoSuchRevision(RevisionError):
    """There is no such revision, or no repository."""


class Copied(NamedTuple):
    """The policy files of a revision in a folder; ``is_empty`` where the revision has no such folder."""

    folder: Path
    is_empty: bool


@contextmanager
def copied(revision: str, folder: Path, *, repository: Path = Path()) -> Iterator[Copied]:
    """A temporary folder with the policy files of a revision, gone in the end.

    ``revision`` is what git understands, such as ``main``, ``HEAD~1`` or ``v1.2``, with ``:`` and a path in it where
    that is not ``folder``. ``repository`` is a directory within the work tree, which ``folder`` is relative to. Raises
    ``NoSuchRevision`` and ``RevisionError``.
    """
    name, colon, path = revision.partition(":")
    if len(revision) > MAX_REVISION_CHARACTERS or not _REVISION.fullmatch(name):
        raise NoSuchRevision("is not the name of a git revision")
    git = _Git(repository)
    commit = git.commit(name)
    within = _harmless(path) if colon else git.path_of(folder)
    with tempfile.TemporaryDirectory(prefix="gateway-policies-") as made:
        target = Path(made) / "policies"
        target.mkdir()
        found = git.object_at(commit, within)
        if found is None:
            yield Copied(target, is_empty=True)
        elif found.kind == "blob":
            git.write([_Entry(found.mode, found.id, found.size, PurePosixPath(within.name))], target)
            yield Copied(target / within.name, is_empty=False)
        else:
            entries = git.policy_files(found.id)
            git.write(entries, target)
            yield Copied(target, is_empty=not entries)


class _Object(NamedTuple):
    """A line of ``git ls-tree`` about one path."""

    mode: str
    kind: str
    id: str
    size: int


class _Entry(NamedTuple):
    """A file to be written, and its name relative to the folder."""

    mode: str
    id: str
    size: int
    path: PurePosixPath


class _Git:
    """One repository, read by git's plumbing."""

    def __init__(self, repository: Path) -> None:
        self._repository = repository

    def commit(self, name: str) -> str:
        """The id of the commit that a revision names."""
        done = self._run("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
        if done is None:
            raise NoSuchRevision("is neither a file or folder, nor a revision of a git repository here")
        return done.decode("ascii").strip()

    def path_of(self, folder: Path) -> PurePosixPath:
        """A folder of the file system as a path in the repository."""
        top = self._run("rev-parse", "--show-toplevel")
        if top is None:
            raise RevisionError("the git repository has no work tree: say the folder as REVISION:FOLDER")
        root = Path(os.fsdecode(top.removesuffix(b"\n"))).resolve()
        whole = (self._repository / folder).absolute()
        # The parent is resolved, not the folder: in another revision it may be there without being here.
        whole = whole.parent.resolve() / whole.name
        if not whole.is_relative_to(root):
            raise RevisionError(f"{folder} is not in the git repository: say the folder as REVISION:FOLDER")
        return _harmless(whole.relative_to(root).as_posix())

    def object_at(self, commit: str, path: PurePosixPath) -> _Object | None:
        """What stands at a path of a commit; None for nothing."""
        if path == PurePosixPath():
            tree = self._run("rev-parse", "--verify", "--quiet", f"{commit}^{{tree}}")
            return _Object("040000", "tree", (tree or b"").decode("ascii").strip(), 0)
        listing = self._run("ls-tree", "-z", "-l", "--full-tree", commit, "--", str(path))
        if not listing:
            return None
        found, _ = _parsed(listing.removesuffix(b"\0"))
        if found.kind == "tree" or found.mode in _REGULAR_FILES:
            return found
        raise RevisionError(f"{path} is a link there or a repository of its own: neither is followed")

    def policy_files(self, tree: str) -> list[_Entry]:
        """The policy files below a tree; as on disk, hidden names are skipped."""
        entries: list[_Entry] = []
        total = 0
        for line in self._lines("ls-tree", "-r", "-z", "-l", "--full-tree", tree):
            found, name = _parsed(line)
            path = _harmless(name)
            if any(part.startswith(".") for part in path.parts):
                continue
            if found.mode not in _REGULAR_FILES:
                raise RevisionError(f"{path} is a link there or a repository of its own: neither is followed")
            if not path.name.endswith(SUFFIXES):
                continue
            total += found.size
            if found.size > MAX_FILE_BYTES or total > MAX_TOTAL_BYTES or len(entries) == MAX_FILES:
                raise RevisionError(f"{path} and what is before it are more than policies can be")
            entries.append(_Entry(found.mode, found.id, found.size, path))
        return entries

    def write(self, entries: list[_Entry], folder: Path) -> None:
        """Writes the files below a folder, each where none was."""
        with self._started("cat-file", "--batch", stdin=subprocess.PIPE) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            for entry in entries:
                process.stdin.write(entry.id.encode("ascii") + b"\n")
                process.stdin.flush()
                content = _content(process.stdout, entry)
                target = folder / entry.path
                try:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with target.open("xb") as stream:
                        stream.write(content)
                except FileExistsError:  # on a file system that does not tell upper and lower case apart, or forged
                    raise RevisionError(f"{entry.path} stands there twice") from None
                except OSError as error:  # names that are too long; a full disk
                    raise RevisionError(f"{entry.path} cannot be written: {error.strerror}") from None
            process.stdin.close()

    def _run(self, *arguments: str) -> bytes | None:
        """What a git command prints; None where it fails."""
        try:
            done = subprocess.run(  # noqa: S603 - fixed arguments, and no shell
                self._command(arguments),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=GIT_SECONDS,
                env=_environment(),
                check=False,
            )
        except FileNotFoundError:
            raise RevisionError("git is not installed") from None
        except subprocess.TimeoutExpired:
            raise RevisionError(f"git took more than {GIT_SECONDS} seconds") from None
        return done.stdout if done.returncode == 0 else None

    def _lines(self, *arguments: str) -> Iterator[bytes]:
        """What a git command prints, cut at NUL, as far as it is bounded."""
        with self._started(*arguments, stdin=subprocess.DEVNULL) as process:
            assert process.stdout is not None
            listing = process.stdout.read(MAX_LISTING_BYTES + 1)
            if len(listing) > MAX_LISTING_BYTES:
                process.kill()
                raise RevisionError("has more files than policies can be")
        if process.returncode != 0:
            raise RevisionError("cannot be listed: the repository may be incomplete")
        yield from (line for line in listing.split(b"\0") if line)

    @contextmanager
    def _started(self, *arguments: str, stdin: int) -> Iterator[subprocess.Popen[bytes]]:
        try:
            process = subprocess.Popen(  # noqa: S603 - fixed arguments, and no shell
                self._command(arguments),
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=_environment(),
            )
        except FileNotFoundError:
            raise RevisionError("git is not installed") from None
        # A tree whose folders hold each other over and over is walked for ever without a line.
        alarm = threading.Timer(GIT_SECONDS, process.kill)
        alarm.start()
        try:
            with process:
                yield process
        except BrokenPipeError:
            raise RevisionError("git ended early: the repository may be damaged") from None
        finally:
            alarm.cancel()
            process.kill()

    def _command(self, arguments: tuple[str, ...]) -> list[str]:
        return ["git", *_OPTIONS, "-C", str(self._repository), *arguments]


def _environment() -> Mapping[str, str]:
    return {**os.environ, **_ENVIRONMENT}


def _parsed(line: bytes) -> tuple[_Object, str]:
    """A line of ``git ls-tree -z -l``: mode, kind, id, size (``-`` of a tree), TAB, name."""
    about, _, name = line.partition(b"\t")
    mode, kind, id_, size = about.decode("ascii").split()
    return _Object(mode, kind, id_, int(size) if size.isdigit() else 0), os.fsdecode(name)


def _content(stream: IO[bytes], entry: _Entry) -> bytes:
    """One answer of ``git cat-file --batch``."""
    header = stream.readline(256).split()
    if len(header) != 3 or header[1] != b"blob" or int(header[2]) != entry.size:
        raise RevisionError(f"{entry.path} cannot be read: the repository may be incomplete")
    content = stream.read(entry.size)
    if len(content) != entry.size or stream.read(1) != b"\n":
        raise RevisionError(f"{entry.path} cannot be read: the repository may be damaged")
    return content


def _harmless(name: str) -> PurePosixPath:
    """A path that stays where it is joined to. Raises ``RevisionError``."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name or len(path.parts) > MAX_FOLDER_DEPTH:
        raise RevisionError(f"{name!r} is no path of policy files")
    return path
