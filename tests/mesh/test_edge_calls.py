"""What passes the edge: three forms of a call that agree, deadlines, retries, streams, uploads, failing backends."""

import asyncio
import json
import math
from collections.abc import AsyncIterator
from typing import Any

import grpc
import httpx
import pytest
import pytest_asyncio
from google.protobuf import json_format
from google.rpc.status_pb2 import Status

from ragweave.v1 import (
    collection_pb2,
    collection_service_pb2,
    collection_service_pb2_grpc,
    document_service_pb2,
    document_service_pb2_grpc,
    job_service_pb2,
    job_service_pb2_grpc,
    retrieval_service_pb2_grpc,
    search_pb2,
)
from services.mesh.edge import OWNERS
from tests.mesh.edge_stack import Backend, Edge, running_backend, running_edge
from tests.mesh.harness import World, jwks, new_key

pytestmark = pytest.mark.asyncio(loop_scope="module")

API = "/api/v1/rag"
SEARCH = f"{API}/search"
UPLOAD = f"{API}/collections/c/documents:upload"


def everywhere(world: World, *ports: int) -> dict[str, Any]:
    return {f"{owner}_endpoints": tuple(map(world.target, ports)) for owner in set(OWNERS.values())}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Edge]:
    world, backend = World.in_folder(tmp_path_factory.mktemp("world")), Backend()
    async with running_backend(world, backend) as port:
        folder = tmp_path_factory.mktemp("edge")
        async with running_edge(world, folder, backend, **everywhere(world, port)) as running:
            yield running


@pytest_asyncio.fixture(loop_scope="module")
async def edge(shared: Edge) -> Edge:
    shared.backend.failures = 0
    return shared


def metadata(edge: Edge, **claims: Any) -> tuple[tuple[str, str], ...]:
    return tuple(edge.bearer(**claims).items())


async def test_rest_grpc_and_grpc_web_give_the_same_answer(edge: Edge) -> None:
    request = collection_service_pb2.GetCollectionRequest(name="collections/a")
    rest = await edge.rest("GET", f"{API}/collections/a")
    over_rest = json_format.Parse(rest.text, collection_pb2.Collection())
    over_grpc = await collection_service_pb2_grpc.CollectionServiceStub(edge.channel).GetCollection(
        request, metadata=metadata(edge)
    )
    response, message, trailers = await edge.web("/ragweave.v1.CollectionService/GetCollection", request, edge.bearer())
    assert over_rest == over_grpc == collection_pb2.Collection.FromString(message)
    assert trailers["grpc-status"] == "0"
    for headers in (rest.headers, response.headers):
        assert headers["x-api-version"] == "v1"
    assert rest.json()["visibility"] == "PUBLIC"
    assert rest.json()["documentCount"] == 0  # zeros are printed


@pytest.mark.parametrize("timeout_s", [None, 5.0])
async def test_a_grpc_caller_is_told_its_request_id_and_the_version(edge: Edge, timeout_s: float | None) -> None:
    stub = collection_service_pb2_grpc.CollectionServiceStub(edge.channel)
    sent = (*metadata(edge), ("x-request-id", "mine-1"))
    call = stub.GetCollection(
        collection_service_pb2.GetCollectionRequest(name="collections/a"), metadata=sent, timeout=timeout_s
    )
    await call
    headers = list(await call.initial_metadata())
    assert [value for name, value in headers if name == "x-request-id"] == ["mine-1"]
    assert [value for name, value in headers if name == "x-api-version"] == ["v1"]


async def test_rest_grpc_and_grpc_web_fail_the_same_way(edge: Edge) -> None:
    request = collection_service_pb2.GetCollectionRequest(name="collections/missing")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await collection_service_pb2_grpc.CollectionServiceStub(edge.channel).GetCollection(
            request, metadata=metadata(edge)
        )
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    details = dict(caught.value.trailing_metadata() or ())["grpc-status-details-bin"]
    assert isinstance(details, bytes)
    status = Status.FromString(details)
    rest = await edge.rest("GET", f"{API}/collections/missing")
    assert rest.status_code == 404
    assert json_format.Parse(rest.text, Status()) == status
    assert rest.json()["details"][0]["reason"] == "COLLECTION_NOT_FOUND"
    _, _, trailers = await edge.web("/ragweave.v1.CollectionService/GetCollection", request, edge.bearer())
    assert (trailers["grpc-status"], trailers["grpc-message"]) == ("5", status.message)


