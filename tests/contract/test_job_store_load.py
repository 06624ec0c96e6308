"""What jobs leave behind in the store, and what queued items take of it; `make bench-job-store` does it with many."""

import secrets
from collections.abc import Iterator

import pytest

from services.jobs.adapters.redis import Redis
from tests.job_store_load import EVENTS, MOST_BYTES_AN_ITEM, bytes_an_item, jobs_come_and_go, left
from tests.jobs_store import Store, store_in


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with store_in(tmp_path_factory.mktemp("store")) as store:
        yield store


async def test_of_many_jobs_each_runs_once_and_leaves_nothing(server: Store) -> None:
    async with Redis.open(server.url, f"{secrets.token_hex(4)}:", events=EVENTS) as redis:
        await jobs_come_and_go(redis, 100)
        before = await left(redis)
        assert await jobs_come_and_go(redis, 400) == 400
        after = await left(redis)
    assert (after.keys, after.queued, after.pending) == (before.keys, 0, 0)


@pytest.mark.parametrize("kind", ["directory", "inline"])
async def test_queued_items_take_little_of_the_store(server: Store, kind: str) -> None:
    async with Redis.open(server.url, f"{secrets.token_hex(4)}:") as redis:
        assert await bytes_an_item(redis, kind, 10_000) <= MOST_BYTES_AN_ITEM
