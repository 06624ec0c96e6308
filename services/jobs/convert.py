"""Between the contract's messages and the domain."""

from collections.abc import AsyncIterator
from typing import Any

from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.status_pb2 import Status

from ragweave.internal.v1 import evaluation_job_service_pb2 as evaluation_pb
from ragweave.internal.v1 import upload_service_pb2 as upload_pb
from ragweave.v1 import dead_letter_pb2, job_pb2
from ragweave.v1 import job_service_pb2 as pb
from ragweave.v1.document_pb2 import Document
from services.jobs.adapters.messages import status_to, struct_from
from services.jobs.blobs import Blob
from services.jobs.evaluating import EvaluationRequest
from services.jobs.importer import (
    DirectorySource,
    ImportRequest,
    InlineDocument,
    InlineSource,
    RowSource,
    Source,
    UploadSource,
    UrlSource,
)
from services.jobs.job import (
    Assignment,
    DeadLetter,
    DirectoryImport,
    DocumentSpec,
    Event,
    Item,
    Job,
    OnDuplicate,
    Replayed,
    RowFormat,
    TableImport,
)
from services.jobs.ready import ReadyChunk, ReadyChunks, unit_vector
from services.jobs.selection import SelectionRequest
from services.jobs.streams import Ended
from services.jobs.syncing import SyncRequest
from services.mesh.consistency import consistency_token
from services.mesh.convert_times import duration_to, time_to
from services.mesh.errors import InvalidArgument
from services.mesh.identity import Caller
from services.mesh.lists import Page
from services.mesh.receipts import receipt_from
from services.mesh.status import status_of

# Of the jobs a replay has queued something of.
_JOBS_NAMED = 100


def import_request_from(request: pb.ImportDocumentsRequest, who: Caller) -> ImportRequest:
    return ImportRequest(
        collection_id=request.parent.rpartition("/")[2],
        source=source_from(request),
        on_duplicate=(
            OnDuplicate.REPLACE if request.on_duplicate == pb.ImportDocumentsRequest.REPLACE else OnDuplicate.SKIP
        ),
        full=request.reconciliation_mode == pb.ImportDocumentsRequest.FULL,
        validate_only=request.validate_only,
        receipt=receipt_from(request, who),
        echo=echo_of(request),
    )


def sync_request_from(request: pb.SyncCollectionRequest, who: Caller) -> SyncRequest:
    packed = AnyMessage()
    packed.Pack(request)
    return SyncRequest(
        collection_id=request.name.rpartition("/")[2],
        allow_empty=request.allow_empty,
        validate_only=request.validate_only,
        receipt=receipt_from(request, who),
        echo=packed.SerializeToString(),
    )


def selection_from(request: pb.ReprocessDocumentsRequest | pb.PurgeDocumentsRequest, who: Caller) -> SelectionRequest:
    packed = AnyMessage()
    packed.Pack(request)
    return SelectionRequest(
        collection_id=request.parent.rpartition("/")[2],
        filter=request.filter,
        force=request.force,
        validate_only=request.validate_only,
        receipt=receipt_from(request, who),
        echo=packed.SerializeToString(),
    )


def evaluation_from(request: evaluation_pb.SubmitEvaluationRequest) -> EvaluationRequest:
    return EvaluationRequest(
        evaluation_id=request.evaluation_id,
        collection_id=request.collection_id,
        validate_only=request.validate_only,
        echo=request.request.SerializeToString(),
    )


def source_from(request: pb.ImportDocumentsRequest) -> Source:
    """Raises InvalidArgument for a source that is not served."""
    match request.WhichOneof("source"):
        case "inline":
            documents = enumerate(request.inline.documents)
            return InlineSource([inline_from(each, f"inline.documents[{at}]") for at, each in documents])
        case "uploads":
            uploads = enumerate(request.uploads.uploads)
            return UploadSource([upload_from(each, f"uploads.uploads[{at}]") for at, each in uploads])
        case "directory":
            directory = request.directory
            return DirectorySource(
                DirectoryImport(
                    root="",
                    path=directory.path,
                    include_globs=tuple(directory.include_globs),
                    exclude_globs=tuple(directory.exclude_globs),
                    metadata=struct_from(directory.metadata, "directory.metadata"),
                )
            )
        case "urls":
            return UrlSource(list(request.urls.urls))
        case "rows":
            return rows_from(request.rows)
    raise InvalidArgument.of("source", "is not served")


