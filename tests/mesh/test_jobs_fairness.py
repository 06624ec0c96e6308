"""Tenants that share a worker: whatever one of them imports, another's few documents are not kept waiting."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator, Sequence

import pytest

from services.jobs.adapters.redis import Redis
from services.jobs.job import JobState
from services.jobs.ports import Vectors
from services.mesh.errors import DependencyUnavailable
from services.mesh.identity import caller
from tests.jobs_rig import Rig, prose
from tests.jobs_store import Store, store_in


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with store_in(tmp_path_factory.mktemp("store")) as store:
        yield store


@pytest.fixture
async def rig(server: Store) -> AsyncIterator[Rig]:
    async with Redis.open(server.url, f"{secrets.token_hex(4)}:") as redis:
        yield Rig(redis, slots=4)


class ByTenant:
    """Embeds for all but one tenant; `embedded` says whose texts were embedded, in order."""

    def __init__(self, rig: Rig) -> None:
        self._embed = rig.embedding.embed
        self.embedded: list[str] = []
        self.big = asyncio.Event()
        self.hold = asyncio.Event()
        self.fails = False
        rig.embedding.embed = self.embed  # type: ignore[method-assign]

    async def embed(self, model: str, texts: Sequence[str]) -> Vectors:
        tenant = caller().tenant
        if tenant == "big":
            self.big.set()
            if self.fails:
                raise DependencyUnavailable("the model does not answer")
            await self.hold.wait()
        self.embedded.append(tenant)
        return await self._embed(model, texts)


async def imported(rig: Rig, tenant: str, documents: int, words: int = 8) -> str:
    specs = [
        await rig.put(prose(words, f"{tenant}{at}x"), f"{tenant}-{at}.txt", tenant=tenant) for at in range(documents)
    ]
    return await rig.submit(*specs, tenant=tenant)


async def test_documents_that_take_for_ever_keep_no_other_tenant_waiting(rig: Rig) -> None:
    embedding = ByTenant(rig)
    big = await imported(rig, "big", 40, words=200)
    async with rig.working():
        await embedding.big.wait()
        small = await rig.ended(await imported(rig, "small", 10), "small")
        assert (small.state, small.progress.succeeded) == (JobState.SUCCEEDED, 10)
        assert "big" not in embedding.embedded
        assert (await rig.store.get("big", big)).progress.processed == 0
        embedding.hold.set()
        assert (await rig.ended(big, "big")).progress.succeeded == 40


async def test_a_tenant_whose_model_does_not_answer_waits_alone(rig: Rig) -> None:
    rig.patience_s = 3600
    embedding = ByTenant(rig)
    embedding.fails = True
    big = await imported(rig, "big", 40, words=200)
    async with rig.working():
        await embedding.big.wait()
        assert (await rig.ended(await imported(rig, "small", 10), "small")).progress.succeeded == 10
        assert (await rig.store.get("big", big)).progress.processed == 0
        embedding.fails = False
        embedding.hold.set()
        assert (await rig.ended(big, "big")).progress.succeeded == 40


async def test_of_two_tenants_each_gets_every_second_turn_however_much_the_other_wants(rig: Rig) -> None:
    embedding = ByTenant(rig)
    embedding.hold.set()
    big = await imported(rig, "big", 100, words=40)
    async with rig.working():
        await embedding.big.wait()
        small = await imported(rig, "small", 10, words=40)
        await rig.ended(small, "small")
        between = embedding.embedded[embedding.embedded.index("small") : -1]
        assert between.count("big") <= 2 * between.count("small"), embedding.embedded
        await rig.ended(big, "big")


async def test_a_tenant_that_comes_late_is_served_at_once_by_a_worker_that_is_full(rig: Rig) -> None:
    embedding = ByTenant(rig)
    await imported(rig, "big", 8)
    async with rig.working(heartbeat_s=3600):  # nothing but the bell tells the worker
        await embedding.big.wait()
        for at in range(3):
            assert (await rig.ended(await imported(rig, f"late-{at}", 3), f"late-{at}")).progress.succeeded == 3
        embedding.hold.set()
