"""Imports and uploads, as the jobs service takes them."""

from collections.abc import AsyncIterator, Sequence
from typing import Final

import grpc

from ragweave.internal.v1 import upload_service_pb2
from ragweave.internal.v1.upload_service_pb2_grpc import UploadServiceStub
from ragweave.v1 import job_service_pb2 as pb
from ragweave.v1.job_service_pb2_grpc import JobServiceStub
from services.collections.adapters.grpc_errors import answering
from services.collections.convert import described_to
from services.collections.ports import Content, Upload
from services.collections.records import Document
from services.mesh.errors import UploadNotFound
from services.mesh.status import reason_of, status_of

_PART_BYTES: Final = 2**20


class GrpcJobs:
    """Fulfils Jobs."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._jobs = JobServiceStub(channel)
        self._uploads = UploadServiceStub(channel)

    async def import_document(self, document: Document, content: Content, *, validate_only: bool = False) -> bytes:
        request = pb.ImportDocumentsRequest(
            parent=f"collections/{document.collection_id}",
            validate_only=validate_only,
            request_id="" if validate_only else _request_id(document),
        )
        match content:
            case Upload():
                request.uploads.uploads.add(
                    content_hash=content.content_hash,
                    document_id=document.document_id,
                    document=described_to(document),
                )
            case str():
                request.inline.documents.add(
                    document_id=document.document_id, document=described_to(document), text=content
                )
            case bytes():
                request.inline.documents.add(
                    document_id=document.document_id, document=described_to(document), data=content
                )
        with answering("jobs"):
            try:
                return (await self._jobs.ImportDocuments(request)).SerializeToString()
            except grpc.aio.AioRpcError as error:
                if reason_of(status_of(error)) != UploadNotFound.reason:
                    raise
                raise UploadNotFound(error.details() or "the upload is gone") from None

    async def find_imports(self, documents: Sequence[Document]) -> set[str]:
        uids = {_request_id(each): each.uid for each in documents}
        with answering("jobs"):
            request = upload_service_pb2.FindImportsRequest(request_ids=uids)
            found = await self._uploads.FindImports(request)
        return {uids[request_id] for request_id in found.request_ids}

    async def store(
        self,
        parts: AsyncIterator[bytes],
        *,
        upload: str = "",
        offset: int = 0,
        sha256: str = "",
        validate_only: bool = False,
    ) -> Upload:
        first = upload_service_pb2.StoreUploadRequest(
            validate_only=validate_only, sha256=sha256, upload_id=upload, offset=offset
        )
        with answering("jobs"):
            call = self._uploads.StoreUpload()
            try:
                await call.write(first)
                async for part in parts:
                    for start in range(0, len(part), _PART_BYTES):
                        data = part[start : start + _PART_BYTES]
                        await call.write(upload_service_pb2.StoreUploadRequest(data=data))
                await call.done_writing()
                stored = await call
            except grpc.aio.UsageError:  # it ended before the last part: its status says why
                stored = await call
            except BaseException:
                call.cancel()
                raise
        return Upload(stored.content_hash, stored.size_bytes)

    async def received(self, upload: str) -> int:
        with answering("jobs"):
            request = upload_service_pb2.GetStoredUploadRequest(upload_id=upload)
            return (await self._uploads.GetStoredUpload(request)).received_bytes


def _request_id(document: Document) -> str:
    """One import for each life of a document: whoever asks again for the same gets the same job."""
    return f"document:{document.uid}:{document.generation}" if document.generation else f"document:{document.uid}"
