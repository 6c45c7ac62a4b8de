"""Azure Kubernetes Service: service-account tokens of one cluster. Its URL ends in a slash, which counts."""

from dataclasses import replace

from gateway.identity.presets import kubernetes

_UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"

PRESET = replace(
    kubernetes.PRESET,
    name="aks",
    title="Azure Kubernetes Service",
    url_pattern=(
        rf"https://[a-z0-9-]+\.oic\.prod-aks\.azure\.(?:com|us|cn)/{_UUID}/{_UUID}/"
        rf"|https://oidc\.prod-aks\.azure\.com/{_UUID}/"
    ),
    algorithms=("RS256",),
    sample={
        **kubernetes.PRESET.sample,
        "iss": "https://swedencentral.oic.prod-aks.azure.com"
        "/11111111-2222-4333-8444-555555555555/66666666-7777-4888-8999-aaaaaaaaaaaa/",
    },
    private_network=False,
    reserved_audiences=frozenset({"api://AzureADTokenExchange", "api://AKSIdentityBinding"}),
)
