"""Conditions and claims by the thousand, for the C++ runtime of CEL: run as a program, so that a crash is its own.

Every condition comes from a grammar of CEL, now and then with a character too many or too few; the claims are those of
a token, up to the largest that fits. Prints one line of JSON when it is done. The case at hand stands in the file that
is named on the command line, should there be no end.
"""

import argparse
import json
import resource
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from time import process_time
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from gateway.policy.cel import CelError, Condition, Mapped, parse_condition, parse_mapped

CLAIMS_PER_CONDITION = 40
MAX_BYTES = 2 * 2**30
"""Of address space for the whole program: what fills the memory ends it."""
MAX_SECONDS = 0.25
"""Of processor time for one evaluation: five times what the costliest takes on a slow machine."""

# ---------------------------------------------------------------- conditions

CLAIM_NAMES = ("a", "b", "l", "m", "s", "t", "kubernetes.io")
LOOP_VARIABLES = ("x", "y", "z")
TEXTS = ("", "x", "a", "production", "a/b:c", "ä€😀", "*", "1", "\\\\", "\\n")
PATTERNS = st.recursive(
    st.sampled_from(["a", "x", ".", "[a-z]", "[^a]", "\\\\d", "\\\\pL", "^", "$", "(?i)a", "", "\\\\b"]),
    lambda inner: st.one_of(
        st.lists(inner, min_size=2, max_size=3).map("".join),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "*?", "{3}", "{2,40}", "{0,}", "{300}"])).map(
            lambda parts: f"({parts[0]}){parts[1]}"
        ),
        st.tuples(inner, inner).map("|".join),
    ),
    max_leaves=5,
)
LOOPS = ("all", "exists", "exists_one", "filter", "map")
CONVERSIONS = ("size", "string", "int", "double", "bool", "bytes", "uint", "dyn", "type", "timestamp", "duration")


def quoted(text: str) -> str:
    return f'"{text}"'


ATOMS = st.one_of(
    st.sampled_from(CLAIM_NAMES).map(lambda name: f'claims["{name}"]'),
    st.sampled_from(("a", "b", "l", "m", "s", "t")).map("claims.{}".format),
    st.sampled_from(TEXTS).map(quoted),
    st.sampled_from(("true", "false", "null", "0", "1", "-1", "9223372036854775807", "1u", "1.5", "b'x'", "issuer")),
    st.just("claims"),
)


def _loop(over: str, kind: str, variable: str, body: str, claim: str) -> str:
    """A loop in whose body the variable stands where a claim stood."""
    return f"{over}.{kind}({variable}, {body.replace(f'claims.{claim}', variable)})"


