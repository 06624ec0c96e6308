"""A stream of texts: answered as they finish, each failing alone, never read ahead without bound."""

import asyncio
from collections.abc import AsyncIterator, Iterable

import pytest

from services.embedding.cache import TieredCache
from services.embedding.embedder import Embedder, Embedding
from services.embedding.models import Catalog
from services.embedding.ports import InputType
from services.embedding.stream import Embedded, Ended, Item, embed_stream
from services.mesh.errors import InvalidArgument, ModelNotFound, TextTooLong
from tests.embedding_fakes import MemoryCache, WordModel


@pytest.fixture
def model() -> WordModel:
    return WordModel()


@pytest.fixture
async def catalog(model: WordModel) -> AsyncIterator[Catalog]:
    async with TieredCache(MemoryCache(), near_bytes=2**20) as cache:
        yield Catalog([Embedder(model, cache)])


async def stream_of(items: Iterable[Item]) -> AsyncIterator[Item]:
    for item in items:
        yield item


async def test_every_item_is_answered_by_its_id_and_the_end_comes_last(catalog: Catalog) -> None:
    items = [Item(str(number), f"text {number}") for number in range(200)]
    outcomes = [outcome async for outcome in embed_stream(catalog, "acme", stream_of(items))]
    assert outcomes[-1] == Ended()
    answered = {outcome.id: outcome.outcome for outcome in outcomes[:-1] if isinstance(outcome, Embedded)}
    assert set(answered) == {item.id for item in items}
    (expected,) = await catalog.embedder("").embed("acme", ["text 7"])
    assert isinstance(found := answered["7"], Embedding)
    assert found.vector == expected.vector


async def test_a_bad_text_fails_alone(catalog: Catalog) -> None:
    items = [Item("good", "a text"), Item("empty", ""), Item("long", "w " * 99), Item("last", "another")]
    outcomes = [outcome async for outcome in embed_stream(catalog, "acme", stream_of(items))]
    kinds = {each.id: type(each.outcome) for each in outcomes if isinstance(each, Embedded)}
    assert kinds == {"good": Embedding, "empty": InvalidArgument, "long": TextTooLong, "last": Embedding}
    (empty,) = (each.outcome for each in outcomes if isinstance(each, Embedded) and each.id == "empty")
    assert str(empty) == "text: holds no text to embed"


async def test_the_first_item_decides_for_all(catalog: Catalog, model: WordModel) -> None:
    items = [Item("1", "w " * 99, input_type=InputType.QUERY, truncate=True), Item("2", "v " * 99, model="unknown")]
    outcomes = [outcome async for outcome in embed_stream(catalog, "acme", stream_of(items))]
    found = [each.outcome for each in outcomes if isinstance(each, Embedded)]
    assert [isinstance(each, Embedding) and each.truncated for each in found] == [True, True]


async def test_an_unknown_model_ends_the_stream(catalog: Catalog) -> None:
    outcomes = []
    with pytest.raises(ModelNotFound, match="there are: words"):
        async for outcome in embed_stream(catalog, "acme", stream_of([Item("1", "a", model="models/none")])):
            outcomes.append(outcome)
    (ended,) = outcomes
    assert isinstance(ended, Ended)
    assert isinstance(ended.error, ModelNotFound)


async def test_a_failing_model_ends_the_stream(catalog: Catalog, model: WordModel) -> None:
    model.error = RuntimeError("broken")
    outcomes = []
    with pytest.raises(RuntimeError):
        async for outcome in embed_stream(catalog, "acme", stream_of([Item("1", "a")])):
            outcomes.append(outcome)
    assert outcomes == [Ended(model.error)]


async def test_a_slow_reader_is_not_read_ahead_of(catalog: Catalog) -> None:
    read = 0

    async def items() -> AsyncIterator[Item]:
        nonlocal read
        for read in range(1, 101):
            yield Item(str(read), f"text {read}")

    stream = embed_stream(catalog, "acme", items(), max_in_flight=4)
    await anext(stream)
    for _ in range(100):
        await asyncio.sleep(0)
    assert read <= 6
    assert len([outcome async for outcome in stream]) == 100
    assert read == 100


async def test_a_closed_stream_drops_what_waits(catalog: Catalog, model: WordModel) -> None:
    async def endless() -> AsyncIterator[Item]:
        number = 0
        while True:
            number += 1
            yield Item(str(number), f"text {number}")

    stream = embed_stream(catalog, "acme", endless(), max_in_flight=4)
    await anext(stream)
    await stream.aclose()  # type: ignore[attr-defined]
    ran = len(model.batches)
    for _ in range(100):
        await asyncio.sleep(0)
    assert len(model.batches) == ran