@pytest.mark.parametrize(
    ("query", "status", "code", "reasons"),
    [
        ("invalid", 400, 3, ["ErrorInfo", "BadRequest"]),
        ("missing", 404, 5, ["ErrorInfo"]),
        ("unavailable 99", 503, 14, ["ErrorInfo", "RetryInfo"]),
    ],
)
async def test_errors_of_services_come_out_in_the_one_shape_with_details(
    edge: Edge, query: str, status: int, code: int, reasons: list[str]
) -> None:
    response = await edge.rest("POST", SEARCH, {"query": query})
    assert response.status_code == status
    assert set(response.json()) == {"code", "message", "details"}
    assert response.json()["code"] == code
    assert [each["@type"].rpartition(".")[2] for each in response.json()["details"]] == reasons
    assert response.headers.get("retry-after") == ("2" if status == 503 else None)


async def test_what_went_wrong_inside_is_not_told(edge: Edge) -> None:
    response = await edge.rest("GET", f"{API}/collections/crash")
    assert (response.status_code, response.json()["message"]) == (500, "internal error")


async def test_reads_are_sent_once_more_where_nobody_answers(edge: Edge) -> None:
    for failures, status in ((1, 200), (99, 503)):
        before, edge.backend.failures = len(edge.backend.seen.searches), 0
        response = await edge.rest("POST", SEARCH, {"query": f"gone {failures}"})
        assert response.status_code == status
        assert len(edge.backend.seen.searches) - before == 2


async def test_a_failure_that_a_service_answers_with_is_told_at_once(edge: Edge) -> None:
    before = len(edge.backend.seen.searches)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await retrieval_service_pb2_grpc.RetrievalServiceStub(edge.channel).Search(
            search_pb2.SearchRequest(query="unavailable 99"), metadata=metadata(edge)
        )
    assert (caught.value.code(), caught.value.details()) == (
        grpc.StatusCode.UNAVAILABLE,
        "the vector store does not answer",
    )
    answer = await edge.rest("POST", SEARCH, {"query": "unavailable 99"})
    assert (answer.status_code, answer.json()["message"]) == (503, "the vector store does not answer")
    assert answer.headers["retry-after"] == "2"
    assert {each["@type"].rpartition(".")[2] for each in answer.json()["details"]} == {"ErrorInfo", "RetryInfo"}
    assert len(edge.backend.seen.searches) - before == 2


@pytest.mark.parametrize("query", ["invalid", "missing"])
async def test_no_other_failure_is_retried(edge: Edge, query: str) -> None:
    before = len(edge.backend.seen.searches)
    await edge.rest("POST", SEARCH, {"query": query})
    assert len(edge.backend.seen.searches) - before == 1


async def test_what_changes_something_is_never_retried(edge: Edge) -> None:
    response = await edge.rest("POST", f"{API}/collections?collectionId=x", {"description": "unavailable 1"})
    assert response.status_code == 503
    assert edge.backend.failures == 1


async def test_a_call_gets_the_contracts_time_and_a_caller_may_only_shorten_it(edge: Edge) -> None:
    stub = retrieval_service_pb2_grpc.RetrievalServiceStub(edge.channel)
    await edge.rest("POST", SEARCH, {"query": "q"})
    await stub.Search(search_pb2.SearchRequest(query="q"), metadata=metadata(edge), timeout=60)
    await stub.Search(search_pb2.SearchRequest(query="q"), metadata=metadata(edge), timeout=2)
    times = [math.inf if each is None else each for each in edge.backend.seen.remaining_s[-3:]]
    assert 0 < times[0] < 6
    assert 0 < times[1] < 61  # gRPC's own header passes; the server and the edge still stop it at 5 s
    assert times[2] < 3


