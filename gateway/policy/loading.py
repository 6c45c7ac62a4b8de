"""From a folder of policy files to a generation: reading and compiling in one pass."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from gateway.model import KeySource, Preset
from gateway.policy.compiler import compile_documents
from gateway.policy.documents import KINDS, Document
from gateway.policy.files import Sources, locate_problems
from gateway.policy.generation import Generation
from gateway.policy.problems import Place, PolicyProblems, Problem


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
    """The generation of the policy files in a folder (or of one file), checked, compiled, its inline tests passed.

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
        raise PolicyProblems(locate_problems(found.problems), found.left_out) from None
    warnings = (*locate_problems(generation.warnings), *_missing_key_sets(generation))
    return replace(generation, warnings=warnings, sha256=sources.sha256)


@dataclass(frozen=True, slots=True)
class Written:
    """A document as it was written, where it stands, and the folder that its file names are relative to."""

    document: Document
    place: Place
    folder: str


def written_documents(folder: str | Path) -> Iterator[Written]:
    """The documents of a folder as its files say them, one by one, for those who judge or change the text itself.

    Of files that load: a document that is no policy document is left out.
    """
    for source in Sources(Path(folder)).documents([]):
        kind = source.value.get("kind") if isinstance(source.value, dict) else None
        if isinstance(kind, str) and (model := KINDS.get(kind)) is not None:
            place = Place(source.file, source.line, source.number)
            yield Written(model.model_validate(source.value), place, source.folder)


def _missing_key_sets(generation: Generation) -> list[Problem]:
    """Key sets that are to be read from files that are not there. They may come yet: a warning, and no more.

    Other files of an issuer (its CA, its bearer token) are where the gateway runs, not where policies are checked.
    """
    return [
        Problem(issuer.keys.jwks_file, 0, (), f"is not there: the key set of the issuer {issuer.name}")
        for issuer in generation.issuers
        if issuer.keys.jwks_file is not None and not Path(issuer.keys.jwks_file).exists()
    ]
