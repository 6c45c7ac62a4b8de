"""Google Kubernetes Engine: service-account tokens of one cluster, named by project, location and cluster."""

from dataclasses import replace

from gateway.identity.presets import kubernetes

PRESET = replace(
    kubernetes.PRESET,
    name="gke",
    title="Google Kubernetes Engine",
    url_pattern=(
        r"https://container\.googleapis\.com/v1/projects/[a-z0-9.:-]+"
        r"/(?:locations|zones)/[a-z0-9-]+/clusters/[a-z0-9-]+"
    ),
    algorithms=("RS256",),
    sample={
        **kubernetes.PRESET.sample,
        "iss": "https://container.googleapis.com/v1/projects/orchard-prod-4411/locations/europe-north1/clusters/main",
    },
    private_network=False,
)
