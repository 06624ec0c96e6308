"""Whatever is deleted, undeleted, imported and changed, at once or one after the other: searches show what there is."""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from hypothesis import example, given, settings
from hypothesis import strategies as st

from services.collections.adapters.memory import MemoryStore
from services.collections.documents import Documents
from services.collections.ports import IndexStats
from services.collections.records import Chunk, Collection, Document
from services.collections.registry import Registry
from services.mesh.errors import DomainError
from services.mesh.identity import Caller
from services.retrieval.chunks import IndexId, VectorQuery
from services.retrieval.filterable import NOBODY, visible_to
from tests.collections_records import (
    LONG_AGO,
    FakeJobs,
    FakeModels,
    FakePlaces,
    document,
    document_deletions,
    quotas,
    upkeep_of,
)
from tests.retrieval_fakes import MemoryVectorStore, chunk, direction, encoded, vector
from tests.sweeping import sweep

ANN = Caller("acme", "ann", frozenset({"documents.write"}), frozenset({"user:ann"}))
BOB = Caller("acme", "bob", principals=frozenset({"user:bob"}))


class SearchedIndex:
    """Fulfils Index over a vector store, as IndexService does; every call takes its time, which is drawn."""

    def __init__(self, uid: str, pauses: Callable[[], int]) -> None:
        self.store = MemoryVectorStore()
        self._index = IndexId(uid)
        self._pauses = pauses

    async def found(self, who: Caller) -> set[tuple[str, str, str]]:
        """Document, text and title of each hit."""
        query = VectorQuery(vector(direction("foxes")), None, filter=visible_to(who), limit=99, depth=99)
        hits = (await self.store.search(self._index, query)).hits
        return {(hit.chunk.document.document_id, hit.chunk.text, hit.chunk.document.title) for hit in hits}

    async def upsert(self, given: Document, text: str, generation: int) -> None:
        await self.store.ensure_index(self._index, 4)
        fields = {"title": given.title, "principals": given.principals, "generation": generation}
        piece = chunk(
            text,
            document=given.document_id,
            document_fields=fields,
            revision_key=given.revision_key,
            chunk_id=given.revision_key,
        )
        await self._arrive()
        await self.store.upsert(self._index, [encoded(piece)])

    async def apply(self, collection: Collection) -> None: ...

    async def drop(self, collection: Collection) -> None: ...

    async def stats(self, collection: Collection) -> IndexStats:
        return IndexStats(0, 0)

    async def hide(self, collection: Collection, documents: Sequence[Document]) -> None:
        await self._arrive()
        for each in documents:
            hidden = {"principals": [NOBODY]}
            await self.store.set_fields(self._index, [each.document_id], hidden, generation=each.generation)
        await self._arrive()

    async def delete_documents(self, collection: Collection, document_ids: Sequence[str]) -> None:
        await self._arrive()
        await self.store.delete_documents(self._index, document_ids)

    async def retire(self, document: Document, keep_revision_key: str) -> None:
        await self._arrive()
        await self.store.retire(self._index, document.document_id, keep_revision_key)

    async def update_fields(self, document: Document) -> None:
        await self._arrive()
        fields = {"title": document.title, "principals": list(document.principals)}
        await self.store.set_fields(self._index, [document.document_id], fields, generation=document.generation)
        await self._arrive()

    async def list_chunks(self, document: Document, from_ordinal: int, limit: int) -> tuple[list[Chunk], int]:
        return [], await self.store.count(self._index, document.document_id)

    async def _arrive(self) -> None:
        for _ in range(self._pauses()):
            await asyncio.sleep(0)


class World:
    """A collection, and a worker that imports into it as jobs do."""

    def __init__(self, docs: Collection, index: SearchedIndex, store: MemoryStore) -> None:
        held, jobs = quotas(store), FakeJobs()
        self.docs, self.index, self.store = docs, index, store
        self.documents = Documents(store, index, jobs, held, max_upload_bytes=100)
        self.deletions = document_deletions(store, index, jobs, held)
        self.registry = Registry(store, index, FakeModels(), FakePlaces(), held)

    @classmethod
    async def made(cls, pauses: Callable[[], int]) -> "World":
        store = MemoryStore()
        registry = Registry(store, SearchedIndex("", pauses), FakeModels(), FakePlaces(), quotas(store))
        docs = await registry.create("docs", {}, ANN)
        return cls(docs, SearchedIndex(docs.uid, pauses), store)

    async def imported(self, name: str, text: str) -> None:
        """Chunks, record, retirement of what was before: the order of a worker's writes."""
        known = {each.document_id: each for each in await self.documents.lookup("docs", [name], ANN)}
        generation = known[name].generation if name in known else 0
        principals = ("user:bob",) if text.startswith("b") else ()
        given = document(
            name, of=self.docs, state="ACTIVE", chunk_count=1, content_hash=text, revision_key=text, title=text
        )
        given = replace(given, principals=principals)
        await self.index.upsert(given, text, generation)
        await self.documents.record(given, ANN)
        await self.index.retire(given, text)

    async def do(self, what: str, name: str, text: str) -> None:
        path = f"collections/docs/documents/{name}"
        match what:
            case "import":
                await self.imported(name, text)
            case "delete":
                await self.deletions.delete(path, ANN)
            case "undelete":
                await self.deletions.undelete(path, ANN)
            case "rename":
                await self.documents.update(path, {"title": f"new {text}"}, [], ANN)
            case "purge":
                for held in self.store._documents.values():
                    for one, each in held.items():
                        held[one] = replace(each, purge_time=each.purge_time and each.create_time)
                await sweep(upkeep_of(self.store, self.index, self.registry))

    async def later(self) -> None:
        """Maintenance settles what those who were overtaken left to it."""
        for held in self.store._documents.values():
            for name, each in held.items():
                held[name] = replace(each, unsettled_time=each.unsettled_time and LONG_AGO)
        await sweep(upkeep_of(self.store, self.index, self.registry))

    async def shown(self, who: Caller) -> set[tuple[str, str, str]]:
        """What the registry says that the caller should find."""
        listed = await self.documents.list("docs", who)
        assert {each.state for each in listed.items} <= {"ACTIVE"}
        may = [each for each in listed.items if not each.principals or who.principals.intersection(each.principals)]
        return {(each.document_id, each.content_hash, each.title) for each in may}


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["import", "delete", "undelete", "rename", "purge"]),
        st.sampled_from("xy"),
        st.sampled_from(["a fox", "b fox", "c fox"]),
    ),
    max_size=25,
)


