"""What metrics tell of models and of the cache of embeddings."""

import pytest
from prometheus_client import CollectorRegistry

from services.embedding.figures import CacheFigures, ModelFigures
from services.embedding.lanes import Lane, Work
from services.embedding.ports import Tokens

MODEL = {"model": "models/tiny"}


async def works(*lengths: int) -> list[Work[bytes]]:
    return [Work(bytes([at]), Tokens(list(range(length)), length)) for at, length in enumerate(lengths)]


async def test_a_batch_counts_its_texts_and_the_tokens_it_read() -> None:
    registry = CollectorRegistry()
    figures = ModelFigures("models/tiny", [], registry)
    with figures.batch(await works(3, 4)):
        pass
    with pytest.raises(RuntimeError), figures.batch(await works(100)):
        raise RuntimeError
    assert registry.get_sample_value("ragweave_model_tokens_total", MODEL) == 7
    assert registry.get_sample_value("ragweave_model_batch_texts_count", MODEL) == 2
    assert registry.get_sample_value("ragweave_model_batch_texts_sum", MODEL) == 3
    assert registry.get_sample_value("ragweave_model_batch_seconds_count", MODEL) == 2


async def test_what_waits_is_seen_at_each_scrape() -> None:
    registry, lane = CollectorRegistry(), Lane[bytes](10, "queries")
    ModelFigures("models/tiny", [lane], registry)
    for work in await works(1, 2):
        lane.push(work)
    waiting = {**MODEL, "lane": "queries"}
    assert registry.get_sample_value("ragweave_model_queue_texts", waiting) == 2
    lane.take(100, 2)
    assert registry.get_sample_value("ragweave_model_queue_texts", waiting) == 0


def test_lookups_count_by_where_the_embedding_was_had_from() -> None:
    registry = CollectorRegistry()
    figures = CacheFigures(registry)
    figures.looked_up(3, 0, 2)
    figures.looked_up(0, 1, 0)
    found = {
        each: registry.get_sample_value("ragweave_embedding_cache_total", {"layer": each})
        for each in ("near", "far", "miss")
    }
    assert found == {"near": 3, "far": 1, "miss": 2}
