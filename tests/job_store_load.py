"""What jobs without number leave behind in the store, and what items without number take: `make bench-job-store`.

python -m tests.job_store_load [--jobs 200000] [--items 100000 1000000]
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from services.jobs.adapters.redis import Kept, Redis
from services.jobs.adapters.redis_job_store import RedisJobStore
from services.jobs.adapters.redis_queue import RedisQueue
from services.jobs.job import Assignment, DirectoryImport, DocumentSpec, ItemChange, JobType, Lease, Outcome, new_job_id
from services.mesh.receipts import Receipt
from tests.jobs_store import store_in

MOST_BYTES_AN_ITEM = 400
# Events outlive their jobs, up to this many a tenant.
EVENTS = Kept(3600, 500)
_RETENTION_S = 1.0
_TENANTS = ("acme", "globex", "initech")
_AT_ONCE = 64
_FORGOTTEN_AT_ONCE = 1000
_PAGE = 200


@dataclass(frozen=True)
class Left:
    """What a store holds when all its jobs are gone."""

    keys: frozenset[bytes]
    queued: int
    pending: int
    used_bytes: int


async def jobs_come_and_go(redis: Redis, count: int) -> int:
    """Runs so many jobs of one item through the store, until it has forgotten them all.

    Returns:
        How many were delivered and ended. A job whose entry was lost before would be QUEUED for ever.
    """
    store = RedisJobStore(redis, retention_s=_RETENTION_S, remember_s=_RETENTION_S)
    queues = [RedisQueue(redis, f"worker-{number}", lease_s=60) for number in range(2)]
    numbers = iter(range(count))
    ended: Counter[str] = Counter()
    submitted: list[str] = []

    async def submit() -> None:
        for number in numbers:
            tenant = _TENANTS[number % len(_TENANTS)]
            job = Assignment(tenant, new_job_id(), "ann", JobType.IMPORT, "books", "uid-1")
            receipt = Receipt(tenant, "ImportDocuments", f"request-{new_job_id()}", "digest")
            submitted.append(await store.submit(job, [DocumentSpec("a", content_hash="ab" * 32)], receipt))

    async def end(queue: RedisQueue, lease: Lease) -> None:
        await queue.finish(lease, Outcome(ItemChange.SUCCEED, chunks=1, size_bytes=10))
        ended[lease.job_id] += 1

    async def work(queue: RedisQueue, submitting: "asyncio.Future[object]") -> None:
        while True:
            over = submitting.done()
            leases = await queue.lease(_AT_ONCE)
            await asyncio.gather(*(end(queue, lease) for lease in leases))
            if not leases:
                if over:
                    return
                await queue.wait(0.05)

    async def forget(working: "asyncio.Future[object]") -> None:
        while not working.done() or await redis.client.exists(f"{_prefix(redis)}purging"):
            while await store.forget_ended(_FORGOTTEN_AT_ONCE):
                pass
            await asyncio.sleep(0.2)

    submitting = asyncio.gather(*(submit() for _ in range(_AT_ONCE)))
    working = asyncio.gather(*(work(queue, submitting) for queue in queues))
    await asyncio.gather(submitting, working, forget(working))
    assert set(ended) == set(submitted)
    assert set(ended.values()) <= {1}, "a job was delivered twice"
    return len(ended)


def _prefix(redis: Redis) -> str:
    return redis.bell.removesuffix("bell")


async def left(redis: Redis) -> Left:
    """Once what expires has expired."""
    while True:
        keys = frozenset(await redis.client.keys(f"{_prefix(redis)}*"))
        if not any(b":once:" in key for key in keys):
            break
        await asyncio.sleep(0.1)
    queues = [key for key in keys if key.endswith(b":queue")]
    pending = [(await redis.client.xpending(key, "workers"))["pending"] for key in queues]
    await redis.client.execute_command("MEMORY", "PURGE")
    used = int((await redis.client.info("memory"))["used_memory"])
    return Left(keys, sum([await redis.client.xlen(key) for key in queues]), sum(pending), used)


def _listed(count: int) -> Iterator[DocumentSpec]:
    for number in range(count):
        path = f"guide/chapter-{number}.md"
        yield DocumentSpec(f"guide.chapter-{number}.md-0123456789", path=path)


def _inline(count: int) -> Iterator[DocumentSpec]:
    for number in range(count):
        yield DocumentSpec(
            f"chapter-{number}",
            source_uri=f"https://example.com/guide/chapter-{number}.html",
            title=f"Chapter {number} of the guide",
            content_hash=f"{number:064x}",
            metadata={"lang": "en", "year": 2026},
        )


async def bytes_an_item(redis: Redis, kind: str, count: int) -> float:
    """Memory of the store for each of so many queued items: of files listed in a "directory", or "inline" ones."""
    store, queue = RedisJobStore(redis, retention_s=3600), RedisQueue(redis, "one", lease_s=3600)
    before = int((await redis.client.info("memory"))["used_memory"])
    directory = DirectoryImport("team", "docs") if kind == "directory" else None
    job = Assignment("acme", new_job_id(), "ann", JobType.IMPORT, "books", "uid-1", directory=directory)
    if directory:
        await store.submit(job, [])
        [lease] = await queue.lease(1)
        specs = list(_listed(count))
        for start in range(0, count, _PAGE):
            page = specs[start : start + _PAGE]
            await queue.expand(lease, start, page, page[-1].path, final=start + _PAGE >= count)
    else:
        specs = list(_inline(count))
        for start in range(0, count, 1000):
            await store.submit(
                Assignment("acme", new_job_id(), "ann", JobType.IMPORT, "books", "uid-1"), specs[start : start + 1000]
            )
    return (int((await redis.client.info("memory"))["used_memory"]) - before) / count


async def main(jobs: int, items: list[int]) -> int:
    """Prints what is left and what is taken; 1 where that is too much."""
    good = True
    with tempfile.TemporaryDirectory() as folder, store_in(Path(folder)) as server:
        async with Redis.open(server.url, events=EVENTS) as redis:
            await jobs_come_and_go(redis, 2_000)  # the tenants' logs of events are full from then on
            before = await left(redis)
            began = time.monotonic()
            ended = await jobs_come_and_go(redis, jobs)
            after = await left(redis)
        print(f"{ended:,} of {jobs:,} jobs ended, each once, in {time.monotonic() - began:.0f} s")
        print(f"keys {len(before.keys)} before, {len(after.keys)} after")
        print(f"queued {after.queued}, pending {after.pending}")
        print(f"memory {before.used_bytes:,} bytes before, {after.used_bytes:,} after")
        good &= ended == jobs and after.keys == before.keys and not after.queued + after.pending
    for kind in ("directory", "inline"):
        for count in items:
            with tempfile.TemporaryDirectory() as folder, store_in(Path(folder)) as server:
                async with Redis.open(server.url) as redis:
                    taken = await bytes_an_item(redis, kind, count)
            print(f"{kind}: {count:,} items queued: {taken:.0f} bytes an item", flush=True)
            good &= taken <= MOST_BYTES_AN_ITEM
    return int(not good)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--jobs", type=int, default=200_000)
    arguments.add_argument("--items", type=int, nargs="*", default=[100_000, 1_000_000])
    given = arguments.parse_args()
    sys.exit(asyncio.run(main(given.jobs, given.items)))
