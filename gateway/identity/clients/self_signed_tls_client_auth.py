"""``self_signed_tls_client_auth``: the one certificate that was registered, whoever signed it (RFC 8705 §2.2)."""

from typing import ClassVar

from gateway.identity.clients.tls_client_auth import TlsClientAuth


class SelfSignedTlsClientAuth(TlsClientAuth):
    """See ``ClientAuthentication``."""

    name: ClassVar[str] = "self_signed_tls_client_auth"
