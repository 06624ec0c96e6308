"""Texts that wait for the model, in the order that serves them best."""

import asyncio
from bisect import bisect_left, insort
from typing import Final, Generic, TypeVar

from services.embedding.ports import Tokens
from services.mesh.traces import Origin

# Tokens a text may be padded by to share a batch. Sharing saves a query 1.0 to 1.4 ms, a short document 2 to 3 ms, and
# a token of padding costs about 0.25 ms (MiniLM, one thread of an Intel Xeon with AVX-512 VNNI).
PADDING: Final = 4

R = TypeVar("R")


class Work(Generic[R]):
    """One text that the model is to read once, for as many callers as wait for it.

    Attributes:
        key: Tells it from other texts.
        tokens: What the model reads.
        tenant: Whose it is.
        outcome: Becomes what the model makes of it, such as a vector, or the error that kept it from that.
        waiters: Calls that still want it.
        lane: Where it waits; None once it runs.
        origins: The recorded ones of these calls.
    """

    __slots__ = ("_turn", "key", "lane", "origins", "outcome", "tenant", "tokens", "waiters")

    def __init__(self, key: bytes, tokens: Tokens, tenant: str = "") -> None:
        self.key = key
        self.tokens = tokens
        self.tenant = tenant
        self.outcome: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self.waiters = 0
        self.lane: Lane[R] | None = None
        self.origins: list[Origin] = []
        self._turn = 0

    @property
    def place(self) -> tuple[int, int]:
        """Orders works by length, then by age."""
        return len(self.tokens.ids), self._turn

    def queue(self, lane: "Lane[R]", turn: int) -> None:
        """Notes that it waits in `lane` since `turn`."""
        self.lane, self._turn = lane, turn


class Lane(Generic[R]):
    """Works of one urgency. Tenants have turns; the oldest work of the one whose turn it is goes next, so none starves.
    Those like it in length go with it, whosever they are.

    Args:
        kind: What waits in it, in the plural.

    Attributes:
        tokens: What the model has to read for all that waits.
    """

    def __init__(self, capacity: int, kind: str = "texts") -> None:
        self.kind = kind
        self.tokens = 0
        self._capacity = capacity
        self._by_age: dict[str, dict[int, Work[R]]] = {}  # by tenant, the one whose turn it is first
        self._by_length: list[tuple[tuple[int, int], Work[R]]] = []
        self._turn = 0

    def __len__(self) -> int:
        return len(self._by_length)

    @property
    def room(self) -> int:
        """How many more works it takes."""
        return self._capacity - len(self)

    def push(self, work: Work[R]) -> None:
        self._turn += 1
        self.tokens += len(work.tokens.ids)
        work.queue(self, self._turn)
        self._by_age.setdefault(work.tenant, {})[self._turn] = work
        insort(self._by_length, (work.place, work), key=_place)

    def remove(self, work: Work[R]) -> None:
        """Takes out a work that waits here."""
        del self._by_length[self._index(work)]
        self._forget(work)

    def take(self, max_tokens: int, max_works: int) -> list[Work[R]]:
        """Removes and returns the next batch: the oldest work of the next tenant and those nearest to it in length,
        shortest first.

        Args:
            max_tokens: Bound of the batch, padding included; the oldest is returned even if longer.
            max_works: Bound of the batch, at least 1.
        """
        if not self._by_age:
            return []
        tenant = next(iter(self._by_age))
        oldest = next(iter(self._by_age[tenant].values()))
        self._by_age[tenant] = self._by_age.pop(tenant)
        first = last = self._index(oldest)
        while last - first + 1 < max_works:
            grown = self._grown(first, last, max_tokens)
            if grown is None:
                break
            first, last = grown
        batch = [work for _, work in self._by_length[first : last + 1]]
        del self._by_length[first : last + 1]
        for work in batch:
            self._forget(work)
        return batch

    def _forget(self, work: Work[R]) -> None:
        length, turn = work.place
        self.tokens -= length
        of_tenant = self._by_age[work.tenant]
        del of_tenant[turn]
        if not of_tenant:
            del self._by_age[work.tenant]
        work.lane = None

    def _grown(self, first: int, last: int, max_tokens: int) -> tuple[int, int] | None:
        """The stretch of works by one more, the neighbour that costs the least padding; None where none fits."""
        shortest, longest = self._length(first), self._length(last)
        grown: list[tuple[int, tuple[int, int]]] = []
        if first > 0:
            grown.append((longest - self._length(first - 1), (first - 1, last)))
        if last + 1 < len(self._by_length):
            grown.append((self._length(last + 1) - shortest, (first, last + 1)))
        fitting = [
            (padding, (low, high))
            for padding, (low, high) in grown
            if padding <= PADDING and (high - low + 1) * self._length(high) <= max_tokens
        ]
        return min(fitting)[1] if fitting else None

    def _index(self, work: Work[R]) -> int:
        return bisect_left(self._by_length, work.place, key=_place)

    def _length(self, index: int) -> int:
        return self._by_length[index][0][0]


def _place(entry: tuple[tuple[int, int], Work[R]]) -> tuple[int, int]:
    return entry[0]