def inline_from(inline: pb.ImportDocumentsRequest.InlineDocument, field: str) -> InlineDocument:
    if inline.WhichOneof("content") == "ready":
        spec = spec_from(inline.document, inline.document_id, field)
        return InlineDocument(spec, b"", ready_from(inline.ready, f"{field}.ready"))
    told = inline.WhichOneof("content") != "data"
    spec = spec_from(inline.document, inline.document_id, field, charset="utf-8" if told else "")
    return InlineDocument(spec, inline.text.encode() if told else inline.data)


def ready_from(ready: pb.ImportDocumentsRequest.ReadyChunks, field: str) -> ReadyChunks:
    """Raises InvalidArgument for a chunk without words, and for a vector without a direction."""
    chunks = []
    for at, each in enumerate(ready.chunks):
        if not each.text.strip():
            raise InvalidArgument.of(f"{field}.chunks[{at}].text", "is blank")
        vector = unit_vector(each.vector, f"{field}.chunks[{at}].vector")
        chunks.append(ReadyChunk(each.text, each.context, vector))
    return ReadyChunks(chunks)


def upload_from(upload: pb.ImportDocumentsRequest.Upload, field: str) -> DocumentSpec:
    return spec_from(upload.document, upload.document_id, field, content_hash=upload.content_hash)


def rows_from(rows: pb.ImportDocumentsRequest.RowSource) -> RowSource:
    """Raises InvalidArgument for a delimiter that is none."""
    row_format = RowFormat(pb.ImportDocumentsRequest.RowSource.Format.Name(rows.format))
    if rows.delimiter and (row_format is not RowFormat.CSV or rows.delimiter in '"\r\n\0 '):
        raise InvalidArgument.of("rows.delimiter", "is for CSV, and no quote, space or line end")
    fields = rows.fields
    table = TableImport(
        content_hash=rows.content_hash,
        name="rows",
        format=row_format,
        delimiter=rows.delimiter or ",",
        id_field=fields.id_field,
        text_fields=tuple(fields.text_fields),
        title_field=fields.title_field,
        source_uri_field=fields.source_uri_field,
        metadata_fields=tuple(fields.metadata_fields),
    )
    return RowSource(table, text=rows.text, path=rows.path)


def spec_from(document: Document, document_id: str, field: str, **fields: Any) -> DocumentSpec:
    return DocumentSpec(
        document_id=document_id,
        source_uri=document.source_uri,
        title=document.title,
        mime_type=document.mime_type,
        metadata=struct_from(document.metadata, f"{field}.document.metadata"),
        principals=tuple(document.acl.principals),
        **fields,
    )


def echo_of(request: pb.ImportDocumentsRequest) -> bytes:
    """The request for its job to show: of inline documents and uploads, only their ids and hashes; and not those of
    documents with an ACL, since all who may see the job see it.
    """
    echo = pb.ImportDocumentsRequest(
        parent=request.parent,
        reconciliation_mode=request.reconciliation_mode,
        on_duplicate=request.on_duplicate,
        request_id=request.request_id,
    )
    match request.WhichOneof("source"):
        case "inline":
            for each in request.inline.documents:
                echo.inline.documents.add(document_id=_open_to_all(each.document, each.document_id))
        case "uploads":
            for upload in request.uploads.uploads:
                echo.uploads.uploads.add(
                    content_hash=_open_to_all(upload.document, upload.content_hash),
                    document_id=_open_to_all(upload.document, upload.document_id),
                )
        case "directory":
            echo.directory.CopyFrom(request.directory)
        case "urls":
            echo.urls.CopyFrom(request.urls)
        case "rows":
            echo.rows.CopyFrom(request.rows)
            echo.rows.ClearField("text")
    packed = AnyMessage()
    packed.Pack(echo)
    return packed.SerializeToString()


def _open_to_all(document: Document, told: str) -> str:
    return "" if document.acl.principals else told


def job_to(job: Job, *, whole: bool = True) -> job_pb2.Job:
    """A job; without its request where many are sent of one job."""
    assignment, progress = job.assignment, job.progress
    readable = job.state.ended and assignment.collection_uid
    return job_pb2.Job(
        name=f"jobs/{job.id}" if job.id else "",
        type=job_pb2.Job.Type.Value(assignment.type),
        collection=f"collections/{assignment.collection_id}",
        state=job_pb2.Job.State.Value(job.state),
        progress=job_pb2.Job.Progress(
            total=progress.total,
            processed=progress.processed,
            succeeded=progress.succeeded,
            failed=progress.failed,
            skipped=progress.skipped,
            chunks=progress.chunks,
            bytes=progress.bytes,
            percentage=job.percentage,
            total_final=progress.total_final,
            items_per_second=progress.items_per_second,
        ),
        estimated_end_time=time_to(job.estimated_end_time),
        attempt=job.attempt,
        error=status_to(job.error) if job.error else None,
        consistency_token=consistency_token(assignment.collection_uid, job.index_revision) if readable else "",
        estimate=estimate_to(job),
        request=AnyMessage.FromString(assignment.request) if whole and assignment.request else None,
        create_time=time_to(job.create_time),
        start_time=time_to(job.start_time),
        update_time=time_to(job.update_time),
        end_time=time_to(job.end_time),
        purge_time=time_to(job.purge_time),
        etag=job.etag if job.id else "",
    )


