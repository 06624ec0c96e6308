"""The system's stores in memory: for tests, and the reference the database is held to."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from services.mesh.audit import AuditEvent
from services.mesh.errors import RevocationNotFound
from services.mesh.lists import ListQuery, Page, paginate
from services.mesh.receipts import Receipt
from services.system.audit import event_fields
from services.system.ports import Asked
from services.system.records import Figures, Quota, Revocation, Tenant, TenantState, UsageRow
from services.system.revocations import revocation_fields
from services.system.usage import row_fields


class MemoryAuditLog:
    """Fulfils AuditLog; nothing awaits, so every method is one step."""

    def __init__(self) -> None:
        self._events: dict[str, AuditEvent] = {}

    async def record(self, events: Sequence[AuditEvent]) -> None:
        for event in events:
            if event.code or event.event_id not in self._events:
                self._events[event.event_id] = event

    async def list_events(self, tenant: str, query: ListQuery) -> Page[AuditEvent]:
        return paginate((each for each in self._events.values() if each.tenant == tenant), query, event_fields)

    async def prune(self, before: datetime, limit: int) -> int:
        return self._drop([each for each in self._events.values() if each.event_time < before][:limit])

    async def erase(self, tenant: str, limit: int) -> int:
        return self._drop([each for each in self._events.values() if each.tenant == tenant][:limit])

    def _drop(self, events: Sequence[AuditEvent]) -> int:
        for event in events:
            del self._events[event.event_id]
        return len(events)


class MemoryQuotaStore:
    """Fulfils QuotaStore; nothing awaits, so every method is one step."""

    def __init__(self) -> None:
        self._quotas: dict[str, Quota] = {}
        self._answers: dict[tuple[str, str, str], tuple[str, Quota]] = {}

    async def find(self, tenant: str) -> Quota | None:
        return self._quotas.get(tenant)

    async def write(
        self, tenant: str, change: Callable[[Quota | None], Quota], receipt: Receipt | None = None
    ) -> Quota:
        if receipt and (answered := await self.recall(receipt)):
            return answered
        changed = change(self._quotas.get(tenant))
        if changed.update_time:
            self._quotas[tenant] = changed
        if receipt:
            self._answers[receipt.tenant, receipt.method, receipt.request_id] = receipt.digest, changed
        return changed

    async def recall(self, receipt: Receipt) -> Quota | None:
        known = self._answers.get((receipt.tenant, receipt.method, receipt.request_id))
        if known is None:
            return None
        receipt.check(known[0])
        return known[1]

    async def erase(self, tenant: str) -> int:
        return int(self._quotas.pop(tenant, None) is not None)


class MemoryRevocationStore:
    """Fulfils RevocationStore; nothing awaits, so every method is one step."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, str], Revocation] = {}
        self._answers: dict[tuple[str, str, str], tuple[str, Revocation]] = {}

    async def add(self, revocation: Revocation, receipt: Receipt | None = None) -> Revocation:
        if receipt and (answered := await self.recall(receipt)):
            return answered
        self._held[revocation.tenant, revocation.revocation_id] = revocation
        return self._answered(receipt, revocation)

    async def find(self, tenant: str, revocation_id: str, at: datetime) -> Revocation | None:
        found = self._held.get((tenant, revocation_id))
        return found if found and _holds(found, at) else None

    async def list_revocations(self, tenant: str, query: ListQuery, at: datetime) -> Page[Revocation]:
        of = [each for each in self._held.values() if each.tenant == tenant and (each.subject or each.token_id)]
        return paginate((each for each in of if _holds(each, at)), query, revocation_fields)

    async def count(self, tenant: str) -> int:
        return sum(each.tenant == tenant for each in self._held.values())

    async def remove(self, revocation: Revocation, receipt: Receipt | None = None) -> Revocation:
        if receipt and (answered := await self.recall(receipt)):
            return answered
        key = (revocation.tenant, revocation.revocation_id)
        found = self._held.get(key)
        if found is None or found.etag != revocation.etag:
            raise RevocationNotFound(f"no revocation {revocation.name!r}", revocation=revocation.name)
        del self._held[key]
        return self._answered(receipt, revocation)

    async def recall(self, receipt: Receipt) -> Revocation | None:
        known = self._answers.get((receipt.tenant, receipt.method, receipt.request_id))
        if known is None:
            return None
        receipt.check(known[0])
        return known[1]

    async def holding(self, at: datetime) -> Sequence[Revocation]:
        return [each for each in self._held.values() if _holds(each, at)]

    async def prune(self, at: datetime) -> None:
        self._held = {key: each for key, each in self._held.items() if _holds(each, at)}

    async def erase(self, tenant: str) -> int:
        gone = [key for key, each in self._held.items() if key[0] == tenant and (each.subject or each.token_id)]
        for key in gone:
            del self._held[key]
        return len(gone)

    def _answered(self, receipt: Receipt | None, revocation: Revocation) -> Revocation:
        if receipt:
            self._answers[receipt.tenant, receipt.method, receipt.request_id] = receipt.digest, revocation
        return revocation


