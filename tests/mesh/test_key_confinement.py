"""Every key that the mesh keeps in Redis is one tenant's, or is known to be shared and why."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from ragweave.v1 import job_service_pb2 as pb
from services.embedding.adapters.redis import RedisCache
from services.embedding.cache import cache_key
from services.jobs.adapters.redis import Redis
from services.jobs.adapters.redis_webhooks import RedisWebhooks
from services.retrieval.adapters.redis import RedisRevisions
from services.retrieval.adapters.redis_questions import RedisQuestions
from services.retrieval.adapters.redis_results import RedisResults
from services.retrieval.chunks import IndexId, Mode
from services.retrieval.ports import Question
from services.retrieval.results import Asked, Entry
from tests.embedding_fakes import spec_of
from tests.jobs_store import Store, store_in
from tests.mesh.test_jobs_service import Running, inline, jobs_service
from tests.webhooks_memory import Clock
from tests.webhooks_rig import Deliveries

TENANTS = ("acme", "acme:queue", "a*[e]?", "../acme", "tenants", "bell", "büro ☃")
# Keys of the whole mesh, which no caller's name leads to: whose turn it is, bells, a version, counters, work put off,
# and lists whose every entry names its tenant.
STANDING = ("tenants", "bell", "turn", "fence", "schema", "delayed", "purging", "logs", "news", "rung", "hooktenants")
SHARED = {*(f"rw:jobs:{key}" for key in STANDING), "rw:audit", "rw:denied"}


def _import(text: str, **fields: str) -> pb.ImportDocumentsRequest:
    return pb.ImportDocumentsRequest(parent="books", inline=inline(("a", text)), **fields)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with store_in(tmp_path_factory.mktemp("store")) as store:
        yield store


@pytest.fixture
async def jobs(server: Store, tmp_path: Path) -> AsyncIterator[Running]:
    async with jobs_service(server, tmp_path) as running:
        yield running


async def keys(server: Store) -> set[str]:
    async with Redis.open(server.url) as redis:
        return {key.decode() for key in await redis.client.keys("*")}


async def test_keys_of_jobs_are_of_one_tenant_each_however_it_is_called(jobs: Running, server: Store) -> None:
    for tenant in TENANTS:
        jobs.peers.add(tenant, "books")
        claims = {"tenant": tenant}
        made = await jobs.stub.ImportDocuments(
            _import(f"words of {tenant}", request_id="same-for-all"), metadata=jobs.as_(**claims)
        )
        assert made.request.value
    queued = await keys(server)
    async with jobs.working():
        for tenant in TENANTS:
            for job in (await jobs.stub.ListJobs(pb.ListJobsRequest(), metadata=jobs.as_(tenant=tenant))).jobs:
                async for _ in jobs.stub.WatchJob(pb.WatchJobRequest(name=job.name), metadata=jobs.as_(tenant=tenant)):
                    pass
    for key in (queued | await keys(server)) - SHARED:
        _, _, named, *_ = key.split(":")
        assert named in {quote(tenant, safe="") for tenant in TENANTS}, key
    for tenant in TENANTS:
        listed = await jobs.stub.ListJobs(pb.ListJobsRequest(), metadata=jobs.as_(tenant=tenant))
        assert listed.total_size == 1, "one request id, a job in each tenant"


async def test_keys_of_webhooks_are_of_one_tenant_each_however_it_is_called(server: Store) -> None:
    clock = Clock()
    async with Redis.open(server.url) as redis:
        await redis.client.flushall()
        rig = Deliveries(RedisWebhooks(redis, clock=clock), clock)
        for tenant in TENANTS:
            await rig.add(tenant)
            await rig.happen("job:1", "job:2", tenant=tenant)
        turns = (await rig.store.take(1)).turns
        assert len(turns) == 1
    found = await keys(server) - SHARED
    for tenant in TENANTS:
        assert len([key for key in found if key.split(":")[2] == quote(tenant, safe="")]) >= 5
    assert {key.split(":")[2] for key in found} == {quote(tenant, safe="") for tenant in TENANTS}


async def test_keys_of_embeddings_and_indexes_name_their_tenant(server: Store) -> None:
    async with (
        RedisCache.open(server.url, ttl_s=60, timeout_s=5) as cache,
        RedisRevisions.open(server.url, timeout_s=5) as revisions,
    ):
        before = await keys(server)
        found = []
        for tenant in TENANTS:
            await cache.put({cache_key(tenant, spec_of(), "query", "the same text"): b"vector"})
            found.append(await keys(server) - before)
            before |= found[-1]
        assert all(len(each) == 1 for each in found)
        assert len({key.split(":")[2] for each in found for key in each}) == len(TENANTS)
        # An index is named by its collection's uid, which is made up and of one tenant for ever.
        await revisions.bump(IndexId("uid"))
        await revisions.claim("a:b/*", IndexId("uid"))
        assert await keys(server) - before == {"ragweave:index:uid:revision", "ragweave:indexes:a%3Ab%2F%2A"}


async def test_keys_of_answers_and_questions_name_their_tenant_and_are_dropped_with_it_alone(server: Store) -> None:
    index = IndexId("uid")
    async with (
        RedisResults.open(server.url, ttl_s=60, timeout_s=5) as results,
        RedisQuestions.open(server.url, keep_s=60) as questions,
    ):
        before = await keys(server)
        found = {}
        for tenant in TENANTS:
            asked = Asked(b"the same" * 4, tenant, (index,), ("docs",), "", Mode.HYBRID)
            results.put(Entry(asked, (1,), b"answer", 1.0))
            await results.settled()
            await questions.add({tenant: {Question(b"the same", (index,), ()): 1}})
            found[tenant] = await keys(server) - before
            before |= found[tenant]
        assert all(len(each) == 2 for each in found.values())
        for tenant in TENANTS:
            assert (await results.drop(tenant, None), await questions.drop(tenant, None)) == (1, 1)
            assert before - await keys(server) == found[tenant]
            before -= found[tenant]
