"""``gateway policy new``: a first policy file for one workload, with its tests."""

import json
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import typer

from gateway.cli.policy.files import GatewayIssuerOption, OutputOption, PoliciesOption, PolicyFiles
from gateway.cli.serve import ConfigOption, InsecureHttpOption

if TYPE_CHECKING:
    from gateway.model import Preset
    from gateway.policy.documents import SourceDocument
    from gateway.policy.first_file import FirstFile, Platform, Question
    from gateway.policy.generation import Generation
    from gateway.policy.problems import Problem

STANDARD_OUTPUT = Path("-")
NEW_FILE = "the new file"
"""What problems call a file that is not written yet."""


def new(
    file: Path | None = typer.Argument(
        None, metavar="FILE", help="The file to write; - prints it. Default: NAME.yaml in the folder of policies."
    ),
    platform: str | None = typer.Option(None, metavar="PRESET", help="kubernetes, eks, github-actions, aws-sts, ..."),
    namespace: str | None = typer.Option(None, help="Kubernetes: the pod's namespace."),
    account: str | None = typer.Option(None, help="Kubernetes: the pod's service account."),
    repository: str | None = typer.Option(None, help="GitHub: owner/name."),
    repository_id: str | None = typer.Option(None, help="GitHub: the repository's id."),
    owner_id: str | None = typer.Option(None, help="GitHub: the owner's id."),
    project: str | None = typer.Option(None, help="GitLab: group/name."),
    project_id: str | None = typer.Option(None, help="GitLab: the project's id."),
    namespace_id: str | None = typer.Option(None, help="GitLab: the group's id."),
    role_arn: str | None = typer.Option(None, help="AWS: the role's ARN."),
    subject: str | None = typer.Option(None, help="Other platforms: the sub of its tokens."),
    api: str | None = typer.Option(None, help="The API: a Resource's name, or the identifier of a new one."),
    scope: str | None = typer.Option(None, help="The scopes there, with blanks between them."),
    branch: str | None = typer.Option(None, help="GitHub, GitLab: the one branch that may. Default: main."),
    environment: str | None = typer.Option(None, help="GitHub, GitLab: the environment that the job must name."),
    tokens: str | None = typer.Option(None, help="Kubernetes: pods, or any token. Default: pods."),
    function_arn: str | None = typer.Option(None, help="AWS: the one Lambda function that may."),
    org_id: str | None = typer.Option(None, help="AWS: the organisation's id."),
    claims: str | None = typer.Option(None, help="Other platforms: further claims, name=value, blanks between them."),
    issuer: str | None = typer.Option(None, metavar="NAME", help="The Issuer: one that is there, or what to call it."),
    issuer_url: str | None = typer.Option(None, metavar="URL", help="The iss of the platform's tokens, of a new one."),
    api_name: str | None = typer.Option(None, metavar="NAME", help="What to call a new Resource."),
    name: str | None = typer.Option(None, help="What to call the service account. Default: made from the workload."),
    owner: str | None = typer.Option(None, help="Whom to ask about it."),
    force: bool = typer.Option(False, "--force", help="Write over a file that is there."),
    policies: Path | None = PoliciesOption,
    config: Path | None = ConfigOption,
    gateway_issuer: str = GatewayIssuerOption,
    insecure_http: bool = InsecureHttpOption,
    output: str = OutputOption,
) -> None:
    """Write a first policy file for a workload.

    Asks four questions: the platform, the workload in that platform's own terms, the API with its scopes, and how
    narrow the trust is to be. Options answer them beforehand, for scripts. The file has the trust rule, the access, and
    tests of what must be allowed and what must not; an Issuer or a Resource that the folder has is referred to, another
    one is written. It loads, and its tests pass, or it is not written.

        gateway policy new
        gateway policy new policies/web.yaml --platform github-actions
        gateway policy new - --platform eks --namespace web --account shop --api ledger-api --scope ledger:read
    """
    from gateway.cli.problems import exit_with_problems
    from gateway.policy.problems import ConfigurationProblems

    given = {
        "platform": platform, "namespace": namespace, "account": account, "repository": repository,
        "repository-id": repository_id, "owner-id": owner_id, "project": project, "project-id": project_id,
        "namespace-id": namespace_id, "role-arn": role_arn, "subject": subject, "api": api, "scope": scope,
        "branch": branch, "environment": environment, "function-arn": function_arn, "org-id": org_id,
        "claims": claims, "tokens": tokens, "issuer": issuer, "issuer-url": issuer_url, "api-name": api_name,
        "name": name, "owner": owner,
    }  # fmt: skip
    if output not in {"text", "json"}:
        raise typer.BadParameter("is text or json", param_hint="--output")
    try:
        around = _Around.of(_files(config, policies, gateway_issuer, insecure_http), file, force=force)
        draft = _Interview({name: text for name, text in given.items() if text is not None}, around).draft()
        target = file or around.folder / f"{draft.name}.yaml"  # a name holds no slash
        if target != STANDARD_OUTPUT and target.exists() and not force:
            raise typer.BadParameter(f"{target} is there already: name another file, or --force", param_hint="FILE")
        draft = replace(draft, schema=_schema_for(target, around.folder))
        text = around.proven(draft)
    except ConfigurationProblems as problems:
        exit_with_problems(problems, output)
        return
    if target == STANDARD_OUTPUT:
        print(text, end="")
        return
    _write(target, text, force=force)
    if output == "json":
        told = {"ok": True, "file": str(target), "service_account": draft.name, "issuer": draft.issuer}
        print(json.dumps({**told, "resource": draft.resource, "scopes": list(draft.scopes)}, indent=2))
        return
    print(f"Wrote {target}: {draft.name} may have {', '.join(draft.scopes)} at {draft.resource}. Its tests pass.")
    options = [(option, path) for option, path in (("-p", policies), ("-c", config)) if path is not None]
    where = "".join(f" {option} {shlex.quote(str(path))}" for option, path in options)
    print(f"Read it, then: gateway policy test -k {draft.name}{where}")
    described = Path(os.path.normpath(target.parent / draft.schema))
    if not described.exists():
        print(f"For your editor: gateway policy schema > {shlex.quote(str(described))}")