async def test_a_late_call_is_504_over_rest_and_deadline_exceeded_over_grpc(edge: Edge) -> None:
    response = await edge.rest("POST", SEARCH, {"query": "slow"}, headers={**edge.bearer(), "grpc-timeout": "150m"})
    assert (response.status_code, response.json()["code"]) == (504, 4)
    assert {"message", "details"} <= response.json().keys()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await retrieval_service_pb2_grpc.RetrievalServiceStub(edge.channel).Search(
            search_pb2.SearchRequest(query="slow"), metadata=metadata(edge), timeout=0.15
        )
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_plus_and_escapes_in_a_query_are_read(edge: Edge) -> None:
    response = await edge.rest("GET", f"{API}/collections?filter=a+b%20c%2Bd%26e%C3%A4")
    assert response.json()["nextPageToken"] == "a b c+d&eä"


async def test_an_update_mask_travels_as_a_query_parameter(edge: Edge) -> None:
    response = await edge.rest(
        "PATCH", f"{API}/collections/a?updateMask=description,defaultSearch", {"description": "d:"}
    )
    assert response.json()["description"] == "d:description,default_search"
    assert response.json()["name"] == "collections/a"


async def test_a_raw_body_is_uploaded_in_parts_with_its_name_in_the_first(edge: Edge) -> None:
    size = 24 * 2**20
    sent = {**edge.bearer(), "content-type": "text/markdown"}
    response = await edge.rest(
        "POST", f"{UPLOAD}?documentId=d&filename=a%20b.md&metadataJson=%7B%7D", b"z" * size, headers=sent
    )
    assert response.status_code == 200, response.text
    assert response.json()["document"]["sizeBytes"] == str(size)
    first, received, parts = edge.backend.seen.uploads[-1]
    assert (received, parts > 10) == (size, True)
    assert (first.parent, first.document_id, first.filename) == ("collections/c", "d", "a b.md")
    assert (first.metadata_json, first.file.content_type) == ("{}", "text/markdown")


async def test_an_upload_may_be_of_unknown_length_or_empty(edge: Edge) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"z" * 100_000

    response = await edge.http.post(UPLOAD, content=chunks(), headers=edge.bearer())
    assert response.json()["document"]["sizeBytes"] == "2000000"
    empty = await edge.rest("POST", UPLOAD, b"", headers={**edge.bearer(), "content-type": "text/plain"})
    assert empty.status_code == 200
    assert edge.backend.seen.uploads[-1][1:] == (0, 1)


async def test_an_upload_over_grpc_streams_through(edge: Edge) -> None:
    async def parts() -> AsyncIterator[document_service_pb2.UploadDocumentRequest]:
        for n in range(5):
            yield document_service_pb2.UploadDocumentRequest(
                parent="collections/c" if n == 0 else "", file={"data": b"z" * 2**20}
            )

    stub = document_service_pb2_grpc.DocumentServiceStub(edge.channel)
    answer = await stub.UploadDocument(parts(), metadata=metadata(edge))
    assert answer.document.size_bytes == 5 * 2**20


async def test_a_stream_is_a_message_a_line_over_rest_and_resumes(edge: Edge) -> None:
    response = await edge.rest("GET", f"{API}/jobs/j:watch?afterSequence=1")
    assert response.headers["content-type"] == "application/x-ndjson"
    events = [json.loads(line) for line in response.text.splitlines()]
    assert [event["sequence"] for event in events[:-1]] == [2, 3]
    assert events[-1]["finalStatus"]["message"] == "ended"
    watch = job_service_pb2_grpc.JobServiceStub(edge.channel).WatchJob(
        job_service_pb2.WatchJobRequest(name="jobs/j", after_sequence=1), metadata=metadata(edge)
    )
    over_grpc = [event async for event in watch]
    assert [json_format.ParseDict(event, job_service_pb2.WatchJobResponse()) for event in events] == over_grpc


