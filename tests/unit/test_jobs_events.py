"""Watching a tenant's events: what is sent to whom, where it begins, how it ends, and what it costs."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from services.jobs.background import kept_going
from services.jobs.events import CollectionChange, TenantEvent
from services.jobs.following import Follower
from services.jobs.job import Assignment, DocumentSpec, Failure, Item, ItemState, JobType
from services.jobs.streams import Ended, Streams
from services.jobs.watching import Events, Passed
from services.mesh.errors import DeadlineExceeded, DependencyUnavailable, EventsForgotten, InvalidArgument
from services.mesh.identity import Caller
from tests.jobs_events import TIME, MemoryEventLog, change, recorded_as

ANN = Caller("acme", "ann", frozenset({"jobs.read", "collections.read"}), frozenset({"user:ann"}))
JOB = Assignment("acme", "j1", "", JobType.IMPORT, "books", "uid-1")


def event(topic: str, collection_id: str = "books", tenant: str = "acme") -> TenantEvent:
    return TenantEvent(tenant, 0, topic, TIME, collection_id)


def indexed(document_id: str, principals: tuple[str, ...] = (), error: Failure | None = None) -> TenantEvent:
    item = Item(1, DocumentSpec(document_id, principals=principals), ItemState.SUCCEEDED, 1, TIME, error=error)
    return replace(event("document.indexed"), assignment=JOB, item=item)


class Watched:
    """Events over a log in memory."""

    def __init__(self, log: MemoryEventLog) -> None:
        self.log = log
        self.streams = Streams()
        self.events = Events(log, self.streams)

    def watch(self, who: Caller = ANN, *topics: str, **fields: Any) -> Any:
        return self.events.watch(
            who, topics, fields.get("collection_id", ""), fields.get("after", 0), fields.get("timeout_s")
        )

    async def seen(self, count: int, who: Caller = ANN, *topics: str, **fields: Any) -> list[int]:
        """Sequences of the next so many events."""
        stream = self.watch(who, *topics, **fields)
        found = [(await anext(stream)).sequence for _ in range(count)]
        await stream.aclose()
        return found


@asynccontextmanager
async def watched(most: int = 1000) -> AsyncIterator[Watched]:
    rig = Watched(MemoryEventLog(most))
    async with asyncio.timeout(20), kept_going("news", rig.events.run):
        yield rig


async def fill(log: MemoryEventLog, *topics: str) -> None:
    for topic in topics:
        await log.happened(event(topic))


async def test_a_watcher_gets_what_is_kept_then_what_happens_and_nothing_of_other_tenants() -> None:
    async with watched() as rig:
        await fill(rig.log, "ingestion.started")
        await rig.log.happened(event("ingestion.started", tenant="globex"))
        stream = rig.watch()
        assert (await anext(stream)).sequence == 1
        coming = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        await rig.log.happened(event("ingestion.failed", tenant="globex"))
        await fill(rig.log, "ingestion.completed")
        then = await coming
        assert (then.tenant, then.sequence, then.topic) == ("acme", 2, "ingestion.completed")
        await stream.aclose()


async def test_a_watcher_goes_on_where_it_was_or_takes_only_what_is_new() -> None:
    async with watched() as rig:
        await fill(rig.log, *["ingestion.progress"] * 5)
        assert await rig.seen(2, after=3) == [4, 5]
        new = rig.watch(after=-1)
        assert await anext(new) == Passed(5)
        await fill(rig.log, "ingestion.completed")
        assert (await anext(new)).sequence == 6
        await new.aclose()


async def test_topics_are_named_in_full_or_by_their_first_word() -> None:
    topics = ("ingestion.started", "document.indexed", "ingestion.completed", "collection.created", "document.failed")
    async with watched() as rig:
        await fill(rig.log, *topics)
        assert await rig.seen(2, ANN, "ingestion.*") == [1, 3]
        assert await rig.seen(3, ANN, "document.*", "collection.created") == [2, 4, 5]
        for unknown in ("ingestion.finished", "jobs.*", "*"):
            with pytest.raises(InvalidArgument, match=r"topics\[1\]"):
                await anext(rig.watch(ANN, "document.indexed", unknown))


async def test_a_watcher_of_one_collection_sees_no_other() -> None:
    async with watched() as rig:
        for collection_id in ("books", "films", "books"):
            await rig.log.happened(event("ingestion.started", collection_id))
        assert await rig.seen(2, collection_id="books") == [1, 3]


async def test_a_sequence_that_is_not_kept_is_refused_before_anything_is_sent() -> None:
    async with watched(most=3) as rig:
        await fill(rig.log, *["ingestion.progress"] * 9)
        assert await rig.seen(3) == [7, 8, 9]
        assert await rig.seen(3, after=6) == [7, 8, 9]
        for after in (5, 1, 10):
            with pytest.raises(EventsForgotten):
                await anext(rig.watch(after=after))


async def test_a_watcher_so_slow_that_events_are_forgotten_is_told_so_at_the_end() -> None:
    async with watched(most=300) as rig:
        await fill(rig.log, *["ingestion.progress"] * 200)
        stream = rig.watch()
        assert (await anext(stream)).sequence == 1
        await fill(rig.log, *["ingestion.progress"] * 400)
        rest = [each async for each in stream]
        assert [each.sequence for each in rest[:-1]] == list(range(2, 201))
        assert rest[-1].sequence == 200
        assert isinstance(rest[-1].error, EventsForgotten)


async def test_a_slow_watcher_holds_one_page_and_many_that_are_as_far_share_it() -> None:
    async with watched(most=10_000) as rig:
        await fill(rig.log, *["ingestion.progress"] * 5000)
        slow = [rig.watch() for _ in range(50)]
        await asyncio.gather(*(anext(stream) for stream in slow))
        assert rig.log.reads == 1
        for stream in slow:
            await stream.aclose()


async def test_many_watchers_of_a_tenant_that_wait_cost_one_read_when_something_happens() -> None:
    async with watched() as rig:
        await fill(rig.log, "ingestion.started")
        waiting = [rig.watch() for _ in range(50)]
        await asyncio.gather(*(anext(stream) for stream in waiting))
        coming = [asyncio.ensure_future(anext(stream)) for stream in waiting]
        before = rig.log.reads
        await fill(rig.log, "ingestion.completed")
        assert {each.sequence for each in await asyncio.gather(*coming)} == {2}
        assert rig.log.reads - before <= 2, "one for the first news, which tell of all tenants, and one for this"
        for stream in waiting:
            await stream.aclose()


async def test_what_happens_while_a_page_is_read_is_not_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    async with watched() as rig:
        read, gate = rig.log.read, asyncio.Event()

        async def late(tenant: str, after: int, limit: int) -> list[TenantEvent]:
            found = await read(tenant, after, limit)
            await gate.wait()
            return found

        monkeypatch.setattr(rig.log, "read", late)
        coming = asyncio.create_task(rig.seen(1))
        while not rig.log.reads:
            await asyncio.sleep(0)
        await fill(rig.log, "ingestion.started")
        for _ in range(10):
            await asyncio.sleep(0)
        gate.set()
        assert await coming == [1]


async def test_a_watcher_cut_many_times_loses_and_repeats_nothing() -> None:
    async with watched() as rig:

        async def happen() -> None:
            for at in range(400):
                await fill(rig.log, "document.indexed" if at % 3 else "ingestion.progress")
                await asyncio.sleep(0)

        happening = asyncio.create_task(happen())
        seen: list[int] = []
        for cut in range(21):
            stream = rig.watch(after=seen[-1] if seen else 0)
            for _ in range(17 if cut < 20 else 400 - len(seen)):
                seen.append((await anext(stream)).sequence)
            await stream.aclose()
        await happening
        assert seen == list(range(1, 401))


async def test_a_watcher_that_went_away_leaves_nothing() -> None:
    async with watched() as rig:
        await fill(rig.log, "ingestion.started")
        gone = [rig.watch() for _ in range(3)]
        for stream in gone:
            await anext(stream)
        assert list(rig.events._tenants) == ["acme"]
        for stream in gone:
            await stream.aclose()
        assert not rig.events._tenants
        assert not rig.events._pages


async def test_a_long_time_without_anything_wanted_is_told_of() -> None:
    async with watched() as rig:
        await fill(rig.log, *["ingestion.progress"] * 450, "document.failed")
        stream = rig.watch(ANN, "document.*")
        found = [await anext(stream) for _ in range(3)]
        assert found[:2] == [Passed(200), Passed(400)]
        assert found[2].sequence == 451
        await stream.aclose()


async def test_a_document_with_an_acl_shows_to_those_on_it_and_to_who_writes_documents() -> None:
    failure = Failure(3, "UNREADABLE_DOCUMENT", "secret.pdf: it is corrupt")
    async with watched() as rig:
        await rig.log.happened(indexed("secret.pdf", ("user:bob",), failure))
        bob = Caller("acme", "bob", frozenset({"jobs.read"}), frozenset({"user:bob"}))
        editor = Caller("acme", "eve", frozenset({"jobs.read", "documents.write"}))
        for who, shown in ((ANN, False), (bob, True), (editor, True)):
            [seen] = [await anext(rig.watch(who))]
            assert ("secret.pdf" in str(seen)) is shown
            assert seen.sequence == 1


async def test_who_may_not_read_collections_hears_nothing_of_them() -> None:
    narrow = Caller("acme", "bob", frozenset({"jobs.read"}))
    async with watched() as rig:
        await rig.log.happened(recorded_as(change(1)))
        await fill(rig.log, "ingestion.started")
        assert await rig.seen(1, narrow) == [2]
        assert await rig.seen(2, ANN) == [1, 2]


async def test_a_stream_says_how_it_ended_when_its_time_is_up_or_the_process_stops() -> None:
    async with watched() as rig:
        await fill(rig.log, "ingestion.started")
        short = [each async for each in rig.watch(timeout_s=1)]
        assert [each.sequence for each in short] == [1, 1]
        assert isinstance(short[-1], Ended)
        assert isinstance(short[-1].error, DeadlineExceeded)
        stream = rig.watch()
        await anext(stream)
        rig.streams.stop()
        last = await anext(stream)
        assert isinstance(last, Ended)
        assert isinstance(last.error, DependencyUnavailable)
        assert [each async for each in stream] == []


class Outbox:
    """Fulfils CollectionChanges from a list; says first that it has counted to `last`, and breaks at its end."""

    def __init__(self, *sequences: int, last: int = 0) -> None:
        self.changes = [change(sequence) for sequence in sequences]
        self.last = last or len(sequences)
        self.asked: list[int] = []

    async def follow(self, after: int) -> AsyncIterator[Sequence[CollectionChange] | int]:
        self.asked.append(after)
        yield self.last
        after = min(after, self.last)
        for each in self.changes:
            if each.sequence > after:
                yield [each]
        raise DependencyUnavailable("the stream ended")


async def followed(outbox: Outbox, log: MemoryEventLog) -> list[TenantEvent]:
    with pytest.raises(DependencyUnavailable):
        await Follower(outbox, log).run()
    return await log.read("acme", 0, 1000)


async def test_changes_of_collections_are_followed_from_the_last_one_written() -> None:
    log = MemoryEventLog()
    outbox = Outbox(1, 2, 3)
    assert [each.changed_collection for each in await followed(outbox, log)] == [
        f"books as of {at}".encode() for at in (1, 2, 3)
    ]
    outbox.changes.append(change(4))
    assert len(await followed(outbox, log)) == 4
    assert outbox.asked == [0, 3]


async def test_changes_of_an_owner_that_began_anew_are_written_from_there() -> None:
    log = MemoryEventLog()
    await followed(Outbox(*range(1, 10)), log)
    restored = Outbox(3, last=2)
    assert len(await followed(restored, log)) == 10
    assert await log.recorded() == 3
    assert restored.asked == [9]
