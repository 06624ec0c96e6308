"""The Queue port over Redis streams: consumer groups, leases kept alive by claiming again, fencing tokens."""

from collections.abc import Sequence, Set
from contextlib import suppress
from typing import Any
from urllib.parse import unquote

import structlog
from prometheus_client import REGISTRY, CollectorRegistry

from services.jobs.adapters.redis import (
    TORN,
    Redis,
    named,
    packed_failure,
    packed_spec,
    packed_timings,
    unpacked_spec,
)
from services.jobs.figures import WorkFigures
from services.jobs.job import Assignment, DocumentSpec, Failure, Lease, Outcome
from services.jobs.visibility import told
from services.mesh.errors import JobNotFound, LeaseLost


class RedisQueue:
    """The queue as one worker sees it.

    Args:
        worker: Name of the worker; keeps its leases over a restart. Two that run at a time must differ.
        lease_s: A worker silent for so long loses its leases.
    """

    def __init__(self, redis: Redis, worker: str, *, lease_s: float, registry: CollectorRegistry = REGISTRY) -> None:
        self._redis = redis
        self._worker = worker
        self._lease_ms = int(lease_s * 1000)
        self._locks: dict[tuple[str, str, int], str] = {}
        self._rung = "0-0"
        self._due_s: float | None = None
        self._more = False
        self._figures = WorkFigures(registry)
        self._log = structlog.get_logger("jobs.queue")

    async def adopt(self, known: Sequence[Lease]) -> int:
        entries = [f"{named(lease.tenant)} {lease.entry}" for lease in known]
        return int(await self._redis.run("adopt", worker=self._worker, known=entries))

    async def lease(self, slots: int, but_not: Set[str] = frozenset()) -> list[Lease]:
        # Read before the work: what is queued in between rings again.
        async with self._redis.answering():
            rung = await self._redis.client.xrevrange(self._redis.bell, count=1)
        self._rung = rung[0][0].decode() if rung else "0-0"
        found, due_ms, more = await self._redis.run(
            "lease",
            worker=self._worker,
            slots=slots,
            lease_ms=self._lease_ms,
            but_not={named(tenant): 1 for tenant in but_not},
        )
        self._due_s = due_ms / 1000 if due_ms >= 0 else None
        self._more = bool(more)
        leases = []
        for each in found:
            with suppress(JobNotFound):  # erased with its tenant, just now
                leases.append(await self._lease(*each))
        return leases

    async def wait(self, timeout_s: float) -> None:
        if self._more:
            return
        if self._due_s is not None:
            timeout_s = min(timeout_s, self._due_s)
        async with self._redis.answering():
            await self._redis.client.xread({self._redis.bell: self._rung}, count=1, block=max(1, int(timeout_s * 1000)))

    async def heartbeat(self, leases: Sequence[Lease]) -> list[str]:
        answers = await self._redis.run(
            "heartbeat",
            worker=self._worker,
            lease_ms=self._lease_ms,
            leases=[{**_named(lease), **self._locked(lease)} for lease in leases],
        )
        for lease, answer in zip(leases, answers, strict=True):
            if answer == b"LOST":
                self._locks.pop(_of(lease), None)
        return [answer.decode() for answer in answers]

    async def assignment(self, lease: Lease) -> Assignment:
        try:
            return await self._redis.assignment(lease.tenant, lease.job_id)
        except JobNotFound:
            raise LeaseLost(f"jobs/{lease.job_id} was erased with its tenant") from None

    async def lock(self, lease: Lease, collection_uid: str, document_id: str) -> int:
        self._locks[_of(lease)] = f"{collection_uid}/{document_id}"
        answer = await self._ask("lock", lease, lease_ms=self._lease_ms, **self._locked(lease))
        if answer == b"BUSY":
            del self._locks[_of(lease)]
            return 0
        return int(answer)

    async def commit(self, lease: Lease, chunks: int) -> bool:
        return await self._ask("commit", lease, chunks=chunks) == b"OK"

    async def expand(
        self,
        lease: Lease,
        total: int,
        items: Sequence[DocumentSpec],
        checkpoint: str,
        *,
        final: bool,
        distinct: bool = False,
        doubtful: bool = False,
    ) -> bool:
        answer = await self._ask(
            "expand",
            lease,
            total=total,
            specs=[packed_spec(item) for item in items],
            documents=[item.document_id for item in items if item.document_id],
            checkpoint=checkpoint,
            final=int(final),
            distinct=int(distinct),
            doubtful=int(doubtful),
        )
        return answer == b"OK"

    async def absent(self, lease: Lease, document_ids: Sequence[str]) -> list[str]:
        answer = await self._redis.run("absent", documents=list(document_ids), **_named(lease))
        return [each.decode() for each in answer]

    async def finish(self, lease: Lease, outcome: Outcome) -> None:
        await self._ask(
            "finish",
            lease,
            change=str(outcome.change),
            chunks=outcome.chunks,
            bytes=outcome.size_bytes,
            revision=outcome.index_revision,
            error=packed_failure(outcome.error),
            told=packed_failure(told(lease.spec, outcome.error)),
            timings=packed_timings(outcome.timings_ms),
            torn=int(outcome.torn),
            document=packed_spec(_called(lease.spec)) if lease.spec else "",
            **self._locked(lease),
        )
        self._locks.pop(_of(lease), None)
        self._figures.ended(lease, outcome)

    async def put_back(self, lease: Lease, delay_s: float = 0.0, failure: Failure | None = None) -> None:
        await self._ask(
            "put_back",
            lease,
            delay_ms=int(delay_s * 1000),
            counted=int(failure is not None),
            error=packed_failure(failure),
            **self._locked(lease),
        )
        self._locks.pop(_of(lease), None)
        if failure is not None:
            self._figures.to_be_tried_again(lease)

    async def _ask(self, command: str, lease: Lease, **arguments: Any) -> bytes:
        """Raises LeaseLost where the lease is no longer ours; says so in the log, since somebody slept too long."""
        answer: bytes = await self._redis.run(command, **_named(lease), **arguments)
        if answer == b"LOST":
            self._locks.pop(_of(lease), None)
            self._figures.lost()
            self._log.warning("lease lost", command=command, worker=self._worker, job=lease.job_id, item=lease.number)
            raise LeaseLost(f"jobs/{lease.job_id}/items/{lease.number} is no longer leased to {self._worker}")
        return answer

    def _locked(self, lease: Lease) -> dict[str, str]:
        return {"lock": self._locks.get(_of(lease), ""), "holder": f"{lease.job_id}:{lease.number}"}

    async def _lease(
        self,
        tenant: bytes,
        job_id: bytes,
        number: int,
        entry: bytes,
        fence: int,
        attempt: int,
        deaths: int,
        committing: int,
        chunks: int,
        spec: bytes,
        checkpoint: bytes,
        total: int,
        by: bytes,
    ) -> Lease:
        who, job = unquote(tenant.decode()), job_id.decode()
        assignment = await self._redis.assignment(who, job)
        return Lease(
            tenant=who,
            job_id=job,
            number=number,
            entry=entry.decode(),
            fence=fence,
            attempt=attempt,
            deaths=deaths,
            committing=committing == 1,
            torn=committing == TORN,
            chunks=chunks,
            spec=unpacked_spec(spec).of(assignment) if spec else None,
            checkpoint=checkpoint.decode(),
            total=total,
            queued_by=by.decode(),
        )


def _called(spec: DocumentSpec) -> DocumentSpec:
    """What a document is called by, and who may see it."""
    return DocumentSpec(spec.document_id, source_uri=spec.source_uri, principals=spec.principals)


def _of(lease: Lease) -> tuple[str, str, int]:
    return lease.tenant, lease.job_id, lease.number


def _named(lease: Lease) -> dict[str, Any]:
    return {"tenant": named(lease.tenant), "job": lease.job_id, "number": lease.number, "fence": lease.fence}
