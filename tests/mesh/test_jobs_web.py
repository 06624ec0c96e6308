"""Imports of pages: the real store, pipeline and web client, against a server on this machine."""

import secrets
from collections.abc import AsyncIterator, Iterator

import pytest

from services.jobs.adapters.redis import Redis
from services.jobs.adapters.web import HttpWeb
from services.jobs.addresses import Reachable
from services.jobs.estimator import Estimator
from services.jobs.importer import Importer, ImportRequest, UrlSource
from services.jobs.job import Item, ItemState, Job, JobState
from services.jobs.reading import Reader
from services.mesh.errors import InvalidArgument
from services.mesh.identity import Caller
from tests.hostile_urls import hostile_urls
from tests.jobs_rig import Rig, prose
from tests.jobs_store import Store, store_in
from tests.web_site import LOCAL, Site, answer, site


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with store_in(tmp_path_factory.mktemp("store")) as store:
        yield store


@pytest.fixture
async def rig(server: Store) -> AsyncIterator[Rig]:
    async with Redis.open(server.url, f"{secrets.token_hex(4)}:") as redis:
        yield Rig(redis)


@pytest.fixture
async def there(rig: Rig) -> AsyncIterator[Site]:
    """A server that the rig's web may reach, and nothing else of this machine."""
    async with (
        site({}) as serving,
        HttpWeb(ports=[serving.port], allowed=Reachable([LOCAL]).allows, timeout_s=5) as web,
    ):
        rig.web = web
        yield serving


def importer_of(rig: Rig) -> Importer:
    reader = Reader(rig.blobs, rig.files, rig.web, max_bytes=10_000)
    estimator = Estimator(rig.registry, rig.models, rig.blobs, rig.extractor, reader)
    return Importer(rig.submissions, rig.registry, rig.blobs, rig.files, estimator)


async def submitted(rig: Rig, *urls: str, **fields: bool) -> Job:
    return await importer_of(rig).import_documents(
        ImportRequest("books", UrlSource(urls), **fields), Caller(tenant="acme", subject="ann")
    )


async def imported(rig: Rig, *urls: str, **fields: bool) -> Job:
    job = await submitted(rig, *urls, **fields)
    async with rig.working():
        return await rig.ended(job.id)


def url(there: Site, path: str) -> str:
    return f"http://{LOCAL}:{there.port}{path}"


def reason(item: Item) -> str:
    return item.error.reason if item.error else ""


async def test_a_page_becomes_a_document_of_its_url_and_of_the_type_its_server_tells(rig: Rig, there: Site) -> None:
    there.answers["/guide?v=2"] = answer(prose(40).encode(), content_type="text/markdown; charset=utf-8")
    job = await imported(rig, url(there, "/guide?v=2#top"))
    assert (job.state, job.progress.succeeded) == (JobState.SUCCEEDED, 1)
    (record,) = rig.registry.records
    assert record.fields.spec.source_uri == url(there, "/guide?v=2")
    assert (record.fields.mime_type, record.fields.title, record.source_key) == ("text/markdown", "guide", "urls")
    assert rig.text_of(record.fields.spec.document_id).split() == prose(40).split()


async def test_a_page_behind_a_redirect_keeps_the_url_it_was_asked_by(rig: Rig, there: Site) -> None:
    there.answers["/old"] = answer(b"", "301 Moved", location="/new")
    there.answers["/new"] = answer(b"Moved words.", content_type="text/plain")
    await imported(rig, url(there, "/old"))
    assert rig.registry.records[0].fields.spec.source_uri == url(there, "/old")


async def test_an_unchanged_page_is_skipped_and_a_changed_one_replaced(rig: Rig, there: Site) -> None:
    there.answers["/a"] = answer(b"First words.", content_type="text/plain")
    await imported(rig, url(there, "/a"))
    embedded = len(rig.embedding.texts)
    assert (await imported(rig, url(there, "/a"))).progress.skipped == 1
    assert len(rig.embedding.texts) == embedded
    there.answers["/a"] = answer(b"Second words.", content_type="text/plain")
    assert (await imported(rig, url(there, "/a"))).progress.succeeded == 1
    (document_id,) = {document for _, document in rig.registry.documents}
    assert rig.text_of(document_id) == "Second words."


