"""Checks requests against the bounds the contract declares."""

from collections.abc import AsyncIterator
from functools import cache, lru_cache
from typing import Any, Final

import protovalidate

from services.mesh.calls import Call
from services.mesh.chain import MALFORMED, Proceed
from services.mesh.errors import InvalidArgument, Violation

# Bytes of a message that may well come again, and is looked through once.
_LONGEST_KNOWN_AGAIN: Final = 1024


class Validation:
    """Refuses a message that breaks the contract's rules, each message of a stream as it arrives."""

    async def intercept(self, call: Call, request: Any, proceed: Proceed) -> Any:
        if call.method.client_streaming:
            return await proceed(call, self._checked(request))
        check(request, comes_again=call.method.idempotency == "NO_SIDE_EFFECTS")
        return await proceed(call, request)

    async def _checked(self, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for request in requests:
            check(request)
            yield request


def check(message: Any, *, comes_again: bool = False) -> None:
    """Returns for a message that keeps the contract's rules.

    Args:
        comes_again: A question, which may well be asked again: a short one is kept for that. Nothing to be stored is.

    Raises:
        InvalidArgument: It breaks some; each named.
    """
    if message is MALFORMED:
        raise InvalidArgument("the message cannot be read as this method's request")
    if comes_again and message.ByteSize() <= _LONGEST_KNOWN_AGAIN:
        found = _known(message.__class__, message.SerializeToString(deterministic=True))
    else:
        found = _found(message)
    if not found:
        return
    first = f"{found[0].field}: {found[0].description}" if found[0].field else found[0].description
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    raise InvalidArgument(first + more, violations=found)


def _found(message: Any) -> list[Violation]:
    return [
        Violation(_path(each.proto.field), each.proto.message or each.proto.rule_id)
        for each in _validator().collect_violations(message)
    ]


@lru_cache(maxsize=1024)
def _known(kind: Any, written: bytes) -> list[Violation]:
    """The same for the same message: no rule of the contract looks at the time."""
    return _found(kind.FromString(written))


@cache
def _validator() -> protovalidate.Validator:
    return protovalidate.Validator()


def _path(field: Any) -> str:
    """The field's path by the names the contract gives it, such as `documents[2].acl.principals`."""
    path = ""
    for element in field.elements if field else ():
        path += f".{element.field_name}" if path else element.field_name
        path += _subscript(element)
    return path


def _subscript(element: Any) -> str:
    if element.subscript is None:
        return ""
    key = element.subscript.value
    return f'["{key}"]' if isinstance(key, str) else f"[{str(key).lower()}]"
