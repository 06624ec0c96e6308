"""Every row of the contract: REST and gRPC through the edge and gRPC on the service's own port say the same."""

import hashlib
import json
import struct
import subprocess
import time
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from google.protobuf import json_format
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from ragweave import contract
from ragweave.client import Client
from ragweave.v1 import collection_pb2, collection_service_pb2, event_service_pb2, job_pb2, search_pb2
from tests.e2e.stack import BIN, OWNER, PATIENCE_S, PREFIX, TLS, Mesh

C = "rows"
WAYS = ["TLS"] if TLS else ["plain text", "TLS"]
TYPED = {"field": "title", "operator": "PREFIX", "value": "Fish"}
REFINED = {
    "query": "who eats fish",
    "boosts": [
        {"filter": "metadata.n > 1", "factor": 2},
        {"decay": {"field": "metadata.n", "origin": 2, "scale": 1, "curve": "GAUSSIAN"}},
        {"decay": {"field": "create_time", "origin": "2025-01-01T00:00:00Z", "scale": 1e9}},
    ],
    "mmr": {"diversity": 0.3, "candidates": 50},
    "groupBy": {"field": "metadata.n", "groupSize": 2},
    "highlight": True,
    "neighbors": 1,
    "facets": [{"field": "metadata.n", "limit": 5}, {"field": "metadata.none"}],
}
MASK = ["chunk", "score", "scores", "highlights", "metadata.n", "neighbors", "stitched_text"]
VOLATILE = ("timings", "trace_id", "cache")


@dataclass(frozen=True)
class Row:
    """One read that must give the same answer whichever way it is asked."""

    method: str
    verb: str
    path: str
    request: dict[str, Any] = field(default_factory=dict)
    body: dict[str, Any] | None = None


READS = [
    Row("CacheService/GetCacheStats", "GET", f"/cache?collection={C}", {"collection": C}),
    Row("CollectionService/GetCollection", "GET", f"/collections/{C}", {"name": f"collections/{C}"}),
    Row("CollectionService/ListCollections", "GET", f"/collections?filter=name%3D%22{C}%22", {"filter": f'name="{C}"'}),
    Row("CollectionService/GetCollectionStats", "GET", f"/collections/{C}/stats", {"name": C}),
    Row(
        "DocumentService/ListDocuments",
        "GET",
        f"/collections/{C}/documents?orderBy=name&pageSize=1",
        {"parent": C, "order_by": "name", "page_size": 1},
    ),
    Row(
        "DocumentService/GetDocument",
        "GET",
        f"/collections/{C}/documents/a",
        {"name": f"collections/{C}/documents/a"},
    ),
    Row(
        "DocumentService/BatchGetDocuments",
        "GET",
        f"/collections/{C}/documents:batchGet?names=collections/{C}/documents/b&names=collections/{C}/documents/a",
        {"parent": C, "names": [f"collections/{C}/documents/b", f"collections/{C}/documents/a"]},
    ),
    Row(
        "DocumentService/ListChunks",
        "GET",
        f"/collections/{C}/documents/a/chunks",
        {"parent": f"collections/{C}/documents/a"},
    ),
    Row(
        "RetrievalService/Search",
        "POST",
        "/search",
        {"query": "who eats fish", "collection": C},
        {"query": "who eats fish", "collection": C},
    ),
    Row(
        "RetrievalService/Search",
        "POST",
        f"/collections/{C}:search",
        {"query": "who eats fish", "collection": C, "filter": "metadata.n > 1", "highlight": True},
        {"query": "who eats fish", "filter": "metadata.n > 1", "highlight": True},
    ),
    Row(
        "RetrievalService/Search",
        "POST",
        f"/collections/{C}:search",
        {"collection": C, **REFINED, "read_mask": {"paths": MASK}},  # grpcurl knows no other form
        {**REFINED, "readMask": ",".join(MASK).replace("stitched_text", "stitchedText")},
    ),
    Row(
        "RetrievalService/ParseFilter",
        "POST",
        "/filters:parse",
        {"filter": "metadata.n > 1 OR NOT exists(title)", "typed_filter": {"comparisons": [TYPED]}},
        {"filter": "metadata.n > 1 OR NOT exists(title)", "typedFilter": {"comparisons": [TYPED]}},
    ),
    Row(
        "RetrievalService/FindSimilar",
        "POST",
        "/search:similar",
        {"name": f"collections/{C}/documents/a", "min_score": -1},
        {"name": f"collections/{C}/documents/a", "minScore": -1},
    ),
    Row(
        "RetrievalService/Search",
        "POST",
        "/search",
        {"query": "who eats fish", "collection": C, "rerank": {"model": "models/tiny", "top_n": 2}},
        {"query": "who eats fish", "collection": C, "rerank": {"model": "models/tiny", "topN": 2}},
    ),
    Row("EmbeddingService/Embed", "POST", "/embeddings", {"texts": ["a fish"]}, {"texts": ["a fish"]}),
    Row(
        "EmbeddingService/Rerank",
        "POST",
        "/rerank",
        {"query": "who eats fish", "documents": ["dogs", "the cat eats fish"], "top_n": 1},
        {"query": "who eats fish", "documents": ["dogs", "the cat eats fish"], "topN": 1},
    ),
    Row("EmbeddingService/CountTokens", "POST", "/tokens:count", {"texts": ["a fish"]}, {"texts": ["a fish"]}),
    Row("ModelService/ListModels", "GET", "/models", {}),
    Row("ModelService/GetModel", "GET", "/models/tiny", {"name": "tiny"}),
    Row("ModelService/GetModel", "GET", "/models/all-MiniLM-L6-v2", {"name": "models/all-MiniLM-L6-v2"}),
    Row("DirectoryService/ListRoots", "GET", "/directories", {}),
    Row(
        "DirectoryService/ListDirectoryEntries",
        "GET",
        f"/directories:list?path={C}&orderBy=path%20desc&pageSize=1",
        {"path": C, "order_by": "path desc", "page_size": 1},
    ),
    Row("DirectoryService/ValidatePath", "POST", "/directories:validate", {"path": C}, {"path": C}),
    Row(
        "JobService/ListJobs",
        "GET",
        f"/jobs?filter=collection%3D%22collections/{C}%22&page=1",
        {"filter": f'collection="collections/{C}"', "page": 1},
    ),
    Row(
        "JobService/ListDeadLetters",
        "GET",
        f"/deadLetters?filter=collection%3D%22collections/{C}%22&orderBy=attempts%20desc",
        {"filter": f'collection="collections/{C}"', "order_by": "attempts desc"},
    ),
    Row("EvaluationService/GetSampleQuerySet", "GET", f"/sampleQuerySets/{C}", {"name": f"sampleQuerySets/{C}"}),
    Row(
        "EvaluationService/ListSampleQuerySets",
        "GET",
        "/sampleQuerySets?filter=query_count%3D1&orderBy=name",
        {"filter": "query_count=1", "order_by": "name"},
    ),
    Row(
        "EvaluationService/ListEvaluations",
        "GET",
        "/evaluations?filter=state%3DFINISHED&orderBy=end_time",
        {"filter": "state=FINISHED", "order_by": "end_time"},
    ),
    Row("SystemService/GetVersion", "GET", "/version"),
    Row("WebhookService/GetWebhook", "GET", f"/webhooks/{C}", {"name": f"webhooks/{C}"}),
    Row(
        "WebhookService/ListWebhooks",
        "GET",
        "/webhooks?filter=state%3DENABLED&orderBy=name",
        {"filter": "state=ENABLED", "order_by": "name"},
    ),
    Row(
        "WebhookService/ListDeliveries",
        "GET",
        f"/webhooks/{C}/deliveries?filter=state%3DDEAD&orderBy=sequence",
        {"parent": f"webhooks/{C}", "filter": "state=DEAD", "order_by": "sequence"},
    ),
]


