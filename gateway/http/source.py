"""The address that a request came from, seen through trusted proxies only."""

import ipaddress
from collections.abc import Callable, Sequence

from aiohttp import web

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
SourceAddress = Callable[[web.Request], str]

_MAX_HOPS = 16


def parse_networks(networks: Sequence[str]) -> tuple[Network, ...]:
    """Networks from their CIDR notation. Raises ``ValueError``."""
    return tuple(ipaddress.ip_network(network) for network in networks)


def is_within(networks: Sequence[Network], peer: str | None) -> bool:
    """Whether a peer's address is in one of the networks. A listener for both families sees an IPv4 address as
    ``::ffff:10.0.0.1``, and a link-local one with its zone.
    """
    address = _parse_address((peer or "").partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address is not None and any(address in network for network in networks)


def source_address(trusted_proxies: Sequence[str]) -> SourceAddress:
    """A function that names a request's source: the peer, or, where the peer is a trusted proxy, the right-most
    address in ``X-Forwarded-For`` that no trusted proxy has. What else a client writes there is never believed.
    """
    networks = parse_networks(trusted_proxies)

    def of(request: web.Request) -> str:
        peer = request.remote or "unknown"
        if not is_within(networks, peer):
            return peer
        forwarded = ",".join(request.headers.getall("X-Forwarded-For", []))
        for hop in reversed(forwarded.split(",")[-_MAX_HOPS:]):
            address = hop.strip()
            if _parse_address(address) is None:
                return peer
            if not is_within(networks, address):
                return address
        return peer

    return of


def from_trusted_proxy(trusted_proxies: Sequence[str]) -> Callable[[web.Request], bool]:
    """A function that says whether a request comes from a trusted proxy, whose word then counts."""
    networks = parse_networks(trusted_proxies)
    return lambda request: is_within(networks, request.remote)


def _parse_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """An address without a zone (RFC 4007 §11): what stands behind its ``%`` may be any text at all."""
    if "%" in text:
        return None
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
