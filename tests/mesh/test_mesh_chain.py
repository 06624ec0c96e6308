"""Every interceptor around every kind of RPC, on real servers and channels."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from typing import Any

import grpc
import pytest
import structlog
from google.rpc import error_details_pb2 as details
from google.rpc.status_pb2 import Status
from prometheus_client import REGISTRY

from ragweave import contract
from ragweave.v1 import (
    document_service_pb2,
    document_service_pb2_grpc,
    embedding_service_pb2,
    embedding_service_pb2_grpc,
)
from services.mesh import interceptors
from services.mesh.calls import current_call
from services.mesh.errors import CollectionNotFound, InvalidArgument, TooManyRequests
from services.mesh.identity import caller
from services.mesh.telemetry import correlated
from services.mesh.tokens import ServiceTokens
from tests.audit_fakes import FakeTrail, NobodyDenied
from tests.mesh.harness import World, caller_of
from tests.mesh.kinds import KINDS, Kind, Scripted, add_scripted, responses_of

each_kind = pytest.mark.parametrize("kind", KINDS, ids=str)
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"


class Server:
    """A scripted server of all kinds and a bare channel to it."""

    def __init__(self, world: World, channel: grpc.aio.Channel, servicer: Scripted, port: int) -> None:
        self.world, self.channel, self.servicer, self.port = world, channel, servicer, port

    def start(self, kind: Kind, *, metadata: Any = None, **options: Any) -> Any:
        sent = self.world.bearer(roles=["admin"]) if metadata is None else metadata
        return kind.start(self.channel, metadata=sent, **options)

    async def failure(self, kind: Kind, **options: Any) -> grpc.aio.AioRpcError:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await responses_of(self.start(kind, **options))
        return raised.value


@pytest.fixture
async def server(world: World) -> AsyncIterator[Server]:
    servicer = Scripted()
    async with world.serving(add_scripted, servicer, name="scripted") as port, world.channel(port) as channel:
        yield Server(world, channel, servicer, port)


@pytest.fixture
def lines() -> Iterator[list[Any]]:
    with structlog.testing.capture_logs(processors=[correlated]) as captured:
        yield captured


def status_in(error: grpc.aio.AioRpcError) -> Status:
    return Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"])  # type: ignore[arg-type]


def detail(error: grpc.aio.AioRpcError, kind: type[Any]) -> Any:
    found = kind()
    assert any(each.Unpack(found) for each in status_in(error).details), f"no {kind.__name__}"
    return found


async def until(condition: Callable[[], bool]) -> None:
    """Waits for what a server does after its client has the answer; the test's own timeout bounds it."""
    while not condition():
        await asyncio.sleep(0.005)


def raising(error: BaseException) -> Any:
    async def script() -> None:
        raise error

    return script


@each_kind
async def test_a_call_is_answered_with_all_its_responses(server: Server, kind: Kind) -> None:
    assert len(await responses_of(server.start(kind))) == (2 if "server" in kind.name or kind.name == "bidi" else 1)


async def test_a_stream_that_its_caller_gives_up_is_never_taken_for_a_whole_one(world: World) -> None:
    class Taking(Scripted):
        begun: asyncio.Event
        over: asyncio.Event

        async def UploadDocument(self, requests: Any, context: Any) -> document_service_pb2.UploadDocumentResponse:
            try:
                async for _ in requests:
                    self.begun.set()
                self.calls += 1
                return document_service_pb2.UploadDocumentResponse()
            finally:
                self.over.set()

    servicer = Taking()
    async with world.serving(add_scripted, servicer, name="scripted") as port, world.channel(port) as channel:
        stub = document_service_pb2_grpc.DocumentServiceStub(channel)
        for _ in range(40):
            servicer.begun, servicer.over = asyncio.Event(), asyncio.Event()
            call = stub.UploadDocument(metadata=world.bearer(roles=["admin"]))
            await call.write(document_service_pb2.UploadDocumentRequest(parent="collections/a"))
            await servicer.begun.wait()
            call.cancel()
            await servicer.over.wait()
        assert servicer.calls == 0


@each_kind
async def test_a_valid_request_id_is_kept_and_answered_with_the_api_version(server: Server, kind: Kind) -> None:
    call = server.start(kind, metadata=(*server.world.bearer(roles=["admin"]), ("x-request-id", "mine-1")))
    await responses_of(call)
    assert dict(await call.initial_metadata()) == {"x-request-id": "mine-1", "x-api-version": "v1"}


