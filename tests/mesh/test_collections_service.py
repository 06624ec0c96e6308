"""The collections service as others call it: over gRPC, with the whole chain, beside services that are scripted."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.api.httpbody_pb2 import HttpBody
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.struct_pb2 import Struct
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status

from ragweave.internal.v1 import index_service_pb2, quota_service_pb2, registry_service_pb2, upload_service_pb2
from ragweave.internal.v1.index_service_pb2_grpc import IndexServiceServicer, add_IndexServiceServicer_to_server
from ragweave.internal.v1.quota_service_pb2_grpc import QuotaServiceServicer, add_QuotaServiceServicer_to_server
from ragweave.internal.v1.registry_service_pb2_grpc import RegistryServiceStub
from ragweave.internal.v1.upload_service_pb2_grpc import UploadServiceServicer, add_UploadServiceServicer_to_server
from ragweave.v1 import collection_pb2, document_pb2, job_pb2, model_pb2, model_service_pb2
from ragweave.v1 import collection_service_pb2 as collections_pb
from ragweave.v1 import document_service_pb2 as documents_pb
from ragweave.v1 import job_service_pb2 as jobs_pb
from ragweave.v1.collection_service_pb2_grpc import CollectionServiceStub
from ragweave.v1.document_service_pb2_grpc import DocumentServiceStub
from ragweave.v1.job_service_pb2_grpc import JobServiceServicer, add_JobServiceServicer_to_server
from ragweave.v1.model_service_pb2_grpc import ModelServiceServicer, add_ModelServiceServicer_to_server
from services.collections.__main__ import wire
from services.collections.settings import Settings
from services.jobs.blobs import check_content
from services.mesh.errors import CollectionNotFound, DependencyUnavailable, DocumentTooLarge, ModelNotFound
from services.mesh.identity import caller
from services.mesh.quotas import Amounts, amounts_to
from services.mesh.roots import Root
from services.mesh.serve import Wiring
from services.mesh.settings import ServiceSettings
from services.mesh.status import DETAILS_KEY, status_of
from tests.mesh.harness import World, caller_of

Context = grpc.aio.ServicerContext[Any, Any]
MODEL = model_pb2.Model(name="models/mini", kind=model_pb2.Model.EMBEDDING, dimension=4, max_tokens=256, default=True)
RERANKER = model_pb2.Model(name="models/ranker", kind=model_pb2.Model.RERANKING)
A = "collections/docs/documents/a"


class Scripted(
    IndexServiceServicer, JobServiceServicer, UploadServiceServicer, ModelServiceServicer, QuotaServiceServicer
):
    """What the other services were asked, in whose name; whether retrieval answers; and what a tenant may keep."""

    def __init__(self) -> None:
        self.limits = Amounts(1_000, 1_000, 1_000, 2**40)
        self.asked: list[Any] = []
        self.tenants: set[str] = set()
        self.largest_part = 0
        self.down = False

    def _answer(self, request: Any) -> None:
        self.asked.append(request)
        self.tenants.add(caller().tenant)
        if self.down:
            raise DependencyUnavailable("the vector index stopped while it worked")

    def last(self, kind: type[Any]) -> Any:
        return [each for each in self.asked if isinstance(each, kind)][-1]

    async def ApplyCollection(
        self, request: index_service_pb2.ApplyCollectionRequest, context: Context
    ) -> index_service_pb2.ApplyCollectionResponse:
        self._answer(request)
        return index_service_pb2.ApplyCollectionResponse()

    async def GetIndexStats(
        self, request: index_service_pb2.GetIndexStatsRequest, context: Context
    ) -> index_service_pb2.GetIndexStatsResponse:
        self._answer(request)
        raise CollectionNotFound("no index yet")

    async def DropIndex(
        self, request: index_service_pb2.DropIndexRequest, context: Context
    ) -> index_service_pb2.DropIndexResponse:
        self._answer(request)
        return index_service_pb2.DropIndexResponse()

    async def HideDocuments(
        self, request: index_service_pb2.HideDocumentsRequest, context: Context
    ) -> index_service_pb2.HideDocumentsResponse:
        self._answer(request)
        return index_service_pb2.HideDocumentsResponse()

    async def DeleteDocuments(
        self, request: index_service_pb2.DeleteDocumentsRequest, context: Context
    ) -> index_service_pb2.DeleteDocumentsResponse:
        self._answer(request)
        return index_service_pb2.DeleteDocumentsResponse()

    async def UpdateDocumentFields(
        self, request: index_service_pb2.UpdateDocumentFieldsRequest, context: Context
    ) -> index_service_pb2.UpdateDocumentFieldsResponse:
        self._answer(request)
        return index_service_pb2.UpdateDocumentFieldsResponse()

    async def ListChunks(
        self, request: index_service_pb2.ListChunksRequest, context: Context
    ) -> index_service_pb2.ListChunksResponse:
        self._answer(request)
        chunks = [
            index_service_pb2.IndexChunk(chunk_id=f"abc-{n:05d}", ordinal=n, text="t", section="A > B")
            for n in range(3)
        ]
        part = chunks[request.from_ordinal : request.from_ordinal + request.limit]
        return index_service_pb2.ListChunksResponse(chunks=part, total_size=3)

    async def ImportDocuments(self, request: jobs_pb.ImportDocumentsRequest, context: Context) -> job_pb2.Job:
        self._answer(request)
        return job_pb2.Job(name=f"jobs/{request.request_id[-8:] or 'estimate'}", collection=request.parent)

    async def StoreUpload(
        self, request_iterator: AsyncIterator[upload_service_pb2.StoreUploadRequest], context: Context
    ) -> upload_service_pb2.StoreUploadResponse:
        content = hashlib.sha256()
        size, sha256 = 0, ""
        async for part in request_iterator:
            sha256 = sha256 or part.sha256
            self.largest_part = max(self.largest_part, len(part.data))
            size += len(part.data)
            content.update(part.data)
            if size > 6 * 2**20:
                raise DocumentTooLarge("upload: the jobs service takes 6 MiB")
        check_content(content.hexdigest(), sha256)
        self._answer(request_iterator)
        return upload_service_pb2.StoreUploadResponse(content_hash=content.hexdigest(), size_bytes=size)

    async def ReadUpload(
        self, request: upload_service_pb2.ReadUploadRequest, context: Context
    ) -> AsyncIterator[upload_service_pb2.ReadUploadResponse]:
        raise NotImplementedError
        yield

    async def GetQuotaLimits(
        self, request: quota_service_pb2.GetQuotaLimitsRequest, context: Context
    ) -> quota_service_pb2.GetQuotaLimitsResponse:
        self._answer(request)
        return quota_service_pb2.GetQuotaLimitsResponse(limits=amounts_to(self.limits))

    async def GetModel(self, request: model_service_pb2.GetModelRequest, context: Context) -> model_pb2.Model:
        for model in (MODEL, RERANKER):
            if request.name.removeprefix("models/") == model.name.removeprefix("models/"):
                return model
        raise ModelNotFound(f"model: no model {request.name!r}")

    async def ListModels(
        self, request: model_service_pb2.ListModelsRequest, context: Context
    ) -> model_service_pb2.ListModelsResponse:
        return model_service_pb2.ListModelsResponse(models=[RERANKER, MODEL])


@dataclass
class Mesh:
    """The collections service and how to reach it."""

    world: World
    port: int
    others: Scripted
    collections: Any
    documents: Any
    registry: Any

    def as_(self, *, tenant: str = "acme", role: str = "admin", subject: str = "ann") -> tuple[tuple[str, str], ...]:
        return self.world.bearer(tenant=tenant, roles=[role], sub=subject)


@asynccontextmanager
async def collections_service(folder: Path, **settings: Any) -> AsyncIterator[Mesh]:
    async with AsyncExitStack() as opened:
        world = World.in_folder(folder)
        others = Scripted()

        @asynccontextmanager
        async def wire_others(settings: ServiceSettings) -> AsyncIterator[Wiring]:
            def register(server: grpc.aio.Server) -> None:
                add_IndexServiceServicer_to_server(others, server)
                add_JobServiceServicer_to_server(others, server)
                add_UploadServiceServicer_to_server(others, server)
                add_ModelServiceServicer_to_server(others, server)
                add_QuotaServiceServicer_to_server(others, server)

            yield Wiring(register)

        port = await opened.enter_async_context(world.running(wire_others, world.settings(), name="others"))
        targets = {f"{name}_target": world.target(port) for name in ("retrieval", "embedding", "jobs", "system")}
        mesh = world.mesh.model_copy(update={**targets, "roots": (Root("acme", folder / "import"),)})
        world = replace(world, mesh=mesh)
        own = Settings(mesh=mesh, port=0, follow_poll_s=0.05, limits_fresh_s=0, **settings)
        port = await opened.enter_async_context(world.running(wire, own, name="collections"))
        outside = await opened.enter_async_context(world.channel(port))
        inside = await opened.enter_async_context(world.channel_as(port, caller_of("ann"), service="jobs"))
        yield Mesh(
            world,
            port,
            others,
            CollectionServiceStub(outside),
            DocumentServiceStub(outside),
            RegistryServiceStub(inside),
        )


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[Mesh]:
    async with collections_service(tmp_path) as mesh:
        yield mesh


async def create(
    mesh: Mesh, collection_id: str = "docs", *, who: Any = None, **fields: Any
) -> collection_pb2.Collection:
    request = collections_pb.CreateCollectionRequest(
        collection=collection_pb2.Collection(**fields), collection_id=collection_id
    )
    made: collection_pb2.Collection = await mesh.collections.CreateCollection(request, metadata=who or mesh.as_())
    return made


async def record(
    mesh: Mesh, collection: collection_pb2.Collection, document_id: str = "a", **fields: Any
) -> document_pb2.Document:
    given: dict[str, Any] = {"state": "ACTIVE", "content_hash": "ab" * 32, "chunk_count": 2, "size_bytes": 9, **fields}
    request = registry_service_pb2.RecordDocumentRequest(
        collection_id=collection.name.removeprefix("collections/"),
        collection_uid=collection.uid,
        document_id=document_id,
        document=document_pb2.Document(**given),
        revision_key="k1",
        source_key="inline",
    )
    answer: registry_service_pb2.RecordDocumentResponse = await mesh.registry.RecordDocument(request)
    return answer.document


async def refused(attempt: Any) -> tuple[grpc.StatusCode, str, Sequence[str]]:
    """How a call fails: code, message, and the types of its details."""
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await attempt
    trailing = {key: value for key, value in failure.value.trailing_metadata() or ()}
    raw = trailing[DETAILS_KEY]
    assert isinstance(raw, bytes)
    details = [detail.type_url.rpartition(".")[2] for detail in Status.FromString(raw).details]
    return failure.value.code(), failure.value.details() or "", details


FULL: dict[str, Any] = {
    "description": "all of it",
    "labels": {"env": "prod"},
    "language": "de",
    "chunking": {"strategy": "FIXED", "max_tokens": 100, "overlap_tokens": 10},
    "source": {"directory": "docs", "include_globs": ["*.md"]},
    "disabled": True,
    "visibility": "PUBLIC",
    "default_search": {
        "top_k": 5,
        "mode": "DENSE",
        "fusion": {"rrf": {"k": 30}},
        "min_score": 0.5,
        "rerank": {"model": "models/tiny"},
    },
}


async def test_a_collection_reads_back_with_every_field(mesh: Mesh) -> None:
    made = await create(mesh, embedding_model="mini", **FULL)
    expected = collection_pb2.Collection(**FULL)
    expected.embedding_model = "models/mini"
    for name in ("name", "uid", "etag", "create_time", "update_time"):
        assert getattr(made, name)
        expected.MergeFrom(collection_pb2.Collection(**{name: getattr(made, name)}))
    assert made == expected
    request = collections_pb.GetCollectionRequest(name="docs")
    assert await mesh.collections.GetCollection(request, metadata=mesh.as_(role="reader")) == made
    applied = mesh.others.last(index_service_pb2.ApplyCollectionRequest).record
    assert (applied.tenant, applied.dimension, applied.sequence, applied.deleted) == ("acme", 4, 1, False)
    assert applied.collection == made


async def test_lists_are_pages_of_the_tenant(mesh: Mesh) -> None:
    for name in ("a", "b", "c"):
        await create(mesh, name, labels={"n": name})
    request = collections_pb.ListCollectionsRequest(page_size=2, order_by="name desc", filter='labels.n != "b"')
    listed = await mesh.collections.ListCollections(request, metadata=mesh.as_())
    assert [each.name for each in listed.collections] == ["collections/c", "collections/a"]
    assert (listed.total_size, listed.next_page_token) == (2, "")
    first = await mesh.collections.ListCollections(
        collections_pb.ListCollectionsRequest(page_size=1), metadata=mesh.as_()
    )
    second = collections_pb.ListCollectionsRequest(page_size=1, page_token=first.next_page_token)
    assert (await mesh.collections.ListCollections(second, metadata=mesh.as_())).collections[0].name == "collections/b"
    others = await mesh.collections.ListCollections(request, metadata=mesh.as_(tenant="globex"))
    assert others.total_size == 0


@pytest.mark.parametrize(
    ("method", "request_", "code", "said"),
    [
        ("GetCollection", collections_pb.GetCollectionRequest(name="nowhere"), "NOT_FOUND", "nowhere"),
        ("GetCollection", collections_pb.GetCollectionRequest(name="a/b"), "INVALID_ARGUMENT", "name"),
        ("CreateCollection", collections_pb.CreateCollectionRequest(), "INVALID_ARGUMENT", "collection"),
        (
            "CreateCollection",
            collections_pb.CreateCollectionRequest(collection={"embedding_model": "models/none"}),
            "INVALID_ARGUMENT",
            "collection.embedding_model",
        ),
        (
            "CreateCollection",
            collections_pb.CreateCollectionRequest(collection={"embedding_model": "ranker"}),
            "INVALID_ARGUMENT",
            "collection.embedding_model",
        ),
        (
            "UpdateCollection",
            collections_pb.UpdateCollectionRequest(
                collection={"name": "collections/docs"}, update_mask=FieldMask(paths=["colour"])
            ),
            "INVALID_ARGUMENT",
            "colour",
        ),
        (
            "UpdateCollection",
            collections_pb.UpdateCollectionRequest(collection={"description": "unnamed"}),
            "INVALID_ARGUMENT",
            "collection.name",
        ),
        (
            "UpdateCollection",
            collections_pb.UpdateCollectionRequest(
                collection={"name": "docs", "language": "fr"}, update_mask=FieldMask(paths=["language"])
            ),
            "INVALID_ARGUMENT",
            "collection.language",
        ),
        (
            "UpdateCollection",
            collections_pb.UpdateCollectionRequest(collection={"name": "docs", "description": "x", "etag": '"old"'}),
            "ABORTED",
            "etag",
        ),
        ("DeleteCollection", collections_pb.DeleteCollectionRequest(name="docs"), "FAILED_PRECONDITION", "force"),
        ("ListCollections", collections_pb.ListCollectionsRequest(filter="colour = 1"), "INVALID_ARGUMENT", "colour"),
        ("ListCollections", collections_pb.ListCollectionsRequest(order_by="x"), "INVALID_ARGUMENT", "order_by"),
        ("ListCollections", collections_pb.ListCollectionsRequest(page_token="x"), "INVALID_ARGUMENT", "page_token"),
        ("ListCollections", collections_pb.ListCollectionsRequest(page_size=-1), "INVALID_ARGUMENT", "page_size"),
    ],
)
async def test_bad_requests_are_refused_by_field(mesh: Mesh, method: str, request_: Any, code: str, said: str) -> None:
    await record(mesh, await create(mesh))
    found, message, details = await refused(getattr(mesh.collections, method)(request_, metadata=mesh.as_()))
    assert found.name == code
    assert said in message
    assert "ErrorInfo" in details


async def test_a_collection_is_changed_and_deleted(mesh: Mesh) -> None:
    made = await create(mesh)
    await record(mesh, made)
    request = collections_pb.UpdateCollectionRequest(
        collection=collection_pb2.Collection(name="docs", disabled=True, etag=made.etag, ttl=Duration(seconds=60)),
        request_id="u1",
    )
    changed = await mesh.collections.UpdateCollection(request, metadata=mesh.as_())
    assert (changed.disabled, changed.HasField("expire_time")) == (True, True)
    assert await mesh.collections.UpdateCollection(request, metadata=mesh.as_()) == changed
    assert mesh.others.last(index_service_pb2.ApplyCollectionRequest).record.collection.disabled
    request.collection.disabled = False
    code, _, _ = await refused(mesh.collections.UpdateCollection(request, metadata=mesh.as_()))
    assert code is grpc.StatusCode.ALREADY_EXISTS
    stats_of = collections_pb.GetCollectionStatsRequest(name="docs")
    stats = await mesh.collections.GetCollectionStats(stats_of, metadata=mesh.as_())
    assert (stats.active_documents, stats.chunks, stats.size_bytes, stats.revision) == (1, 0, 9, 1)
    delete = collections_pb.DeleteCollectionRequest(name="collections/docs", force=True)
    deleted = await mesh.collections.DeleteCollection(delete, metadata=mesh.as_())
    assert deleted.HasField("delete_time")
    assert deleted.purge_time.ToDatetime() - deleted.delete_time.ToDatetime() == timedelta(days=7)
    assert mesh.others.last(index_service_pb2.ApplyCollectionRequest).record.deleted
    code, _, _ = await refused(mesh.collections.DeleteCollection(delete, metadata=mesh.as_()))
    assert code is grpc.StatusCode.NOT_FOUND
    get = collections_pb.GetCollectionRequest(name="docs")
    assert await mesh.collections.GetCollection(get, metadata=mesh.as_()) == deleted
    code, _, _ = await refused(mesh.collections.GetCollection(get, metadata=mesh.as_(role="reader")))
    assert code is grpc.StatusCode.NOT_FOUND
    shown = collections_pb.ListCollectionsRequest(show_deleted=True)
    assert list((await mesh.collections.ListCollections(shown, metadata=mesh.as_())).collections) == [deleted]
    code, _, _ = await refused(mesh.collections.ListCollections(shown, metadata=mesh.as_(role="reader")))
    assert code is grpc.StatusCode.PERMISSION_DENIED
    undelete = collections_pb.UndeleteCollectionRequest(name="docs", etag=deleted.etag, request_id="u1")
    back = await mesh.collections.UndeleteCollection(undelete, metadata=mesh.as_())
    assert (back.uid, back.document_count, back.HasField("delete_time")) == (made.uid, 1, False)
    assert await mesh.collections.UndeleteCollection(undelete, metadata=mesh.as_()) == back
    assert not mesh.others.last(index_service_pb2.ApplyCollectionRequest).record.deleted
    assert not [each for each in mesh.others.asked if isinstance(each, index_service_pb2.DropIndexRequest)]
    undelete.request_id = undelete.etag = ""
    code, _, _ = await refused(mesh.collections.UndeleteCollection(undelete, metadata=mesh.as_()))
    assert code is grpc.StatusCode.ALREADY_EXISTS


async def test_while_retrieval_does_not_answer_nothing_is_half_done(mesh: Mesh) -> None:
    made = await create(mesh)
    active = await record(mesh, made)
    mesh.others.down = True
    rename = collections_pb.UpdateCollectionRequest(collection={"name": "docs", "description": "x"})
    describe = documents_pb.UpdateDocumentRequest(document={"name": A, "title": "x"})
    for attempt in (
        mesh.collections.UpdateCollection(rename, metadata=mesh.as_()),
        mesh.collections.DeleteCollection(
            collections_pb.DeleteCollectionRequest(name="docs", force=True), metadata=mesh.as_()
        ),
        mesh.documents.UpdateDocument(describe, metadata=mesh.as_()),
        mesh.documents.DeleteDocument(documents_pb.DeleteDocumentRequest(name=A), metadata=mesh.as_()),
    ):
        code, message, details = await refused(attempt)
        assert code is grpc.StatusCode.UNAVAILABLE
        assert "retrieval" in message
        assert "RetryInfo" in details
    again = await mesh.collections.GetCollection(collections_pb.GetCollectionRequest(name="docs"), metadata=mesh.as_())
    assert (again.etag, again.document_count) == (made.etag, 1)
    document = await mesh.documents.GetDocument(documents_pb.GetDocumentRequest(name=A), metadata=mesh.as_())
    assert document == active


async def test_a_document_is_created_with_its_job(mesh: Mesh) -> None:
    await create(mesh)
    metadata = Struct()
    metadata.update({"sea": True, "depth": 3.5, "tags": ["a", None], "deep": {"k": "v"}})
    request = documents_pb.CreateDocumentRequest(
        parent="docs",
        document_id="a",
        document=document_pb2.Document(
            title="T", mime_type="text/markdown", metadata=metadata, acl={"principals": ["user:ann"]}
        ),
        text="# Whales",
        request_id="c1",
    )
    made = await mesh.documents.CreateDocument(request, metadata=mesh.as_())
    assert (made.document.name, made.document.state) == (A, document_pb2.Document.PENDING)
    assert made.document.metadata == metadata
    queued = mesh.others.last(jobs_pb.ImportDocumentsRequest)
    (inline,) = queued.inline.documents
    assert (queued.parent, inline.document_id, inline.text) == ("collections/docs", "a", "# Whales")
    assert inline.document == request.document
    assert await mesh.documents.CreateDocument(request, metadata=mesh.as_()) == made
    request.request_id = "c2"
    code, message, _ = await refused(mesh.documents.CreateDocument(request, metadata=mesh.as_()))
    assert (code, message) == (grpc.StatusCode.ALREADY_EXISTS, f"{A} exists already")
    assert mesh.others.tenants == {"acme"}


async def parts(*data: bytes, **first: Any) -> AsyncIterator[documents_pb.UploadDocumentRequest]:
    for piece in data:
        yield documents_pb.UploadDocumentRequest(
            file=HttpBody(data=piece, content_type="text/plain" if first else ""), **first
        )
        first = {}


async def test_a_file_is_handed_on_in_parts_of_its_own_pace(mesh: Mesh) -> None:
    await create(mesh)
    pieces = [bytes([number]) * (3 * 2**20 // 2) for number in range(3)]
    sha256 = hashlib.sha256(b"".join(pieces)).hexdigest()
    made = await mesh.documents.UploadDocument(
        parts(*pieces, parent="docs", filename="a", sha256=sha256, metadata_json='{"k": 1}'), metadata=mesh.as_()
    )
    assert (made.document.name, made.document.mime_type) == (A, "text/plain")
    assert made.document.size_bytes == len(pieces) * len(pieces[0])
    (upload,) = mesh.others.last(jobs_pb.ImportDocumentsRequest).uploads.uploads
    assert (upload.document_id, upload.content_hash) == ("a", sha256)
    assert upload.document.source_uri == "a"
    assert mesh.others.largest_part == 2**20


@pytest.mark.parametrize(
    ("pieces", "first", "said"),
    [
        ([b""], {"parent": "docs"}, "file: is empty"),
        ([], {}, "parent"),
        ([b"x"], {"parent": "a/b"}, "parent"),
        ([b"x"], {"parent": "docs", "sha256": "0" * 64}, "sha256"),
        ([b"x"], {"parent": "docs", "sha256": "short"}, "sha256"),
        ([b"x"], {"parent": "docs", "document_id": "a b"}, "document_id"),
        ([b"x", b"y" * 2**20] * 8, {"parent": "docs"}, "7340032 bytes"),
        ([b"y" * 2**20] * 7, {"parent": "docs"}, "the jobs service takes 6 MiB"),
    ],
)
async def test_a_bad_file_is_refused_by_name(
    tmp_path: Path, pieces: list[bytes], first: dict[str, str], said: str
) -> None:
    async with collections_service(tmp_path, max_upload_bytes=7 * 2**20) as mesh:
        await create(mesh)
        code, message, _ = await refused(
            mesh.documents.UploadDocument(parts(*pieces, **first), metadata=mesh.as_(), timeout=20)
        )
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert said in message
        listed = await mesh.documents.ListDocuments(
            documents_pb.ListDocumentsRequest(parent="docs"), metadata=mesh.as_()
        )
        assert listed.total_size == 0


async def test_documents_are_read_changed_and_deleted(mesh: Mesh) -> None:
    docs = await create(mesh)
    first = await record(mesh, docs, "a", title="A", token_count=7)
    await record(mesh, docs, "b", title="B")
    listed = await mesh.documents.ListDocuments(
        documents_pb.ListDocumentsRequest(parent="docs", filter="state = ACTIVE", order_by="title desc"),
        metadata=mesh.as_(role="reader"),
    )
    assert [each.title for each in listed.documents] == ["B", "A"]
    batch = documents_pb.BatchGetDocumentsRequest(parent="docs", names=[f"{A[:-1]}b", A])
    found = await mesh.documents.BatchGetDocuments(batch, metadata=mesh.as_())
    assert [each.title for each in found.documents] == ["B", "A"]
    assert found.documents[1] == first
    request = documents_pb.UpdateDocumentRequest(
        document=document_pb2.Document(name=A, title="new", acl={"principals": ["group:crew"]}, etag=first.etag),
        update_mask=FieldMask(paths=["title", "acl", "state"]),
    )
    changed = await mesh.documents.UpdateDocument(request, metadata=mesh.as_())
    assert (changed.title, list(changed.acl.principals), changed.revision) == ("new", ["group:crew"], 1)
    pushed = mesh.others.last(index_service_pb2.UpdateDocumentFieldsRequest)
    assert (pushed.collection_uid, pushed.document.document_id) == (docs.uid, "a")
    assert list(pushed.document.principals) == ["group:crew"]
    code, _, _ = await refused(mesh.documents.UpdateDocument(request, metadata=mesh.as_()))
    assert code is grpc.StatusCode.ABORTED
    code, _, _ = await refused(
        mesh.documents.GetDocument(documents_pb.GetDocumentRequest(name=A), metadata=mesh.as_(role="reader"))
    )
    assert code is grpc.StatusCode.NOT_FOUND, "a reader outside the group"
    chunks = await mesh.documents.ListChunks(documents_pb.ListChunksRequest(parent=A, page_size=2), metadata=mesh.as_())
    assert [each.name for each in chunks.chunks] == [f"{A}/chunks/abc-00000", f"{A}/chunks/abc-00001"]
    assert (chunks.total_size, chunks.chunks[0].section, bool(chunks.next_page_token)) == (3, "A > B", True)
    deleted = await mesh.documents.DeleteDocument(
        documents_pb.DeleteDocumentRequest(name=A, etag=changed.etag), metadata=mesh.as_()
    )
    assert deleted.state == document_pb2.Document.DELETED
    assert deleted.purge_time.ToDatetime() - deleted.delete_time.ToDatetime() == timedelta(days=7)
    (hidden,) = mesh.others.last(index_service_pb2.HideDocumentsRequest).documents
    assert (hidden.document_id, hidden.generation) == ("a", 1)
    get = documents_pb.GetDocumentRequest(name=A)
    assert await mesh.documents.GetDocument(get, metadata=mesh.as_()) == deleted
    shown = documents_pb.ListDocumentsRequest(parent="docs", show_deleted=True, filter="state = DELETED")
    assert list((await mesh.documents.ListDocuments(shown, metadata=mesh.as_())).documents) == [deleted]
    for attempt in (
        mesh.documents.BatchGetDocuments(batch, metadata=mesh.as_()),
        mesh.documents.ListChunks(documents_pb.ListChunksRequest(parent=A), metadata=mesh.as_()),
        mesh.documents.GetDocument(get, metadata=mesh.as_(role="reader")),
    ):
        assert (await refused(attempt))[0] is grpc.StatusCode.NOT_FOUND
    code, _, _ = await refused(mesh.documents.ListDocuments(shown, metadata=mesh.as_(role="reader")))
    assert code is grpc.StatusCode.PERMISSION_DENIED
    undelete = documents_pb.UndeleteDocumentRequest(name=A, etag=deleted.etag, request_id="u1")
    back = await mesh.documents.UndeleteDocument(undelete, metadata=mesh.as_())
    assert (back.uid, back.state, back.title) == (deleted.uid, document_pb2.Document.ACTIVE, "new")
    assert await mesh.documents.UndeleteDocument(undelete, metadata=mesh.as_()) == back
    pushed = mesh.others.last(index_service_pb2.UpdateDocumentFieldsRequest).document
    assert (pushed.document_id, pushed.generation, list(pushed.principals)) == ("a", 2, ["group:crew"])
    undelete.request_id = undelete.etag = ""
    code, _, _ = await refused(mesh.documents.UndeleteDocument(undelete, metadata=mesh.as_()))
    assert code is grpc.StatusCode.ALREADY_EXISTS
    gone = documents_pb.BatchDeleteDocumentsRequest(parent="docs", names=[f"{A[:-1]}b"])
    assert len((await mesh.documents.BatchDeleteDocuments(gone, metadata=mesh.as_())).documents) == 1
    code, _, _ = await refused(mesh.documents.BatchDeleteDocuments(gone, metadata=mesh.as_()))
    assert code is grpc.StatusCode.NOT_FOUND


async def test_an_acl_hides_a_document_from_everyone_not_on_it(mesh: Mesh) -> None:
    docs = await create(mesh)
    await record(mesh, docs, "a", title="A", acl={"principals": ["user:bob", "group:crew"]}, metadata={"k": "v"})
    await record(mesh, docs, "b", title="B")
    who = {
        "bob": mesh.as_(role="reader", subject="bob"),
        "crew": mesh.world.bearer(roles=["reader"], sub="eve", groups=["crew"]),
        "manager": mesh.as_(role="editor", subject="eve"),
        "eve": mesh.as_(role="reader", subject="eve"),
        "a group's name": mesh.world.bearer(roles=["reader"], sub="group:crew", groups=["user:bob", "crew "]),
        "bob of globex": mesh.as_(role="reader", subject="bob", tenant="globex"),
    }
    filters = (
        "",
        'title = "A"',
        "metadata.k:*",
        'NOT title = "B"',
        'name = "collections/docs/documents/a" OR size_bytes > 0',
    )
    for name in ("bob", "crew", "manager"):
        assert (
            await mesh.documents.GetDocument(documents_pb.GetDocumentRequest(name=A), metadata=who[name])
        ).title == "A"
        assert (await mesh.documents.ListChunks(documents_pb.ListChunksRequest(parent=A), metadata=who[name])).chunks
        for asked in filters:
            listed = await mesh.documents.ListDocuments(
                documents_pb.ListDocumentsRequest(parent="docs", filter=asked), metadata=who[name]
            )
            assert A in [each.name for each in listed.documents]
    for name in ("eve", "a group's name", "bob of globex"):
        for call in (
            mesh.documents.GetDocument(documents_pb.GetDocumentRequest(name=A), metadata=who[name]),
            mesh.documents.ListChunks(documents_pb.ListChunksRequest(parent=A), metadata=who[name]),
            mesh.documents.BatchGetDocuments(
                documents_pb.BatchGetDocumentsRequest(parent="docs", names=[A, f"{A[:-1]}b"]), metadata=who[name]
            ),
        ):
            code, message, _ = await refused(call)
            assert code is grpc.StatusCode.NOT_FOUND
            assert "bob" not in message and "crew" not in message
    never = await refused(
        mesh.documents.GetDocument(documents_pb.GetDocumentRequest(name=f"{A[:-1]}never"), metadata=who["eve"])
    )
    hidden = await refused(mesh.documents.GetDocument(documents_pb.GetDocumentRequest(name=A), metadata=who["eve"]))
    assert (hidden[0], hidden[1].replace(A, f"{A[:-1]}never"), hidden[2]) == never, "as if it were not there"
    for name in ("eve", "a group's name"):
        for asked in filters:
            listed = await mesh.documents.ListDocuments(
                documents_pb.ListDocumentsRequest(parent="docs", filter=asked), metadata=who[name]
            )
            assert A not in [each.name for each in listed.documents]
            assert listed.total_size == len(listed.documents), "what is hidden is not counted"


async def test_imports_look_up_record_list_and_delete(mesh: Mesh) -> None:
    docs = await create(mesh)
    error = Status(code=3, message="corrupt")
    failed = await record(mesh, docs, "bad", state="FAILED", error=error)
    assert (failed.state, failed.error) == (document_pb2.Document.FAILED, error)
    await record(mesh, docs, "good")
    looked_up = await mesh.registry.LookupDocuments(
        registry_service_pb2.LookupDocumentsRequest(collection_id="docs", document_ids=["good", "none"])
    )
    (known,) = looked_up.documents
    assert (known.document_id, known.state, known.revision_key) == ("good", document_pb2.Document.ACTIVE, "k1")
    assert known.document.chunk_count == 2
    listed = await mesh.registry.ListSourceDocuments(
        registry_service_pb2.ListSourceDocumentsRequest(collection_id="docs", source_key="inline", limit=10)
    )
    assert listed.document_ids == ["bad", "good"]
    deleted = await mesh.registry.DeleteSourceDocuments(
        registry_service_pb2.DeleteSourceDocumentsRequest(collection_id="docs", document_ids=["bad", "none"])
    )
    assert deleted.deleted == 1


async def test_the_registrys_own_methods_are_for_services_only(mesh: Mesh) -> None:
    async with mesh.world.channel(mesh.port) as channel:
        request = registry_service_pb2.GetCollectionRecordRequest(collection_id="docs")
        code, _, _ = await refused(RegistryServiceStub(channel).GetCollectionRecord(request, metadata=mesh.as_()))
    assert code is grpc.StatusCode.PERMISSION_DENIED


async def test_a_follower_is_told_of_every_change_and_resumes(mesh: Mesh) -> None:
    await create(mesh, "one")
    watching = mesh.registry.WatchCollections(registry_service_pb2.WatchCollectionsRequest())
    first = await watching.read()
    assert [each.collection.name for each in first.records] == ["collections/one"]
    assert (await watching.read()).snapshot_complete
    await create(mesh, "two")
    (second,) = (await watching.read()).records
    assert (second.collection.name, second.sequence, second.tenant, second.dimension) == (
        "collections/two",
        2,
        "acme",
        4,
    )
    watching.cancel()
    resumed = mesh.registry.WatchCollections(registry_service_pb2.WatchCollectionsRequest(after_sequence=1))
    assert [each.sequence for each in (await resumed.read()).records] == [2]
    assert (await resumed.read()).snapshot_complete
    resumed.cancel()
    found = await mesh.registry.GetCollectionRecord(
        registry_service_pb2.GetCollectionRecordRequest(collection_id="two")
    )
    assert found == second


async def test_parallel_creators_of_one_document_get_one(mesh: Mesh) -> None:
    await create(mesh)
    request = documents_pb.CreateDocumentRequest(parent="docs", document_id="a", text="x")
    outcomes = await asyncio.gather(
        *(mesh.documents.CreateDocument(request, metadata=mesh.as_()) for _ in range(5)), return_exceptions=True
    )
    failures = [each for each in outcomes if isinstance(each, grpc.aio.AioRpcError)]
    assert len(failures) == 4
    assert {each.code() for each in failures} == {grpc.StatusCode.ALREADY_EXISTS}


async def test_of_fifty_collections_created_at_once_as_many_are_as_the_quota_allows(mesh: Mesh) -> None:
    mesh.others.limits = Amounts(collections=10)

    async def attempt(number: int) -> grpc.StatusCode:
        try:
            await create(mesh, f"c{number}")
        except grpc.aio.AioRpcError as error:
            return error.code()
        return grpc.StatusCode.OK

    ended = await asyncio.gather(*map(attempt, range(50)))
    assert ended.count(grpc.StatusCode.OK) == 10
    assert ended.count(grpc.StatusCode.RESOURCE_EXHAUSTED) == 40
    listed = await mesh.collections.ListCollections(collections_pb.ListCollectionsRequest(), metadata=mesh.as_())
    assert listed.total_size == 10


async def test_a_quota_that_is_used_up_says_whose_and_which_and_nothing_of_a_retry(mesh: Mesh) -> None:
    mesh.others.limits = Amounts()
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await create(mesh)
    assert failure.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    status = status_of(failure.value)
    info, quota = error_details_pb2.ErrorInfo(), error_details_pb2.QuotaFailure()
    assert status.details[0].Unpack(info)
    assert status.details[1].Unpack(quota)
    assert len(status.details) == 2
    assert (info.reason, dict(info.metadata)["quota"]) == ("QUOTA_EXCEEDED", "collections")
    (violation,) = quota.violations
    assert violation.subject == "tenants/acme"
    assert violation.description == "collections: 0 of 0 are used, 1 more do not fit"
    assert mesh.others.tenants == {"acme"}


async def test_usage_and_room_are_told_to_other_services_for_the_callers_tenant(mesh: Mesh) -> None:
    docs = await create(mesh)
    await record(mesh, docs)
    told = await mesh.registry.GetTenantUsage(registry_service_pb2.GetTenantUsageRequest())
    assert told.usage == amounts_to(Amounts(1, 1, 2, 9))
    mesh.others.limits = Amounts(1, 2, 2, 9)
    asked = registry_service_pb2.CheckQuotaRequest(more=amounts_to(Amounts(documents=1)))
    await mesh.registry.CheckQuota(asked)
    asked.more.chunks = 1
    code, message, _ = await refused(mesh.registry.CheckQuota(asked))
    assert (code, message) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "chunks: 2 of 2 are used, 1 more do not fit")
