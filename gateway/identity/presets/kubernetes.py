"""Kubernetes: projected service-account tokens of any cluster. The other Kubernetes presets are made from this one."""

from gateway.identity.presets.common import HTTPS_URL
from gateway.model import ClaimTable, Preset

PRESET = Preset(
    name="kubernetes",
    title="Kubernetes",
    url=None,
    url_pattern=HTTPS_URL,
    algorithms=("RS256", "ES256", "ES384", "ES512"),
    # A token of a Secret (without exp), of the API server itself, or bound to no service account has not all of these.
    claims=ClaimTable(
        required=(
            ("kubernetes.io", "namespace"),
            ("kubernetes.io", "serviceaccount", "name"),
            ("kubernetes.io", "serviceaccount", "uid"),
        ),
        optional=frozenset(),
    ),
    sample={
        "aud": ["https://sts.orchard.example"],
        "exp": 1793613600,
        "iat": 1793610000,
        "iss": "https://kubernetes.default.svc.cluster.local",
        "jti": "2f6c1f0e-53a4-4b0c-9b61-7a2f6a1f8f10",
        "kubernetes.io": {
            "namespace": "billing",
            "node": {"name": "worker-3", "uid": "9d0b6a52-7c5e-4b8d-8a53-0c2c9f8f2f31"},
            "pod": {"name": "invoicer-6c9d7c5b8d-x2k4p", "uid": "0e4a2c0e-7d2b-4a67-9c55-3f7f8f5f6a12"},
            "serviceaccount": {"name": "invoicer", "uid": "5b1f0c7e-2a6f-4e8b-b1d2-6c4a9e7d3f20"},
        },
        "nbf": 1793610000,
        "sub": "system:serviceaccount:billing:invoicer",
    },
    # Namespace is a DNS label, the account's name a DNS subdomain: neither can hold a colon.
    subject_pattern=(
        r"system:serviceaccount"
        r":[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
        r":[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?"
    ),
    # Refuses the API server's default token, which is stretched to a year (claim warnafter).
    max_token_lifetime_seconds=86400,
    max_token_age_seconds=86400,
    private_network=True,  # an API server mostly is on one, often at the cluster's own address
)
