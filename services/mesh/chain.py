"""Runs our interceptors around every handler, whatever its kind: written once for unary and streaming alike."""

from __future__ import annotations  # grpc's classes are generic to type checkers only

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, Protocol, TypeAlias

import grpc
from google.protobuf.message import DecodeError

from ragweave.contract import Method
from services.mesh.calls import Call, serving

# How long gRPC may take, after the last message of a stream, to tell that its caller gave it up.
_CANCELLATION_SHOWS_S: Final = 0.025


class _Malformed:
    """What arrived in place of a message and cannot be read as one."""


MALFORMED = _Malformed()

# Takes the call and its request (a message, MALFORMED, or an async iterator of them); returns the response, or None
# after it wrote all responses of a stream.
Proceed: TypeAlias = Callable[[Call, Any], Awaitable[Any]]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

# Infrastructure that gRPC itself asks for; outside the contract, open to anyone who reaches the port, never logged.
EXEMPT_SERVICES = ("grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection")


class Interceptor(Protocol):
    """One concern around a call of any kind."""

    async def intercept(self, call: Call, request: Any, proceed: Proceed) -> Any:
        """Awaits `proceed(call, request)` once, or raises."""
        ...


class Chain(grpc.aio.ServerInterceptor):
    """Wraps each handler in the interceptors, outermost first. A method outside the contract is refused.

    gRPC builds its own interceptors' handlers anew for each call and has a shape for each of its four kinds; here every
    kind becomes a coroutine that is composed once for a method, which keeps a call cheap.
    """

    def __init__(self, interceptors: Sequence[Interceptor], methods: Mapping[str, Method]) -> None:
        self._interceptors = tuple(interceptors)
        self._methods = methods
        self._wrapped: dict[str, tuple[Handler, Handler]] = {}
        self._running: set[asyncio.Task[Any]] = set()

    @property
    def running(self) -> int:
        """How many handlers run."""
        return len(self._running)

    async def ended(self, timeout_s: float) -> None:
        """Returns when no handler runs any more, or the time is up: gRPC's `stop` cancels them and does not wait."""
        if self._running:
            await asyncio.wait(self._running, timeout=timeout_s)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        handler = await continuation(handler_call_details)
        path = handler_call_details.method
        if handler is None or path.split("/")[1] in EXEMPT_SERVICES:
            return handler
        known = self._wrapped.get(path)
        if known is None or known[0] is not handler:
            known = self._wrapped[path] = (handler, self._wrap(path, handler))
        return known[1]

    def _wrap(self, path: str, handler: Handler) -> Handler:
        method = self._methods.get(path)
        if method is None:
            return _as_kind(handler, _refuse)
        proceed = _innermost(handler)
        for interceptor in reversed(self._interceptors):
            proceed = partial(_step, interceptor, proceed)

        async def run(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            call = Call(method, context, dict(context.invocation_metadata() or ()))
            task = asyncio.current_task()
            assert task is not None
            self._running.add(task)
            try:
                with serving(call):
                    return await proceed(call, request)
            finally:
                self._running.discard(task)

        return _as_kind(handler, run)


def _step(interceptor: Interceptor, proceed: Proceed, call: Call, request: Any) -> Awaitable[Any]:
    return interceptor.intercept(call, request, proceed)


async def _refuse(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, "this method is not part of the contract")


def _innermost(handler: Handler) -> Proceed:
    """The handler's own behaviour as a coroutine that writes a stream's responses itself."""
    behavior: Any = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream

    if not handler.response_streaming:

        async def respond(call: Call, request: Any) -> Any:
            return await behavior(_whole(request) if handler.request_streaming else request, call.context)

        return respond

    async def stream(call: Call, request: Any) -> None:
        responses = behavior(request, call.context)
        if inspect.isawaitable(responses):  # a servicer that writes to the context by itself
            await call.send_headers()
            await responses
            return
        try:
            async for response in responses:
                if not call.headers_sent:
                    await call.send_headers()
                await call.context.write(response)
        finally:
            if inspect.isasyncgen(responses):
                await responses.aclose()

    return stream


async def _whole(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """The messages of a stream that its caller ended; where the caller gave it up, the task is cancelled instead.

    To gRPC both have no more messages, and which it was it tells a moment later: what is cut off would look whole.
    """
    async for request in requests:
        yield request
    await asyncio.sleep(_CANCELLATION_SHOWS_S)


def _as_kind(handler: Handler, run: Callable[..., Awaitable[Any]]) -> Handler:
    """A gRPC handler of the same kind and messages as `handler` that runs `run` instead."""
    make: Any = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[handler.request_streaming, handler.response_streaming]
    wrapped: Handler = make(run, _tolerant(handler.request_deserializer), handler.response_serializer)
    return wrapped


def _tolerant(deserialize: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
    """Leaves a message that cannot be read to the interceptors: gRPC would answer UNKNOWN, in the parser's words."""
    if deserialize is None:
        return None

    def read(message: bytes) -> Any:
        try:
            return deserialize(message)
        except DecodeError:
            return MALFORMED

    return read
