"""A bad file changes nothing: the last good generation serves on, and says which line is wrong."""

import itertools
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.faults.load import load
from tests.faults.neighbourhood import Neighbourhood
from tests.faults.observed import metric, readiness
from tests.faults.serving import Serving, real_neighbours, serving
from tests.support.parts import eventually

FAILING_TEST = """
---
kind: ServiceAccount
name: auditor
access: [{resource: ledger-api, scopes: [ledger:read]}]
trust: [{issuer: prod-cluster, match: {sub: "system:serviceaccount:audit:auditor"}}]
tests:
  - name: only the auditor reads
    issuer: prod-cluster
    claims: {sub: "system:serviceaccount:billing:invoicer"}
    expect: {allow: [ledger:read]}
"""
NEWCOMER = "kind: ServiceAccount\nname: newcomer\n"
ANOTHER_ISSUER = """
---
kind: Issuer
name: another
preset: generic
url: https://issuer.example
keys: {{jwks: {}}}
"""


@pytest.fixture
async def around() -> AsyncIterator[Neighbourhood]:
    async with real_neighbours() as found:
        yield found


def put(file: Path, text: str) -> None:
    """Replaces a file by a rename, as careful programs do."""
    new = file.with_name(f".{file.name}.new")
    new.write_text(text)
    new.rename(file)


async def generation(gateway: Serving) -> float:
    return await metric(gateway, "gateway_policy_generation")


async def failed_reloads(gateway: Serving) -> float:
    return await metric(gateway, "gateway_policy_reload_failures_total")


async def until_generation(gateway: Serving, number: float, *, within_seconds: float = 20) -> None:
    async def in_force() -> bool:
        return await generation(gateway) >= number

    await eventually(in_force, within_seconds=within_seconds)


async def until_failed(gateway: Serving, times: float) -> None:
    async def failed() -> bool:
        return await failed_reloads(gateway) >= times

    await eventually(failed)


async def policy_problems(gateway: Serving) -> list[str]:
    """What ``/readyz`` says of the policies, which does not make the gateway unready."""
    status, body = await readiness(gateway)
    assert (status, body["ready"]) == (200, True)
    problems: list[str] = body["policies"]["problems"]
    return problems


async def assert_served(gateway: Serving, around: Neighbourhood) -> None:
    for token in (around.pod_token(), around.job_token()):
        status, body = await gateway.exchange(token, resource="ledger-api")
        assert (status, body.get("reason")) == (200, None)


def line_of(text: str, part: str) -> int:
    return text[: text.index(part)].count("\n") + 1


def unknown_scope(good: str) -> tuple[str, int]:
    text = good.replace("scopes: [deploy:write]", "scopes: [deploy:wirte]")
    return text, line_of(text, "wirte")


def broken_yaml(good: str) -> tuple[str, int]:
    text = good.replace("name: deploy-api", "name: }deploy-api")
    return text, line_of(text, "}deploy-api")


def half_written(good: str) -> tuple[str, int]:
    text = good[: good.rindex("issuer: github") + len("issu")]
    return text, text.count("\n") + 2  # where YAML looked for the rest


def failing_test(good: str) -> tuple[str, int]:
    text = good + FAILING_TEST
    return text, line_of(text, FAILING_TEST) + FAILING_TEST[: FAILING_TEST.index("expect:")].count("\n")


FAULTS: list[tuple[str, Callable[[str], tuple[str, int]]]] = [
    ("an unknown scope", unknown_scope),
    ("broken YAML", broken_yaml),
    ("a half-written file", half_written),
    ("a failing test", failing_test),
]


async def test_bad_policies_change_nothing_and_say_which_line_is_wrong(around: Neighbourhood, tmp_path: Path):
    good = around.policies()
    async with serving(tmp_path, good) as gateway:
        file = tmp_path / "policies" / "policies.yaml"
        for turn, (name, fault) in enumerate(FAULTS):
            bad, line = fault(good)
            put(file, bad)
            gateway.hang_up()
            await until_failed(gateway, turn + 1)
            problems = await policy_problems(gateway)
            assert any(f"{file}:{line}:" in problem for problem in problems), (name, line, problems)
            assert f"{file}:{line}:" in gateway.log_file.read_text()
            assert await generation(gateway) == 1 + turn
            await assert_served(gateway, around)

            put(file, f"{good}# {turn}\n")
            gateway.hang_up()
            await until_generation(gateway, 2 + turn)
            assert await policy_problems(gateway) == []
            await assert_served(gateway, around)
        assert await failed_reloads(gateway) == len(FAULTS)


def empty(folder: Path, aside: Path) -> None:
    (folder / "policies.yaml").rename(aside)


def remove(folder: Path, aside: Path) -> None:
    folder.rename(aside)


def empty_the_file(folder: Path, _aside: Path) -> None:
    put(folder / "policies.yaml", "")


def fill_with_something_else(folder: Path, _aside: Path) -> None:
    (folder / "policies.yaml").write_bytes(b"\xff\xfe\x00kind")


async def test_an_emptied_folder_is_a_mount_that_failed_and_no_wish(around: Neighbourhood, tmp_path: Path):
    async with serving(tmp_path, around.policies()) as gateway:
        folder = tmp_path / "policies"
        for turn, loss in enumerate((empty, remove, empty_the_file, fill_with_something_else)):
            loss(folder, tmp_path / f"aside-{turn}")
            gateway.hang_up()
            await until_failed(gateway, turn + 1)
            assert str(folder) in (await policy_problems(gateway))[0]
            await assert_served(gateway, around)

            folder.mkdir(exist_ok=True)
            put(folder / "policies.yaml", f"{around.policies()}# {turn}\n")
            gateway.hang_up()
            await until_generation(gateway, turn + 2)
            await assert_served(gateway, around)


