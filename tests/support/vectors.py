"""The test vectors of others, read in place; tests that need them are skipped where they are absent."""

import json
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[3] / "shared" / "vectors"

needs_vectors = pytest.mark.skipif(
    not FOLDER.is_dir(), reason=f"the test vectors are not there: put them into {FOLDER} to run these tests"
)


def wycheproof(name: str) -> Any:
    """A file of Wycheproof, or an empty one where the vectors are absent, so that tests can be collected."""
    path = FOLDER / "wycheproof" / f"{name}.json"
    return json.loads(path.read_bytes()) if path.exists() else {"testGroups": []}


def cookbook(folder: str) -> list[Path]:
    """The examples of one folder of the JOSE cookbook."""
    return sorted((FOLDER / "jose-cookbook" / folder).glob("*.json"))


def json_texts() -> list[Path]:
    """The texts of the JSON test suite."""
    return sorted((FOLDER / "json-test-suite" / "test_parsing").glob("*.json"))
