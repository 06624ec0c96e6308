"""Random writes, deletions, changes of rights and searches, interleaved: no answer may be stale or forbidden.

`python -m tests.cache_soak [steps] [seed]` runs the whole bar; the suite runs it short.
"""

import asyncio
import random
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from services.mesh.consistency import consistency_token
from services.mesh.errors import CollectionDisabled, CollectionNotFound
from services.mesh.identity import Caller
from services.retrieval.adapters.redis import RedisRevisions
from services.retrieval.adapters.redis_results import RedisResults
from services.retrieval.chunks import DocumentFields, EncodedChunk, Found, IndexId, Mode, VectorQuery
from services.retrieval.query import CacheControl, Query
from tests.jobs_store import store_in
from tests.retrieval_fakes import FakeRevisions, view
from tests.retrieval_replica import ANN, ANONYMOUS, BOB, CountingStore, Replica

INDEX: Final = IndexId("uid-docs")
CALLERS: Final = (ANN, BOB, ANONYMOUS)
DOCUMENTS: Final = tuple(f"d{number}" for number in range(6))
WORDS: Final = ("foxes", "dogs", "seals")
GRANTS: Final[tuple[tuple[str, ...], ...]] = ((), ("user:ann",), ("user:bob",), ("group:staff", "user:bob"))
STALE_S: Final = 1.0


@dataclass(frozen=True)
class Version:
    """What a document is from a moment on; None: not there.

    Attributes:
        from_s: When the write was acknowledged, by time.monotonic().
        begun_s: When it was begun: from then on it may show.
    """

    text: str | None
    principals: tuple[str, ...]
    begun_s: float
    from_s: float = float("inf")
    revision: int = 0


@dataclass
class Truth:
    """Every version there was of each document, and of the collection's openness."""

    versions: dict[str, list[Version]] = field(
        default_factory=lambda: {each: [Version(None, (), 0.0, 0.0)] for each in DOCUMENTS}
    )
    public: bool = True
    revision: int = 0

    def may_show(self, document: str, since_s: float, revision: int) -> list[Version]:
        """The versions that a search may have seen: the last one acknowledged before it had to be seen, and later ones.

        Args:
            since_s: Writes acknowledged before then must show.
            revision: So must writes counted up to it.
        """
        versions = self.versions[document]
        for number in range(len(versions) - 1, -1, -1):
            if versions[number].from_s <= since_s or 0 < versions[number].revision <= revision:
                return versions[number:]
        raise AssertionError("there is a first version of every document")


