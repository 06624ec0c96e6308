"""Starts a worker of the jobs service: `python -m services.jobs.worker`; any number of them, each with its own name."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from services.jobs.adapters.diagnosis import diagnose
from services.jobs.adapters.embedding import EmbeddingClient, ModelsClient
from services.jobs.adapters.evaluations import EvaluationRunsClient
from services.jobs.adapters.folder_blobs import FolderBlobStore
from services.jobs.adapters.folders import Folders
from services.jobs.adapters.index import IndexClient
from services.jobs.adapters.redis import Redis
from services.jobs.adapters.redis_event_log import RedisEventLog
from services.jobs.adapters.redis_job_store import RedisJobStore
from services.jobs.adapters.redis_queue import RedisQueue
from services.jobs.adapters.registry import RegistryClient
from services.jobs.adapters.xberg import XbergExtractor
from services.jobs.announcing import Announcer
from services.jobs.background import kept_going
from services.jobs.convert_webhooks import body_of
from services.jobs.delivering import Deliverer
from services.jobs.fairness import Turns
from services.jobs.figures import WorkFigures
from services.jobs.leasing import Worker
from services.jobs.patience import Patience
from services.jobs.pipeline import Tools
from services.jobs.reading import Reader
from services.jobs.settings import WorkerSettings
from services.jobs.sources import Sources
from services.jobs.tasks import beginning
from services.jobs.upkeep import Upkeep
from services.jobs.webhook import Schedule
from services.mesh.channels import open_channel
from services.mesh.maintenance import Maintenance
from services.mesh.roots import Roots
from services.mesh.serve import serve_worker
from services.mesh.settings import read


@asynccontextmanager
async def open_tools(settings: WorkerSettings, redis: Redis) -> AsyncIterator[Tools]:
    async with (
        XbergExtractor.open(settings.extraction, settings.extractors) as extractor,
        FolderBlobStore.open_folder(settings.blob_folder) as blobs,
        settings.web() as web,
        open_channel(settings.mesh, settings.mesh.collections_target) as collections,
        open_channel(settings.mesh, settings.mesh.retrieval_target) as retrieval,
        open_channel(settings.mesh, settings.mesh.embedding_target) as embedding,
    ):
        most = settings.mesh.max_document_bytes
        files = Folders(Sources(Roots(settings.mesh.roots), max_file_bytes=most))
        yield Tools(
            queue=RedisQueue(redis, settings.worker_name, lease_s=settings.lease_s),
            registry=RegistryClient(collections),
            index=IndexClient(retrieval),
            embedding=EmbeddingClient(embedding),
            models=ModelsClient(embedding),
            blobs=blobs,
            extractor=extractor,
            files=files,
            reader=Reader(blobs, files, web, max_bytes=most),
            evaluations=EvaluationRunsClient(retrieval),
            diagnose=diagnose,
            patience=Patience(diagnose, settings.patience_s),
            batch=settings.embed_batch,
            embedding_turns=Turns(settings.embed_calls),
            large_turns=Turns(1),
        )


def worker(settings: WorkerSettings, tools: Tools) -> Worker:
    return Worker(
        tools.queue,
        beginning(tools),
        diagnose,
        slots=settings.slots,
        heartbeat_s=settings.heartbeat_s,
        attempts=settings.attempts,
        backoff_s=settings.backoff_s,
    )


@asynccontextmanager
async def open_webhooks(settings: WorkerSettings, redis: Redis) -> AsyncIterator[None]:
    """Events become deliveries, and deliveries are sent, inside the block."""
    outbox = settings.webhook_store(redis)
    schedule = Schedule(settings.webhooks_schedule_s, disable_after_s=settings.webhooks_disable_after_s)
    async with settings.webhooks_web() as web:
        deliverer = Deliverer(outbox, web, schedule, slots=settings.webhooks_slots)
        announcer = Announcer(RedisEventLog(redis), outbox, body_of, told=deliverer.look)
        async with kept_going("announcing", announcer.run), kept_going("webhooks", deliverer.run):
            yield


@asynccontextmanager
async def wire(settings: WorkerSettings) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    async with (
        Redis.open(settings.mesh.redis_url, events=settings.events) as redis,
        open_tools(settings, redis) as tools,
        open_webhooks(settings, redis),
    ):
        store = RedisJobStore(redis, retention_s=settings.retention_s)
        upkeep = Upkeep(store, tools.blobs, tools.registry, rest_s=settings.content_rest_s)
        working = worker(settings, tools)
        WorkFigures().holds(working.held_since)
        async with Maintenance("jobs", upkeep.steps, interval_s=settings.maintenance_interval_s).running():
            yield working.run


if __name__ == "__main__":
    asyncio.run(serve_worker("worker", wire, read(WorkerSettings)))
