"""Channels to the other services: each call bounded, on behalf of the caller, traced, retried as the contract says."""

import re
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Generator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from math import inf
from time import monotonic
from types import TracebackType
from typing import Any, Final, Self

import grpc
from grpc.aio import ClientCallDetails, Metadata
from grpc_health.v1 import health_pb2, health_pb2_grpc
from opentelemetry.semconv._incubating.attributes.rpc_attributes import (
    RPC_METHOD,
    RPC_RESPONSE_STATUS_CODE,
    RPC_SYSTEM_NAME,
)
from opentelemetry.semconv.attributes.server_attributes import SERVER_ADDRESS, SERVER_PORT

from ragweave import contract
from services.mesh import traces
from services.mesh.breakers import Breaker, Question, Verdict, breaker_of
from services.mesh.calls import bound_s, current_call
from services.mesh.chain import EXEMPT_SERVICES
from services.mesh.hops import Hop
from services.mesh.identity import caller
from services.mesh.interceptors.request_id import request_id_from
from services.mesh.listening import CannotStart
from services.mesh.settings import MeshSettings
from services.mesh.status import DETAILS_KEY
from services.mesh.tls import Certificates, renewing_channel
from services.mesh.tokens import ServiceTokens
from services.mesh.traces import Part

# What a call leaves unused at each hop, so that it hears of a late callee before its own caller gives up.
DEADLINE_MARGIN_S = 0.010
# A server that was killed is back within seconds: it is looked for at that pace, not gRPC's two minutes. The second is
# how long a connection may take: calls wait for that of a process that takes another's place (succession.py).
RECONNECTING: Final = {
    "grpc.initial_reconnect_backoff_ms": 100,
    "grpc.min_reconnect_backoff_ms": 3_000,
    "grpc.max_reconnect_backoff_ms": 500,
}
# Silence after which a peer is asked for a sign of life; half as long it has to give one.
KEEPALIVE_MS: Final = 6_000
# A target that is no list of replicas.
_ONE_ADDRESS: Final = re.compile(r"(?P<host>[^:,/]+|\[[^\],]+\]):(?P<port>\d{1,5})")
# For health checks, which the contract does not bound.
_EXEMPT_TIMEOUT_S = 5.0


_service: ContextVar[str] = ContextVar("service", default="ragweave")


@contextmanager
def opening_as(service: str) -> Iterator[None]:
    """Channels opened inside the block carry tokens of `service`; `serve` does this around its wiring."""
    token = _service.set(service)
    try:
        yield
    finally:
        _service.reset(token)


