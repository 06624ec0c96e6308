"""Decides who is calling."""

from typing import Any

from services.mesh.calls import Call
from services.mesh.chain import Proceed
from services.mesh.errors import PermissionDenied, Unauthenticated
from services.mesh.identity import Caller, acting_for
from services.mesh.tls import peer_roles
from services.mesh.tokens import TokenVerifier

ANONYMOUS = "anonymous"


class Auth:
    """A user by a verified token, the caller a service acts for by that service's, or nobody in the public tenant.

    Over TLS a service's token counts only on a connection that shows the local CA's certificate for that very service.
    """

    def __init__(self, verifier: TokenVerifier, public_tenant: str, *, anonymous: bool = True) -> None:
        self._verifier = verifier
        self._admits_anonymous = anonymous
        self._anonymous = Caller(tenant=public_tenant, subject=ANONYMOUS, anonymous=True)

    async def intercept(self, call: Call, request: Any, proceed: Proceed) -> Any:
        call.caller = who = await self._authenticated(call)
        if who.service is not None:
            _check_connection(call, who.service)
        with acting_for(who):
            return await proceed(call, request)

    async def _authenticated(self, call: Call) -> Caller:
        sent = call.metadata.get("authorization")
        if sent is None:
            if not (self._admits_anonymous or call.method.internal or call.method.open):
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