@pytest.fixture(scope="module", params=WAYS)
def mesh(request: pytest.FixtureRequest, mesh: Mesh, secure: Mesh) -> Mesh:
    """Every row goes over plain text and over TLS."""
    return mesh if request.param == "plain text" else secure


@pytest.fixture(scope="module")
def job(mesh: Mesh) -> Iterator[str]:
    """A collection with two documents, imported over REST; yields the ended job's name."""
    (mesh.layout.import_root / C / "deep").mkdir(parents=True)
    (mesh.layout.import_root / C / "fish.md").write_text("Fish swim.")
    made = mesh.rest("POST", f"{PREFIX}/collections?collectionId={C}", {"description": "for the rows"})
    assert made.status == 200, made
    queued = mesh.rest(
        "POST",
        f"{PREFIX}/collections/{C}/documents:import",
        {
            "inline": {
                "documents": [
                    {"documentId": "a", "text": "Cats eat fish and mice.", "document": {"metadata": {"n": 1}}},
                    {
                        "documentId": "b",
                        "text": "Dogs eat meat, and bears eat fish.",
                        "document": {"metadata": {"n": 2}},
                    },
                ]
            }
        },
    )
    assert queued.status == 200, queued
    with mesh.client() as client:
        assert client.wait(queued.body["name"]).state == job_pb2.Job.SUCCEEDED
    hook = mesh.rest("POST", f"{PREFIX}/webhooks?webhookId={C}", {"uri": "https://receiver.invalid/"})
    assert hook.status == 200, hook
    assert hook.body["secret"].startswith("whsec_")
    queries = [{"id": "q1", "text": "who eats fish", "relevant": [{"name": "a", "grade": 1}]}]
    samples = mesh.rest("POST", f"{PREFIX}/sampleQuerySets?sampleQuerySetId={C}", {"queries": queries})
    assert samples.status == 200, samples
    yield queued.body["name"]
    assert mesh.rest("DELETE", f"{PREFIX}/sampleQuerySets/{C}").status == 200
    assert mesh.rest("DELETE", f"{PREFIX}/webhooks/{C}").status == 200
    assert mesh.rest("DELETE", f"{PREFIX}/collections/{C}?force=true").status == 200


def _message(method: str, answer: Any) -> Message:
    descriptor = contract.method(f"/ragweave.v1.{method}").descriptor.output_type
    message: Message = json_format.ParseDict(answer, GetMessageClass(descriptor)())
    for name in VOLATILE:
        if name in descriptor.fields_by_name:
            message.ClearField(name)
    return message


@pytest.mark.parametrize("row", READS, ids=lambda row: f"{row.method}:{row.path[:40]}")
def test_a_read_answers_the_same_over_rest_and_grpc_at_the_edge_and_at_the_service(
    mesh: Mesh, job: str, row: Row
) -> None:
    if row.method == "EmbeddingService/Embed":
        mesh.rest(row.verb, PREFIX + row.path, row.body)  # from now on it is cached, and says so
    rest = mesh.rest(row.verb, PREFIX + row.path, row.body)
    assert rest.status == 200, rest
    assert rest.headers["x-api-version"] == "v1"
    assert rest.headers["x-request-id"]
    answers = [_message(row.method, rest.body)]
    for target in (mesh.edge, mesh.layout.address(OWNER[row.method.partition("/")[0]])):
        status, answer = mesh.grpcurl(target, f"ragweave.v1.{row.method}", row.request)
        assert status == 0, answer
        answers.append(_message(row.method, answer))
    assert answers[0] == answers[1] == answers[2]


