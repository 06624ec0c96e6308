"""A process killed at any step of a mutation: the same request, sent again to another, is done once and answered."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Final

import pytest

from services.collections.adapters.memory import MemoryStore
from services.collections.collection_deletions import CollectionDeletions
from services.collections.document_changes import NewDocument, NewFile
from services.collections.document_deletions import DocumentDeletions
from services.collections.documents import Documents
from services.collections.records import Chunk, now
from services.collections.registry import Registry
from services.mesh.receipts import Receipt
from tests.collections_records import (
    AT_ONCE,
    WEEK,
    FakeIndex,
    FakeJobs,
    FakeModels,
    FakePlaces,
    collection,
    collection_deletions,
    document,
    document_deletions,
    quotas,
    receipt,
)
from tests.jobs_fakes import Killed, Trap
from tests.mesh.harness import caller_of

WHO = caller_of("ann")
KEY = receipt("k-1")
A, B, C = (f"collections/docs/documents/{each}" for each in "abc")


class Grave(Trap):
    """Whoever was killed takes no further step either, such as taking back what it did."""

    def step(self, name: str) -> None:
        self.seen.append(name)
        if 0 <= self.at < len(self.seen):
            raise Killed(name)


@dataclass
class Process:
    """One that works on the world, until it is killed."""

    registry: Registry
    documents: Documents
    deletions: DocumentDeletions
    whole: CollectionDeletions


@dataclass
class World:
    """What outlives a process, and processes that work on it.

    Attributes:
        retention: How long what is deleted can come back.
    """

    retention: timedelta = WEEK
    store: MemoryStore = field(default_factory=MemoryStore)
    index: FakeIndex = field(default_factory=FakeIndex)
    jobs: FakeJobs = field(default_factory=FakeJobs)

    async def fill(self) -> None:
        """Two collections, the second deleted; in the first three documents, the third deleted."""
        made, old = collection(), collection("old")
        later = now() + WEEK
        for each in (made, old):
            await self.store.write_collection("acme", each.collection_id, lambda found, each=each: each)  # type: ignore[misc]
        held = {each: document(each, of=made, state="ACTIVE", chunk_count=1) for each in ("a", "b", "c")}
        held["c"] = replace(held["c"], delete_time=now(), purge_time=later, generation=1)
        await self.store.write_documents(made, list(held), lambda found: held)
        await self.index.hide(made, [held["c"]])
        self.index.chunks[made.uid, "c"] = [Chunk("c-1", 0, "text", 0, 4, 1, "", 0)]
        gone = replace(old, delete_time=now(), purge_time=later)
        await self.index.apply(await self.store.write_collection("acme", "old", lambda found: gone))

    def process(self, trap: Trap) -> Process:
        store = trap.on(self.store, *_WRITES)
        index = trap.on(self.index, "apply", "drop", "stats", "delete_documents", "update_fields", "hide", "retire")
        jobs = trap.on(self.jobs, "import_document", "store")
        held = quotas(store)
        registry = Registry(store, index, FakeModels(), FakePlaces(), held)
        return Process(
            registry,
            Documents(store, index, jobs, held, max_upload_bytes=100),
            document_deletions(store, index, jobs, held, retention=self.retention),
            collection_deletions(store, index, registry, held, retention=self.retention),
        )

    async def seen(self) -> Any:
        """What callers can see, less what is made up anew in each world; and what goes on elsewhere."""
        found = []
        for each in self.store._all_live():
            documents = [
                (one.document_id[:2], one.title, one.state, one.delete_time is None)
                for one in self.store._documents[each.uid].values()
            ]
            found.append((each.description, sorted(documents), each.document_count))
        applied = sorted(
            (uid, each.delete_time is None) for uid, each in self.index.applied.items() if uid[:3] == "uid"
        )
        titles = sorted(each.title for each in self.index.fields.values())
        hidden = sorted(self.index.hidden)
        deleted = sorted(each.collection_id for each in await self.store.deleted_collections("acme"))
        unsettled = [each.collection_id for each in self.store._collections.values() if each.unsettled]
        return found, applied, set(self.index.dropped), titles, hidden, deleted, unsettled, len(self.jobs.imports)


async def parts() -> AsyncIterator[bytes]:
    yield b"one "
    yield b"two"


_WRITES: Final = (
    *("write_collection", "restore_collection", "settle_collection", "begin_purge", "purge_collection"),
    *("write_documents", "remember", "forget"),
)

Mutation = Callable[[Process, Receipt], Awaitable[Any]]
MUTATIONS: dict[str, Mutation] = {
    "create a collection": lambda by, key: by.registry.create("", {"description": "new"}, WHO, receipt=key),
    "update a collection": lambda by, key: by.registry.update(
        "docs", {"description": "new"}, ["description"], WHO, receipt=key
    ),
    "delete a collection": lambda by, key: by.whole.delete("docs", WHO, force=True, receipt=key),
    "undelete a collection": lambda by, key: by.whole.undelete("old", WHO, receipt=key),
    "create a document": lambda by, key: by.documents.create("docs", NewDocument(), "text", WHO, receipt=key),
    "create one in the place of a deleted one": lambda by, key: by.documents.create(
        "docs", NewDocument("c"), "text", WHO, receipt=key
    ),
    "upload a document": lambda by, key: by.documents.upload(NewFile("docs"), parts(), WHO, receipt=key),
    "update a document": lambda by, key: by.documents.update(A, {"title": "new"}, ["title"], WHO, receipt=key),
    "update nothing of it": lambda by, key: by.documents.update(A, {"title": ""}, ["title"], WHO, receipt=key),
    "delete a document": lambda by, key: by.deletions.delete(A, WHO, receipt=key),
    "delete documents": lambda by, key: by.deletions.batch_delete("docs", [A, B], WHO, receipt=key),
    "undelete a document": lambda by, key: by.deletions.undelete(C, WHO, receipt=key),
}


@pytest.mark.parametrize("retention", [AT_ONCE, WEEK], ids=["purged at once", "kept a week"])
@pytest.mark.parametrize("mutate", MUTATIONS.values(), ids=MUTATIONS)
async def test_whatever_step_kills_it_the_repeated_request_is_done_once(mutate: Mutation, retention: timedelta) -> None:
    undisturbed, counted = World(retention), Trap()
    await undisturbed.fill()
    await mutate(undisturbed.process(counted), KEY)
    assert counted.seen
    for at in range(len(counted.seen)):
        world = World(retention)
        await world.fill()
        with pytest.raises(Killed):
            await mutate(world.process(Grave(at)), KEY)
        answer = await mutate(world.process(Trap()), KEY)
        assert await world.seen() == await undisturbed.seen(), f"killed at {counted.seen[at]}"
        assert await mutate(world.process(Trap()), KEY) == answer
        assert await world.seen() == await undisturbed.seen()


@pytest.mark.parametrize("mutate", MUTATIONS.values(), ids=MUTATIONS)
async def test_an_answer_is_kept_though_others_changed_things_since(mutate: Mutation) -> None:
    world = World()
    await world.fill()
    process = world.process(Trap())
    answer = await mutate(process, KEY)
    for each in world.store._all_live():
        if each.collection_id == "docs":
            await process.registry.update("docs", {"description": "later"}, ["description"], WHO)
            for one in world.store._live_documents(each):
                if one.state == "ACTIVE":
                    await process.documents.update(one.name, {"title": "later"}, ["title"], WHO)
    before = await world.seen()
    assert await mutate(process, KEY) == answer
    assert await world.seen() == before


async def test_an_interrupted_deletion_that_another_request_ends_is_its_answer_for_good() -> None:
    world = World()
    await world.fill()
    with pytest.raises(Killed):
        await world.process(Grave(2)).deletions.batch_delete("docs", [A], WHO)
    deletions = world.process(Trap()).deletions
    answer = await deletions.batch_delete("docs", [A, B], WHO, receipt=KEY)
    assert [each.document_id for each in answer] == ["a", "b"]
    assert await deletions.batch_delete("docs", [A, B], WHO, receipt=KEY) == answer
    other = replace(KEY, method="DeleteCollection")
    with pytest.raises(Killed):
        await world.process(Grave(2)).whole.delete("docs", WHO, force=True)
    whole = world.process(Trap()).whole
    gone = await whole.delete("docs", WHO, receipt=other)
    assert await whole.delete("docs", WHO, receipt=other) == gone
