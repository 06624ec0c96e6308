"""The jobs service and its worker as processes wire them: real servers, channels, store, extractor and folders."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from google.rpc.status_pb2 import Status

from ragweave.internal.v1 import upload_service_pb2 as upload_pb
from ragweave.internal.v1.upload_service_pb2_grpc import UploadServiceStub
from ragweave.v1 import job_service_pb2 as pb
from ragweave.v1.job_pb2 import Job, JobItem
from ragweave.v1.job_service_pb2_grpc import JobServiceStub
from services.jobs.__main__ import wire
from services.jobs.adapters.redis import Redis
from services.jobs.adapters.redis_queue import RedisQueue
from services.jobs.job import Failure, ItemChange, Outcome
from services.jobs.settings import Settings, WorkerSettings
from services.jobs.worker.__main__ import wire as wire_worker
from services.mesh.breakers import Breakers
from services.mesh.channels import opening_as
from services.mesh.consistency import written_at
from services.mesh.roots import Root
from services.mesh.serve import running
from services.mesh.settings import MeshSettings
from tests.audit_fakes import unguarded
from tests.jobs_peers import Peers
from tests.jobs_store import Store, store_in
from tests.mesh.harness import World, caller_of

Import = pb.ImportDocumentsRequest


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with store_in(tmp_path_factory.mktemp("store")) as store:
        yield store


@dataclass
class Running:
    """The jobs service with its peers, and a way to have workers."""

    world: World
    settings: Settings
    peers: Peers
    port: int
    stub: JobServiceStub
    folder: Path
    drain: Callable[[], Any]

    @asynccontextmanager
    async def working(self, breakers: Breakers | None = None, **mesh: Any) -> AsyncIterator[None]:
        """A worker inside the block, with these breakers and these settings of its mesh."""
        with opening_as("worker"), breakers.wiring() if breakers else nullcontext():
            fields = {name: getattr(self.settings, name) for name in Settings.model_fields}
            fields["mesh"] = self.settings.mesh.model_copy(update=mesh)
            wired = wire_worker(WorkerSettings(**fields))
            work = await wired.__aenter__()
        task = asyncio.ensure_future(work())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await wired.__aexit__(None, None, None)

    def as_(self, **claims: Any) -> Any:
        return self.world.bearer(**{"roles": ["admin"], **claims})

    async def submit(self, *, traceparent: str = "", **fields: Any) -> Job:
        traced = (("traceparent", traceparent),) if traceparent else ()
        return await self.stub.ImportDocuments(Import(parent="books", **fields), metadata=(*self.as_(), *traced))

    async def failed(self, **fields: Any) -> Job:
        """A job of which every item failed, as a worker would say; there is no other work."""
        made = await self.submit(**fields)
        async with Redis.open(self.settings.mesh.redis_url) as redis:
            queue = RedisQueue(redis, "failing", lease_s=60)
            while leases := await queue.lease(100):
                for lease in leases:
                    await queue.finish(lease, Outcome(ItemChange.FAIL, error=Failure(3, "CORRUPT", "it is corrupt")))
        return await self.stub.GetJob(pb.GetJobRequest(name=made.name), metadata=self.as_())

    async def ended(self, name: str) -> Job:
        async with asyncio.timeout(60):
            async for seen in self.stub.WatchJob(pb.WatchJobRequest(name=name), metadata=self.as_()):
                if seen.HasField("final_status"):
                    assert seen.final_status.code == 0
        return await self.stub.GetJob(pb.GetJobRequest(name=name), metadata=self.as_())

    async def items(self, name: str, **fields: Any) -> list[JobItem]:
        request = pb.ListJobItemsRequest(parent=name, **fields)
        return list((await self.stub.ListJobItems(request, metadata=self.as_())).job_items)


@pytest.fixture
async def jobs(server: Store, tmp_path: Path) -> AsyncIterator[Running]:
    async with jobs_service(server, tmp_path) as running:
        yield running


@asynccontextmanager
async def jobs_service(server: Store, folder: Path) -> AsyncIterator[Running]:
    """The service over an empty store, with a collection "books" of acme, which has two roots."""
    world = World.in_folder(folder / "data", redis_url=server.url)
    async with Redis.open(server.url) as redis:
        await redis.client.flushall()
    peers = Peers()
    peers.add("acme", "books")
    async with peers.running(world) as peer_port:
        target = world.target(peer_port)
        targets = {f"{name}_target": target for name in ("collections", "retrieval", "embedding")}
        files = folder / "files"
        roots = (Root("acme", files), Root("acme", folder / "team", "team"), Root("globex", folder / "globex"))
        for root in roots:
            root.path.mkdir()
        mesh = MeshSettings(**{**world.mesh.model_dump(), **targets, "roots": roots})
        settings = Settings(mesh=mesh, port=0, heartbeat_s=0.1, worker_name=folder.name)
        async with running("jobs", wire, settings, guard=unguarded) as served, world.channel(served.port) as channel:
            yield Running(
                World(mesh, world.user_key), settings, peers, served.port, JobServiceStub(channel), files, served.drain
            )


def inline(*documents: tuple[str, str], **fields: Any) -> pb.ImportDocumentsRequest.InlineSource:
    source = Import.InlineSource()
    for document_id, text in documents:
        source.documents.add(document_id=document_id, text=text, document=fields)
    return source


async def refused(call: Any) -> tuple[grpc.StatusCode, str, list[str]]:
    """Code, reason and fields of the error a call ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    status = Status.FromString(
        dict(caught.value.trailing_metadata() or ())["grpc-status-details-bin"]  # type: ignore[arg-type]
    )
    info, bad = ErrorInfo(), BadRequest()
    fields: list[str] = []
    for detail in status.details:
        detail.Unpack(info)
        if detail.Unpack(bad):
            fields = [violation.field for violation in bad.field_violations]
    return caught.value.code(), info.reason, fields