def _files(config: Path | None, policies: Path | None, gateway_issuer: str, insecure_http: bool) -> PolicyFiles:
    """The folder of the options, which need not be there yet."""
    from gateway.cli.policy.files import policy_files
    from gateway.settings import DEFAULT_FILE

    if policies is None and config is None and not Path(DEFAULT_FILE).exists():
        policies = Path("policies")
    return policy_files(config, policies, gateway_issuer, insecure_http)


def _schema_for(target: Path, folder: Path) -> str:
    """Where the folder's schema lies, seen from the file."""
    if target == STANDARD_OUTPUT:
        return "schema.json"
    try:
        target.resolve().relative_to(folder.resolve())
    except ValueError:
        return "schema.json"
    return Path(os.path.relpath(folder.resolve() / "schema.json", target.resolve().parent)).as_posix()


def _write(target: Path, text: str, *, force: bool) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("w" if force else "x", encoding="utf-8") as stream:
            stream.write(text)
    except OSError as error:
        raise typer.BadParameter(f"{target}: {error.strerror}", param_hint="FILE") from None


# ---------------------------------------------------------------- what is there


class _Around(NamedTuple):
    """The policies beside the file, and their generation, where there are any."""

    files: PolicyFiles
    without: Path | None
    """A file that is written over: it counts no more."""
    generation: "Generation | None"

    @classmethod
    def of(cls, files: PolicyFiles, file: Path | None, *, force: bool) -> "_Around":
        """Raises ``PolicyProblems`` where the policies do not load."""
        without = file.resolve() if force and file is not None and file.exists() else None
        alone = cls(files, without, None)
        return cls(files, without, alone.compiled("") if any(True for _ in alone._documents([])) else None)

    @property
    def folder(self) -> Path:
        """Where a file belongs that nothing is said of."""
        return self.files.folder.parent if self.files.folder.is_file() else self.files.folder

    def compiled(self, text: str, *, keep_tests: bool = False) -> "Generation":
        """The generation of what is there with this text beside it. Raises ``PolicyProblems``."""
        from gateway.identity.presets.common import is_reserved_audience
        from gateway.kinds import PRESETS
        from gateway.policy.compiler import compile_documents
        from gateway.policy.documents import SourceDocument
        from gateway.policy.files import locate_problems
        from gateway.policy.problems import PolicyProblems
        from gateway.policy.yaml_reader import read_documents

        unread: list[Problem] = []
        added = (
            SourceDocument(one.value, NEW_FILE, one.line, one.number, str(self.folder.absolute()))
            for one in read_documents(text, NEW_FILE, unread)
        )
        try:
            return compile_documents(
                chain(self._documents(unread), added),
                presets=PRESETS,
                gateway_issuer=self.files.gateway_issuer,
                insecure_http=self.files.insecure_http,
                number=1,
                is_reserved_audience=is_reserved_audience,
                unread=unread,
                keep_tests=keep_tests,
            )
        except PolicyProblems as found:
            raise PolicyProblems(locate_problems(found.problems), found.left_out) from None

    def _documents(self, unread: "list[Problem]") -> "Iterator[SourceDocument]":
        from gateway.policy.files import Sources, policy_files

        if not self.files.folder.exists() or not policy_files(self.files.folder, []):
            return
        found: list[Problem] = []
        is_empty = True
        for one in Sources(self.files.folder).documents(found):
            is_empty = False
            if not self._is_replaced(one.file):
                yield one
        # That there is no document yet is what the file is to change.
        about_all = str(self.files.folder) if is_empty else None
        unread += [one for one in found if not self._is_replaced(one.file) and one.file != about_all]

    def _is_replaced(self, file: str) -> bool:
        return self.without is not None and Path(file).resolve() == self.without

    def proven(self, draft: "FirstFile") -> str:
        """The file's text, whose tests expect what these policies answer. Raises ``PolicyProblems`` where it does not
        load beside them, or where they let somebody in that must stay out.
        """
        from gateway.policy.policy_tests import play

        generation = self.compiled(draft.text(), keep_tests=True)
        own = [case for case in generation.tests if case.service_account == draft.name]
        reasons = {case.test.name: play(generation, case).reason for case in own if case.test.expect.deny is not None}
        draft = replace(draft, reasons={name: reason for name, reason in reasons.items() if reason != "granted"})
        text = draft.text()
        self.compiled(text)
        return text


