"""What metrics tell of searches and of what is asked of the vector store."""

import asyncio

import pytest
from prometheus_client import REGISTRY, CollectorRegistry

from services.mesh.errors import DependencyUnavailable, IndexFailed
from services.mesh.filters import EVERYTHING
from services.retrieval.chunks import IndexId
from services.retrieval.figures import BuildFigures
from services.retrieval.measured_store import MeasuredVectorStore
from services.retrieval.stages import Stages
from tests.retrieval_fakes import MemoryVectorStore

INDEX = IndexId("uid-1")


def count(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0


def test_each_stage_of_a_search_is_timed_once_when_the_whole_has_ended() -> None:
    stages = Stages()
    before = {each: count("ragweave_search_stage_seconds_count", stage=each) for each in ("embed", "total")}
    with stages.whole():
        for _ in range(2):  # a search that is deepened asks a stage again
            with stages.timed("embed"):
                pass
        assert count("ragweave_search_stage_seconds_count", stage="embed") == before["embed"]
    for each, counted in before.items():
        assert count("ragweave_search_stage_seconds_count", stage=each) == counted + 1


def test_a_search_that_fails_is_timed_too() -> None:
    before = count("ragweave_search_stage_seconds_count", stage="total")
    with pytest.raises(ValueError), Stages().whole():
        raise ValueError
    assert count("ragweave_search_stage_seconds_count", stage="total") == before + 1


def test_a_stage_left_out_counts_once_an_answer() -> None:
    before, stages = count("ragweave_search_degraded_total", stage="rerank"), Stages()
    for _ in range(2):
        stages.left_out("rerank", DependencyUnavailable("the reranking model does not answer"))
    assert count("ragweave_search_degraded_total", stage="rerank") == before + 1


class Failing(MemoryVectorStore):
    """Fails with what it is told to."""

    error: BaseException

    async def count(self, index: IndexId, document_id: str = "", revision_key: str = "", above: int = -1) -> int:
        raise self.error


async def test_operations_are_timed_and_failures_counted_by_name() -> None:
    registry, failing = CollectorRegistry(), Failing()
    store = MeasuredVectorStore(failing, registry)
    await store.fetch(INDEX, [], EVERYTHING)
    for error in (IndexFailed("the vector index failed at this request"), asyncio.CancelledError()):
        failing.error = error
        with pytest.raises(type(error)):
            await store.count(INDEX)
    for operation, timed, failed in (("fetch", 1, None), ("count", 2, 1)):
        labels = {"operation": operation}
        assert registry.get_sample_value("ragweave_vector_store_seconds_count", labels) == timed
        assert registry.get_sample_value("ragweave_vector_store_failures_total", labels) == failed


def test_builds_count_by_how_they_ended_and_a_cancelled_one_did_not_fail() -> None:
    registry = CollectorRegistry()
    figures = BuildFigures(registry)
    with figures.build():
        pass
    with pytest.raises(OSError), figures.build():
        raise OSError
    with pytest.raises(asyncio.CancelledError), figures.build():
        raise asyncio.CancelledError
    ended = {
        each: registry.get_sample_value("ragweave_index_builds_total", {"outcome": each}) for each in ("done", "failed")
    }
    assert ended == {"done": 1, "failed": 1}
    assert registry.get_sample_value("ragweave_index_build_seconds_count") == 1
