"""Who called, in every log record: threads, tasks, and records that nobody called for."""

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from gateway.resource_server.logging import CallerFilter, set_caller
from tests.resource_server.apis import records
from tests.resource_server.minting import Mint
from tests.support.tokens import ABSENT

MINT = Mint()
CLAIMS = MINT.verifier().verify(MINT.token())
NOBODY = ("-", "-", "-")


def logged(name: str = "any") -> tuple[Any, Any, Any]:
    with records() as kept:
        logging.getLogger(name).info("something happened")
    return kept.of(name)[0]


def test_a_record_that_nobody_called_for_says_so() -> None:
    assert logged() == NOBODY


def test_a_record_names_client_subject_and_actor() -> None:
    set_caller(CLAIMS)
    try:
        assert logged("a.dependency") == (
            "invoicer",
            "invoicer",
            '{"iss":"https://kubernetes.default.svc","sub":"system:serviceaccount:billing:invoicer"}',
        )
    finally:
        set_caller(None)
    assert logged() == NOBODY


def test_a_client_that_is_no_workload_has_no_actor() -> None:
    set_caller(MINT.verifier().verify(MINT.token(act=ABSENT)))
    try:
        assert logged() == ("invoicer", "invoicer", "-")
    finally:
        set_caller(None)


def test_an_attribute_of_the_applications_own_does_not_pass_for_the_caller() -> None:
    record = logging.makeLogRecord({"client_id": "forged", "sub": "forged", "act": "forged"})
    assert CallerFilter().filter(record) is True
    assert (record.client_id, record.sub, record.act) == NOBODY


async def test_tasks_keep_to_themselves() -> None:
    async def request(name: str) -> Any:
        set_caller(MINT.verifier().verify(MINT.token(client_id=name, sub=name)))
        await asyncio.sleep(0)
        return (await asyncio.create_task(begun(name)))[0], (await asyncio.to_thread(logged, name))[0]

    async def begun(name: str) -> Any:
        return logged(name)

    answers = await asyncio.gather(*(request(f"client-{number}") for number in range(5)))
    assert answers == [(f"client-{number}", f"client-{number}") for number in range(5)]
    assert logged() == NOBODY


def test_threads_keep_to_themselves() -> None:
    def request(name: str) -> Any:
        set_caller(MINT.verifier().verify(MINT.token(client_id=name, sub=name)))
        try:
            return logged(name)[0]
        finally:
            set_caller(None)

    names = [f"client-{number}" for number in range(8)]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(request, names)) == names


def test_the_format_that_the_documentation_shows_works() -> None:
    handler = logging.StreamHandler()
    handler.addFilter(CallerFilter())
    handler.setFormatter(logging.Formatter("%(client_id)s %(sub)s %(act)s %(message)s"))
    record = logging.makeLogRecord({"msg": "hello"})
    handler.filter(record)
    assert handler.format(record) == "- - - hello"