def estimate_to(job: Job) -> job_pb2.Job.Estimate | None:
    estimate = job.estimate
    if estimate is None:
        return None
    return job_pb2.Job.Estimate(
        documents=estimate.documents,
        chunks=estimate.chunks,
        tokens=estimate.tokens,
        duplicates=estimate.duplicates,
        sample=[f"collections/{job.assignment.collection_id}/documents/{each}" for each in estimate.sample],
    )


def item_to(item: Item, job: Assignment) -> job_pb2.JobItem:
    return job_pb2.JobItem(
        name=f"jobs/{job.job_id}/items/{item.number}",
        document=(
            f"collections/{job.collection_id}/documents/{item.spec.document_id}"
            if item.spec.document_id and not job.evaluation
            else ""
        ),
        source_uri=item.spec.source_uri or item.spec.document_id,
        state=job_pb2.JobItem.State.Value(item.state),
        attempts=item.attempts,
        error=status_to(item.error) if item.error else None,
        chunks=item.chunks,
        size_bytes=item.size_bytes,
        timings=[
            job_pb2.JobItem.StageTiming(stage=stage, duration=duration_to(ms / 1000))
            for stage, ms in item.timings_ms.items()
        ],
        create_time=time_to(item.create_time),
        end_time=time_to(item.end_time),
    )


def jobs_to(page: Page[Job]) -> pb.ListJobsResponse:
    return pb.ListJobsResponse(
        jobs=[job_to(job) for job in page.items], next_page_token=page.next_page_token, total_size=page.total_size
    )


def items_to(job: Job, page: Page[Item]) -> pb.ListJobItemsResponse:
    return pb.ListJobItemsResponse(
        job_items=[item_to(item, job.assignment) for item in page.items],
        next_page_token=page.next_page_token,
        total_size=page.total_size,
    )


def dead_letter_to(letter: DeadLetter) -> dead_letter_pb2.DeadLetter:
    item = item_to(letter.item, letter.job.assignment)
    return dead_letter_pb2.DeadLetter(
        name=f"deadLetters/{letter.id}",
        item=item.name,
        collection=f"collections/{letter.job.assignment.collection_id}",
        document=item.document,
        source_uri=item.source_uri,
        attempts=item.attempts,
        error=item.error,
        create_time=item.end_time,
        purge_time=time_to(letter.job.purge_time),
    )


def dead_letters_to(page: Page[DeadLetter]) -> pb.ListDeadLettersResponse:
    return pb.ListDeadLettersResponse(
        dead_letters=[dead_letter_to(letter) for letter in page.items],
        next_page_token=page.next_page_token,
        total_size=page.total_size,
    )


def replayed_to(replayed: Replayed) -> pb.ReplayDeadLettersResponse:
    return pb.ReplayDeadLettersResponse(
        replayed=replayed.count, jobs=[f"jobs/{job_id}" for job_id in replayed.jobs[:_JOBS_NAMED]]
    )


def watched_to(seen: Event | Ended) -> pb.WatchJobResponse:
    if isinstance(seen, Ended):
        return pb.WatchJobResponse(
            sequence=seen.sequence, final_status=status_of(seen.error) if seen.error else Status()
        )
    return pb.WatchJobResponse(
        sequence=seen.sequence,
        event_time=time_to(seen.time),
        job=job_to(seen.job, whole=False),
        item=item_to(seen.item, seen.job.assignment) if seen.item else None,
    )


async def pieces_from(
    first: upload_pb.StoreUploadRequest, rest: AsyncIterator[upload_pb.StoreUploadRequest]
) -> AsyncIterator[bytes]:
    yield first.data
    async for request in rest:
        yield request.data


def blob_to(blob: Blob) -> upload_pb.StoreUploadResponse:
    return upload_pb.StoreUploadResponse(content_hash=blob.content_hash, size_bytes=blob.size_bytes)
