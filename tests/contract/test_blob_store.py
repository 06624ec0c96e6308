"""What every BlobStore does."""

import asyncio
import hashlib
import os
import random
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from services.jobs.adapters.folder_blobs import FolderBlobStore
from services.jobs.blobs import PARTS
from services.jobs.extraction import ExtractedText, Page, Syntax
from services.jobs.ports_content import BlobStore
from services.mesh.errors import DocumentTooLarge, InvalidArgument, TenantDeleted, UploadNotFound, UploadOffsetInvalid
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
    assert await store.keep("acme", blob.content_hash)


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
    assert not await store.keep("acme", hashlib.sha256(b"123456").hexdigest())
    assert (await store.put("acme", pieces(b"12345"), max_bytes=5)).size_bytes == 5


@pytest.mark.parametrize("other", ["beta", "Acme", "acme/..", "..", "", "a" * 300, "ünï/cödé"])
async def test_a_tenant_never_sees_the_content_of_another(store: BlobStore, other: str) -> None:
    blob = await store.put("acme", pieces(b"secret"))
    assert not await store.keep(other, blob.content_hash)
    with pytest.raises(UploadNotFound):
        await store.read(other, blob.content_hash)
    assert await store.forget(other, [blob.content_hash], tick()) == 0
    assert await store.keep("acme", blob.content_hash)
    assert (await store.put(other, pieces(b"secret"))).content_hash == blob.content_hash
    assert await store.read(other, blob.content_hash) == b"secret"


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "A" * 64, "0" * 63, "0" * 64])
async def test_content_that_is_not_there_is_not_found(store: BlobStore, name: str) -> None:
    assert not await store.keep("acme", name)
    with pytest.raises(UploadNotFound):
        await store.read("acme", name)
    with pytest.raises(UploadNotFound):
        _ = [piece async for piece in store.open("acme", name)]


async def test_content_that_has_rested_is_told_and_forgotten_with_its_texts(store: BlobStore) -> None:
    gone, kept, again = [await store.put("acme", pieces(b"%d" % number)) for number in range(3)]
    theirs = await store.put("ünï/cödé", pieces(b"1"))
    await store.put_text("acme", gone.content_hash, "v1", TEXT)
    await store.put_text("acme", kept.content_hash, "v1", TEXT)
    before = tick()
    assert await store.keep("acme", kept.content_hash)
    await store.put("acme", pieces(b"2"))

    assert await resting(store, before) == {"acme": {gone.content_hash}, "ünï/cödé": {theirs.content_hash}}
    assert await resting(store, datetime(2000, 1, 1, tzinfo=UTC)) == {}

    hashes = [blob.content_hash for blob in (gone, kept, again)]
    assert await store.forget("acme", hashes, before) == 1
    assert await store.forget("acme", hashes, before) == 0
    assert [await store.keep("acme", each) for each in hashes] == [False, True, True]
    assert await store.get_text("acme", gone.content_hash, "v1") is None
    assert await store.get_text("acme", kept.content_hash, "v1") == TEXT
    assert await store.read("ünï/cödé", theirs.content_hash) == b"1"


async def test_what_is_kept_while_it_is_forgotten_is_there_or_told_to_be_gone(store: BlobStore) -> None:
    for number in range(50):
        blob = await store.put("acme", pieces(b"%d" % number))
        before = tick()
        kept, forgotten = await asyncio.gather(
            store.keep("acme", blob.content_hash), store.forget("acme", [blob.content_hash], before)
        )
        assert (kept, forgotten) in ((True, 0), (False, 1))
        assert await store.keep("acme", blob.content_hash) is kept


def tick() -> datetime:
    """A moment later than what was, and earlier than what comes."""
    began = time.monotonic_ns()
    while time.monotonic_ns() < began + 10_000:
        pass
    moment = datetime.now(UTC)
    while datetime.now(UTC) < moment + timedelta(microseconds=10):
        pass
    return moment


async def resting(store: BlobStore, before: datetime) -> dict[str, set[str]]:
    """Hashes of all that has rested since then, by tenant."""
    found: dict[str, set[str]] = {}
    for part in range(PARTS):
        async for tenant, hashes in store.resting(part, before):
            assert {int(each[:2], 16) for each in hashes} == {part}
            found.setdefault(tenant, set()).update(hashes)
    return found


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
        assert not await store.keep("acme", blob.content_hash)
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
    assert await store.keep("acme", (await store.put("acme", pieces(b"anew"))).content_hash)


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


class Cut(Exception):
    """The connection broke."""


async def cut_after(*content: bytes) -> AsyncIterator[bytes]:
    for piece in content:
        yield piece
    raise Cut


async def test_an_upload_that_breaks_off_anywhere_goes_on_where_it_was(store: BlobStore) -> None:
    content = random.Random(4).randbytes(3 << 20)
    whole, offset, calls = hashlib.sha256(content).hexdigest(), 0, 0
    lengths = random.Random(5)
    while offset + (length := lengths.randrange(1, 400_000)) < len(content):
        with pytest.raises(Cut):
            await store.put_upload("acme", "u", offset, cut_after(content[offset : offset + length]), sha256=whole)
        assert await store.received("acme", "u") == offset + length
        offset, calls = offset + length, calls + 1
    blob = await store.put_upload("acme", "u", offset, pieces(content[offset:]), sha256=whole)
    assert calls > 5
    assert (blob.content_hash, blob.size_bytes) == (whole, len(content))
    assert await store.read("acme", whole) == content
    with pytest.raises(UploadNotFound):
        await store.received("acme", "u")


