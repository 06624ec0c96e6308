"""What makes a mutation safe to repeat: the one rule of request ids, wherever the receipts are kept.

A mutation that carries a `request_id` is done once. The same id and body, sent again within `REQUEST_TTL` of success,
is answered as it was then and does nothing; another body is refused with RequestIdReused. Ids of another tenant or of
another method are other ids: the key is (tenant, method, request_id). What was refused is not recorded, nor is what
only validates, so both may be sent again under the same id.

Each owner keeps its receipts beside what they are about and writes both in one step, so that a crash leaves both or
neither. Two that come at once are seen to by `once`.
"""

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, TypeVar

from google.protobuf.message import Message

from services.mesh.errors import DependencyUnavailable, DomainError, RequestIdReused
from services.mesh.identity import Caller

T = TypeVar("T")

REQUEST_TTL: Final = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class Receipt:
    """Names a request that may be repeated.

    Attributes:
        method: Its RPC, such as "CreateCollection"; no two mutations share a name.
        digest: Of the request's body, its request_id aside.
    """

    tenant: str
    method: str
    request_id: str
    digest: str

    def check(self, digest: str) -> None:
        """Raises RequestIdReused where the id was recorded with another digest."""
        if digest != self.digest:
            raise RequestIdReused(
                f"request_id: {self.request_id!r} came before with another body; use a new one", method=self.method
            )


def receipt_from(request: Message, who: Caller) -> Receipt | None:
    """What names the request; None without a request_id, or where nothing is to change."""
    sent: Any = request
    if not sent.request_id or sent.validate_only:
        return None
    body: Any = type(request)()
    body.CopyFrom(request)
    body.ClearField("request_id")
    return Receipt(
        tenant=who.tenant,
        method=request.DESCRIPTOR.name.removesuffix("Request"),
        request_id=sent.request_id,
        digest=hashlib.sha256(body.SerializeToString(deterministic=True)).hexdigest(),
    )


async def once(
    receipt: Receipt | None, recall: Callable[[Receipt], Awaitable[T | None]], work: Callable[[], Awaitable[T]]
) -> T:
    """What `work` gives, or what it gave when the same request came before.

    Of two that come at once, one is done. The other finds its effect there (a name taken, a document gone) and would
    be refused for it: so whoever is refused looks for the receipt of a twin before it says so.

    Args:
        recall: The recorded answer, brought to its end where a crash interrupted it; None where there is none.

    Raises:
        RequestIdReused: The id was recorded with another body.
    """
    if receipt is None:
        return await work()
    if (answered := await recall(receipt)) is not None:
        return answered
    try:
        return await work()
    except DependencyUnavailable:
        raise  # no twin's doing; what was recorded before it is brought to its end when the request comes again
    except DomainError:
        if (answered := await recall(receipt)) is not None:
            return answered
        raise
