"""Each dependency of search stopped in turn: the right hits from what is left, within the deadline, and said so.

"Right" is what the remaining stages and collections find when they are asked alone, with everything running.
"""

import asyncio
import random
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

from ragweave import RagweaveError
from ragweave.cli.console import edge_credentials
from ragweave.v1 import collection_service_pb2
from ragweave.v1 import search_pb2 as pb
from ragweave.v1.retrieval_service_pb2_grpc import RetrievalServiceStub
from services.mesh.consistency import consistency_token
from tests.e2e.deadlines import STAGES, hanging, search
from tests.e2e.durability import Corpus, collection_for
from tests.e2e.stack import PATIENCE_S, PREFIX, Mesh
from tests.e2e.troubles import GONE_RERANKER, RERANKER, down, engines, stopped, wait_indexed

pytestmark = pytest.mark.timeout(600)
DEADLINE_S = 2.0
LATE_AT_EDGE = "the call did not end within its time"
SEED = 4


@dataclass(frozen=True)
class Searching:
    """A mesh with collections `small`, in the engine of all, and `large`, in one of its own."""

    mesh: Mesh
    service: RetrievalServiceStub
    corpus: Corpus
    uid: str

    def search(self, *collections: str, **fields: Any) -> pb.SearchResponse:
        """The answer to words of the corpus, past the cache."""
        asked = {"query": self.words, "cache_control": pb.SearchRequest.BYPASS, **fields}
        request = pb.SearchRequest(collections=collections or ["small"], **asked)
        metadata = (("authorization", f"Bearer {self.mesh.token()}"),)
        answer: pb.SearchResponse = self.service.Search(request, timeout=DEADLINE_S, metadata=metadata)
        return answer

    def whole(self, *collections: str, **fields: Any) -> list[str]:
        """The hits while everything runs: who was refused a connection waits a moment before the next try."""
        until = time.monotonic() + PATIENCE_S
        while (answer := self.search(*collections, **fields)).degraded_stages:
            assert time.monotonic() < until, answer.degraded_stages
            time.sleep(0.05)
        return hits(answer)

    def refused(self, *collections: str, **fields: Any) -> RagweaveError:
        with pytest.raises(grpc.RpcError) as raised:
            self.search(*collections, **fields)
        return RagweaveError.of(raised.value)

    @property
    def words(self) -> str:
        return " ".join(next(iter(self.corpus.texts.values())).split()[:6])


def hits(answer: pb.SearchResponse) -> list[str]:
    assert answer.hits
    return [hit.chunk for hit in answer.hits]


def left_out(answer: pb.SearchResponse) -> list[tuple[str, str]]:
    return [(each.stage, each.collection.removeprefix("collections/")) for each in answer.degraded_stages]


def late_or_away(error: RagweaveError, *who: str) -> bool:
    """Whether the error says that one of `who` was, or the time was up before anybody could say so."""
    if error.code is grpc.StatusCode.DEADLINE_EXCEEDED and (not error.reason or error.message == LATE_AT_EDGE):
        return True
    return error.code in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE) and any(
        each in error.message.lower() for each in who
    )


@pytest.fixture(scope="module")
def searching(doomed: Mesh) -> Iterator[Searching]:
    corpus = Corpus.made("troubles", 24, SEED)
    documents = corpus.inline()
    with doomed.client() as client:
        collection_for(client, "small")
        collection_for(client, "large")
        jobs = [
            client.import_texts("small", documents[:6]).name,
            client.import_texts("large", documents).name,
        ]
        for job in jobs:
            client.wait(job)
        wait_indexed(client, "large")
        found = client.collections.GetCollection(collection_service_pb2.GetCollectionRequest(name="collections/small"))
    # Without the client's repeats: what is told is what was told first.
    options = [("grpc.enable_retries", 0)]
    credentials = edge_credentials(doomed.layout)
    opened = (
        grpc.secure_channel(doomed.edge, credentials, options)
        if credentials
        else grpc.insecure_channel(doomed.edge, options)
    )
    with opened as channel:
        yield Searching(doomed, RetrievalServiceStub(channel), corpus, found.uid)


