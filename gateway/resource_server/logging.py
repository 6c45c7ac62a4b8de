"""Who called, in every log record of a request: ``client_id``, ``sub`` and ``act``.

``handler.addFilter(CallerFilter())`` on each handler, and ``%(client_id)s`` in its format. The middlewares of this
package say who it is; elsewhere ``set_caller`` does.
"""

import json
import logging
from contextvars import ContextVar
from dataclasses import dataclass

from gateway.resource_server.claims import AccessTokenClaims

UNKNOWN = "-"
"""What a record says where nobody has presented a good token."""


@dataclass(frozen=True, slots=True)
class _Caller:
    client_id: str = UNKNOWN
    sub: str = UNKNOWN
    act: str = UNKNOWN


_NOBODY = _Caller()
_caller: ContextVar[_Caller] = ContextVar("caller", default=_NOBODY)


def set_caller(claims: AccessTokenClaims | None) -> None:
    """From now on, records of this thread or task (and of tasks that it begins) name this caller; None: nobody."""
    if claims is None:
        _caller.set(_NOBODY)
    else:
        act = UNKNOWN if claims.act is None else json.dumps(claims.act, separators=(",", ":"))
        _caller.set(_Caller(claims.client_id, claims.subject, act))


class CallerFilter(logging.Filter):
    """Adds ``client_id``, ``sub`` and ``act`` (as JSON) to each record, and lets it pass.

    Belongs on handlers: a filter on a logger does not see the records of the loggers below it. A handler that passes
    records to another thread (``QueueHandler``) needs it itself.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Always True."""
        caller = _caller.get()
        record.client_id, record.sub, record.act = caller.client_id, caller.sub, caller.act
        return True
