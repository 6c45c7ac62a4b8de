"""Opens secret stores whose libraries are installed on demand: imported when a store of the kind is opened."""

from collections.abc import Callable
from importlib import import_module
from typing import cast

from gateway.rotation.base import SecretStore, SecretStoreError


def on_demand(module: str, name: str, *, extra: str) -> Callable[[str], SecretStore]:
    """Opens a store from its URL with ``open`` of the class ``name``, whose libraries the extra holds.

    What is returned raises ``ValueError`` for a URL of another form and ``SecretStoreError`` where the extra is not
    installed or a setting is missing.
    """

    def open_store(url: str) -> SecretStore:
        try:
            kind = getattr(import_module(f"gateway.rotation.{module}"), name)
        except ModuleNotFoundError as error:
            raise SecretStoreError(
                f"{error.name} is not installed: pip install 'workload-identity-gateway[{extra}]'"
            ) from None
        return cast("SecretStore", kind.open(url))

    return open_store