@settings(max_examples=150, deadline=None)
@given(steps=STEPS)
def test_one_after_the_other_each_step_holds_once_it_has_ended(steps: list[tuple[str, str, str]]) -> None:
    async def run() -> None:
        world = await World.made(lambda: 0)
        live: dict[str, tuple[str, str]] = {}
        gone: dict[str, tuple[str, str]] = {}
        for what, name, text in steps:
            try:
                await world.do(what, name, text)
            except DomainError:
                ended = False
            else:
                ended = True
            match what:
                case "import":
                    live[name] = (text, text)
                    gone.pop(name, None)
                case "delete":
                    assert ended is (name in live)
                    if ended:
                        gone[name] = live.pop(name)
                case "undelete":
                    assert ended is (name in gone)
                    if ended:
                        live[name] = gone.pop(name)
                case "rename":
                    assert ended is (name in live)
                    if ended:
                        live[name] = (live[name][0], f"new {text}")
                case "purge":
                    gone.clear()
            for who in (ANN, BOB):
                expected = {
                    (one, content, title)
                    for one, (content, title) in live.items()
                    if not content.startswith("b") or who is BOB
                }
                assert await world.index.found(who) == expected == await world.shown(who), (what, name, text)

    asyncio.run(run())


@settings(max_examples=150, deadline=None)
@given(
    rounds=st.lists(
        st.lists(
            st.tuples(st.sampled_from(["delete", "undelete", "rename"]), st.just("x"), st.sampled_from(["p", "q"])),
            min_size=2,
            max_size=5,
        ),
        min_size=1,
        max_size=5,
    ),
    seed=st.integers(0, 10**6),
)
@example(  # an undeletion settled the change that a rename had begun, and pushed the old title after it
    rounds=[
        [
            ("delete", "x", "p"),
            ("undelete", "x", "p"),
            ("undelete", "x", "p"),
            ("rename", "x", "p"),
            ("undelete", "x", "p"),
        ]
    ],
    seed=324,
)
def test_however_they_race_index_and_registry_say_the_same_in_the_end(
    rounds: list[list[tuple[str, str, str]]], seed: int
) -> None:
    async def run() -> None:
        drawn = random.Random(seed)
        world = await World.made(lambda: drawn.randrange(6))
        await world.imported("x", "a fox")
        for steps in rounds:
            done = await asyncio.gather(*(world.do(*step) for step in steps), return_exceptions=True)
            assert all(each is None or isinstance(each, DomainError) for each in done), done
            assert await world.index.found(ANN) == await world.shown(ANN)
            await world.later()
            (held,) = world.store._documents[world.docs.uid].values()
            assert held.unsettled == 0
            assert await world.index.found(ANN) == await world.shown(ANN)

    asyncio.run(run())


@settings(max_examples=100, deadline=None)
@given(
    others=st.lists(st.tuples(st.just("rename"), st.just("x"), st.sampled_from(["p", "q"])), min_size=1, max_size=4),
    seed=st.integers(0, 10**6),
)
def test_once_a_deletion_is_answered_no_change_begun_before_it_shows_the_document_again(
    others: list[tuple[str, str, str]], seed: int
) -> None:
    async def run() -> None:
        drawn = random.Random(seed)
        world = await World.made(lambda: drawn.randrange(8))
        await world.imported("x", "a fox")
        pending = [asyncio.create_task(world.do(*step)) for step in others]
        for _ in range(drawn.randrange(8)):
            await asyncio.sleep(0)
        await world.do("delete", "x", "")
        while True:
            assert await world.index.found(ANN) == set()
            if all(each.done() for each in pending):
                break
            await asyncio.sleep(0)
        await asyncio.gather(*pending, return_exceptions=True)

    asyncio.run(run())