# ---------------------------------------------------------------- the questions


class _Interview:
    """Asks what the options do not answer; where nobody is there to answer, says which options are missing."""

    def __init__(self, given: Mapping[str, str], around: _Around) -> None:
        self._given = dict(given)
        self._around = around
        self._missing: list[str] = []
        self._is_attended = sys.stdin.isatty()

    def draft(self) -> "FirstFile":
        """All that goes into the file. Raises ``typer.BadParameter``."""
        from gateway.kinds import PRESETS
        from gateway.policy.first_file import PLATFORMS, POD_BOUND, FirstFile

        self._heading(1, "the platform")
        for preset in PRESETS.values() if self._is_attended and "platform" not in self._given else ():
            typer.echo(f"  {preset.name:16} {preset.title}", err=True)
        name = self._answer("platform", "Platform", _one_of(PLATFORMS))
        if name is None:
            self._missing += [f"--{option}" for option in ("api", "scope") if option not in self._given]
            raise self._unanswered()
        preset, platform = PRESETS[name], PLATFORMS[name]
        self._refuse_foreign(platform, name)
        issuer, issuer_url = self._issuer(preset, platform)
        self._heading(2, "the workload")
        answers = self._answers(platform.workload)
        self._heading(3, "the API and its scopes")
        resource, identifier, scopes = self._access()
        self._heading(4, "how narrow")
        answers |= self._answers(platform.context)
        if self._missing:
            raise self._unanswered()
        shape = platform.shape(answers)
        generation = self._around.generation
        needs_rule_when = shape.pod_bound and issuer_url is None and not _asks_for_a_pod(generation, issuer, preset)
        return FirstFile(
            platform=platform,
            preset=preset,
            shape=shape,
            name=self._account_name(shape.suggested_name),
            issuer=issuer,
            issuer_url=issuer_url,
            resource=resource,
            identifier=identifier,
            scopes=scopes,
            owner=self._checked("owner", _title) if "owner" in self._given else None,
            rule_when=POD_BOUND if needs_rule_when else None,
        )

    def _issuer(self, preset: "Preset", platform: "Platform") -> tuple[str, str | None]:
        """The issuer's name, and its URL where it has to be written."""
        generation = self._around.generation
        there = generation.issuers_by_name if generation is not None else {}
        url, named = self._given.get("issuer-url"), self._given.get("issuer")
        if named is not None and named in there:
            if there[named].preset != preset.name:
                raise typer.BadParameter(f"{named} has the preset {there[named].preset}", param_hint="--issuer")
            if url is not None and there[named].url != url:
                raise typer.BadParameter(f"{named} has the url {there[named].url}", param_hint="--issuer-url")
            return named, None
        of_platform = [
            one.name for one in there.values() if one.preset == preset.name and (url is None or one.url == url)
        ]
        if named is None and len(of_platform) == 1:
            return of_platform[0], None
        if named is None and of_platform:
            chosen = self._answer("issuer", f"Issuer ({', '.join(of_platform)})", _one_of(of_platform))
            return chosen or "", None
        written = preset.url
        if url is not None or written is None:
            where = f" ({platform.where_iss_stands})" if platform.where_iss_stands else ""
            written = self._answer("issuer-url", f"The iss of its tokens{where}", _url_of(preset))
        default = next(name for name in _numbered(platform.issuer_name) if name not in there)
        return (self._checked("issuer", _name) if named is not None else default), written

    def _access(self) -> tuple[str, str | None, tuple[str, ...]]:
        """The resource's name, its identifier where it has to be written, and the scopes."""
        generation = self._around.generation
        there = generation.resources if generation is not None else {}
        known = f"{', '.join(there)}, or the identifier of another one" if there else "its identifier, mostly its URL"
        api = self._answer("api", f"API ({known})", _api_beside(generation, is_named="api-name" in self._given))
        found = generation.resource(api) if generation is not None and api is not None else None
        scopes_there = found.scopes if found is not None else None
        choice = f" ({' '.join(scopes_there)})" if scopes_there is not None else ""
        scope = self._answer("scope", f"Scopes{choice}", _scopes_among(scopes_there))
        scopes = tuple(scope.split(" ")) if scope is not None else ()
        if found is not None:
            if "api-name" in self._given:
                raise typer.BadParameter(f"the Resource is there: {found.name}", param_hint="--api-name")
            return found.name, None, scopes
        name = self._checked("api-name", _name) if "api-name" in self._given else _name_of_identifier(api or "api")
        if name in there:
            raise typer.BadParameter(f"a Resource is called {name}: name another one", param_hint="--api-name")
        return name, api or "", scopes

    def _account_name(self, suggested: str) -> str:
        generation = self._around.generation
        name = self._checked("name", _name) if "name" in self._given else suggested
        other = generation.service_account(name) if generation is not None else None
        if other is not None:
            words = f"a ServiceAccount is called {name} ({other.place.file}): name another one"
            raise typer.BadParameter(words, param_hint="--name")
        return name

    def _answers(self, questions: "Iterable[Question]") -> dict[str, str]:
        answers = {one.name: self._answer(one.name, one.asks, _fits(one), one.default) for one in questions}
        return {name: answer for name, answer in answers.items() if answer}

    def _answer(self, name: str, asks: str, check: Callable[[str], str], default: str | None = None) -> str | None:
        """The checked answer: of the options, or else of whoever is there. None where it is missing, and noted."""
        if name in self._given:
            return self._checked(name, check)
        if not self._is_attended:
            if default is None:
                self._missing.append(f"--{name}")
            return default

        def checked(text: str) -> str:
            return "" if default == "" and not text else check(text)

        answer: str = typer.prompt(
            f"  {asks}", default=default, show_default=bool(default), value_proc=checked, err=True
        )
        return answer

    def _checked(self, name: str, check: Callable[[str], str]) -> str:
        try:
            return check(self._given[name])
        except typer.BadParameter as error:
            raise typer.BadParameter(error.message, param_hint=f"--{name}") from None

    def _refuse_foreign(self, platform: "Platform", name: str) -> None:
        from gateway.policy.first_file import PLATFORMS

        of_any = {question.name for one in PLATFORMS.values() for question in one.questions}
        foreign = (of_any - {question.name for question in platform.questions}) & self._given.keys()
        if foreign:
            told = ", ".join(f"--{option}" for option in sorted(foreign))
            raise typer.BadParameter(f"is of another platform than {name}", param_hint=told)

    def _heading(self, number: int, words: str) -> None:
        if self._is_attended:
            typer.echo(f"{number} of 4: {words}", err=True)

    def _unanswered(self) -> typer.BadParameter:
        return typer.BadParameter(f"give {', '.join(self._missing)}: there is no terminal to ask at")


