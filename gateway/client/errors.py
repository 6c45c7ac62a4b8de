"""Why a workload got no access token. The text of an error says what to do next and holds no secret."""


class ClientError(Exception):
    """The common base: catch this one."""


class Misuse(ClientError):
    """Called with settings that cannot work: asking again does not help."""


class NoWorkloadToken(ClientError):
    """The platform's token is not where it was looked for, or is no token."""


class UntrustedAnswer(ClientError):
    """Whoever answered is not the gateway, or does not speak OAuth: nothing of the answer was used."""


class Unavailable(ClientError):
    """Could not be reached, or asked for patience. Worth another try; ``retry_after_seconds`` says when."""

    def __init__(self, message: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class Denied(ClientError):
    """The gateway said no (RFC 6749 §5.2).

    ``error`` is OAuth's code, ``reason`` the gateway's own stable one, ``description`` a sentence to act on, and
    ``request_id`` what the gateway's operators find the decision by. What was not sent is empty.
    """

    def __init__(
        self, *, status: int, error: str, description: str = "", reason: str = "", request_id: str = ""
    ) -> None:
        super().__init__(f"{reason or error}: {description}" if description else reason or error)
        self.status = status
        self.error = error
        self.description = description
        self.reason = reason
        self.request_id = request_id