async def test_sighup_reloads_at_once_what_the_system_does_not_tell_of(around: Neighbourhood, tmp_path: Path):
    """A folder that took another's place is not the one that is watched, and the next look is seconds away."""
    async with serving(tmp_path, around.policies()) as gateway:
        folder = tmp_path / "policies"
        folder.rename(tmp_path / "aside")
        await until_failed(gateway, 1)
        folder.mkdir()
        put(folder / "policies.yaml", around.policies() + "# back\n")
        gateway.hang_up()
        await until_generation(gateway, 2, within_seconds=5)
        await assert_served(gateway, around)


async def test_a_folder_that_went_and_came_back_is_noticed_without_a_signal(
    around: Neighbourhood, tmp_path: Path, full_faults: bool
):
    """The system tells of no change in a folder that is not the one it watched: the gateway looks by itself."""
    if not full_faults:
        pytest.skip("takes as long as the gateway's own look at the folder: make faults")
    async with serving(tmp_path, around.policies()) as gateway:
        folder = tmp_path / "policies"
        folder.rename(tmp_path / "aside")
        await until_failed(gateway, 1)
        folder.mkdir()
        put(folder / "policies.yaml", around.policies() + "# back\n")
        await until_generation(gateway, 2)
        await assert_served(gateway, around)


async def test_changed_files_are_taken_over_without_a_signal(around: Neighbourhood, tmp_path: Path):
    good = around.policies()
    async with serving(tmp_path, good) as gateway:
        file = tmp_path / "policies" / "policies.yaml"
        put(file, good.replace("ledger:write: Write", "ledger:write: Change"))
        await until_generation(gateway, 2)
        with file.open("a") as text:  # in place, as an editor does it
            text.write("---\nkind: Nonsense\n")
        await until_failed(gateway, 1)
        assert any("Nonsense" in problem for problem in await policy_problems(gateway))
        (file.parent / "team").mkdir()
        (file.parent / "team" / "more.yaml").write_text(NEWCOMER)
        put(file, good)
        await until_generation(gateway, 3)
        assert await policy_problems(gateway) == []
        await assert_served(gateway, around)


def swap_config_map(volume: Path, stamp: str, text: str) -> None:
    """Writes a new version as the kubelet does: a fresh timestamped folder, and one rename of the link to it."""
    old = (volume / "..data").resolve() if (volume / "..data").exists() else None
    fresh = volume / f"..{stamp}"
    fresh.mkdir()
    (fresh / "policies.yaml").write_text(text)
    (volume / "..data_tmp").symlink_to(fresh.name)
    (volume / "..data_tmp").rename(volume / "..data")
    if not (volume / "policies.yaml").is_symlink():
        (volume / "policies.yaml").unlink(missing_ok=True)
        (volume / "policies.yaml").symlink_to("..data/policies.yaml")
    if old is not None:
        (old / "policies.yaml").unlink()
        old.rmdir()


async def test_a_config_map_volume_is_followed_through_its_symlink_swaps(around: Neighbourhood, tmp_path: Path):
    good, volume = around.policies(), tmp_path / "volume"
    volume.mkdir()
    swap_config_map(volume, "2026_11_01_10_00_00.1", good)
    async with serving(tmp_path, good, policies=str(volume)) as gateway:
        async with load(gateway.url, around.pod_token) as clients:
            swap_config_map(volume, "2026_11_01_10_05_00.2", good + "# second\n")
            await until_generation(gateway, 2)
            bad, line = failing_test(good)
            swap_config_map(volume, "2026_11_01_10_10_00.3", bad)
            await until_failed(gateway, 1)
            assert any(f"policies.yaml:{line}:" in problem for problem in await policy_problems(gateway))
            swap_config_map(volume, "2026_11_01_10_15_00.4", good + "# fourth\n")
            await until_generation(gateway, 3)
            await clients.more(10)
        assert (clients.broken, clients.refused) == ([], {})
        assert await policy_problems(gateway) == []


async def test_requests_during_hundreds_of_reloads_all_succeed(
    around: Neighbourhood, tmp_path: Path, full_faults: bool
):
    """Good ones, bad ones, and such that change issuers whose tokens are being exchanged."""
    good = around.policies()
    versions = [
        good,
        broken_yaml(good)[0],
        around.policies(cluster="leeway: 20s", github="explain_denials: full"),
        failing_test(good)[0],
        good + ANOTHER_ISSUER.format(json.dumps(around.github.key_set())),
    ]
    reloads = 500 if full_faults else 60
    async with serving(tmp_path, good) as gateway:
        file = tmp_path / "policies" / "policies.yaml"
        kinds = itertools.cycle((around.pod_token, around.job_token))

        def token_of_either_issuer() -> str:
            return next(kinds)()

        async with load(gateway.url, token_of_either_issuer, clients=4) as clients:
            for turn in range(1, reloads + 1):
                put(file, f"{versions[turn % len(versions)]}# {turn}\n")
                gateway.hang_up()

                async def tried(turn: int = turn) -> bool:
                    _, body = await readiness(gateway)
                    policies = body["policies"]
                    return bool(policies["generation"] - 1 + policies["failed_reloads"] >= turn)

                await eventually(tried)
            await clients.more(10)
        assert (clients.broken, clients.refused) == ([], {})
        assert len(clients.tokens) > reloads
        assert await failed_reloads(gateway) == reloads * 2 // 5
        assert around.cluster.fetches["jwks"] == 1