def _asks_for_a_pod(generation: "Generation | None", issuer: str, preset: "Preset") -> bool:
    """Whether the issuer refuses tokens that are bound to no pod."""
    from gateway.policy.policy_tests import merged

    condition = generation.issuer_conditions.get(issuer) if generation is not None else None
    unbound = merged(preset.sample, {"kubernetes.io": {"pod": None, "node": None}})
    return condition is not None and not condition.holds(unbound, issuer)


# ---------------------------------------------------------------- answers


def _fits(question: "Question") -> Callable[[str], str]:
    def check(text: str) -> str:
        if not re.fullmatch(question.pattern, text):
            raise typer.BadParameter(f"{text!a} is not {question.wanted}")
        return text

    return check


def _one_of(names: Iterable[str]) -> Callable[[str], str]:
    known = tuple(names)

    def check(text: str) -> str:
        from gateway.policy.problems import nearest

        if text not in known:
            near = nearest(text, known)
            hint = f" (did you mean {near}?)" if near else ""
            raise typer.BadParameter(f"{text!a} is none of {', '.join(known)}{hint}")
        return text

    return check


def _url_of(preset: "Preset") -> Callable[[str], str]:
    def check(text: str) -> str:
        _validated("IssuerUrl", text)
        if not re.fullmatch(preset.url_pattern, text):
            raise typer.BadParameter(f"{text!a} does not look like an issuer of {preset.title}")
        return text

    return check