@pytest.mark.parametrize("killed", [False, True], ids=["stopped", "killed"])
def test_without_embedding_the_words_answer(searching: Searching, killed: bool) -> None:
    searching.whole("small", "large")  # whoever never reached it would be refused a connection, stopped or not
    by_words = searching.whole("small", "large", mode=pb.SearchRequest.SPARSE)
    with lost(searching.mesh, "embedding", killed):
        answer = searching.search("small", "large")
        assert (left_out(answer), hits(answer)) == ([("embed", "")], by_words)
        for fields in ({"require_all": True}, {"mode": pb.SearchRequest.DENSE}):
            assert late_or_away(searching.refused(**fields), "embedding")
        if killed:
            told = searching.mesh.rest("POST", f"{PREFIX}/search", {"query": "words", "collection": "small"})
            assert (told.status, told.body["degradedStages"][0]["stage"]) == (200, "embed")


@pytest.mark.parametrize("killed", [False, True], ids=["stopped", "killed"])
def test_without_the_registry_known_collections_are_searched_and_others_are_not_called_missing(
    searching: Searching, killed: bool
) -> None:
    whole = searching.whole("small", "large")
    with lost(searching.mesh, "collections", killed):
        answer = searching.search("small", "large", require_all=True)
        assert (left_out(answer), hits(answer)) == ([], whole)
        assert late_or_away(searching.refused("small", "unheard-of"), "collections")


@pytest.mark.parametrize("killed", [False, True], ids=["stopped", "killed"])
def test_without_redis_searches_go_on_but_for_those_that_must_see_a_write(searching: Searching, killed: bool) -> None:
    whole = searching.whole("small", "large")
    with lost(searching.mesh, "redis", killed):
        answer = searching.search("small", "large")
        assert (left_out(answer), hits(answer)) == ([], whole), "past the cache, nothing is missing"
        until = time.monotonic() + PATIENCE_S
        while not left_out(answer):  # what was heard of Redis is good for a moment
            assert time.monotonic() < until
            answer = searching.search("small", "large", cache_control=pb.SearchRequest.DEFAULT)
        assert (left_out(answer), hits(answer)) == ([("cache", "")], whole)
        token = consistency_token(searching.uid, 10**6)
        for fields in ({"consistency_token": token}, {"cache_control": pb.SearchRequest.DEFAULT, "require_all": True}):
            assert late_or_away(searching.refused(**fields), "redis", "result cache")


@pytest.mark.parametrize("name", ["jobs", "system"])
def test_nothing_is_missing_without_those_that_no_search_waits_for(searching: Searching, name: str) -> None:
    whole = searching.whole("small", "large")
    with stopped(searching.mesh.pid(name)):
        answer = searching.search("small", "large", require_all=True)
        assert (left_out(answer), hits(answer)) == ([], whole)


def test_without_one_engine_the_other_collections_answer(searching: Searching) -> None:
    alone = searching.whole("small")
    searching.search("large")
    _, own = engines(searching.mesh)
    with stopped(own):
        answer = searching.search("small", "large")
        assert (left_out(answer), hits(answer)) == ([("store", "large")], alone)
        for error in (searching.refused("large"), searching.refused("small", "large", require_all=True)):
            assert error.code is grpc.StatusCode.DEADLINE_EXCEEDED
            assert "collection 'large'" in error.message
            assert error.metadata["stage"] == "store"
    assert left_out(searching.search("small", "large")) == []


@pytest.mark.parametrize("model", [RERANKER, GONE_RERANKER])
def test_without_the_reranker_the_order_of_before_stays(searching: Searching, model: str) -> None:
    plain = searching.whole()
    rerank = pb.SearchRequest.Rerank(model=model)
    answer = searching.search(rerank=rerank)
    assert (left_out(answer), hits(answer)) == ([("rerank", "")], plain)
    assert late_or_away(
        searching.refused(rerank=rerank, require_all=True), "rerank" if model == RERANKER else "127.0.0.1"
    )


@pytest.mark.parametrize("stage", STAGES)
def test_searches_with_a_stage_that_hangs_are_answered_before_their_deadline(searching: Searching, stage: str) -> None:
    """The short mode of `make deadline-test`, of deadlines that a busy machine keeps too, but for one."""
    draw = random.Random(SEED)
    with hanging(searching.mesh, stage, "small", "large") as fields:
        calls = asyncio.run(
            search(searching.mesh, searching.corpus, calls=16, at_once=4, draw=draw, fields=fields, least_s=1.0)
        )
    assert sum(call.answered_without(stage) for call in calls) >= len(calls) - 1, calls


def lost(mesh: Mesh, name: str, killed: bool) -> AbstractContextManager[None]:
    return down(mesh, name) if killed else stopped(mesh.pid(name))
