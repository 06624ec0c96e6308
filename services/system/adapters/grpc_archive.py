"""What the other services keep of a tenant, as their public services list it."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import grpc

from ragweave.internal.v1 import upload_service_pb2
from ragweave.internal.v1.upload_service_pb2_grpc import UploadServiceStub
from ragweave.v1 import collection_service_pb2, document_service_pb2, job_service_pb2, webhook_service_pb2
from ragweave.v1.collection_service_pb2_grpc import CollectionServiceStub
from ragweave.v1.document_service_pb2_grpc import DocumentServiceStub
from ragweave.v1.job_service_pb2_grpc import JobServiceStub
from ragweave.v1.webhook_service_pb2_grpc import WebhookServiceStub
from services.mesh.errors import UploadNotFound
from services.system.ports import Archived

_PAGE: Final = 100


class GrpcArchive:
    """Fulfils Archive."""

    def __init__(self, collections: grpc.aio.Channel, jobs: grpc.aio.Channel) -> None:
        self._collections = CollectionServiceStub(collections)
        self._documents = DocumentServiceStub(collections)
        self._jobs = JobServiceStub(jobs)
        self._webhooks = WebhookServiceStub(jobs)
        self._uploads = UploadServiceStub(jobs)

    async def collections(self) -> AsyncIterator[Archived]:
        request = collection_service_pb2.ListCollectionsRequest(page_size=_PAGE, order_by="name")
        async for each in _pages(self._collections.ListCollections, request, "collections"):
            yield Archived("collection", each.name, each.SerializeToString())

    async def documents(self, collection: str) -> AsyncIterator[Archived]:
        request = document_service_pb2.ListDocumentsRequest(parent=collection, page_size=_PAGE, order_by="name")
        async for each in _pages(self._documents.ListDocuments, request, "documents"):
            yield Archived("document", each.name, each.SerializeToString(), each.content_hash)

    async def original(self, content_hash: str) -> AsyncIterator[bytes]:
        try:
            async for part in self._uploads.ReadUpload(upload_service_pb2.ReadUploadRequest(content_hash=content_hash)):
                yield part.data
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
            raise UploadNotFound(f"no stored content is named {content_hash}") from None

    async def jobs(self) -> AsyncIterator[Archived]:
        request = job_service_pb2.ListJobsRequest(page_size=_PAGE)
        async for each in _pages(self._jobs.ListJobs, request, "jobs"):
            yield Archived("job", each.name, each.SerializeToString())

    async def webhooks(self) -> AsyncIterator[Archived]:
        request = webhook_service_pb2.ListWebhooksRequest(page_size=_PAGE, order_by="name")
        async for each in _pages(self._webhooks.ListWebhooks, request, "webhooks"):
            yield Archived("webhook", each.name, each.SerializeToString())


async def _pages(method: Callable[[Any], Awaitable[Any]], request: Any, field: str) -> AsyncIterator[Any]:
    while True:
        page = await method(request)
        for each in getattr(page, field):
            yield each
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token
