"""A text that would be read too late is refused before it waits."""

import asyncio
from collections.abc import Sequence

import pytest

from services.embedding.lanes import Lane
from services.embedding.ports import Tokens
from services.embedding.scheduler import Scheduler
from services.mesh.errors import Overloaded

TOKEN_S = 0.01


class Model:
    """Takes TOKEN_S for each token by a clock of its own, one batch at a time, each once it is let go."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.let_go = asyncio.Semaphore(0)

    async def run(self, batch: Sequence[Tokens]) -> list[int]:
        await self.let_go.acquire()
        self.now_s += TOKEN_S * sum(len(each.ids) for each in batch)
        return [len(each.ids) for each in batch]


class Rig:
    def __init__(self) -> None:
        self.model = Model()
        self.queries, self.documents = Lane[int](1000, "queries"), Lane[int](1000, "documents")
        self.scheduler = Scheduler(
            {self.queries: self.model.run, self.documents: self.model.run},
            model="models/m",
            workers=1,
            batch_tokens=100,
            clock=lambda: self.model.now_s,
        )
        self._made = 0

    def start(self, lane: Lane[int], tokens: int, within_s: float | None = None) -> "asyncio.Task[dict[bytes, int]]":
        self._made += 1
        text = {b"%d" % self._made: Tokens([0] * tokens, tokens)}
        return asyncio.create_task(self.scheduler.results(lane, "acme", text, within_s=within_s))


async def queued() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.fixture
async def rig() -> Rig:
    """A model that has read something, so that it is known what a token takes, and reads again."""
    rig = Rig()
    read = rig.start(rig.queries, 100)
    rig.model.let_go.release()
    await read
    rig.start(rig.queries, 1)
    await queued()
    return rig


async def test_who_would_be_late_for_what_waits_before_is_refused_and_told_how_long_that_is(rig: Rig) -> None:
    waiting = rig.start(rig.queries, 100)
    await queued()
    # 1 s for what waits and 0.5 s for itself: with the margin for being wrong, 2 s must be left.
    late = rig.start(rig.queries, 50, within_s=1.9)
    in_time = rig.start(rig.queries, 50, within_s=2.1)
    await queued()
    with pytest.raises(Overloaded) as refused:
        await late
    assert refused.value.retry_after_s == pytest.approx(1.0)
    assert not in_time.done()
    rig.model.let_go.release()
    rig.model.let_go.release()
    rig.model.let_go.release()
    assert (list((await waiting).values()), list((await in_time).values())) == ([100], [50])


async def test_documents_count_the_queries_that_overtake_them_and_queries_count_no_documents(rig: Rig) -> None:
    documents = rig.start(rig.documents, 300)
    await queued()
    query = rig.start(rig.queries, 100, within_s=1.5)
    await queued()
    assert not query.done()
    document = rig.start(rig.documents, 1, within_s=5.3)  # 3 s of documents and 1 s of queries
    await queued()
    with pytest.raises(Overloaded):
        await document
    documents.cancel()
    query.cancel()


async def test_where_nothing_waits_a_text_is_read_whatever_it_takes(rig: Rig) -> None:
    long = rig.start(rig.queries, 1000, within_s=0.1)
    await queued()
    assert not long.done()
    long.cancel()


async def test_who_gave_up_makes_nobody_wait(rig: Rig) -> None:
    gone = rig.start(rig.queries, 1000)
    await queued()
    gone.cancel()
    await queued()
    assert rig.queries.tokens == 0
    here = rig.start(rig.queries, 100, within_s=1.5)
    await queued()
    assert not here.done()
    here.cancel()
