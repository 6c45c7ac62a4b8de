"""A well-behaved client: so many requests a second, evenly spaced, on a few connections of its own.

Prints one line of JSON. A process of its own on the loader's core, with one thread for each connection that sleeps
most of the time: it takes next to nothing of what is measured. A request that is due while its connection still waits
for the answer before counts from when it was due, so that a server that stalls does not hide it.
"""

import argparse
import json
import re
import socket
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

CONNECTIONS = 20
LEAD_SECONDS = 0.1

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class Schedule:
    """When the requests of one connection are due, in seconds of ``perf_counter``."""

    first: float
    every: float
    count: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("source", help="the address to send from")
    parser.add_argument("form")
    parser.add_argument("--rate", type=int, required=True, help="requests a second")
    parser.add_argument("--seconds", type=int, required=True)
    arguments = parser.parse_args()
    begin = time.perf_counter() + LEAD_SECONDS
    schedules = [
        Schedule(
            first=begin + number / arguments.rate,
            every=CONNECTIONS / arguments.rate,
            count=arguments.rate * arguments.seconds // CONNECTIONS,
        )
        for number in range(CONNECTIONS)
    ]
    request = request_of(arguments.form)
    with ThreadPoolExecutor(CONNECTIONS) as threads:
        answers = threads.map(lambda one: latencies(arguments.port, arguments.source, request, one), schedules)
    percentiles = statistics.quantiles([seconds for some in answers for seconds in some], n=100)
    print(json.dumps({"p50_microseconds": percentiles[49] * 1e6, "p99_microseconds": percentiles[98] * 1e6}))


def request_of(form: str) -> bytes:
    head = (
        "POST /token HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/x-www-form-urlencoded\r\n"
        f"Content-Length: {len(form)}\r\n\r\n"
    )
    return (head + form).encode("ascii")


def latencies(port: int, source: str, request: bytes, schedule: Schedule) -> list[float]:
    """What each request of one connection took, in seconds. Ends the program where one is not answered 200."""
    found = []
    with socket.create_connection(("127.0.0.1", port), timeout=10, source_address=(source, 0)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for number in range(schedule.count):
            since = schedule.first + number * schedule.every
            early = since - time.perf_counter()
            if early > 0:
                time.sleep(early)
                since = time.perf_counter()  # a timer that rings late is no fault of the server
            connection.sendall(request)
            answer = read_answer(connection)
            found.append(time.perf_counter() - since)
            if not answer.startswith(b"HTTP/1.1 200 "):
                raise SystemExit(f"the well-behaved client was refused: {answer!r}")
    return found


def read_answer(connection: socket.socket) -> bytes:
    answer = b""
    while True:
        piece = connection.recv(65536)
        if not piece:
            raise SystemExit("the connection of the well-behaved client was closed")
        answer += piece
        head, end, body = answer.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if end and length is not None and len(body) == int(length[1]):
            return answer


if __name__ == "__main__":
    main()
