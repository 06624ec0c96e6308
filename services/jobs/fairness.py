"""How what a worker can do at a time is shared by tenants."""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Set
from contextlib import asynccontextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Capacity:
    """So many at a time; and as many again for tenants that hold less than half of that many.

    A tenant by itself gets all there is, and one that holds all of it for long keeps nobody else waiting.
    """

    count: int

    def full(self, held: Counter[str]) -> Set[str] | None:
        """Tenants that get no more for now; None where nobody does."""
        taken = held.total()
        if taken < self.count:
            return frozenset()
        if taken >= 2 * self.count:
            return None
        return {tenant for tenant, holds in held.items() if 2 * holds >= self.count}


class Turns:
    """Lets so many go ahead at a time, as `Capacity` has it; those who wait go by tenant, in turns."""

    def __init__(self, count: int) -> None:
        self._capacity = Capacity(count)
        self._held: Counter[str] = Counter()
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}  # the tenant whose turn it is first

    @asynccontextmanager
    async def of(self, tenant: str) -> AsyncIterator[None]:
        """One of the tenant's goes ahead, inside the block."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(tenant, deque()).append(turn)
        self._grant()
        try:
            await turn
            yield
        finally:
            if turn.done() and not turn.cancelled():
                self._held -= Counter({tenant: 1})
            self._grant()

    def _grant(self) -> None:
        while (tenant := self._next()) is not None:
            turn = self._waiting[tenant].popleft()
            others = self._waiting.pop(tenant)
            if others:
                self._waiting[tenant] = others
            if not turn.done():  # else whoever waited has gone
                self._held[tenant] += 1
                turn.set_result(None)

    def _next(self) -> str | None:
        full = self._capacity.full(self._held)
        return None if full is None else next((tenant for tenant in self._waiting if tenant not in full), None)
