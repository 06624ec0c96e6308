"""A search finds what its caller may find, in every store and mode, whatever its filter asks for."""

import itertools
import random
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from services.mesh.errors import CollectionNotFound, InvalidFilter
from services.mesh.filters import Filter, all_of, evaluate, parse
from services.mesh.identity import Caller
from services.retrieval.adapters.edge import EdgeVectorStore
from services.retrieval.adapters.qdrant import QdrantVectorStore
from services.retrieval.adapters.qdrant_payload import payload_of
from services.retrieval.chunks import EncodedChunk, IndexId, Mode
from services.retrieval.collections_mirror import CollectionsMirror
from services.retrieval.faceting import FacetAsked
from services.retrieval.filterable import SCHEMA, by_document_id
from services.retrieval.freshness import Freshness
from services.retrieval.ports import VectorStore
from services.retrieval.query import Query
from services.retrieval.retriever import Retriever
from services.retrieval.scaling import SparseScales
from services.retrieval.usage import Usage
from tests.retrieval_fakes import (
    FakeEmbedder,
    FakeRegistry,
    FakeReranker,
    FakeRevisions,
    FakeUsageSink,
    MemoryVectorStore,
    chunk,
    encoded,
    view,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:Local mode performs exact"),
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect"),
]

# Who may find each document; some look like others.
ACLS: dict[str, tuple[str, ...]] = {
    "open": (),
    "anns": ("user:ann",),
    "bobs": ("user:bob",),
    "staffs": ("group:staff",),
    "both": ("user:ann", "user:bob"),
    "annas": ("user:anna", "user:an", "USER:ANN", "user:ann ", "group:ann", "ann"),
    "stars": ("user:*", "*"),
}


def caller(subject: str, *groups: str, tenant: str = "acme", anonymous: bool = False) -> Caller:
    named = frozenset() if anonymous else frozenset({f"user:{subject}", *(f"group:{group}" for group in groups)})
    return Caller(tenant=tenant, subject=subject, principals=named, anonymous=anonymous)


CALLERS = {
    "ann": caller("ann"),
    "ann of staff": caller("ann", "staff"),
    "bob": caller("bob", "*", "user:ann"),
    "eve": caller("eve"),
    "star": caller("*", "*"),
    "an odd one": caller('ann" OR acl:*', "x"),
    "nobody": caller("anonymous", anonymous=True),
}


def may_find(who: Caller) -> set[str]:
    return {name for name, acl in ACLS.items() if not acl or not who.principals.isdisjoint(acl)}


def chunks(tenant: str) -> list[EncodedChunk]:
    made = []
    for name, acl in ACLS.items():
        metadata = {"acl": ["user:ann"], "tenant": tenant, "n": len(name), "owner": name}
        fields = {"principals": acl, "title": f"{tenant} {name}", "metadata": metadata}
        for ordinal in range(2):
            text = f"foxes of {tenant} and {name} number {ordinal}"
            made.append(encoded(chunk(text, document=name, ordinal=ordinal, document_fields=fields), scale=70))
    return made


@dataclass
class Searching:
    store: VectorStore
    retriever: Retriever

    async def found(self, who: Caller, mode: Mode, **fields: Any) -> tuple[set[str], int]:
        """Documents found, with whose they are, and how many hits there are said to be.

        What stands beside them, and what is counted, is of the same documents: every passage answers the query.
        """
        shaped = {"neighbors": 1, "facets": [FacetAsked("metadata.owner", 100)]}
        query = Query(text="foxes number", mode=mode, top_k=200, **{"collection": "docs", **shaped, **fields})
        answer = await self.retriever.search(query, who)
        for hit in answer.hits:
            assert [each.ordinal for each in hit.neighbors] == [1 - hit.found.chunk.ordinal]
            assert {each.document.document_id for each in hit.neighbors} == {hit.found.chunk.document.document_id}
        (owners,) = answer.facets
        counts = {each.value: each.times for each in owners.counts}
        assert counts == Counter(hit.found.chunk.document.metadata["owner"] for hit in answer.hits)
        documents = [hit.found.chunk.document for hit in answer.hits]
        assert {each.title.split()[0] for each in documents} <= {who.tenant}
        assert answer.total == len(answer.hits) <= answer.candidates
        return {each.document_id for each in documents}, answer.total


@pytest.fixture(params=["memory", "edge", "qdrant"])
async def searching(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Searching]:
    match request.param:
        case "memory":
            yield await filled(MemoryVectorStore())
        case "edge":
            async with EdgeVectorStore.open(tmp_path / "index") as edge:
                yield await filled(edge)
        case "qdrant":
            from qdrant_client import AsyncQdrantClient

            client = AsyncQdrantClient(":memory:")
            yield await filled(QdrantVectorStore(client))
            await client.close()


async def filled(store: VectorStore) -> Searching:
    mirror = CollectionsMirror(FakeRegistry())
    for tenant in ("acme", "globex"):
        made = view(tenant=tenant, uid=IndexId(f"uid-{tenant}"), public=True)
        mirror.apply(made)
        await store.ensure_index(made.uid, 4)
        await store.upsert(made.uid, chunks(tenant))
    scales = SparseScales(store, mirror.language_of)
    freshness, usage = Freshness(FakeRevisions()), Usage(FakeUsageSink())
    return Searching(store, Retriever(store, FakeEmbedder(), mirror, scales, freshness, FakeReranker(), usage))


MODES = pytest.mark.parametrize("mode", list(Mode))


@MODES
async def test_a_search_finds_what_names_nobody_or_its_caller(searching: Searching, mode: Mode) -> None:
    for who in CALLERS.values():
        documents, total = await searching.found(who, mode)
        assert documents == may_find(who)
        assert total == 2 * len(documents)


