"""``client_secret_post``: a secret in the body, beside ``client_id`` (RFC 6749 §2.3.1)."""

from typing import ClassVar

from gateway.identity.clients.client_secret_basic import ClientSecretBasic


class ClientSecretPost(ClientSecretBasic):
    """See ``ClientAuthentication``. Only how it was sent differs, and that is read before."""

    name: ClassVar[str] = "client_secret_post"
