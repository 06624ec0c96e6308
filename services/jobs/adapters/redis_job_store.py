"""The JobStore port over Redis."""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any

import msgpack  # type: ignore[import-untyped]

from services.jobs.adapters.redis import (
    Redis,
    check_recalled,
    moment,
    named,
    no_job,
    once,
    once_at_least,
    packed_assignment,
    packed_spec,
    unpacked_assignment,
    unpacked_item,
    unpacked_job,
)
from services.jobs.job import (
    Assignment,
    DeadLetter,
    DocumentSpec,
    Event,
    Item,
    ItemState,
    Job,
    Replayed,
    changed,
    no_dead_letter,
    not_to_be_forgotten,
    not_to_be_retried,
    state_of,
    still_running,
)
from services.jobs.listing import by_age, dead_letter_fields, dead_letter_place, item_fields, job_fields
from services.mesh import traces
from services.mesh.errors import FailedPrecondition, TenantDeleted
from services.mesh.filters import EVERYTHING, Filter, evaluate
from services.mesh.lists import ListQuery, Page, paginate
from services.mesh.receipts import REQUEST_TTL, Receipt

_BRIEFS_AT_ONCE = 1000
_JOBS_AT_ONCE = 500
_ITEMS_AT_ONCE = 500
_EVENTS_AT_ONCE = 200
# A watcher looks this often whether its job is still there.
_EVENT_WAIT_MS = 2000
# What one call of erase may take to look through the store, in seconds.
_ERASE_S = 20.0


