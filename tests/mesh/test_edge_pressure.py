"""The edge refuses most of what a service would have to refuse, and passes all again when the pressure has gone."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
import pytest_asyncio
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from prometheus_client import REGISTRY

from ragweave.v1 import collection_service_pb2, search_pb2
from ragweave.v1.collection_service_pb2_grpc import CollectionServiceStub
from ragweave.v1.retrieval_service_pb2_grpc import RetrievalServiceStub
from services.mesh.edge import OWNERS
from tests.mesh.edge_stack import Backend, Edge, running_backend, running_edge
from tests.mesh.harness import World

pytestmark = pytest.mark.asyncio(loop_scope="module")

SEARCH, METHOD = "/api/v1/rag/search", "/ragweave.v1.RetrievalService/Search"
BATCH = "/ragweave.v1.RetrievalService/BatchSearch"
CALLS = 120


@asynccontextmanager
async def edge_before(folder: Path, *, service: Mapping[str, int], edge: Mapping[str, int]) -> AsyncIterator[Edge]:
    """An edge that expects other bounds of its services than these have."""
    world, backend = World.in_folder(folder / "world"), Backend()
    (folder / "edge").mkdir()
    async with running_backend(_with(world, service), backend) as port:
        everywhere = {f"{owner}_endpoints": (world.target(port),) for owner in set(OWNERS.values())}
        async with running_edge(_with(world, edge), folder / "edge", backend, **everywhere) as running:
            yield running


def _with(world: World, bounds: Mapping[str, int]) -> World:
    return World(world.mesh.model_copy(update=dict(bounds)), world.user_key)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def edge(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Edge]:
    """Before a server that runs one call of a class at a time and has none wait."""
    narrow = {"max_running_calls": 1, "max_waiting_calls": 0}
    async with edge_before(tmp_path_factory.mktemp("edge"), service=narrow, edge={}) as running:
        yield running


def shed_by_service() -> float:
    """Searches refused by the service, full as it is, or, where the machine is slow, because they came late."""
    name, reasons = "ragweave_rpc_shed_total", ("queue_full", "stale")
    return sum(REGISTRY.get_sample_value(name, {"method": METHOD, "reason": each}) or 0.0 for each in reasons)


async def search(edge: Edge, query: str) -> search_pb2.SearchResponse:
    request = search_pb2.SearchRequest(query=query, collection="a")
    answer: search_pb2.SearchResponse = await RetrievalServiceStub(edge.channel).Search(
        request, metadata=edge.world.bearer(roles=["admin"])
    )
    return answer


async def refused(edge: Edge) -> Status:
    """What a search is refused with."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await search(edge, "words")
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    trailers = dict(raised.value.trailing_metadata() or ())
    assert "x-ragweave-overloaded" not in trailers
    return Status.FromString(trailers["grpc-status-details-bin"])


@asynccontextmanager
async def held(edge: Edge, places: int = 1) -> AsyncIterator[None]:
    """So many places of the class, and of the service, are taken: by batches, with three times a search's time."""
    before = edge.backend.seen.paths.count(BATCH)
    request = search_pb2.BatchSearchRequest(requests=[search_pb2.SearchRequest(query="slow")], collection="a")
    stub, admin = RetrievalServiceStub(edge.channel), edge.world.bearer(roles=["admin"])
    holding = [asyncio.ensure_future(stub.BatchSearch(request, metadata=admin)) for _ in range(places)]
    while edge.backend.seen.paths.count(BATCH) < before + places:
        await asyncio.sleep(0.005)
    try:
        yield
    finally:
        for each in holding:
            each.cancel()
        await asyncio.wait(holding)


async def overflows(edge: Edge) -> int:
    """Calls for which the edge looked for a place and found none."""
    said = await edge.http.get(f"http://127.0.0.1:{edge.settings.admin_port}/stats?filter=upstream_rq_active_overflow")
    return sum(int(line.rpartition(": ")[2]) for line in said.text.splitlines())


async def test_a_service_is_told_what_time_a_call_was_given(edge: Edge) -> None:
    request = search_pb2.SearchRequest(query="words", collection="a")
    await RetrievalServiceStub(edge.channel).Search(
        request, metadata=(*edge.world.bearer(roles=["admin"]), ("x-ragweave-timeout", "1n")), timeout=3.0
    )
    given = edge.backend.seen.metadata[-1]["x-ragweave-timeout"]
    # gRPC rounds up to what three digits can say.
    assert 2.0 < int(given[:-1]) * {"m": 1e-3, "u": 1e-6, "S": 1.0}[given[-1]] <= 3.1


async def test_under_pressure_the_service_hears_of_few_calls_and_of_all_again_once_it_has_gone(edge: Edge) -> None:
    async with held(edge):
        before = shed_by_service()
        statuses = [await refused(edge) for _ in range(CALLS)]
        by_service = shed_by_service() - before
        answers = [await edge.rest("POST", SEARCH, {"query": "words", "collection": "a"}) for _ in range(20)]
        # Other methods are none the worse for it.
        asked = collection_service_pb2.GetCollectionRequest(name="collections/a")
        for _ in range(30):
            await CollectionServiceStub(edge.channel).GetCollection(asked, metadata=edge.world.bearer(roles=["admin"]))
    assert 10 <= by_service < CALLS / 2
    for status in statuses:  # by whom, makes no difference to who asks
        info, retry = ErrorInfo(), RetryInfo()
        assert status.details[0].Unpack(info)
        assert status.details[1].Unpack(retry)
        assert info.reason == "OVERLOADED"
        assert retry.retry_delay.ToMilliseconds() > 0
    assert {answer.status_code for answer in answers} == {429}
    for answer in answers:
        body = answer.json()
        assert (body["code"], body["details"][0]["reason"]) == (8, "OVERLOADED")
        assert int(answer.headers["retry-after"]) >= 1
        assert "x-ragweave-overloaded" not in answer.headers

    answered = 0
    while answered < 30:  # in a row: what was counted fades by the second
        try:
            await search(edge, "words")
            answered += 1
        except grpc.aio.AioRpcError as error:
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            answered = 0
            await asyncio.sleep(0.05)


async def test_refusals_of_one_caller_s_making_count_for_nobody(edge: Edge) -> None:
    before = edge.backend.seen.paths.count(METHOD)
    for _ in range(60):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await search(edge, "invalid")
        assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert edge.backend.seen.paths.count(METHOD) == before + 60


async def test_no_more_calls_are_under_way_than_a_service_lets_run_and_wait(tmp_path: Path) -> None:
    narrow = {"max_running_calls": 1, "max_waiting_calls": 1}
    async with edge_before(tmp_path, service={}, edge=narrow) as edge, held(edge, places=2):
        status = await refused(edge)
        info = ErrorInfo()
        assert status.details[0].Unpack(info)
        assert info.reason == "OVERLOADED"
        assert not edge.backend.seen.searches
        answer = await edge.rest("GET", "/api/v1/rag/cache")  # who looks after the mesh has room of their own
        assert answer.status_code == 200


async def test_of_calls_for_which_no_place_is_left_most_are_refused_before_one_is_looked_for(tmp_path: Path) -> None:
    narrow = {"max_running_calls": 1, "max_waiting_calls": 0}
    async with edge_before(tmp_path, service={}, edge=narrow) as edge, held(edge):
        for _ in range(CALLS):
            await refused(edge)
        answer = await edge.rest("POST", SEARCH, {"query": "words", "collection": "a"})
        assert (answer.status_code, "x-ragweave-overloaded" in answer.headers) == (429, False)
        assert 10 <= await overflows(edge) < CALLS / 2