@each_kind
async def test_a_request_id_that_could_forge_a_log_line_is_replaced(server: Server, kind: Kind) -> None:
    call = server.start(kind, metadata=(*server.world.bearer(roles=["admin"]), ("x-request-id", "a b")))
    await responses_of(call)
    assert len(dict(await call.initial_metadata())["x-request-id"]) == 32


@pytest.mark.parametrize("of_edge", ["x-ragweave-timeout", "x-envoy-original-path"])
async def test_the_edge_is_not_told_what_it_says_itself(server: Server, of_edge: str) -> None:
    call = server.start(KINDS[0], metadata=(*server.world.bearer(roles=["admin"]), (of_edge, "5S")))
    await responses_of(call)
    assert not await call.initial_metadata()


async def test_the_edge_is_told_what_it_cannot_know(server: Server) -> None:
    async def script() -> None:
        current_call().headers.append(("x-health", "DEGRADED"))  # type: ignore[union-attr]

    server.servicer.script = script
    call = server.start(KINDS[0], metadata=(*server.world.bearer(roles=["admin"]), ("x-ragweave-timeout", "5S")))
    await responses_of(call)
    assert dict(await call.initial_metadata())["x-health"] == "DEGRADED"


async def test_a_service_is_not_told_the_request_id_that_it_gave(server: Server) -> None:
    token = ServiceTokens(server.world.mesh, "jobs").token_for(caller_of("ann"))
    call = server.start(KINDS[0], metadata=(("authorization", f"Bearer {token}"), ("x-request-id", "mine-1")))
    await responses_of(call)
    assert not await call.initial_metadata()


@each_kind
async def test_a_domain_error_becomes_a_status_with_its_reason(server: Server, kind: Kind) -> None:
    server.servicer.script = raising(CollectionNotFound("collection a is not there", collection="a"))
    error = await server.failure(kind)
    info = detail(error, details.ErrorInfo)
    assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, "collection a is not there")
    assert (info.reason, info.domain, dict(info.metadata)) == ("COLLECTION_NOT_FOUND", "ragweave", {"collection": "a"})


@each_kind
async def test_field_faults_become_a_bad_request(server: Server, kind: Kind) -> None:
    server.servicer.script = raising(InvalidArgument.of("top_k", "is too large"))
    error = await server.failure(kind)
    fault = detail(error, details.BadRequest).field_violations[0]
    assert (error.details(), fault.field, fault.description) == ("top_k: is too large", "top_k", "is too large")


@each_kind
async def test_a_full_queue_says_when_to_come_back(server: Server, kind: Kind) -> None:
    server.servicer.script = raising(TooManyRequests("the queue is full", retry_after_s=1.5))
    error = await server.failure(kind)
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert detail(error, details.RetryInfo).retry_delay.ToMilliseconds() == 1500
    assert detail(error, details.QuotaFailure).violations[0].description == "the queue is full"
    assert dict(error.trailing_metadata())["retry-after"] == "2"


@each_kind
async def test_an_unexpected_error_is_logged_and_tells_its_caller_nothing(
    server: Server, kind: Kind, lines: list[Any]
) -> None:
    server.servicer.script = raising(RuntimeError("secret of the driver"))
    error = await server.failure(kind, metadata=(*server.world.bearer(roles=["admin"]), ("traceparent", TRACEPARENT)))
    assert (error.code(), error.details()) == (grpc.StatusCode.INTERNAL, "internal error")
    assert b"secret" not in status_in(error).SerializeToString()
    logged = next(line for line in lines if line["event"] == "unexpected error")
    assert logged["trace_id"] == TRACEPARENT.split("-")[1]
    assert "secret of the driver" in str(logged["exc_info"])


@each_kind
async def test_a_stray_cancelled_error_ends_the_call_at_once(server: Server, kind: Kind) -> None:
    server.servicer.script = raising(asyncio.CancelledError())
    error = await server.failure(kind, timeout=30)
    assert error.code() is grpc.StatusCode.INTERNAL


@each_kind
async def test_a_request_out_of_bounds_is_refused_naming_the_field(server: Server, kind: Kind) -> None:
    error = await server.failure(kind, valid=False)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.details().startswith(f"{kind.field}: ")  # type: ignore[union-attr]
    assert detail(error, details.BadRequest).field_violations[0].field == kind.field


