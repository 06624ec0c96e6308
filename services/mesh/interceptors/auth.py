"""Decides who is calling and whether they may."""

from typing import Any

from services.mesh.calls import Call
from services.mesh.chain import Proceed
from services.mesh.errors import PermissionDenied, Unauthenticated
from services.mesh.identity import Caller, acting_for
from services.mesh.tls import peer_roles
from services.mesh.tokens import TokenVerifier

ANONYMOUS = "anonymous"


class Auth:
    """Denies by default: a verified token with the method's scope, a service's, or none where the method is public.

    A service has checked its caller's scopes at the method the caller called, so what it relays needs none here; the
    tenant stays the caller's. Over TLS its token counts only on a connection that shows the local CA's certificate for
    that very service.
    """

    def __init__(self, verifier: TokenVerifier, public_tenant: str, *, anonymous: bool = True) -> None:
        self._verifier = verifier
        self._admits_anonymous = anonymous
        self._anonymous = Caller(tenant=public_tenant, subject=ANONYMOUS, anonymous=True)

    async def intercept(self, call: Call, request: Any, proceed: Proceed) -> Any:
        call.caller = who = await self._authenticated(call)
        if who.service is not None:
            _check_connection(call, who.service)
        _authorise(call, who)
        with acting_for(who):
            return await proceed(call, request)

    async def _authenticated(self, call: Call) -> Caller:
        sent = call.metadata.get("authorization")
        if sent is None:
            if not self._admits_anonymous and not call.method.internal:
                raise Unauthenticated(f"{call.method.name} needs a token", scope=call.method.scope)
            return self._anonymous
        scheme, _, token = str(sent).partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Unauthenticated("authorization must be: Bearer <token>")
        return await self._verifier.verify(token.strip())


def _check_connection(call: Call, service: str) -> None:
    roles = peer_roles(call.context.auth_context())
    if roles and service not in roles:
        raise PermissionDenied(f"the token is of {service}, the connection of {' and '.join(sorted(roles))}")


def _authorise(call: Call, who: Caller) -> None:
    method = call.method
    if who.service is not None:
        return
    if method.internal:
        raise PermissionDenied(f"{method.name} is for services only")
    if who.anonymous:
        if not method.public_collections:
            raise Unauthenticated(f"{method.name} needs a token", scope=method.scope)
        return
    if method.scope not in who.scopes:
        raise PermissionDenied(f"{method.name} needs the scope {method.scope}", scope=method.scope)
