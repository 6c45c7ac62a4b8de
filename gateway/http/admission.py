"""Who gets a connection: so many in all, and so many from one network. Asked before a connection costs anything."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gateway.http.source import Network, is_within
from gateway.state.quotas import network_of

Limit = str
"""One of ``gateway.metrics.LIMITS``: those that end connections."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one listener takes on, and how long it waits for its peers."""

    connections: int
    connections_per_address: int
    requests_per_connection: int
    head_seconds: float
    """From the first byte of a request to the end of its head; and for a TLS handshake."""
    answer_seconds: float
    """For a peer to take what does not fit into the buffers of its connection."""
    idle_seconds: float
    """Between two requests, and before the first."""


class NoPlaceError(Exception):
    """No place for one more connection. ``limit`` is the bound that it would be beyond."""

    def __init__(self, limit: Limit) -> None:
        super().__init__(limit)
        self.limit = limit


class Place:
    """What one connection takes up. It may be given back more than once: how connections end is told in many ways."""

    __slots__ = ("_give_back",)

    def __init__(self, give_back: Callable[[], None]) -> None:
        self._give_back: Callable[[], None] | None = give_back

    def give_back(self) -> None:
        """Makes room for another."""
        if self._give_back is not None:
            give_back, self._give_back = self._give_back, None
            give_back()


class Admission:
    """The places of one listener.

    A network is an IPv4 address or an IPv6 /64. Those of ``proxies`` are not bounded apart: all their clients come
    from there. ``make_room`` is asked before anybody is turned away for the bound of all: it may end connections that
    are of no use at the moment.
    """

    def __init__(self, bounds: Bounds, proxies: Sequence[Network], make_room: Callable[[], None]) -> None:
        self._bounds = bounds
        self._proxies = proxies
        self._make_room = make_room
        self._by_network: dict[str, int] = {}
        self.taken = 0
        """Connections that have a place."""

    def admit(self, peer: str) -> Place:
        """A place for a connection from this address. Raises ``NoPlaceError``."""
        network = None if is_within(self._proxies, peer) else network_of(peer)
        if network is not None and self._by_network.get(network, 0) >= self._bounds.connections_per_address:
            raise NoPlaceError("connections_per_address")
        if self.taken >= self._bounds.connections:
            self._make_room()
            if self.taken >= self._bounds.connections:
                raise NoPlaceError("connections")
        self.taken += 1
        if network is not None:
            self._by_network[network] = self._by_network.get(network, 0) + 1
        return Place(lambda: self._leave(network))

    def _leave(self, network: str | None) -> None:
        self.taken -= 1
        if network is None:
            return
        left = self._by_network[network] - 1
        if left:
            self._by_network[network] = left
        else:
            del self._by_network[network]