def test_a_job_and_its_items_read_the_same_everywhere(mesh: Mesh, job: str) -> None:
    for method, path, request in (
        ("JobService/GetJob", f"/{job}", {"name": job}),
        ("JobService/ListJobItems", f"/{job}/items", {"parent": job}),
    ):
        rest = _message(method, mesh.rest("GET", PREFIX + path).body)
        for target in (mesh.edge, mesh.layout.address("jobs")):
            status, answer = mesh.grpcurl(target, f"ragweave.v1.{method}", request)
            assert status == 0, answer
            assert _message(method, answer) == rest


def test_a_search_takes_the_token_of_the_job_it_follows(mesh: Mesh, job: str) -> None:
    token = mesh.rest("GET", f"{PREFIX}/{job}").body["consistencyToken"]
    found = mesh.rest("POST", f"{PREFIX}/search", {"query": "fish", "collection": C, "consistencyToken": token})
    assert found.status == 200, found
    assert found.body["hits"]


def test_a_batch_of_searches_answers_each_the_same_over_rest_and_grpc(mesh: Mesh, job: str) -> None:
    asked = {
        "collection": C,
        "requests": [
            {"query": "who eats fish", "topK": 1},
            {"query": "x", "topK": 900},
            {"query": "x", "filter": "a ="},
        ],
    }
    rest = mesh.rest("POST", f"{PREFIX}/search:batch", asked)
    assert rest.status == 200, rest
    status, answer = mesh.grpcurl(mesh.edge, "ragweave.v1.RetrievalService/BatchSearch", asked)
    assert status == 0, answer
    for results in (rest.body["results"], answer["results"]):
        found, unbounded, unfiltered = results
        (hit,) = found["response"]["hits"]
        assert hit["text"].startswith(("Cats", "Dogs"))
        assert unbounded["error"]["code"] == unfiltered["error"]["code"] == grpc.StatusCode.INVALID_ARGUMENT.value[0]
        assert unbounded["error"]["message"].startswith("top_k:")
        assert unfiltered["error"]["message"].startswith("filter:")


def test_an_answer_in_steps_ends_with_the_whole_and_a_status(mesh: Mesh, job: str) -> None:
    search = {"query": "who eats fish", "collection": C}
    whole = mesh.rest("POST", f"{PREFIX}/search", search).body["hits"]
    rest = mesh.rest("POST", f"{PREFIX}/search:stream", search)
    *steps, last = [json.loads(line) for line in rest.body.splitlines() if line.strip()]
    assert steps[-1]["complete"]["hits"] == whole
    assert all("partial" in step for step in steps[:-1])
    assert last["finalStatus"].get("code", 0) == 0
    refused = mesh.rest("POST", f"{PREFIX}/search:stream", {"query": "who eats fish", "collection": "nowhere"})
    assert (refused.status, refused.body["code"]) == (404, grpc.StatusCode.NOT_FOUND.value[0])
    with mesh.client() as client:
        asked = json_format.ParseDict({"search": search}, search_pb2.StreamSearchRequest())
        over_grpc = list(client.retrieval.StreamSearch(asked))
    assert over_grpc[-1].final_status.code == 0
    assert [hit.chunk for hit in over_grpc[-2].complete.hits] == [hit["chunk"] for hit in whole]


def test_a_watch_streams_the_same_events_over_rest_and_grpc_and_ends_with_a_status(mesh: Mesh, job: str) -> None:
    rest = mesh.rest("GET", f"{PREFIX}/{job}:watch")
    text = rest.body if isinstance(rest.body, bytes) else json.dumps(rest.body).encode()
    events = [json.loads(line) for line in text.splitlines() if line.strip()]
    assert events[-1]["finalStatus"]["code"] == 0
    sequences = [event["sequence"] for event in events if "finalStatus" not in event]
    assert sequences == list(range(1, len(sequences) + 1))
    with mesh.client() as client:
        over_grpc = list(client.watch(job))
    assert [event.sequence for event in over_grpc] == [event["sequence"] for event in events]
    assert [e.sequence for e in client_events_after(mesh, job, 3)] == [s for s in sequences if s > 3]


def test_events_of_a_collection_and_its_jobs_stream_the_same_over_rest_and_grpc(mesh: Mesh, job: str) -> None:
    path = f"{PREFIX}/events:watch?collection={C}&topics=collection.*&topics=ingestion.completed"
    rest = mesh.rest("GET", path, headers={"grpc-timeout": "2S"})
    *told, last = [json.loads(line) for line in rest.body.splitlines()]
    assert last["finalStatus"]["code"] == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
    events = [each for each in told if "event" in each]  # the others say how far the stream is
    assert [each["event"]["topic"] for each in events[:2]] == ["collection.created", "ingestion.completed"]
    assert events[0]["event"]["changedCollection"]["name"] == f"collections/{C}"
    assert events[1]["event"]["job"]["name"] == job
    with mesh.client() as client:
        request = {"collection": C, "topics": ["collection.*", "ingestion.completed"]}
        watching = client.events.WatchEvents(event_service_pb2.WatchEventsRequest(**request))
        seen = (each for each in watching if each.HasField("event"))
        over_grpc = [next(seen) for _ in events]
        watching.cancel()
    assert [json_format.ParseDict(each, event_service_pb2.WatchEventsResponse()) for each in events] == over_grpc