async def test_an_upload_may_go_on_from_before_where_it_was_and_not_from_beyond(store: BlobStore) -> None:
    for offset, piece in ((0, b"0123"), (2, b"2345"), (1, b"12")):
        with pytest.raises(Cut):
            await store.put_upload("acme", "u", offset, cut_after(piece))
    assert await store.received("acme", "u") == 6
    with pytest.raises(UploadOffsetInvalid) as caught:
        await store.put_upload("acme", "u", 7, pieces(b"789"))
    assert caught.value.metadata == {"received_bytes": "6"}
    blob = await store.put_upload("acme", "u", 5, pieces(b"56789"))
    assert await store.read("acme", blob.content_hash) == b"0123456789"


async def test_an_upload_that_is_not_what_was_announced_leaves_nothing(store: BlobStore) -> None:
    announced = hashlib.sha256(b"one two").hexdigest()
    with pytest.raises(Cut):
        await store.put_upload("acme", "u", 0, cut_after(b"one "), sha256=announced)
    with pytest.raises(InvalidArgument, match="sha256"):
        await store.put_upload("acme", "u", 4, pieces(b"six"), sha256=announced)
    assert not await store.keep("acme", hashlib.sha256(b"one six").hexdigest())
    with pytest.raises(UploadNotFound):
        await store.received("acme", "u")
    with pytest.raises(InvalidArgument, match="sha256"):
        await store.put("acme", pieces(b"one six"), sha256=announced)
    assert not await store.keep("acme", hashlib.sha256(b"one six").hexdigest())


async def test_an_upload_is_held_to_the_limit_as_a_whole(store: BlobStore) -> None:
    with pytest.raises(Cut):
        await store.put_upload("acme", "u", 0, cut_after(b"123456"), max_bytes=10)
    with pytest.raises(DocumentTooLarge):
        await store.put_upload("acme", "u", 6, pieces(b"78901"), max_bytes=10)


async def test_another_tenants_upload_of_the_same_name_is_another(store: BlobStore) -> None:
    with pytest.raises(Cut):
        await store.put_upload("acme", "u", 0, cut_after(b"secret"))
    with pytest.raises(UploadNotFound):
        await store.received("beta", "u")
    with pytest.raises(UploadOffsetInvalid):
        await store.put_upload("beta", "u", 6, pieces(b"x"))
    await store.erase("beta", 100)
    assert await store.received("acme", "u") == 6
    while not (await store.erase("acme", 100))[1]:
        pass
    with pytest.raises(UploadNotFound):
        await store.received("acme", "u")
    with pytest.raises(TenantDeleted):
        await store.put_upload("acme", "u", 0, pieces(b"x"))


async def test_what_nobody_goes_on_with_is_forgotten(store: BlobStore) -> None:
    with pytest.raises(Cut):
        await store.put_upload("acme", "u", 0, cut_after(b"one"))
    assert await store.forget_uploads(3600) == 0
    assert await store.forget_uploads(-1) == 1
    with pytest.raises(UploadNotFound):
        await store.received("acme", "u")


async def test_a_cancelled_upload_keeps_what_has_come(store: BlobStore) -> None:
    waiting = asyncio.Event()

    async def hanging() -> AsyncIterator[bytes]:
        yield b"x" * (3 << 20)
        waiting.set()
        await asyncio.Event().wait()

    sending = asyncio.create_task(store.put_upload("acme", "u", 0, hanging()))
    await waiting.wait()
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    assert await store.received("acme", "u") == 3 << 20


async def test_a_call_that_is_late_disturbs_no_newer_one(tmp_path: Path) -> None:
    """Its client has gone on with another, as they do when a connection hangs; then it hears of the end after all."""
    cut, waiting = asyncio.Event(), asyncio.Event()

    async def late() -> AsyncIterator[bytes]:
        yield b"01234"
        waiting.set()
        await cut.wait()
        yield b"late bytes, and others"
        raise Cut

    async with FolderBlobStore.open_folder(tmp_path) as store:
        old = asyncio.create_task(store.put_upload("acme", "u", 0, late()))
        await waiting.wait()
        blob = await store.put_upload("acme", "u", 0, pieces(b"0123456789"))
        cut.set()
        with pytest.raises(Cut):
            await old
        assert await store.read("acme", blob.content_hash) == b"0123456789"


async def test_a_tenant_keeps_so_many_unfinished_uploads_the_newest(tmp_path: Path) -> None:
    async with FolderBlobStore.open_folder(tmp_path) as store:
        for number in range(20):
            with pytest.raises(Cut):
                await store.put_upload("acme", f"u{number}", 0, cut_after(b"x"))
            for file in (tmp_path / ".uploads").iterdir():  # as if a minute had gone by
                os.utime(file, (file.stat().st_mtime - 60,) * 2)
        kept = {file.name.split(".")[1] for file in (tmp_path / ".uploads").iterdir()}
        assert kept == {f"u{number}" for number in range(4, 20)}


async def test_an_upload_cut_off_hundreds_of_times_takes_few_files(tmp_path: Path) -> None:
    def files() -> int:
        return len(list((tmp_path / ".uploads").iterdir()))

    async with FolderBlobStore.open_folder(tmp_path) as store:
        for size in range(1, 30):  # each holds those before
            with pytest.raises(Cut):
                await store.put_upload("acme", "u", 0, cut_after(b"x" * size))
        assert files() == 1
        for offset in range(29, 200):
            with pytest.raises(Cut):
                await store.put_upload("acme", "u", offset, cut_after(b"x"))
        assert (await store.received("acme", "u"), files() < 66) == (200, True)
        blob = await store.put_upload("acme", "u", 200, pieces(b"y"))
        assert await store.read("acme", blob.content_hash) == b"x" * 200 + b"y"
        assert files() == 0
