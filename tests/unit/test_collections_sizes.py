"""What metrics tell of the sizes of collections."""

from prometheus_client import CollectorRegistry

from services.collections.adapters.memory import MemoryStore
from services.collections.sizes import OTHER, Sizes
from services.mesh.quotas import Amounts


class Sized(MemoryStore):
    """A registry of collections of so many chunks, by uid."""

    chunks: dict[str, int]

    async def sizes(self, largest: int) -> tuple[Amounts, dict[str, Amounts]]:
        ranked = sorted(self.chunks, key=lambda uid: -self.chunks[uid])[:largest]
        whole = Amounts(len(self.chunks), chunks=sum(self.chunks.values()))
        return whole, {uid: Amounts(1, chunks=self.chunks[uid]) for uid in ranked}


def shown(registry: CollectorRegistry) -> dict[str, float]:
    return {
        sample.labels["collection"]: sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name == "ragweave_collection_chunks"
    }


async def test_the_largest_are_shown_one_by_one_and_the_rest_as_one_however_many_there_are() -> None:
    registry, store = CollectorRegistry(), Sized()
    store.chunks = {f"uid-{number}": number for number in range(1, 101)}
    await Sizes(store, most=2, registry=registry).measure()
    assert shown(registry) == {"uid-100": 100, "uid-99": 99, OTHER: sum(range(1, 99))}
    assert registry.get_sample_value("ragweave_collections") == 100


async def test_a_collection_that_is_overtaken_or_gone_is_shown_no_longer() -> None:
    registry, store = CollectorRegistry(), Sized()
    sizes = Sizes(store, most=1, registry=registry)
    store.chunks = {"a": 5, "b": 3}
    await sizes.measure()
    store.chunks = {"a": 5, "b": 8}
    await sizes.measure()
    assert shown(registry) == {"b": 8, OTHER: 5}
    store.chunks = {}
    await sizes.measure()
    assert shown(registry) == {OTHER: 0}
