"""The Redis side of jobs: one connection pool, one script, and how jobs and items are written down."""

import json
import secrets
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import msgpack  # type: ignore[import-untyped]
from redis.exceptions import ResponseError

from services.jobs.adapters.redis_schema import STEPS, newer_version, versioned
from services.jobs.job import (
    ITEM_TRANSITIONS,
    JOB_TRANSITIONS,
    Assignment,
    DirectoryImport,
    DocumentSpec,
    Failure,
    Item,
    ItemState,
    Job,
    JobState,
    JobType,
    OnDuplicate,
    Progress,
    RowFormat,
    TableImport,
)
from services.mesh.breakers import breaker_of
from services.mesh.errors import DependencyUnavailable, JobNotFound
from services.mesh.receipts import Receipt
from services.mesh.redis import REDIS, answering, open_redis, unlinked
from services.mesh.schemas import UnknownSchema

PREFIX = "rw:jobs:"
# Longer than any blocking read; a store that says nothing for so long does not answer.
_TIMEOUT_S = 10.0
_STORE = "the job store"
_CONNECTIONS = 2000
# Of a connection that the store closed, as when it was started anew; more of them would load one that fails.
_REPEATS = 1
_KNOWN_ASSIGNMENTS = 1024
# Longer than a command is tried again.
_OWN_MS = 60_000
# What redis.lua writes as an item's `committing` where something half written was left behind.
TORN = 2


@dataclass(frozen=True, slots=True)
class Kept:
    """How long a tenant's events are kept, and how many, a little more of either at times."""

    seconds: float = 7 * 24 * 3600
    most: int = 100_000


_KEPT = Kept()


class Redis:
    """Runs the script; calls are repeated on a broken connection, which the script's commands allow.

    Args:
        client: RESP2, undecoded.
        steps: What brings older data to the latest version.
    """

    def __init__(
        self, client: Any, prefix: str = PREFIX, *, steps: Mapping[int, str] = STEPS, events: Kept = _KEPT
    ) -> None:
        self.client = client
        self._prefix = prefix
        self._known = max(steps)
        script = _tables(events) + _commands()
        self._script = client.register_script(versioned(script, steps))
        self._assignments: dict[tuple[str, str], Assignment] = {}
        self._breaker = breaker_of(REDIS)

    @classmethod
    @asynccontextmanager
    async def open(
        cls, url: str, prefix: str = PREFIX, *, steps: Mapping[int, str] = STEPS, events: Kept = _KEPT
    ) -> AsyncIterator["Redis"]:
        """The store at `url`, older data brought to this version; one that does not answer yet is when it does.

        Raises:
            UnknownSchema: its data is of a newer version.
        """
        async with open_redis(url, connections=_CONNECTIONS, repeats=_REPEATS) as client:
            store = cls(client, prefix, steps=steps, events=events)
            with suppress(DependencyUnavailable):
                await store._refuse_newer()
            yield store

    async def run(self, command: str, **arguments: Any) -> Any:
        """One command of redis.lua.

        Raises:
            DependencyUnavailable: the store does not answer, or a newer version has brought its data forward.
        """
        try:
            return await self._run(command, arguments)
        except UnknownSchema as newer:
            raise DependencyUnavailable(str(newer)) from None

    def answering(self, *, within_s: float = _TIMEOUT_S) -> AbstractAsyncContextManager[None]:
        """Raises DependencyUnavailable in place of the driver's errors, and where there is no answer at all."""
        return answering(_STORE, self._breaker, timeout_s=within_s)

    async def ping(self) -> None:
        await self.run("ping")

    async def _refuse_newer(self) -> None:
        await self._run("ping", {})

    async def _run(self, command: str, arguments: Mapping[str, Any]) -> Any:
        packed = msgpack.packb(arguments, use_bin_type=False)
        async with self.answering():
            try:
                return await self._script(args=[self._prefix, command, packed])
            except ResponseError as error:
                if (found := newer_version(error)) is None:
                    raise
                raise UnknownSchema("what jobs keep in Redis", found=found, known=self._known) from None

    def key(self, tenant: str, kind: str, of: str = "") -> str:
        return f"{self._prefix}{named(tenant)}:{kind}" + (f":{of}" if of else "")

    @property
    def bell(self) -> str:
        """A stream that gets an entry when there is new work."""
        return f"{self._prefix}bell"

    @property
    def rung(self) -> str:
        """A stream that gets an entry when there are new events."""
        return f"{self._prefix}rung"

    def synced(self, tenant: str, uid: str) -> str:
        """A string: what a collection's directory looked like when it was last synced by itself."""
        return f"{self._prefix}{named(tenant)}:synced:{uid}"

    async def assignment(self, tenant: str, job_id: str) -> Assignment:
        """What a job is to do; remembered, since it never changes. Raises JobNotFound."""
        known = self._assignments.get((tenant, job_id))
        if known is None:
            async with self.answering():
                packed = await self.client.get(self.key(tenant, "about", job_id))
            if packed is None:
                raise no_job(job_id)
            known = unpacked_assignment(tenant, job_id, packed)
            if len(self._assignments) >= _KNOWN_ASSIGNMENTS:
                self._assignments.pop(next(iter(self._assignments)))
            self._assignments[tenant, job_id] = known
        return known

    async def unlinked(self, tenant: str, *, within_s: float) -> tuple[int, bool]:
        """Drops every key of a tenant: how many, and whether that was all it came to in time."""
        async with self.answering(within_s=within_s + _TIMEOUT_S):
            return await unlinked(self.client, f"{self._prefix}{named(tenant)}:*", within_s=within_s)

    async def delayed(self, cursor: int) -> tuple[int, list[bytes]]:
        """Some of the work that is to be queued later, and where to go on; 0 at the end."""
        async with self.answering():
            following, members = await self.client.zscan(f"{self._prefix}delayed", cursor, count=1000)
        return int(following), [member for member, _ in members]

    async def specs(self, job: Assignment, numbers: Sequence[int]) -> list[DocumentSpec]:
        """What these items are to import."""
        if not numbers:
            return []
        async with self.answering():
            packed = await self.client.hmget(self.key(job.tenant, "specs", job.job_id), numbers)
        return [unpacked_spec(each).of(job) for each in packed if each is not None]


