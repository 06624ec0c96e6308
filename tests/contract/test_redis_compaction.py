"""What is deleted from the store is in none of its files once it is compacted."""

import asyncio
from pathlib import Path

import pytest
from redis.exceptions import ResponseError

from services.mesh.errors import DependencyUnavailable
from services.mesh.redis import open_redis
from services.system.adapters.redis_compaction import RedisCompaction
from tests.jobs_store import store_in


def contents(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


async def test_deleted_keys_are_in_no_file_of_the_store_any_more(tmp_path: Path) -> None:
    with store_in(tmp_path) as server:
        async with open_redis(server.url, connections=2) as client:
            for number in range(50):
                await client.set(f"canary-{number}", "canary")
            await client.set("kept", "keeper")
            await client.delete(*(f"canary-{number}" for number in range(50)))
            assert b"canary" in contents(tmp_path)
            # However many do so at once, and whether or not the store is at it already.
            await asyncio.gather(*(RedisCompaction(client).compact() for _ in range(3)))
            assert b"canary" not in contents(tmp_path)
            assert b"keeper" in contents(tmp_path)


async def test_a_store_that_may_not_be_told_is_left_to_its_operator() -> None:
    class Managed:
        async def info(self, section: str) -> dict[str, object]:
            return {"aof_enabled": 1, "aof_rewrite_in_progress": 0, "aof_rewrite_scheduled": 0}

        async def bgrewriteaof(self) -> None:
            raise ResponseError("NOPERM this user has no permissions to run the 'bgrewriteaof' command")

    await RedisCompaction(Managed()).compact()


async def test_a_store_that_is_away_is_waited_for(tmp_path: Path) -> None:
    async with open_redis(f"unix://{tmp_path}/none.sock", connections=1) as client:
        with pytest.raises(DependencyUnavailable):
            await RedisCompaction(client).compact()