@each_kind
async def test_a_call_without_a_token_is_refused(server: Server, kind: Kind) -> None:
    assert (await server.failure(kind, metadata=())).code() is grpc.StatusCode.UNAUTHENTICATED
    assert server.servicer.calls == 0


@each_kind
async def test_a_token_without_the_scope_is_refused_naming_it(server: Server, kind: Kind) -> None:
    error = await server.failure(kind, metadata=server.world.bearer(scope="of nothing here"))
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
    assert kind.scope in str(error.details())


@each_kind
async def test_the_handler_acts_for_the_tokens_caller(server: Server, kind: Kind) -> None:
    seen = []

    async def script() -> None:
        seen.append(caller())

    server.servicer.script = script
    await responses_of(server.start(kind, metadata=server.world.bearer(sub="bo", tenant="t1", roles=["admin"])))
    assert (seen[0].tenant, seen[0].subject, seen[0].principals) == ("t1", "bo", frozenset({"user:bo"}))


@each_kind
async def test_a_call_leaves_one_line_without_secrets(server: Server, kind: Kind, lines: list[Any]) -> None:
    metadata = (*server.world.bearer(roles=["admin"]), ("x-request-id", "r1"), ("traceparent", TRACEPARENT))
    await responses_of(server.start(kind, metadata=metadata))
    await until(lambda: any(line.get("request_id") == "r1" for line in lines))
    line = next(line for line in lines if line.get("request_id") == "r1")
    duration_ms = line.pop("duration_ms")
    assert duration_ms >= 0
    assert line == {
        "event": "call",
        "log_level": "info",
        "request_id": "r1",
        "trace_id": TRACEPARENT.split("-")[1],
        "tenant": "acme",
        "subject": "ann",
        "peer_service": None,
        "method": kind.path,
        "code": "OK",
    }
    assert "eyJ" not in json.dumps(lines)


@each_kind
async def test_a_refused_call_is_logged_with_its_code(server: Server, kind: Kind, lines: list[Any]) -> None:
    await server.failure(kind, metadata=())
    await until(lambda: any(line["event"] == "call" for line in lines))
    assert [line["code"] for line in lines if line["event"] == "call"] == ["UNAUTHENTICATED"]


@each_kind
async def test_calls_are_counted_and_timed_by_method_and_code(server: Server, kind: Kind) -> None:
    def value(name: str, **labels: str) -> float:
        return REGISTRY.get_sample_value(name, {"method": kind.path, **labels}) or 0.0

    before = value("ragweave_rpc_total", code="OK"), value("ragweave_rpc_total", code="UNAUTHENTICATED")
    timed = value("ragweave_rpc_seconds_count")
    await responses_of(server.start(kind))
    await server.failure(kind, metadata=())
    await until(lambda: value("ragweave_rpc_total", code="OK") == before[0] + 1)
    await until(lambda: value("ragweave_rpc_total", code="UNAUTHENTICATED") == before[1] + 1)
    assert value("ragweave_rpc_seconds_count") == timed + 2
    assert value("ragweave_rpc_in_flight") == 0