def client_events_after(mesh: Mesh, job: str, sequence: int) -> list[Any]:
    """What a watcher sees that resumes after `sequence`, less the final message."""
    with mesh.client() as client:
        return [event for event in client.watch(job, sequence) if not event.HasField("final_status")]


def test_documents_are_created_uploaded_changed_and_deleted_over_rest(mesh: Mesh, job: str) -> None:
    base = f"{PREFIX}/collections/{C}/documents"
    created = mesh.rest("POST", base, {"documentId": "c", "text": "Owls hunt at night.", "document": {"title": "Owls"}})
    assert created.status == 200, created
    assert created.body["document"]["state"] == "PENDING"
    content = b"# Whales\n\nWhales eat krill, which they filter from sea water.\n"
    query = urllib.parse.urlencode(
        {"documentId": "d", "filename": "whales.md", "sha256": hashlib.sha256(content).hexdigest()}
    )
    uploaded = mesh.rest("POST", f"{base}:upload?{query}", content, content_type="text/markdown")
    assert uploaded.status == 200, uploaded
    with mesh.client() as client:
        for answer in (created, uploaded):
            assert client.wait(answer.body["job"]["name"]).state == job_pb2.Job.SUCCEEDED
        assert client.search("what do whales eat", C, top_k=1).hits[0].document == f"collections/{C}/documents/d"

    changed = mesh.rest("PATCH", f"{base}/d?updateMask=metadata,title", {"title": "Big", "metadata": {"sea": True}})
    assert changed.status == 200, changed
    assert changed.body["title"] == "Big"
    found = mesh.rest("POST", f"{PREFIX}/collections/{C}:search", {"query": "krill", "filter": "metadata.sea = true"})
    assert [hit["title"] for hit in found.body["hits"]] == ["Big"] * len(found.body["hits"])
    assert found.body["hits"]

    deleted = mesh.rest("DELETE", f"{base}/d")
    assert (deleted.status, deleted.body["state"]) == (200, "DELETED"), deleted
    assert mesh.rest("GET", f"{base}/d").body == deleted.body
    assert mesh.rest("GET", f"{base}/d/chunks").status == 404
    listed = mesh.rest("GET", f"{base}?showDeleted=true&filter=state%3DDELETED")
    assert listed.body["documents"] == [deleted.body]
    whale = f"collections/{C}/documents/d"
    krill = {"query": "what do whales eat krill"}
    gone = mesh.rest("POST", f"{PREFIX}/collections/{C}:search", krill)
    assert whale not in {hit["document"] for hit in gone.body["hits"]}
    back = mesh.rest("POST", f"{base}/d:undelete", {"etag": deleted.body["etag"]})
    assert (back.status, back.body["state"], back.body["title"]) == (200, "ACTIVE", "Big"), back
    again = mesh.rest("POST", f"{PREFIX}/collections/{C}:search", krill)
    assert again.body["hits"][0]["document"] == whale
    assert mesh.rest("POST", f"{base}/d:undelete", {}).body["code"] == 6
    assert mesh.rest("DELETE", f"{base}/d").status == 200
    batch = mesh.rest("POST", f"{base}:batchDelete", {"names": [f"collections/{C}/documents/c"]})
    assert batch.status == 200, batch
    assert mesh.rest("GET", f"{base}:batchGet?names=collections/{C}/documents/c").status == 404


def test_documents_are_made_again_and_purged_over_rest(mesh: Mesh) -> None:
    assert mesh.rest("POST", f"{PREFIX}/collections?collectionId=herd", {}).status == 200
    base = f"{PREFIX}/collections/herd/documents"
    created = mesh.rest(
        "POST", base, {"documentId": "e", "text": "Eels swim to the Sargasso Sea.", "document": {"title": "Eels"}}
    )
    assert created.status == 200, created
    with mesh.client() as client:
        assert client.wait(created.body["job"]["name"]).state == job_pb2.Job.SUCCEEDED
        again = mesh.rest("POST", f"{base}:reprocess", {"filter": 'title = "Eels"', "force": True})
        assert again.status == 200, again
        ended = client.wait(again.body["name"])
        assert (ended.type, ended.state, ended.progress.succeeded) == (job_pb2.Job.REPROCESS, job_pb2.Job.SUCCEEDED, 1)
        kept = mesh.rest("POST", f"{base}:reprocess", {"filter": 'title = "Eels"', "validateOnly": True})
        assert kept.body["estimate"]["duplicates"] == 1, kept

        counted = mesh.rest("POST", f"{base}:purge", {"filter": 'title = "Eels"'})
        assert counted.status == 200, counted
        assert counted.body["estimate"]["sample"] == ["collections/herd/documents/e"]
        assert mesh.rest("GET", f"{base}/e").status == 200
        purged = mesh.rest("POST", f"{base}:purge", {"filter": 'title = "Eels"', "force": True})
        assert purged.status == 200, purged
        ended = client.wait(purged.body["name"])
        assert (ended.type, ended.state, ended.progress.succeeded) == (job_pb2.Job.PURGE, job_pb2.Job.SUCCEEDED, 1)
        item = 'document = "collections/herd/documents/e"'
        listed = mesh.rest("GET", f"{PREFIX}/{ended.name}/items?filter={urllib.parse.quote(item)}")
        assert [each["state"] for each in listed.body["jobItems"]] == ["SUCCEEDED"]
    assert mesh.rest("GET", f"{base}/e").body["state"] == "DELETED"
    query = {"query": "eels swim", "consistencyToken": ended.consistency_token}
    found = mesh.rest("POST", f"{PREFIX}/collections/herd:search", query)
    assert "collections/herd/documents/e" not in {hit["document"] for hit in found.body["hits"]}
    assert (mesh.rest("POST", f"{base}:purge", {"force": True}).status) == 400
    assert mesh.rest("DELETE", f"{PREFIX}/collections/herd").status == 200


