"""The service's methods: messages in, domain calls, messages out."""

from collections.abc import AsyncIterator
from typing import Any

import grpc

from ragweave.internal.v1 import registry_service_pb2 as internal_pb
from ragweave.internal.v1 import tenant_service_pb2 as tenant_pb
from ragweave.internal.v1.registry_service_pb2_grpc import RegistryServiceServicer
from ragweave.internal.v1.tenant_service_pb2_grpc import TenantServiceServicer
from ragweave.v1 import collection_pb2, document_pb2
from ragweave.v1 import collection_service_pb2 as collections_pb
from ragweave.v1 import directory_service_pb2 as directories_pb
from ragweave.v1 import document_service_pb2 as documents_pb
from ragweave.v1.collection_service_pb2_grpc import CollectionServiceServicer
from ragweave.v1.directory_service_pb2_grpc import DirectoryServiceServicer
from ragweave.v1.document_service_pb2_grpc import DocumentServiceServicer
from services.collections import convert, convert_directories
from services.collections.collection_deletions import CollectionDeletions
from services.collections.directories import Directories
from services.collections.document_deletions import DocumentDeletions
from services.collections.documents import Documents
from services.collections.erasure import Erasure
from services.collections.quotas import Quotas
from services.collections.registry import Registry
from services.mesh.identity import caller
from services.mesh.quotas import amounts_from, amounts_to
from services.mesh.receipts import receipt_from

Context = grpc.aio.ServicerContext[Any, Any]


class CollectionServicer(CollectionServiceServicer):
    def __init__(self, registry: Registry, deletions: CollectionDeletions) -> None:
        self._registry = registry
        self._deletions = deletions

    async def CreateCollection(
        self, request: collections_pb.CreateCollectionRequest, context: Context
    ) -> collection_pb2.Collection:
        created = await self._registry.create(
            request.collection_id,
            convert.given_from(request.collection),
            caller(context),
            receipt=receipt_from(request, caller(context)),
            validate_only=request.validate_only,
        )
        return convert.collection_to(created)

    async def ListCollections(
        self, request: collections_pb.ListCollectionsRequest, context: Context
    ) -> collections_pb.ListCollectionsResponse:
        return convert.collections_to(await self._registry.list(caller(context), **convert.asked_from(request)))

    async def GetCollection(
        self, request: collections_pb.GetCollectionRequest, context: Context
    ) -> collection_pb2.Collection:
        return convert.collection_to(await self._registry.get(request.name, caller(context)))

    async def UpdateCollection(
        self, request: collections_pb.UpdateCollectionRequest, context: Context
    ) -> collection_pb2.Collection:
        updated = await self._registry.update(
            request.collection.name,
            convert.given_from(request.collection),
            request.update_mask.paths,
            caller(context),
            etag=request.collection.etag,
            receipt=receipt_from(request, caller(context)),
            validate_only=request.validate_only,
        )
        return convert.collection_to(updated)

    async def DeleteCollection(
        self, request: collections_pb.DeleteCollectionRequest, context: Context
    ) -> collection_pb2.Collection:
        deleted = await self._deletions.delete(
            request.name,
            caller(context),
            etag=request.etag,
            force=request.force,
            receipt=receipt_from(request, caller(context)),
            validate_only=request.validate_only,
        )
        return convert.collection_to(deleted)

    async def UndeleteCollection(
        self, request: collections_pb.UndeleteCollectionRequest, context: Context
    ) -> collection_pb2.Collection:
        back = await self._deletions.undelete(
            request.name,
            caller(context),
            etag=request.etag,
            receipt=receipt_from(request, caller(context)),
            validate_only=request.validate_only,
        )
        return convert.collection_to(back)

    async def GetCollectionStats(
        self, request: collections_pb.GetCollectionStatsRequest, context: Context
    ) -> collection_pb2.CollectionStats:
        return convert.stats_to(*await self._registry.stats(request.name, caller(context)))


