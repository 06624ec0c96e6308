"""Decides whether the caller may call."""

from typing import Any

from services.mesh.calls import Call
from services.mesh.chain import Proceed
from services.mesh.errors import PermissionDenied, Unauthenticated
from services.mesh.identity import Caller


class Access:
    """Denies by default: a token with the method's scope, a service's, or none where the method is public or open.

    A service has checked its caller's scopes at the method the caller called, so what it relays needs none here.
    """

    async def intercept(self, call: Call, request: Any, proceed: Proceed) -> Any:
        if call.caller is None:
            raise Unauthenticated("nobody has been authenticated")
        _authorise(call, call.caller)
        return await proceed(call, request)


def _authorise(call: Call, who: Caller) -> None:
    method = call.method
    if who.service is not None:
        return
    if method.internal:
        raise PermissionDenied(f"{method.name} is for services only")
    if method.open:
        return
    if who.anonymous:
        if not method.public_collections:
            raise Unauthenticated(f"{method.name} needs a token", scope=method.scope)
        return
    if method.scope not in who.scopes:
        raise PermissionDenied(f"{method.name} needs the scope {method.scope}", scope=method.scope)