@each_kind
async def test_the_methods_own_timeout_bounds_a_call_without_deadline(world: World, kind: Kind) -> None:
    servicer = Scripted(asyncio.Event().wait)  # type: ignore[arg-type]
    short = {path: replace(method, timeout_s=0.05) for path, method in contract.methods().items()}
    server = grpc.aio.server(interceptors=[interceptors.chain(world.mesh, short, FakeTrail(), NobodyDenied())])
    add_scripted(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with world.channel(port) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await responses_of(kind.start(channel, metadata=world.bearer(roles=["admin"])))
    await server.stop(0)
    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert detail(raised.value, details.ErrorInfo).metadata["method"] == kind.path


@each_kind
async def test_a_callers_shorter_deadline_is_what_the_handler_has_left(server: Server, kind: Kind) -> None:
    left = []

    async def script() -> None:
        call = current_call()
        assert call is not None
        left.append(call.remaining_s())

    server.servicer.script = script
    await responses_of(server.start(kind, timeout=2.0))
    assert 0 < left[0] < 3  # the method's own bound is 5 s or more; gRPC rounds what it sends


@each_kind
async def test_a_caller_that_gives_up_cancels_the_handler(server: Server, kind: Kind) -> None:
    entered, cancelled = asyncio.Event(), asyncio.Event()

    async def script() -> None:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    server.servicer.script = script
    call = server.start(kind)
    waiting = asyncio.create_task(responses_of(call))
    await entered.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await asyncio.wait_for(cancelled.wait(), 10)


async def test_a_client_that_waits_for_an_answer_before_it_writes_on_gets_the_refusal(server: Server) -> None:
    stub = embedding_service_pb2_grpc.EmbeddingServiceStub(server.channel)
    call = stub.StreamEmbed(metadata=server.world.bearer(roles=["admin"]))
    await call.write(embedding_service_pb2.StreamEmbedRequest(id="1", text="one"))
    assert (await call.read()).id == "1"  # type: ignore[union-attr]
    server.servicer.script = raising(CollectionNotFound("gone"))
    await call.write(embedding_service_pb2.StreamEmbedRequest(id="2", text="two"))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call.read()
    assert (raised.value.code(), raised.value.details()) == (grpc.StatusCode.NOT_FOUND, "gone")


async def test_a_client_that_never_stops_writing_is_cut_off(server: Server) -> None:
    async def endless() -> AsyncIterator[Any]:
        while True:
            yield embedding_service_pb2.StreamEmbedRequest(id="1", text="x" * 10_000)

    stub = embedding_service_pb2_grpc.EmbeddingServiceStub(server.channel)
    with pytest.raises(grpc.aio.AioRpcError):
        await responses_of(stub.StreamEmbed(endless()))


async def test_a_servicer_may_write_a_stream_by_itself(world: World) -> None:
    class Writing(Scripted):
        async def WatchJob(self, request: Any, context: Any) -> None:  # type: ignore[override]
            from ragweave.v1.job_service_pb2 import WatchJobResponse

            await context.write(WatchJobResponse(sequence=7))

    kind = KINDS[1]
    async with world.serving(add_scripted, Writing()) as port, world.channel(port) as channel:
        call = kind.start(channel, metadata=world.bearer(roles=["admin"]))
        assert [each.sequence for each in await responses_of(call)] == [7]
        assert "x-request-id" in dict(await call.initial_metadata())


async def test_a_task_group_fails_with_the_error_of_its_task(server: Server) -> None:
    async def script() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(raising(CollectionNotFound("collection a is not there"))())

    server.servicer.script = script
    assert (await server.failure(KINDS[0])).code() is grpc.StatusCode.NOT_FOUND


async def test_a_long_list_of_faults_still_fits_into_the_trailers(server: Server) -> None:
    from services.mesh.errors import Violation

    faults = [Violation(f"texts[{n}]", "is too long " * 50) for n in range(500)]
    server.servicer.script = raising(InvalidArgument("texts: too long " * 500, violations=faults))
    error = await server.failure(KINDS[0])
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert detail(error, details.BadRequest).field_violations[0].field == "texts[0]"


async def test_a_method_outside_the_contract_is_refused(world: World) -> None:
    async def stray(request: bytes, context: Any) -> bytes:
        return request

    def add(servicer: object, server: grpc.aio.Server) -> None:
        handler = grpc.unary_unary_rpc_method_handler(stray)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("stray.Service", {"Get": handler}),))

    async with world.serving(add, object()) as port, world.channel(port) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await channel.unary_unary("/stray.Service/Get")(b"", metadata=world.bearer(roles=["admin"]))
    assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_each_caller_of_many_at_once_sees_its_own_tenant(server: Server) -> None:
    gate = asyncio.Event()
    seen = []

    async def script() -> None:
        before = caller().tenant
        await gate.wait()
        seen.append((before, caller().tenant))

    server.servicer.script = script
    calls = [server.start(KINDS[0], metadata=server.world.bearer(tenant=f"t{n}", roles=["reader"])) for n in range(20)]
    waiting = [asyncio.create_task(responses_of(call)) for call in calls]
    while server.servicer.calls < 20:
        await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(*waiting)
    assert sorted(seen) == sorted((f"t{n}", f"t{n}") for n in range(20))


async def test_a_services_call_acts_for_its_caller_and_names_the_service(server: Server, lines: list[Any]) -> None:
    seen = []

    async def script() -> None:
        seen.append(caller())

    server.servicer.script = script
    ann = caller_of("ann", tenant="t9", roles=["reader"], groups=["blue"])
    async with server.world.channel_as(server.port, ann, service="retrieval") as channel:
        for kind in KINDS:
            await responses_of(kind.start(channel))
    assert {who.service for who in seen} == {"retrieval"}
    assert {replace(who, service=None) for who in seen} == {ann}
