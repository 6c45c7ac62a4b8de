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