@asynccontextmanager
async def open_channel(
    settings: MeshSettings, target: str, *, one_of: str = "", ready_only: bool = True
) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to `target`, closed on exit together with the calls still running on it.

    Calls act for `identity.caller()`: inside a served call that is its caller; elsewhere wrap them in `acting_for(...)`
    (LookupError otherwise). A `timeout` given with a call, or `calls.bounded` around it, can only shorten its bound. An
    AioRpcError of it has an attribute `service`, the name of the service called. While the service is left alone by its
    breaker, calls raise DependencyUnavailable. Open it after all child processes are started, once for the life of the
    process. With TLS on it shows the service's certificate and refuses a peer whose certificate does not name the
    service that `target` is set for.

    Args:
        one_of: The target that `target` is one address of, where it is a replica's own.
        ready_only: Whether calls go only to those who say that they take them.

    Raises:
        CannotStart: There is no key to sign its tokens with.
        CertificatesUnusable: TLS is on, and the service's certificate cannot be used.
    """
    if settings.mesh_key is None or not settings.mesh_key.is_file():
        raise CannotStart(
            f"{_service.get()}: there is no key of service tokens at {settings.mesh_key}: `ragweave up` makes one for "
            "the mesh in its folder; for another, set RAGWEAVE_MESH_KEY or RAGWEAVE_DATA_DIR"
        )
    breaker = breaker_of(settings.role_at(target) or target)
    added = _Added(ServiceTokens(settings, _service.get()), breaker, target)
    options = [
        ("grpc.service_config", contract.service_config(health_check=ready_only)),
        ("grpc.enable_retries", 1),
        # Calls whose request is longer than the buffer are not retried.
        ("grpc.per_rpc_retry_buffer_size", settings.max_message_bytes),
        ("grpc.max_send_message_length", settings.max_message_bytes),
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        # A peer that vanished without a word is noticed within 9 s of a call to it; the next one gets a new connection.
        ("grpc.keepalive_time_ms", KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_MS // 2),
        ("grpc.http2.ping_timeout_ms", KEEPALIVE_MS // 2),  # or it is a minute, whatever the line above says
        ("grpc.http2.max_pings_without_data", 0),
        *RECONNECTING.items(),
    ]
    # grpc.aio registers an interceptor of several kinds for the first of them only: one class a kind.
    interceptors = [_UnaryStream(added), _StreamUnary(added), _StreamStream(added)]
    if not settings.tls:
        plain: grpc.aio.Channel = _Channel(
            grpc.aio.insecure_channel(target, options=options, interceptors=interceptors), added
        )
        async with plain as channel, breaker.looking(lambda: _serving(channel)):
            yield channel
        return
    if name := settings.server_name(one_of or target):
        options.append(("grpc.ssl_target_name_override", name))

    def opened(credentials: grpc.ChannelCredentials) -> grpc.aio.Channel:
        return _Channel(grpc.aio.secure_channel(target, credentials, options=options, interceptors=interceptors), added)

    renewed = renewing_channel(Certificates(settings.certificates(_service.get())), opened)
    async with renewed as channel, breaker.looking(lambda: _serving(channel)):
        yield channel


async def _serving(channel: grpc.aio.Channel) -> None:
    """Raises where the service does not answer, or does not serve."""
    health: Any = health_pb2_grpc.HealthStub(channel)
    answer = await health.Check(health_pb2.HealthCheckRequest())
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        raise ConnectionError("not serving")


class _Sending:
    """A call on its way, as a context manager around waiting for its answer.

    Its breaker learns how it ended, it is counted and its span ended, and its error notes which service failed: gRPC
    only knows an address.
    """

    __slots__ = ("_hop", "_part", "_path", "_question", "metadata", "timeout_s")

    def __init__(self, question: Question, timeout_s: float, metadata: Metadata, path: str, part: Part) -> None:
        self.timeout_s = timeout_s
        self.metadata = metadata
        self._question = question
        self._path = path
        self._part = part
        self._hop = Hop(path)

    def __enter__(self) -> None:
        self._hop.__enter__()

    def answered(self) -> None:
        """For a stream: there is a message, whatever becomes of the rest."""
        self._question.settle()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._hop.__exit__(kind, error, traceback)
        self._question.settle(error)
        if isinstance(error, grpc.aio.AioRpcError):
            error.service = _service_of(self._path).rpartition(".")[2]  # type: ignore[attr-defined]
        if self._part.recorded:
            failure = "" if error is None else traces.failure_of(error)
            self._part.note(RPC_RESPONSE_STATUS_CODE, failure or "OK")
            self._part.end(failure)


class _Added:
    """What every outgoing call gets: leave to be made, a timeout, a service token, the request id, the trace."""

    def __init__(self, tokens: ServiceTokens, breaker: Breaker, target: str) -> None:
        self._tokens = tokens
        self._breaker = breaker
        self._peer: dict[str, str | int] = {RPC_SYSTEM_NAME: "grpc", SERVER_ADDRESS: target}
        if one := _ONE_ADDRESS.fullmatch(target):
            self._peer |= {SERVER_ADDRESS: one["host"], SERVER_PORT: int(one["port"])}

    def to(self, path: str, timeout_s: float | None, metadata: Iterable[tuple[str, Any]] | None) -> _Sending:
        """Raises DependencyUnavailable while the service is left alone; its health is asked for all the same."""
        own: dict[str, str] = {}
        if _service_of(path) in EXEMPT_SERVICES:
            longest_s = _EXEMPT_TIMEOUT_S
            question = self._breaker.aside()
        else:
            longest_s = contract.method(path).timeout_s
            own["authorization"] = f"Bearer {self._tokens.token_for(caller())}"
            question = self._breaker.asking(_verdict)
        part = self._trace(path, own)
        call = current_call()
        bounded_s = outgoing_timeout_s(min(longest_s, bound_s()), timeout_s, call.remaining_s() if call else None)
        given = ((name, value) for name, value in metadata or () if name not in own)
        return _Sending(question, bounded_s, Metadata(*given, *own.items()), path, part)

    def to_details(self, details: ClientCallDetails) -> tuple[_Sending, ClientCallDetails]:
        """As `to`, as gRPC's interceptors have it."""
        sent: str | bytes = details.method
        path = sent.decode() if isinstance(sent, bytes) else sent
        sending = self.to(path, details.timeout, details.metadata)
        return sending, ClientCallDetails(
            details.method, sending.timeout_s, sending.metadata, details.credentials, details.wait_for_ready
        )

    def _trace(self, path: str, own: dict[str, str]) -> Part:
        """Adds what the call belongs to; its own span is the parent of the callee's."""
        here = traces.current()
        own["x-request-id"] = here.request_id if here else request_id_from(None)
        part = traces.part(path[1:], {**self._peer, RPC_METHOD: path[1:]})
        own |= traces.headers(part)
        return part