async def test_a_stream_is_server_sent_events_for_who_asks_for_them(edge: Edge) -> None:
    plain = await edge.rest("GET", f"{API}/jobs/j:watch?afterSequence=1")
    for accepted in ("text/event-stream", "Text/Event-Stream, application/json;q=0.5"):
        headers = {**edge.bearer(), "accept": accepted}
        response = await edge.rest("GET", f"{API}/jobs/j:watch?afterSequence=1", headers=headers)
        assert (response.status_code, response.headers["content-type"]) == (200, "text/event-stream")
        assert "content-encoding" not in response.headers
        *events, rest = response.text.split("\n\n")
        assert rest == ""
        assert [each.partition(": ")[0] for each in events] == ["data"] * 3
        assert [json.loads(each.removeprefix("data: ")) for each in events] == [
            json.loads(line) for line in plain.text.splitlines()
        ]


async def test_who_asks_for_events_gets_json_where_there_is_no_stream(edge: Edge) -> None:
    headers = {**edge.bearer(), "accept": "text/event-stream"}
    response = await edge.rest("GET", f"{API}/collections/a", headers=headers)
    assert (response.status_code, response.headers["content-type"]) == (200, "application/json")
    assert response.json()["name"] == "collections/a"


@pytest.mark.parametrize("accepted", ["*/*", "text/event-stream"])
async def test_a_stream_that_fails_at_once_is_a_refusal(edge: Edge, accepted: str) -> None:
    headers = {**edge.bearer(), "accept": accepted}
    response = await edge.rest("GET", f"{API}/jobs/missing:watch", headers=headers)
    assert (response.status_code, response.headers["content-type"]) == (404, "application/json")
    assert (response.json()["code"], set(response.json())) == (5, {"code", "message", "details"})
    for path, sent, status in (
        (f"{API}/jobs/j:watch?nope=1", headers, 400),
        (f"{API}/jobs/j:watch", {"accept": accepted}, 401),
    ):
        refused = await edge.rest("GET", path, headers=sent)
        assert (refused.status_code, refused.headers["content-type"]) == (status, "application/json")
        assert set(refused.json()) == {"code", "message", "details"}


async def test_bad_requests_and_a_failing_dependency_eject_nobody(edge: Edge) -> None:
    for query in ("invalid", "missing", "unavailable 99"):
        await asyncio.gather(*(edge.rest("POST", SEARCH, {"query": query}) for _ in range(14)))
    assert (await edge.rest("POST", SEARCH, {"query": "q"})).status_code == 200
    assert (await edge.stats())["cluster.retrieval.outlier_detection.ejections_active"] == 0


async def test_a_replica_that_keeps_failing_is_left_out(tmp_path_factory: pytest.TempPathFactory) -> None:
    world, good, bad = World.in_folder(tmp_path_factory.mktemp("world")), Backend(), Backend()
    good.failures = 100
    async with running_backend(world, good) as first, running_backend(world, bad) as second:
        folder = tmp_path_factory.mktemp("edge")
        settings = {**everywhere(world, first, second), "health_interval_s": 30}
        async with running_edge(world, folder, good, **settings) as edge:
            in_a_row = 0
            async with asyncio.timeout(60):
                while in_a_row < 8:  # with both in turn, every other fails
                    answer = await edge.rest("POST", f"{API}/collections", {"description": "unavailable 100"})
                    in_a_row = in_a_row + 1 if answer.status_code == 200 else 0
            assert (await edge.stats())["cluster.collections.outlier_detection.ejections_active"] == 1


