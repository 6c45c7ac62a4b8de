"""The YAML examples of a page, loaded as the gateway loads files.

A block whose documents have ``kind`` (and no ``apiVersion``) is policies. All such blocks of a page belong together,
unless a word follows the language: those that are fenced with ```` ```yaml NAME ```` belong to the others of that name.
Where a path follows the name, the block is that file.
A block with nothing but settings is a ``gateway.yaml`` of its own. Anything else has to be YAML.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from gateway.identity.presets.common import is_reserved_audience
from gateway.kinds import PRESETS
from gateway.policy.generation import Generation
from gateway.policy.loading import load_policies
from gateway.settings import Settings
from tests.docs.markdown import Block, blocks

ISSUER = "https://sts.example.com"


def yaml_blocks(text: str) -> list[Block]:
    """The blocks of a page that are fenced as YAML."""
    return [block for block in blocks(text) if block.language in {"yaml", "yml"}]


def is_policies(block: Block) -> bool:
    """Whether a block holds policy documents."""
    return all(isinstance(one, dict) and "kind" in one and "apiVersion" not in one for one in documents(block))


def is_settings(block: Block) -> bool:
    """Whether a block is a ``gateway.yaml``."""
    found = documents(block)
    return len(found) == 1 and isinstance(found[0], dict) and found[0].keys() <= Settings.model_fields.keys()


def documents(block: Block) -> list[Any]:
    """The YAML documents of a block."""
    return [document for document in yaml.safe_load_all(block.text) if document is not None]


def policy_sets(text: str) -> Mapping[str, list[Block]]:
    """The policies of a page: those that belong together, by their name."""
    found: dict[str, list[Block]] = {}
    for block in filter(is_policies, yaml_blocks(text)):
        found.setdefault(block.words[0] if block.words else "", []).append(block)
    return found


def loaded(policies: list[Block], folder: Path) -> Generation:
    """The generation that these blocks make, each as a file of ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, block in enumerate(policies):
        # Line numbers of a problem are those of the page.
        file = folder / (block.words[1] if len(block.words) > 1 else f"{number:02}.yaml")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n" * block.line + block.text)
    return load_policies(
        folder,
        presets=PRESETS,
        gateway_issuer=ISSUER,
        insecure_http=False,
        number=1,
        is_reserved_audience=is_reserved_audience,
    )