async def test_inline_documents_become_chunks_and_records(jobs: Running) -> None:
    source = inline(("a", "# Title\n\nOne two three."), title="Hand", mime_type="text/markdown")
    source.documents[0].document.metadata.update({"lang": "en", "n": 3})
    source.documents[0].document.acl.principals.append("group:x")
    source.documents.add(document_id="b", data=b"%PDF-1.7 nothing else")
    made = await jobs.submit(inline=source)
    assert (made.state, made.progress.total, made.progress.total_final) == (Job.QUEUED, 2, True)
    echo = Import()
    assert made.request.Unpack(echo)
    assert [each.document_id for each in echo.inline.documents] == ["", "b"], "the first has an ACL"
    assert not echo.inline.documents[0].text
    async with jobs.working():
        job = await jobs.ended(made.name)
    assert (job.state, job.progress.succeeded, job.progress.failed) == (Job.PARTIALLY_SUCCEEDED, 1, 1)
    assert (job.progress.percentage, job.attempt, job.collection) == (100, 1, "collections/books")
    assert written_at(job.consistency_token) == ("uid-acme-books", jobs.peers.writes)
    record = jobs.peers.documents["acme", "books", "a"]
    assert (record.document.title, record.document.mime_type) == ("Hand", "text/markdown")
    assert dict(record.document.metadata) == {"lang": "en", "n": 3}
    [(_, chunk, fields)] = [value for key, value in jobs.peers.chunks.items() if key[1] == "a"]
    assert "One two three." in chunk.text
    assert (list(fields.principals), fields.metadata["n"]) == (["group:x"], 3)
    assert len(chunk.vector) == 16
    _, bad = await jobs.items(made.name)
    assert (bad.state, bad.name) == (JobItem.FAILED, f"{made.name}/items/2")
    assert "b" in bad.error.message
    assert jobs.peers.callers == {("acme", "ann", "jobs"), ("acme", "ann", "worker")}


