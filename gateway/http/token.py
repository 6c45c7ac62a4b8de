"""``POST /token``: reads the form, asks the hallway, renders what it says."""

from collections.abc import Callable, Iterable
from time import perf_counter

from aiohttp import web

from gateway.callers import Caller
from gateway.exchange import Exchange, Issued
from gateway.http.answers import refusal_answer, token_answer
from gateway.http.client_certificate import ClientCertificateOf
from gateway.http.entra import with_resource_of_default_scope
from gateway.http.form import read_form
from gateway.http.hold import Hold
from gateway.http.source import SourceAddress
from gateway.metrics import ExchangeMeter
from gateway.model import GrantType, TokenRequest
from gateway.oauth.errors import Refusal
from gateway.oauth.parameters import parse_token_request

Dialect = Callable[[Iterable[tuple[str, str]]], list[tuple[str, str]]]
"""What makes of the pairs of a form those of RFC 6749."""


class TokenEndpoint:
    """The token endpoint (RFC 6749 §3.2)."""

    def __init__(
        self,
        exchange: Exchange,
        meter: ExchangeMeter,
        *,
        source_address: SourceAddress,
        client_certificate: ClientCertificateOf,
        new_request_id: Callable[[], str],
        hold: Hold,
        max_in_flight: int,
        body_seconds: float,
    ) -> None:
        self._exchange = exchange
        self._meter = meter
        self._source_address = source_address
        self._client_certificate = client_certificate
        self._new_request_id = new_request_id
        self._hold = hold
        self._max_in_flight = max_in_flight
        self._body_seconds = body_seconds
        self._in_flight = 0
        meter.in_flight.set_function(lambda: self._in_flight)

    async def post(self, request: web.Request) -> web.Response:
        """Answers 200 with a token, or an error of RFC 6749 §5.2. Never anything else."""
        return await self._answer(request, list)

    async def post_entra(self, request: web.Request) -> web.Response:
        """The same, for the SDKs that speak to Microsoft Entra (``gateway.http.entra``)."""
        return await self._answer(request, with_resource_of_default_scope)

    async def _answer(self, request: web.Request, dialect: Dialect) -> web.Response:
        caller = Caller(self._new_request_id(), self._source_address(request))
        grant: GrantType | None = None
        try:
            self._check_room()  # before anything is read: what cannot be served soon is told so at once
            self._exchange.check_source(caller)
            asked = await self._read(request, caller, dialect)
            grant = asked.grant_type
            self._check_room()  # whoever is still sending takes no place: half a request costs its sender nothing
            return token_answer(await self._work(asked, caller))
        except Refusal as refusal:
            await self._hold.back(refusal)
            return refusal_answer(refusal, grant, caller.request_id, challenge="Authorization" in request.headers)

    def _check_room(self) -> None:
        if self._in_flight >= self._max_in_flight:
            self._meter.count("none", "unknown", "denied", "overloaded")
            raise Refusal("overloaded")

    async def _read(self, request: web.Request, caller: Caller, dialect: Dialect) -> TokenRequest:
        try:
            return parse_token_request(
                dialect(await read_form(request, self._body_seconds)),
                authorization=request.headers.get("Authorization"),
                certificate=self._client_certificate(request),
                dpop_proofs=request.headers.getall("DPoP", ()),
            )
        except Refusal as refusal:
            await self._exchange.refuse(refusal, caller)
            raise

    async def _work(self, asked: TokenRequest, caller: Caller) -> Issued:
        started = perf_counter()
        self._in_flight += 1
        try:
            return await self._exchange.exchange(asked, caller)
        finally:
            self._in_flight -= 1
            self._meter.total.observe(perf_counter() - started)


async def only_post(_request: web.Request) -> web.Response:
    """RFC 6749 §3.2: the token endpoint is POST only."""
    return web.Response(status=405, headers={"Allow": "POST", "Cache-Control": "no-store"})
