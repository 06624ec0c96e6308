"""Gives each call a request id."""

import re
import secrets
from typing import Any

from services.mesh.calls import Call
from services.mesh.chain import Proceed

API_VERSION = "v1"
_VALID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


def request_id_from(sent: str | bytes | None) -> str:
    """The id as sent where it is plain and short enough to log, else a new one of 32 hex digits."""
    return sent if isinstance(sent, str) and _VALID.fullmatch(sent) else secrets.token_hex(16)


class RequestId:
    """Keeps the caller's x-request-id where valid, makes one where not, and answers with it and the API version."""

    async def intercept(self, call: Call, request: Any, proceed: Proceed) -> Any:
        call.request_id = request_id_from(call.metadata.get("x-request-id"))
        told = [("x-request-id", call.request_id), ("x-api-version", API_VERSION)]
        call.headers += told
        response = await proceed(call, request)
        if call.headers != told or not _known(call):
            await call.send_headers()
        return response


def _known(call: Call) -> bool:
    """Whether its caller needs neither: the edge puts both on every answer itself, and a service has given the id.

    Headers ahead of the answer are an operation of gRPC by themselves, a tenth of what a search costs its service.
    """
    return call.by_edge or (call.caller is not None and call.caller.service is not None)
