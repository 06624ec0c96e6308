"""The jobs service's methods: messages in, domain calls, messages out."""

from collections.abc import AsyncIterator
from typing import Any

import grpc

from ragweave.internal.v1 import evaluation_job_service_pb2 as evaluation_pb
from ragweave.internal.v1 import evaluation_job_service_pb2_grpc as evaluation_grpc
from ragweave.internal.v1 import tenant_service_pb2 as tenant_pb
from ragweave.internal.v1 import tenant_service_pb2_grpc as tenant_grpc
from ragweave.internal.v1 import upload_service_pb2 as upload_pb
from ragweave.internal.v1 import upload_service_pb2_grpc as upload_grpc
from ragweave.v1 import event_service_pb2 as event_pb
from ragweave.v1 import event_service_pb2_grpc as event_grpc
from ragweave.v1 import job_pb2, webhook_pb2
from ragweave.v1 import job_service_pb2 as pb
from ragweave.v1 import job_service_pb2_grpc as pb_grpc
from ragweave.v1 import webhook_service_pb2 as webhooks_pb
from ragweave.v1 import webhook_service_pb2_grpc as webhooks_grpc
from services.jobs import convert, convert_events, convert_webhooks
from services.jobs.erasure import Erasure
from services.jobs.evaluating import EvaluationJobs
from services.jobs.importer import Importer
from services.jobs.jobs import Jobs
from services.jobs.selection import Selections
from services.jobs.syncing import Syncs
from services.jobs.uploads import Uploads
from services.jobs.watching import Events
from services.jobs.webhooks import Webhooks
from services.mesh.calls import current_call
from services.mesh.identity import caller
from services.mesh.receipts import receipt_from

Context = grpc.aio.ServicerContext[Any, Any]


class JobServicer(pb_grpc.JobServiceServicer):
    def __init__(self, importer: Importer, syncs: Syncs, selections: Selections, jobs: Jobs) -> None:
        self._importer = importer
        self._syncs = syncs
        self._selections = selections
        self._jobs = jobs

    async def ImportDocuments(self, request: pb.ImportDocumentsRequest, context: Context) -> job_pb2.Job:
        who = caller(context)
        return convert.job_to(await self._importer.import_documents(convert.import_request_from(request, who), who))

    async def SyncCollection(self, request: pb.SyncCollectionRequest, context: Context) -> job_pb2.Job:
        who = caller(context)
        return convert.job_to(await self._syncs.sync(convert.sync_request_from(request, who), who))

    async def ReprocessDocuments(self, request: pb.ReprocessDocumentsRequest, context: Context) -> job_pb2.Job:
        who = caller(context)
        return convert.job_to(await self._selections.reprocess(convert.selection_from(request, who), who))

    async def PurgeDocuments(self, request: pb.PurgeDocumentsRequest, context: Context) -> job_pb2.Job:
        who = caller(context)
        return convert.job_to(await self._selections.purge(convert.selection_from(request, who), who))

    async def GetJob(self, request: pb.GetJobRequest, context: Context) -> job_pb2.Job:
        return convert.job_to(await self._jobs.get(caller(context).tenant, _id(request.name)))

    async def ListJobs(self, request: pb.ListJobsRequest, context: Context) -> pb.ListJobsResponse:
        page = await self._jobs.list_jobs(
            caller(context).tenant,
            filter=request.filter,
            order_by=request.order_by,
            page_size=request.page_size,
            page_token=request.page_token,
            page=request.page,
        )
        return convert.jobs_to(page)

    async def ListJobItems(self, request: pb.ListJobItemsRequest, context: Context) -> pb.ListJobItemsResponse:
        job, page = await self._jobs.list_items(
            caller(context),
            _id(request.parent),
            filter=request.filter,
            order_by=request.order_by,
            page_size=request.page_size,
            page_token=request.page_token,
            page=request.page,
        )
        return convert.items_to(job, page)

    async def WatchJob(self, request: pb.WatchJobRequest, context: Context) -> AsyncIterator[pb.WatchJobResponse]:
        call = current_call()
        async for seen in self._jobs.watch(
            caller(context), _id(request.name), request.after_sequence, call.remaining_s() if call else None
        ):
            yield convert.watched_to(seen)

    async def CancelJob(self, request: pb.CancelJobRequest, context: Context) -> job_pb2.Job:
        cancelled = await self._jobs.cancel(
            caller(context).tenant,
            _id(request.name),
            etag=request.etag,
            receipt=receipt_from(request, caller(context)),
            validate_only=request.validate_only,
        )
        return convert.job_to(cancelled)

    async def RetryJob(self, request: pb.RetryJobRequest, context: Context) -> job_pb2.Job:
        retried = await self._jobs.retry(
            caller(context).tenant,
            _id(request.name),
            etag=request.etag,
            receipt=receipt_from(request, caller(context)),
            validate_only=request.validate_only,
        )
        return convert.job_to(retried)

    async def DeleteJob(self, request: pb.DeleteJobRequest, context: Context) -> job_pb2.Job:
        deleted = await self._jobs.delete(
            caller(context).tenant,
            _id(request.name),
            etag=request.etag,
            receipt=receipt_from(request, caller(context)),
            validate_only=request.validate_only,
        )
        return convert.job_to(deleted)

    async def ListDeadLetters(self, request: pb.ListDeadLettersRequest, context: Context) -> pb.ListDeadLettersResponse:
        page = await self._jobs.list_dead_letters(
            caller(context),
            filter=request.filter,
            order_by=request.order_by,
            page_size=request.page_size,
            page_token=request.page_token,
            page=request.page,
        )
        return convert.dead_letters_to(page)

    async def ReplayDeadLetters(
        self, request: pb.ReplayDeadLettersRequest, context: Context
    ) -> pb.ReplayDeadLettersResponse:
        replayed = await self._jobs.replay(
            caller(context),
            [_id(name) for name in request.names],
            request.filter,
            receipt=receipt_from(request, caller(context)),
            validate_only=request.validate_only,
        )
        return convert.replayed_to(replayed)