class DocumentServicer(DocumentServiceServicer):
    def __init__(self, documents: Documents, deletions: DocumentDeletions) -> None:
        self._documents = documents
        self._deletions = deletions

    async def CreateDocument(
        self, request: documents_pb.CreateDocumentRequest, context: Context
    ) -> documents_pb.CreateDocumentResponse:
        created = await self._documents.create(
            request.parent,
            *convert.new_document_from(request),
            caller(context),
            receipt=receipt_from(request, caller(context)),
            validate_only=request.validate_only,
        )
        return convert.created_to(created)

    async def UploadDocument(
        self, request_iterator: AsyncIterator[documents_pb.UploadDocumentRequest], context: Context
    ) -> documents_pb.UploadDocumentResponse:
        first = await anext(request_iterator, documents_pb.UploadDocumentRequest())
        created = await self._documents.upload(
            convert.new_file_from(first),
            convert.parts_from(first, request_iterator),
            caller(context),
            receipt=convert.upload_receipt_from(first, caller(context)),
            validate_only=first.validate_only,
        )
        return convert.uploaded_to(created)

    async def GetUpload(self, request: documents_pb.GetUploadRequest, context: Context) -> documents_pb.Upload:
        received = await self._documents.received(request.parent, request.request_id, caller(context))
        return documents_pb.Upload(received_bytes=received)

    async def ListDocuments(
        self, request: documents_pb.ListDocumentsRequest, context: Context
    ) -> documents_pb.ListDocumentsResponse:
        listed = await self._documents.list(request.parent, caller(context), **convert.asked_from(request))
        return convert.documents_to(listed)

    async def GetDocument(self, request: documents_pb.GetDocumentRequest, context: Context) -> document_pb2.Document:
        return convert.document_to(await self._documents.get(request.name, caller(context)))

    async def BatchGetDocuments(
        self, request: documents_pb.BatchGetDocumentsRequest, context: Context
    ) -> documents_pb.BatchGetDocumentsResponse:
        found = await self._documents.batch_get(request.parent, request.names, caller(context))
        return documents_pb.BatchGetDocumentsResponse(documents=map(convert.document_to, found))

    async def UpdateDocument(
        self, request: documents_pb.UpdateDocumentRequest, context: Context
    ) -> document_pb2.Document:
        updated = await self._documents.update(
            request.document.name,
            convert.fields_from(request.document),
            request.update_mask.paths,
            caller(context),
            etag=request.document.etag,
            receipt=receipt_from(request, caller(context)),
            validate_only=request.validate_only,
        )
        return convert.document_to(updated)

    async def DeleteDocument(
        self, request: documents_pb.DeleteDocumentRequest, context: Context
    ) -> document_pb2.Document:
        deleted = await self._deletions.delete(
            request.name,
            caller(context),
            etag=request.etag,
            receipt=receipt_from(request, caller(context)),
            validate_only=request.validate_only,
        )
        return convert.document_to(deleted)

    async def BatchDeleteDocuments(
        self, request: documents_pb.BatchDeleteDocumentsRequest, context: Context
    ) -> documents_pb.BatchDeleteDocumentsResponse:
        deleted = await self._deletions.batch_delete(
            request.parent,
            request.names,
            caller(context),
            etags=request.etags,
            receipt=receipt_from(request, caller(context)),
            validate_only=request.validate_only,
        )
        return documents_pb.BatchDeleteDocumentsResponse(documents=map(convert.document_to, deleted))

    async def UndeleteDocument(
        self, request: documents_pb.UndeleteDocumentRequest, context: Context
    ) -> document_pb2.Document:
        back = await self._deletions.undelete(
            request.name,
            caller(context),
            etag=request.etag,
            receipt=receipt_from(request, caller(context)),
            validate_only=request.validate_only,
        )
        return convert.document_to(back)

    async def ListChunks(
        self, request: documents_pb.ListChunksRequest, context: Context
    ) -> documents_pb.ListChunksResponse:
        listed = await self._documents.list_chunks(request.parent, caller(context), **convert.asked_from(request))
        return convert.chunks_to(*listed)


class DirectoryServicer(DirectoryServiceServicer):
    def __init__(self, directories: Directories) -> None:
        self._directories = directories

    async def ListRoots(
        self, request: directories_pb.ListRootsRequest, context: Context
    ) -> directories_pb.ListRootsResponse:
        listed = await self._directories.roots(caller(context), **convert.asked_from(request))
        return convert_directories.roots_to(listed)

    async def ListDirectoryEntries(
        self, request: directories_pb.ListDirectoryEntriesRequest, context: Context
    ) -> directories_pb.ListDirectoryEntriesResponse:
        listed = await self._directories.list(
            request.path, caller(context), hidden=request.show_hidden, **convert.asked_from(request)
        )
        return convert_directories.entries_to(listed)

    async def ValidatePath(
        self, request: directories_pb.ValidatePathRequest, context: Context
    ) -> directories_pb.ValidatePathResponse:
        return convert_directories.finding_to(await self._directories.validate(request.path, caller(context)))