def test_a_bound_collection_follows_its_directory_over_rest(mesh: Mesh) -> None:
    name = "bound-tls" if (mesh.layout.import_root / "bound").exists() else "bound"
    folder = mesh.layout.import_root / name
    folder.mkdir()
    (folder / "seals.md").write_text("Seals eat fish.")
    (folder / "walrus.md").write_text("A walrus eats clams.")
    bound = {"source": {"directory": name, "includeGlobs": ["*.md"]}}
    assert mesh.rest("POST", f"{PREFIX}/collections?collectionId={name}", bound).status == 200

    def synced(client: Client) -> tuple[int, ...]:
        asked = mesh.rest("POST", f"{PREFIX}/collections/{name}:sync", {})
        assert asked.status == 200, asked
        ended = client.wait(asked.body["name"])
        assert (ended.type, ended.state) == (job_pb2.Job.SYNC, job_pb2.Job.SUCCEEDED)
        return ended.progress.succeeded, ended.progress.skipped

    with mesh.client() as client:
        assert synced(client) == (2, 0)
        (folder / "walrus.md").unlink()
        (folder / "narwhal.md").write_text("A narwhal eats squid.")
        assert synced(client) == (1, 1)
        listed = mesh.rest("GET", f"{PREFIX}/collections/{name}/documents").body["documents"]
        assert [each["sourceUri"] for each in listed] == [f"{name}/narwhal.md", f"{name}/seals.md"]
        assert (
            client.search("who eats clams", name).hits[0].document != f"collections/{name}/documents/{name}.walrus.md"
        )
    free = mesh.rest("POST", f"{PREFIX}/collections?collectionId={name}-free", {})
    assert free.status == 200, free
    refused = mesh.rest("POST", f"{PREFIX}/collections/{name}-free:sync", {})
    assert (refused.status, refused.body["code"]) == (400, 9)
    for each in (name, f"{name}-free"):
        assert mesh.rest("DELETE", f"{PREFIX}/collections/{each}?force=true").status == 200


def test_collections_are_changed_with_masks_and_etags_over_rest(mesh: Mesh) -> None:
    made = mesh.rest("POST", f"{PREFIX}/collections?collectionId=masks", {"description": "one", "labels": {"a": "b"}})
    assert made.status == 200, made
    changed = mesh.rest(
        "PATCH", f"{PREFIX}/collections/masks?updateMask=description", {"description": "two", "etag": made.body["etag"]}
    )
    assert changed.status == 200, changed
    assert (changed.body["description"], changed.body["labels"]) == ("two", {"a": "b"})
    stale = mesh.rest(
        "PATCH", f"{PREFIX}/collections/masks?updateMask=description", {"description": "x", "etag": made.body["etag"]}
    )
    assert (stale.status, stale.body["code"]) == (409, 10)
    twice = mesh.rest("POST", f"{PREFIX}/collections?collectionId=masks", {})
    assert (twice.status, twice.body["code"]) == (409, 6)
    assert (
        mesh.rest("DELETE", f"{PREFIX}/collections/masks?etag={urllib.parse.quote(changed.body['etag'])}").status == 200
    )
    gone = mesh.rest("GET", f"{PREFIX}/collections/masks")
    assert gone.body["purgeTime"] > gone.body["deleteTime"]
    assert mesh.rest("GET", f"{PREFIX}/collections/masks/stats").status == 404
    listed = mesh.rest("GET", f"{PREFIX}/collections?showDeleted=true&filter=name%3D%22collections/masks%22")
    assert listed.body["collections"] == [gone.body]
    back = mesh.rest("POST", f"{PREFIX}/collections/masks:undelete", {"etag": gone.body["etag"]})
    assert (back.status, back.body["uid"], back.body["labels"]) == (200, made.body["uid"], {"a": "b"}), back
    assert mesh.rest("POST", f"{PREFIX}/collections/masks:undelete", {}).body["code"] == 6
    assert mesh.rest("DELETE", f"{PREFIX}/collections/masks").status == 200


def test_revocations_are_made_listed_and_ended_over_rest(mesh: Mesh) -> None:
    base = f"{PREFIX}/revocations"
    made = mesh.rest("POST", f"{base}?requestId=revoke-once", {"subject": "leaver", "reason": "has left"})
    assert made.status == 200, made
    assert (made.body["subject"], made.body["creator"]) == ("leaver", "tester")
    again = mesh.rest("POST", f"{base}?requestId=revoke-once", {"subject": "leaver", "reason": "has left"})
    assert again.body == made.body
    _reads_the_same(mesh, "SystemService/ListRevocations", "/revocations?filter=subject%3Dleaver", "subject=leaver")
    stale = mesh.rest("DELETE", f"{PREFIX}/{made.body['name']}?etag=stale")
    assert (stale.status, stale.body["code"]) == (409, 10)
    assert mesh.rest("DELETE", f"{PREFIX}/{made.body['name']}?validateOnly=true").status == 200
    ended = mesh.rest("DELETE", f"{PREFIX}/{made.body['name']}?etag={urllib.parse.quote(made.body['etag'])}")
    assert (ended.status, ended.body) == (200, made.body)
    assert mesh.rest("DELETE", f"{PREFIX}/{made.body['name']}").status == 404