@dataclass
class Soak:
    """Drives replicas by one seed. Writes of a document are made one after the other; all else is at the same time.

    Attributes:
        tolerance_s: How old a write is that a search without a token must show.
        writes: Their share of all steps.
        tokens: The share of searches that carry a consistency_token.
        one_writes: All are made by the last replica: the first, which keeps answers, learns of them by push alone.
    """

    replicas: list[Replica]
    seed: int
    tolerance_s: float
    writes: float
    tokens: float = 0.3
    one_writes: bool = False
    truth: Truth = field(default_factory=Truth)
    searches: int = 0
    hits: int = 0
    shared: int = 0
    checked: int = 0

    async def run(self, steps: int) -> None:
        locks = {each: asyncio.Lock() for each in DOCUMENTS}
        workers = [self._worker(random.Random(f"{self.seed}-{number}"), locks, steps // 8) for number in range(8)]
        await asyncio.gather(*workers)

    async def _worker(self, chance: random.Random, locks: dict[str, asyncio.Lock], steps: int) -> None:
        for _ in range(steps):
            await asyncio.sleep(0)
            kind = chance.random()
            replica = chance.choice(self.replicas)
            if kind < self.writes:
                document = chance.choice(DOCUMENTS)
                async with locks[document]:
                    await self._write(self.replicas[-1] if self.one_writes else replica, document, chance)
            elif kind < self.writes * 1.2:
                self._turn_visibility()
            elif kind < self.writes * 1.21:
                await replica.cache.purge(ANN.tenant, chance.choice((None, INDEX)))
            else:
                await self._search(replica, chance)

    def _turn_visibility(self) -> None:
        """As the registry has it applied by every replica before it acknowledges it."""
        self.truth.public = not self.truth.public
        for each in self.replicas:
            known = each.collections._by_uid[INDEX]
            each.collections.apply(replace(known, public=self.truth.public, sequence=known.sequence + 1))

    async def _write(self, replica: Replica, document: str, chance: random.Random) -> None:
        last = self.truth.versions[document][-1]
        now_s = time.monotonic()
        kind = chance.choice(("text", "acl", "hide", "delete"))
        grants = chance.choice(GRANTS)
        text = f"{chance.choice(WORDS)} {chance.choice(WORDS)} {len(self.truth.versions[document])}"
        if kind == "text" or last.text is None:
            new = Version(text, grants, now_s)
        elif kind == "delete":
            new = Version(None, (), now_s)
        else:
            new = Version(last.text, grants if kind == "acl" else ("nobody:",), now_s)
        self.truth.versions[document].append(new)
        if new.text is not None and new.text != last.text:
            revision = await replica.write(document, new.text, *grants)
        elif kind == "delete":
            revision = await replica.indexer.delete(INDEX, [document])
        elif kind == "hide":
            revision = await replica.indexer.hide(INDEX, {document: 0})
        else:
            revision = await replica.indexer.update_fields(INDEX, DocumentFields(document, principals=grants))
        self.truth.versions[document][-1] = replace(new, from_s=time.monotonic(), revision=revision)
        self.truth.revision = max(revision, self.truth.revision)

    async def _search(self, replica: Replica, chance: random.Random) -> None:
        who = chance.choice(CALLERS)
        control = chance.choices((CacheControl.DEFAULT, CacheControl.REFRESH, CacheControl.BYPASS), (18, 1, 1))[0]
        revision = 0
        if chance.random() < self.tokens:
            revision = self.truth.revision
        query = Query(
            text=chance.choice(WORDS),
            collection="docs",
            mode=chance.choice((Mode.DENSE, Mode.HYBRID)),
            cache_control=control,
            consistency_token=consistency_token(INDEX, revision) if revision else "",
        )
        public, began_s = self.truth.public, time.monotonic()
        try:
            response = await replica.found(query, who)
        except (CollectionNotFound, CollectionDisabled):
            assert who.anonymous and not (public and self.truth.public), "an open collection was refused"
            return
        assert not who.anonymous or public or self.truth.public, "a closed collection was searched without a token"
        self.searches += 1
        self.hits += response.cache.status == response.cache.HIT
        self.shared += response.cache.layer == response.cache.SHARED
        found = {hit.document.rpartition("/")[2]: hit.text for hit in response.hits}
        for document in DOCUMENTS:
            self.checked += 1
            allowed = self.truth.may_show(document, began_s - self.tolerance_s, revision)
            shows = {each.text if _may_find(who, each) else None for each in allowed}
            shown = found.get(document)
            assert shown in shows, f"{document} shows {shown!r}; of {allowed} to {who.subject}, revision {revision}"


def _may_find(who: Caller, version: Version) -> bool:
    return not version.principals or not who.principals.isdisjoint(version.principals)


class JitteryStore(CountingStore):
    """Lets others run before and after each search and write, as a store does that is asked over a wire."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._chance = random.Random(seed)

    @asynccontextmanager
    async def _taking_time(self) -> AsyncIterator[None]:
        for _ in range(self._chance.randrange(4)):
            await asyncio.sleep(0)
        yield
        for _ in range(self._chance.randrange(4)):
            await asyncio.sleep(0)

    async def search(self, index: IndexId, query: VectorQuery) -> Found:
        async with self._taking_time():
            return await super().search(index, query)

    async def upsert(self, index: IndexId, chunks: Sequence[EncodedChunk]) -> None:
        async with self._taking_time():
            await super().upsert(index, chunks)

    async def delete_documents(self, index: IndexId, document_ids: Sequence[str]) -> None:
        async with self._taking_time():
            await super().delete_documents(index, document_ids)

    async def set_fields(
        self, index: IndexId, document_ids: Sequence[str], fields: Mapping[str, Any], *, generation: int = 0
    ) -> None:
        async with self._taking_time():
            await super().set_fields(index, document_ids, fields, generation=generation)


@asynccontextmanager
async def one_process(seed: int) -> AsyncIterator[list[Replica]]:
    async with Replica(JitteryStore(seed), FakeRevisions(), view(public=True)).running() as replica:
        yield [replica]


@asynccontextmanager
async def two_processes(folder: Path, seed: int) -> AsyncIterator[list[Replica]]:
    """Two processes' parts over one store and one real Redis, each with connections of its own.

    They share answers. The second keeps none itself: what it gives again comes out of Redis.
    """
    store = JitteryStore(seed)
    async with AsyncExitStack() as opened:
        server = opened.enter_context(store_in(folder))
        replicas = []
        for max_bytes in (2**20, 0):
            counter = await opened.enter_async_context(RedisRevisions.open(server.url, timeout_s=10))
            shared = await opened.enter_async_context(RedisResults.open(server.url, ttl_s=60, timeout_s=5))
            made = Replica(store, counter, view(public=True), shared=shared, max_bytes=max_bytes)
            replicas.append(await opened.enter_async_context(made.running()))
        yield replicas


async def soak(steps: int, seed: int) -> dict[str, Soak]:
    """Both bars, and the second with time for answers to be shared and without what makes up for a push that is lost.

    Each soak tells what it saw.

    Raises:
        AssertionError: A hit was stale or forbidden.
    """
    soaks = {}
    async with one_process(seed) as replicas:
        soaks["one process"] = Soak(replicas, seed, 0.0, writes=0.15)
        await soaks["one process"].run(steps)
    few: dict[str, Any] = {"writes": 0.005, "tokens": 0.0, "one_writes": True}
    for name, how in (("two processes", {"writes": 0.15}), ("two processes, few writes of one", few)):
        with TemporaryDirectory() as folder:
            async with two_processes(Path(folder), seed) as replicas:
                soaks[name] = Soak(replicas, seed, STALE_S, **how)
                await soaks[name].run(steps)
    return soaks


def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 200_000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(2**32)
    for name, each in asyncio.run(soak(steps, seed)).items():
        print(
            f"{name}: {each.searches} searches, {each.hits} of them from the cache ({each.shared} by Redis); "
            f"{each.checked} documents looked at, none stale or forbidden (seed {seed})"
        )


if __name__ == "__main__":
    main()