def _scopes_among(known: tuple[str, ...] | None) -> Callable[[str], str]:
    def check(text: str) -> str:
        from gateway.policy.problems import nearest

        scopes = tuple(dict.fromkeys(text.split()))
        if not scopes:
            raise typer.BadParameter("name at least one scope")
        for scope in scopes:
            _validated("Scope", scope)
            if known is not None and scope not in known:
                near = nearest(scope, known)
                hint = f" (did you mean {near}?)" if near else ""
                raise typer.BadParameter(f"{scope!a} is no scope of it: {' '.join(known)}{hint}")
        return " ".join(scopes)

    return check


def _api_beside(generation: "Generation | None", *, is_named: bool) -> Callable[[str], str]:
    """What is no URI and nearly the name of a Resource that is there is taken for a mistake, unless the new one is
    given a name of its own.
    """

    def check(text: str) -> str:
        from gateway.policy.problems import nearest

        _validated("Identifier", text)
        if generation is None or is_named or ":" in text or generation.resource(text) is not None:
            return text
        if near := nearest(text, generation.resources):
            words = f"no Resource is called {text!a} (did you mean {near}?); name a new one with --api-name"
            raise typer.BadParameter(words)
        return text

    return check


def _name(text: str) -> str:
    return _validated("Name", text)


def _title(text: str) -> str:
    if not text.isprintable():
        raise typer.BadParameter("holds characters that cannot be shown")
    return _validated("Title", text)


def _validated(kind: str, text: str) -> str:
    """A text that a file may hold as this type of ``documents``."""
    from pydantic import TypeAdapter, ValidationError

    from gateway.policy import documents

    try:
        TypeAdapter(getattr(documents, kind)).validate_python(text)
    except ValidationError as error:
        raise typer.BadParameter(error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")) from None
    return text


def _name_of_identifier(identifier: str) -> str:
    """``https://ledger.example.com/v2`` reads ``ledger.example.com-v2``."""
    rest = re.sub(r"^[a-z]+://", "", identifier.lower())
    return re.sub(r"[^a-z0-9.]+", "-", rest)[:100].strip("-.") or "api"


def _numbered(name: str) -> Iterable[str]:
    yield name
    for number in range(2, 1_000_000):
        yield f"{name}-{number}"
