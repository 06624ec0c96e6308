"""Keys of every kind are taken from a file and from a URL, and change while calls go on."""

import asyncio
from pathlib import Path

import pytest
from joserfc.jwk import ECKey, OKPKey, RSAKey

from ragweave.v1 import collection_service_pb2, collection_service_pb2_grpc
from tests.mesh.harness import Key
from tests.mesh.rotation import PATH, Load, edge_by_file, edge_by_url, rotate


def keys() -> dict[str, Key]:
    """One of each kind, by the algorithm tokens name."""
    made: dict[str, Key] = {
        "ES256": ECKey.generate_key("P-256"),
        "RS256": RSAKey.generate_key(2048),
        "EdDSA": OKPKey.generate_key("Ed25519"),
    }
    for key in made.values():
        key.ensure_kid()
    return made


@pytest.mark.parametrize("source", ["file", "url"])
async def test_tokens_of_every_algorithm_pass_the_edge_and_the_service(tmp_path: Path, source: str) -> None:
    made, others = keys(), keys()
    request = collection_service_pb2.GetCollectionRequest(name="collections/a")
    async with edge_by_file(tmp_path) if source == "file" else edge_by_url(tmp_path, cache_s=1) as (edge, port, where):
        publish = getattr(where, "publish", where)
        publish([*made.values(), edge.world.user_key])
        async with edge.world.channel(port) as direct:
            stub = collection_service_pb2_grpc.CollectionServiceStub(direct)
            for algorithm, key in made.items():
                headers = edge.bearer(key=key, algorithm=algorithm)
                async with asyncio.timeout(60):
                    while (await edge.rest("GET", PATH, headers=headers)).status_code != 200:
                        await asyncio.sleep(0.05)
                assert await stub.GetCollection(request, metadata=tuple(headers.items()))
                forged = edge.bearer(key=others[algorithm], algorithm=algorithm)
                assert (await edge.rest("GET", PATH, headers=forged)).status_code == 401


async def test_a_rotation_by_file_fails_no_call_and_ends_no_stream(tmp_path: Path) -> None:
    async with edge_by_file(tmp_path) as (edge, port, publish):
        done = await rotate(edge, port, publish)
    assert done.failed == []
    assert done.stream_went_on
    assert done.calls > 100


async def test_a_rotation_by_url_fails_no_call_and_ends_no_stream(tmp_path: Path) -> None:
    async with edge_by_url(tmp_path, cache_s=1) as (edge, port, source):
        done = await rotate(edge, port, source.publish)
    assert done.failed == []
    assert done.stream_went_on
    assert done.calls > 100


async def test_keys_fetched_before_serve_on_while_their_url_is_down_and_change_when_it_is_back(tmp_path: Path) -> None:
    async with edge_by_url(tmp_path, cache_s=1) as (edge, port, source):
        load = Load(edge, port, edge.world.user_key)
        async with load.running(), asyncio.timeout(90):
            await load.some_more()
            source.down = True
            await source.asked_again(6)  # by the edge and by the service, each more than once
            await load.some_more()
            source.down = False
        assert load.failed == []
        done = await rotate(edge, port, source.publish)
        assert done.failed == []
