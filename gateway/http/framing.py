"""Where one request ends and the next begins, and for whom it is (RFC 9112): what aiohttp's parser lets through, though
another parser in front may have read it in another way.
"""

import re

from aiohttp import HttpVersion10, HttpVersion11, web

MAX_HEAD_BYTES = 32 * 1024
"""Names and values of all headers of a request, and its target."""

_VERSIONS = (HttpVersion11, HttpVersion10)
_HOST = re.compile(r"(?:(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{0,5})?")
_ABSOLUTE = re.compile(r"https?://([^/?#@]*)(?:[/?].*)?", re.IGNORECASE)


def framing_fault(request: web.BaseRequest) -> str | None:
    """Why a request can be understood in two ways, or None. Costs about a microsecond.

    The parser refuses the rest: two lengths, a length with chunks, line ends that are none, what is no header.
    """
    headers, target = request.headers, request.raw_path
    if request.version not in _VERSIONS:
        return "another version than HTTP/1.1 and HTTP/1.0"
    if request.version == HttpVersion10 and "Transfer-Encoding" in headers:
        return "chunks in HTTP/1.0 (RFC 9112 section 6.1)"
    coding = headers.get("Transfer-Encoding")
    if coding is not None and not _is_coding(coding.lower()):
        return "a list of codings that others may cut in another way"
    host = headers.get("Host", "")
    if not _HOST.fullmatch(host):
        return "a Host that is none (RFC 9112 section 3.2)"
    if target.startswith("/") and "#" not in target and request.method != "CONNECT":
        return None
    return _fault_of_target(request.method, target, host)


def _is_coding(text: str) -> bool:
    """Whether chunks come last, behind codings that have a name. ``identity`` is none any more (RFC 9112 §7)."""
    return text == "chunked" or {"", "identity"}.isdisjoint(part.strip() for part in text.split(","))


def _fault_of_target(method: str, target: str, host: str) -> str | None:
    """Of a target that is no path with a query (RFC 9112 §3.2)."""
    if target == "*" and method == "OPTIONS":
        return None
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None or method == "CONNECT":
        return "a target that is none of this server"
    # A server has to believe the target (RFC 9112 §3.2.2), and others believe Host: what they agree on is taken.
    return None if absolute[1].lower() == host.lower() else "a target of another host than Host"


def head_bytes(request: web.BaseRequest) -> int:
    """The size of a request's head, without what stands between its parts."""
    return len(request.raw_path) + sum(len(name) + len(value) for name, value in request.raw_headers)
