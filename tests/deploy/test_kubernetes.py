"""No cluster is at hand: the manifests are held against each other, against the settings, and against what the
Pod Security Standards (restricted) and the fields of the API demand."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import typer.main
import yaml
from prometheus_client import CollectorRegistry

from gateway.cli.token import token
from gateway.client.sources import TOKEN_FILE
from gateway.http.admin import admin_application
from gateway.settings import load_settings
from gateway.tokens.signing_key import SigningKey
from gateway.tokens.stores.file import FileKeyStore
from tests.deploy.deployment_files import DEPLOY, KUBERNETES, PROJECT, instructions, yaml_documents
from tests.support.signing import row_of

KUSTOMIZATION = yaml_documents(KUBERNETES / "kustomization.yaml")[0]
OBJECTS = [document for name in KUSTOMIZATION["resources"] for document in yaml_documents(KUBERNETES / name)]
SAMPLE = yaml_documents(KUBERNETES / "sample-client.yaml")
POLICIES = [document for path in sorted((KUBERNETES / "policies").glob("*.yaml")) for document in yaml_documents(path)]
NAME = "workload-identity-gateway"
APP = {"app.kubernetes.io/name": NAME}


def of_kind(kind: str, objects: list[dict[str, Any]] = OBJECTS) -> dict[str, Any]:
    found = [document for document in objects if document["kind"] == kind]
    assert len(found) == 1, f"{len(found)} objects of kind {kind}"
    return found[0]


DEPLOYMENT = of_kind("Deployment")
POD = DEPLOYMENT["spec"]["template"]["spec"]
GATEWAY = POD["containers"][0]
SAMPLE_POD = of_kind("Pod", SAMPLE)["spec"]
PODS = [pytest.param(POD, id="gateway"), pytest.param(SAMPLE_POD, id="sample-client")]


@pytest.fixture(scope="module")
def settings():
    return load_settings(KUBERNETES / "gateway.yaml")


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod.get("initContainers", []), *pod["containers"]]


def volume(pod: dict[str, Any], name: str) -> dict[str, Any]:
    return next(volume for volume in pod["volumes"] if volume["name"] == name)


# ---------------------------------------------------------------- the folder


def test_each_object_is_of_a_kind_and_version_that_the_api_serves():
    served = {
        *(("v1", kind) for kind in ("Namespace", "ServiceAccount", "PersistentVolumeClaim", "Service", "Pod")),
        ("apps/v1", "Deployment"),
        ("policy/v1", "PodDisruptionBudget"),
        ("networking.k8s.io/v1", "NetworkPolicy"),
    }
    for document in OBJECTS + SAMPLE:
        assert (document["apiVersion"], document["kind"]) in served
        assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", document["metadata"]["name"])


def test_each_file_of_the_folder_is_applied():
    generated = {name for generator in KUSTOMIZATION["configMapGenerator"] for name in generator["files"]}
    there = {str(path.relative_to(KUBERNETES)) for path in KUBERNETES.rglob("*") if path.is_file()}
    apart = {"kustomization.yaml", "rotate-secrets.yaml", "sample-client.yaml"}
    assert there == {*KUSTOMIZATION["resources"], *generated, *apart}


def test_every_file_of_the_policies_is_in_their_config_map():
    policies = next(map_ for map_ in KUSTOMIZATION["configMapGenerator"] if map_["name"] == "gateway-policies")
    assert policies["files"] == sorted(f"policies/{path.name}" for path in (KUBERNETES / "policies").iterdir())


def test_changed_policies_are_reloaded_and_changed_settings_roll_out():
    fixed_name = {
        map_["name"]: map_.get("options", {}).get("disableNameSuffixHash", False)
        for map_ in KUSTOMIZATION["configMapGenerator"]
    }
    assert fixed_name == {"gateway-settings": False, "gateway-policies": True}


def test_all_objects_go_into_the_namespace_of_the_kustomization():
    assert KUSTOMIZATION["namespace"] == of_kind("Namespace")["metadata"]["name"]
    assert not [document for document in OBJECTS if "namespace" in document["metadata"]]


def test_images_are_named_by_the_version_of_the_package():
    (image,) = KUSTOMIZATION["images"]
    assert image["newTag"] == PROJECT["version"]
    assert [container["image"] for container in containers(POD)] == [image["name"]]
    for container in containers(SAMPLE_POD):
        assert container["image"] == f"{image['newName']}:{PROJECT['version']}"


# ---------------------------------------------------------------- what belongs together


def test_everything_selects_the_pods_of_the_deployment():
    assert DEPLOYMENT["spec"]["template"]["metadata"]["labels"] == APP
    assert DEPLOYMENT["spec"]["selector"] == {"matchLabels": APP}
    assert of_kind("Service")["spec"]["selector"] == APP
    assert of_kind("PodDisruptionBudget")["spec"]["selector"] == {"matchLabels": APP}
    assert of_kind("NetworkPolicy")["spec"]["podSelector"] == {"matchLabels": APP}


def test_no_pod_of_the_sample_is_taken_for_the_gateway():
    assert of_kind("Pod", SAMPLE)["metadata"]["labels"] != APP


def test_ports_agree_from_the_settings_to_the_service(settings):
    listens = {"http": settings.listen, "admin": settings.admin.listen}
    ports = {port["name"]: port["containerPort"] for port in GATEWAY["ports"]}
    assert listens == {name: f"0.0.0.0:{port}" for name, port in ports.items()}
    exposed = [arguments for word, arguments in instructions(DEPLOY / "Dockerfile") if word == "EXPOSE"]
    assert exposed == [" ".join(str(port) for port in ports.values())]
    assert [port["targetPort"] for port in of_kind("Service")["spec"]["ports"]] == ["http"]


def test_the_admin_port_is_open_to_the_monitoring_namespace_alone():
    public, admin = of_kind("NetworkPolicy")["spec"]["ingress"]
    assert public == {"from": [{"namespaceSelector": {}}], "ports": [{"protocol": "TCP", "port": 8080}]}
    assert admin["ports"] == [{"protocol": "TCP", "port": 8081}]
    (peer,) = admin["from"]
    assert peer == {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}


def test_the_gateway_reaches_names_and_https_and_nothing_else():
    spec = of_kind("NetworkPolicy")["spec"]
    assert set(spec["policyTypes"]) == {"Ingress", "Egress"}
    allowed = {(port["protocol"], port["port"]) for rule in spec["egress"] for port in rule["ports"]}
    assert allowed == {("UDP", 53), ("TCP", 53), ("TCP", 443), ("TCP", 6443)}


@pytest.mark.parametrize(
    ("probe", "path"), [("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")]
)
def test_a_probe_asks_a_route_of_the_admin_listener(probe, path):
    routes = {
        resource.canonical for resource in admin_application(CollectorRegistry(), lambda: (True, {})).router.resources()
    }
    assert GATEWAY[probe]["httpGet"] == {"path": path, "port": "admin"}
    assert path in routes


def test_the_container_runs_what_the_image_runs():
    (command,) = [arguments for word, arguments in instructions(DEPLOY / "Dockerfile") if word == "CMD"]
    assert GATEWAY["args"] == json.loads(command)
    assert "command" not in GATEWAY


# ---------------------------------------------------------------- volumes


@pytest.mark.parametrize("pod", PODS)
def test_every_mount_has_its_volume_and_every_volume_its_mount(pod):
    mounted = {mount["name"] for container in containers(pod) for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}
    for container in containers(pod):
        paths = [mount["mountPath"] for mount in container["volumeMounts"]]
        assert not any(one != other and one.startswith(f"{other}/") for one in paths for other in paths)
        assert not any("subPath" in mount for mount in container["volumeMounts"])


def test_every_volume_has_its_source():
    generated = {map_["name"] for map_ in KUSTOMIZATION["configMapGenerator"]}
    assert {volume["configMap"]["name"] for volume in POD["volumes"] if "configMap" in volume} == generated
    assert (
        volume(POD, "keys")["persistentVolumeClaim"]["claimName"]
        == of_kind("PersistentVolumeClaim")["metadata"]["name"]
    )


def mounted_files(pod: dict[str, Any], container: dict[str, Any]) -> Iterator[str]:
    """Every file that projected volumes put into a container."""
    for mount in container["volumeMounts"]:
        for source in volume(pod, mount["name"]).get("projected", {}).get("sources", []):
            inner = source.get("serviceAccountToken") or source["configMap"]
            for item in inner.get("items", [inner]):
                yield f"{mount['mountPath']}/{item['path']}"


def test_every_path_in_settings_and_policies_is_mounted(settings):
    mounts = {mount["mountPath"]: mount for mount in GATEWAY["volumeMounts"]}
    assert mounts[str(settings.policies)]["name"] == "policies"
    assert mounts[str(Path(GATEWAY["args"][-1]).parent)]["name"] == "settings"
    store = Path(settings.keys.store.removeprefix("file://"))
    assert not mounts[str(store.parent)].get("readOnly", False)
    named = {
        path
        for document in POLICIES
        for setting, path in document.get("keys", {}).items()
        if setting in {"ca_file", "bearer_token_file", "jwks_file"}
    }
    assert named == set(mounted_files(POD, GATEWAY))


def test_only_the_key_store_can_be_written():
    assert [mount["name"] for mount in GATEWAY["volumeMounts"] if not mount.get("readOnly", False)] == ["keys"]


def test_the_audit_log_needs_no_file(settings):
    assert settings.audit.sinks == ["stdout"]


async def test_the_key_store_works_on_a_volume_that_the_kubelet_prepared(tmp_path):
    # With fsGroup the kubelet makes the volume's root writable for the group, and new folders inherit that group.
    volume_root = tmp_path / "gateway"
    volume_root.mkdir()
    volume_root.chmod(0o2775)
    key = SigningKey.generate("ES256", 1_793_610_000)
    assert await FileKeyStore(volume_root / "keys").replace([], [row_of(key)], [key])
    assert [loaded.row.kid for loaded in await FileKeyStore(volume_root / "keys").load()] == [key.kid]


def test_the_kubelet_leaves_the_modes_of_the_key_files_alone():
    # With the default (Always) it opens every file to the group at each mount, which the key store refuses.
    assert POD["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch"


# ---------------------------------------------------------------- tokens of the pods themselves


@pytest.mark.parametrize("pod", PODS)
def test_no_pod_holds_a_token_that_it_did_not_ask_for(pod):
    assert pod["automountServiceAccountToken"] is False
    for objects in (OBJECTS, SAMPLE):
        assert of_kind("ServiceAccount", objects)["automountServiceAccountToken"] is False


def test_the_gateways_own_token_is_for_the_api_server():
    (asked,) = [
        s["serviceAccountToken"]
        for s in volume(POD, "api-server")["projected"]["sources"]
        if len(s) == 1 and "serviceAccountToken" in s
    ]
    assert "audience" not in asked  # the default: the API server
    assert 600 <= asked["expirationSeconds"] <= 3600  # 3607 would make it one that lives for a year


@pytest.mark.parametrize("pod", PODS)
def test_services_do_not_write_into_the_environment(pod):
    assert pod["enableServiceLinks"] is False


def test_the_service_does_not_take_the_name_of_the_settings():
    assert of_kind("Service")["metadata"]["name"] == "workload-identity-gateway"


# ---------------------------------------------------------------- the restricted profile, and more


@pytest.mark.parametrize("pod", PODS)
def test_a_pod_keeps_to_the_restricted_profile(pod):
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in containers(pod):
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert not context.get("privileged", False)
        assert not any("hostPort" in port for port in container.get("ports", []))
    for volume_ in pod["volumes"]:
        (kind,) = volume_.keys() - {"name"}
        assert kind in {"configMap", "projected", "emptyDir", "persistentVolumeClaim"}


@pytest.mark.parametrize("namespace", [of_kind("Namespace"), of_kind("Namespace", SAMPLE)])
def test_a_namespace_enforces_the_restricted_profile(namespace):
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


@pytest.mark.parametrize("pod", PODS)
def test_a_pod_runs_as_the_user_of_the_image(pod):
    (user,) = [arguments for word, arguments in instructions(DEPLOY / "Dockerfile") if word == "USER"]
    context = pod["securityContext"]
    assert f"{context['runAsUser']}:{context['runAsGroup']}" == user
    assert context.get("fsGroup", context["runAsGroup"]) == context["runAsGroup"]


@pytest.mark.parametrize("pod", PODS)
def test_memory_is_bounded_and_asked_for(pod):
    for container in containers(pod):
        assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
        assert "memory" in container["resources"]["limits"]


# ---------------------------------------------------------------- stop and start lose nothing


def test_the_drain_fits_into_the_grace_period(settings):
    drain_seconds = settings.shutdown.delay + settings.shutdown.grace
    assert drain_seconds + 10 <= POD["terminationGracePeriodSeconds"]


def test_nobody_sends_requests_any_more_when_the_listener_closes(settings):
    probe = GATEWAY["readinessProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] <= settings.shutdown.delay


def test_a_rollout_starts_the_new_pod_before_it_stops_the_old():
    assert DEPLOYMENT["spec"]["strategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
    }


def test_pods_that_share_a_volume_of_one_node_run_on_one_node():
    assert of_kind("PersistentVolumeClaim")["spec"]["accessModes"] == ["ReadWriteOnce"]
    (term,) = POD["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert term == {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": APP}}


def test_there_is_one_replica_while_replay_marks_live_in_the_process(settings):
    assert settings.state == "memory://"
    assert DEPLOYMENT["spec"]["replicas"] == 1


def test_a_node_can_be_drained():
    budget = of_kind("PodDisruptionBudget")["spec"]
    assert budget["maxUnavailable"] == 1
    assert "minAvailable" not in budget


# ---------------------------------------------------------------- the sample client


def sample_options() -> dict[str, str]:
    command, *options = SAMPLE_POD["initContainers"][0]["args"]
    assert command == "token"
    return dict(option.removeprefix("--").partition("=")[::2] for option in options)


def test_the_sample_uses_options_that_there_are():
    application = typer.Typer()
    application.command("token")(token)
    command = typer.main.get_command(application)
    parsed = command.make_context("token", SAMPLE_POD["initContainers"][0]["args"][1:]).params
    assert (parsed["source"], parsed["watch"]) == ("file", True)


def test_the_sample_asks_for_a_token_that_the_gateway_accepts(settings):
    (source,) = volume(SAMPLE_POD, "workload-token")["projected"]["sources"]
    assert source["serviceAccountToken"]["audience"] == settings.issuer == sample_options()["gateway"]
    assert source["serviceAccountToken"]["expirationSeconds"] >= 600  # less is refused by the API server


def test_the_sample_reads_and_writes_where_something_is_mounted():
    sidecar, app = containers(SAMPLE_POD)
    assert [sample_options()["file"]] == list(mounted_files(SAMPLE_POD, sidecar)) == [str(TOKEN_FILE)]
    access_token = Path(sample_options()["to-file"])
    for container in (sidecar, app):
        assert str(access_token.parent) in [mount["mountPath"] for mount in container["volumeMounts"]]
    assert volume(SAMPLE_POD, "access-token")["emptyDir"]["medium"] == "Memory"
    assert str(access_token) in sidecar["startupProbe"]["exec"]["command"][-1]
    assert str(access_token) in app["args"][-1]


def test_the_app_of_the_sample_cannot_read_the_workload_token():
    assert [mount["name"] for mount in SAMPLE_POD["containers"][0]["volumeMounts"]] == ["access-token"]


def test_the_app_of_the_sample_shows_the_claims_and_never_the_token(tmp_path):
    file = tmp_path / "token"
    file.write_text("eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJkZW1vLWNsaWVudCJ9.c2lnbmF0dXJl")
    script = SAMPLE_POD["containers"][0]["args"][-1].replace("/var/run/access-token/token", str(file))
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert shown.stdout == '{"sub":"demo-client"}\n'


def test_the_policies_trust_the_sample():
    (account,) = [document for document in POLICIES if document["kind"] == "ServiceAccount"]
    (resource,) = [document for document in POLICIES if document["kind"] == "Resource"]
    pod = of_kind("Pod", SAMPLE)
    subject = f"system:serviceaccount:{pod['metadata']['namespace']}:{pod['spec']['serviceAccountName']}"
    assert [rule["match"] for rule in account["trust"]] == [{"sub": subject}]
    assert sample_options()["client-id"] == account["name"]
    assert sample_options()["resource"] == resource["name"]
    assert sample_options()["scope"] in account["access"][0]["scopes"]


def test_the_sample_goes_into_its_own_namespace():
    namespace = of_kind("Namespace", SAMPLE)["metadata"]["name"]
    assert {document["metadata"]["namespace"] for document in SAMPLE if document["kind"] != "Namespace"} == {namespace}


def test_no_file_needs_a_yaml_feature_that_a_reader_could_take_differently():
    # Anchors, tags and words such as `yes` mean different things to different parsers.
    for path in [*KUBERNETES.rglob("*.yaml")]:
        for token_ in yaml.scan(path.read_text()):
            assert not isinstance(token_, yaml.AnchorToken | yaml.AliasToken | yaml.TagToken), path
