"""Policies in tests: a folder of files from text, its generation, and requests against it."""

from pathlib import Path
from textwrap import dedent
from typing import Any

from gateway.identity.presets.common import is_reserved_audience
from gateway.kinds import PRESETS
from gateway.model import Decision, GrantType, TokenRequest, Workload
from gateway.policy.compiler import compile_documents
from gateway.policy.decision import decide
from gateway.policy.documents import SourceDocument
from gateway.policy.generation import Generation
from gateway.policy.loading import load_policies
from gateway.policy.problems import PolicyProblems, Problem
from gateway.policy.yaml_reader import read_documents

GATEWAY_ISSUER = "https://sts.example.com"

BASE = """
kind: Issuer
name: cluster
url: https://cluster.example.com
---
kind: Issuer
name: github
preset: github-actions
---
kind: Resource
name: ledger-api
identifier: https://ledger.example.com
scopes: {ledger:read: Read, ledger:write: Write}
---
kind: Resource
name: deploy-api
identifier: https://deploy.example.com
scopes: {deploy:write: Deploy}
token_lifetime: 10m
"""
"""Two issuers and two resources, for tests that are about something else."""


def settings(**overrides: Any) -> dict[str, Any]:
    """The arguments of ``load_policies`` and ``compile_documents`` beside the files."""
    return {
        "presets": PRESETS,
        "gateway_issuer": GATEWAY_ISSUER,
        "insecure_http": False,
        "number": 1,
        "is_reserved_audience": is_reserved_audience,
        **overrides,
    }


def write(folder: Path, text: str, name: str = "policy.yaml") -> Path:
    """A policy file in a folder. Returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(dedent(text).lstrip("\n"), encoding="utf-8")
    return folder


def load(folder: Path, **overrides: Any) -> Generation:
    """The generation of a folder."""
    return load_policies(folder, **settings(**overrides))


def generation_of(*texts: str, base: str = BASE, **overrides: Any) -> Generation:
    """The generation of some YAML, without a file."""
    unread: list[Problem] = []
    text = "\n---\n".join(dedent(one) for one in (base, *texts) if one.strip())
    documents = [
        SourceDocument(one.value, "policy.yaml", one.line, one.number, "/policies")
        for one in read_documents(text, "policy.yaml", unread)
    ]
    return compile_documents(documents, unread=unread, **settings(**overrides))


def problems_of_folder(folder: Path, **overrides: Any) -> list[str]:
    """What is wrong with the policies of a folder, line by line, with file names relative to it."""
    try:
        load(folder, **overrides)
    except PolicyProblems as found:
        return [str(problem).replace(f"{folder}/", "") for problem in found.problems]
    return []


def workload(generation: Generation, issuer: str, claims: dict[str, Any]) -> Workload:
    """A workload whose token of this issuer was verified."""
    trusted = next(one for one in generation.issuers if one.name == issuer)
    return Workload(
        issuer=trusted,
        subject=str(claims.get("sub", "")),
        claims=claims,
        expires_at=0,
        issued_at=None,
        token_id=None,
        token_sha256="",
        key_id=None,
    )


def ask(generation: Generation, issuer: str, claims: dict[str, Any], **asked: Any) -> Decision:
    """The decision for these claims. ``asked``: client_id, resource, scopes, lifetime_seconds."""
    request = TokenRequest(
        grant_type=GrantType.TOKEN_EXCHANGE, token="", token_type="urn:ietf:params:oauth:token-type:jwt", **asked
    )
    return decide(generation, workload(generation, issuer, claims), request)