async def test_a_collection_made_anew_is_imported_into_at_once(jobs: Running) -> None:
    async with jobs.working():
        assert (await jobs.ended((await jobs.submit(inline=inline(("a", "one")))).name)).state == Job.SUCCEEDED
        jobs.peers.collections["acme", "books"].uid = "uid-made-anew"
        job = await jobs.ended((await jobs.submit(inline=inline(("b", "two")))).name)
    assert (job.state, written_at(job.consistency_token)[0]) == (Job.SUCCEEDED, "uid-made-anew")


async def test_whoever_records_documents_can_ask_which_imports_were_queued(jobs: Running) -> None:
    await jobs.submit(inline=inline(("a", "one")), request_id="document:1")
    asked = upload_pb.FindImportsRequest(request_ids=["document:1", "document:2"])
    for tenant, known in (("acme", ["document:1"]), ("globex", [])):
        async with jobs.world.channel_as(jobs.port, caller_of(tenant=tenant)) as channel:
            assert (await UploadServiceStub(channel).FindImports(asked)).request_ids == known


async def test_an_upload_is_stored_and_imported(jobs: Running) -> None:
    content = b"Uploaded words. " * 100
    async with jobs.world.channel_as(jobs.port, caller_of()) as channel:
        stub = UploadServiceStub(channel)

        async def pieces() -> AsyncIterator[upload_pb.StoreUploadRequest]:
            for start in range(0, len(content), 400):
                yield upload_pb.StoreUploadRequest(data=content[start : start + 400])

        stored = await stub.StoreUpload(pieces())
    assert (stored.content_hash, stored.size_bytes) == (hashlib.sha256(content).hexdigest(), len(content))
    source = Import.UploadSource()
    source.uploads.add(content_hash=stored.content_hash, document_id="up.txt")
    made = await jobs.submit(uploads=source)
    async with jobs.working():
        assert (await jobs.ended(made.name)).state == Job.SUCCEEDED
    assert jobs.peers.documents["acme", "books", "up.txt"].document.size_bytes == len(content)


async def test_an_upload_nobody_made_is_refused_by_name(jobs: Running) -> None:
    source = Import.UploadSource()
    source.uploads.add(content_hash="ab" * 32, document_id="up.txt")
    code, reason, fields = await refused(jobs.submit(uploads=source))
    assert (code, reason) == (grpc.StatusCode.NOT_FOUND, "UPLOAD_NOT_FOUND")
    assert fields == ["uploads.uploads[0].content_hash"]


async def test_a_directory_is_imported_and_kept_in_step(jobs: Running) -> None:
    docs = jobs.folder / "docs"
    (docs / "sub").mkdir(parents=True)
    for name in ("a.md", "sub/b.txt", "c.md"):
        (docs / name).write_text(f"The words of {name}.")
    (docs / "link.md").symlink_to("/etc/passwd")
    (docs / "empty.md").write_text("")
    directory = Import.DirectorySource(path="docs", exclude_globs=["c.*"])
    async with jobs.working():
        first = await jobs.ended((await jobs.submit(directory=directory)).name)
        assert (first.progress.total, first.progress.succeeded, first.progress.failed) == (4, 2, 2)
        failed = await jobs.items(first.name, filter="state = FAILED")
        assert {item.source_uri for item in failed} == {"docs/link.md", "docs/empty.md"}
        (docs / "a.md").unlink()
        again = Import.DirectorySource(path=str(docs), exclude_globs=["c.*"])
        made = await jobs.submit(directory=again, reconciliation_mode=Import.FULL)
        second = await jobs.ended(made.name)
    assert (second.progress.skipped, second.progress.failed) == (1, 2)
    names = {known.document.source_uri for known in jobs.peers.documents.values()}
    assert "docs/a.md" not in names
    assert "docs/sub/b.txt" in names


async def test_one_file_of_a_directory_is_imported_alone(jobs: Running) -> None:
    (jobs.folder / "a.md").write_text("Words of a.")
    (jobs.folder / "b.md").write_text("Words of b.")
    async with jobs.working():
        job = await jobs.ended((await jobs.submit(directory=Import.DirectorySource(path="a.md"))).name)
    assert job.progress.total == 1
    assert [key[2] for key in jobs.peers.documents] == ["a.md"]


