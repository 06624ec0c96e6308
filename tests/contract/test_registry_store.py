"""Every store of the registry keeps the same promises."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest

from services.collections.adapters.memory import MemoryStore
from services.collections.adapters.sql import SqlStore
from services.collections.document_changes import NewDocument
from services.collections.documents import Documents
from services.collections.ports import RegistryStore
from services.collections.records import (
    COLLECTIONS,
    COLLECTIONS_AND_DELETED,
    DOCUMENTS,
    Chunking,
    Collection,
    Document,
    DocumentTotals,
    Fusion,
    Rerank,
    SearchDefaults,
    Source,
    now,
    readable_by,
)
from services.collections.registry import Registry
from services.mesh.errors import AlreadyExists, CollectionNotFound, EtagMismatch, QuotaExceeded, RequestIdReused
from services.mesh.filters import EVERYTHING, parse
from services.mesh.quotas import Amounts
from services.mesh.receipts import Receipt
from services.mesh.sql import sqlite_url
from tests.collections_records import (
    LONG_AGO,
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
from tests.mesh.harness import caller_of

_numbers = count()


@asynccontextmanager
async def database(url: str) -> AsyncIterator[str]:
    """The URL of a new, empty database of the server."""
    name = f"registry_{next(_numbers)}"
    server = url.replace("postgresql+psycopg://", "postgresql://")
    async with await psycopg.AsyncConnection.connect(server, autocommit=True) as connection:
        await connection.execute(f"CREATE DATABASE {name}".encode())
        base, _, options = server.partition("?")
        yield f"{base.rpartition('/')[0]}/{name}" + (f"?{options}" if options else "")
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RegistryStore]:
    match request.param:
        case "memory":
            yield MemoryStore()
        case "sqlite":
            async with SqlStore.open(sqlite_url(tmp_path / "collections" / "registry.db")) as store:
                yield store
        case "postgresql":
            async with database(request.getfixturevalue("postgres_url")) as url, SqlStore.open(url) as store:
                yield store


async def put(store: RegistryStore, made: Collection) -> Collection:
    return await store.write_collection(made.tenant, made.collection_id, lambda found: made)


async def add(store: RegistryStore, parent: Collection, *documents: Document) -> None:
    made = {each.document_id: each for each in documents}
    await store.write_documents(parent, list(made), lambda found: made)


async def current(store: RegistryStore, parent: Collection) -> Collection:
    found = await store.find_collection(parent.tenant, parent.collection_id)
    assert found is not None
    return found


FULL = collection(
    "full",
    description="all fields",
    labels={"env": "prod", "team": "büro"},
    chunking=Chunking("FIXED", 200, 20),
    source=Source("docs", ("*.md",), ("draft/*",)),
    disabled=True,
    visibility="PUBLIC",
    default_search=SearchDefaults(5, "DENSE", Fusion("RRF", 30, 2.0, 0.5), 0.25, Rerank("tiny", 20)),
    expire_time=LONG_AGO + timedelta(days=90_000),
)


async def told(store: RegistryStore, after: int, limit: int) -> list[Collection]:
    """Collections as each recorded change left them."""
    return [change.collection for change in await store.changes(after, limit)]


async def test_a_collection_reads_back_as_it_was_written(store: RegistryStore) -> None:
    written = await put(store, FULL)
    assert written == replace(FULL, sequence=1)
    assert await store.find_collection("acme", "full") == written
    assert await told(store, 0, 10) == [written]


async def test_a_document_reads_back_as_it_was_written(store: RegistryStore) -> None:
    parent = await put(store, collection())
    full = document(
        "full",
        state="ACTIVE",
        title="Ünder the sea",
        source_uri="file:///a",
        mime_type="text/plain",
        metadata={"sea": True, "depth": 3.5, "tags": ["a", None], "nested": {"k": "v"}},
        principals=("user:ann", "group:crew"),
        content_hash="ab" * 32,
        size_bytes=5_000_000_000,
        chunk_count=3,
        token_count=300,
        error=b"\x00\xffstatus",
        revision=2,
        revision_key="k",
        fields_hash="f",
        source_key="directory:docs",
        unsettled=1,
        unsettled_time=LONG_AGO,
        patched=True,
    )
    assert await store.write_documents(parent, ["full"], lambda found: {"full": full}) == (full,)
    assert await store.find_documents(parent, ["full", "other"]) == [full]


async def test_contents_are_found_that_documents_of_the_tenant_have(store: RegistryStore) -> None:
    first, second = await put(store, collection()), await put(store, collection("second"))
    theirs = await put(store, collection("theirs", tenant="globex"))
    had, deleted, foreign, gone = (f"{number}" * 64 for number in range(4))
    gone_already = document("b", of=first, content_hash=deleted, delete_time=now())
    await add(store, first, document("a", of=first, content_hash=had), gone_already)
    await add(store, second, document("c", of=second, content_hash=had), document("d", of=second))
    await add(store, theirs, document("e", of=theirs, content_hash=foreign))
    assert await store.find_contents("acme", [had, deleted, foreign, gone]) == {had, deleted}
    assert await store.find_contents("globex", [had, foreign]) == {foreign}
    assert await store.find_contents("nobody", [had]) == set()


async def test_another_tenants_collection_is_not_found(store: RegistryStore) -> None:
    await put(store, collection("docs", tenant="acme"))
    assert await store.find_collection("globex", "docs") is None
    assert (await store.list_collections("globex", COLLECTIONS.query())).total_size == 0
    await put(store, collection("docs", tenant="globex"))
    assert (await store.list_collections("globex", COLLECTIONS.query())).total_size == 1


async def test_a_change_sees_what_is_there_and_what_it_refuses_is_not_written(store: RegistryStore) -> None:
    first = await put(store, collection())

    def refuse(found: Collection | None) -> Collection:
        assert found == first
        raise EtagMismatch("no")

    with pytest.raises(EtagMismatch):
        await store.write_collection("acme", "docs", refuse, receipt())
    assert await store.find_collection("acme", "docs") == first
    assert await told(store, 0, 10) == [first]
    assert await store.recall(receipt(), Collection) is None


async def test_an_unchanged_collection_makes_no_event(store: RegistryStore) -> None:
    first = await put(store, collection())
    assert await store.write_collection("acme", "docs", lambda found: found or first) == first
    assert await told(store, 0, 10) == [first]


async def test_every_change_is_an_event_in_order_and_the_latest_state_of_each_is_known(store: RegistryStore) -> None:
    one = await put(store, collection("one"))
    two = await put(store, collection("two"))
    again = await put(store, replace(one, description="changed"))
    assert await told(store, 0, 10) == [one, two, again]
    assert await told(store, 1, 1) == [two]
    assert await store.latest(0, 10) == [two, again]
    assert await store.last_sequence() == again.sequence == 3


async def test_a_change_tells_what_it_was_and_when(store: RegistryStore) -> None:
    before = now()
    one = await put(store, collection("one"))
    two = await put(store, replace(one, description="changed"))
    await put(store, replace(two, delete_time=now()))
    changes = await store.changes(0, 10)
    assert [change.kind for change in changes] == ["collection.created", "collection.updated", "collection.deleted"]
    times = [before, *(change.time for change in changes), now()]
    assert times == sorted(times)


async def test_a_deleted_collection_is_gone_but_for_who_must_finish_it(store: RegistryStore) -> None:
    made = await put(store, collection())
    await add(store, made, document())
    gone = replace(made, delete_time=now(), purge_time=now() + timedelta(7))
    deleted = await store.write_collection("acme", "docs", lambda found: gone)
    assert await store.find_collection("acme", "docs") is None
    assert (await store.list_collections("acme", COLLECTIONS.query())).items == ()
    assert await store.latest(0, 10) == []
    assert [each.delete_time is not None for each in await told(store, 0, 10)] == [False, True]
    assert [each.uid for each in await store.deleted_collections("acme", "docs")] == [made.uid]
    assert await store.deleted_collections("globex") == []
    with pytest.raises(CollectionNotFound):
        await add(store, made, document("b"))
    anew = await put(store, collection(uid="anew"))
    await store.purge_collection(deleted.uid)
    assert await store.deleted_collections("acme") == [deleted], "it may come back until its purge has begun"
    assert await store.begin_purge(deleted.uid)
    await store.purge_collection(deleted.uid)
    await store.purge_collection(deleted.uid)
    assert await store.deleted_collections("acme") == []
    assert not await store.begin_purge(deleted.uid)
    assert await current(store, made) == anew
    assert not await store.begin_purge(anew.uid)
    await store.purge_collection(anew.uid)
    assert await current(store, made) == anew, "one that is not deleted stays"


async def test_a_deleted_collection_comes_back_with_what_it_held(store: RegistryStore) -> None:
    made = await put(store, collection())
    await add(store, made, document(state="ACTIVE", chunk_count=2))
    first = await put(store, replace(await current(store, made), delete_time=now(), purge_time=now() + timedelta(7)))
    anew = await put(store, collection(uid="anew"))
    second = await put(store, replace(anew, delete_time=now(), purge_time=now() + timedelta(7)))
    assert [each.uid for each in await store.deleted_collections("acme", "docs")] == ["anew", first.uid]

    def bring_back(live: Collection | None, deleted: Sequence[Collection]) -> Collection:
        assert live is None
        assert list(deleted) == [second, first]
        return replace(deleted[1], delete_time=None, purge_time=None)

    with pytest.raises(QuotaExceeded):
        await store.restore_collection("acme", "docs", bring_back, limits=Amounts(9, 9, 1, 9))
    for _ in range(2):
        back = await store.restore_collection("acme", "docs", bring_back, receipt(), limits=Amounts(9, 9, 2, 9))
    assert back == await current(store, made)
    assert (back.uid, back.document_count, back.chunk_count, back.sequence) == (first.uid, 1, 2, second.sequence + 1)
    assert await store.usage("acme") == Amounts(1, 1, 2, 0)
    assert await told(store, second.sequence, 10) == [back]
    assert [each.document_id for each in await store.find_documents(back, ["a"])] == ["a"]


async def test_deleted_collections_are_purged_when_due_and_settled_when_left(store: RegistryStore) -> None:
    live = await put(store, collection("live", unsettled=True))
    await put(store, collection("late", unsettled=True, update_time=now()))
    gone = {"delete_time": LONG_AGO, "purge_time": LONG_AGO + timedelta(1)}
    due = await put(store, collection("due", **gone))
    await put(store, collection("kept", **{**gone, "purge_time": now()}))
    assert await store.collections_to_purge(LONG_AGO + timedelta(2)) == [due]
    assert await store.unsettled_collections(LONG_AGO + timedelta(2)) == [live]
    await store.settle_collection(replace(live, sequence=live.sequence - 1))
    assert await store.unsettled_collections(LONG_AGO + timedelta(2)) == [live], "it has changed since"
    await store.settle_collection(live)
    assert await store.unsettled_collections(LONG_AGO + timedelta(2)) == []
    assert await current(store, live) == replace(live, unsettled=False)


async def test_what_can_come_back_is_listed_on_demand(store: RegistryStore) -> None:
    gone = {"delete_time": LONG_AGO, "purge_time": now() + timedelta(7)}
    parent = await put(store, collection("live"))
    for uid in ("one", "two"):
        await put(store, collection("gone", uid=uid, **gone))
    await put(store, collection("going", purging=True, **gone))
    await put(store, collection("late", **{**gone, "purge_time": now()}))
    found: list[str] = []
    token = ""
    while True:
        query = COLLECTIONS_AND_DELETED.query(page_size=1, page_token=token)
        page = await store.list_collections("acme", query, deleted=True)
        found += [each.uid for each in page.items]
        assert page.total_size == 3
        if not (token := page.next_page_token):
            break
    assert found == ["one", "two", parent.uid]
    assert (await store.list_collections("acme", COLLECTIONS.query())).total_size == 1
    for name, fields in {"a": {}, "b": gone, "c": {**gone, "purging": True}}.items():
        await add(store, parent, document(name, of=parent, state="ACTIVE", **fields))  # type: ignore[arg-type]
    for filter, names in {"": ["a", "b"], "state = DELETED": ["b"], "state = ACTIVE": ["a"]}.items():
        listed = await store.list_documents(parent, DOCUMENTS.query(filter=filter), deleted=True)
        assert ([each.document_id for each in listed.items], listed.total_size) == (names, len(names))
    listed = await store.list_documents(parent, DOCUMENTS.query(filter="state = DELETED"))
    assert listed.total_size == 0


async def test_documents_that_wait_for_their_import_are_listed_by_page(store: RegistryStore) -> None:
    parent, other = await put(store, collection()), await put(store, collection("other"))
    gone = {"delete_time": LONG_AGO, "purge_time": now() + timedelta(7)}
    await add(store, parent, document("a"), document("b", state="ACTIVE"), document("c"), document("d", **gone))
    await add(store, parent, document("late", update_time=now()))
    await add(store, other, document("gone with it", of=other))
    await put(store, replace(await current(store, other), **gone))
    pages: list[list[str]] = []
    after = ""
    while waiting := await store.pending_documents(LONG_AGO + timedelta(1), after, 1):
        after = waiting[-1][1].uid
        pages.append([each.document_id for _, each in waiting])
    assert pages == [["a"], ["c"]]


async def test_deleted_documents_are_purged_when_due(store: RegistryStore) -> None:
    parent, other = await put(store, collection()), await put(store, collection("other"))
    due = {"delete_time": LONG_AGO, "purge_time": LONG_AGO + timedelta(1)}
    await add(store, parent, document("due", **due), document("kept", **{**due, "purge_time": now()}), document("a"))
    await add(store, other, document("gone with it", of=other, **due))
    await put(store, replace(await current(store, other), **due))
    found = await store.documents_to_purge(LONG_AGO + timedelta(2), 10)
    assert [(of.uid, each.document_id) for of, each in found] == [(parent.uid, "due")]
    assert await store.documents_to_purge(LONG_AGO, 10) == []


async def test_collections_expire_when_their_time_has_come(store: RegistryStore) -> None:
    await put(store, collection("never"))
    await put(store, collection("later", expire_time=LONG_AGO + timedelta(days=2)))
    soon = await put(store, collection("soon", expire_time=LONG_AGO + timedelta(days=1)))
    assert await store.expired_collections(LONG_AGO + timedelta(days=1)) == [soon]


async def test_lists_are_filtered_ordered_and_paged(store: RegistryStore) -> None:
    for number, name in enumerate(["b", "a-1", "a.2", "C", "a_3"]):
        await put(store, collection(name, labels={"n": str(number % 2)}, create_time=LONG_AGO + timedelta(number)))
    query = COLLECTIONS.query(page_size=2)
    first = await store.list_collections("acme", query)
    assert [each.collection_id for each in first.items] == ["C", "a-1"]
    assert first.total_size == 5
    second = await store.list_collections("acme", COLLECTIONS.query(page_size=2, page_token=first.next_page_token))
    assert [each.collection_id for each in second.items] == ["a.2", "a_3"]
    third = await store.list_collections("acme", COLLECTIONS.query(page_size=2, page=3))
    assert [each.collection_id for each in third.items] == ["b"]
    assert third.next_page_token == ""
    newest = COLLECTIONS.query(filter='labels.n = "0"', order_by="create_time desc", page_size=2)
    page = await store.list_collections("acme", newest)
    assert [each.collection_id for each in page.items] == ["a_3", "a.2"]
    assert page.total_size == 3
    older = COLLECTIONS.query(filter='labels.n = "0"', order_by="create_time desc", page_token=page.next_page_token)
    assert [each.collection_id for each in (await store.list_collections("acme", older)).items] == ["b"]
    since = COLLECTIONS.query(filter=f'create_time >= "{(LONG_AGO + timedelta(3)).isoformat()}"')
    found = await store.list_collections("acme", since)
    assert [each.collection_id for each in found.items] == ["C", "a_3"]
    named = await store.list_collections("acme", COLLECTIONS.query(filter='name = "collections/C"'))
    assert [each.collection_id for each in named.items] == ["C"]


async def test_documents_are_listed_by_what_callers_see_of_them(store: RegistryStore) -> None:
    parent = await put(store, collection())
    await add(
        store,
        parent,
        document("a", title="Zebra", metadata={"legs": 4.0}, state="ACTIVE"),
        document("b", title="ant", metadata={"legs": 6.0}, principals=("user:ann",)),
        document("c", title="Bee", metadata={"wings": True}, principals=("group:crew", "user:bob")),
    )

    async def ids(**asked: str | int) -> list[str]:
        page = await store.list_documents(parent, DOCUMENTS.query(**asked))
        return [each.document_id for each in page.items]

    assert await ids(order_by="title") == ["c", "a", "b"]
    assert await ids(filter="metadata.legs > 4") == ["b"]
    assert await ids(filter="state = ACTIVE OR metadata.wings = true") == ["a", "c"]
    assert await ids(filter='name = "collections/docs/documents/b"') == ["b"]
    assert await ids(filter='name > "collections/docs/documents/a"', order_by="name desc") == ["c", "b"]
    first = await store.list_documents(parent, DOCUMENTS.query(page_size=1, order_by="name desc"))
    assert first.total_size == 3
    assert await ids(page_size=1, order_by="name desc", page_token=first.next_page_token) == ["b"]

    async def readable(*principals: str) -> list[str]:
        query = replace(DOCUMENTS.query(), filter=readable_by(frozenset(principals)))
        return [each.document_id for each in (await store.list_documents(parent, query)).items]

    assert await readable() == ["a"]
    assert await readable("user:ann", "group:x") == ["a", "b"]
    assert await readable("group:crew") == ["a", "c"]


async def test_counts_follow_the_documents_exactly(store: RegistryStore) -> None:
    parent = await put(store, collection())
    pending = document("a", size_bytes=10)
    active = replace(pending, state="ACTIVE", chunk_count=3, token_count=30, update_time=now())
    await add(store, parent, pending, document("b", size_bytes=1, state="FAILED"))
    assert _counts(await current(store, parent)) == (2, 0, 11, 0)
    await add(store, parent, active)
    assert _counts(await current(store, parent)) == (2, 3, 11, 1)
    await add(store, parent, active)
    assert _counts(await current(store, parent)) == (2, 3, 11, 1)
    await add(store, parent, replace(active, title="seen by searches"))
    assert _counts(await current(store, parent)) == (2, 3, 11, 2)
    assert await store.totals(parent) == DocumentTotals(1, 0, 1, 30, 11, active.update_time)
    leaving = replace(active, delete_time=now())
    await add(store, parent, leaving)
    assert _counts(await current(store, parent)) == (1, 0, 1, 3)
    assert await store.find_documents(parent, ["a"]) == []
    assert [each.uid for each in await store.find_documents(parent, ["a"], deleted=True)] == [active.uid]
    await store.write_documents(parent, ["a"], lambda found: {"a": None})
    assert await store.find_documents(parent, ["a"], deleted=True) == []
    assert _counts(await current(store, parent)) == (1, 0, 1, 3)
    assert (await current(store, parent)).sequence == parent.sequence


async def test_totals_of_nothing_are_zero(store: RegistryStore) -> None:
    assert await store.totals(await put(store, collection())) == DocumentTotals()


async def test_documents_that_wait_for_the_index_are_known_by_their_age(store: RegistryStore) -> None:
    parent = await put(store, collection())
    other = await put(store, collection("other"))
    since = LONG_AGO + timedelta(1)
    hidden = document("hidden", delete_time=LONG_AGO, purge_time=now(), unsettled=1, unsettled_time=since)
    unsettled = document("unsettled", unsettled=1, unsettled_time=since)
    await add(store, parent, hidden, unsettled, document("settled"), document("gone", delete_time=LONG_AGO))
    await add(store, other, document("late", of=other, unsettled=1, unsettled_time=now()))
    found = await store.unfinished_documents(LONG_AGO + timedelta(2), 10)
    assert {each.document_id: of.uid for of, each in found} == {"hidden": parent.uid, "unsettled": parent.uid}
    assert len(await store.unfinished_documents(LONG_AGO + timedelta(2), 1)) == 1


async def test_a_sources_documents_are_listed_in_order(store: RegistryStore) -> None:
    parent = await put(store, collection())
    await add(store, parent, *(document(each, source_key="directory:x") for each in ("b", "a", "C")))
    await add(store, parent, document("z", source_key="directory:y"))
    assert await store.list_source_documents(parent, "directory:x", "", 2) == ["C", "a"]
    assert await store.list_source_documents(parent, "directory:x", "a", 2) == ["b"]


async def test_documents_are_selected_by_a_filter_in_the_order_of_their_ids_and_counted(store: RegistryStore) -> None:
    parent = await put(store, collection())
    ids = ("b", "a", "C", "d")
    await add(store, parent, *(document(each, metadata={"n": float(at)}) for at, each in enumerate(ids)))
    await add(store, parent, document("e", metadata={"n": 9.0}, delete_time=LONG_AGO))
    wanted = parse("metadata.n >= 1", DOCUMENTS.schema)
    found = await store.select_documents(parent, wanted, "", 2)
    assert [each.document_id for each in found] == ["C", "a"]
    assert [each.document_id for each in await store.select_documents(parent, wanted, "a", 2)] == ["d"]
    assert await store.count_documents(parent, wanted) == 3
    named = parse('name = "collections/docs/documents/b"', DOCUMENTS.schema)
    assert [each.document_id for each in await store.select_documents(parent, named, "", 2)] == ["b"]
    assert await store.count_documents(parent, EVERYTHING) == 4


async def test_a_receipt_gives_the_first_answer_again(store: RegistryStore) -> None:
    first = await store.write_collection("acme", "docs", lambda found: collection(), receipt())
    again = await store.write_collection("acme", "docs", lambda found: collection(description="other"), receipt())
    assert again == first == await store.recall(receipt(), Collection)
    assert await current(store, first) == first
    with pytest.raises(RequestIdReused):
        await store.write_collection("acme", "docs", lambda found: first, receipt(digest="other"))
    with pytest.raises(RequestIdReused):
        await store.recall(receipt(digest="other"), Collection)
    assert await store.recall(receipt(method="Update"), Collection) is None
    assert await store.recall(receipt(tenant="globex"), Collection) is None


async def test_a_receipt_for_documents_gives_them_all_again(store: RegistryStore) -> None:
    parent = await put(store, collection())
    a, b = document("a", error=b"\xff"), document("b", metadata={"k": [1.0]})
    given = {"a": a, "b": b}
    assert await store.write_documents(parent, ["b", "a"], lambda found: given, receipt()) == (b, a)
    assert await store.write_documents(parent, ["b", "a"], lambda found: {}, receipt()) == (b, a)
    assert await store.recall(receipt(), tuple[Document, ...]) == (b, a)
    await store.forget(receipt())
    assert await store.recall(receipt(), tuple[Document, ...]) is None


async def test_receipts_expire(store: RegistryStore) -> None:
    await store.write_collection("acme", "docs", lambda found: collection(), receipt())
    await store.prune_receipts(now() + timedelta(hours=23))
    assert await store.recall(receipt(), Collection) is not None
    await store.prune_receipts(now() + timedelta(hours=25))
    assert await store.recall(receipt(digest="another body"), Collection) is None


async def test_of_parallel_creators_one_wins(store: RegistryStore) -> None:
    def create(found: Collection | None) -> Collection:
        if found:
            raise AlreadyExists("taken")
        return collection(uid=f"uid-{next(_numbers)}")

    outcomes = await asyncio.gather(
        *(store.write_collection("acme", "docs", create) for _ in range(8)), return_exceptions=True
    )
    made = [each for each in outcomes if isinstance(each, Collection)]
    assert len(made) == 1
    assert await current(store, made[0]) == made[0]
    assert all(isinstance(each, AlreadyExists) for each in outcomes if each is not made[0])


async def test_of_parallel_requests_with_one_receipt_all_get_one_answer(store: RegistryStore) -> None:
    parents = [await put(store, collection(f"c{number}")) for number in range(6)]

    async def write(parent: Collection) -> tuple[Document, ...]:
        made = document("a", of=parent)
        return await store.write_documents(parent, ["a"], lambda found: {"a": made}, receipt())

    answers = await asyncio.gather(*map(write, parents))
    assert len(set(each[0].uid for each in answers)) == 1
    counts = [(await current(store, parent)).document_count for parent in parents]
    assert sum(counts) == 1, "the others wrote nothing"


async def test_counts_are_exact_under_parallel_writers(store: RegistryStore) -> None:
    parent = await put(store, collection())

    async def write(number: int) -> None:
        made = document(f"d{number % 10}", uid=f"u{number % 10}", state="ACTIVE", chunk_count=1, size_bytes=2)

        def grow(found: Mapping[str, Document]) -> dict[str, Document]:
            held = found.get(made.document_id, replace(made, chunk_count=0, size_bytes=0))
            return {made.document_id: replace(held, chunk_count=held.chunk_count + 1, size_bytes=held.size_bytes + 2)}

        await store.write_documents(parent, [made.document_id], grow)

    await asyncio.gather(*map(write, range(40)))
    assert _counts(await current(store, parent)) == (10, 40, 80, 40)


async def test_etags_are_compared_and_set_in_one_step(store: RegistryStore) -> None:
    await put(store, collection(labels={"n": "0"}))

    def increase(found: Collection | None) -> Collection:
        assert found
        return replace(found, labels={"n": str(int(found.labels["n"]) + 1)})

    await asyncio.gather(*(store.write_collection("acme", "docs", increase) for _ in range(10)))
    found = await current(store, collection())
    assert found.labels == {"n": "10"}
    assert [each.labels["n"] for each in await told(store, 0, 20)] == [str(number) for number in range(11)]


async def test_the_store_answers_its_check(store: RegistryStore) -> None:
    await store.check()


def _counts(found: Collection) -> tuple[int, int, int, int]:
    return found.document_count, found.chunk_count, found.size_bytes, found.revision


async def test_sizes_are_of_all_tenants_and_the_largest_live_collections_come_one_by_one(store: RegistryStore) -> None:
    assert await store.sizes(5) == (Amounts(), {})
    small, large = await put(store, collection("small")), await put(store, collection("large", tenant="globex"))
    gone = await put(store, collection("gone"))
    active = {"state": "ACTIVE", "size_bytes": 10}
    await add(store, small, document("a", of=small, chunk_count=1, **active))
    await add(store, large, document("a", of=large, chunk_count=5, **active))
    await add(store, gone, document("a", of=gone, chunk_count=9, **active))
    await put(store, replace(await current(store, gone), delete_time=now()))
    whole, largest = await store.sizes(1)
    assert (whole, largest) == (Amounts(2, 2, 6, 20), {large.uid: Amounts(1, 1, 5, 10)})
    assert list((await store.sizes(5))[1]) == [large.uid, small.uid]
    assert await store.sizes(0) == (whole, {})


async def test_usage_is_what_the_tenants_live_collections_hold(store: RegistryStore) -> None:
    docs, more = await put(store, collection()), await put(store, collection("more"))
    await put(store, collection(tenant="globex"))
    active = {"state": "ACTIVE", "chunk_count": 3, "size_bytes": 5_000_000_000}
    await add(store, docs, document("a", of=docs, **active), document("b", of=docs, size_bytes=1))
    await add(store, more, document("a", of=more, **active))
    assert await store.usage("acme") == Amounts(2, 3, 6, 10_000_000_001)
    assert await store.usage("globex") == Amounts(1, 0, 0, 0)
    assert await store.usage("nobody") == Amounts()
    await add(store, docs, replace(document("a", of=docs, **active), delete_time=now()))
    assert await store.usage("acme") == Amounts(2, 2, 3, 5_000_000_001)
    await put(store, replace(await current(store, more), delete_time=now()))
    assert await store.usage("acme") == Amounts(1, 1, 0, 1)


async def test_of_many_collections_created_at_once_as_many_are_as_fit(store: RegistryStore) -> None:
    async def create(number: int) -> bool:
        made = collection(f"c{number}")
        try:
            await store.write_collection("acme", made.collection_id, lambda found: made, limits=Amounts(collections=10))
        except QuotaExceeded:
            return False
        return True

    created = await asyncio.gather(*map(create, range(50)))
    assert created.count(True) == 10
    assert (await store.usage("acme")).collections == 10
    assert len(await told(store, 0, 100)) == 10


async def test_writers_of_several_collections_share_one_quota(store: RegistryStore) -> None:
    parents = [await put(store, collection(f"c{number}")) for number in range(4)]
    limits = Amounts(collections=4, documents=7, chunks=100, storage_bytes=10)

    async def write(number: int) -> bool:
        parent = parents[number % len(parents)]
        made = document(f"d{number}", of=parent, size_bytes=1)
        try:
            await store.write_documents(parent, [made.document_id], lambda _: {made.document_id: made}, limits=limits)
        except QuotaExceeded:
            return False
        return True

    written = await asyncio.gather(*map(write, range(40)))
    assert written.count(True) == 7
    assert await store.usage("acme") == Amounts(4, 7, 0, 7)
    totals = [(await current(store, parent)).document_count for parent in parents]
    assert sum(totals) == 7


async def test_what_is_refused_for_the_quota_leaves_no_trace(store: RegistryStore) -> None:
    docs = await put(store, collection())
    with pytest.raises(QuotaExceeded):
        await store.write_documents(
            docs, ["a"], lambda _: {"a": document("a", of=docs)}, receipt(), limits=Amounts(collections=1)
        )
    assert await store.find_documents(docs, ["a"]) == []
    assert await store.recall(receipt(), tuple[Document, ...]) is None
    assert await current(store, docs) == docs


async def test_answers_and_old_events_of_a_tenant_are_erased_in_parts(store: RegistryStore) -> None:
    for number in range(3):
        made = collection(f"c{number}")
        await store.write_collection("acme", made.collection_id, lambda _, made=made: made, receipt(f"r{number}"))  # type: ignore[misc]
    theirs = await put(store, collection(tenant="globex"))
    await store.remember(receipt(tenant="globex"), theirs, Collection)
    assert await store.erase("acme", before=LONG_AGO - timedelta(days=1), limit=2) == (2, True)
    assert await store.erase("acme", before=LONG_AGO - timedelta(days=1), limit=2) == (1, True)  # events are too young
    assert await store.erase("acme", before=now() + timedelta(seconds=1), limit=2) == (2, True)
    assert await store.erase("acme", before=now() + timedelta(seconds=1), limit=2) == (1, False)
    assert await store.erase("acme", before=now() + timedelta(seconds=1), limit=2) == (0, False)
    assert await told(store, 0, 100) == [theirs]
    assert await store.last_sequence() == theirs.sequence
    assert await store.recall(receipt(tenant="globex"), Collection) == theirs
    assert await store.compact()


async def test_sequences_go_on_where_the_last_events_were_erased(store: RegistryStore) -> None:
    first = await put(store, collection())
    await store.erase("acme", before=now() + timedelta(seconds=1), limit=10)
    assert await store.last_sequence() == first.sequence
    assert (await put(store, collection("next"))).sequence > first.sequence


async def test_of_equal_requests_at_once_one_is_done_and_all_are_answered_alike(store: RegistryStore) -> None:
    registry = Registry(store, FakeIndex(), FakeModels(), FakePlaces(), quotas(store))
    documents = Documents(store, FakeIndex(), FakeJobs(), quotas(store), max_upload_bytes=100)
    deletions = document_deletions(store, FakeIndex(), FakeJobs())
    whole = collection_deletions(store, FakeIndex(), registry)
    new = NewDocument(document_id="a")
    who = caller_of("ann")

    async def at_once(method: str, call: Callable[[Receipt], Awaitable[Any]]) -> Any:
        first, *others = await asyncio.gather(*(call(receipt("k", method=method)) for _ in range(5)))
        assert all(each == first for each in others), method
        return first

    for _ in range(3):  # each turn another race
        made = collection(f"c{next(_numbers)}").collection_id
        name = f"collections/{made}/documents/a"
        await at_once(f"CreateCollection {made}", lambda key, made=made: registry.create(made, {}, who, receipt=key))
        await at_once(
            f"UpdateCollection {made}",
            lambda key, made=made: registry.update(made, {"description": "x"}, ["description"], who, receipt=key),
        )
        await at_once(
            f"CreateDocument {made}", lambda key, made=made: documents.create(made, new, "text", who, receipt=key)
        )
        await documents.record(
            replace(document("a", of=await registry.get(made, who)), state="ACTIVE", chunk_count=1, uid=""), who
        )
        await at_once(
            f"UpdateDocument {made}",
            lambda key, name=name: documents.update(name, {"title": "x"}, ["title"], who, receipt=key),
        )
        await at_once(f"DeleteDocument {made}", lambda key, name=name: deletions.delete(name, who, receipt=key))
        await at_once(f"UndeleteDocument {made}", lambda key, name=name: deletions.undelete(name, who, receipt=key))
        await at_once(
            f"DeleteCollection {made}", lambda key, made=made: whole.delete(made, who, force=True, receipt=key)
        )
        await at_once(f"UndeleteCollection {made}", lambda key, made=made: whole.undelete(made, who, receipt=key))
