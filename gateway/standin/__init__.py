"""Local stand-in issuers for ``gateway dev`` and for tests: real documents and signatures, invented workloads."""

from gateway.standin.issuer import StandInIssuer, StandInServer
from gateway.standin.keys import SigningKey
from gateway.standin.platforms import AWS_STS, GITHUB_ACTIONS, GITLAB_CI, KUBERNETES, PLATFORMS, Platform
from gateway.standin.shapes import (
    ABSENT,
    aws_sts_claims,
    github_actions_claims,
    gitlab_ci_claims,
    kubernetes_claims,
)

__all__ = [
    "ABSENT",
    "AWS_STS",
    "GITHUB_ACTIONS",
    "GITLAB_CI",
    "KUBERNETES",
    "PLATFORMS",
    "Platform",
    "SigningKey",
    "StandInIssuer",
    "StandInServer",
    "aws_sts_claims",
    "github_actions_claims",
    "gitlab_ci_claims",
    "kubernetes_claims",
]
