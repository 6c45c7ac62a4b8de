"""``make bench``: the gateway against the floor handler, a client beside a flood, policies of any size.

One core for the server and the other for the loader. Prints progress to standard error and the tables of the README to
standard output.
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from tests.benchmarks import decisions, flood, replay, scale, throughput

SUBJECTS = ("throughput", "flood", "decisions", "scale", "replay")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=3, help="length of one run")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--connections", type=int, default=32, help="of the loader")
    parser.add_argument("--only", choices=SUBJECTS, help="leave out the other tables")
    arguments = parser.parse_args()
    if shutil.which("wrk") is None:
        print("wrk is not installed: sudo apt-get install wrk", file=sys.stderr)
        return 1
    wanted = SUBJECTS if arguments.only is None else (arguments.only,)
    console = Console(stderr=True)
    loads = {
        "seconds": arguments.seconds,
        "repeats": arguments.repeats,
        "connections": arguments.connections,
    }
    how = f"\n{arguments.repeats} runs of {arguments.seconds} s each in turns, {arguments.connections} connections"
    with tempfile.TemporaryDirectory(prefix="gateway-bench-") as name:
        if "throughput" in wanted:
            throughput.print_table(throughput.measure(_folder(name, "throughput"), **loads, console=console))
            print(f"{how}, medians.\n")
        if "flood" in wanted:
            flood.print_table(flood.measure(_folder(name, "flood"), **loads, console=console))
            print(f"{how} of the flood, medians.\n")
        if "decisions" in wanted:
            decisions.print_table(decisions.measure(_folder(name, "decisions"), console))
        if "scale" in wanted:
            scale.print_table(scale.measure(_folder(name, "scale"), console))
        if "replay" in wanted:
            replay.print_table(replay.measure(_folder(name, "replay"), console))
    return 0


def _folder(parent: str, name: str) -> Path:
    folder = Path(parent, name)
    folder.mkdir()
    return folder


if __name__ == "__main__":
    sys.exit(main())
