"""What several presets share: the audiences that other relying parties have made their own, and URL patterns."""

import re

RESERVED_AUDIENCES = frozenset({
    "api://AKSIdentityBinding",
    "aws.workload.identity",
    "azure.workload.identity",
    "crates.io",
    "gcp.workload.identity",
    "https://g.codefresh.io",
    "https://gitlab.com",
    "https://kubernetes.default",
    "https://kubernetes.default.svc",
    "https://kubernetes.default.svc.cluster.local",
    "kubernetes.workload.identity",
    "octo-sts.dev",
    "openshift",
    "pods.eks.amazonaws.com",
    "pypi",
    "rubygems.org",
    "sigstore",
    "sts.amazonaws.com",
    "sts.amazonaws.com.cn",
    "sts.amazonaws.eu",
    "testpypi",
    "vault",
    "vault.workload.identity",
})  # fmt: skip
"""A token with one of these opens a door elsewhere: whoever got it there could use it here, and the reverse."""

_RESERVED_FAMILIES = re.compile(
    r"api://AzureADTokenExchange[A-Za-z]*"  # Entra, and its national clouds
    r"|[a-z0-9.:-]+\.svc\.id\.goog"  # GKE workload identity pools
    r"|(?:https:)?//iam\.googleapis\.com/.+"  # Google Cloud workload identity federation
    r"|https://github\.com/[^/]+"  # GitHub's default: the owner
    r"|https://(?:buildkite|vercel|fly)\.(?:com|io)/[^/]+"
    r"|ari:cloud:bitbucket::workspace/.+"
    r"|npm:.+"
    r"|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}",  # CircleCI's organisation, Entra's application ids
)

HTTPS_URL = r"https://[A-Za-z0-9.-]+(?::[0-9]+)?(?:/[A-Za-z0-9._~/-]*)?"
"""An issuer URL without query, fragment or user name (RFC 8414 §2)."""


def is_reserved_audience(audience: str) -> bool:
    """Whether an audience belongs to a relying party that is known to use it, so that it can never be ours."""
    return audience in RESERVED_AUDIENCES or _RESERVED_FAMILIES.fullmatch(audience) is not None
