"""``POST /revoke`` (RFC 7009 §2): ends a token before its time."""

from aiohttp import web

from gateway.callers import Caller
from gateway.http.inquiry import InquiryForms
from gateway.inspection import Inquiry, Inspection


class RevocationEndpoint:
    """The revocation endpoint."""

    def __init__(self, inspection: Inspection, forms: InquiryForms) -> None:
        self._inspection = inspection
        self._forms = forms

    async def post(self, request: web.Request) -> web.Response:
        """Answers 200 without a body once the token is good for nothing, or an error of RFC 7009 §2.2.1."""

        async def revoke(inquiry: Inquiry, caller: Caller) -> web.Response:
            await self._inspection.revoke(inquiry, caller)
            return web.Response(headers={"Cache-Control": "no-store", "X-Request-Id": caller.request_id})

        return await self._forms.answered(request, "revocation", revoke)
