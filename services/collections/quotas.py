"""What a tenant may keep here: limits as the system service has them, usage as the registry counts it."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeVar

import structlog

from services.collections.ports import Limits, RegistryStore
from services.mesh.calls import detached
from services.mesh.errors import DependencyUnavailable, QuotaExceeded
from services.mesh.quotas import Amounts, check_quota

T = TypeVar("T")

_TENANTS: Final = 4096


@dataclass(slots=True)
class _Known:
    """What is known of a tenant's limits, when it was last asked for, and the task that asks for all who wait."""

    limits: Amounts
    asked_s: float = float("-inf")
    asking: "asyncio.Task[None] | None" = None


class Quotas:
    """Holds tenants to their limits.

    Limits are remembered for a moment; while their owner does not answer, the last ones known hold, and the defaults
    where none ever were. A write checks its own amounts in its own transaction, so that no two of them fit one place.

    Args:
        defaults: Limits of a tenant that nothing is known of.
        fresh_s: How long limits are used without asking again, in seconds.
    """

    def __init__(
        self,
        store: RegistryStore,
        limits: Limits,
        *,
        defaults: Amounts,
        fresh_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._limits = limits
        self._defaults = defaults
        self._fresh_s = fresh_s
        self._clock = clock
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._log = structlog.get_logger("collections.quotas")

    async def usage(self, tenant: str) -> Amounts:
        """What the tenant keeps now."""
        return await self._store.usage(tenant)

    async def check(self, tenant: str, more: Amounts) -> None:
        """Raises QuotaExceeded where so much more does not fit now; nothing is set aside for it."""

        async def fits(limits: Amounts) -> None:
            check_quota(tenant, limits=limits, usage=await self._store.usage(tenant), more=more)

        await self.within(tenant, fits)

    async def fitting(self, tenant: str, parts: AsyncIterator[bytes], *, before: int = 0) -> AsyncIterator[bytes]:
        """The parts of one more document's original, as they come after so many bytes `before`.

        Raises:
            QuotaExceeded: There is no room for one more, or for all of its bytes: at the first that is too many.
        """
        size, room = before, 0
        async for part in parts:
            size += len(part)
            if size > room:
                await self.check(tenant, Amounts(documents=1, storage_bytes=size))
                limits, usage = await self._current(tenant, self._fresh_s), await self._store.usage(tenant)
                room = limits.storage_bytes - usage.storage_bytes
            yield part

    async def within(self, tenant: str, write: Callable[[Amounts], Awaitable[T]]) -> T:
        """What `write` makes of the limits. Where it refuses, it is asked once more with limits that are new.

        Raises:
            QuotaExceeded: It refused.
        """
        began_s = self._clock()
        limits = await self._current(tenant, self._fresh_s)
        try:
            return await write(limits)
        except QuotaExceeded:
            raised = await self._current(tenant, self._clock() - began_s)  # asked for since this call began
            if raised == limits:
                raise
        return await write(raised)

    async def _current(self, tenant: str, fresh_s: float) -> Amounts:
        known = self._known.setdefault(tenant, _Known(self._defaults))
        self._known.move_to_end(tenant)
        if len(self._known) > _TENANTS:
            self._known.popitem(last=False)
        if self._clock() - known.asked_s >= fresh_s:
            if known.asking is None:
                known.asking = asyncio.create_task(self._ask(known))
            await asyncio.shield(known.asking)
        return known.limits

    async def _ask(self, known: _Known) -> None:
        """Asks as the caller, but not in its time: who gives up early must not leave the limits unknown."""
        try:
            with detached():
                known.limits = await self._limits.of_caller()
        except DependencyUnavailable as error:
            self._log.warning("limits not renewed", reason=error.message)
        finally:
            known.asked_s = self._clock()  # an owner that does not answer is left alone as long as one that does
            known.asking = None