class EvaluationJobServicer(evaluation_grpc.EvaluationJobServiceServicer):
    def __init__(self, evaluations: EvaluationJobs) -> None:
        self._evaluations = evaluations

    async def SubmitEvaluation(self, request: evaluation_pb.SubmitEvaluationRequest, context: Context) -> job_pb2.Job:
        return convert.job_to(await self._evaluations.submit(convert.evaluation_from(request), caller(context)))


class EventServicer(event_grpc.EventServiceServicer):
    def __init__(self, events: Events) -> None:
        self._events = events

    async def WatchEvents(
        self, request: event_pb.WatchEventsRequest, context: Context
    ) -> AsyncIterator[event_pb.WatchEventsResponse]:
        call = current_call()
        async for seen in self._events.watch(
            caller(context),
            request.topics,
            _id(request.collection),
            request.after_sequence,
            call.remaining_s() if call else None,
        ):
            yield convert_events.watched_to(seen)


class WebhookServicer(webhooks_grpc.WebhookServiceServicer):
    def __init__(self, webhooks: Webhooks) -> None:
        self._webhooks = webhooks

    async def CreateWebhook(self, request: webhooks_pb.CreateWebhookRequest, context: Context) -> webhook_pb2.Webhook:
        created = await self._webhooks.create(
            caller(context).tenant,
            request.webhook_id,
            convert_webhooks.created_from(request),
            receipt=receipt_from(request, caller(context)),
            validate_only=request.validate_only,
        )
        return convert_webhooks.webhook_to(created)

    async def ListWebhooks(
        self, request: webhooks_pb.ListWebhooksRequest, context: Context
    ) -> webhooks_pb.ListWebhooksResponse:
        page = await self._webhooks.list_webhooks(
            caller(context).tenant,
            filter=request.filter,
            order_by=request.order_by,
            page_size=request.page_size,
            page_token=request.page_token,
            page=request.page,
        )
        return convert_webhooks.webhooks_to(page)

    async def GetWebhook(self, request: webhooks_pb.GetWebhookRequest, context: Context) -> webhook_pb2.Webhook:
        return convert_webhooks.webhook_to(await self._webhooks.get(caller(context).tenant, _id(request.name)))

    async def UpdateWebhook(self, request: webhooks_pb.UpdateWebhookRequest, context: Context) -> webhook_pb2.Webhook:
        updated = await self._webhooks.update(
            caller(context).tenant,
            _id(request.webhook.name),
            convert_webhooks.updated_from(request),
            receipt=receipt_from(request, caller(context)),
            validate_only=request.validate_only,
        )
        return convert_webhooks.webhook_to(updated)

    async def DeleteWebhook(self, request: webhooks_pb.DeleteWebhookRequest, context: Context) -> webhook_pb2.Webhook:
        deleted = await self._webhooks.delete(
            caller(context).tenant,
            _id(request.name),
            etag=request.etag,
            receipt=receipt_from(request, caller(context)),
            validate_only=request.validate_only,
        )
        return convert_webhooks.webhook_to(deleted)

    async def TestWebhook(
        self, request: webhooks_pb.TestWebhookRequest, context: Context
    ) -> webhook_pb2.WebhookDelivery:
        return convert_webhooks.delivery_to(await self._webhooks.test(caller(context).tenant, _id(request.name)))

    async def ListDeliveries(
        self, request: webhooks_pb.ListDeliveriesRequest, context: Context
    ) -> webhooks_pb.ListDeliveriesResponse:
        page = await self._webhooks.list_deliveries(
            caller(context).tenant,
            _id(request.parent),
            filter=request.filter,
            order_by=request.order_by,
            page_size=request.page_size,
            page_token=request.page_token,
            page=request.page,
        )
        return convert_webhooks.deliveries_to(page)

    async def ReplayDelivery(
        self, request: webhooks_pb.ReplayDeliveryRequest, context: Context
    ) -> webhook_pb2.WebhookDelivery:
        replayed = await self._webhooks.replay(
            caller(context).tenant,
            request.name,
            receipt=receipt_from(request, caller(context)),
            validate_only=request.validate_only,
        )
        return convert_webhooks.delivery_to(replayed)


