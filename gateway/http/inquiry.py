"""The form that introspection and revocation have in common (RFC 7662 §2.1, RFC 7009 §2.1), from a hostile sender."""

from collections.abc import Awaitable, Callable

from aiohttp import web

from gateway.callers import Caller
from gateway.http.answers import refusal_answer
from gateway.http.client_certificate import ClientCertificateOf
from gateway.http.form import read_form
from gateway.http.hold import Hold
from gateway.http.source import SourceAddress
from gateway.inspection import Endpoint, Inquiry, Inspection
from gateway.metrics import InspectionMeter
from gateway.oauth.client_authentication import parse_presented
from gateway.oauth.errors import Refusal
from gateway.oauth.parameters import parse_form_parameters, short_value

Work = Callable[[Inquiry, Caller], Awaitable[web.Response]]


class InquiryForms:
    """Reads inquiries, works on a bounded number of them at once, and renders every refusal."""

    def __init__(
        self,
        inspection: Inspection,
        meter: InspectionMeter,
        *,
        source_address: SourceAddress,
        client_certificate: ClientCertificateOf,
        new_request_id: Callable[[], str],
        hold: Hold,
        max_in_flight: int,
        body_seconds: float,
    ) -> None:
        self._inspection = inspection
        self._meter = meter
        self._source_address = source_address
        self._client_certificate = client_certificate
        self._new_request_id = new_request_id
        self._hold = hold
        self._free = max_in_flight
        self._body_seconds = body_seconds

    async def answered(self, request: web.Request, endpoint: Endpoint, work: Work) -> web.Response:
        """What ``work`` answers to the form of a request, or an error of RFC 6749 §5.2."""
        caller = Caller(self._new_request_id(), self._source_address(request))
        try:
            self._inspection.check_source(endpoint, caller)
            self._check_room(endpoint)
            inquiry = await self._read(request, endpoint, caller)
            self._check_room(endpoint)  # whoever is still sending takes no place
            self._free -= 1
            try:
                return await work(inquiry, caller)
            finally:
                self._free += 1
        except Refusal as refusal:
            await self._hold.back(refusal)
            return refusal_answer(refusal, None, caller.request_id, challenge=True)  # RFC 7662 §2.3: always 401

    def _check_room(self, endpoint: Endpoint) -> None:
        if self._free <= 0:
            self._meter.count(endpoint, "refused", "overloaded")
            raise Refusal("overloaded")

    async def _read(self, request: web.Request, endpoint: Endpoint, caller: Caller) -> Inquiry:
        try:
            form, _ = parse_form_parameters(await read_form(request, self._body_seconds))
            if "token" not in form:
                raise Refusal("missing_parameter", "token is missing.")
            certificate = self._client_certificate(request)
            presented = parse_presented(request.headers.get("Authorization"), form, certificate)
            # token_type_hint says where to look first; there is one place here.
            return Inquiry(form["token"], short_value(form, "client_id"), presented)
        except Refusal as refusal:
            await self._inspection.refuse(refusal, endpoint, caller)
            raise
