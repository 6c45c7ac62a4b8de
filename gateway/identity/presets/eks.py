"""Amazon EKS: service-account tokens of one cluster. The cluster's id is in the URL."""

from dataclasses import replace

from gateway.identity.presets import kubernetes

PRESET = replace(
    kubernetes.PRESET,
    name="eks",
    title="Amazon EKS",
    url_pattern=(
        r"https://oidc\.eks\.[a-z0-9-]+\.amazonaws\.com(?:\.cn)?/id/[0-9A-F]{32}"
        r"|https://oidc-eks\.[a-z0-9-]+\.api\.(?:aws|amazonwebservices\.com\.cn)/id/[0-9A-F]{32}"
    ),
    algorithms=("RS256",),
    sample={
        **kubernetes.PRESET.sample,
        "iss": "https://oidc.eks.eu-north-1.amazonaws.com/id/0123456789ABCDEF0123456789ABCDEF",
    },
    private_network=False,
    reserved_audiences=frozenset({"sts.amazonaws.com", "pods.eks.amazonaws.com"}),
)
