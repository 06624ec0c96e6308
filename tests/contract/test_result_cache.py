"""Answers given again, by one process and by two that share a real Redis."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

from services.retrieval.adapters.redis import RedisRevisions
from services.retrieval.chunks import IndexId
from services.retrieval.revisions import RevisionsMirror
from tests.cache_soak import soak
from tests.jobs_store import Store, store_in

INDEX = IndexId("uid-docs")


async def test_no_answer_is_stale_or_forbidden_however_writes_and_searches_fall() -> None:
    soaks = await soak(1500, 7)
    for each in soaks.values():
        assert each.searches > 500 and each.hits > 20
    assert soaks["two processes, few writes of one"].shared > 10


async def mirror(opened: AsyncExitStack, server: Store, **fields: float) -> RevisionsMirror:
    counter = await opened.enter_async_context(RedisRevisions.open(server.url, timeout_s=5))
    made = RevisionsMirror(counter, counter, **fields)
    following = asyncio.create_task(made.run())
    opened.push_async_callback(_ended, following)
    return made


async def _ended(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def heard(of: RevisionsMirror, era: int) -> None:
    while of.era <= era:
        await asyncio.sleep(0.01)


async def test_a_write_of_one_process_is_pushed_to_the_other(tmp_path: Path) -> None:
    async with AsyncExitStack() as opened:
        server = opened.enter_context(store_in(tmp_path))
        writing, reading = [await mirror(opened, server, good_for_s=30) for _ in range(2)]
        await heard(reading, 0)
        assert await reading.told([INDEX]) == (0,)
        assert await writing.bump(INDEX) == 1
        assert await writing.told([INDEX]) == (1,)
        while reading.at([INDEX]) != (1,):
            await asyncio.sleep(0)


async def test_a_redis_that_was_away_is_heard_again_and_what_was_written_meanwhile_is_known(tmp_path: Path) -> None:
    async with AsyncExitStack() as opened:
        server = opened.enter_context(store_in(tmp_path))
        writing, reading = [await mirror(opened, server, good_for_s=30, patience_s=10) for _ in range(2)]
        await heard(reading, 0)
        await writing.bump(INDEX)
        assert await reading.told([INDEX]) == (1,)
        era = reading.era
        server.kill()
        server.start()
        assert await writing.bump(INDEX) == 2
        await heard(reading, era)
        assert await reading.told([INDEX]) == (2,)


async def test_revisions_are_known_for_as_long_as_the_feed_beats(tmp_path: Path) -> None:
    async with AsyncExitStack() as opened:
        server = opened.enter_context(store_in(tmp_path))
        reading = await mirror(opened, server)
        await heard(reading, 0)
        while reading.at([INDEX]) is None:
            await reading.told([INDEX])
        first_s = reading._heard_s
        while reading._heard_s < first_s + 0.4:  # two beats
            await asyncio.sleep(0.01)
        assert reading._asked_s[INDEX] < reading._heard_s
