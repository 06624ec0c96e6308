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

    def may_show(self, document: str, since_s: float, revision: int) -> list[Version]:
        """The versions that a search may have seen: the last one acknowledged before it had to be seen, and later ones.

        Args:
            since_s: Writes acknowledged before then must show.
            revision: So must writes counted up to it.
        """
        versions = self.versions[document]
        must = max(
            number for number, each in enumerate(versions) if each.from_s <= since_s or 0 < each.revision <= revision
        )
        return versions[must:]


@dataclass
class Soak:
    """Drives replicas by one seed. Writes of a document are made one after the other; all else is at the same time."""

    replicas: list[Replica]
    seed: int
    tolerance_s: float
    truth: Truth = field(default_factory=Truth)
    searches: int = 0
    hits: int = 0
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
            if kind < 0.8:
                await self._search(replica, chance)
            elif kind < 0.97:
                document = chance.choice(DOCUMENTS)
                async with locks[document]:
                    await self._write(replica, document, chance)
            else:
                self._turn_visibility()

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

    async def _search(self, replica: Replica, chance: random.Random) -> None:
        who = chance.choice(CALLERS)
        control = chance.choices((CacheControl.DEFAULT, CacheControl.REFRESH, CacheControl.BYPASS), (18, 1, 1))[0]
        revision = 0
        if chance.random() < 0.3:
            revision = max(each.revision for versions in self.truth.versions.values() for each in versions)
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
    """Two processes' parts over one store and one real Redis, each with connections of its own."""
    store = JitteryStore(seed)
    async with AsyncExitStack() as opened:
        server = opened.enter_context(store_in(folder))
        replicas = []
        for _ in range(2):
            counter = await opened.enter_async_context(RedisRevisions.open(server.url, timeout_s=10))
            replicas.append(await opened.enter_async_context(Replica(store, counter, view(public=True)).running()))
        yield replicas


async def soak(steps: int, seed: int) -> list[Soak]:
    """Both bars; each soak tells what it saw. Raises AssertionError for a stale or forbidden hit."""
    soaks = []
    async with one_process(seed) as replicas:
        soaks.append(Soak(replicas, seed, 0.0))
        await soaks[-1].run(steps)
    with TemporaryDirectory() as folder:
        async with two_processes(Path(folder), seed) as replicas:
            soaks.append(Soak(replicas, seed, STALE_S))
            await soaks[-1].run(steps)
    return soaks


def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 200_000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(2**32)
    for name, each in zip(("one process", "two processes"), asyncio.run(soak(steps, seed)), strict=True):
        print(
            f"{name}: {each.searches} searches, {each.hits} of them from the cache; {each.checked} documents looked "
            f"at, none stale or forbidden (seed {seed})"
        )


if __name__ == "__main__":
    main()