class RedisJobStore:
    """Jobs of all tenants in one Redis.

    Args:
        retention_s: Ended jobs are forgotten after so long.
        remember_s: Request ids are, after so long.
    """

    def __init__(self, redis: Redis, *, retention_s: float, remember_s: float = REQUEST_TTL.total_seconds()) -> None:
        self._redis = redis
        self._retention_ms = int(retention_s * 1000)
        self._remember_ms = int(remember_s * 1000)

    async def recall(self, receipt: Receipt) -> str | None:
        answer = await self._redis.run("recall", tenant=named(receipt.tenant), **self._once(receipt))
        return _remembered(answer, receipt) if answer[0] != b"NEW" else None

    async def submit(self, job: Assignment, items: Sequence[DocumentSpec], receipt: Receipt | None = None) -> str:
        answer = await self._redis.run(
            "submit",
            tenant=named(job.tenant),
            job=job.job_id,
            about=packed_assignment(job),
            specs=[packed_spec(item) for item in items],
            documents=[item.document_id for item in items],
            collection=job.collection_id,
            uid=job.collection_uid,
            type=str(job.type),
            full=int(job.full),
            sole=job.sole,
            by=_by(),
            retention_ms=self._retention_ms,
            **self._once(receipt),
        )
        if answer[0] == b"ERASED":
            raise TenantDeleted("the tenant was deleted; nothing is kept for it")
        if answer[0] == b"BUSY":
            raise still_running("", answer[1].decode())
        return _remembered(answer, receipt)

    async def get(self, tenant: str, job_id: str) -> Job:
        for job in await self._read(tenant, [job_id]):
            return job
        raise no_job(job_id)

    async def list_jobs(self, tenant: str, query: ListQuery) -> Page[Job]:
        """Only the page's jobs are read whole; of the others nothing where they go by age, else what is looked at."""
        if by_age(query) and (page := await self._by_age(tenant, query)) is not None:
            return page
        listed = await self._redis.run("list", tenant=named(tenant))
        found = paginate(await self._briefs(tenant, [job.decode() for job in listed]), query, lambda place: place)
        jobs = await self._read(tenant, [place["name"].removeprefix("jobs/") for place in found.items])
        return Page(tuple(jobs), found.next_page_token, found.total_size)

    async def _by_age(self, tenant: str, query: ListQuery) -> Page[Job] | None:
        """The page, read as such; None where that cannot be, such as when the job it is to begin after is gone."""
        total, ids = await self._redis.run(
            "by_age",
            tenant=named(tenant),
            newest=int(query.order[0].descending),
            after=str(query.cursor[-1]).removeprefix("jobs/") if query.cursor else "",
            skip=query.offset,
            count=query.page_size + 1,
        )
        if ids is None:
            return None
        jobs = await self._read(tenant, [job.decode() for job in ids])
        if len(jobs) < len(ids):  # one was forgotten just now: whether another page follows is told otherwise
            return None
        return query.page(jobs, total, lambda job: job_fields(job.id, job.create_time))

    async def _briefs(self, tenant: str, ids: Sequence[str]) -> list[Mapping[str, Any]]:
        """Those of the jobs that there are, as filters and orders see them."""
        found = []
        for start in range(0, len(ids), _BRIEFS_AT_ONCE):
            some = ids[start : start + _BRIEFS_AT_ONCE]
            briefs = await self._redis.run("brief", tenant=named(tenant), jobs=some)
            for job_id, brief in zip(some, briefs, strict=True):
                if brief:
                    state, create, update, end, collection, type = brief
                    if not collection:  # recorded by a version that did not write it there
                        assignment = await self._redis.assignment(tenant, job_id)
                        collection, type = assignment.collection_id.encode(), assignment.type.encode()
                    found.append(
                        job_fields(
                            job_id,
                            moment(float(create)),
                            collection_id=collection.decode(),
                            type=type.decode(),
                            state=state.decode(),
                            update_time=moment(float(update)),
                            end_time=moment(float(end)) if float(end) else None,
                        )
                    )
        return found

    async def list_items(
        self, tenant: str, job_id: str, query: ListQuery, seen: Callable[[Item], Item] = lambda item: item
    ) -> Page[Item]:
        """Items are kept by number, so a page without a filter is read as such; a filter looks at every item."""
        job = await self.get(tenant, job_id)
        total = job.progress.total
        descending = query.order[0].descending
        numbers = range(total, 0, -1) if descending else range(1, total + 1)
        fields = partial(item_fields, job.assignment.collection_id)
        if query.filter == EVERYTHING:
            skip = query.offset
            if query.cursor is not None:
                last = int(str(query.cursor[0]))
                skip = total - last + 1 if descending else last
            rows = await self._items(job, numbers[skip : skip + query.page_size + 1])
            return query.page([seen(item) for item in rows], total, fields)
        found = [
            item
            for start in range(0, total, _ITEMS_AT_ONCE)
            for item in map(seen, await self._items(job, numbers[start : start + _ITEMS_AT_ONCE]))
            if evaluate(query.filter, fields(item))
        ]
        return paginate(found, query, fields)

    async def cancel(self, tenant: str, job_id: str, *, etag: str = "", receipt: Receipt | None = None) -> Job:
        answer = await self._change("cancel", tenant, job_id, etag, receipt)
        if answer[0] == b"REFUSED":
            raise FailedPrecondition(f"jobs/{job_id} has ended already", job=job_id)
        return await self.get(tenant, job_id)

    async def retry(self, tenant: str, job_id: str, *, etag: str = "", receipt: Receipt | None = None) -> Job:
        answer = await self._change("retry", tenant, job_id, etag, receipt, by=_by())
        if answer[0] == b"REFUSED":
            raise not_to_be_retried(job_id)
        if answer[0] == b"BUSY":
            raise still_running(job_id, answer[1].decode())
        if answer[0] == b"FORGOTTEN":
            raise FailedPrecondition(f"jobs/{job_id}: its list of documents is gone; import them again", job=job_id)
        return await self.get(tenant, job_id)

    async def delete(self, tenant: str, job_id: str, *, etag: str = "", receipt: Receipt | None = None) -> Job:
        answer = await self._change("delete", tenant, job_id, etag, receipt)
        if answer[0] == b"REFUSED":
            raise not_to_be_forgotten(job_id)
        snapshot, about = msgpack.unpackb(answer[2], raw=True)
        return unpacked_job(unpacked_assignment(tenant, job_id, about), snapshot)

    async def _change(
        self, command: str, tenant: str, job_id: str, etag: str, receipt: Receipt | None, **more: str
    ) -> Sequence[bytes]:
        attempt, state = state_of(etag) if etag else (0, "")
        answer: Sequence[bytes] = await self._redis.run(
            command,
            tenant=named(tenant),
            job=job_id,
            attempt=attempt,
            state=state,
            **more,
            **self._once_at_least(receipt),
        )
        if answer[0] == b"MISSING":
            raise no_job(job_id)
        if answer[0] == b"CHANGED":
            raise changed(job_id)
        if answer[0] == b"OTHER":
            _remembered(answer, receipt)
        return answer

    async def list_dead_letters(
        self, tenant: str, query: ListQuery, seen: Callable[[Item], Item] = lambda item: item
    ) -> Page[DeadLetter]:
        places = await self._dead(tenant)
        if query.filter != EVERYTHING or query.order[0].field != "create_time":
            return paginate(await self._letters(tenant, places, seen), query, dead_letter_fields)
        page = paginate(places, query, lambda place: dead_letter_place(*place))
        letters = await self._letters(tenant, page.items, seen)
        return Page(tuple(letters), page.next_page_token, page.total_size)

    async def find_dead_letters(
        self, tenant: str, filter: Filter, limit: int, seen: Callable[[Item], Item] = lambda item: item
    ) -> list[tuple[str, int]]:
        found = [
            letter
            for letter in await self._letters(tenant, await self._dead(tenant), seen)
            if letter.job.state.may_be_replayed and evaluate(filter, dead_letter_fields(letter))
        ]
        found.sort(key=lambda letter: (letter.item.end_time, letter.job.id, letter.item.number))
        return [(letter.job.id, letter.item.number) for letter in found[:limit]]

    async def replay(
        self,
        tenant: str,
        letters: Sequence[tuple[str, int]],
        *,
        all_or_none: bool,
        receipt: Receipt | None = None,
        validate_only: bool = False,
    ) -> Replayed:
        answer = await self._redis.run(
            "replay",
            tenant=named(tenant),
            letters=[list(letter) for letter in letters],
            strict=int(all_or_none),
            dry=int(validate_only),
            by=_by(),
            **self._once_at_least(receipt),
        )
        match answer[0]:
            case b"MISSING":
                raise no_dead_letter(f"{answer[1].decode()}-{answer[2]}")
            case b"REFUSED":
                job = answer[1].decode()
                raise FailedPrecondition(f"jobs/{job} was cancelled; resume it by retrying it", job=job)
            case b"BUSY":
                raise still_running(answer[1].decode(), answer[2].decode())
            case b"OTHER":
                _remembered(answer, receipt)
        count, jobs = msgpack.unpackb(answer[2])
        return Replayed(count, tuple(jobs))

    async def _dead(self, tenant: str) -> list[tuple[str, int, datetime]]:
        """Job, number and time of the items that failed, the oldest of each job first."""
        return [
            (job.decode(), int(number), moment(float(when)))
            for job, failed in await self._redis.run("dead", tenant=named(tenant))
            for number, when in zip(failed[::2], failed[1::2], strict=True)
        ]

    async def _letters(
        self, tenant: str, places: Sequence[tuple[str, int, datetime]], seen: Callable[[Item], Item]
    ) -> list[DeadLetter]:
        """Those of the dead letters that there still are, in the order given."""
        ids = list(dict.fromkeys(job_id for job_id, _, _ in places))
        jobs: dict[str, Job] = {}
        for start in range(0, len(ids), _JOBS_AT_ONCE):
            jobs |= {job.id: job for job in await self._read(tenant, ids[start : start + _JOBS_AT_ONCE])}
        found: dict[tuple[str, int], DeadLetter] = {}
        for job in jobs.values():
            numbers = [number for job_id, number, _ in places if job_id == job.id]
            for start in range(0, len(numbers), _ITEMS_AT_ONCE):
                for item in await self._items(job, numbers[start : start + _ITEMS_AT_ONCE]):
                    if item.state is ItemState.FAILED:
                        found[job.id, item.number] = DeadLetter(job, seen(item))
        return [found[place[:2]] for place in places if place[:2] in found]

    async def events(self, tenant: str, job_id: str, after: int) -> AsyncGenerator[Event, None]:
        key = self._redis.key(tenant, "events", job_id)
        while True:
            # Asked before reading: nothing is added to what an ended job's events are then, unless it runs again.
            ended = (await self.get(tenant, job_id)).state.ended
            async with self._redis.answering():
                found = await self._redis.client.xread(
                    {key: f"{after}-0"}, count=_EVENTS_AT_ONCE, block=None if ended else _EVENT_WAIT_MS
                )
            entries = found[0][1] if found else []
            for event in await self._events(tenant, job_id, entries):
                yield event
                after, ended = event.sequence, event.job.state.ended
            if ended and len(entries) < _EVENTS_AT_ONCE:
                return

    async def _events(
        self, tenant: str, job_id: str, entries: Sequence[tuple[bytes, Mapping[bytes, bytes]]]
    ) -> list[Event]:
        assignment = await self._redis.assignment(tenant, job_id)
        numbers = [int(fields[b"n"]) for _, fields in entries if b"n" in fields]
        specs = dict(zip(numbers, await self._redis.specs(assignment, numbers), strict=False))
        events = []
        for entry, fields in entries:
            job = unpacked_job(assignment, fields[b"s"])
            number = int(fields.get(b"n", 0))
            item = unpacked_item(number, fields[b"i"], specs[number], job) if number in specs else None
            events.append(Event(int(entry.partition(b"-")[0]), job.read_time, job, item))
        return events

    async def forget_ended(self, limit: int) -> int:
        return int(await self._redis.run("forget", limit=limit))

    async def erase(self, tenant: str) -> tuple[int, bool]:
        await self._redis.run("bar", tenant=named(tenant))
        dropped, done = await self._redis.unlinked(tenant, within_s=_ERASE_S)
        cursor = 0
        while True:
            cursor, members = await self._redis.delayed(cursor)
            if members:
                dropped += int(await self._redis.run("undelay", tenant=named(tenant), members=members))
            if not cursor:
                return dropped, done

    async def admit(self, tenant: str) -> None:
        await self._redis.run("admit", tenant=named(tenant))

    async def _read(self, tenant: str, ids: Sequence[str]) -> list[Job]:
        """Those of the jobs that there are, in the order of the ids."""
        found = await self._redis.run("read", tenant=named(tenant), jobs=list(ids))
        if not found:
            return []
        async with self._redis.answering():
            about = await self._redis.client.mget([self._redis.key(tenant, "about", job.decode()) for job, _ in found])
        return [
            unpacked_job(unpacked_assignment(tenant, job.decode(), packed), snapshot)
            for (job, snapshot), packed in zip(found, about, strict=True)
            if packed is not None
        ]

    async def _items(self, job: Job, numbers: Sequence[int]) -> list[Item]:
        if not numbers:
            return []
        async with self._redis.answering():
            records = await self._redis.client.hmget(self._redis.key(job.assignment.tenant, "items", job.id), numbers)
        specs = await self._redis.specs(job.assignment, numbers)
        return [
            unpacked_item(number, record, spec, job)
            for number, record, spec in zip(numbers, records, specs, strict=False)
            if record is not None
        ]

    def _once(self, receipt: Receipt | None) -> dict[str, Any]:
        return once(receipt, self._remember_ms)

    def _once_at_least(self, receipt: Receipt | None) -> dict[str, Any]:
        return once_at_least(receipt, self._remember_ms)


def _by() -> str:
    """The traceparent of the call that has work queued; "" where none does."""
    here = traces.current()
    return here.traceparent if here else ""


def _remembered(answer: Sequence[bytes], receipt: Receipt | None) -> str:
    check_recalled(answer, receipt)
    return answer[1].decode()
