"""Embeddings by content: near in this process, far in a store that all replicas share."""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Iterable
from types import TracebackType
from typing import Final, Self

from services.embedding.models import ModelSpec
from services.embedding.ports import EmbeddingCache

# What an entry costs beside its bytes: two bytes objects, a dict slot, two list links (CPython 3.11, rounded up).
_OVERHEAD: Final = 256
TENANT_BYTES: Final = 8
# Entries waiting to be written far; what comes above is not written, and embedded again one day.
_BACKLOG: Final = 4096
# New entries wait this long for others to be written with, and let the callers have their answers first.
_LINGER_S: Final = 0.2


def tenant_part(tenant: str) -> bytes:
    """What the keys of a tenant's entries begin with."""
    return hashlib.sha256(tenant.encode()).digest()[:TENANT_BYTES]


def cache_key(tenant: str, spec: ModelSpec, input_type: str, text: str) -> bytes:
    """40 bytes that name a text as one revision of a model embeds it for a tenant.

    The tenant counts in both parts. Whether a text is in the cache shows, by `cached` and by the time it takes: shared
    between tenants, it would tell one what another has embedded.
    """
    head = "\0".join((tenant, spec.id, spec.revision, input_type, ""))
    return tenant_part(tenant) + hashlib.sha256(head.encode() + text.encode()).digest()


class NearCache:
    """The most recently used entries, bounded in bytes, bookkeeping included."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._entries: OrderedDict[bytes, bytes] = OrderedDict()

    def get(self, key: bytes) -> bytes | None:
        value = self._entries.get(key)
        if value is not None:
            self._entries.move_to_end(key)
        return value

    def put(self, key: bytes, value: bytes) -> None:
        old = self._entries.pop(key, None)
        if old is not None:
            self._bytes -= _cost(key, old)
        self._entries[key] = value
        self._bytes += _cost(key, value)
        while self._bytes > self._max_bytes:
            self._bytes -= _cost(*self._entries.popitem(last=False))

    def erase(self, tenant: bytes) -> int:
        """Drops every entry whose key begins so; returns how many."""
        gone = [key for key in self._entries if key.startswith(tenant)]
        for key in gone:
            self._bytes -= _cost(key, self._entries.pop(key))
        return len(gone)


class TieredCache:
    """Near before far. Writes to the far cache never keep a caller waiting; leaving the context writes what is left."""

    def __init__(self, far: EmbeddingCache, *, near_bytes: int) -> None:
        self._near = NearCache(near_bytes)
        self._far = far
        self._unwritten: dict[bytes, bytes] = {}
        self._writer: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            await self._writer

    def near(self, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        """Those of the keys that this process holds."""
        found = ((key, self._near.get(key)) for key in keys)
        return {key: value for key, value in found if value is not None}

    async def far(self, keys: Iterable[bytes], *, length: int) -> dict[bytes, bytes]:
        """Those of the keys that the far cache holds; they are near from now on.

        Args:
            length: Bytes of an entry; what has another length is none. A store that others write to is not trusted.
        """
        asked = list(keys)
        if not asked:
            return {}
        values = await self._far.get(asked)
        found = {key: value for key, value in zip(asked, values, strict=True) if value and len(value) == length}
        for key, value in found.items():
            self._near.put(key, value)
        return found

    def put(self, key: bytes, value: bytes) -> None:
        """Near at once, far soon."""
        self._near.put(key, value)
        if len(self._unwritten) < _BACKLOG:
            self._unwritten[key] = value
        if self._writer is None:
            self._writer = asyncio.create_task(self._write())

    async def erase(self, tenant: str) -> tuple[int, bool]:
        """Drops a tenant's entries, here and far: how many, and whether all. Raises DependencyUnavailable."""
        part = tenant_part(tenant)
        for key in [key for key in self._unwritten if key.startswith(part)]:
            del self._unwritten[key]
        dropped = self._near.erase(part)
        count, done = await self._far.erase(part)
        return dropped + count, done

    async def _write(self) -> None:
        try:
            while self._unwritten:
                await asyncio.sleep(_LINGER_S)
                entries, self._unwritten = self._unwritten, {}
                await self._far.put(entries)
        finally:
            self._writer = None


def _cost(key: bytes, value: bytes) -> int:
    return len(key) + len(value) + _OVERHEAD
