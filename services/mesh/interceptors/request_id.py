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
        call.headers += [("x-request-id", call.request_id), ("x-api-version", API_VERSION)]
        response = await proceed(call, request)
        if not call.headers_sent:
            await call.send_headers()
        return response
