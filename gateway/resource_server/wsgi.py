"""For APIs on WSGI (Flask, Django, ...): a middleware that asks every request for an access token.

``app.wsgi_app = AccessTokenMiddleware(app.wsgi_app, verifier=verifier)``; the application finds ``AccessTokenClaims``
in ``environ["gateway.access_token"]``, which is ``request.environ[...]`` in Flask. Imports no framework.
"""

from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from gateway.resource_server.denied import AccessDenied
from gateway.resource_server.logging import set_caller
from gateway.resource_server.request import ApiRequest, each
from gateway.resource_server.verifier import Verifier

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

ACCESS_TOKEN = "gateway.access_token"

Certificate = Callable[[dict[str, Any]], bytes | None]
"""Finds the TLS client certificate of a request, as DER."""

_SOCKETS = ("gunicorn.socket", "werkzeug.socket")  # no client can set a name without HTTP_ in front
_PATH_CHARACTERS = "/:@!$&'()*+,;=~"  # RFC 3986 §3.3


def connection_certificate(environ: dict[str, Any]) -> bytes | None:
    """The certificate of the connection itself, where the server ends TLS, asked for one, and shows its socket."""
    for name in _SOCKETS:
        read = getattr(environ.get(name), "getpeercert", None)
        if read is not None:
            der: bytes | None = read(binary_form=True)
            return der
    return None


class AccessTokenMiddleware:
    """Each request needs a token with all of ``scopes``, but for the exact paths in ``open_paths``.

    ``certificate`` replaces where the TLS client certificate comes from: only behind a proxy that is trusted.
    """

    def __init__(
        self,
        app: "WSGIApplication",
        *,
        verifier: Verifier,
        scopes: Iterable[str] = (),
        open_paths: Iterable[str] = (),
        certificate: Certificate = connection_certificate,
    ) -> None:
        self._app = app
        self._verifier = verifier
        self._scopes = each(scopes)
        self._open_paths = each(open_paths)
        self._certificate = certificate

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """One request. ``AccessDenied`` that leaves the application is answered too."""
        set_caller(None)
        environ.pop(ACCESS_TOKEN, None)
        try:
            if _path(environ) not in self._open_paths:
                request = _api_request(environ, self._certificate(environ))
                claims = self._verifier.verify_request(request, scopes=self._scopes)
                environ[ACCESS_TOKEN] = claims
                set_caller(claims)
            return _Body(self._app(environ, start_response))
        except AccessDenied as denied:
            set_caller(None)
            return _answer(denied, environ, start_response)
        except BaseException:
            set_caller(None)
            raise


class _Body:
    """The application's answer; its end is the end of the request, up to which records name the caller."""

    def __init__(self, body: Iterable[bytes]) -> None:
        self._body = body

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._body)

    def close(self) -> None:
        """The server has sent everything, or given up (PEP 3333)."""
        try:
            close = getattr(self._body, "close", None)
            if close is not None:
                close()
        finally:
            set_caller(None)


def _path(environ: "WSGIEnvironment") -> str:
    """As the application sees it, percent-decoded."""
    path: str = environ.get("PATH_INFO", "")
    return path.encode("latin-1").decode(errors="replace")


def _api_request(environ: "WSGIEnvironment", certificate: bytes | None) -> ApiRequest:
    path = f"{environ.get('SCRIPT_NAME', '')}{environ.get('PATH_INFO', '')}"
    return ApiRequest(
        method=environ["REQUEST_METHOD"],
        path=quote(path.encode("latin-1"), safe=_PATH_CHARACTERS),
        query=environ.get("QUERY_STRING", ""),
        authorization=_header(environ, "HTTP_AUTHORIZATION"),
        dpop=_header(environ, "HTTP_DPOP"),
        certificate=certificate,
    )


def _header(environ: "WSGIEnvironment", name: str) -> tuple[str, ...]:
    """A server has joined the values of several headers with commas, which neither header can hold."""
    return (environ[name],) if name in environ else ()


def _answer(denied: AccessDenied, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
    status = HTTPStatus(denied.status)
    headers = [*denied.headers.items(), ("Content-Length", str(len(denied.body)))]
    start_response(f"{status.value} {status.phrase}", headers)
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [denied.body]