def test_audit_events_read_the_same_everywhere(mesh: Mesh, job: str) -> None:
    asked = f'resource = "collections/{C}" AND code = "OK" AND service = ""'
    path = f"/auditEvents?filter={urllib.parse.quote(asked)}"
    until = time.monotonic() + PATIENCE_S
    while len(found := mesh.rest("GET", PREFIX + path).body["auditEvents"]) < 2:
        assert time.monotonic() < until, "an event is listed soon after its call has ended"
        time.sleep(0.05)
    assert [event["method"].rpartition("/")[2] for event in found] == ["ImportDocuments", "CreateCollection"]
    assert {(event["subject"], event["outcome"]) for event in found} == {("tester", "SUCCEEDED")}
    _reads_the_same(mesh, "SystemService/ListAuditEvents", path, asked)


def test_searches_are_told_by_collection_and_hour(mesh: Mesh) -> None:
    assert mesh.rest("POST", f"{PREFIX}/collections?collectionId=counted", {}).status == 200
    searched = {"query": "unheard", "collections": ["counted"]}
    assert mesh.rest("POST", f"{PREFIX}/search", searched).status == 200
    refused = mesh.rest("POST", f"{PREFIX}/search", {**searched, "filter": "nonsense = 1"})
    assert refused.status == 400, refused
    path, until = f"{PREFIX}/usage?collection=counted", time.monotonic() + PATIENCE_S
    while (told := mesh.rest("GET", path)).body["total"].get("queries", 0) < 2:
        assert time.monotonic() < until, "a search is told of within seconds"
        time.sleep(0.05)
    (row,) = told.body["usage"]
    assert (row["collection"], row["granularity"]) == ("collections/counted", "HOUR")
    assert row["figures"]["latency"].keys() == {"p50", "p90", "p95", "p99"}
    assert told.body["total"] == row["figures"]
    assert {"queries": 2, "errors": 1, "zeroResults": 1}.items() <= row["figures"].items()
    by_day = mesh.rest("GET", f"{path}&granularity=DAY").body
    assert by_day["total"] == told.body["total"]
    for target in (mesh.edge, mesh.layout.address("system")):
        asked = {"collection": "collections/counted", "granularity": "DAY"}
        status, answer = mesh.grpcurl(target, "ragweave.v1.SystemService/GetUsage", asked)
        assert status == 0, answer
        assert _message("SystemService/GetUsage", answer) == _message("SystemService/GetUsage", by_day)
    shown = mesh.ragweave("usage", "counted").stdout.splitlines()
    assert [line.split()[-13:-8] for line in shown[1:]] == [["2", "0%", "1", "0", "1"]] * 2, shown
    mistyped = mesh.ragweave("usage", "countde", check=False)
    assert (mistyped.returncode, "no collection 'countde'" in mistyped.stderr) == (1, True), mistyped
    wrong = mesh.rest("GET", f"{path}&startTime=2024-05-02T00:00:00Z&endTime=2024-05-01T00:00:00Z")
    assert (wrong.status, "endTime" in wrong.body["message"]) == (400, True), wrong
    assert mesh.rest("DELETE", f"{PREFIX}/collections/counted?force=true").status == 200


def _reads_the_same(mesh: Mesh, method: str, path: str, filter: str) -> None:
    """A list of system gives the same over REST and over gRPC at the edge and at the service."""
    rest = _message(method, mesh.rest("GET", PREFIX + path).body)
    assert rest.total_size  # type: ignore[attr-defined]
    for target in (mesh.edge, mesh.layout.address("system")):
        status, answer = mesh.grpcurl(target, f"ragweave.v1.{method}", {"filter": filter})
        assert status == 0, answer
        assert _message(method, answer) == rest


def test_a_job_is_cancelled_over_rest(mesh: Mesh) -> None:
    assert mesh.rest("POST", f"{PREFIX}/collections?collectionId=cancelled", {}).status == 200
    long = " ".join(f"word{n}" for n in range(3000))
    documents = [{"documentId": f"d{n}", "text": f"{n} {long}"} for n in range(40)]
    queued = mesh.rest("POST", f"{PREFIX}/collections/cancelled/documents:import", {"inline": {"documents": documents}})
    cancelled = mesh.rest("POST", f"{PREFIX}/{queued.body['name']}:cancel", {})
    assert cancelled.status == 200, cancelled
    with mesh.client() as client:
        ended = client.wait(queued.body["name"])
    assert ended.state == job_pb2.Job.CANCELLED
    assert ended.progress.succeeded < 40
    assert mesh.rest("DELETE", f"{PREFIX}/collections/cancelled?force=true").status == 200


