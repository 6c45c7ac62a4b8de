"""The address that a request came from, seen through trusted proxies only."""

import ipaddress
from collections.abc import Callable, Sequence

from aiohttp import web

SourceAddress = Callable[[web.Request], str]

_MAX_HOPS = 16


def source_address(trusted_proxies: Sequence[str]) -> SourceAddress:
    """A function that names a request's source: the peer, or, where the peer is a trusted proxy, the right-most
    address in ``X-Forwarded-For`` that no trusted proxy has. What else a client writes there is never believed.
    """
    networks = [ipaddress.ip_network(network) for network in trusted_proxies]

    def trusted(address: str) -> bool:
        parsed = _parse_address(address)
        return parsed is not None and any(parsed in network for network in networks)

    def of(request: web.Request) -> str:
        peer = request.remote or "unknown"
        if not networks or not trusted(peer.partition("%")[0]):
            return peer
        forwarded = ",".join(request.headers.getall("X-Forwarded-For", []))
        for hop in reversed(forwarded.split(",")[-_MAX_HOPS:]):
            address = hop.strip()
            if _parse_address(address) is None:
                return peer
            if not trusted(address):
                return address
        return peer

    return of


def _parse_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """An address without a zone (RFC 4007 §11): what stands behind its ``%`` may be any text at all."""
    if "%" in text:
        return None
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
