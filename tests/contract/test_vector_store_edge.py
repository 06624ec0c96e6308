"""What the embedded store promises besides the port: it survives kills, has one opener, and builds beside queries."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import qdrant_edge

from ragweave.copying import copy_tree
from services.mesh.errors import DependencyUnavailable, IndexLocked
from services.mesh.filters import parse
from services.mesh.schemas import UnknownSchema
from services.retrieval.adapters import edge as edge_module
from services.retrieval.adapters.edge import EdgeVectorStore
from services.retrieval.adapters.edge_builder import Builder
from services.retrieval.adapters.edge_folder import IndexFolder, Manifest
from services.retrieval.adapters.qdrant_keys import INTEGERS, KEYWORDS, SCHEMA, STEPS, Step
from services.retrieval.chunks import EncodedChunk, IndexId, VectorQuery
from services.retrieval.filterable import SCHEMA as FIELDS
from tests.retrieval_fakes import chunk, direction, encoded, vector

INDEX = IndexId("uid-1")
QUERY = VectorQuery(vector(direction("question", 8)), None, limit=5)


def some(count: int, first: int = 0) -> list[EncodedChunk]:
    return [
        encoded(chunk(f"text {n}", document=f"d{n % 50}", ordinal=n), direction(n, 8), scale=5)
        for n in range(first, first + count)
    ]


@asynccontextmanager
async def store_of(
    folder: Path, *, build_threshold: int = 10_000, idle_s: float = 600
) -> AsyncIterator[EdgeVectorStore]:
    async with EdgeVectorStore.open(folder, build_threshold=build_threshold, idle_s=idle_s) as store:
        yield store


def kill(store: EdgeVectorStore) -> None:
    for pid in store.pids():
        os.kill(pid, signal.SIGKILL)


async def gone(pid: int) -> None:
    """Returns when the process has ended; a zombie has."""
    while True:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return
        if state in "ZX":
            return
        await asyncio.sleep(0.01)


async def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    async with store_of(tmp_path) as store:
        await store.ensure_index(INDEX, 8)
        for first in range(0, 500, 100):
            await store.upsert(INDEX, some(100, first))
        await store.delete_documents(INDEX, ["d7"])
        await store.set_fields(INDEX, ["d8"], {"title": "T"})
        kill(store)
        assert await store.count(INDEX) == 490
        assert {each.document.title for each in await store.list_chunks(INDEX, "d8", 0, 1000)} == {"T"}
        assert len((await store.search(INDEX, QUERY)).hits) == 5


async def test_reads_under_way_are_repeated_when_the_engine_dies(tmp_path: Path) -> None:
    async with store_of(tmp_path) as store:
        await store.ensure_index(INDEX, 8)
        await store.upsert(INDEX, some(300))
        searches = [asyncio.create_task(store.search(INDEX, QUERY)) for _ in range(200)]
        await searches[0]
        kill(store)
        assert {len(found.hits) for found in await asyncio.gather(*searches)} == {5}


async def test_writes_under_way_fail_clearly_and_may_be_repeated(tmp_path: Path) -> None:
    async with store_of(tmp_path) as store:
        await store.ensure_index(INDEX, 8)
        (pid,) = store.pids()
        os.kill(pid, signal.SIGSTOP)
        writing = asyncio.create_task(store.upsert(INDEX, some(64)))
        await asyncio.sleep(0)  # the request is on its way
        await asyncio.sleep(0)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(DependencyUnavailable, match="try again"):
            await writing
        await store.upsert(INDEX, some(64))
        assert await store.count(INDEX) == 64


async def test_a_second_opener_is_told_who_has_the_folder(tmp_path: Path) -> None:
    async with store_of(tmp_path):
        with pytest.raises(IndexLocked, match=rf"{tmp_path} is open in another process \(pid {os.getpid()}\)"):
            async with store_of(tmp_path):
                pass
    async with store_of(tmp_path) as store:
        await store.check()


async def test_a_folder_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    async with store_of(tmp_path) as store:
        await store.ensure_index(INDEX, 8)
    manifest = tmp_path / INDEX / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "schema": SCHEMA + 1}))
    with pytest.raises(UnknownSchema, match=rf"{tmp_path / INDEX} is at schema {SCHEMA + 1}.* up to {SCHEMA}: start "):
        async with store_of(tmp_path):
            pass


NEXT = {**STEPS, SCHEMA + 1: Step(keywords=("mime_type",), defaults={"colour": "grey"})}


async def test_an_older_index_is_brought_forward_with_its_chunks(tmp_path: Path) -> None:
    async with store_of(tmp_path) as store:
        await store.ensure_index(INDEX, 8)
        await store.upsert(INDEX, some(300))
        await store.build(INDEX)
        before = await store.search(INDEX, QUERY)
    manifest = tmp_path / INDEX / "manifest.json"
    for _ in range(2):  # a crash before the version is written down repeats the step
        async with EdgeVectorStore.open(tmp_path, steps=NEXT) as store:
            assert json.loads(manifest.read_text())["schema"] == SCHEMA + 1
            assert await store.search(INDEX, QUERY) == before
            records = await store._read(INDEX, "scroll", None, 1000, ["colour"])
            assert [payload for _, payload in records] == [{"colour": "grey"}] * 300
            # A new index has it all from the start.
            await store.ensure_index(IndexId("uid-2"), 8)
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "schema": SCHEMA}))
    assert json.loads((tmp_path / "uid-2" / "manifest.json").read_text())["schema"] == SCHEMA + 1


async def test_of_two_that_start_at_once_on_an_older_index_one_upgrades_it(tmp_path: Path) -> None:
    async with store_of(tmp_path) as store:
        await store.ensure_index(INDEX, 8)
        await store.upsert(INDEX, some(50))
    held = asyncio.Event()

    async def start() -> str:
        try:
            async with EdgeVectorStore.open(tmp_path, steps=NEXT) as store:
                await held.wait()
                return str(await store.count(INDEX))
        except IndexLocked:
            held.set()
            return "refused"

    assert sorted(await asyncio.gather(start(), start())) == ["50", "refused"]


async def test_engines_end_with_the_service_however_it_ends(tmp_path: Path) -> None:
    service = (
        "import asyncio, sys; from pathlib import Path\n"
        "from services.retrieval.adapters.edge import EdgeVectorStore\n"
        "async def main():\n"
        "    async with EdgeVectorStore.open(Path(sys.argv[1])) as store:\n"
        "        print(*store.pids(), flush=True)\n"
        "        await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", service, str(tmp_path), stdout=subprocess.PIPE)
    assert process.stdout is not None
    engine = int(await process.stdout.readline())
    process.kill()
    await process.wait()
    await asyncio.wait_for(gone(engine), 10)
    async with store_of(tmp_path) as store:
        await store.check()


async def test_an_index_that_grows_gets_a_graph_and_may_be_closed_at_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async with store_of(tmp_path, build_threshold=1000) as store:
        await store.ensure_index(INDEX, 8)
        await store.upsert(INDEX, some(999))
        assert (await store.stats(INDEX)).indexed_chunks == 0
        await store.upsert(INDEX, some(1, 999))
        while (await store.stats(INDEX)).indexed_chunks < 1000:
            pass
    assert "Traceback" not in capfd.readouterr().err  # of an engine whose shard was deleted before it had closed it


async def test_queries_and_writes_go_on_while_a_graph_is_built(tmp_path: Path) -> None:
    answered = 0
    async with store_of(tmp_path, build_threshold=10**6) as store:
        await store.ensure_index(INDEX, 8)
        await store.upsert(INDEX, some(3000))

        async def searching() -> None:
            nonlocal answered
            while True:
                assert len((await store.search(INDEX, QUERY)).hits) == 5
                answered += 1

        searches = asyncio.create_task(searching())
        building = asyncio.create_task(store.build(INDEX))
        written = 3000
        while not building.done():
            await store.upsert(INDEX, some(10, written))
            await store.delete_documents(INDEX, [f"d{written % 5}"])
            written += 10
        searches.cancel()
        await building
        assert answered > 20
        stats = await store.stats(INDEX)
        assert stats.indexed_chunks > 0
        expected = {(f"d{n % 50}", n) for n in range(written)}
        for first in range(3000, written, 10):
            expected = {(d, n) for d, n in expected if d != f"d{first % 5}" or n >= first + 10}
        found = set()
        for document in range(50):
            found |= {
                (f"d{document}", each.ordinal) for each in await store.list_chunks(INDEX, f"d{document}", 0, 10**6)
            }
        assert found == expected
        assert sorted(entry.name for entry in (tmp_path / INDEX).iterdir()) == ["g1", "manifest.json"]
        kill(store)
        assert await store.count(INDEX) == len(expected)
    async with store_of(tmp_path) as store:
        assert await store.count(INDEX) == len(expected)
        assert (await store.stats(INDEX)).indexed_chunks > 0


async def test_a_large_graph_is_built_again_once_a_twentieth_is_missing(tmp_path: Path) -> None:
    async with store_of(tmp_path) as store:
        await store.ensure_index(INDEX, 8)
        await store.upsert(INDEX, some(600))
        await store.build(INDEX)
    async with store_of(tmp_path, build_threshold=20) as store:
        await store.upsert(INDEX, some(29, 600))
        assert store._indexes[INDEX].build is None
        await store.upsert(INDEX, some(1, 629))
        building = store._indexes[INDEX].build
        assert building is not None
        await building
        assert (await store.stats(INDEX)).indexed_chunks == 630


async def test_what_was_written_during_a_build_gets_its_graph_without_another_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied, written, built = asyncio.Event(), asyncio.Event(), Builder.built

    async def held(builder: Builder) -> None:
        copied.set()
        await written.wait()
        await built(builder)

    monkeypatch.setattr(Builder, "built", held)
    async with store_of(tmp_path, build_threshold=20) as store:
        await store.ensure_index(INDEX, 8)
        await store.upsert(INDEX, some(20))
        await copied.wait()
        await store.upsert(INDEX, some(20, 20))
        for indexed in (20, 40):
            building = store._indexes[INDEX].build
            assert building is not None
            written.set()
            await building
            assert (await store.stats(INDEX)).indexed_chunks == indexed


def of_kinds(count: int) -> list[EncodedChunk]:
    fields = [{"title": f"t{n % 3}", "metadata": {"kind": f"k{n % 7}", "n": n, "a b": "c"}} for n in range(count)]
    return [
        encoded(chunk(f"text {n}", document=f"d{n}", document_fields=each), direction(n, 8))
        for n, each in enumerate(fields)
    ]


def indexed_keys(shard: Path) -> set[str]:
    """Of a shard that nobody has open."""
    opened = qdrant_edge.EdgeShard.load(str(shard))
    try:
        return set(opened.info().payload_schema)
    finally:
        opened.close()


KEYS = {*KEYWORDS, *INTEGERS}
FILTERED = [
    'metadata.kind = "k3"',
    'metadata.kind = "k3" OR NOT title = "t1"',
    'metadata.n > 5 AND metadata.kind != "k2"',
    'metadata."a b" = "c" AND metadata.kind = "k1"',
]


async def test_texts_that_a_large_index_is_filtered_by_get_an_index_and_the_same_is_found(tmp_path: Path) -> None:
    queries = [replace(QUERY, filter=parse(each, FIELDS)) for each in FILTERED]
    async with store_of(tmp_path) as store:
        await store.ensure_index(INDEX, 8)
        await store.upsert(INDEX, of_kinds(210))
        before = [await store.search(INDEX, each) for each in queries]
        assert not store._indexing
        await store.build(INDEX)
        for _ in range(2):
            assert [await store.search(INDEX, each) for each in queries] == before
            await asyncio.gather(*store._indexing)
        kill(store)
        assert [await store.search(INDEX, each) for each in queries] == before
        await store.build(INDEX)
        assert [await store.search(INDEX, each) for each in queries] == before
    assert indexed_keys(tmp_path / INDEX / "g2") == {*KEYS, "metadata.kind", "title"}


async def test_no_more_keys_than_may_get_an_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge_module, "_MOST_INDEXED", len(KEYS) + 1)
    async with store_of(tmp_path) as store:
        await store.ensure_index(INDEX, 8)
        await store.upsert(INDEX, of_kinds(30))
        await store.build(INDEX)
        for text in ('metadata.kind = "k3"', 'title = "t1"', 'section = "s"'):
            assert (await store.search(INDEX, replace(QUERY, filter=parse(text, FIELDS)))).hits is not None
            await asyncio.gather(*store._indexing)
    assert indexed_keys(tmp_path / INDEX / "g1") == {*KEYS, "metadata.kind"}


async def test_an_index_is_built_again_after_growing_and_after_many_deletes(tmp_path: Path) -> None:
    async with store_of(tmp_path, build_threshold=1000) as store:
        await store.ensure_index(INDEX, 8)
        await store.upsert(INDEX, some(1000))
        await store.build(INDEX)
        await store.upsert(INDEX, some(1000, 1000))
        await store.build(INDEX)
        assert (await store.stats(INDEX)).indexed_chunks == 2000
        await store.delete_documents(INDEX, [f"d{n}" for n in range(30)])
        await store.build(INDEX)
        assert await store.count(INDEX) == 800
        assert (tmp_path / INDEX / "g3").is_dir()


@pytest.mark.parametrize("victim", ["engine", "builder"])
async def test_a_kill_in_the_middle_of_a_build_loses_nothing(tmp_path: Path, victim: str) -> None:
    async with store_of(tmp_path) as store:
        await store.ensure_index(INDEX, 8)
        await store.upsert(INDEX, some(3000))
        building = asyncio.create_task(store.build(INDEX))
        journal = tmp_path / INDEX / "g1"
        while not journal.exists():
            await asyncio.sleep(0.001)
        await store.upsert(INDEX, some(100, 3000))
        if victim == "engine":
            kill(store)
        else:
            for pid in children():
                if "edge_build" in Path(f"/proc/{pid}/cmdline").read_text():
                    os.kill(pid, signal.SIGKILL)
        await building
        assert await store.count(INDEX) == 3100
        assert len((await store.search(INDEX, QUERY)).hits) == 5
        assert sorted(entry.name for entry in (tmp_path / INDEX).iterdir()) == ["g0", "manifest.json"]
        await store.build(INDEX)
        assert await store.count(INDEX) == 3100
        assert (await store.stats(INDEX)).indexed_chunks == 3100


async def test_a_store_that_is_closed_while_a_build_takes_its_place_keeps_the_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, storing, stored, go_on = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event(), threading.Event()
    store_manifest = IndexFolder.store

    def held_up(folder: IndexFolder, manifest: Manifest) -> None:
        if manifest.generation:
            loop.call_soon_threadsafe(storing.set)
            go_on.wait()
        store_manifest(folder, manifest)
        loop.call_soon_threadsafe(stored.set)

    opened = store_of(tmp_path)
    store = await opened.__aenter__()
    await store.ensure_index(INDEX, 8)
    await store.upsert(INDEX, some(300))
    monkeypatch.setattr(IndexFolder, "store", held_up)
    asking = asyncio.create_task(store.build(INDEX))
    await storing.wait()
    build = store._indexes[INDEX].build
    assert build is not None
    closing = asyncio.create_task(opened.__aexit__(None, None, None))
    while not build.cancelling():
        await asyncio.sleep(0)
    go_on.set()
    await asyncio.gather(closing, stored.wait())
    await asyncio.wait({asking})
    async with store_of(tmp_path) as again:
        assert await again.count(INDEX) == 300
        assert len((await again.search(INDEX, QUERY)).hits) == 5


async def test_leftovers_of_a_build_and_of_a_creation_are_cleared_at_the_start(tmp_path: Path) -> None:
    async with store_of(tmp_path) as store:
        await store.ensure_index(INDEX, 8)
        await store.upsert(INDEX, some(10))
    copy_tree(tmp_path / INDEX / "g0", tmp_path / INDEX / "g1")
    (tmp_path / INDEX / "g1.journal").write_bytes(b"half a frame")
    (tmp_path / "uid-2" / "g0").mkdir(parents=True)
    async with store_of(tmp_path) as store:
        assert await store.count(INDEX) == 10
        assert sorted(entry.name for entry in (tmp_path / INDEX).iterdir()) == ["g0", "manifest.json"]
        assert not (tmp_path / "uid-2").exists()


async def test_dropping_an_index_ends_its_build_and_its_engine(tmp_path: Path) -> None:
    async with store_of(tmp_path) as store:
        await store.ensure_index(INDEX, 8)
        await store.upsert(INDEX, some(500))
        await store.build(INDEX)
        assert len(store.pids()) == 2
        building = asyncio.create_task(store.build(INDEX))
        await asyncio.sleep(0)
        await store.drop(INDEX)
        with pytest.raises(asyncio.CancelledError):
            await building
        assert len(store.pids()) == 1
        assert not (tmp_path / INDEX).exists()


async def test_an_engine_nobody_uses_ends_and_comes_back_on_use(tmp_path: Path) -> None:
    async with store_of(tmp_path, idle_s=0.2) as store:
        await store.ensure_index(INDEX, 8)
        await store.upsert(INDEX, some(100))
        await store.build(INDEX)
        while len(store.pids()) > 1:
            await asyncio.sleep(0.05)
        # An engine of its own answers, since nobody else has the shard; it may have been idle again by now.
        assert await store.count(INDEX) == 100


async def test_the_graph_finds_what_comparing_with_every_vector_finds(tmp_path: Path) -> None:
    async with store_of(tmp_path) as store:
        await store.ensure_index(INDEX, 8)
        await store.upsert(INDEX, some(3000))
        await store.build(INDEX)
        same = 0
        for n in range(50):
            asked = vector(direction(f"q{n}", 8))
            near = await store.search(INDEX, VectorQuery(asked, None))
            exact = await store.search(INDEX, VectorQuery(asked, None, exact=True))
            same += len({hit.chunk.chunk_id for hit in near.hits} & {hit.chunk.chunk_id for hit in exact.hits})
        assert same >= 495


def children() -> list[int]:
    listed = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [int(pid) for pid in listed]
