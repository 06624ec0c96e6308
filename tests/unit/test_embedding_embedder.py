"""How texts of concurrent calls are scheduled, refused, shared, dropped and cached."""

import asyncio
import struct
from collections.abc import AsyncIterator, Sequence

import pytest

from services.embedding.cache import TieredCache
from services.embedding.embedder import Embedder, Embedding
from services.embedding.ports import InputType
from services.embedding.scheduler import URGENT_BEFORE_PATIENT
from services.mesh.errors import InvalidArgument, TextTooLong, TooManyRequests
from tests.embedding_fakes import MemoryCache, WordModel, spec_of


@pytest.fixture
def model() -> WordModel:
    return WordModel()


@pytest.fixture
def far() -> MemoryCache:
    return MemoryCache()


@pytest.fixture
async def cache(far: MemoryCache) -> AsyncIterator[TieredCache]:
    async with TieredCache(far, near_bytes=2**20) as cache:
        yield cache


@pytest.fixture
def embedder(model: WordModel, cache: TieredCache) -> Embedder:
    """One worker, so that order can be seen."""
    return Embedder(model, cache, workers=1, max_queue=40, batch_tokens=24)


def text_of(words: int, word: str = "w") -> str:
    return " ".join(f"{word}{number}" for number in range(words))


def start(embedder: Embedder, *texts: str, query: bool = False) -> "asyncio.Task[list[Embedding]]":
    input_type = InputType.QUERY if query else InputType.DOCUMENT
    return asyncio.create_task(embedder.embed("acme", texts, input_type=input_type))


async def queued() -> None:
    """Lets everything that can run do so: fakes never wait for time."""
    for _ in range(20):
        await asyncio.sleep(0)


async def busy(model: WordModel, embedder: Embedder) -> "asyncio.Task[list[Embedding]]":
    """Holds the only worker until the model's gate opens."""
    model.gate.clear()
    task = start(embedder, "hold the worker")
    await model.started.acquire()
    return task


async def test_embeddings_come_in_the_order_of_the_texts(embedder: Embedder) -> None:
    texts = [text_of(9), "a", text_of(5, "x"), "a", text_of(9)]
    together = await embedder.embed("acme", texts)
    alone = [(await embedder.embed("acme", [text]))[0] for text in texts]
    assert [each.vector for each in together] == [each.vector for each in alone]
    assert [each.token_count for each in together] == [11, 3, 7, 3, 11]


async def test_the_model_is_told_what_each_text_is_for(model: WordModel, embedder: Embedder) -> None:
    await embedder.embed("acme", ["one", "two"], input_type=InputType.QUERY)
    await embedder.embed("acme", ["one", "two"], input_type=InputType.DOCUMENT)
    assert [*dict.fromkeys(model.input_types)] == [InputType.QUERY, InputType.DOCUMENT]


async def test_queries_overtake_documents(model: WordModel, embedder: Embedder) -> None:
    holding = await busy(model, embedder)
    documents = start(embedder, *(text_of(20, f"d{number}") for number in range(5)))
    await queued()
    query = start(embedder, "one two", query=True)
    await queued()
    model.gate.set()
    await asyncio.gather(holding, documents, query)
    assert model.lengths()[1] == [2]


async def test_a_query_finishes_while_documents_still_wait(model: WordModel, embedder: Embedder) -> None:
    documents = start(embedder, *(text_of(20, f"d{number}") for number in range(30)))
    await model.started.acquire()
    await start(embedder, "one two", query=True)
    assert not documents.done()
    await documents


async def test_a_flood_of_queries_does_not_stop_documents(model: WordModel, embedder: Embedder) -> None:
    holding = await busy(model, embedder)
    document = start(embedder, text_of(19))
    queries = [start(embedder, text_of(20, f"q{number}"), query=True) for number in range(40)]
    await queued()
    model.gate.set()
    await asyncio.gather(holding, document, *queries)
    assert model.lengths().index([19]) == 1 + URGENT_BEFORE_PATIENT


async def test_short_texts_of_different_calls_share_a_batch(model: WordModel, embedder: Embedder) -> None:
    holding = await busy(model, embedder)
    tasks = [start(embedder, text) for text in (text_of(4, "a"), text_of(20, "b"), text_of(5, "c"), text_of(3, "d"))]
    await queued()
    model.gate.set()
    await asyncio.gather(holding, *tasks)
    assert model.lengths()[1:] == [[3, 4, 5], [20]]


