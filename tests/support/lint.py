"""Lint in tests: what is found in some YAML beside a few issuers and a resource of every day."""

from pathlib import Path

from gateway.identity.presets.common import is_reserved_audience
from gateway.kinds import PRESETS
from gateway.policy.files import locate_problems, policy_files, policy_text
from gateway.policy.lint.base import Finding, Policies
from gateway.policy.lint.linting import Report, lint
from gateway.policy.yaml_reader import read_documents
from tests.support.policies import load

BASE = """
kind: Issuer
name: cluster
preset: kubernetes
url: https://cluster.example.com
when: has(claims["kubernetes.io"].pod)
---
kind: Issuer
name: github
preset: github-actions
replay: reject
---
kind: Issuer
name: gitlab
preset: gitlab-ci
url: https://gitlab.com
---
kind: Issuer
name: aws
preset: aws-sts
url: https://3f0c6a1e-8f3b-4c55-9a1d-0a1b2c3d4e5f.tokens.sts.global.api.aws
---
kind: Issuer
name: ci
url: https://ci.example.com
---
kind: Resource
name: deploy-api
identifier: https://deploy.example.com
scopes: {deploy:read: See what is deployed, deploy:write: Deploy}
token_lifetime: 10m
"""
"""What the examples of the rules speak of, beside what they declare themselves."""


def report_on(folder: Path, text: str) -> Report:
    """What lint says of ``policy.yaml`` with this text, beside those documents of the base that it does not have.

    Raises ``PolicyProblems``.
    """
    own = {(one.value["kind"], one.value["name"]) for one in read_documents(text, "policy.yaml", [])}
    base = [
        document
        for document, one in zip(BASE.split("\n---\n"), read_documents(BASE, "base.yaml", []), strict=True)
        if (one.value["kind"], one.value["name"]) not in own
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "base.yaml").write_text("\n---\n".join(base), encoding="utf-8")
    (folder / "policy.yaml").write_text(text, encoding="utf-8")
    policies = Policies(load(folder, keep_tests=True), PRESETS, is_reserved_audience)
    return lint(policies, map(str, policy_files(folder, [])), policy_text, locate_problems)


def findings_in(folder: Path, text: str) -> list[Finding]:
    """What is found in the file itself."""
    return [one for one in report_on(folder, text).findings if one.problem.file.endswith("policy.yaml")]
