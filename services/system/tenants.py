"""Tenants as a whole: where each stands, and their deletion, seen through by whichever process is alive."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final

import grpc
import structlog

from services.mesh.audit import AuditEvent
from services.mesh.errors import DependencyUnavailable, FailedPrecondition, TenantNotFound
from services.mesh.identity import Caller
from services.mesh.receipts import Receipt, once
from services.system.operators import Operators
from services.system.ports import Compaction, DenyTenants, Owner, TenantRecords, TenantStore
from services.system.records import Part, Tenant, TenantState

_METHOD: Final = "/ragweave.v1.SystemService/DeleteTenant"
_REASON: Final = "the tenant is deleted"


class Tenants:
    """Deletions are recorded, then carried out by `running`, in as many processes as there are.

    First the tenant is denied. Then every owner is asked to erase, again and again, until it finds nothing. What was
    under way when the tenant was denied may still have written something, so once all of that has ended, `settle` after
    the denial, every owner has to find nothing once more. Nothing depends on who began a step, or how often.

    Args:
        owners: Who keeps something of tenants, by the name of its service; `records` is this service's own.
        settle: How long after its denial something asked for before may still be written: the time until every process
            knows, and that of the longest call.
        pause_s: Seconds between two rounds while a deletion is not done.
        look_s: Seconds between two looks at what another process may have recorded.
    """

    def __init__(
        self,
        store: TenantStore,
        records: TenantRecords,
        denials: DenyTenants,
        owners: Sequence[Owner],
        compaction: Compaction,
        operators: Operators,
        *,
        settle: timedelta,
        pause_s: float = 1.0,
        look_s: float = 5.0,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._store = store
        self._records = records
        self._denials = denials
        self._owners: Sequence[Owner] = (*owners, records)
        self._compaction = compaction
        self._operators = operators
        self._settle = settle
        self._pause_s = pause_s
        self._look_s = look_s
        self._clock = clock
        self._woken = asyncio.Event()
        self._log = structlog.get_logger("system.tenants")

    async def get(self, tenant: str, who: Caller) -> Tenant:
        """Where a tenant stands. Raises TenantNotFound for another's, but to an operator."""
        self._check_sees(tenant, who)
        return await self._store.find(tenant) or Tenant(tenant)

    async def delete(
        self, tenant: str, who: Caller, *, receipt: Receipt | None = None, validate_only: bool = False
    ) -> Tenant:
        """Records that a tenant is to go, for good; one that goes already, or is gone, is answered as it is.

        Raises:
            TenantNotFound: It is another tenant, and the caller no operator.
            FailedPrecondition: It is the operators' own.
            RequestIdReused: The receipt is known with another body.
        """
        self._check_sees(tenant, who)
        if self._operators.are(tenant):
            raise FailedPrecondition(f"tenants/{tenant} is the operators' own: nobody could see its deletion through")

        def change(current: Tenant | None) -> Tenant:
            if current is not None:
                return current
            parts = tuple(Part(owner.service) for owner in self._owners)
            return Tenant(tenant, TenantState.DELETING, parts, subject=who.subject, delete_time=self._clock())

        async def work() -> Tenant:
            if validate_only:
                return change(await self._store.find(tenant))
            return await self._store.write(tenant, change, receipt)

        recorded = await once(receipt, self._store.recall, work)
        self._woken.set()
        return recorded

    async def restore(
        self, tenant: str, who: Caller, *, receipt: Receipt | None = None, validate_only: bool = False
    ) -> Tenant:
        """Lets a deleted tenant in again, empty. May be repeated, which ends what was interrupted.

        Raises:
            TenantNotFound: The caller is no operator.
            FailedPrecondition: Its deletion has not ended.
            DependencyUnavailable: An owner does not answer; it stays out.
        """
        if not self._operators.include(who):
            raise _not_found(tenant)

        def change(current: Tenant | None) -> Tenant:
            if current is not None and current.state is TenantState.DELETING:
                raise FailedPrecondition(f"{current.name} is still being erased; GetTenant tells how far it is")
            return Tenant(tenant)

        async def work() -> Tenant:
            admitted = change(await self._store.find(tenant))
            if validate_only:
                return admitted
            for owner in self._owners:
                await owner.admit(tenant)
            await self._denials.allow_tenant(tenant)
            return await self._store.write(tenant, change, receipt)

        return await once(receipt, self._store.recall, work)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Sees deletions through inside the block."""
        task = asyncio.create_task(self._run())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def advance(self) -> bool:
        """One round for every tenant that is being deleted; whether there is none left."""
        deleting = await self._store.deleting()
        for each in deleting:
            try:
                await self._advance(each)
            except DependencyUnavailable as error:
                self._log.warning("deletion waits", tenant=each.tenant, reason=error.message)
            except Exception:
                self._log.exception("deletion does not get on", tenant=each.tenant)
        return not deleting

    async def _run(self) -> None:
        while True:
            self._woken.clear()
            done = False
            try:
                done = await self.advance()
            except DependencyUnavailable as error:
                self._log.warning("deletions wait", reason=error.message)
            except Exception:
                self._log.exception("deletions do not get on")
            with suppress(TimeoutError):
                async with asyncio.timeout(self._look_s if done else self._pause_s):
                    await self._woken.wait()

    async def _advance(self, deleting: Tenant) -> None:
        tenant = deleting.tenant
        if deleting.deny_time is None:
            await self._denials.deny_tenant(tenant, creator=deleting.subject, reason=_REASON)
            denied_at = self._clock()
            deleting = await self._note(deleting, lambda current: replace(current, deny_time=denied_at))
        for owner in self._owners:
            part = deleting.part(owner.service)
            settled = deleting.deny_time is not None and self._clock() >= deleting.deny_time + self._settle
            if part.confirmed or (part.erased and not settled):
                continue
            part = await self._erased(owner, tenant, settled=settled)
            deleting = await self._note(deleting, lambda current, part=part: current.with_part(part))  # type: ignore[misc]
        if deleting.state is TenantState.DELETING and all(part.confirmed for part in deleting.parts):
            await self._finish(deleting)

    async def _erased(self, owner: Owner, tenant: str, *, settled: bool) -> Part:
        """What became of asking until the owner finds nothing, fails, or has had its turn."""
        try:
            for _ in range(_CALLS_A_TURN):
                if await owner.erase(tenant):
                    return Part(owner.service, erased=True, confirmed=settled)
        except DependencyUnavailable as error:
            self._log.info("erasure waits", tenant=tenant, service=owner.service, reason=error.message)
            return Part(owner.service, code=grpc.StatusCode.UNAVAILABLE.value[0], message=error.message)
        except Exception:
            self._log.exception("erasure fails", tenant=tenant, service=owner.service)
            return Part(owner.service, code=grpc.StatusCode.INTERNAL.value[0], message=f"{owner.service} fails")
        return Part(owner.service)

    async def _finish(self, deleting: Tenant) -> None:
        """Nothing is left but in the history that the stores keep for a crash; then that is gone too."""
        await self._compaction.compact()
        await self._records.record(_deletion(deleting))
        purged_at = self._clock()
        gone = await self._note(
            deleting, lambda current: replace(current, state=TenantState.DELETED, purge_time=purged_at)
        )
        await self._records.record(_deletion(deleting))  # another process may have been erasing just then
        self._log.info("tenant deleted", tenant=gone.tenant)

    async def _note(self, deleting: Tenant, change: Callable[[Tenant], Tenant]) -> Tenant:
        """Writes what has become of this deletion; one that another process has ended meanwhile stays as it is."""

        def unless_ended(current: Tenant | None) -> Tenant:
            if current is None or current.delete_time != deleting.delete_time:
                return current or Tenant(deleting.tenant)
            return change(current) if current.state is TenantState.DELETING else current

        return await self._store.write(deleting.tenant, unless_ended)

    def _check_sees(self, tenant: str, who: Caller) -> None:
        if tenant != who.tenant and not self._operators.include(who):
            raise _not_found(tenant)


_CALLS_A_TURN: Final = 50


def _not_found(tenant: str) -> TenantNotFound:
    return TenantNotFound(f"no tenant tenants/{tenant}", tenant=f"tenants/{tenant}")


def _deletion(deleted: Tenant) -> AuditEvent:
    """The one event that stays of a tenant: who had it deleted, and when. The same however often it is made."""
    assert deleted.delete_time is not None
    nanoseconds = int(deleted.delete_time.timestamp() * 1e6) * 1000
    return AuditEvent(
        event_id=f"{nanoseconds:016x}{'0' * 16}",
        tenant=deleted.tenant,
        event_time=deleted.delete_time,
        subject=deleted.subject,
        service="system",
        method=_METHOD,
        resource=deleted.name,
        code=grpc.StatusCode.OK.name,
    )
