"""The scrape configuration and the alerts, checked by promtool where it is installed."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.deploy.deployment_files import DEPLOY, KUBERNETES, command, yaml_documents

CONFIGURATION = DEPLOY / "prometheus" / "prometheus.yaml"
ALERTS = DEPLOY / "prometheus" / "alerts.yaml"
ALERT_TESTS = Path(__file__).with_name("alerts_test.yaml")

METRICS_IN_ALERTS = frozenset({
    "gateway_audit_failures_total",
    "gateway_clock_steps_back_total",
    "gateway_exchange_stage_seconds_bucket",
    "gateway_exchanges_total",
    "gateway_issuer_key_age_seconds",
    "gateway_issuer_key_fetches_total",
    "gateway_issuer_keys",
    "gateway_issuer_unaccounted_claims_total",
    "gateway_key_store_failures_total",
    "gateway_policy_age_seconds",
    "gateway_policy_folders_held_back",
    "gateway_policy_reload_failures_total",
    "gateway_quota_exceeded_total",
    "gateway_quotas_degraded",
    "gateway_shadow_disagreements_total",
    "gateway_signing_key_age_seconds",
    "gateway_signing_key_next_step_seconds",
    "gateway_state_age_seconds",
})  # fmt: skip
"""Every metric that an alert reads, under the name that a scrape of the gateway gives it."""

(SCRAPE,) = yaml_documents(CONFIGURATION)[0]["scrape_configs"]
RULES = [rule for group in yaml_documents(ALERTS)[0]["groups"] for rule in group["rules"]]


def metrics_in(expression: str) -> set[str]:
    return set(re.findall(r"\bgateway_[a-z_]+", expression))


def promtool(*arguments: object) -> None:
    done = subprocess.run(
        [command("promtool", "prometheus"), *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_accepts_the_scrape_configuration(tmp_path):
    # Debian's promtool is built without the discovery of Kubernetes; all else of the file is checked as it stands.
    configuration = yaml_documents(CONFIGURATION)[0]
    configuration["scrape_configs"][0].pop("kubernetes_sd_configs")
    configuration["scrape_configs"][0]["static_configs"] = [{"targets": ["127.0.0.1:8081"]}]
    (tmp_path / "prometheus.yaml").write_text(yaml.safe_dump(configuration))
    (tmp_path / "alerts.yaml").write_text(ALERTS.read_text())
    promtool("check", "config", tmp_path / "prometheus.yaml")


def test_promtool_accepts_the_alerts():
    promtool("check", "rules", ALERTS)


def test_each_alert_fires_when_it_should_and_none_on_a_healthy_gateway():
    promtool("test", "rules", ALERT_TESTS)


def test_no_alert_is_left_untested():
    tested = set(re.findall(r"\bGateway[A-Za-z]+\b", ALERT_TESTS.read_text()))
    assert tested == {rule["alert"] for rule in RULES}


def test_the_alerts_read_the_metrics_of_the_list_and_no_others():
    assert {metric for rule in RULES for metric in metrics_in(rule["expr"])} == METRICS_IN_ALERTS


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_says_what_is_wrong_and_what_to_do(rule):
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert rule["annotations"].keys() == {"summary", "description"}


def test_prometheus_finds_the_admin_port_of_the_gateways_pods():
    (deployment,) = yaml_documents(KUBERNETES / "deployment.yaml")
    (kustomization,) = yaml_documents(KUBERNETES / "kustomization.yaml")
    (discovery,) = SCRAPE["kubernetes_sd_configs"]
    assert discovery == {"role": "pod", "namespaces": {"names": [kustomization["namespace"]]}}
    template = deployment["spec"]["template"]
    ports = {port["name"] for port in template["spec"]["containers"][0]["ports"]}
    keep = SCRAPE["relabel_configs"][0]
    label, port = keep["regex"].split(";")
    assert keep["action"] == "keep"
    assert template["metadata"]["labels"] == {"app.kubernetes.io/name": label}
    assert port == "admin"
    assert port in ports


def test_the_alerts_name_the_job_that_is_scraped():
    named = set(re.findall(r'job="([^"]*)"', ALERTS.read_text()))
    assert named == {SCRAPE["job_name"]}
