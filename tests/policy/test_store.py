"""The store: whole or not at all, the last good generation serving on."""

import asyncio
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from gateway.policy import store as store_module
from gateway.policy.problems import PolicyProblems
from gateway.policy.store import PolicyStore
from tests.support.policies import BASE, settings, write

GOOD = "kind: ServiceAccount\nname: one\n"
OTHER = "kind: ServiceAccount\nname: two\n"
BROKEN = "kind: ServiceAccount\nname: [\n"
FAILING = """
kind: ServiceAccount
name: three
trust: [{issuer: cluster, match: {sub: x}}]
tests: [{name: t, issuer: cluster, claims: {sub: x}, expect: {deny: no_matching_trust}}]
"""


class Clock:
    """Says what time the test says it is."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def store_of(folder: Path, clock: Clock | None = None) -> PolicyStore:
    arguments = {name: value for name, value in settings().items() if name != "number"}
    return PolicyStore(folder, clock=clock or Clock(), **arguments)


def accounts(store: PolicyStore) -> list[str]:
    return list(store.generation.service_accounts)


@pytest.fixture
def folder(tmp_path):
    write(tmp_path, BASE, "base.yaml")
    return write(tmp_path, GOOD)


def test_there_is_no_generation_before_the_first_load(folder):
    store = store_of(folder)
    assert not store.is_loaded
    with pytest.raises(LookupError):
        _ = store.generation


def test_a_load_puts_the_first_generation_in_force(folder):
    store = store_of(folder)
    assert store.load() is store.generation
    assert (store.generation.number, accounts(store), store.loaded_at) == (1, ["one"], 1000.0)


def test_a_first_load_that_fails_says_why(folder):
    write(folder, BROKEN)
    store = store_of(folder)
    with pytest.raises(PolicyProblems, match="not YAML"):
        store.load()
    assert not store.is_loaded
    assert len(store.last_problems) == 1


async def test_a_reload_counts_the_generation_up(folder):
    clock = Clock()
    store = store_of(folder, clock)
    store.load()
    write(folder, OTHER)
    clock.now = 2000.0
    outcome = await store.reload()
    assert (outcome.result, outcome.number, accounts(store), store.loaded_at) == ("loaded", 2, ["two"], 2000.0)


@pytest.mark.parametrize("text", [BROKEN, FAILING, "kind: Nonsense\n", "a: &x [*x]\n", "\x00"])
async def test_a_bad_file_changes_nothing_and_says_which_line_is_wrong(folder, text):
    store = store_of(folder)
    before = store.load()
    write(folder, text)
    outcome = await store.reload()
    assert (outcome.result, outcome.number) == ("failed", 1)
    assert store.generation is before
    assert store.failed_reloads == 1
    assert store.last_problems == outcome.problems
    assert str(outcome.problems[0]).startswith(f"{folder}/policy.yaml:")
    write(folder, OTHER)
    assert (await store.reload()).number == 2
    assert store.last_problems == ()


async def test_an_emptied_or_vanished_folder_is_a_mistake_and_not_a_wish(folder):
    store = store_of(folder)
    store.load()
    for file in folder.iterdir():
        file.unlink()
    assert (await store.reload()).result == "failed"
    folder.rmdir()
    assert (await store.reload()).result == "failed"
    assert accounts(store) == ["one"]


async def test_unchanged_files_are_not_loaded_again_good_or_bad(folder):
    store = store_of(folder)
    generation = store.load()
    os.utime(folder / "policy.yaml", (0, 0))
    assert (await store.reload_if_changed()).result == "unchanged"
    assert store.generation is generation
    write(folder, BROKEN)
    assert (await store.reload_if_changed()).result == "failed"
    again = await store.reload_if_changed()
    assert (again.result, len(again.problems), store.failed_reloads) == ("unchanged", 1, 1)
    write(folder, GOOD)
    assert (await store.reload_if_changed()).result == "loaded"


async def test_a_file_that_is_repaired_while_it_is_read_is_read_again(folder, monkeypatch):
    store = store_of(folder)
    store.load()
    write(folder, BROKEN)
    real = store_module.load_policies

    def read_too_early(*arguments: Any, **named: Any) -> object:
        try:
            return real(*arguments, **named)
        finally:
            write(folder, OTHER)

    monkeypatch.setattr(store_module, "load_policies", read_too_early)
    assert (await store.reload_if_changed()).result == "failed"
    assert (await store.reload_if_changed()).result == "loaded"
    assert accounts(store) == ["two"]


async def test_a_config_map_is_swapped_by_one_link(tmp_path):
    write(tmp_path / "..1", BASE, "base.yaml")
    write(tmp_path / "..1", GOOD)
    write(tmp_path / "..2", BASE, "base.yaml")
    write(tmp_path / "..2", OTHER)
    (tmp_path / "..data").symlink_to("..1")
    for name in ("base.yaml", "policy.yaml"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    store = store_of(tmp_path)
    store.load()
    assert accounts(store) == ["one"]
    (tmp_path / "..new").symlink_to("..2")
    (tmp_path / "..new").rename(tmp_path / "..data")
    assert (await store.reload_if_changed()).result == "loaded"
    assert accounts(store) == ["two"]


async def test_the_event_loop_goes_on_while_policies_load(folder, monkeypatch):
    store = store_of(folder)
    store.load()
    loading = threading.Event()
    go_on = threading.Event()
    real = store._load

    def held() -> object:
        loading.set()
        assert go_on.wait(10)
        return real()

    monkeypatch.setattr(store, "_load", held)
    reload = asyncio.create_task(store.reload())
    await asyncio.to_thread(loading.wait, 10)
    assert not reload.done()  # and this line runs meanwhile
    assert store.generation.number == 1
    go_on.set()
    assert (await reload).number == 2


async def test_reloads_at_once_happen_one_after_the_other(folder):
    store = store_of(folder)
    store.load()
    outcomes = await asyncio.gather(*(store.reload() for _ in range(4)))
    assert [outcome.number for outcome in outcomes] == [2, 3, 4, 5]
