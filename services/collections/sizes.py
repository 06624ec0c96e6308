"""Tells metrics how much the collections hold: the largest one by one, all others as one."""

from functools import cache
from typing import Final

from prometheus_client import REGISTRY, CollectorRegistry, Gauge

from services.collections.ports import RegistryStore
from services.mesh.maintenance import Step
from services.mesh.quotas import Amounts

OTHER: Final = "other"
_EVERY_S: Final = 60.0


@cache
def _families(registry: CollectorRegistry) -> tuple[Gauge, tuple[Gauge, Gauge, Gauge]]:
    """Made once for a registry, since a name may be taken once.

    Collections go by their uid, which the registry makes up: what callers call them is not for metrics to tell.
    """
    label = ["collection"]
    return (
        Gauge("ragweave_collections", "Live collections of all tenants.", registry=registry),
        (
            Gauge("ragweave_collection_documents", "Documents of a large collection.", label, registry=registry),
            Gauge("ragweave_collection_chunks", "Chunks of a large collection.", label, registry=registry),
            Gauge("ragweave_collection_bytes", "Bytes of its originals.", label, registry=registry),
        ),
    )


class Sizes:
    """Measures collections now and then.

    Args:
        most: Collections shown one by one: bounds how many series there are at a time.
    """

    def __init__(self, store: RegistryStore, *, most: int, registry: CollectorRegistry = REGISTRY) -> None:
        self._store = store
        self._most = most
        self._count, self._gauges = _families(registry)
        self._shown: set[str] = set()

    @property
    def step(self) -> Step:
        return Step("measure collections", self.measure, every_s=_EVERY_S)

    async def measure(self) -> int:
        """Shows the sizes as they are now. Returns 0: nothing is changed."""
        whole, largest = await self._store.sizes(self._most)
        shown = sum(largest.values(), start=Amounts())
        rest = Amounts(
            documents=whole.documents - shown.documents,
            chunks=whole.chunks - shown.chunks,
            storage_bytes=whole.storage_bytes - shown.storage_bytes,
        )
        self._count.set(whole.collections)
        now = {**largest, OTHER: rest}
        for uid, each in now.items():
            for gauge, value in zip(self._gauges, (each.documents, each.chunks, each.storage_bytes), strict=True):
                gauge.labels(uid).set(value)
        for uid in self._shown - now.keys():
            for gauge in self._gauges:
                gauge.remove(uid)
        self._shown = set(now)
        return 0
