"""Who a call acts for: the verified caller, its tenant, and where it is kept while a call runs."""

from __future__ import annotations  # grpc's classes are generic to type checkers only

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import grpc


@dataclass(frozen=True, slots=True)
class Caller:
    """The verified identity a call acts for. Tenant and scopes come from the token alone.

    Attributes:
        tenant: Whose data the call may see. Never empty.
        subject: The token's `sub`; "anonymous" without a token.
        scopes: Scopes granted directly or through roles.
        principals: What document ACLs are matched to: `user:<sub>` and `group:<g>` for each group of the token.
        tier: Rate tier, "free" unless the token says otherwise.
        anonymous: No token was sent; only PUBLIC collections may be seen.
        service: Name of the service that relays the call for the caller; None when the caller came directly.
        token_id: The `jti` of the caller's token; empty where it has none, or none was sent.
        by_itself: Nobody waits for the call: the service sees to something recorded earlier. Revocations, which end
            what callers ask for, do not end that.
    """

    tenant: str
    subject: str
    scopes: frozenset[str] = frozenset()
    principals: frozenset[str] = field(default_factory=frozenset)
    tier: str = "free"
    anonymous: bool = False
    service: str | None = None
    token_id: str = ""
    by_itself: bool = False

    @classmethod
    def of_service(cls, service: str, tenant: str) -> Caller:
        """A service that sees to something of a tenant by itself, such as what has expired."""
        return cls(tenant=tenant, subject=service, service=service, by_itself=True)


_current: ContextVar[Caller] = ContextVar("caller")


def caller(context: grpc.aio.ServicerContext[Any, Any] | None = None) -> Caller:
    """The caller of the call being served. Raises LookupError outside a call: a defect, never an empty tenant."""
    return _current.get()


@contextmanager
def acting_for(who: Caller) -> Iterator[None]:
    """Outgoing calls inside the block are made on behalf of `who` (the auth interceptor and workers use this)."""
    token = _current.set(who)
    try:
        yield
    finally:
        _current.reset(token)