def _holds(revocation: Revocation, at: datetime) -> bool:
    return revocation.expire_time is None or revocation.expire_time > at


class MemoryUsageStore:
    """Fulfils UsageStore; nothing awaits, so every method is one step."""

    def __init__(self) -> None:
        self._rows: dict[tuple[object, ...], UsageRow] = {}
        self._batches: dict[str, datetime] = {}

    async def add(self, batch_id: str, rows: Sequence[UsageRow], at: datetime) -> bool:
        if batch_id in self._batches:
            return False
        self._batches[batch_id] = at
        for row in rows:
            known = self._rows.get(row.key)
            self._rows[row.key] = replace(row, figures=known.figures + row.figures) if known else row
        return True

    async def list_rows(self, asked: Asked, query: ListQuery) -> Page[UsageRow]:
        return paginate((each for each in self._of(asked) if each.collection_uid), query, row_fields)

    async def total(self, asked: Asked) -> Figures:
        rows = (each for each in self._of(asked) if bool(each.collection_uid) is bool(asked.collection_id))
        return sum((each.figures for each in rows), Figures())

    async def prune(self, before: datetime, limit: int) -> int:
        return self._drop([key for key, each in self._rows.items() if each.start_time < before][:limit])

    async def forget(self, before: datetime) -> int:
        old = [each for each, at in self._batches.items() if at < before]
        for each in old:
            del self._batches[each]
        return len(old)

    async def erase(self, tenant: str, limit: int) -> int:
        return self._drop([key for key, each in self._rows.items() if each.tenant == tenant][:limit])

    def _of(self, asked: Asked) -> list[UsageRow]:
        of = [each for each in self._rows.values() if each.tenant == asked.tenant]
        of = [each for each in of if each.granularity is asked.granularity]
        of = [each for each in of if asked.since <= each.start_time < asked.until]
        return [each for each in of if asked.collection_id in ("", each.collection_id)]

    def _drop(self, keys: Sequence[tuple[object, ...]]) -> int:
        for key in keys:
            del self._rows[key]
        return len(keys)


class MemoryTenantStore:
    """Fulfils TenantStore; nothing awaits, so every method is one step."""

    def __init__(self) -> None:
        self._tenants: dict[str, Tenant] = {}
        self._answers: dict[tuple[str, str, str], tuple[str, Tenant]] = {}

    async def find(self, tenant: str) -> Tenant | None:
        return self._tenants.get(tenant)

    async def gone(self, tenants: Collection[str]) -> frozenset[str]:
        return frozenset(each for each in tenants if each in self._tenants)

    async def deleted(self) -> Mapping[str, datetime]:
        return {name: each.delete_time for name, each in self._tenants.items() if each.delete_time}

    async def deleting(self) -> Sequence[Tenant]:
        return [each for each in self._tenants.values() if each.state is TenantState.DELETING]

    async def write(
        self, tenant: str, change: Callable[[Tenant | None], Tenant], receipt: Receipt | None = None
    ) -> Tenant:
        if receipt and (answered := await self.recall(receipt)):
            return answered
        changed = change(self._tenants.get(tenant))
        self._tenants[tenant] = changed
        if changed.state is TenantState.ACTIVE:
            del self._tenants[tenant]
        if receipt:
            self._answers[receipt.tenant, receipt.method, receipt.request_id] = receipt.digest, changed
        return changed

    async def recall(self, receipt: Receipt) -> Tenant | None:
        known = self._answers.get((receipt.tenant, receipt.method, receipt.request_id))
        if known is None:
            return None
        receipt.check(known[0])
        return known[1]
