"""Jobs as callers ask for them: read, listed, followed, cancelled, retried, forgotten; and their dead letters."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from functools import partial
from typing import Final

from services.jobs.job import DeadLetter, Event, Item, Job, Replayed, changed, item_of, state_of
from services.jobs.listing import dead_letters_filter, dead_letters_query, items_query, jobs_query
from services.jobs.ports import JobStore
from services.jobs.streams import Ended, Streams
from services.jobs.visibility import event_for, item_for
from services.mesh.errors import InvalidArgument, RequestIdReused
from services.mesh.identity import Caller
from services.mesh.lists import Page
from services.mesh.receipts import Receipt

# Dead letters of one replay by filter.
_REPLAYED_AT_ONCE: Final = 10_000
_IMPORT: Final = "ImportDocuments"


class Jobs:
    """The jobs of each tenant; another tenant's do not exist."""

    def __init__(self, store: JobStore, streams: Streams) -> None:
        self._store = store
        self._streams = streams

    async def get(self, tenant: str, job_id: str) -> Job:
        """Raises JobNotFound."""
        return await self._store.get(tenant, job_id)

    async def list_jobs(
        self, tenant: str, *, filter: str, order_by: str, page_size: int, page_token: str, page: int
    ) -> Page[Job]:
        """Raises InvalidArgument, InvalidFilter, InvalidPageToken."""
        query = jobs_query(filter=filter, order_by=order_by, page_size=page_size, page_token=page_token, page=page)
        return await self._store.list_jobs(tenant, query)

    async def list_items(
        self, who: Caller, job_id: str, *, filter: str, order_by: str, page_size: int, page_token: str, page: int
    ) -> tuple[Job, Page[Item]]:
        """The job's items as the caller may see them.

        Raises:
            JobNotFound, InvalidArgument, InvalidFilter, InvalidPageToken
        """
        query = items_query(
            job_id, filter=filter, order_by=order_by, page_size=page_size, page_token=page_token, page=page
        )
        job = await self._store.get(who.tenant, job_id)
        return job, await self._store.list_items(who.tenant, job_id, query, partial(item_for, who))

    async def find_imports(self, tenant: str, request_ids: Sequence[str]) -> list[str]:
        """Those of the request ids that imports were queued by, as long as these are remembered."""
        found = []
        for request_id in request_ids:
            try:
                if await self._store.recall(Receipt(tenant, _IMPORT, request_id, "")) is not None:
                    found.append(request_id)
            except RequestIdReused:  # known, by a digest that nobody here can tell
                found.append(request_id)
        return found

    async def cancel(
        self,
        tenant: str,
        job_id: str,
        *,
        etag: str = "",
        receipt: Receipt | None = None,
        validate_only: bool = False,
    ) -> Job:
        """The job, cancelled or about to be.

        Raises:
            JobNotFound: there is no such job.
            FailedPrecondition: it has ended otherwise.
            EtagMismatch: `etag` is given and the job has another.
            RequestIdReused: the request id stands for another request.
        """
        if not validate_only:
            return await self._store.cancel(tenant, job_id, etag=etag, receipt=receipt)
        return (await self._unchanged(tenant, job_id, etag)).cancelled()

    async def retry(
        self,
        tenant: str,
        job_id: str,
        *,
        etag: str = "",
        receipt: Receipt | None = None,
        validate_only: bool = False,
    ) -> Job:
        """The job, what failed or was cancelled of it queued again.

        Raises:
            JobNotFound: there is no such job.
            FailedPrecondition: it has not ended, or there is nothing of that kind.
            EtagMismatch: `etag` is given and the job has another.
            RequestIdReused: the request id stands for another request.
        """
        if not validate_only:
            return await self._store.retry(tenant, job_id, etag=etag, receipt=receipt)
        return (await self._unchanged(tenant, job_id, etag)).retried()

    async def delete(
        self,
        tenant: str,
        job_id: str,
        *,
        etag: str = "",
        receipt: Receipt | None = None,
        validate_only: bool = False,
    ) -> Job:
        """The job as it was; it is forgotten.

        Raises:
            JobNotFound: there is no such job.
            FailedPrecondition: it has not ended.
            EtagMismatch: `etag` is given and the job has another.
            RequestIdReused: the request id stands for another request.
        """
        if not validate_only:
            return await self._store.delete(tenant, job_id, etag=etag, receipt=receipt)
        return (await self._unchanged(tenant, job_id, etag)).forgotten()

    async def _unchanged(self, tenant: str, job_id: str, etag: str) -> Job:
        """The job. Raises EtagMismatch where `etag` is given and the job has another."""
        job = await self._store.get(tenant, job_id)
        if etag and state_of(etag) != (job.attempt, job.state):
            raise changed(job_id)
        return job

    async def list_dead_letters(
        self, who: Caller, *, filter: str, order_by: str, page_size: int, page_token: str, page: int
    ) -> Page[DeadLetter]:
        """The tenant's dead letters as the caller may see them.

        Raises:
            InvalidArgument, InvalidFilter, InvalidPageToken
        """
        query = dead_letters_query(
            filter=filter, order_by=order_by, page_size=page_size, page_token=page_token, page=page
        )
        return await self._store.list_dead_letters(who.tenant, query, partial(item_for, who))

    async def replay(
        self,
        who: Caller,
        dead_letter_ids: Sequence[str],
        filter: str,
        *,
        receipt: Receipt | None = None,
        validate_only: bool = False,
    ) -> Replayed:
        """The dead letters named, or else those that match the filter ("*": all), queued again.

        Raises:
            InvalidArgument: neither is given, or both.
            InvalidFilter: the filter does not parse.
            DeadLetterNotFound: one that is named is not there; none was queued.
            FailedPrecondition: one that is named is of a cancelled job; none was queued.
            RequestIdReused: the request id stands for another request.
        """
        if bool(dead_letter_ids) == bool(filter.strip()):
            raise InvalidArgument.of("names", "give either names or a filter; the filter `*` is all there are")
        if dead_letter_ids:
            letters = [item_of(each) for each in dict.fromkeys(dead_letter_ids)]
        else:
            wanted = dead_letters_filter("" if filter.strip() == "*" else filter)
            letters = await self._store.find_dead_letters(who.tenant, wanted, _REPLAYED_AT_ONCE, partial(item_for, who))
        return await self._store.replay(
            who.tenant, letters, all_or_none=bool(dead_letter_ids), receipt=receipt, validate_only=validate_only
        )

    async def watch(
        self, who: Caller, job_id: str, after: int, timeout_s: float | None
    ) -> AsyncGenerator[Event | Ended, None]:
        """The events after that sequence, as they come, then how it ended: with the job, or with an error to resume at.

        Raises:
            JobNotFound: there is no such job; before anything else.
        """
        await self._store.get(who.tenant, job_id)
        events = self._store.events(who.tenant, job_id, after)
        async with aclosing(self._streams.told(events, after, timeout_s)) as told:
            async for each in told:
                yield event_for(who, each) if isinstance(each, Event) else each
