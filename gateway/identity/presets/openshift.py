"""OpenShift: service-account tokens of one cluster, whose URL is the API server's or that of a bucket."""

from dataclasses import replace

from gateway.identity.presets import kubernetes

PRESET = replace(
    kubernetes.PRESET,
    name="openshift",
    title="OpenShift",
    algorithms=("RS256",),
    sample={**kubernetes.PRESET.sample, "iss": "https://kubernetes.default.svc"},
    reserved_audiences=frozenset({"openshift"}),
)