async def test_idle_workers_share_what_waits(model: WordModel, cache: TieredCache) -> None:
    embedder = Embedder(model, cache, workers=2, batch_tokens=1000)
    await embedder.embed("acme", [f"text {number}" for number in range(6)])
    assert [len(batch) for batch in model.batches] == [3, 3]


async def test_no_more_batches_run_at_a_time_than_there_are_workers(model: WordModel, cache: TieredCache) -> None:
    model.gate.clear()
    embedder = Embedder(model, cache, workers=2, batch_tokens=1)
    task = start(embedder, *(f"text {number}" for number in range(5)))
    await queued()
    assert len(model.batches) == 2
    model.gate.set()
    await task
    assert len(model.batches) == 5


async def test_a_text_wanted_twice_at_a_time_is_embedded_once(model: WordModel, embedder: Embedder) -> None:
    holding = await busy(model, embedder)
    tasks = [start(embedder, "the same", "the same", text) for text in ("x y z", "u v w")]
    await queued()
    model.gate.set()
    await asyncio.gather(holding, *tasks)
    assert sum(lengths.count(2) for lengths in model.lengths()) == 1


async def test_work_of_a_cancelled_caller_is_dropped(model: WordModel, embedder: Embedder) -> None:
    holding = await busy(model, embedder)
    cancelled, kept = start(embedder, text_of(9, "x"), "shared text"), start(embedder, "shared text")
    await queued()
    cancelled.cancel()
    await queued()
    model.gate.set()
    await asyncio.gather(holding, kept)
    assert model.lengths()[1:] == [[2]]
    assert cancelled.cancelled()


async def test_a_running_text_survives_its_caller_for_the_next_one(model: WordModel, embedder: Embedder) -> None:
    first = await busy(model, embedder)
    second = start(embedder, "hold the worker")
    await queued()
    first.cancel()
    await queued()
    model.gate.set()
    (embedding,) = await second
    assert len(model.batches) == 1
    assert not embedding.cached


async def test_a_full_queue_refuses_whole_calls_and_takes_others_again(model: WordModel, embedder: Embedder) -> None:
    holding = await busy(model, embedder)
    waiting = start(embedder, *(f"document {number}" for number in range(39)))
    await queued()
    with pytest.raises(TooManyRequests) as refused:
        await embedder.embed("acme", ["one", "two"])
    assert refused.value.retry_after_s
    query = start(embedder, "queries have a queue of their own", query=True)
    fitting = start(embedder, "one")
    await queued()
    model.gate.set()
    await asyncio.gather(holding, waiting, query, fitting)
    await embedder.embed("acme", ["one", "two"])


async def test_a_cached_text_embeds_nothing(model: WordModel, embedder: Embedder) -> None:
    (first,) = await embedder.embed("acme", ["a text"])
    (second,) = await embedder.embed("acme", ["a text"])
    assert (first.cached, second.cached) == (False, True)
    assert first.vector == second.vector
    assert len(model.batches) == len(model.tokenized) == 1


async def test_a_cached_text_is_embedded_anew_where_that_is_asked_for(model: WordModel, embedder: Embedder) -> None:
    (first,) = await embedder.embed("acme", ["a text"])
    (again,) = await embedder.embed("acme", ["a text"], recompute=True)
    assert (again.vector, again.cached) == (first.vector, False)
    assert len(model.batches) == 2


async def test_no_tenant_learns_what_another_has_embedded(model: WordModel, embedder: Embedder) -> None:
    (theirs,) = await embedder.embed("acme", ["a text"])
    (ours,) = await embedder.embed("globex", ["a text"])
    assert (theirs.cached, ours.cached) == (False, False)
    assert theirs.vector == ours.vector
    assert len(model.batches) == 2


async def test_a_text_cached_far_embeds_nothing(model: WordModel, far: MemoryCache) -> None:
    async with TieredCache(far, near_bytes=2**20) as cache:
        (first,) = await Embedder(model, cache).embed("acme", [text_of(40)], truncate=True)
    async with TieredCache(far, near_bytes=2**20) as fresh:
        (second,) = await Embedder(model, fresh).embed("acme", [text_of(40)], truncate=True)
    assert second == Embedding(first.vector, 32, truncated=True, cached=True)
    assert len(model.batches) == 1


async def test_a_far_cache_that_knows_no_query_is_seldom_asked_for_one_but_always_for_documents(
    embedder: Embedder, far: MemoryCache
) -> None:
    for number in range(64 + 160):
        await start(embedder, f"query {number}", query=True)
    assert far.asked == 64 + 10
    for number in range(100):
        await start(embedder, f"document {number}")
    assert far.asked == 64 + 10 + 100


