"""Where the files of ``deploy/`` are, and how a test reads them."""

import os
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def yaml_documents(path: Path) -> list[dict[str, Any]]:
    """The documents of a YAML file."""
    return [document for document in yaml.safe_load_all(path.read_text()) if document is not None]


def command(name: str, package: str) -> str:
    """The path of a program. Skips the test where it is not installed; fails it under CI=true."""
    path = shutil.which(name)
    if path is not None:
        return path
    missing = f"{name} is not installed: apt-get install {package}"
    if os.environ.get("CI") == "true":
        pytest.fail(missing)
    pytest.skip(missing)


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """A Dockerfile as (instruction, arguments), continuation lines joined, comments left out."""
    lines = [line for line in dockerfile.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [
        (word.upper(), " ".join(arguments.split()))
        for word, _, arguments in (line.strip().partition(" ") for line in joined.splitlines() if line.strip())
    ]