class UploadServicer(upload_grpc.UploadServiceServicer):
    def __init__(self, uploads: Uploads, jobs: Jobs) -> None:
        self._uploads = uploads
        self._jobs = jobs

    async def StoreUpload(
        self, request_iterator: AsyncIterator[upload_pb.StoreUploadRequest], context: Context
    ) -> upload_pb.StoreUploadResponse:
        first = await anext(request_iterator, upload_pb.StoreUploadRequest())
        stored = await self._uploads.store(
            caller(context).tenant,
            convert.pieces_from(first, request_iterator),
            upload=first.upload_id,
            offset=first.offset,
            sha256=first.sha256,
            validate_only=first.validate_only,
        )
        return convert.blob_to(stored)

    async def GetStoredUpload(
        self, request: upload_pb.GetStoredUploadRequest, context: Context
    ) -> upload_pb.GetStoredUploadResponse:
        received = await self._uploads.received(caller(context).tenant, request.upload_id)
        return upload_pb.GetStoredUploadResponse(received_bytes=received)

    async def ReadUpload(
        self, request: upload_pb.ReadUploadRequest, context: Context
    ) -> AsyncIterator[upload_pb.ReadUploadResponse]:
        async for part in self._uploads.read(caller(context).tenant, request.content_hash):
            yield upload_pb.ReadUploadResponse(data=part)

    async def FindImports(
        self, request: upload_pb.FindImportsRequest, context: Context
    ) -> upload_pb.FindImportsResponse:
        found = await self._jobs.find_imports(caller(context).tenant, request.request_ids)
        return upload_pb.FindImportsResponse(request_ids=found)


class TenantServicer(tenant_grpc.TenantServiceServicer):
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
        await self._erasure.admit(caller(context).tenant)
        return tenant_pb.AdmitTenantResponse()


def _id(name: str) -> str:
    return name.rpartition("/")[2]