async def test_files_of_two_roots_with_the_same_path_are_two_documents(jobs: Running) -> None:
    team = jobs.folder.parent / "team"
    for root in (jobs.folder, team):
        (root / "docs").mkdir()
        (root / "docs" / "a.md").write_text(f"Words of {root.name}.")
    async with jobs.working():
        for path in ("docs", "team:docs"):
            directory = Import.DirectorySource(path=path)
            job = await jobs.ended((await jobs.submit(directory=directory, reconciliation_mode=Import.FULL)).name)
            assert (job.state, job.progress.succeeded) == (Job.SUCCEEDED, 1)
        alone = await jobs.ended((await jobs.submit(directory=Import.DirectorySource(path="team:docs/a.md"))).name)
    assert alone.state == Job.SUCCEEDED
    documents = jobs.peers.documents
    assert {known.document.source_uri for known in documents.values()} == {"docs/a.md", "team:docs/a.md"}
    assert len({key[2] for key in documents}) == 2
    # And neither is the other tenant's, whose root has a folder of the same name.
    (jobs.folder.parent / "globex" / "docs").mkdir()
    jobs.peers.add("globex", "books")
    for path in ("team:docs", str(team), str(jobs.folder / "docs"), "docs/a.md"):
        source = Import(parent="books", directory=Import.DirectorySource(path=path))
        call = jobs.stub.ImportDocuments(source, metadata=jobs.as_(tenant="globex"))
        assert (await refused(call))[1] == "PATH_NOT_ALLOWED"


@pytest.mark.parametrize(
    "path", ["..", "../x", "docs/../../etc", "/etc", "/etc/passwd", "link", "missing", "link/passwd"]
)
async def test_a_path_outside_the_roots_is_refused(jobs: Running, path: str) -> None:
    (jobs.folder / "link").symlink_to("/etc")
    code, reason, fields = await refused(jobs.submit(directory=Import.DirectorySource(path=path)))
    assert (code, reason, fields) == (grpc.StatusCode.INVALID_ARGUMENT, "PATH_NOT_ALLOWED", ["directory.path"])


async def test_rows_of_a_file_under_a_root_become_documents(jobs: Running) -> None:
    (jobs.folder / "books.csv").write_text("key;title;text\n1;Bears;They sleep.\n2;Cats;They hunt.\nx\n")
    fields = Import.RowSource.FieldMapping(id_field="key", title_field="title", text_fields=["text"])
    source = Import.RowSource(format=Import.RowSource.CSV, path="books.csv", fields=fields, delimiter=";")
    async with jobs.working():
        job = await jobs.ended((await jobs.submit(rows=source)).name)
    assert (job.state, job.progress.succeeded, job.progress.failed) == (Job.PARTIALLY_SUCCEEDED, 2, 1)
    items = await jobs.items(job.name)
    assert [item.source_uri for item in items] == [f"books.csv#line={line}" for line in (2, 3, 4)]
    assert items[2].error.message == "books.csv#line=4: 1 fields where the first row names 3"
    assert [item.document for item in items] == ["collections/books/documents/1", "collections/books/documents/2", ""]


async def test_what_is_wrong_with_ready_chunks_is_said_at_once(jobs: Running) -> None:
    def source(text: str, *vector: float) -> pb.ImportDocumentsRequest.InlineSource:
        chunk = Import.ReadyChunk(text=text, vector=vector)
        return Import.InlineSource(documents=[Import.InlineDocument(ready=Import.ReadyChunks(chunks=[chunk]))])

    at = "inline.documents[0].ready"
    for made, field in (
        (source("a", 0, 0), f"{at}.chunks[0].vector"),
        (source("a", float("nan")), f"{at}.chunks[0].vector"),
        (source("a", 1, 2), f"{at}.chunks[0].vector"),
        (source(" "), f"{at}.chunks[0].text"),
        (Import.InlineSource(documents=[Import.InlineDocument(ready=Import.ReadyChunks())]), f"{at}.chunks"),
    ):
        assert (await refused(jobs.submit(inline=made)))[2] == [field]


