"""The workload's side, for programs to import: needs Python and nothing else.

``exchange(gateway_url, detect(), resource="backup-api")`` trades this workload's token for an access token;
``TokenCache`` keeps one fresh.
"""

from gateway.client.cache import TokenCache
from gateway.client.errors import ClientError, Denied, Misuse, NoWorkloadToken, Unavailable, UntrustedAnswer
from gateway.client.exchange import exchange
from gateway.client.sources import (
    EnvironmentToken,
    FileToken,
    GitHubActionsToken,
    LiteralToken,
    TokenSource,
    detect,
)
from gateway.client.token import Token

__all__ = [
    "ClientError",
    "Denied",
    "EnvironmentToken",
    "FileToken",
    "GitHubActionsToken",
    "LiteralToken",
    "Misuse",
    "NoWorkloadToken",
    "Token",
    "TokenCache",
    "TokenSource",
    "Unavailable",
    "UntrustedAnswer",
    "detect",
    "exchange",
]