async def test_a_backend_that_is_away_is_503_and_served_again_when_back(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    world, backend = World.in_folder(tmp_path_factory.mktemp("world")), Backend()
    async with running_backend(world, backend) as steady:
        gone = running_backend(world, backend)
        port = await gone.__aenter__()
        settings = {**everywhere(world, steady), "retrieval_endpoints": (world.target(port),), "health_interval_s": 0.1}
        async with running_edge(world, tmp_path_factory.mktemp("edge"), backend, **settings) as edge:
            assert (await edge.rest("POST", SEARCH, {"query": "q"})).status_code == 200
            await gone.__aexit__(None, None, None)
            away = await edge.rest("POST", SEARCH, {"query": "q"})
            assert (away.status_code, away.json()["code"]) == (503, 14)
            assert away.json()["message"] == "the service behind this path is unavailable"
            assert [each["@type"].rpartition(".")[2] for each in away.json()["details"]] == ["ErrorInfo", "RetryInfo"]
            assert away.headers["retry-after"] == "1"
            assert (await edge.rest("GET", f"{API}/collections/a")).status_code == 200
            async with running_backend(world, backend, port=port), asyncio.timeout(20):
                while (await edge.rest("POST", SEARCH, {"query": "q"})).status_code != 200:
                    await asyncio.sleep(0.05)


async def test_keys_served_at_a_url_are_used(tmp_path_factory: pytest.TempPathFactory) -> None:
    world, backend, key = World.in_folder(tmp_path_factory.mktemp("world")), Backend(), new_key()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = jwks(key).encode()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%s" % (len(body), body))
        await writer.drain()
        writer.close()

    keys = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with keys:
        url = f"http://127.0.0.1:{keys.sockets[0].getsockname()[1]}/jwks.json"
        world = World(world.mesh.model_copy(update={"jwks": url}), key)
        async with running_backend(world, backend) as port:
            folder = tmp_path_factory.mktemp("edge")
            async with running_edge(world, folder, backend, **everywhere(world, port)) as edge:
                async with asyncio.timeout(60):  # whoever asks for the keys may have to ask again
                    while (await edge.rest("GET", f"{API}/collections/a")).status_code != 200:
                        await asyncio.sleep(0.05)
                stranger = edge.bearer(key=new_key())
                assert (await edge.rest("GET", f"{API}/collections/a", headers=stranger)).status_code == 401


async def test_a_draining_edge_finishes_what_it_has(tmp_path_factory: pytest.TempPathFactory) -> None:
    world, backend = World.in_folder(tmp_path_factory.mktemp("world")), Backend()
    async with running_backend(world, backend) as port:
        folder = tmp_path_factory.mktemp("edge")
        async with running_edge(world, folder, backend, drain_s=1, **everywhere(world, port)) as edge:
            slow = asyncio.create_task(
                edge.rest("POST", SEARCH, {"query": "slow"}, headers={**edge.bearer(), "grpc-timeout": "1500m"})
            )
            async with asyncio.timeout(10):
                while not backend.seen.searches:
                    await asyncio.sleep(0.01)
            admin = f"http://127.0.0.1:{edge.settings.admin_port}"
            await edge.http.post(f"{admin}/drain_listeners?graceful")
            during = await edge.http.get(f"{API}/collections/a", headers={**edge.bearer(), "connection": "close"})
            assert during.status_code == 200
            assert (await slow).status_code == 504  # its own deadline, not the drain, ended it
            async with asyncio.timeout(10):
                with pytest.raises(httpx.TransportError):
                    while True:
                        async with httpx.AsyncClient(base_url=edge.http.base_url) as fresh:
                            await fresh.get(f"{API}/collections/a", headers=edge.bearer())
                        await asyncio.sleep(0.05)


async def test_a_field_at_fault_goes_by_the_name_its_caller_knows(edge: Edge) -> None:
    answer = await edge.rest("POST", "/api/v1/rag/search", {"query": "a", "topK": 1000})
    assert answer.status_code == 400
    assert answer.json()["message"].startswith("topK: ")
    assert answer.json()["details"][1]["fieldViolations"][0]["field"] == "topK"
    created = await edge.rest("POST", "/api/v1/rag/collections", {"chunking": {"maxTokens": -1}})
    assert created.json()["details"][1]["fieldViolations"][0]["field"] == "chunking.maxTokens"
    stub = retrieval_service_pb2_grpc.RetrievalServiceStub(edge.channel)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stub.Search(search_pb2.SearchRequest(query="a", top_k=1000), metadata=tuple(edge.bearer().items()))
    assert (raised.value.details() or "").startswith("top_k: ")


async def test_a_query_string_as_long_as_the_contract_allows_arrives(edge: Edge) -> None:
    """Its path travels as metadata, which gRPC bounds at 8 KiB unless told otherwise."""
    for _ in range(10):  # it refuses at random
        answer = await edge.rest("GET", "/api/v1/rag/collections", params={"filter": "é" * 4000})
        assert answer.status_code == 200, answer.text