def no_job(job_id: str) -> JobNotFound:
    return JobNotFound(f"jobs/{job_id} does not exist", job=job_id)


def once(receipt: Receipt | None, remember_ms: int) -> dict[str, Any]:
    """Arguments of a command that has what a request id stands for remembered."""
    if receipt is None:
        return {"request": ""}
    return {
        "request": f"{receipt.method}:{receipt.request_id}",
        "digest": receipt.digest,
        "remember_ms": remember_ms,
    }


def once_at_least(receipt: Receipt | None, remember_ms: int) -> dict[str, Any]:
    """The same for a command that must know itself without a request id too: it may run again where the connection
    broke before its answer, and would find its own effect, such as an etag that is stale by now.
    """
    if receipt is not None:
        return once(receipt, remember_ms)
    return {"request": f"~{secrets.token_hex(8)}", "digest": "", "remember_ms": _OWN_MS, "passing": 1}


def check_recalled(answer: Sequence[Any], receipt: Receipt | None) -> None:
    """Raises RequestIdReused where the script answers that the receipt's id stands for something else."""
    if answer[0] == b"OTHER" and receipt:
        receipt.check(answer[1].decode())


def named(tenant: str) -> str:
    """A tenant as part of a key: `:` ends it, so it holds none."""
    return quote(tenant, safe="")


def _tables(events: Kept) -> str:
    """As Lua: the transitions, state -> change -> state; the states nothing leads out of; what is kept of events."""
    lines = [f"local LOG_MS, LOG_MOST = {int(events.seconds * 1000)}, {events.most}"]
    for name, table in (("JOB", JOB_TRANSITIONS), ("ITEM", ITEM_TRANSITIONS)):
        lines.append(f"local {name} = {{}}")
        lines += [f"{name}.{state} = {{}}" for state in dict.fromkeys(state for state, _ in table)]
        lines += [f"{name}.{state}.{change} = '{to}'" for (state, change), to in table.items()]
    lines.append(_set("ENDED", (state for state in JobState if state.ended)))
    lines.append(_set("ENDED_ITEM", (state for state in ItemState if state.ended)))
    return "\n".join(lines) + "\n"


def _commands() -> str:
    """Those of redis.lua, which ends with the line that runs one, and before it those of webhooks.lua where one is run.

    What is not run is not even made: redis.lua's commands are as quick as without the others.
    """
    jobs, webhooks = (Path(__file__).with_name(name).read_text() for name in ("redis.lua", "webhooks.lua"))
    body, _, run = jobs.rstrip().rpartition("\n")
    return f"{body}\nif string.sub(ARGV[2], 1, 5) == 'hook_' then\n{webhooks}\nend\n{run}\n"


def _set(name: str, members: Iterable[StrEnum]) -> str:
    return f"local {name} = {{{', '.join(f'{member} = true' for member in members)}}}"


# How things are written down. Python writes lists whose trailing empty parts are left out; Lua writes its own records.


