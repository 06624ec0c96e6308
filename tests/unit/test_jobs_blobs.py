"""The folder of blobs: what lies on the disk."""

import hashlib
import os
import re
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from services.jobs.adapters.folder_blobs import FolderBlobStore
from services.jobs.extraction import ExtractedText
from services.mesh.errors import DocumentTooLarge, UploadNotFound
from tests.hostile_paths import CANARY, laid


async def pieces(*content: bytes) -> AsyncIterator[bytes]:
    for piece in content:
        yield piece


def files(folder: Path) -> list[Path]:
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


async def test_blobs_fan_out_over_two_levels(tmp_path: Path) -> None:
    async with FolderBlobStore.open_folder(tmp_path) as store:
        blob = await store.put("acme", pieces(b"x"))
    name = blob.content_hash
    assert files(tmp_path) == [Path("acme", name[:2], name[2:4], name)]


async def test_no_tenant_name_leads_out_of_the_folder(tmp_path: Path) -> None:
    async with FolderBlobStore.open_folder(tmp_path / "blobs") as store:
        for tenant in ("../up", "/abs", "..", ".incoming", "", "a\0b"):
            await store.put(tenant, pieces(b"x"))
    assert [path.name for path in tmp_path.iterdir()] == ["blobs"]
    found = files(tmp_path)
    assert len([path for path in found if len(path.name) == 64]) == 6
    assert len([path for path in found if path.name == "tenant"]) == 6, "how each is named, since no folder can be"
    assert not list((tmp_path / "blobs" / ".incoming").iterdir())


async def test_what_was_made_to_lead_out_is_a_name_among_others_or_no_content_at_all(tmp_path: Path) -> None:
    """As a tenant or a version it becomes a digest; as a content hash it names nothing, whatever lies there."""
    trap = laid(tmp_path / "trap")
    async with FolderBlobStore.open_folder(tmp_path / "blobs") as store:
        blob = await store.put("acme", pieces(b"x"))
        for path in trap.hostile(seed=31, count=200):
            await store.put(path, pieces(b"x"))
            await store.put_text("acme", blob.content_hash, path, ExtractedText("text", "text/plain"))
            assert not await store.keep("acme", path)
            with pytest.raises(UploadNotFound):
                await store.forget("acme", [path], datetime.max.replace(tzinfo=UTC))
            with pytest.raises(UploadNotFound):
                await store.read("acme", path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["blobs", "trap"]
    kept = re.compile(
        r"(acme|~[0-9a-f]{32}|[\w-]{1,64})/([0-9a-f]{2}/[0-9a-f]{2}/[0-9a-f]{64}(\.~?[\w-]{1,64})?|tenant)", re.ASCII
    )
    assert len(files(tmp_path / "blobs")) > 300
    for path in files(tmp_path / "blobs"):
        assert kept.fullmatch(str(path)), path
    assert (trap.outside / f"{CANARY}.txt").read_text() == CANARY


async def test_a_failed_put_leaves_nothing_behind(tmp_path: Path) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"x" * (2 << 20)
        raise ConnectionResetError

    async with FolderBlobStore.open_folder(tmp_path) as store:
        with pytest.raises(ConnectionResetError):
            await store.put("acme", broken())
        with pytest.raises(DocumentTooLarge):
            await store.put("acme", pieces(b"x" * (2 << 20), b"x"), max_bytes=2 << 20)
    assert files(tmp_path) == []


async def test_what_crashed_writers_left_is_swept_after_a_day(tmp_path: Path) -> None:
    incoming = tmp_path / ".incoming"
    incoming.mkdir()
    for name, age_s in (("old", 25 * 3600), ("young", 60)):
        (incoming / name).write_bytes(b"partial")
        os.utime(incoming / name, (time.time() - age_s,) * 2)
    async with FolderBlobStore.open_folder(tmp_path):
        assert [path.name for path in incoming.iterdir()] == ["young"]


async def test_a_torn_text_counts_as_none(tmp_path: Path) -> None:
    async with FolderBlobStore.open_folder(tmp_path) as store:
        blob = await store.put("acme", pieces(b"x"))
        await store.put_text("acme", blob.content_hash, "v1", ExtractedText("x", "text/plain"))
        [text] = tmp_path.rglob("*.v1")
        text.write_bytes(b'{"text": "x')
        assert await store.get_text("acme", blob.content_hash, "v1") is None


async def test_files_are_for_the_owner_alone(tmp_path: Path) -> None:
    async with FolderBlobStore.open_folder(tmp_path) as store:
        await store.put("acme", pieces(b"x"))
    [path] = files(tmp_path)
    assert (tmp_path / path).stat().st_mode & 0o077 == 0
    assert path.name == hashlib.sha256(b"x").hexdigest()