def test_a_job_is_retried_replayed_and_deleted_over_rest(mesh: Mesh) -> None:
    folder = mesh.layout.import_root / "again"
    folder.mkdir()
    (folder / "good.md").write_text("Otters eat fish.")
    assert mesh.rest("POST", f"{PREFIX}/collections?collectionId=again", {}).status == 200
    (folder / "bad.md").write_text("")
    body = {"directory": {"path": "again", "includeGlobs": ["*.md"]}}
    name = mesh.rest("POST", f"{PREFIX}/collections/again/documents:import", body).body["name"]
    query = urllib.parse.urlencode({"filter": f'job = "{name}"'})
    with mesh.client() as client:
        ended = client.wait(name)
        assert (ended.state, ended.progress.failed) == (job_pb2.Job.PARTIALLY_SUCCEEDED, 1)
        [letter] = mesh.rest("GET", f"{PREFIX}/deadLetters?{query}").body["deadLetters"]
        assert letter["item"].startswith(f"{name}/items/")
        assert "bad.md" in letter["sourceUri"]
        assert letter["error"]["details"][0]["reason"] == "EMPTY_DOCUMENT"

        replayed = mesh.rest("POST", f"{PREFIX}/deadLetters:replay", {"names": [letter["name"]]})
        assert (replayed.status, replayed.body) == (200, {"replayed": 1, "jobs": [name]})
        again = client.wait(name)
        assert (again.state, again.attempt) == (job_pb2.Job.PARTIALLY_SUCCEEDED, 2)

        (folder / "bad.md").write_text("Owls eat mice.")
        retried = mesh.rest("POST", f"{PREFIX}/{name}:retry", {"etag": again.etag})
        assert (retried.status, retried.body["attempt"]) == (200, 3)
        mended = client.wait(name)
        assert (mended.state, mended.progress.succeeded) == (job_pb2.Job.SUCCEEDED, 2)
        assert client.search("what owls eat", "again", consistency_token=mended.consistency_token).hits
    assert mesh.rest("GET", f"{PREFIX}/deadLetters?{query}").body.get("totalSize", 0) == 0
    assert mesh.rest("POST", f"{PREFIX}/{name}:retry", {}).body["code"] == 9
    stale = mesh.rest("DELETE", f"{PREFIX}/{name}?etag={urllib.parse.quote(again.etag)}")
    assert (stale.status, stale.body["code"]) == (409, 10)
    assert mesh.rest("DELETE", f"{PREFIX}/{name}").status == 200
    assert mesh.rest("GET", f"{PREFIX}/{name}").status == 404
    assert mesh.rest("DELETE", f"{PREFIX}/collections/again?force=true").status == 200


def test_grpc_web_answers_as_rest_does(mesh: Mesh, job: str) -> None:
    request = collection_service_pb2.GetCollectionRequest(name=C).SerializeToString()
    frame = b"\0" + struct.pack(">I", len(request)) + request
    answer = mesh.rest(
        "POST",
        "/ragweave.v1.CollectionService/GetCollection",
        frame,
        content_type="application/grpc-web+proto",
        headers={"x-grpc-web": "1"},
    )
    assert answer.status == 200, answer
    raw = answer.body
    length = struct.unpack(">I", raw[1:5])[0]
    assert collection_pb2.Collection.FromString(raw[5 : 5 + length]).name == f"collections/{C}"


def test_reflection_lists_the_whole_public_contract_on_every_port(mesh: Mesh) -> None:
    expected = set(contract.public_services())
    for part in ("edge", "embedding", "retrieval", "collections", "jobs", "system"):
        listed = subprocess.run(
            [BIN / "grpcurl", *mesh.grpcurl_trust(mesh.layout.address(part)), mesh.layout.address(part), "list"],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        ).stdout.split()
        assert expected <= set(listed), part
        assert not [name for name in listed if "internal" in name]


def test_a_webhook_is_made_changed_tested_and_deleted_over_rest(mesh: Mesh, job: str) -> None:
    made = mesh.rest("POST", f"{PREFIX}/webhooks?webhookId=made", {"uri": "https://receiver.invalid/a"})
    assert made.status == 200, made
    rotated = mesh.rest("PATCH", f"{PREFIX}/webhooks/made?updateMask=secret&oldSecretTtl=3600s", {})
    assert rotated.body["secret"] not in (made.body["secret"], ""), rotated
    assert rotated.body["oldSecretExpireTime"] > rotated.body["updateTime"]
    changed = mesh.rest("PATCH", f"{PREFIX}/webhooks/made", {"topics": ["document.*"], "state": "DISABLED"})
    assert (changed.body["state"], changed.body["topics"]) == ("DISABLED", ["document.*"])
    assert changed.body["secret"] == ""
    tested = mesh.rest("POST", f"{PREFIX}/webhooks/made:test", {})
    assert (tested.body["state"], tested.body["topic"]) == ("DEAD", "webhook.test"), tested
    assert "cannot be found" in tested.body["lastError"]
    replayed = mesh.rest("POST", f"{PREFIX}/webhooks/made/deliveries/1:replay", {})
    assert (replayed.status, replayed.body["code"]) == (404, 5), replayed
    assert mesh.rest("DELETE", f"{PREFIX}/webhooks/made").status == 200
    assert mesh.rest("GET", f"{PREFIX}/webhooks/made").status == 404