async def test_a_query_and_a_document_do_not_share_a_cache_entry(model: WordModel, embedder: Embedder) -> None:
    await embedder.embed("acme", ["a text"], input_type=InputType.QUERY)
    await embedder.embed("acme", ["a text"], input_type=InputType.DOCUMENT)
    assert len(model.batches) == 2


async def test_an_entry_of_another_length_is_not_believed(model: WordModel, far: MemoryCache) -> None:
    async with TieredCache(far, near_bytes=2**20) as cache:
        await Embedder(model, cache).embed("acme", ["a text"])
    assert far.entries
    far.entries = {key: b"short" for key in far.entries}
    async with TieredCache(far, near_bytes=2**20) as fresh:
        (embedding,) = await Embedder(model, fresh).embed("acme", ["a text"])
    assert not embedding.cached
    assert len(embedding.vector) == 4 * model.spec.dimension


async def test_a_long_text_is_refused_with_its_place_its_tokens_and_the_limit(
    model: WordModel, embedder: Embedder
) -> None:
    with pytest.raises(TextTooLong) as refused:
        await embedder.embed("acme", ["short", text_of(31), text_of(40)])
    error = refused.value
    assert error.message.startswith("texts[1]: has 33 tokens, and words takes 32")
    assert [violation.field for violation in error.violations] == ["texts[1]", "texts[2]"]
    assert error.metadata == {"index": "1", "tokens": "33", "limit": "32"}
    assert model.batches == []


async def test_a_text_at_the_limit_is_taken(embedder: Embedder) -> None:
    (embedding,) = await embedder.embed("acme", [text_of(30)])
    assert (embedding.token_count, embedding.truncated) == (32, False)


async def test_truncation_is_asked_for_and_told_of(embedder: Embedder) -> None:
    short, long = await embedder.embed("acme", ["short", text_of(40)], truncate=True)
    assert (short.token_count, short.truncated) == (3, False)
    assert (long.token_count, long.truncated) == (32, True)


async def test_a_truncated_text_in_the_cache_is_still_refused_to_others(embedder: Embedder) -> None:
    await embedder.embed("acme", [text_of(40)], truncate=True)
    with pytest.raises(TextTooLong):
        await embedder.embed("acme", [text_of(40)])


@pytest.mark.parametrize("text", ["", " ", "\n\t "])
async def test_a_text_without_words_is_refused(model: WordModel, embedder: Embedder, text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"texts\[1\]: holds no text to embed"):
        await embedder.embed("acme", ["fine", text])
    assert model.batches == []


async def test_a_failing_model_fails_its_callers_and_nobody_after(model: WordModel, embedder: Embedder) -> None:
    model.error = RuntimeError("broken")
    tasks = [start(embedder, text) for text in ("one", "two three")]
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [RuntimeError, RuntimeError]
    model.error = None
    assert await embedder.embed("acme", ["one"])


async def test_tokens_are_counted_without_embedding(model: WordModel, embedder: Embedder) -> None:
    assert await embedder.count_tokens(["", "one", text_of(100)]) == [2, 3, 102]
    assert model.batches == []


async def test_a_large_import_is_tokenized_in_slices(embedder: Embedder) -> None:
    class Slices(WordModel):
        def __init__(self) -> None:
            super().__init__(spec_of(max_tokens=10**6))
            self.slices: list[int] = []

        async def tokenize(self, texts: Sequence[str]) -> list:
            self.slices.append(len(texts))
            return await super().tokenize(texts)

    model = Slices()
    async with TieredCache(MemoryCache(), near_bytes=2**20) as cache:
        counts = await Embedder(model, cache).count_tokens([*["word " * 2000] * 7, "word " * 10_000, "word"])
    assert model.slices == [3, 3, 1, 1, 1]
    assert counts == [2002] * 7 + [10_002, 3]


async def test_the_check_embeds_only_where_nothing_was_embedded_lately(model: WordModel, embedder: Embedder) -> None:
    await embedder.check()
    await embedder.check()
    assert model.probes == 1


async def test_the_check_fails_with_the_model(model: WordModel, embedder: Embedder) -> None:
    model.error = RuntimeError("broken")
    with pytest.raises(RuntimeError):
        await embedder.check()
    model.error = None
    await embedder.check()


async def test_vectors_have_the_dimension_and_length_one(embedder: Embedder) -> None:
    (embedding,) = await embedder.embed("acme", ["some words here"])
    values = struct.unpack("<64f", embedding.vector)
    assert sum(value * value for value in values) == pytest.approx(1)
