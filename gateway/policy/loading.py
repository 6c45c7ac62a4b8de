"""From a folder of policy files to a generation: reading and compiling in one pass."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from gateway.model import KeySource, Preset
from gateway.policy.compiler import compile_documents
from gateway.policy.documents import SourceDocument
from gateway.policy.files import Sources, digest_of, locate_problems, no_documents
from gateway.policy.generation import Generation
from gateway.policy.isolation import InForce, Isolation, PolicyFile, load_by_folder
from gateway.policy.problems import PolicyProblems, Problem


def load_policies(
    folder: str | Path,
    *,
    presets: Mapping[str, Preset],
    gateway_issuer: str,
    insecure_http: bool,
    number: int,
    is_reserved_audience: Callable[[str], bool],
    key_sources: Mapping[str, KeySource] | None = None,
    keep_tests: bool = False,
) -> Generation:
    """The generation of the policy files in a folder (or of one file), checked, compiled, its tests passed.

    ``key_sources`` replaces the keys of the issuers that it names. With ``keep_tests`` the tests are kept in the
    generation, and not played: for those who look into them. Raises ``PolicyProblems`` with everything that is
    wrong, each with its file and line.
    """
    sources = Sources(Path(folder))
    unread: list[Problem] = []
    try:
        generation = compile_documents(
            sources.documents(unread),
            presets=presets,
            gateway_issuer=gateway_issuer,
            insecure_http=insecure_http,
            number=number,
            is_reserved_audience=is_reserved_audience,
            key_sources=key_sources,
            unread=unread,
            keep_tests=keep_tests,
        )
    except PolicyProblems as found:
        raise PolicyProblems(locate_problems(found.problems), found.left_out, found.files) from None
    warnings = (*locate_problems(generation.warnings), *_missing_key_sets(generation))
    return replace(generation, warnings=warnings, sha256=sources.sha256)


def load_policies_by_folder(
    folder: str | Path,
    before: InForce | None = None,
    *,
    presets: Mapping[str, Preset],
    gateway_issuer: str,
    insecure_http: bool,
    number: int,
    is_reserved_audience: Callable[[str], bool],
    key_sources: Mapping[str, KeySource] | None = None,
) -> InForce:
    """As ``load_policies``, but what is wrong in a folder below the top holds back that folder alone.

    ``before`` is what this gave the last time, None at the start. All files are held in memory. Raises
    ``PolicyProblems`` where nothing can be taken over.
    """

    def compile_files(files: Sequence[PolicyFile], isolation: Isolation | None) -> Generation:
        contents = {one.file: one.content for one in files}
        unread: list[Problem] = []
        try:
            generation = compile_documents(
                _some(Path(folder), (source for one in files for source in one.documents(unread)), unread),
                presets=presets,
                gateway_issuer=gateway_issuer,
                insecure_http=insecure_http,
                number=number,
                is_reserved_audience=is_reserved_audience,
                key_sources=key_sources,
                unread=unread,
                isolation=isolation,
            )
        except PolicyProblems as found:
            located = locate_problems(found.problems, contents)
            raise PolicyProblems(located, found.left_out, found.files) from None
        warnings = (*locate_problems(generation.warnings, contents), *_missing_key_sets(generation))
        return replace(generation, warnings=warnings, sha256=digest_of(files))

    return load_by_folder(Sources(Path(folder)).read(), before, compile_files)


def _some(folder: Path, documents: Iterator[SourceDocument], unread: list[Problem]) -> Iterator[SourceDocument]:
    """The documents as they come; a problem where none does, and nothing else is wrong."""
    found = False
    for one in documents:
        found = True
        yield one
    if not found and not unread:
        unread.append(no_documents(folder))


def _missing_key_sets(generation: Generation) -> list[Problem]:
    """Key sets that are to be read from files that are not there. They may come yet: a warning, and no more.

    Other files of an issuer (its CA, its bearer token) are where the gateway runs, not where policies are checked.
    """
    return [
        Problem(issuer.keys.jwks_file, 0, (), f"is not there: the key set of the issuer {issuer.name}")
        for issuer in generation.issuers
        if issuer.keys.jwks_file is not None and not Path(issuer.keys.jwks_file).exists()
    ]
