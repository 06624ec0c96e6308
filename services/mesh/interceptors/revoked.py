"""Refuses callers that are denied."""

import asyncio
from collections.abc import Awaitable
from typing import Any

from services.mesh.calls import Call
from services.mesh.chain import Proceed
from services.mesh.deny_list import Denials
from services.mesh.errors import TokenRevoked
from services.mesh.identity import Caller


class Revoked:
    """Refuses whom the deny list names, whoever relays the call, and ends their streams once it does."""

    def __init__(self, denials: Denials) -> None:
        self._denials = denials

    async def intercept(self, call: Call, request: Any, proceed: Proceed) -> Any:
        who = call.caller
        if who is None:
            return await proceed(call, request)
        if self._denials.denies(who):
            raise _revoked()
        if call.method.client_streaming or call.method.server_streaming:
            return await self._until_denied(who, proceed(call, request))
        return await proceed(call, request)

    async def _until_denied(self, who: Caller, stream: Awaitable[Any]) -> Any:
        try:
            async with asyncio.timeout(None) as bound:
                with self._denials.watching(who, lambda: bound.reschedule(0)):
                    return await stream
        except TimeoutError:
            if not bound.expired():
                raise
            raise _revoked() from None


def _revoked() -> TokenRevoked:
    """Says no more: whether token, subject or tenant is denied is not for whoever holds it."""
    return TokenRevoked("the token has been revoked")
