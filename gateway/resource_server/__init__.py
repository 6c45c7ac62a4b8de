"""What an API imports to verify access tokens of the gateway and to log which workload called.

``Verifier(issuer=..., audience=...)`` verifies; ``gateway.resource_server.aiohttp``, ``.asgi`` and ``.wsgi`` put it in
front of an API; ``gateway.resource_server.logging`` tells each log record who called. Needs PyJWT, cryptography and
orjson, and nothing of the server.
"""

from gateway.resource_server.claims import AccessTokenClaims
from gateway.resource_server.denied import AccessDenied
from gateway.resource_server.request import ApiRequest, DpopRequest
from gateway.resource_server.verifier import Verifier

__all__ = ["AccessDenied", "AccessTokenClaims", "ApiRequest", "DpopRequest", "Verifier"]
