"""``POST /{tenant}/oauth2/v2.0/token``: the token endpoint where the SDKs for Microsoft Entra look for it.

They send ``client_credentials`` with a workload token as ``client_assertion``, and name the API by a scope that ends
in ``/.default``. The tenant is theirs, and says nothing here.
"""

from collections.abc import Iterable

TOKEN_PATH = "/{tenant:[A-Za-z0-9.-]{1,64}}/oauth2/v2.0/token"
DEFAULT_SCOPE = "/.default"


def with_resource_of_default_scope(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """The pairs of a form with ``scope=X/.default`` replaced by ``resource=X``: all that is granted at X.

    A second ``scope`` is left where it is, to be refused as one too many.
    """
    sent = list(pairs)
    scopes = [value for name, value in sent if name == "scope"]
    if len(scopes) != 1 or not scopes[0].endswith(DEFAULT_SCOPE):
        return sent
    resource = ("resource", scopes[0].removesuffix(DEFAULT_SCOPE))
    return [resource if name == "scope" else (name, value) for name, value in sent]