def packed_assignment(job: Assignment) -> bytes:
    fields = {name: value for name, value in asdict(job).items() if name not in ("tenant", "job_id")}
    return cast(bytes, msgpack.packb(fields))


def unpacked_assignment(tenant: str, job_id: str, packed: bytes) -> Assignment:
    fields: dict[str, Any] = msgpack.unpackb(packed)
    if fields["directory"]:
        directory = fields["directory"]
        globs = {name: tuple(directory[name]) for name in ("include_globs", "exclude_globs")}
        fields["directory"] = DirectoryImport(**{**directory, **globs})
    if fields.get("table"):
        table = fields["table"]
        names = {name: tuple(table[name]) for name in ("columns", "text_fields", "metadata_fields")}
        fields["table"] = TableImport(**{**table, **names, "format": RowFormat(table["format"])})
    fields["principals"] = tuple(fields.get("principals", ()))
    fields["type"] = JobType(fields["type"])
    fields["on_duplicate"] = OnDuplicate(fields["on_duplicate"])
    return Assignment(tenant=tenant, job_id=job_id, **fields)


def packed_spec(spec: DocumentSpec) -> bytes:
    parts: list[Any] = [
        spec.document_id,
        spec.path,
        bytes.fromhex(spec.content_hash),
        spec.source_uri,
        spec.title,
        spec.mime_type,
        spec.charset,
        json.dumps(spec.metadata, ensure_ascii=False, separators=(",", ":")) if spec.metadata else "",
        list(spec.principals),
        spec.refused,
    ]
    while not parts[-1]:
        parts.pop()
    return cast(bytes, msgpack.packb(parts))


def unpacked_spec(packed: bytes) -> DocumentSpec:
    parts: list[Any] = msgpack.unpackb(packed)
    missing: list[Any] = ["", "", b"", "", "", "", "", "", [], ""][len(parts) :]
    document_id, path, digest, source_uri, title, mime_type, charset, metadata, principals, refused = parts + missing
    return DocumentSpec(
        document_id=document_id,
        source_uri=source_uri,
        title=title,
        mime_type=mime_type,
        charset=charset,
        metadata=json.loads(metadata) if metadata else {},
        principals=tuple(principals),
        content_hash=digest.hex(),
        path=path,
        refused=refused,
    )


def packed_failure(failure: Failure | None) -> str:
    return json.dumps([failure.code, failure.reason, failure.message]) if failure else ""


def unpacked_failure(packed: bytes) -> Failure | None:
    return Failure(*json.loads(packed)) if packed else None


def packed_timings(timings_ms: Mapping[str, float]) -> str:
    return json.dumps({stage: round(ms, 1) for stage, ms in timings_ms.items()}) if timings_ms else ""


def unpacked_job(job: Assignment, snapshot: bytes) -> Job:
    (
        state, total, final, succeeded, failed, skipped, chunks, size, rate, attempt, create, start, update, end, purge,
        error, revision, now,
    ) = msgpack.unpackb(snapshot, raw=True)  # fmt: skip
    return Job(
        assignment=job,
        state=JobState(state.decode()),
        progress=Progress(total, bool(final), succeeded, failed, skipped, chunks, size, float(rate)),
        read_time=moment(now),
        create_time=moment(create),
        update_time=moment(update),
        start_time=moment(start) if start else None,
        end_time=moment(end) if end else None,
        purge_time=moment(purge) if purge else None,
        attempt=attempt,
        error=unpacked_failure(error),
        index_revision=revision,
    )


def unpacked_item(number: int, record: bytes, spec: DocumentSpec, job: Job | None = None) -> Item:
    """An item of a job. One that a cancelled job never came to counts as cancelled without being written to.

    Args:
        job: As it is; None where the item has ended.
    """
    state, attempts, _, _, create, end, chunks, size, error, timings, committing, *_ = msgpack.unpackb(record, raw=True)
    stands, end_time = ItemState(state.decode()), moment(end) if end else None
    cancelled = job is not None and job.state in (JobState.CANCELLING, JobState.CANCELLED)
    if stands is ItemState.QUEUED and cancelled and committing != 1:
        stands = ItemState.CANCELLED
    if job is not None and stands.ended:
        end_time = end_time or job.end_time
    return Item(
        number=number,
        spec=spec,
        state=stands,
        attempts=attempts,
        create_time=moment(create),
        end_time=end_time,
        chunks=chunks,
        size_bytes=size,
        error=unpacked_failure(error),
        timings_ms=json.loads(timings) if timings else {},
    )


def moment(milliseconds: float) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
