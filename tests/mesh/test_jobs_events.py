"""EventService over the wire: what imports and collections tell of, however often the stream is cut."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from ragweave.v1 import event_service_pb2 as pb
from ragweave.v1.event_pb2 import Event
from ragweave.v1.event_service_pb2_grpc import EventServiceStub
from ragweave.v1.job_pb2 import Job, JobItem
from services.mesh.consistency import written_at
from tests.mesh.test_jobs_service import Running, inline, jobs, refused, server

__all__ = ["jobs", "server"]


@asynccontextmanager
async def events_of(jobs: Running) -> AsyncIterator[EventServiceStub]:
    async with jobs.world.channel(jobs.port) as channel:
        yield EventServiceStub(channel)


async def until(stub: EventServiceStub, jobs: Running, last: str, who: Any = None, **fields: Any) -> list[Event]:
    """Events up to the first of that topic."""
    found: list[Event] = []
    async with asyncio.timeout(30):
        async for each in stub.WatchEvents(pb.WatchEventsRequest(**fields), metadata=who or jobs.as_()):
            assert not each.HasField("final_status")
            if each.HasField("event"):
                assert each.sequence == each.event.sequence
                found.append(each.event)
                if each.event.topic == last:
                    return found
    raise AssertionError("the stream ended")


def named(events: Sequence[Event]) -> list[str]:
    """Topics, without those of progress, which depend on the time it takes."""
    return [event.topic for event in events if event.topic != "ingestion.progress"]


async def test_an_import_tells_of_itself_and_of_its_documents(jobs: Running) -> None:
    source = inline(("a", "Some words."), ("b", "More words."))
    source.documents.add(document_id="c", data=b"%PDF-1.7 nothing else")
    made = await jobs.submit(inline=source)
    async with jobs.working(), events_of(jobs) as stub:
        events = await until(stub, jobs, "ingestion.completed")
        assert sorted(named(events)) == sorted(
            ["ingestion.started", *["document.indexed"] * 2, "document.failed", "ingestion.completed"]
        )
        assert {event.collection for event in events} == {"collections/books"}
        assert len({event.uid for event in events}) == len(events)
        last = events[-1]
        assert (last.job.name, last.job.state) == (made.name, Job.PARTIALLY_SUCCEEDED)
        assert (last.job.progress.succeeded, last.job.progress.failed) == (2, 1)
        assert not last.job.HasField("request")
        assert written_at(last.job.consistency_token)[0] == "uid-acme-books"
        [failed] = [event.item for event in events if event.topic == "document.failed"]
        assert (failed.name, failed.document, failed.state) == (
            f"{made.name}/items/3",
            "collections/books/documents/c",
            JobItem.FAILED,
        )
        assert failed.error.details
        assert await until(stub, jobs, "ingestion.completed", topics=["ingestion.completed"]) == [last]
        one = await until(stub, jobs, "document.failed", topics=["document.*"], collection="collections/books")
        told = [event for event in events if event.topic.startswith("document.")]
        assert one == told[: [event.topic for event in told].index("document.failed") + 1]


async def test_events_cut_many_times_are_those_that_are_kept(jobs: Running) -> None:
    await jobs.submit(inline=inline(*((f"d{at}", f"Words of {at}.") for at in range(20))))
    seen: list[Event] = []
    async with jobs.working(), events_of(jobs) as stub:
        while not seen or seen[-1].topic != "ingestion.completed":
            after = seen[-1].sequence if seen else 0
            call = stub.WatchEvents(pb.WatchEventsRequest(after_sequence=after), metadata=jobs.as_())
            seen.append((await call.read()).event)
            call.cancel()
        assert seen == await until(stub, jobs, "ingestion.completed")
    assert [event.sequence for event in seen] == list(range(1, len(seen) + 1))
    assert named(seen).count("document.indexed") == 20


async def test_collections_tell_of_themselves_to_their_tenant(jobs: Running) -> None:
    jobs.peers.add("globex", "films")
    for kind in ("created", "updated", "deleted"):
        jobs.peers.changed(f"collection.{kind}", "acme", "books")
        jobs.peers.changed(f"collection.{kind}", "globex", "films")
    async with events_of(jobs) as stub:
        theirs = await until(stub, jobs, "collection.deleted", who=jobs.as_(tenant="globex"))
        ours = await until(stub, jobs, "collection.deleted")
        assert [(event.sequence, event.topic) for event in ours] == [
            (1, "collection.created"),
            (2, "collection.updated"),
            (3, "collection.deleted"),
        ]
        assert {event.changed_collection.name for event in ours} == {"collections/books"}
        assert {event.changed_collection.name for event in theirs} == {"collections/films"}
        assert ours[0].event_time.ToMilliseconds() == jobs.peers.changes[0].event_time.ToMilliseconds()
        await jobs.submit(inline=inline(("a", "Some words.")))
        async with jobs.working():
            seen = await until(stub, jobs, "ingestion.completed", who=jobs.as_(roles=[], scope="jobs.read"))
        assert not any(event.topic.startswith("collection.") for event in seen)


async def test_a_document_with_an_acl_shows_in_events_to_those_on_it(jobs: Running) -> None:
    source = inline(("open", "Words."))
    source.MergeFrom(inline(("layoffs", "More words."), acl={"principals": ["user:bob"]}))
    source.documents.add(document_id="merger", data=b"%PDF-1.7", document={"acl": {"principals": ["user:bob"]}})
    await jobs.submit(inline=source)
    async with jobs.working(), events_of(jobs) as stub:
        for who, may in (
            (jobs.as_(roles=["reader"]), False),
            (jobs.as_(roles=["reader"], sub="bob"), True),
            (jobs.as_(roles=["editor"]), True),
        ):
            told = str(await until(stub, jobs, "ingestion.completed", who=who))
            assert "documents/open" in told
            assert ("layoffs" in told) is may
            assert ("merger" in told) is may


@pytest.mark.parametrize(
    ("fields", "code", "reason"),
    [
        ({"after_sequence": 7}, grpc.StatusCode.OUT_OF_RANGE, "EVENTS_FORGOTTEN"),
        ({"topics": ["ingestion.finished"]}, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT"),
        ({"topics": ["*"]}, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT"),
        ({"collection": "a/b"}, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT"),
    ],
)
async def test_what_cannot_be_watched_is_refused_at_once(
    jobs: Running, fields: dict[str, Any], code: grpc.StatusCode, reason: str
) -> None:
    async with events_of(jobs) as stub:
        call = stub.WatchEvents(pb.WatchEventsRequest(**fields), metadata=jobs.as_())
        assert (await refused(call.read()))[:2] == (code, reason)
