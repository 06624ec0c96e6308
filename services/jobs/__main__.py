"""Starts the jobs service: `python -m services.jobs`. Its workers are `python -m services.jobs.worker`."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc

from ragweave.internal.v1.evaluation_job_service_pb2_grpc import add_EvaluationJobServiceServicer_to_server
from ragweave.internal.v1.tenant_service_pb2_grpc import add_TenantServiceServicer_to_server
from ragweave.internal.v1.upload_service_pb2_grpc import add_UploadServiceServicer_to_server
from ragweave.v1.event_service_pb2_grpc import add_EventServiceServicer_to_server
from ragweave.v1.job_service_pb2_grpc import add_JobServiceServicer_to_server
from ragweave.v1.webhook_service_pb2_grpc import add_WebhookServiceServicer_to_server
from services.jobs.adapters.bindings import BindingsClient
from services.jobs.adapters.embedding import ModelsClient
from services.jobs.adapters.folder_blobs import FolderBlobStore
from services.jobs.adapters.folders import Folders
from services.jobs.adapters.outbox import OutboxClient
from services.jobs.adapters.redis import Redis
from services.jobs.adapters.redis_backlog import RedisBacklog
from services.jobs.adapters.redis_event_log import RedisEventLog
from services.jobs.adapters.redis_job_store import RedisJobStore
from services.jobs.adapters.redis_marks import RedisMarks
from services.jobs.adapters.registry import RegistryClient
from services.jobs.adapters.watchfiles import WatchedDirectories
from services.jobs.adapters.xberg import XbergExtractor
from services.jobs.auto_sync import AutoSync
from services.jobs.background import kept_going
from services.jobs.backlog import BacklogFigures, queues_of
from services.jobs.erasure import Erasure
from services.jobs.estimator import Estimator
from services.jobs.evaluating import EvaluationJobs
from services.jobs.following import Follower
from services.jobs.importer import Importer
from services.jobs.jobs import Jobs
from services.jobs.reading import Reader
from services.jobs.selection import Selections
from services.jobs.servicer import (
    EvaluationJobServicer,
    EventServicer,
    JobServicer,
    TenantServicer,
    UploadServicer,
    WebhookServicer,
)
from services.jobs.settings import Settings
from services.jobs.sources import Sources
from services.jobs.streams import Streams
from services.jobs.submission import Submissions
from services.jobs.syncing import Syncs
from services.jobs.uploads import Uploads
from services.jobs.watching import Events
from services.jobs.webhooks import Webhooks
from services.mesh.audit_trail import AuditTrail
from services.mesh.channels import open_channel
from services.mesh.health import serving
from services.mesh.identity import Caller
from services.mesh.roots import Roots
from services.mesh.serve import Wiring, serve
from services.mesh.settings import read

# A caller waits for an estimate.
_ESTIMATED_PAGE_S = 5.0


@asynccontextmanager
async def wire(settings: Settings) -> AsyncIterator[Wiring]:
    async with (
        XbergExtractor.open(settings.extraction) as extractor,
        FolderBlobStore.open_folder(settings.blob_folder) as blobs,
        Redis.open(settings.mesh.redis_url, events=settings.events) as redis,
        settings.web(at_most_s=_ESTIMATED_PAGE_S) as web,
        settings.webhooks_web() as webhooks_web,
        open_channel(settings.mesh, settings.mesh.collections_target) as collections,
        open_channel(settings.mesh, settings.mesh.embedding_target) as embedding,
        AuditTrail.open(settings.mesh) as trail,
    ):
        registry = RegistryClient(collections)
        store = RedisJobStore(redis, retention_s=settings.retention_s)
        most = settings.mesh.max_document_bytes
        files = Folders(Sources(Roots(settings.mesh.roots), max_file_bytes=most))
        reader = Reader(blobs, files, web, max_bytes=most)
        estimator = Estimator(registry, ModelsClient(embedding), blobs, extractor, reader)
        submissions = Submissions(store, registry)
        importer = Importer(submissions, registry, blobs, files, estimator)
        syncs = Syncs(submissions, files, estimator)
        selections = Selections(submissions, registry, blobs, estimator)
        evaluations = EvaluationJobs(submissions)
        streams, log = Streams(), RedisEventLog(redis)
        jobs = Jobs(store, streams)
        events = Events(log, streams)
        itself = Caller.of_service("jobs", settings.mesh.public_tenant)
        outbox = OutboxClient(collections, itself)
        left = RedisBacklog(redis, lease_s=settings.lease_s)
        backlog = BacklogFigures(left, look_s=settings.backlog_look_s)
        webhooks = Webhooks(settings.webhook_store(redis), webhooks_web, most=settings.webhooks)

        def register(server: grpc.aio.Server) -> None:
            add_TenantServiceServicer_to_server(TenantServicer(Erasure(store, blobs)), server)
            add_JobServiceServicer_to_server(JobServicer(importer, syncs, selections, jobs), server)
            add_EvaluationJobServiceServicer_to_server(EvaluationJobServicer(evaluations), server)
            add_EventServiceServicer_to_server(EventServicer(events), server)
            add_UploadServiceServicer_to_server(UploadServicer(Uploads(blobs, max_bytes=most), jobs), server)
            add_WebhookServiceServicer_to_server(WebhookServicer(webhooks), server)

        with WatchedDirectories() as watch:
            auto_sync = AutoSync(
                BindingsClient(collections, itself),
                files,
                syncs,
                RedisMarks(redis),
                watch,
                trail,
                look_s=settings.auto_sync_look_s,
                rest_s=settings.auto_sync_rest_s,
                whole_s=settings.auto_sync_whole_s,
            )
            async with (
                kept_going("news", events.run),
                kept_going("collections", Follower(outbox, log).run),
                kept_going("bindings", auto_sync.learn),
                kept_going("auto_sync", auto_sync.follow),
                kept_going("backlog", backlog.run),
            ):
                yield Wiring(
                    register,
                    checks={"redis": redis.ping},
                    uses={"collections": lambda: serving(collections), "embedding": lambda: serving(embedding)},
                    queues=lambda: queues_of(left),
                    stopping=streams.stop,
                )


if __name__ == "__main__":
    asyncio.run(serve("jobs", wire, read(Settings)))
