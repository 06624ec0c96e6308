"""Outgoing calls: their deadline, whom they act for, what is retried, what a failure becomes one hop up."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2 as details
from google.rpc.status_pb2 import Status
from prometheus_client import REGISTRY

from ragweave.v1 import collection_service_pb2, collection_service_pb2_grpc
from services.mesh.breakers import Breakers, Limits
from services.mesh.calls import bounded, current_call
from services.mesh.channels import open_channel
from services.mesh.errors import CollectionNotFound, DependencyUnavailable, EtagMismatch, Unauthenticated
from services.mesh.identity import caller
from services.mesh.listening import CannotStart
from services.mesh.serve import Wiring
from services.mesh.settings import ServiceSettings
from tests.mesh.harness import World, caller_of
from tests.mesh.kinds import KINDS, Kind, Scripted, add_scripted, responses_of
from tests.mesh.relaying import relaying

each_kind = pytest.mark.parametrize("kind", KINDS, ids=str)
GET = KINDS[0]


@each_kind
async def test_the_second_hop_is_bounded_by_the_first_ones_deadline(world: World, kind: Kind) -> None:
    async with relaying(world, kind) as relay:
        deadlines: list[float] = []
        forward = relay.first.script

        async def noting_then_forwarding() -> None:
            deadlines.append(current_call().deadline)  # type: ignore[union-attr,arg-type]
            await forward()

        async def noting() -> None:
            deadlines.append(current_call().deadline)  # type: ignore[union-attr,arg-type]

        relay.first.script, relay.second.script = noting_then_forwarding, noting
        await responses_of(relay.start(kind, timeout=3.0))
        first, second = deadlines[:2]
        assert second < first + 1  # the methods' own bounds are 5 s and more; gRPC rounds what it sends


@each_kind
async def test_a_bounded_block_shortens_the_second_hops_deadline(world: World, kind: Kind) -> None:
    async with relaying(world, kind) as relay:
        left: list[float] = []
        forward = relay.first.script

        async def bounding() -> None:
            with bounded(1.0):
                await forward()

        async def noting() -> None:
            left.append(current_call().context.time_remaining())  # type: ignore[union-attr,arg-type]

        relay.first.script, relay.second.script = bounding, noting
        await responses_of(relay.start(kind))
        assert left[0] < 1.1  # gRPC rounds what it sends


@each_kind
async def test_without_a_deadline_the_second_hop_has_the_methods_own(world: World, kind: Kind) -> None:
    async with relaying(world, kind) as relay:
        sent: list[float | None] = []

        async def noting() -> None:
            call = current_call()
            assert call is not None
            sent.append(call.context.time_remaining())

        relay.second.script = noting
        await responses_of(relay.start(kind))
        assert sent[0] is not None


@each_kind
async def test_caller_request_id_and_trace_travel_along(world: World, kind: Kind) -> None:
    async with relaying(world, kind) as relay:
        seen: list[Any] = []

        async def noting() -> None:
            call = current_call()
            assert call is not None
            seen.append((caller(), call.request_id, call.trace_id))

        relay.second.script = noting
        trace_id = "0af7651916cd43dd8448eb211c80319c"
        metadata = (("x-request-id", "r-1"), ("traceparent", f"00-{trace_id}-b7ad6b7169203331-01"))
        await responses_of(relay.start(kind, metadata=metadata))
        who, request_id, trace = seen[0]
        assert (who.tenant, who.subject, who.service) == ("t7", "bo", "first")
        assert (request_id, trace) == ("r-1", trace_id)


@each_kind
async def test_cancelling_the_caller_cancels_the_callee_two_hops_away(world: World, kind: Kind) -> None:
    async with relaying(world, kind) as relay:
        entered, cancelled = asyncio.Event(), asyncio.Event()

        async def waiting() -> None:
            entered.set()
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

        relay.second.script = waiting
        call = relay.start(kind)
        answer = asyncio.create_task(responses_of(call))
        await entered.wait()
        call.cancel()
        await asyncio.gather(answer, return_exceptions=True)
        await asyncio.wait_for(cancelled.wait(), 10)


@each_kind
async def test_cancelling_the_task_that_calls_cancels_the_callee(world: World, kind: Kind) -> None:
    entered, cancelled = asyncio.Event(), asyncio.Event()

    async def waiting() -> None:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    server = world.serving(add_scripted, Scripted(waiting))
    async with server as port, world.channel_as(port, caller_of()) as channel:
        task = asyncio.create_task(responses_of(kind.start(channel)))
        await entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(cancelled.wait(), 10)


@each_kind
async def test_what_the_caller_did_wrong_passes_through_with_its_details(world: World, kind: Kind) -> None:
    async with relaying(world, kind) as relay:
        relay.second.script = _raising(EtagMismatch("etag: is stale", etag="e1"))
        error = await relay.failure(kind)
    assert (error.code(), error.details()) == (grpc.StatusCode.ABORTED, "etag: is stale")
    assert _info(error).reason == "ETAG_MISMATCH"


@each_kind
async def test_a_service_that_is_gone_is_named(world: World, kind: Kind, free_port: int) -> None:
    async with relaying(world, kind, second_port=free_port) as relay:
        error = await relay.failure(kind)
    service = kind.path.split("/")[1].rpartition(".")[2]
    assert (error.code(), error.details()) == (grpc.StatusCode.UNAVAILABLE, f"{service} is unavailable")
    assert _info(error).metadata["service"] == service
    told = {**dict(error.initial_metadata()), **dict(error.trailing_metadata())}  # type: ignore[call-overload]
    assert told["retry-after"] == "1"


async def test_a_service_that_stops_and_gives_the_call_up_is_unavailable(world: World) -> None:
    async with relaying(world, GET) as relay:
        relay.second.script = _given_up
        error = await relay.failure(GET)
    assert (error.code(), error.details()) == (grpc.StatusCode.UNAVAILABLE, "CollectionService is unavailable")


async def test_what_a_service_that_stops_gave_up_is_asked_of_it_once_more(world: World) -> None:
    async with relaying(world, GET) as relay:

        async def given_up_at_first() -> None:
            if relay.second.calls == 1:
                await _given_up()

        relay.second.script = given_up_at_first
        assert await responses_of(relay.start(GET))
        assert relay.second.calls == 2


async def test_what_a_service_that_stops_gave_up_is_not_asked_again_where_it_may_have_happened(world: World) -> None:
    servicer = Scripted(_given_up)
    async with world.serving(add_scripted, servicer) as port, world.channel_as(port, caller_of()) as channel:
        stub = collection_service_pb2_grpc.CollectionServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.DeleteCollection(collection_service_pb2.DeleteCollectionRequest(name="a"))
    assert (raised.value.code(), servicer.calls) == (grpc.StatusCode.UNAVAILABLE, 1)


@each_kind
async def test_what_is_wrong_between_services_is_not_the_callers_business(world: World, kind: Kind) -> None:
    async with relaying(world, kind) as relay:
        relay.second.script = _raising(Unauthenticated("the token has expired"))
        error = await relay.failure(kind)
    assert (error.code(), error.details()) == (grpc.StatusCode.INTERNAL, "internal error")


async def test_a_method_without_side_effects_is_sent_once_more_where_nobody_answers(world: World) -> None:
    servicer = Scripted()

    async def gone_at_first() -> None:
        if servicer.calls == 1:
            await _gone()

    servicer.script = gone_at_first
    async with world.serving(add_scripted, servicer) as port, world.channel_as(port, caller_of()) as channel:
        assert await GET.start(channel)
    assert servicer.calls == 2


async def test_a_failure_that_a_service_answers_with_is_not_asked_for_twice(world: World) -> None:
    servicer = Scripted(_raising(DependencyUnavailable("the store does not answer", retry_after_s=7)))
    async with world.serving(add_scripted, servicer) as port, world.channel_as(port, caller_of()) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await GET.start(channel)
    assert servicer.calls == 1
    assert raised.value.details() == "the store does not answer"
    assert dict(raised.value.initial_metadata())["retry-after"] == "7"  # type: ignore[call-overload]


async def test_however_many_hops_lead_to_a_backend_it_gets_twice_what_is_offered_at_most(world: World) -> None:
    async with relaying(world, GET) as relay:
        relay.second.script = _gone
        async with world.channel_as(relay.port, caller_of()) as near:
            for _ in range(4):
                with pytest.raises(grpc.aio.AioRpcError) as raised:
                    await GET.start(near)
                assert raised.value.details() == "CollectionService is unavailable"
        assert (relay.first.calls, relay.second.calls) == (4, 8)


async def test_a_backend_that_keeps_failing_gets_no_more_than_it_is_offered(world: World) -> None:
    servicer = Scripted(_gone)
    with Breakers(Limits(failures=1000)).wiring():
        async with world.serving(add_scripted, servicer) as port, world.channel_as(port, caller_of()) as channel:
            for _ in range(40):
                with pytest.raises(grpc.aio.AioRpcError):
                    await GET.start(channel)
            throttled = servicer.calls
            for _ in range(10):
                with pytest.raises(grpc.aio.AioRpcError):
                    await GET.start(channel)
    assert throttled < 40 + 50
    assert servicer.calls == throttled + 10


async def test_a_method_with_side_effects_is_sent_once(world: World) -> None:
    servicer = Scripted(_gone)
    async with world.serving(add_scripted, servicer) as port, world.channel_as(port, caller_of()) as channel:
        with pytest.raises(grpc.aio.AioRpcError):
            stub = collection_service_pb2_grpc.CollectionServiceStub(channel)
            await stub.DeleteCollection(collection_service_pb2.DeleteCollectionRequest(name="a"))
    assert servicer.calls == 1


@pytest.mark.parametrize("error", [RuntimeError("defect"), EtagMismatch("etag: is stale")])
async def test_nothing_but_unavailable_is_retried(world: World, error: Exception) -> None:
    servicer = Scripted(_raising(error))
    async with world.serving(add_scripted, servicer) as port, world.channel_as(port, caller_of()) as channel:
        with pytest.raises(grpc.aio.AioRpcError):
            await GET.start(channel)
    assert servicer.calls == 1


async def test_a_request_longer_than_the_usual_retry_buffer_is_retried_too(world: World) -> None:
    from ragweave.v1 import embedding_service_pb2, embedding_service_pb2_grpc

    calls = []

    class Embedding(Scripted):
        async def Embed(self, request: Any, context: Any) -> embedding_service_pb2.EmbedResponse:
            calls.append(len(request.texts))
            if len(calls) == 1:
                await _gone()
            return embedding_service_pb2.EmbedResponse()

    async with world.serving(add_scripted, Embedding()) as port, world.channel_as(port, caller_of()) as channel:
        stub = embedding_service_pb2_grpc.EmbeddingServiceStub(channel)
        await stub.Embed(embedding_service_pb2.EmbedRequest(texts=["x" * 900_000] * 8))
    assert calls == [8, 8]


async def test_requests_may_be_written_one_by_one(world: World) -> None:
    from ragweave.v1 import (
        document_service_pb2,
        document_service_pb2_grpc,
        embedding_service_pb2,
        embedding_service_pb2_grpc,
    )

    async with world.serving(add_scripted, Scripted()) as port, world.channel_as(port, caller_of()) as channel:
        upload = document_service_pb2_grpc.DocumentServiceStub(channel).UploadDocument()
        await upload.write(document_service_pb2.UploadDocumentRequest(parent="collections/a"))
        await upload.done_writing()
        assert await upload == document_service_pb2.UploadDocumentResponse()

        embed = embedding_service_pb2_grpc.EmbeddingServiceStub(channel).StreamEmbed()
        await embed.write(embedding_service_pb2.StreamEmbedRequest(id="1", text="one"))
        assert (await embed.read()).id == "1"  # type: ignore[union-attr]
        await embed.done_writing()
        assert await embed.read() is grpc.aio.EOF


async def test_a_call_on_behalf_of_nobody_is_a_defect(world: World) -> None:
    async with world.serving(add_scripted, Scripted()) as port, open_channel(world.mesh, world.target(port)) as channel:
        with pytest.raises(LookupError):
            await GET.start(channel)


async def test_without_a_key_to_sign_with_a_process_says_so_and_does_not_start(world: World, tmp_path: Path) -> None:
    missing = tmp_path / "nowhere" / "mesh.pem"
    with pytest.raises(CannotStart, match=f"{missing}: `ragweave up`"):
        async with open_channel(world.mesh.model_copy(update={"mesh_key": missing}), "127.0.0.1:1"):
            pass


async def test_a_server_that_is_not_ready_is_left_out_and_found_again(world: World) -> None:
    well = asyncio.Event()

    async def check() -> None:
        if not well.is_set():
            raise ConnectionError("down")

    @asynccontextmanager
    async def wire(settings: ServiceSettings) -> AsyncIterator[Wiring]:
        yield Wiring(lambda server: add_scripted(Scripted(), server), {"store": check})

    async with world.running(wire, world.settings()) as port, world.channel_as(port, caller_of()) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await GET.start(channel)
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
        well.set()
        assert await GET.start(channel, wait_for_ready=True)


async def _gone() -> None:
    """Ends the call as a server that goes away does: nothing but a status, and none of ours."""
    call = current_call()
    assert call is not None
    await call.context.abort(grpc.StatusCode.UNAVAILABLE, "gone")


async def _given_up() -> None:
    """Ends the call as a server that stops does with what it has taken in and not ended."""
    call = current_call()
    assert call is not None
    await call.context.abort(grpc.StatusCode.CANCELLED, "CANCELLED")


def _raising(error: Exception) -> Callable[[], Awaitable[None]]:
    async def script() -> None:
        raise error

    return script


def _info(error: grpc.aio.AioRpcError) -> details.ErrorInfo:
    status = Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"])  # type: ignore[arg-type]
    info = details.ErrorInfo()
    assert any(each.Unpack(info) for each in status.details)
    return info


@each_kind
async def test_a_hop_counts_once_by_the_method_called_and_how_it_ended(world: World, kind: Kind) -> None:
    def count(code: str) -> float:
        return REGISTRY.get_sample_value("ragweave_hop_total", {"method": kind.path, "code": code}) or 0

    async with relaying(world, kind) as relay:
        ended, failed = count("OK"), count("NOT_FOUND")
        await responses_of(relay.start(kind))
        ended += relay.first.calls
        assert (count("OK"), count("NOT_FOUND")) == (ended, failed)

        async def missing() -> None:
            raise CollectionNotFound("no such collection")

        relay.second.script = missing
        await relay.failure(kind)
        assert (count("OK"), count("NOT_FOUND")) == (ended, failed + 1)
    assert REGISTRY.get_sample_value("ragweave_hop_in_flight", {"method": kind.path}) == 0
