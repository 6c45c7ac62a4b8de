"""The CronJob that rotates client secrets: held against the gateway's own manifests, the command line and the code."""

import re
import subprocess
import sys
from typing import Any

import typer
import typer.main
import yaml

from gateway.cli import client
from gateway.kinds import scheme
from gateway.policy.documents import ServiceAccountDocument
from gateway.rotation.kubernetes import POD_FOLDER
from gateway.rotation.progress import LEASE_SECONDS
from gateway.settings import load_settings
from tests.deploy.deployment_files import KUBERNETES, PROJECT, ROOT, yaml_documents

FILE = KUBERNETES / "rotate-secrets.yaml"
OBJECTS = {document["kind"]: document for document in yaml_documents(FILE)}
JOB = OBJECTS["CronJob"]["spec"]
POD = JOB["jobTemplate"]["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]
ENVIRONMENT = {variable["name"]: variable["value"] for variable in CONTAINER["env"]}
GATEWAY_NAMESPACE = yaml_documents(KUBERNETES / "namespace.yaml")[0]["metadata"]["name"]


def volume(name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(volume for volume in POD["volumes"] if volume["name"] == name)
    return found


def test_each_object_is_of_a_kind_and_version_that_the_api_serves():
    assert {kind: document["apiVersion"] for kind, document in OBJECTS.items()} == {
        "ServiceAccount": "v1",
        "CronJob": "batch/v1",
        "Secret": "v1",
        "Role": "rbac.authorization.k8s.io/v1",
        "RoleBinding": "rbac.authorization.k8s.io/v1",
    }


def test_it_runs_a_command_with_options_that_there_are():
    group, *arguments = CONTAINER["args"]
    assert group == "client"
    application = typer.Typer()
    application.add_typer(client.app, name="client")
    command = typer.main.get_command(client.app).commands[arguments[0]]
    assert command.make_context("rotate", arguments[1:]).params["due"] is True


def test_it_has_the_issuer_and_the_policies_of_the_gateway_and_a_state_that_is_shared(monkeypatch):
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir("/")
    settings, gateway = load_settings(None), load_settings(KUBERNETES / "gateway.yaml")
    assert settings.issuer == gateway.issuer
    assert scheme(settings.state) == "redis"
    mounts = {mount["mountPath"]: mount["name"] for mount in CONTAINER["volumeMounts"]}
    (policies,) = [one for one in yaml_documents(KUBERNETES / "kustomization.yaml")[0]["configMapGenerator"]
                   if one["name"] == volume(mounts[str(settings.policies)])["configMap"]["name"]]  # fmt: skip
    assert policies["options"]["disableNameSuffixHash"] is True  # else it could not be named from here


def test_it_runs_daily_and_never_twice_at_once():
    assert re.fullmatch(r"\d+ \d+ \* \* \*", JOB["schedule"])
    assert JOB["concurrencyPolicy"] == "Forbid"


def test_a_run_that_died_is_repeated_until_its_lease_has_lapsed():
    waits = [10 * 2**attempt for attempt in range(JOB["jobTemplate"]["spec"]["backoffLimit"])]
    assert sum(waits) > LEASE_SECONDS
    assert sum(waits) < JOB["jobTemplate"]["spec"]["activeDeadlineSeconds"]
    assert POD["restartPolicy"] == "Never"


def test_it_may_read_and_patch_the_one_secret_that_the_client_mounts_and_nothing_else():
    (rule,) = OBJECTS["Role"]["rules"]
    secret = OBJECTS["Secret"]["metadata"]
    assert rule == {
        "apiGroups": [""], "resources": ["secrets"], "resourceNames": [secret["name"]], "verbs": ["get", "patch"],
    }  # fmt: skip
    assert OBJECTS["Role"]["metadata"]["namespace"] == secret["namespace"]
    binding, account = OBJECTS["RoleBinding"], OBJECTS["ServiceAccount"]["metadata"]
    assert binding["roleRef"]["name"] == OBJECTS["Role"]["metadata"]["name"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": account["name"], "namespace": GATEWAY_NAMESPACE}]
    assert POD["serviceAccountName"] == account["name"]
    assert account["namespace"] == OBJECTS["CronJob"]["metadata"]["namespace"] == GATEWAY_NAMESPACE


def test_the_policy_in_its_comment_loads_and_names_that_secret():
    lines = FILE.read_text().splitlines()
    snippet = "\n".join(line.removeprefix("#   ") for line in lines if line.startswith("#   "))
    account = ServiceAccountDocument.model_validate(yaml.safe_load(snippet))
    assert account.credentials is not None
    assert account.credentials.rotate is not None
    secret = OBJECTS["Secret"]["metadata"]
    assert account.credentials.rotate.to == (f"kubernetes://{secret['namespace']}/{secret['name']}",)
    assert "data" not in OBJECTS["Secret"]


def test_its_token_lies_where_the_code_looks_for_it():
    mounts = {mount["name"]: mount["mountPath"] for mount in CONTAINER["volumeMounts"]}
    assert mounts["api-server"] == str(POD_FOLDER)
    token, ca = volume("api-server")["projected"]["sources"]
    assert token["serviceAccountToken"]["path"] == "token"
    assert "audience" not in token["serviceAccountToken"]
    assert [item["path"] for item in ca["configMap"]["items"]] == ["ca.crt"]
    assert {mount["name"] for mount in CONTAINER["volumeMounts"]} == {one["name"] for one in POD["volumes"]}


def test_it_keeps_to_the_restricted_profile_and_to_what_the_gateway_runs_as():
    gateway = yaml_documents(KUBERNETES / "deployment.yaml")[0]["spec"]["template"]["spec"]
    for name in ("runAsNonRoot", "runAsUser", "runAsGroup", "seccompProfile"):
        assert POD["securityContext"][name] == gateway["securityContext"][name]
    assert CONTAINER["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    assert POD["automountServiceAccountToken"] is False
    assert POD["enableServiceLinks"] is False
    assert {"cpu", "memory"} <= CONTAINER["resources"]["requests"].keys()
    assert CONTAINER["image"] == f"workload-identity-gateway:{PROJECT['version']}"


def test_with_no_schedule_in_the_policies_it_succeeds(tmp_path):
    (tmp_path / "gateway.yaml").write_text(
        f"issuer: https://sts.example.com\npolicies: {KUBERNETES / 'policies'}\nstate: sqlite://{tmp_path}/state.db\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "gateway", *CONTAINER["args"], "--config", str(tmp_path / "gateway.yaml")],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
