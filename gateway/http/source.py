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
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(parsed in network for network in networks)

    def of(request: web.Request) -> str:
        peer = request.remote or "unknown"
        if not networks or not trusted(peer):
            return peer
        forwarded = ",".join(request.headers.getall("X-Forwarded-For", []))
        for hop in reversed(forwarded.split(",")[-_MAX_HOPS:]):
            address = hop.strip()
            if not _is_address(address):
                return peer
            if not trusted(address):
                return address
        return peer

    return of


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