def _larger(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    untyped = inner.map(lambda source: f"dyn({source})")
    part = inner | untyped | untyped
    claim = st.sampled_from("abslmt")
    return st.one_of(
        st.tuples(part, st.sampled_from(("==", "!=", "<", ">=", "&&", "||", "+", "-", "*", "%", "in")), part).map(
            lambda parts: f"({' '.join(parts)})"
        ),
        st.builds(_loop, untyped, st.sampled_from(LOOPS), st.sampled_from(LOOP_VARIABLES), part, claim),
        st.tuples(untyped, st.sampled_from(("startsWith", "endsWith", "contains", "matches")), part).map(
            lambda parts: f"{parts[0]}.{parts[1]}({parts[2]})"
        ),
        st.tuples(untyped, PATTERNS).map(lambda parts: f'{parts[0]}.matches("{parts[1]}")'),
        st.tuples(st.sampled_from(CONVERSIONS), part).map(lambda parts: f"{parts[0]}({parts[1]})"),
        st.tuples(st.sampled_from(("has({}.d)", "!({})", "-({})", "{}.d", '{}["e"]', "{}[0]", "{}.size()")), part).map(
            lambda parts: parts[0].format(parts[1])
        ),
        st.lists(part, max_size=4).map(lambda parts: f"[{', '.join(parts)}]"),
        st.tuples(part, part).map(lambda parts: f"{{{parts[0]}: {parts[1]}}}"),
        st.tuples(part, untyped, untyped).map(lambda parts: f"({parts[0]} ? {parts[1]} : {parts[2]})"),
    )


EXPRESSIONS = st.recursive(ATOMS, _larger, max_leaves=12)


STRAY = tuple("(){}[].,\"'\\/*+?:&|!=<>\0\x7fä\ud800")


@st.composite
def sources(draw: st.DrawFn) -> str:
    """A condition: an expression, made one by a comparison where it is none, and sometimes broken."""
    source = draw(EXPRESSIONS)
    match draw(st.integers(0, 9)):
        case 0:
            return source
        case 1:
            position = draw(st.integers(0, len(source)))
            return source[:position] + draw(st.sampled_from(STRAY)) + source[position:]
        case 2:
            position = draw(st.integers(0, len(source)))
            return source[:position] + source[position + 1 :]
        case 3 | 4:
            return _loop(
                "claims.l", "all", "x", f"dyn({source}) == dyn({draw(EXPRESSIONS)})", draw(st.sampled_from("abslmt"))
            )
        case 5 | 6:
            return " && ".join([f"dyn({source}) != dyn({draw(EXPRESSIONS)})"] * draw(st.integers(1, 20)))
        case _:
            return f"dyn({source}) == dyn({draw(EXPRESSIONS)})"


# ---------------------------------------------------------------- claims


def _deep(levels: int) -> Any:
    return {"d": _deep(levels - 1), "e": [levels]} if levels else "x"


SCALARS = (None, True, False, 0, 1, -1, 2**62, 10**19, "", "x", "a", "production", "ä€😀", "a\0b", "\ud800")
CONTAINERS = ([], [1], ["x", "a"], [1, "x", True, None], {}, {"d": "x", "e": 1}, {"d": None}, _deep(6))
SMALL = st.sampled_from((*SCALARS, *CONTAINERS))
LARGE: tuple[Callable[[int], Any], ...] = (
    lambda kib: [1] * (kib * 500),
    lambda kib: ["x"] * (kib * 250),
    lambda kib: list(range(kib * 200)),
    lambda kib: [[1]] * (kib * 250),
    lambda kib: [{"d": 1}] * (kib * 140),
    lambda kib: ["group-" + "a" * 30] * (kib * 25),
    lambda kib: "a" * (kib * 1000),
    lambda kib: "ab" * (kib * 500),
    lambda kib: "ä" * (kib * 500),
    lambda kib: "a" * (kib * 1000 - 1) + "b",
    lambda kib: {str(n): n for n in range(kib * 90)},
    lambda kib: {str(n): ["x"] * 10 for n in range(kib * 16)},
)
"""Values that fill so many KiB of a token."""


@st.composite
def claims(draw: st.DrawFn) -> tuple[dict[str, Any], ...]:
    """The claims of a few workloads: small ones, and up to three that share the 12 KiB of a token."""
    large = draw(st.lists(st.sampled_from(CLAIM_NAMES), max_size=3, unique=True))
    values = [
        [draw(st.sampled_from(LARGE))(draw(st.sampled_from([12, 6, 1])) // len(large)), draw(SMALL)]
        if name in large
        else [draw(SMALL), draw(SMALL)]
        for name in CLAIM_NAMES
    ]
    return tuple(
        {name: pair[(number >> place) & 1] for place, (name, pair) in enumerate(zip(CLAIM_NAMES, values, strict=True))}
        for number in range(0, 128, 128 // CLAIMS_PER_CONDITION)
    )


# ---------------------------------------------------------------- the run


class Fuzzing:
    """Runs conditions, and remembers the slowest."""

    def __init__(self, case_file: Path) -> None:
        self.evaluations = self.loaded = self.refused = 0
        self.slowest_seconds = 0.0
        self.slowest = ""
        self._case_file = case_file

    def run(self, source: str, workloads: tuple[dict[str, Any], ...]) -> None:
        self._case_file.write_text(json.dumps([source, workloads]))
        condition, mapped = self._parsed(source)
        for one in workloads:
            if condition is not None:
                self._evaluate(condition, one)
            if mapped is not None:
                self._timed(source, lambda one=one: mapped.value(one, "here"))

    def _parsed(self, source: str) -> tuple[Condition | None, Mapped | None]:
        condition = mapped = None
        try:
            condition = parse_condition(source)
        except CelError:
            self.refused += 1
        try:
            mapped = parse_mapped("claim", source)
        except CelError:
            self.refused += 1
        self.loaded += (condition is not None) + (mapped is not None)
        return condition, mapped

    def _evaluate(self, condition: Condition, one: dict[str, Any]) -> None:
        holds = self._timed(condition.source, lambda: condition.holds(one, "here"))
        assert not (holds and condition.is_false(one, "here")), condition.source
        assert type(holds) is bool

    def _timed(self, source: str, evaluate: Callable[[], Any]) -> Any:
        outcome, took = self._once(evaluate)
        if took > MAX_SECONDS / 5:  # was it the evaluation, or the garbage of this program?
            took = min(took, self._once(evaluate)[1])
        self.evaluations += 1
        if took > self.slowest_seconds:
            self.slowest_seconds, self.slowest = took, source
        assert took < MAX_SECONDS, f"{took:.3f} s"
        return outcome

    @staticmethod
    def _once(evaluate: Callable[[], Any]) -> tuple[Any, float]:
        started = process_time()
        outcome = evaluate()
        return outcome, process_time() - started


class Failed(BaseException):
    """What hypothesis is not to look into: it would run the case again and again, and show all of it."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("evaluations", type=int)
    parser.add_argument("case_file", type=Path)
    arguments = parser.parse_args()
    fuzzing = Fuzzing(arguments.case_file)
    resource.setrlimit(resource.RLIMIT_AS, (MAX_BYTES, MAX_BYTES))

    @given(sources(), claims())
    @settings(
        max_examples=2000,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def run(source: str, workloads: tuple[dict[str, Any], ...]) -> None:
        if fuzzing.evaluations < arguments.evaluations:
            try:
                fuzzing.run(source, workloads)
            except Exception as error:
                print(f"{source}\n{traceback.format_exc()}", file=sys.stderr)
                raise Failed from error

    try:
        while fuzzing.evaluations < arguments.evaluations:
            run()
    except Failed:
        return 1
    report = {
        "evaluations": fuzzing.evaluations,
        "loaded": fuzzing.loaded,
        "refused": fuzzing.refused,
        "slowest_milliseconds": round(fuzzing.slowest_seconds * 1000, 1),
        "slowest": fuzzing.slowest,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
