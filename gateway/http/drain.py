"""Tells keep-alive connections to end while the server is on its way out."""

from aiohttp import web


class Drain:
    """Once ``draining`` is set, every answer closes its connection, so that no client is cut off between two."""

    def __init__(self) -> None:
        self.draining = False

    def apply(self, response: web.StreamResponse) -> None:
        """Marks one answer."""
        if self.draining:
            response.force_close()
