"""The admin listener: ``/metrics``, ``/livez``, ``/readyz``, and the API for operators."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import orjson
from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

Readiness = Callable[[], tuple[bool, Mapping[str, Any]]]
"""Whether this process should get traffic, and the details in either case."""


def admin_application(
    registry: CollectorRegistry, readiness: Readiness, api: Iterable[web.RouteDef] = ()
) -> web.Application:
    """What Prometheus and probes ask, and, behind ``api``, operators. No route here changes anything or shows a secret.

    The routes of ``api`` let operators alone through.
    """

    async def metrics(request: web.Request) -> web.Response:
        try:
            encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        except (TypeError, ValueError):  # a version that is no number
            encode, content_type = choose_encoder("")
        return web.Response(body=encode(registry), headers={"Content-Type": content_type})

    async def livez(_request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_request: web.Request) -> web.Response:
        ready, details = readiness()
        body = orjson.dumps({"ready": ready, **details}, option=orjson.OPT_INDENT_2)
        return web.Response(
            status=200 if ready else 503,
            body=body + b"\n",
            headers={"Content-Type": "application/json", "Cache-Control": "no-store"},
        )

    application = web.Application()
    application.add_routes([web.get("/metrics", metrics), web.get("/livez", livez), web.get("/readyz", readyz)])
    application.add_routes(api)
    return application