async def test_what_is_wrong_with_rows_is_said_at_once(jobs: Running) -> None:
    rows = Import.RowSource
    for source, field in (
        (rows(format=rows.CSV, text="a,b\n", fields=rows.FieldMapping(id_field="c")), "rows.fields.id_field"),
        (rows(format=rows.CSV, text=""), "rows"),
        (rows(format=rows.CSV, text="a", delimiter='"'), "rows.delimiter"),
        (rows(format=rows.JSONL, text="{}", delimiter=";"), "rows.delimiter"),
        (rows(format=rows.JSONL, path="../etc/passwd"), "rows.path"),
        (rows(format=rows.JSONL, content_hash="0" * 64), "rows.content_hash"),
        (rows(format=rows.JSONL), "rows.location"),
        (rows(text="{}"), "rows.format"),
    ):
        assert (await refused(jobs.submit(rows=source)))[2] == [field]


async def test_what_is_wrong_with_a_request_is_said_at_once(jobs: Running) -> None:
    twice = await refused(jobs.submit(inline=inline(("a", "x"), ("a", "y"))))
    assert twice[2] == ["inline.documents[1].document_id"]
    urls = await refused(jobs.submit(urls=Import.UrlSource(urls=["http://x", "http://ann:secret@x"])))
    assert (urls[0], urls[2]) == (grpc.StatusCode.INVALID_ARGUMENT, ["urls.urls[1]"])
    same = await refused(jobs.submit(urls=Import.UrlSource(urls=["http://x/a", "http://x/a#b"])))
    assert same[2] == ["urls.urls[1]"]
    full = await refused(jobs.submit(inline=inline(("a", "x")), reconciliation_mode=Import.FULL))
    assert full[2] == ["reconciliation_mode"]
    large = inline(("a", "x"))
    large.documents[0].document.metadata.update({"x": "y" * 17_000})
    assert (await refused(jobs.submit(inline=large)))[2] == ["inline.documents[0].document.metadata"]
    odd = inline(("a", "x"))
    odd.documents[0].document.metadata.fields["x"].number_value = float("nan")
    assert (await refused(jobs.submit(inline=odd)))[2] == ["inline.documents[0].document.metadata"]
    missing = jobs.stub.ImportDocuments(Import(parent="none", inline=inline(("a", "x"))), metadata=jobs.as_())
    assert (await refused(missing))[:2] == (grpc.StatusCode.NOT_FOUND, "COLLECTION_NOT_FOUND")
    jobs.peers.add("acme", "off", disabled=True)
    off = jobs.stub.ImportDocuments(Import(parent="off", inline=inline(("a", "x"))), metadata=jobs.as_())
    assert (await refused(off))[:2] == (grpc.StatusCode.FAILED_PRECONDITION, "COLLECTION_DISABLED")
    assert (await jobs.stub.ListJobs(pb.ListJobsRequest(), metadata=jobs.as_())).total_size == 0


async def test_an_estimate_counts_and_keeps_nothing(jobs: Running) -> None:
    async with jobs.working():
        await jobs.ended((await jobs.submit(inline=inline(("same", "Some words.")))).name)
    before = dict(jobs.peers.documents)
    source = inline(("same", "Some words."), ("new", "Word " * 300), ("empty", ""))
    told = await jobs.submit(inline=source, validate_only=True)
    assert (told.name, told.estimate.documents, told.estimate.duplicates) == ("", 1, 1)
    assert told.estimate.chunks > 4
    assert told.estimate.tokens >= 300
    assert jobs.peers.documents == before
    assert (await jobs.stub.ListJobs(pb.ListJobsRequest(), metadata=jobs.as_())).total_size == 1
    (jobs.folder / "a.md").write_text("Words of a.")
    told = await jobs.submit(directory=Import.DirectorySource(path="."), validate_only=True)
    assert (told.estimate.documents, told.estimate.chunks) == (1, 1)