@MODES
async def test_pages_and_limits_count_what_the_caller_may_find(searching: Searching, mode: Mode) -> None:
    who, token, seen = CALLERS["ann"], "", []
    for _ in range(10):
        answer = await searching.retriever.search(
            Query(text="foxes number", mode=mode, collection="docs", top_k=5, page_size=2, page_token=token), who
        )
        assert answer.total == 5, "a document out of sight takes no place among the best"
        seen += [hit.found.chunk.document.document_id for hit in answer.hits]
        if not (token := answer.next_page_token):
            break
    assert len(seen) == 5
    assert set(seen) <= may_find(who)


@MODES
async def test_several_collections_are_confined_like_one(searching: Searching, mode: Mode) -> None:
    documents, _ = await searching.found(CALLERS["ann"], mode, collection="", collections=["docs", "docs"])
    assert documents == may_find(CALLERS["ann"])
    for name in ("uid-globex", "globex/docs", "collections/globex", "../globex", "docs@globex"):
        with pytest.raises(Exception, match="collection"):
            await searching.found(CALLERS["ann"], mode, collection=name)


WIDENING = [
    'tenant = "globex" OR true',
    'tenant = "globex"',
    'acl:"user:bob"',
    'acl = "user:bob" OR title:*',
    'principals:"user:bob"',
    "NOT acl:*",
    'title:* OR acl.principals:"user:bob"',
    'collection = "globex/docs"',
    'metadata.tenant = "globex") OR (title:*',
    'title = "x" OR ("1" = "1")',
    'document = "bobs" OR document = "staffs" OR document = "stars"',
    'document = "collections/docs/documents/bobs"',
    'document = "collections/other/documents/bobs"',
    'metadata.tenant = "globex" OR metadata.tenant = "acme"',
    'metadata.acl:"user:ann" OR NOT metadata.acl:"user:ann"',
    "NOT (title:* AND document:nothing)",
    '-document:"anns"',
    'title:"*" OR -title:"*"',
    'metadata.owner = "bobs" OR metadata.n > 0',
    'title = "acme bobs\\" OR acl:*"',
]


@MODES
async def test_a_filter_that_would_widen_the_view_does_not(searching: Searching, mode: Mode) -> None:
    for asked, who in itertools.product(WIDENING, CALLERS.values()):
        try:
            documents, _ = await searching.found(who, mode, filter=asked)
        except InvalidFilter:
            continue
        assert documents <= may_find(who), asked


_FIELDS = ["document", "title", "mime_type", "section", "page_number", "metadata.owner", "metadata.n", "metadata.acl"]
_FOREIGN = ["tenant", "acl", "principals", "collection", "uid", "metadata.tenant", "document.acl", "acl.principals"]
_VALUES = [*ACLS, "acme", "globex", "user:ann", "user:bob", "*", "true", "1", "", 'a" OR acl:*', "0"]


def _asked(chance: random.Random, depth: int = 3) -> str:
    roll = chance.random()
    if depth == 0 or roll < 0.4:
        field = chance.choice(_FIELDS if chance.random() < 0.9 else _FOREIGN)
        value = chance.choice(_VALUES).replace('"', '\\"')
        return f'{field} {chance.choice(["=", "!=", ":", "<", ">="])} "{value}"'
    if roll < 0.6:
        return f"NOT ({_asked(chance, depth - 1)})"
    joined = chance.choice([" AND ", " OR ", " "]).join(
        f"({_asked(chance, depth - 1)})" for _ in range(chance.randint(2, 3))
    )
    return f"-({joined})" if roll < 0.7 else joined


async def test_random_filters_find_exactly_what_they_choose_of_what_the_caller_may_find(searching: Searching) -> None:
    taken = 0
    payloads = {each.chunk.document.document_id: payload_of(each) for each in chunks("acme")}
    for seed in range(400):
        chance = random.Random(seed)
        asked, who = _asked(chance), chance.choice(list(CALLERS.values()))
        try:
            tree: Filter = by_document_id(all_of(parse(asked, SCHEMA)))
        except InvalidFilter:
            with pytest.raises(InvalidFilter):
                await searching.found(who, Mode.DENSE, filter=asked)
            continue
        taken += 1
        documents, _ = await searching.found(who, chance.choice(list(Mode)), filter=asked)
        chosen = {name for name, payload in payloads.items() if evaluate(tree, payload)}
        assert documents == chosen & may_find(who), f"seed {seed}: {asked}"
    assert taken > 100


@MODES
async def test_a_change_of_an_acl_holds_in_the_next_search(searching: Searching, mode: Mode) -> None:
    ann, index = CALLERS["ann"], IndexId("uid-acme")
    for _ in range(5):
        await searching.store.set_fields(index, ["open"], {"principals": ["user:bob"]})
        assert "open" not in (await searching.found(ann, mode))[0]
        await searching.store.set_fields(index, ["open"], {"principals": ["user:bob", "user:ann"]})
        assert "open" in (await searching.found(ann, mode))[0]
        await searching.store.set_fields(index, ["open"], {"principals": []})
        assert "open" in (await searching.found(CALLERS["eve"], mode))[0]


async def test_another_tenants_index_is_nobodys_by_its_uid() -> None:
    mirror = CollectionsMirror(FakeRegistry())
    mirror.apply(view(uid=IndexId("uid-acme")))
    assert mirror.owned(IndexId("uid-acme"), "acme") == "uid-acme"
    with pytest.raises(CollectionNotFound):
        mirror.owned(IndexId("uid-acme"), "globex")
