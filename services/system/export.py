"""All that a tenant keeps, record by record, in one pass and without holding more than a page of it."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any, Final

import structlog

from services.mesh.audit import AuditEvent
from services.mesh.errors import DeadlineExceeded, TenantNotFound, UploadNotFound
from services.mesh.identity import Caller, acting_for
from services.mesh.lists import Page
from services.mesh.status import is_expected
from services.system.audit import Audit
from services.system.operators import Operators
from services.system.ports import Archive, Archived
from services.system.quotas import Quotas
from services.system.records import Quota, Revocation, UsageRow
from services.system.revocations import Revocations
from services.system.usage import SearchUsage

# What the reads of an export need, whatever scopes the caller's token has besides `admin`. The last shows documents
# whatever their ACL says: who writes documents manages those of others too.
_SCOPES: Final = frozenset({"collections.read", "jobs.read", "admin", "documents.write"})
_PAGE: Final = 100
# Originals that were sent lately are not sent again: a hash each.
_REMEMBERED: Final = 10_000
# A stream says how it ended this long before its time is up, in seconds.
_MARGIN_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class OriginalPart:
    """A part of an original, and where in it it begins, in bytes."""

    content_hash: str
    offset_bytes: int
    data: bytes
    final: bool


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of an export, always its last record; with the error that ended it early."""

    error: Exception | None = None


Exported = Archived | OriginalPart | Quota | Revocation | UsageRow | AuditEvent | Ended


class Exports:
    """Reads as the caller, in the tenant, what each owner lists; what changes meanwhile may be in it or not."""

    def __init__(
        self,
        archive: Archive,
        quotas: Quotas,
        revocations: Revocations,
        usage: SearchUsage,
        audit: Audit,
        operators: Operators,
    ) -> None:
        self._archive = archive
        self._quotas = quotas
        self._revocations = revocations
        self._usage = usage
        self._audit = audit
        self._operators = operators
        self._log = structlog.get_logger("system.export")

    async def export(
        self, tenant: str, who: Caller, *, originals: bool, timeout_s: float | None = None
    ) -> AsyncGenerator[Exported, None]:
        """Quota; each collection with its documents, originals after the first that has them; jobs; webhooks;
        revocations; usage and audit events, the oldest first; then how it ended.

        Raises:
            TenantNotFound: It is another tenant, and the caller no operator; before anything else.
        """
        if tenant != who.tenant and not self._operators.include(who):
            raise TenantNotFound(f"no tenant tenants/{tenant}", tenant=f"tenants/{tenant}")
        reader = replace(who, tenant=tenant, scopes=who.scopes | _SCOPES)
        now = asyncio.get_running_loop().time
        until = inf if timeout_s is None else now() + timeout_s - _MARGIN_S
        try:
            with acting_for(reader):
                async for record in self._records(tenant, reader, originals):
                    yield record
                    if now() > until:
                        raise DeadlineExceeded("the export has reached its longest life; leave out the originals")
        except Exception as error:
            if not is_expected(error):
                self._log.error("export fails", tenant=tenant, exc_info=error)
            yield Ended(error)
        else:
            yield Ended()

    async def _records(self, tenant: str, reader: Caller, originals: bool) -> AsyncIterator[Exported]:
        yield await self._quotas.get(tenant, reader)
        async for record in self._documents(originals):
            yield record
        async for job in self._archive.jobs():
            yield job
        async for webhook in self._archive.webhooks():
            yield webhook
        async for revocation in _all(self._revocations.list_revocations, reader, "create_time"):
            yield revocation
        async for row in _all(self._usage.list_rows, reader, "start_time, collection_id"):
            yield row
        async for event in _all(self._audit.list_events, reader, "event_time"):
            yield event

    async def _documents(self, originals: bool) -> AsyncIterator[Archived | OriginalPart]:
        sent: OrderedDict[str, None] = OrderedDict()
        async for collection in self._archive.collections():
            yield collection
            async for document in self._archive.documents(collection.name):
                yield document
                content_hash = document.content_hash
                if not originals or not content_hash or content_hash in sent:
                    continue
                async for part in self._original(content_hash):
                    yield part
                sent[content_hash] = None
                if len(sent) > _REMEMBERED:
                    sent.popitem(last=False)

    async def _original(self, content_hash: str) -> AsyncIterator[OriginalPart]:
        """The parts of an original; none where it is not kept, as of a document that failed before it was read."""
        offset, last = 0, b""
        try:
            async for data in self._archive.original(content_hash):
                if last:
                    yield OriginalPart(content_hash, offset, last, final=False)
                    offset += len(last)
                last = data
        except UploadNotFound:
            return
        yield OriginalPart(content_hash, offset, last, final=True)


async def _all(listed: Callable[..., Any], who: Caller, order_by: str) -> AsyncIterator[Any]:
    """Every item of a list of this service's own, page by page."""
    token = ""
    while True:
        page: Page[Any] = await listed(who, filter="", order_by=order_by, page_size=_PAGE, page_token=token, page=0)
        items: Sequence[Any] = page.items
        for item in items:
            yield item
        if not (token := page.next_page_token):
            return