def outgoing_timeout_s(bound_s: float, asked_s: float | None, remaining_s: float | None) -> float:
    """The shortest of the method's bound, what was asked for, and what the incoming call has left less a margin."""
    left_s = inf if remaining_s is None else max(0.0, remaining_s - DEADLINE_MARGIN_S)
    return min(bound_s, left_s, inf if asked_s is None else asked_s)


def _service_of(path: str) -> str:
    return path.split("/")[1]


class _Channel(grpc.aio.Channel):
    """A channel whose unary calls are added to as they are made; for other kinds it has interceptors.

    One of those costs a call another task, and all that gRPC makes for a call once more.
    """

    def __init__(self, channel: grpc.aio.Channel, added: _Added) -> None:
        self._channel = channel
        self._added = added

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self, grace: float | None = None) -> None:
        await self._channel.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self._channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._channel.channel_ready()

    def unary_unary(self, method: str, *arguments: Any, **named: Any) -> Any:
        plain = self._channel.unary_unary(method, *arguments, **named)
        known = contract.methods().get(method)  # health is not in it
        repeatable = known is not None and known.idempotency != "IDEMPOTENCY_UNKNOWN"

        async def answer(request: Any, **options: Any) -> Any:
            sending = self._added.to(method, options.pop("timeout", None), options.pop("metadata", None))
            began_s = monotonic()
            with sending:
                try:
                    return await plain(request, timeout=sending.timeout_s, metadata=sending.metadata, **options)
                except grpc.aio.AioRpcError as error:
                    if error.code() is not grpc.StatusCode.CANCELLED:  # by us has another exception
                        raise
                    left_s = sending.timeout_s - (monotonic() - began_s)
                    if left_s <= 0 or not repeatable:
                        raise _gone(error) from error
                # A server that stops gave it up; gRPC repeats no such call. A successor takes it, or another replica.
                try:
                    return await plain(request, timeout=left_s, metadata=sending.metadata, **options)
                except grpc.aio.AioRpcError as error:
                    if error.code() is not grpc.StatusCode.CANCELLED:
                        raise
                    raise _gone(error) from error

        return answer

    def unary_stream(self, *arguments: Any, **named: Any) -> Any:
        return self._channel.unary_stream(*arguments, **named)

    def stream_unary(self, *arguments: Any, **named: Any) -> Any:
        return self._channel.stream_unary(*arguments, **named)

    def stream_stream(self, *arguments: Any, **named: Any) -> Any:
        return self._channel.stream_stream(*arguments, **named)


class _StreamUnary(grpc.aio.StreamUnaryClientInterceptor):
    def __init__(self, added: _Added) -> None:
        self._added = added

    async def intercept_stream_unary(
        self, continuation: Callable[..., Awaitable[Any]], client_call_details: ClientCallDetails, request_iterator: Any
    ) -> Any:
        sending, details = self._added.to_details(client_call_details)
        call = await continuation(details, request_iterator)
        answer = call.__await__

        def watched() -> Generator[Any, None, Any]:
            with sending:
                return (yield from answer())

        # Awaiting the answer in here would block a caller that has yet to `write` its requests.
        call.__await__ = watched
        return call


class _UnaryStream(grpc.aio.UnaryStreamClientInterceptor):
    def __init__(self, added: _Added) -> None:
        self._added = added

    async def intercept_unary_stream(
        self, continuation: Callable[..., Awaitable[Any]], client_call_details: ClientCallDetails, request: Any
    ) -> Any:
        sending, details = self._added.to_details(client_call_details)
        return _watched(await continuation(details, request), sending)


class _StreamStream(grpc.aio.StreamStreamClientInterceptor):
    def __init__(self, added: _Added) -> None:
        self._added = added

    async def intercept_stream_stream(
        self, continuation: Callable[..., Awaitable[Any]], client_call_details: ClientCallDetails, request_iterator: Any
    ) -> Any:
        sending, details = self._added.to_details(client_call_details)
        return _watched(await continuation(details, request_iterator), sending)


async def _watched(responses: AsyncIterable[Any], sending: _Sending) -> AsyncIterator[Any]:
    with sending:
        async for response in responses:
            sending.answered()
            yield response


def _gone(error: grpc.aio.AioRpcError) -> grpc.aio.AioRpcError:
    """A server that stops cancels what it has taken in and not begun, or not ended in time: it is away."""
    metadata = error.initial_metadata(), error.trailing_metadata()
    return grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, *metadata, "the server gave the call up")


def _verdict(error: Exception) -> Verdict:
    """A status with details is one that the service itself has given; it may be of something that it needs."""
    if not isinstance(error, grpc.aio.AioRpcError) or DETAILS_KEY in dict(error.trailing_metadata() or ()):
        return Verdict.ANSWER
    match error.code():
        case grpc.StatusCode.UNAVAILABLE:
            return Verdict.FAILURE
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return Verdict.LATE
    return Verdict.ANSWER
