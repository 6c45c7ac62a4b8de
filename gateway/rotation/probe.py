"""Whether the gateway takes a secret: a real request for a token (RFC 6749 §4.4, ``client_secret_basic``)."""

import asyncio
import base64
import json
from urllib.parse import quote, urlencode

from gateway.client import ClientError
from gateway.client.fetch import Answer, Fetcher
from gateway.model import GrantType
from gateway.oauth.reasons import REASONS
from gateway.rotation.rotation import GatewayUnavailableError

TIMEOUT_SECONDS = 10.0

_BEHIND_AUTHENTICATION = frozenset({"policy", "target", "scope"})
"""Stages of the hallway where a client has proven who it is already."""


class SecretProbe:
    """The token endpoint of one gateway. Asks for no resource: a client that has none proves itself as well."""

    def __init__(self, gateway_url: str, *, ca_file: str | None = None, insecure_http: bool = False) -> None:
        self._url = gateway_url.rstrip("/") + "/token"
        self._fetcher = Fetcher(ca_file=ca_file, insecure_http=insecure_http)

    async def authenticates(self, client_id: str, secret: str) -> bool:
        """Whether the client got a token, or was refused for something else than its secret.

        Raises ``GatewayUnavailableError`` where the answer is neither yes nor no.
        """
        pair = f"{quote(client_id, safe='')}:{quote(secret, safe='')}"
        headers = {
            "Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}",
            "Content-Type": "application/x-www-form-urlencoded",
        }
        body = urlencode({"grant_type": GrantType.CLIENT_CREDENTIALS}).encode()
        try:
            answer = await asyncio.to_thread(
                self._fetcher.send, "POST", self._url, timeout_seconds=TIMEOUT_SECONDS, headers=headers, body=body
            )
        except ClientError as error:
            raise GatewayUnavailableError(str(error)) from None
        return self._is_yes(answer)

    def _is_yes(self, answer: Answer) -> bool:
        if answer.status == 200:
            return True
        try:
            document = json.loads(answer.body)
            error, reason = document.get("error"), REASONS.get(document.get("reason", ""))
        except (ValueError, AttributeError, TypeError, RecursionError):
            error, reason = None, None
        if error == "invalid_client":
            return False
        if reason is not None and reason.stage in _BEHIND_AUTHENTICATION:
            return True
        raise GatewayUnavailableError(
            f"{self._url} answered {answer.status} {reason.code if reason is not None else error or ''}".rstrip() + "."
        )
