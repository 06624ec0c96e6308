"""A search and an import as traces through every process of a mesh, up to the last hop; and how both are given up."""

import json
import time
from collections.abc import Callable
from typing import Any

from ragweave.v1 import job_pb2
from tests.e2e.stack import PATIENCE_S, PREFIX, Mesh
from tests.e2e.traces import (
    EDGE,
    EMBEDDING,
    RETRIEVAL,
    SEARCH,
    STORE,
    abandoned_search,
    given_up,
    new_trace,
    prepared,
    stopped_engine,
)
from tests.spans import Collector, Told, hops, without_parent

IMPORT = "ragweave.v1.JobService/ImportDocuments"
BATCH = "batch models/all-MiniLM-L6-v2"


def whole(collector: Collector, of: Callable[[Told], bool], known: list[str], *wanted: str) -> list[Told]:
    """The spans of a trace, once those wanted and all parents are there; `known` are parents outside the mesh."""

    def found() -> list[Told]:
        traces = {span.trace_id for span in collector.spans if of(span)}
        return [span for span in collector.spans if span.trace_id in traces]

    collector.until(lambda _: {*wanted} <= {span.name for span in found()} and not without_parent(found(), known=known))
    return found()


def named(spans: list[Told], name: str, **attributes: Any) -> Told:
    """The first of that name that has these attributes, of which dots are written as underscores."""
    wanted = {key.replace("_", "."): value for key, value in attributes.items()}
    return next(span for span in spans if span.name == name and wanted.items() <= span.attributes.items())


def lines(mesh: Mesh, service: str, trace_id: str) -> list[dict[str, Any]]:
    """What a process logged of a trace, once it has."""
    until = time.monotonic() + PATIENCE_S
    while True:
        text = (mesh.layout.logs / f"{service}.log").read_text()
        found = [json.loads(line) for line in text.splitlines() if trace_id in line and line.startswith("{")]
        if found:
            return found
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_search_is_one_trace_from_the_edge_to_the_vector_store(mesh: Mesh, collector: Collector) -> None:
    trace_id, headers = new_trace()
    query = {"query": f"tuples {trace_id}", "collection": "python-reference", "topK": 3}
    answer = mesh.rest("POST", f"{PREFIX}/search", query, headers={**headers, "x-request-id": trace_id})
    assert (answer.status, answer.body["traceId"]) == (200, trace_id)
    caller = headers["traceparent"].split("-")[2]
    spans = whole(collector, lambda span: span.trace_id == trace_id, [caller], STORE, SEARCH, BATCH)
    assert [span.service for span in spans if span.parent == caller] == [EDGE]
    assert hops(spans, named(spans, STORE, db_operation_name="search")) == [EDGE, RETRIEVAL]
    read = named(spans, BATCH)
    assert hops(spans, read) == [EDGE, RETRIEVAL, EMBEDDING]
    served = next(span for span in spans if (span.service, span.kind) == (RETRIEVAL, "SERVER"))
    assert served.attributes["ragweave.search.cache"] == "MISS"
    assert served.attributes["ragweave.search.embed_ms"] > 0
    assert not any("tuples" in str(span.attributes) + span.name for span in spans)
    for service in ("retrieval", "embedding"):  # one id finds all that the search left in logs; the edge's: tests/mesh
        found = {(line["request_id"], line["trace_id"]) for line in lines(mesh, service, trace_id)}
        assert found == {(trace_id, trace_id)}


def test_an_import_is_linked_to_the_work_it_had_queued_and_that_is_followed_to_the_store(
    mesh: Mesh, collector: Collector
) -> None:
    collection = "traced-import"
    assert mesh.rest("POST", f"{PREFIX}/collections?collectionId={collection}", {}).status == 200
    trace_id, headers = new_trace()
    documents = {"inline": {"documents": [{"documentId": "a", "text": "plums"}, {"documentId": "b", "text": "pears"}]}}
    path = f"{PREFIX}/collections/{collection}/documents:import"
    answer = mesh.rest("POST", path, documents, headers=headers)
    assert answer.status == 200
    with mesh.client() as client:
        assert client.wait(answer.body["name"]).state == job_pb2.Job.SUCCEEDED
    caller = headers["traceparent"].split("-")[2]
    asked = whole(collector, lambda span: span.trace_id == trace_id, [caller], IMPORT)
    (queued,) = (span for span in asked if (span.service, span.kind, span.name) == ("ragweave-jobs", "SERVER", IMPORT))
    assert hops(asked, queued) == [EDGE, "ragweave-jobs"]

    def queued_by_it(span: Told) -> bool:
        return (trace_id, queued.id) in span.links and span.service == "ragweave-worker"

    collector.until(lambda spans: sum(map(queued_by_it, spans)) == 2)
    work = whole(collector, queued_by_it, [], "extract", "embed", "index", "record", STORE, "the registry's database")
    items = [span for span in work if queued_by_it(span)]
    assert {span.attributes["ragweave.item.change"] for span in items} == {"SUCCEED"}
    assert {span.attributes["ragweave.job"] for span in items} == {answer.body["name"].removeprefix("jobs/")}
    assert hops(work, named(work, STORE, db_operation_name="upsert")) == ["ragweave-worker", RETRIEVAL]
    assert hops(work, named(work, "the registry's database")) == ["ragweave-worker", "ragweave-collections"]

    def read_for_it(span: Told) -> bool:
        return span.name.startswith("batch ") and not {link[0] for link in span.links}.isdisjoint(
            span.trace_id for span in work
        )

    collector.until(lambda spans: any(map(read_for_it, spans)))  # of the embedding service, which sends its own
    read = next(filter(read_for_it, collector.spans))
    assert read.service == EMBEDDING
    told = "".join(str(span.attributes) for span in [*asked, *work])
    assert "plums" not in told and "pears" not in told


def test_a_caller_that_leaves_has_the_vector_store_given_up_while_it_has_the_search(
    doomed: Mesh, collector: Collector
) -> None:
    prepared(doomed, "abandoned")
    with stopped_engine(doomed, "abandoned"):
        trace_id, left_s = abandoned_search(doomed, collector, "abandoned")
        part = given_up(collector, trace_id)  # the engine answers nothing yet: only a cancellation can have ended it
    assert part.attributes["error.type"] == "CANCELLED"
    assert part.ended_s > left_s