def test_a_set_is_changed_and_evaluated_as_the_caller_over_rest(mesh: Mesh, job: str) -> None:
    """One query's document is for bob: the developer, who asks, does not find it."""
    bobs = {"documentId": "for-bob", "text": "Otters eat urchins.", "document": {"acl": {"principals": ["user:bob"]}}}
    queued = mesh.rest("POST", f"{PREFIX}/collections/{C}/documents:import", {"inline": {"documents": [bobs]}})
    assert queued.status == 200, queued
    queries = [
        {"id": "fish", "text": "cats eat fish and mice", "relevant": [{"name": "a", "grade": 1}]},
        {"id": "otters", "text": "otters eat urchins", "relevant": [{"name": "for-bob", "grade": 1}]},
    ]
    samples = mesh.rest("POST", f"{PREFIX}/sampleQuerySets?sampleQuerySetId=asked", {"queries": queries[:1]})
    assert (samples.status, samples.body["queryCount"]) == (200, 1), samples
    changed = mesh.rest("PATCH", f"{PREFIX}/sampleQuerySets/asked", {"queries": queries, "etag": samples.body["etag"]})
    assert (changed.status, changed.body["queryCount"]) == (200, 2), changed
    modes = [{"name": name, "search": {"mode": name}} for name in ("SPARSE", "HYBRID")]
    asked = {"sampleQuerySet": "asked", "collections": [C], "configurations": modes}
    with mesh.client() as client:
        assert client.wait(queued.body["name"]).state == job_pb2.Job.SUCCEEDED
        evaluating = mesh.rest("POST", f"{PREFIX}/evaluations", asked)
        assert (evaluating.status, evaluating.body["type"]) == (200, "EVALUATE"), evaluating
        ended = client.wait(evaluating.body["name"])
    assert (ended.state, ended.progress.total, ended.progress.succeeded) == (job_pb2.Job.SUCCEEDED, 2, 2), ended
    listed = mesh.rest("GET", f"{PREFIX}/evaluations?filter=job%3D%22{ended.name}%22").body["evaluations"]
    found = mesh.rest("GET", f"{PREFIX}/{listed[0]['name']}").body
    assert (found["state"], found["job"], found["queryCount"]) == ("FINISHED", ended.name, 2), found
    for result in found["results"]:
        assert (result["answered"], result["failed"]) == (2, 0), result
        # All of the first, nothing of the second.
        assert [each["recall"] for each in result["measures"]] == [0.5] * 5, result
        assert result["lacking"] == 1, result  # Bob's is not there for the caller
    assert len(found["differences"]) == 20
    each = mesh.rest("GET", f"{PREFIX}/{found['name']}/queries?orderBy=ndcg%20desc").body["queries"]
    assert [query["id"] for query in each] == ["fish", "otters"], each
    assert [outcome["configuration"] for outcome in each[1]["outcomes"]] == ["SPARSE", "HYBRID"], each
    assert [outcome["lacking"] for outcome in each[1]["outcomes"]] == [["for-bob"]] * 2, each
    assert len(each[0]["differences"]) == 5
    lacking = mesh.rest("GET", f"{PREFIX}/{found['name']}/queries?filter=lacking%3Dtrue").body
    assert (lacking["queries"], lacking["totalSize"]) == ([each[1]], 1)
    items = mesh.rest("GET", f"{PREFIX}/{ended.name}/items").body["jobItems"]
    assert [each["sourceUri"].partition("#")[2] for each in items] == ["fish", "otters"]
    assert [each["document"] for each in items] == ["", ""]
    assert mesh.rest("DELETE", f"{PREFIX}/sampleQuerySets/asked").status == 200
    assert mesh.rest("GET", f"{PREFIX}/sampleQuerySets/asked").status == 404


def test_every_public_method_is_in_one_of_these_tests() -> None:
    covered = {row.method for row in READS} | {
        "CollectionService/CreateCollection",
        "CollectionService/UpdateCollection",
        "CollectionService/DeleteCollection",
        "CollectionService/UndeleteCollection",
        "DocumentService/CreateDocument",
        "DocumentService/UploadDocument",
        "DocumentService/GetUpload",
        "DocumentService/UpdateDocument",
        "DocumentService/DeleteDocument",
        "DocumentService/UndeleteDocument",
        "DocumentService/BatchDeleteDocuments",
        "JobService/ImportDocuments",
        "JobService/SyncCollection",
        "JobService/ReprocessDocuments",
        "JobService/PurgeDocuments",
        "JobService/GetJob",
        "JobService/ListJobItems",
        "JobService/WatchJob",
        "EventService/WatchEvents",
        "JobService/CancelJob",
        "JobService/RetryJob",
        "JobService/DeleteJob",
        "JobService/ReplayDeadLetters",
        "CacheService/ListCacheEntries",  # tests/e2e/test_cache.py
        "CacheService/PurgeCache",
        "CacheService/WarmCache",
        "RetrievalService/BatchSearch",
        "RetrievalService/StreamSearch",
        "SystemService/GetHealth",  # tests/e2e/test_cli.py, tests/mesh/test_edge_answers.py
        "SystemService/ListAuditEvents",
        "SystemService/CreateRevocation",
        "SystemService/ListRevocations",
        "SystemService/DeleteRevocation",
        "SystemService/GetUsage",
        "SystemService/GetQuota",  # tests/e2e/test_tenants.py
        "SystemService/UpdateQuota",
        "SystemService/GetTenant",
        "SystemService/DeleteTenant",
        "SystemService/RestoreTenant",
        "SystemService/ExportTenant",
        "EvaluationService/CreateSampleQuerySet",
        "EvaluationService/UpdateSampleQuerySet",
        "EvaluationService/DeleteSampleQuerySet",
        "EvaluationService/CreateEvaluation",
        "EvaluationService/GetEvaluation",
        "EvaluationService/ListEvaluatedQueries",
        "WebhookService/CreateWebhook",
        "WebhookService/UpdateWebhook",
        "WebhookService/DeleteWebhook",
        "WebhookService/TestWebhook",
        "WebhookService/ReplayDelivery",
        "EmbeddingService/StreamEmbed",  # bidirectional: tests/mesh/test_embedding_service.py
    }
    every = {m.path.removeprefix("/ragweave.v1.") for m in contract.methods().values() if not m.internal}
    assert every == covered
