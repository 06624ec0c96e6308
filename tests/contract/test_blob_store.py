"""What every BlobStore does."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.jobs.adapters.folder_blobs import FolderBlobStore
from services.jobs.extraction import ExtractedText, Page, Syntax
from services.jobs.ports_content import BlobStore
from services.mesh.errors import DocumentTooLarge, TenantDeleted, UploadNotFound
from tests.fake_content import MemoryBlobStore

TEXT = ExtractedText(
    "héllo 🙂\n",
    "application/pdf",
    Syntax.MARKDOWN,
    "Title",
    (Page(1, 0, 5), Page(2, 5, 8, "Sheet")),
    {"page_count": 2},
)


@pytest.fixture(params=["folder", "memory"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[BlobStore]:
    if request.param == "memory":
        yield MemoryBlobStore()
    else:
        async with FolderBlobStore.open_folder(tmp_path / "blobs") as folder:
            yield folder


async def pieces(*content: bytes) -> AsyncIterator[bytes]:
    for piece in content:
        yield piece


async def test_what_was_put_is_read_back_under_its_sha256(store: BlobStore) -> None:
    blob = await store.put("acme", pieces(b"one ", b"two"))
    assert (blob.content_hash, blob.size_bytes) == (hashlib.sha256(b"one two").hexdigest(), 7)
    assert await store.read("acme", blob.content_hash) == b"one two"
    assert await store.exists("acme", blob.content_hash)


async def test_an_empty_stream_is_content_too(store: BlobStore) -> None:
    blob = await store.put("acme", pieces())
    assert await store.read("acme", blob.content_hash) == b""


async def test_large_content_comes_back_in_bounded_pieces(store: BlobStore) -> None:
    content = bytes(range(256)) * 12_000
    blob = await store.put("acme", pieces(*(content[at : at + 70_001] for at in range(0, len(content), 70_001))))
    got = [piece async for piece in store.open("acme", blob.content_hash)]
    assert b"".join(got) == content
    assert max(map(len, got)) <= 1 << 20


async def test_a_part_of_the_content_is_read_alone(store: BlobStore) -> None:
    blob = await store.put("acme", pieces(b"0123456789"))
    parts = [await store.part("acme", blob.content_hash, start, 4) for start in (0, 5, 8, 10, 99)]
    assert parts == [b"0123", b"5678", b"89", b"", b""]
    with pytest.raises(UploadNotFound):
        await store.part("beta", blob.content_hash, 0, 4)


async def test_putting_the_same_content_again_changes_nothing(store: BlobStore) -> None:
    first = await store.put("acme", pieces(b"same"))
    assert await store.put("acme", pieces(b"sa", b"me")) == first
    assert await store.read("acme", first.content_hash) == b"same"


async def test_the_same_content_put_at_once_by_many_is_stored_whole(store: BlobStore) -> None:
    blobs = await asyncio.gather(*(store.put("acme", pieces(b"x" * 500_000, b"y")) for _ in range(8)))
    assert len({blob.content_hash for blob in blobs}) == 1
    assert len(await store.read("acme", blobs[0].content_hash)) == 500_001


async def test_content_over_the_limit_is_refused_and_not_kept(store: BlobStore) -> None:
    with pytest.raises(DocumentTooLarge, match="limit of 5 bytes"):
        await store.put("acme", pieces(b"123", b"456"), max_bytes=5)
    assert not await store.exists("acme", hashlib.sha256(b"123456").hexdigest())
    assert (await store.put("acme", pieces(b"12345"), max_bytes=5)).size_bytes == 5


@pytest.mark.parametrize("other", ["beta", "Acme", "acme/..", "..", "", "a" * 300, "ünï/cödé"])
async def test_a_tenant_never_sees_the_content_of_another(store: BlobStore, other: str) -> None:
    blob = await store.put("acme", pieces(b"secret"))
    assert not await store.exists(other, blob.content_hash)
    with pytest.raises(UploadNotFound):
        await store.read(other, blob.content_hash)
    await store.delete(other, blob.content_hash)
    assert await store.exists("acme", blob.content_hash)
    assert (await store.put(other, pieces(b"secret"))).content_hash == blob.content_hash
    assert await store.read(other, blob.content_hash) == b"secret"


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "A" * 64, "0" * 63, "0" * 64])
async def test_content_that_is_not_there_is_not_found(store: BlobStore, name: str) -> None:
    assert not await store.exists("acme", name)
    with pytest.raises(UploadNotFound):
        await store.read("acme", name)
    with pytest.raises(UploadNotFound):
        _ = [piece async for piece in store.open("acme", name)]
    await store.delete("acme", name)


async def test_deleting_forgets_content_and_texts(store: BlobStore) -> None:
    blob = await store.put("acme", pieces(b"gone"))
    await store.put_text("acme", blob.content_hash, "v1", TEXT)
    await store.delete("acme", blob.content_hash)
    assert not await store.exists("acme", blob.content_hash)
    assert await store.get_text("acme", blob.content_hash, "v1") is None


async def test_extracted_text_is_kept_by_content_and_version(store: BlobStore) -> None:
    blob = await store.put("acme", pieces(b"original"))
    await store.put_text("acme", blob.content_hash, "xberg-1.3.9-1", TEXT)
    assert await store.get_text("acme", blob.content_hash, "xberg-1.3.9-1") == TEXT
    assert await store.get_text("acme", blob.content_hash, "xberg-2") is None
    assert await store.get_text("beta", blob.content_hash, "xberg-1.3.9-1") is None
    assert await store.read("acme", blob.content_hash) == b"original"


async def test_an_erased_tenant_has_nothing_left_and_nobody_else_misses_anything(store: BlobStore) -> None:
    ours = [await store.put("acme", pieces(b"%d" % number)) for number in range(5)]
    await store.put_text("acme", ours[0].content_hash, "v1", TEXT)
    theirs = await store.put("globex", pieces(b"0"))
    assert await store.erase("acme", 4) == (4, False)
    assert await store.erase("acme", 4) == (2, True)
    assert await store.erase("acme", 4) == (0, True)
    for blob in ours:
        assert not await store.exists("acme", blob.content_hash)
        with pytest.raises(UploadNotFound):
            await store.read("acme", blob.content_hash)
    assert await store.get_text("acme", ours[0].content_hash, "v1") is None
    assert await store.read("globex", theirs.content_hash) == b"0"


async def test_whoever_is_late_writes_nothing_for_an_erased_tenant_until_it_is_admitted(store: BlobStore) -> None:
    blob = await store.put("acme", pieces(b"before"))
    erased = asyncio.Event()

    async def late() -> AsyncIterator[bytes]:
        yield b"x" * (1 << 21)
        await erased.wait()
        yield b"y"

    writing = asyncio.create_task(store.put("acme", late()))
    await asyncio.sleep(0)
    await store.erase("acme", 10)
    erased.set()
    for attempt in (writing, store.put("acme", pieces(b"after")), store.put_text("acme", blob.content_hash, "v", TEXT)):
        with pytest.raises(TenantDeleted):
            await attempt
    await store.erase("acme", 10)
    assert await store.erase("acme", 10) == (0, True)
    await store.admit("acme")
    await store.admit("nobody")
    assert await store.exists("acme", (await store.put("acme", pieces(b"anew"))).content_hash)


async def test_nothing_of_an_erased_tenant_is_in_the_folder_and_no_crash_brings_it_back(tmp_path: Path) -> None:
    folder = tmp_path / "blobs"
    async with FolderBlobStore.open_folder(folder) as store:
        await store.put("acme", pieces(b"canary"))
        (folder / ".incoming" / "acme.half").write_bytes(b"canary of a writer that was killed")
        (folder / ".incoming" / "acme2.half").write_bytes(b"another's")
        assert await store.erase("acme", 1) == (1, False)
    async with FolderBlobStore.open_folder(folder) as store:
        while not (await store.erase("acme", 1))[1]:
            pass
        with pytest.raises(TenantDeleted):
            await store.put("acme", pieces(b"canary"))
    left = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.name: path.read_bytes() for path in left} == {"acme": b"", "acme2.half": b"another's"}
