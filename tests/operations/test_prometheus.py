"""A real Prometheus scrapes the admin port; promtool finds nothing to complain about."""

import asyncio
from pathlib import Path

import aiohttp

from tests.attacks.hostile import besieged
from tests.deploy.test_prometheus import METRICS_IN_ALERTS
from tests.support.house import House
from tests.support.parts import eventually, free_port, program


async def test_promtool_finds_the_metrics_clean(house: House):
    promtool = program("promtool", "prometheus")
    await house.gateway.exchange(house.pod_token())
    await house.gateway.exchange(house.pod_token()[:-4] + "AAAA")
    text = await house.gateway.get(f"{house.gateway.admin_url}/metrics")
    process = await asyncio.create_subprocess_exec(
        promtool, "check", "metrics", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    written, _ = await process.communicate(text.encode())
    assert process.returncode == 0, written.decode()
    assert written.decode().strip() == ""


async def test_a_real_prometheus_scrapes_the_admin_port(house: House, tmp_path: Path):
    prometheus = program("prometheus", "prometheus")
    await house.gateway.exchange(house.pod_token())
    target = house.gateway.admin_url.removeprefix("http://")
    configuration = tmp_path / "prometheus.yaml"
    configuration.write_text(
        "global: {scrape_interval: 100ms, scrape_timeout: 100ms}\n"
        f'scrape_configs: [{{job_name: gateway, static_configs: [{{targets: ["{target}"]}}]}}]\n'
    )
    address = f"127.0.0.1:{free_port()}"
    process = await asyncio.create_subprocess_exec(
        prometheus, f"--config.file={configuration}", f"--storage.tsdb.path={tmp_path}/tsdb",
        f"--web.listen-address={address}", stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:

        async def scraped() -> bool:
            query = {"query": 'gateway_exchanges_total{outcome="granted",issuer="prod-cluster"}'}
            try:
                async with house.gateway.session.get(f"http://{address}/api/v1/query", params=query) as answer:
                    result = (await answer.json())["data"]["result"]
            except (aiohttp.ClientError, KeyError):
                return False
            return bool(result) and result[0]["value"][1] == "1"

        await eventually(scraped, within_seconds=30)
    finally:
        process.terminate()
        await process.wait()


async def test_every_metric_that_an_alert_names_is_in_a_scrape(tmp_path: Path):
    (tmp_path / "shadow").mkdir()
    (tmp_path / "shadow" / "empty.yaml").write_text("{kind: Resource, name: a, identifier: b, scopes: {c: d}}")
    keys = {"store": f"file://{tmp_path}/keys", "rotate_every": "7d"}
    async with besieged(tmp_path, policies_shadow=tmp_path / "shadow", keys=keys) as house:
        await house.gateway.exchange(house.pod_token())
        await house.gateway.exchange(house.job_token(claim_that_nobody_knows="x"))
        text = await house.gateway.get(f"{house.gateway.admin_url}/metrics")
    scraped = {line.split("{")[0].split(" ")[0] for line in text.splitlines() if not line.startswith("#")}
    assert scraped >= METRICS_IN_ALERTS
