"""What a claim tells of other claims: each platform writes some of them into ``sub``, and owners into names. Pure."""

import re
from collections.abc import Callable, Mapping

from gateway.model import ClaimPath
from gateway.policy.lint.facts import Facts, Known, both
from gateway.policy.lint.platforms import ACCOUNT, AWS_ACCOUNT, NAMESPACE, SUB

_Told = dict[ClaimPath, str]
"""Claims and the value, or the glob, that each has."""

_GITHUB = re.compile(
    r"repo:(?P<owner>[^/:@*]+)(?:@(?P<owner_id>[0-9]+))?/(?P<name>[^/:@*]+)(?:@(?P<id>[0-9]+))?(?::(?P<context>.*))?",
    re.DOTALL,
)
_GITHUB_ID = re.compile(r"(?:^|:)(repository_id|repository_owner_id|enterprise_id):([0-9]+)(?=:|$)")
_GITLAB = re.compile(r"project_path:(?P<project>[^:*]+)(?::ref_type:(?P<type>branch|tag):ref:(?P<ref>.+))?", re.DOTALL)
_AWS = re.compile(r"arn:aws[a-z-]*:(?:iam|sts)::(?P<account>[0-9]{12}):.*", re.DOTALL)


def told_by_others(family: str, facts: Facts) -> Facts:
    """What is certain of some claims for what is certain of others."""
    certain: list[Facts] = []
    for path, read in _READERS.get(family, {}).items():
        known = facts.get(path)
        if known is None or not known.present:
            continue
        if (values := known.possible) and all(isinstance(value, str) for value in values):
            certain.append(_common([read(value) for value in values if isinstance(value, str)], exact=True))
        certain += [_common([read(glob) for glob in globs], exact=False) for globs in known.globs]
    return both(*certain)


def _common(told: list[_Told], *, exact: bool) -> Facts:
    """What all of these tell something of."""
    shared = set.intersection(*(set(one) for one in told)) if told else set()
    found: dict[ClaimPath, Known] = {}
    for path in shared:
        texts = tuple(dict.fromkeys(one[path] for one in told))
        if exact or not any("*" in text for text in texts):
            found[path] = Known(values=frozenset(texts), present=True)
        else:
            found[path] = Known(globs=(texts,), present=True)
    return found


def _kubernetes(subject: str) -> _Told:
    parts = subject.split(":")
    if parts[:2] != ["system", "serviceaccount"] or len(parts) < 3:
        return {}
    # A ** may hold a colon: only what stands before any star stands for certain where it stands.
    found = {NAMESPACE: parts[2]} if len(parts) > 3 and "*" not in parts[2] else {}
    if len(parts) == 4 and "*" not in parts[3]:
        found[ACCOUNT] = parts[3]
    return found


def _github(subject: str) -> _Told:
    before_stars, star, _ = subject.partition("*")
    certain = before_stars[: before_stars.rfind(":") + 1] if star else subject
    told: _Told = {(name,): value for name, value in _GITHUB_ID.findall(certain)}
    found = _GITHUB.fullmatch(subject)
    if found is None:
        return told
    told["repository_owner",] = found["owner"]
    told["repository",] = f"{found['owner']}/{found['name']}"
    if found["owner_id"]:
        told["repository_owner_id",] = found["owner_id"]
    if found["id"]:
        told["repository_id",] = found["id"]
    context = found["context"] or ""
    if context.startswith("environment:"):
        told["environment",] = context.removeprefix("environment:").replace("%3A", ":")
    elif context.startswith("ref:refs/"):
        told["ref",] = context.removeprefix("ref:")
    elif context == "pull_request":
        told["event_name",] = "pull_request"
    return told


def _github_owner(repository: str) -> _Told:
    owner, slash, _ = repository.partition("/")
    return {("repository_owner",): owner} if owner and slash and "*" not in owner else {}


def _gitlab(subject: str) -> _Told:
    found = _GITLAB.fullmatch(subject)
    if found is None:
        return {}
    told: _Told = {("project_path",): found["project"]}
    if found["type"]:
        told["ref_type",], told["ref",] = found["type"], found["ref"]
    return told


def _aws(subject: str) -> _Told:
    found = _AWS.fullmatch(subject)
    return {AWS_ACCOUNT: found["account"]} if found is not None else {}


_READERS: Mapping[str, Mapping[ClaimPath, Callable[[str], _Told]]] = {
    "kubernetes": {SUB: _kubernetes},
    "github": {SUB: _github, ("repository",): _github_owner},
    "gitlab": {SUB: _gitlab},
    "aws": {SUB: _aws},
}
