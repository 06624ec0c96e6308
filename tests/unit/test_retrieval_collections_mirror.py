"""Collections as retrieval knows them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from services.mesh.errors import CollectionNotFound, DependencyUnavailable
from services.retrieval.chunks import IndexId
from services.retrieval.collections_mirror import CollectionsMirror
from tests.retrieval_fakes import FakeRegistry, view


@asynccontextmanager
async def following(registry: FakeRegistry) -> AsyncIterator[CollectionsMirror]:
    mirror = CollectionsMirror(registry)
    running = asyncio.create_task(mirror.run())
    await mirror.by_uid(IndexId("uid-docs"))
    yield mirror
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


async def until_applied(mirror: CollectionsMirror, collection_id: str, sequence: int) -> None:
    while (await mirror.find("acme", collection_id)).sequence < sequence:
        await asyncio.sleep(0)


async def test_what_the_stream_told_needs_no_call() -> None:
    registry = FakeRegistry(view())
    async with following(registry) as mirror:
        assert (await mirror.find("acme", "docs")).uid == "uid-docs"
        registry.put(view(disabled=True, sequence=2))
        await until_applied(mirror, "docs", 2)
        assert (await mirror.find("acme", "docs")).disabled
        assert registry.asked == []


async def test_a_broken_stream_goes_on_from_the_last_change() -> None:
    registry = FakeRegistry(view(sequence=7))
    async with following(registry) as mirror:
        registry.break_stream()
        registry.put(view(sequence=8))
        await until_applied(mirror, "docs", 8)
        assert registry.watched == [0, 7]


async def test_a_collection_not_told_of_is_asked_for() -> None:
    registry = FakeRegistry(view("new"))
    mirror = CollectionsMirror(registry)
    assert (await mirror.find("acme", "new")).uid == "uid-new"
    assert (await mirror.find("acme", "new")).uid == "uid-new"
    assert registry.asked == ["new"]


async def test_one_that_another_replica_recorded_is_found_by_uid_before_the_stream_tells() -> None:
    registry = FakeRegistry(view(sequence=7))
    async with following(registry) as mirror:
        registry.views["acme", "new"] = view("new", sequence=8)
        assert (await mirror.by_uid(IndexId("uid-new"))).sequence == 8
        assert registry.watched == [0, 7]
        with pytest.raises(CollectionNotFound):
            await mirror.by_uid(IndexId("uid-never-was"))


async def test_a_uid_the_registry_cannot_be_asked_about_is_not_called_gone() -> None:
    registry = FakeRegistry(view(sequence=7))
    async with following(registry) as mirror:
        registry.up = False
        with pytest.raises(DependencyUnavailable):
            await mirror.by_uid(IndexId("uid-new"))


async def test_another_tenants_collection_is_not_found() -> None:
    registry = FakeRegistry()
    mirror = CollectionsMirror(registry)
    mirror.apply(view(tenant="other"))
    with pytest.raises(CollectionNotFound, match="docs"):
        await mirror.find("acme", "docs")


async def test_an_older_state_does_not_replace_a_newer_one() -> None:
    mirror = CollectionsMirror(FakeRegistry())
    mirror.apply(view(sequence=5, disabled=True))
    mirror.apply(view(sequence=4))
    assert (await mirror.find("acme", "docs")).disabled


async def test_a_deleted_collection_is_gone_by_name_and_by_uid() -> None:
    async with following(FakeRegistry(view())) as mirror:  # whose answer is older than what was applied
        mirror.apply(view(sequence=2, deleted=True))
        with pytest.raises(CollectionNotFound):
            await mirror.find("acme", "docs")
        with pytest.raises(CollectionNotFound):
            await mirror.by_uid(IndexId("uid-docs"))


async def test_a_name_given_again_leads_to_the_new_collection() -> None:
    mirror = CollectionsMirror(FakeRegistry())
    mirror.apply(view(uid=IndexId("old"), sequence=1))
    mirror.apply(view(uid=IndexId("new"), sequence=3))
    mirror.apply(view(uid=IndexId("old"), sequence=2, deleted=True))
    assert (await mirror.find("acme", "docs")).uid == "new"
    assert (await mirror.by_uid(IndexId("new"))).uid == "new"


async def test_before_the_first_picture_is_complete_the_mirror_says_so() -> None:
    registry = FakeRegistry()
    registry.up = False
    mirror = CollectionsMirror(registry, patience_s=0)
    with pytest.raises(DependencyUnavailable, match="collections"):
        await mirror.check()
    with pytest.raises(DependencyUnavailable):
        await mirror.by_uid(IndexId("uid-docs"))


async def test_languages_are_told_by_uid() -> None:
    async with following(FakeRegistry(view(language="de"))) as mirror:
        assert await mirror.language_of(IndexId("uid-docs")) == "de"