async def test_a_hundred_equal_requests_at_a_time_are_one_job(jobs: Running) -> None:
    request = {"inline": inline(("a", "x")), "request_id": "r-1"}
    made = await asyncio.gather(*(jobs.submit(**request) for _ in range(100)))
    assert len({job.name for job in made}) == 1
    assert (await jobs.stub.ListJobs(pb.ListJobsRequest(), metadata=jobs.as_())).total_size == 1
    other = await refused(jobs.submit(inline=inline(("a", "y")), request_id="r-1"))
    assert other[:2] == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")


async def test_another_tenant_sees_nothing(jobs: Running) -> None:
    made = await jobs.submit(inline=inline(("a", "x")))
    stranger = jobs.as_(tenant="globex")
    for call in (
        jobs.stub.GetJob(pb.GetJobRequest(name=made.name), metadata=stranger),
        jobs.stub.CancelJob(pb.CancelJobRequest(name=made.name), metadata=stranger),
        jobs.stub.ListJobItems(pb.ListJobItemsRequest(parent=made.name), metadata=stranger),
        jobs.stub.WatchJob(pb.WatchJobRequest(name=made.name), metadata=stranger).read(),
    ):
        assert (await refused(call))[:2] == (grpc.StatusCode.NOT_FOUND, "JOB_NOT_FOUND")
    assert (await jobs.stub.ListJobs(pb.ListJobsRequest(), metadata=stranger)).total_size == 0


async def test_a_document_with_an_acl_shows_in_its_job_to_those_on_it(jobs: Running) -> None:
    secret = {"acl": {"principals": ["user:bob"]}}
    source = inline(("open", "Words."))
    source.MergeFrom(inline(("layoffs", "More words."), **secret))
    source.documents.add(document_id="merger", data=b"%PDF-1.7 nothing else", document=secret)
    made = await jobs.submit(inline=source)
    async with jobs.working():
        ended = await jobs.ended(made.name)
    assert (ended.progress.succeeded, ended.progress.failed) == (2, 1)
    reader, bob, editor = jobs.as_(roles=["reader"]), jobs.as_(roles=["reader"], sub="bob"), jobs.as_(roles=["editor"])

    async def all_seen(who: Any) -> str:
        """Whatever of the job the caller gets to see."""
        items = await jobs.stub.ListJobItems(pb.ListJobItemsRequest(parent=made.name), metadata=who)
        assert (items.total_size, len(items.job_items)) == (3, 3)
        parts = [str(items), str(await jobs.stub.GetJob(pb.GetJobRequest(name=made.name), metadata=who))]
        parts.append(str(await jobs.stub.ListJobs(pb.ListJobsRequest(), metadata=who)))
        async for event in jobs.stub.WatchJob(pb.WatchJobRequest(name=made.name), metadata=who):
            parts.append(str(event))
        return "\n".join(parts)

    async def filtered(who: Any, filter: str) -> int:
        request = pb.ListJobItemsRequest(parent=made.name, filter=filter)
        return len((await jobs.stub.ListJobItems(request, metadata=who)).job_items)

    for who, may in ((reader, False), (bob, True), (editor, True)):
        told = await all_seen(who)
        assert "documents/open" in told
        assert ("layoffs" in told) is may
        assert ("merger" in told) is may
        assert await filtered(who, 'document = "layoffs" OR source_uri = "merger"') == may
    echo = Import()
    assert made.request.Unpack(echo)
    assert [each.document_id for each in echo.inline.documents] == ["open", "", ""]


