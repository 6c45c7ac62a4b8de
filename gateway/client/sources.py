"""Where a workload's own token comes from: a mounted file, a variable of the job, GitHub's endpoint, or the caller.

A source is asked anew for every exchange and every repeated try, because platforms replace tokens under way.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

from gateway.client.errors import NoWorkloadToken, Unavailable
from gateway.client.fetch import Answer, Fetcher, retry_after_seconds
from gateway.client.retry import ATTEMPT_SECONDS
from gateway.client.timing import REAL, Timing

TOKEN_FILE = Path("/var/run/secrets/gateway/token")
"""Where the manifests of this project mount the projected token."""
TOKEN_VARIABLE = "GATEWAY_ID_TOKEN"
"""What the examples of this project call the entry of GitLab's ``id_tokens``."""
MAX_TOKEN_BYTES = 16 * 1024

_REQUEST_URL = "ACTIONS_ID_TOKEN_REQUEST_URL"
_REQUEST_TOKEN = "ACTIONS_ID_TOKEN_REQUEST_TOKEN"
_TOKEN = re.compile(rf"[\x21-\x7e]{{1,{MAX_TOKEN_BYTES}}}")


class TokenSource(Protocol):
    """Anything that can name the token of this workload."""

    def fetch(self, audience: str) -> str:
        """A token for this audience, as fresh as it can be had; where the platform fixed the audience, that one.

        Raises ``NoWorkloadToken``, or ``Unavailable`` where another try may help.
        """


@dataclass(frozen=True, slots=True)
class FileToken:
    """A file that the platform keeps fresh, such as a projected volume; read on every use."""

    path: Path = TOKEN_FILE

    def fetch(self, audience: str) -> str:
        """The file's content now; the audience is that of the volume."""
        try:
            with self.path.open("rb") as file:
                content = file.read(MAX_TOKEN_BYTES + 2)
        except FileNotFoundError:
            raise NoWorkloadToken(
                f"{self.path} does not exist. Mount a serviceAccountToken volume there, with audience: {audience}."
            ) from None
        except OSError as fault:
            raise NoWorkloadToken(f"{self.path} cannot be read: {fault.strerror}.") from None
        return _checked(content.decode("latin-1"), str(self.path))


@dataclass(frozen=True, slots=True)
class EnvironmentToken:
    """An environment variable that the platform sets once per job, such as GitLab's ``id_tokens``."""

    name: str = TOKEN_VARIABLE
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ, repr=False)

    def fetch(self, audience: str) -> str:
        """The variable's value; the audience is the one that the job's definition asked for."""
        value = self.environment.get(self.name, "")
        if not value:
            raise NoWorkloadToken(
                f"The variable {self.name} is not set. In GitLab: id_tokens: {{{self.name}: {{aud: {audience}}}}}."
            )
        return _checked(value, f"The variable {self.name}")


@dataclass(frozen=True, slots=True)
class GitHubActionsToken:
    """GitHub's endpoint for jobs that have ``permissions: id-token: write``: a fresh token for every call."""

    request_url: str
    request_token: str = field(repr=False)
    fetcher: Fetcher = field(default_factory=Fetcher, repr=False)
    timing: Timing = field(default=REAL, repr=False)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], *, insecure_http: bool = False) -> "GitHubActionsToken":
        """As the job's environment says. Raises ``NoWorkloadToken`` where it says nothing."""
        url, token = environment.get(_REQUEST_URL, ""), environment.get(_REQUEST_TOKEN, "")
        if not (url and token):
            raise NoWorkloadToken(
                f"{_REQUEST_URL} and {_REQUEST_TOKEN} are not set: this is no step of a GitHub job, or the job lacks "
                "permissions: id-token: write."
            )
        return cls(url, _checked(token, f"The variable {_REQUEST_TOKEN}"), Fetcher(insecure_http=insecure_http))

    def fetch(self, audience: str) -> str:
        """A new token for the audience."""
        separator = "&" if "?" in self.request_url else "?"
        answer = self.fetcher.send(
            "GET",
            f"{self.request_url}{separator}audience={quote(audience, safe='')}",
            timeout_seconds=ATTEMPT_SECONDS,
            headers={"Accept": "application/json", "Authorization": f"Bearer {self.request_token}"},
        )
        self._check_status(answer)
        try:
            value = json.loads(answer.body)["value"]
        except (ValueError, LookupError, TypeError, RecursionError):
            value = None
        return _checked(value if isinstance(value, str) else "", "The answer of GitHub's token endpoint")

    def _check_status(self, answer: Answer) -> None:
        if answer.status == 429 or answer.status >= 500:
            raise Unavailable(
                f"GitHub's token endpoint answered {answer.status}.",
                retry_after_seconds=retry_after_seconds(answer.headers, self.timing.clock),
            )
        if answer.status != 200:
            raise NoWorkloadToken(
                f"GitHub's token endpoint answered {answer.status}. Does the job have permissions: id-token: write, "
                "and is it still running?"
            )


@dataclass(frozen=True, slots=True)
class LiteralToken:
    """A token that the caller already holds."""

    value: str = field(repr=False)

    def fetch(self, audience: str) -> str:
        """The token, whatever its audience."""
        return _checked(self.value, "What was given as the token")


def detect(
    environment: Mapping[str, str] = os.environ, *, file: Path = TOKEN_FILE, insecure_http: bool = False
) -> TokenSource:
    """The source that the surroundings offer: GitHub's endpoint, else the job's variable, else the mounted file.

    A job's own token comes before a file, which may belong to the pod of the runner. Tokens that were made for
    somebody else (the cluster's API, a cloud's exchange) are never taken: whoever reads one may use it there.
    Raises ``NoWorkloadToken`` and says what it looked for.
    """
    if environment.get(_REQUEST_URL) and environment.get(_REQUEST_TOKEN):
        return GitHubActionsToken.from_environment(environment, insecure_http=insecure_http)
    if environment.get(TOKEN_VARIABLE):
        return EnvironmentToken(TOKEN_VARIABLE, environment)
    if file.exists():
        return FileToken(file)
    raise NoWorkloadToken(_nothing_found(environment, file))


def _nothing_found(environment: Mapping[str, str], file: Path) -> str:
    looked_for = (
        f"No workload token was found. Looked for {_REQUEST_URL} and {_REQUEST_TOKEN} (GitHub), the variable "
        f"{TOKEN_VARIABLE} (GitLab), the file {file} (Kubernetes)."
    )
    if environment.get("GITHUB_ACTIONS") == "true":
        return f"{looked_for} This is a GitHub job: give it permissions: id-token: write."
    if environment.get("GITLAB_CI") == "true":
        return f"{looked_for} This is a GitLab job: give it id_tokens: {{{TOKEN_VARIABLE}: {{aud: <the gateway>}}}}."
    if environment.get("KUBERNETES_SERVICE_HOST"):
        return (
            f"{looked_for} This is a pod: mount a serviceAccountToken volume with the gateway as its audience there. "
            "The pod's default token is not used: it opens the cluster's own API."
        )
    return looked_for


def _checked(text: str, where: str) -> str:
    token = text.strip(" \t\r\n")
    if not token:
        raise NoWorkloadToken(f"{where} holds no token.")
    if not _TOKEN.fullmatch(token):
        raise NoWorkloadToken(f"{where} holds something else than one token of at most {MAX_TOKEN_BYTES} characters.")
    return token