class RegistryServicer(RegistryServiceServicer):
    def __init__(self, registry: Registry, documents: Documents, deletions: DocumentDeletions, quotas: Quotas) -> None:
        self._registry = registry
        self._documents = documents
        self._deletions = deletions
        self._quotas = quotas

    async def GetCollectionRecord(
        self, request: internal_pb.GetCollectionRecordRequest, context: Context
    ) -> internal_pb.CollectionRecord:
        return convert.record_to(await self._registry.find(request.collection_id, caller(context).tenant))

    async def WatchCollections(
        self, request: internal_pb.WatchCollectionsRequest, context: Context
    ) -> AsyncIterator[internal_pb.WatchCollectionsResponse]:
        async for followed in self._registry.follow(request.after_sequence):
            yield convert.followed_to(followed)

    async def WatchCollectionChanges(
        self, request: internal_pb.WatchCollectionChangesRequest, context: Context
    ) -> AsyncIterator[internal_pb.WatchCollectionChangesResponse]:
        async for followed in self._registry.follow_changes(request.after_sequence):
            yield convert.changes_to(followed)

    async def LookupDocuments(
        self, request: internal_pb.LookupDocumentsRequest, context: Context
    ) -> internal_pb.LookupDocumentsResponse:
        found = await self._documents.lookup(request.collection_id, request.document_ids, caller(context))
        return internal_pb.LookupDocumentsResponse(documents=map(convert.document_record_to, found))

    async def FindContents(
        self, request: internal_pb.FindContentsRequest, context: Context
    ) -> internal_pb.FindContentsResponse:
        found = await self._documents.find_contents(request.content_hashes, caller(context))
        return internal_pb.FindContentsResponse(content_hashes=found)

    async def SelectDocuments(
        self, request: internal_pb.SelectDocumentsRequest, context: Context
    ) -> internal_pb.SelectDocumentsResponse:
        found, total = await self._documents.select(
            request.collection_id,
            request.filter,
            request.after_document_id,
            request.limit,
            caller(context),
            count=request.count,
        )
        return internal_pb.SelectDocumentsResponse(documents=map(convert.document_record_to, found), total_size=total)

    async def RecordDocument(
        self, request: internal_pb.RecordDocumentRequest, context: Context
    ) -> internal_pb.RecordDocumentResponse:
        recorded = await self._documents.record(
            convert.recorded_from(request), caller(context), again=bool(request.document_uid)
        )
        return internal_pb.RecordDocumentResponse(document=convert.document_to(recorded))

    async def ListSourceDocuments(
        self, request: internal_pb.ListSourceDocumentsRequest, context: Context
    ) -> internal_pb.ListSourceDocumentsResponse:
        ids = await self._documents.list_source(
            request.collection_id, request.source_key, request.after_document_id, request.limit, caller(context)
        )
        return internal_pb.ListSourceDocumentsResponse(document_ids=ids)

    async def DeleteSourceDocuments(
        self, request: internal_pb.DeleteSourceDocumentsRequest, context: Context
    ) -> internal_pb.DeleteSourceDocumentsResponse:
        deleted = await self._deletions.delete_source(
            request.collection_id, request.document_ids, caller(context), filter=request.filter
        )
        return internal_pb.DeleteSourceDocumentsResponse(deleted=deleted)

    async def GetTenantUsage(
        self, request: internal_pb.GetTenantUsageRequest, context: Context
    ) -> internal_pb.GetTenantUsageResponse:
        return internal_pb.GetTenantUsageResponse(usage=amounts_to(await self._quotas.usage(caller(context).tenant)))

    async def CheckQuota(
        self, request: internal_pb.CheckQuotaRequest, context: Context
    ) -> internal_pb.CheckQuotaResponse:
        await self._quotas.check(caller(context).tenant, amounts_from(request.more))
        return internal_pb.CheckQuotaResponse()


class TenantServicer(TenantServiceServicer):
    def __init__(self, erasure: Erasure) -> None:
        self._erasure = erasure

    async def EraseTenant(
        self, request: tenant_pb.EraseTenantRequest, context: Context
    ) -> tenant_pb.EraseTenantResponse:
        count, erased = await self._erasure.erase(caller(context).tenant)
        return tenant_pb.EraseTenantResponse(count=count, erased=erased)

    async def AdmitTenant(
        self, request: tenant_pb.AdmitTenantRequest, context: Context
    ) -> tenant_pb.AdmitTenantResponse:
        return tenant_pb.AdmitTenantResponse()