async def test_a_watch_cut_many_times_loses_and_repeats_nothing(jobs: Running) -> None:
    made = await jobs.submit(inline=inline(*((f"d{at}", f"Words of {at}.") for at in range(20))))
    seen: list[pb.WatchJobResponse] = []
    final: Status | None = None
    async with jobs.working():
        while final is None:
            after = seen[-1].sequence if seen else 0
            call = jobs.stub.WatchJob(pb.WatchJobRequest(name=made.name, after_sequence=after), metadata=jobs.as_())
            for _ in range(3):
                answer = await call.read()
                if answer.HasField("final_status"):
                    final = answer.final_status
                    break
                seen.append(answer)
            call.cancel()
    assert final.code == 0
    assert [each.sequence for each in seen] == list(range(1, len(seen) + 1))
    whole = [each async for each in jobs.stub.WatchJob(pb.WatchJobRequest(name=made.name), metadata=jobs.as_())]
    assert whole[:-1] == seen
    assert sorted(each.item.name for each in seen if each.HasField("item")) == sorted(
        f"{made.name}/items/{at}" for at in range(1, 21)
    )
    assert seen[-1].job.state == Job.SUCCEEDED


async def test_a_server_that_stops_ends_its_streams_with_a_status(jobs: Running) -> None:
    made = await jobs.submit(inline=inline(("a", "x")))
    call = jobs.stub.WatchJob(pb.WatchJobRequest(name=made.name), metadata=jobs.as_())
    first = await call.read()
    assert first.sequence == 1
    draining = asyncio.ensure_future(jobs.drain())
    last = await call.read()
    await draining
    assert (last.final_status.code, last.sequence) == (grpc.StatusCode.UNAVAILABLE.value[0], 1)


async def test_a_watch_ends_with_a_status_when_its_time_is_up(jobs: Running) -> None:
    made = await jobs.submit(inline=inline(("a", "x")))
    call = jobs.stub.WatchJob(pb.WatchJobRequest(name=made.name), metadata=jobs.as_(), timeout=3)
    answers = [answer async for answer in call]
    assert answers[-1].final_status.code == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]


async def test_cancel_and_its_repetition(jobs: Running) -> None:
    made = await jobs.submit(inline=inline(("a", "x")))
    for _ in range(2):
        request = pb.CancelJobRequest(name=made.name, request_id="c-1")
        assert (await jobs.stub.CancelJob(request, metadata=jobs.as_())).state == Job.CANCELLED
    done = await jobs.submit(inline=inline(("b", "x")))
    async with jobs.working():
        await jobs.ended(done.name)
    late = jobs.stub.CancelJob(pb.CancelJobRequest(name=done.name), metadata=jobs.as_())
    assert (await refused(late))[0] is grpc.StatusCode.FAILED_PRECONDITION


async def test_lists_refuse_what_they_do_not_know(jobs: Running) -> None:
    made = await jobs.submit(inline=inline(("a", "x"), ("b", "y")))
    for field, request in (
        ("filter", pb.ListJobsRequest(filter="name = x")),
        ("order_by", pb.ListJobsRequest(order_by="tenant")),
        ("page_token", pb.ListJobsRequest(page_token="nonsense")),
    ):
        code, _, fields = await refused(jobs.stub.ListJobs(request, metadata=jobs.as_()))
        assert (code, fields) == (grpc.StatusCode.INVALID_ARGUMENT, [field])
    page = await jobs.stub.ListJobItems(pb.ListJobItemsRequest(parent=made.name, page_size=1), metadata=jobs.as_())
    assert (page.job_items[0].source_uri, page.total_size) == ("a", 2)
    rest = pb.ListJobItemsRequest(parent=made.name, page_size=1, page_token=page.next_page_token)
    assert (await jobs.stub.ListJobItems(rest, metadata=jobs.as_())).job_items[0].source_uri == "b"


async def test_a_reader_may_not_import(jobs: Running) -> None:
    call = jobs.stub.ImportDocuments(
        Import(parent="books", inline=inline(("a", "x"))), metadata=jobs.as_(roles=["reader"])
    )
    assert (await refused(call))[0] is grpc.StatusCode.PERMISSION_DENIED


def test_settings_read_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAGWEAVE_JOBS_WORKER_NAME", "w-7")
    monkeypatch.setenv("RAGWEAVE_JOBS_METRICS_PORT", "9001")
    monkeypatch.setenv("RAGWEAVE_WORKER_METRICS_PORT", "9002")
    assert (Settings().metrics_port, WorkerSettings().metrics_port) == (9001, 9002)
    assert Settings().worker_name == "w-7"
