"""A whole import without gRPC: the real store and queue, everything else in memory."""

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

from services.jobs.adapters.diagnosis import diagnose
from services.jobs.adapters.redis import Redis
from services.jobs.adapters.redis_job_store import RedisJobStore
from services.jobs.adapters.redis_queue import RedisQueue
from services.jobs.adapters.web import HttpWeb
from services.jobs.fairness import Turns
from services.jobs.job import Assignment, DirectoryImport, DocumentSpec, Item, Job, JobType, new_job_id
from services.jobs.leasing import Worker
from services.jobs.listing import items_query
from services.jobs.patience import Patience
from services.jobs.pipeline import Tools
from services.jobs.reading import Reader
from services.jobs.submission import Submissions
from services.jobs.tasks import beginning
from tests.fake_content import MemoryBlobStore, PlainExtractor
from tests.jobs_fakes import (
    Killed,
    LengthEmbedding,
    MemoryFiles,
    MemoryIndex,
    MemoryRegistry,
    MemoryRuns,
    OneModel,
    Trap,
    collection,
)
from tests.jobs_store import Store
from tests.side_effects import stepping


@dataclass
class Rig:
    """Everything a worker has, and a store to look at."""

    redis: Redis
    lease_s: float = 5.0
    patience_s: float = 0.0
    attempts: int = 3
    backoff_s: float = 0.01
    slots: int = 2
    trap: Trap = field(default_factory=Trap)
    registry: MemoryRegistry = field(default_factory=lambda: MemoryRegistry(collection()))
    index: MemoryIndex = field(default_factory=MemoryIndex)
    embedding: LengthEmbedding = field(default_factory=LengthEmbedding)
    models: OneModel = field(default_factory=OneModel)
    blobs: MemoryBlobStore = field(default_factory=MemoryBlobStore)
    extractor: PlainExtractor = field(default_factory=PlainExtractor)
    files: MemoryFiles = field(default_factory=MemoryFiles)
    web: HttpWeb = field(default_factory=HttpWeb)
    evaluations: MemoryRuns = field(default_factory=MemoryRuns)

    def __post_init__(self) -> None:
        self.store = RedisJobStore(self.redis, retention_s=3600)
        self.submissions = Submissions(self.store, self.registry)

    def tools(self, worker: str = "one") -> Tools:
        tools = Tools(
            queue=RedisQueue(self.redis, worker, lease_s=self.lease_s),
            registry=self.registry,
            index=self.index,
            embedding=self.embedding,
            models=self.models,
            blobs=self.blobs,
            extractor=self.extractor,
            files=self.files,
            reader=Reader(self.blobs, self.files, self.web, max_bytes=10_000),
            evaluations=self.evaluations,
            diagnose=diagnose,
            patience=Patience(diagnose, self.patience_s),
            batch=2,
            embedding_turns=Turns(2),
            large_turns=Turns(1),
        )

        async def after(effect: str) -> None:
            self.trap.step(effect)

        return stepping(tools, after=after)

    def worker(self, name: str = "one", **fields: Any) -> Worker:
        tools = self.tools(name)
        return Worker(
            tools.queue,
            beginning(tools),
            diagnose,
            **{
                "slots": self.slots,
                "heartbeat_s": 0.02,
                "attempts": self.attempts,
                "backoff_s": self.backoff_s,
                **fields,
            },
        )

    @asynccontextmanager
    async def working(self, name: str = "one", **fields: Any) -> AsyncIterator["asyncio.Task[None]"]:
        """A worker inside the block, told to stop at its end."""
        task = asyncio.create_task(self.worker(name, **fields).run())
        try:
            yield task
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def put(self, text: str, document_id: str = "a.txt", tenant: str = "acme", **fields: Any) -> DocumentSpec:
        """A document whose content is in the blob store."""
        content = text.encode()
        blob = await self.blobs.put(tenant, _whole(content))
        return replace(DocumentSpec(document_id, charset="utf-8", content_hash=blob.content_hash), **fields)

    async def submit(
        self, *specs: DocumentSpec, tenant: str = "acme", type: JobType = JobType.IMPORT, **fields: Any
    ) -> str:
        job = Assignment(tenant, new_job_id(), "ann", type, "books", "uid-1", **fields)
        return await self.store.submit(job, specs)

    async def submit_directory(self, **fields: Any) -> str:
        globs = {name: fields.pop(name) for name in ("include_globs", "exclude_globs") if name in fields}
        directory = DirectoryImport("", "docs", **globs)
        return await self.submit(directory=directory, source_key="directory:docs", **fields)

    async def ended(self, job_id: str, tenant: str = "acme") -> Job:
        """The job, once it has ended."""
        async with asyncio.timeout(30):
            async for event in self.store.events(tenant, job_id, 0):
                if event.job.state.ended:
                    return await self.store.get(tenant, job_id)
        raise AssertionError("events ended before the job")

    async def done(self, *specs: DocumentSpec, **fields: Any) -> Job:
        """Imports these documents and waits for the end."""
        job_id = await self.submit(*specs, **fields)
        async with self.working():
            return await self.ended(job_id)

    async def items(self, job: Job | str) -> list[Item]:
        job_id = job if isinstance(job, str) else job.id
        query = items_query(job_id, filter="", order_by="", page_size=100, page_token="", page=0)
        return list((await self.store.list_items("acme", job_id, query)).items)

    def text_of(self, document_id: str) -> str:
        """What the index holds of a document, joined."""
        return " ".join(chunk.chunk.text for _, chunk, _ in self.index.of(document_id))


async def killed_everywhere(
    server: Store,
    prepare: Callable[[Rig], Awaitable[str]],
    check: Callable[[Rig, Job], Awaitable[None]],
    most: int = 400,
) -> None:
    """Runs a job once for each of its steps, killed at that step, taken up by a worker of the same name."""
    for at in range(most):
        async with Redis.open(server.url, f"{secrets.token_hex(4)}:") as redis:
            rig = Rig(redis, slots=1, attempts=5)
            job_id = await prepare(rig)
            rig.trap.seen.clear()
            rig.trap.at = at
            try:
                async with rig.working() as worker:
                    ended = asyncio.create_task(rig.ended(job_id))
                    await asyncio.wait({worker, ended}, return_when=asyncio.FIRST_COMPLETED)
                    ended.cancel()
                    await asyncio.gather(ended, return_exceptions=True)
                where = "nowhere"
            except (Killed, BaseExceptionGroup) as death:
                where = repr(death)
            rig.trap.at = -1
            async with rig.working():
                job = await rig.ended(job_id)
            try:
                await check(rig, job)
            except AssertionError as error:
                raise AssertionError(f"killed at step {at}, {where}: {error}") from error
            if where == "nowhere":
                assert at > 5
                return
    raise AssertionError("more steps than expected")


async def until(ask: Callable[[], Awaitable[Any] | Any]) -> Any:
    """What `ask` gives, once it gives something."""
    async with asyncio.timeout(20):
        while True:
            found = ask()
            found = await found if hasattr(found, "__await__") else found
            if found:
                return found
            await asyncio.sleep(0.005)


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def prose(words: int, of: str = "word") -> str:
    """Sentences of eight words, so many words in all, no two alike."""
    sentences = [" ".join(f"{of}{at}" for at in range(start, start + 8)) + "." for start in range(0, words, 8)]
    return "\n\n".join(sentences)


async def _whole(content: bytes) -> AsyncIterator[bytes]:
    yield content
