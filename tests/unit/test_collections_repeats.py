"""A process killed at any step of a mutation: the same request, sent again to another, is done once and answered."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from services.collections.adapters.memory import MemoryStore
from services.collections.document_changes import NewDocument, NewFile
from services.collections.documents import Documents
from services.collections.registry import Registry
from services.mesh.receipts import Receipt
from tests.collections_records import FakeIndex, FakeJobs, FakeModels, collection, document, quotas, receipt
from tests.jobs_fakes import Killed, Trap
from tests.mesh.harness import caller_of

WHO = caller_of("ann")
KEY = receipt("k-1")
A, B = "collections/docs/documents/a", "collections/docs/documents/b"


class Grave(Trap):
    """Whoever was killed takes no further step either, such as taking back what it did."""

    def step(self, name: str) -> None:
        self.seen.append(name)
        if 0 <= self.at < len(self.seen):
            raise Killed(name)


@dataclass
class World:
    """What outlives a process, and processes that work on it."""

    store: MemoryStore = field(default_factory=MemoryStore)
    index: FakeIndex = field(default_factory=FakeIndex)
    jobs: FakeJobs = field(default_factory=FakeJobs)

    async def fill(self) -> None:
        made = collection()
        await self.store.write_collection("acme", "docs", lambda found: made)
        held = {each: document(each, of=made, state="ACTIVE", chunk_count=1) for each in ("a", "b")}
        await self.store.write_documents(made, list(held), lambda found: held)

    def process(self, trap: Trap) -> tuple[Registry, Documents]:
        store = trap.on(self.store, "write_collection", "write_documents", "purge_collection", "remember", "forget")
        index = trap.on(self.index, "apply", "drop", "stats", "delete_documents", "update_fields")
        jobs = trap.on(self.jobs, "import_document", "store")
        held = quotas(store)
        return Registry(store, index, FakeModels(), held), Documents(store, index, jobs, held, max_upload_bytes=100)

    async def seen(self) -> Any:
        """What callers can see, less what is made up anew in each world; and what goes on elsewhere."""
        found = []
        for each in self.store._all_live():
            documents = [
                (one.document_id[:2], one.title, one.state, one.principals) for one in self.store._live_documents(each)
            ]
            found.append((each.description, sorted(documents), each.document_count))
        applied = sorted(
            (uid, each.delete_time is None) for uid, each in self.index.applied.items() if uid[:3] == "uid"
        )
        titles = sorted(each.title for each in self.index.fields.values())
        return found, applied, set(self.index.dropped), titles, len(self.jobs.imports)


async def parts() -> AsyncIterator[bytes]:
    yield b"one "
    yield b"two"


Mutation = Callable[[Registry, Documents, Receipt], Awaitable[Any]]
MUTATIONS: dict[str, Mutation] = {
    "create a collection": lambda registry, _, key: registry.create("", {"description": "new"}, WHO, receipt=key),
    "update a collection": lambda registry, _, key: registry.update(
        "docs", {"description": "new"}, ["description"], WHO, receipt=key
    ),
    "delete a collection": lambda registry, _, key: registry.delete("docs", WHO, force=True, receipt=key),
    "create a document": lambda _, documents, key: documents.create("docs", NewDocument(), "text", WHO, receipt=key),
    "upload a document": lambda _, documents, key: documents.upload(NewFile("docs"), parts(), WHO, receipt=key),
    "update a document": lambda _, documents, key: documents.update(A, {"title": "new"}, ["title"], WHO, receipt=key),
    "update nothing of it": lambda _, documents, key: documents.update(A, {"title": ""}, ["title"], WHO, receipt=key),
    "delete a document": lambda _, documents, key: documents.delete(A, WHO, receipt=key),
    "delete documents": lambda _, documents, key: documents.batch_delete("docs", [A, B], WHO, receipt=key),
}


@pytest.mark.parametrize("mutate", MUTATIONS.values(), ids=MUTATIONS)
async def test_whatever_step_kills_it_the_repeated_request_is_done_once(mutate: Mutation) -> None:
    undisturbed, counted = World(), Trap()
    await undisturbed.fill()
    await mutate(*undisturbed.process(counted), KEY)
    assert counted.seen
    for at in range(len(counted.seen)):
        world = World()
        await world.fill()
        with pytest.raises(Killed):
            await mutate(*world.process(Grave(at)), KEY)
        answer = await mutate(*world.process(Trap()), KEY)
        assert await world.seen() == await undisturbed.seen(), f"killed at {counted.seen[at]}"
        assert await mutate(*world.process(Trap()), KEY) == answer
        assert await world.seen() == await undisturbed.seen()


@pytest.mark.parametrize("mutate", MUTATIONS.values(), ids=MUTATIONS)
async def test_an_answer_is_kept_though_others_changed_things_since(mutate: Mutation) -> None:
    world = World()
    await world.fill()
    registry, documents = world.process(Trap())
    answer = await mutate(registry, documents, KEY)
    for each in world.store._all_live():
        if each.collection_id == "docs":
            await registry.update("docs", {"description": "later"}, ["description"], WHO)
            for one in world.store._live_documents(each):
                if one.state == "ACTIVE":
                    await documents.update(one.name, {"title": "later"}, ["title"], WHO)
    before = await world.seen()
    assert await mutate(registry, documents, KEY) == answer
    assert await world.seen() == before


async def test_an_interrupted_deletion_that_another_request_ends_is_its_answer_for_good() -> None:
    world = World()
    await world.fill()
    with pytest.raises(Killed):
        registry, documents = world.process(Grave(3))
        await documents.batch_delete("docs", [A], WHO)
    registry, documents = world.process(Trap())
    answer = await documents.batch_delete("docs", [A, B], WHO, receipt=KEY)
    assert [each.document_id for each in answer] == ["a", "b"]
    assert await documents.batch_delete("docs", [A, B], WHO, receipt=KEY) == answer
    other = replace(KEY, method="DeleteCollection")
    with pytest.raises(Killed):
        registry, _ = world.process(Grave(3))
        await registry.delete("docs", WHO, force=True)
    registry, _ = world.process(Trap())
    gone = await registry.delete("docs", WHO, receipt=other)
    assert await registry.delete("docs", WHO, receipt=other) == gone