async def test_each_page_that_cannot_be_had_says_why_and_the_others_are_imported(rig: Rig, there: Site) -> None:
    there.answers |= {
        "/good": answer(b"Good words.", content_type="text/plain"),
        "/large": answer(b"x" * 10_001, content_type="text/plain"),
        "/inner": answer(b"", "302 Found", location="http://169.254.169.254/latest/meta-data"),
    }
    job = await imported(rig, *(url(there, path) for path in ("/good", "/gone", "/large", "/inner")))
    assert (job.state, job.progress.succeeded, job.progress.failed) == (JobState.PARTIALLY_SUCCEEDED, 1, 3)
    told = {item.spec.source_uri.rpartition("/")[2]: (reason(item), item.attempts) for item in await rig.items(job)}
    assert told == {
        "good": ("", 1),
        "gone": ("UNREACHABLE", 1),
        "large": ("DOCUMENT_TOO_LARGE", 1),
        "inner": ("ADDRESS_NOT_ALLOWED", 1),
    }


async def test_a_server_that_is_down_for_a_moment_is_asked_again(rig: Rig, there: Site) -> None:
    down, up = answer(b"", "503 Busy"), answer(b"Late words.", content_type="text/plain")
    there.answers["/late"] = [down, down, up]
    job = await imported(rig, url(there, "/late"))
    (item,) = await rig.items(job)
    assert (job.state, item.attempts, len(there.asked)) == (JobState.SUCCEEDED, 3, 3)


async def test_a_server_that_stays_down_costs_every_attempt(rig: Rig, there: Site) -> None:
    there.answers["/down"] = answer(b"", "429 Slow down")
    job = await imported(rig, url(there, "/down"))
    (item,) = await rig.items(job)
    assert (job.state, reason(item), item.attempts) == (JobState.FAILED, "UNREACHABLE", rig.attempts)


async def test_a_full_import_deletes_pages_that_are_not_listed_any_more_and_no_other_documents(
    rig: Rig, there: Site
) -> None:
    there.answers |= {path: answer(path.encode(), content_type="text/plain") for path in ("/a", "/b", "/c")}
    await imported(rig, *(url(there, path) for path in ("/a", "/b", "/c")))
    await rig.done(await rig.put("Inline words.", "inline.txt"))
    del there.answers["/b"]  # listed, and not to be had just now: it stays
    job = await imported(rig, url(there, "/a"), url(there, "/b"), full=True)
    assert job.state is JobState.PARTIALLY_SUCCEEDED
    sources = {known.title for known in rig.registry.documents.values()}
    assert sources == {"a", "b", "inline.txt"}
    assert len(rig.registry.deleted) == 1


async def test_an_estimate_fetches_and_keeps_nothing(rig: Rig, there: Site) -> None:
    there.answers["/a"] = answer(prose(40).encode(), content_type="text/plain")
    job = await submitted(rig, url(there, "/a"), url(there, "/gone"), validate_only=True)
    assert job.estimate is not None
    assert (job.estimate.documents, job.estimate.chunks > 0) == (1, True)
    assert rig.registry.records == []


async def test_no_hostile_address_is_reached_by_an_import(rig: Rig) -> None:
    async with site({"/": answer(b"secret", content_type="text/plain")}) as there, HttpWeb(timeout_s=5) as web:
        rig.web = web
        urls = [*hostile_urls(), *(f"http://{LOCAL}:{there.port}/{at}" for at in range(2))]
        job = await imported(rig, *urls)
        assert there.asked == []
    assert (job.state, job.progress.failed) == (JobState.FAILED, len(urls))
    items = await rig.items(job)
    told = {item.spec.source_uri: reason(item) for item in items if reason(item) != "ADDRESS_NOT_ALLOWED"}
    assert told.items() <= {("http://localhost.:80/", "UNREACHABLE")}  # not every system's resolver knows it so
    assert all(item.state is ItemState.FAILED for item in items)
    assert rig.index.chunks == {}


@pytest.mark.parametrize(
    "hostile", ["http://ann:secret@1.1.1.1/", "http://1.1.1.1\\@127.0.0.1/", "http://1.1.1.1@127.0.0.1/", "ftp://a@b/"]
)
async def test_a_url_that_carries_a_name_or_password_is_not_even_stored(rig: Rig, hostile: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await submitted(rig, hostile)
    assert "secret" not in refused.value.message
