"""A document whose import nobody has queued does not wait for ever."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from google.rpc.status_pb2 import Status

from services.collections.document_changes import NewDocument, NewFile
from services.collections.records import now
from tests.jobs_fakes import Killed
from tests.unit.test_collections_deletions import ANN, World

A = "collections/docs/documents/a"
ELEVEN_MINUTES, A_DAY = timedelta(minutes=11), timedelta(hours=25)


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    made = World()
    await made.registry.create("docs", {}, ANN)
    yield made


async def parts() -> AsyncIterator[bytes]:
    yield b"bytes"


async def killed_before_the_queue(world: World, monkeypatch: pytest.MonkeyPatch, *, upload: bool) -> None:
    """A process records the document and dies: it does not even take the document back."""

    async def kill(*_: Any, **__: Any) -> Any:
        raise Killed("queue")

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(world.jobs, "import_document", kill)
        patched.setattr(world.documents, "_take_back", kill)
        if upload:
            await world.documents.upload(NewFile("docs", document_id="a"), parts(), ANN)
        else:
            await world.documents.create("docs", NewDocument("a"), "text", ANN)


async def grow(world: World, by: timedelta) -> None:
    for held in world.store._documents.values():
        for name, each in held.items():
            held[name] = replace(each, update_time=now() - by)


async def test_an_upload_is_imported_from_its_stored_bytes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await killed_before_the_queue(world, monkeypatch, upload=True)
    await world.sweep()
    assert not world.jobs.imports, "the call may still be at work"
    await grow(world, ELEVEN_MINUTES)
    await world.sweep()
    pending = await world.documents.get(A, ANN)
    assert pending.state == "PENDING"
    ((imported, content),) = world.jobs.imports.values()
    assert (imported.uid, getattr(content, "content_hash", "")) == (pending.uid, pending.content_hash)
    await world.sweep()
    assert len(world.jobs.imports) == 1


@pytest.mark.parametrize("lost", ["was never stored", "is gone", "may have been cancelled"])
async def test_what_cannot_be_imported_any_more_has_failed_and_says_why(
    world: World, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    await killed_before_the_queue(world, monkeypatch, upload=lost != "was never stored")
    world.jobs.lost = lost == "is gone"
    await grow(world, A_DAY if lost == "may have been cancelled" else ELEVEN_MINUTES)
    await world.sweep()
    failed = await world.documents.get(A, ANN)
    assert (failed.state, world.jobs.imports) == ("FAILED", {})
    said = "its bytes are gone" if lost == "is gone" else "was never queued, or was cancelled"
    assert said in Status.FromString(failed.error).message


async def test_a_document_whose_import_is_queued_waits_on(world: World) -> None:
    waiting, _ = await world.documents.create("docs", NewDocument("a"), "text", ANN)
    await grow(world, ELEVEN_MINUTES)
    await world.sweep()
    world.jobs.down = True
    world.jobs.imports.clear()
    await world.sweep()
    found = await world.documents.get(A, ANN)
    assert (found.uid, found.state) == (waiting.uid, "PENDING")
