"""When a process says it can serve."""

from typing import Any

import pytest
from grpc_health.v1 import health_pb2

from services.mesh.health import LIVENESS, Readiness

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


class Store:
    """A dependency that is up or down."""

    def __init__(self, up: bool = True) -> None:
        self.up = up

    async def check(self) -> None:
        if not self.up:
            raise ConnectionError("down")


async def answer(readiness: Readiness, service: str = "") -> Any:
    return (await readiness.servicer.Check(health_pb2.HealthCheckRequest(service=service), None)).status


@pytest.fixture
async def store() -> Store:
    return Store()


@pytest.fixture
async def readiness(store: Store) -> Readiness:
    readiness = Readiness(["x.Y"], {"store": store.check}, interval_s=1)
    await readiness.start()
    return readiness


async def test_nothing_serves_before_the_first_round(readiness: Readiness) -> None:
    assert await answer(readiness) == NOT_SERVING
    assert await answer(readiness, "x.Y") == NOT_SERVING


async def test_all_serve_once_all_checks_pass(readiness: Readiness) -> None:
    await readiness.check()
    assert await answer(readiness) == SERVING
    assert await answer(readiness, "x.Y") == SERVING


async def test_one_failure_is_forgiven_two_in_a_row_are_not_and_one_success_heals(
    readiness: Readiness, store: Store
) -> None:
    await readiness.check()
    store.up = False
    await readiness.check()
    assert await answer(readiness) == SERVING
    await readiness.check()
    assert await answer(readiness) == NOT_SERVING
    store.up = True
    await readiness.check()
    assert await answer(readiness) == SERVING


async def test_a_process_whose_dependency_is_down_from_the_start_never_serves(
    readiness: Readiness, store: Store
) -> None:
    store.up = False
    await readiness.check()
    assert await answer(readiness) == NOT_SERVING


async def test_a_check_that_hangs_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    monkeypatch.setattr("services.mesh.health._CHECK_TIMEOUT_S", 0.01)

    async def hang() -> None:
        await asyncio.Event().wait()

    readiness = Readiness([], {"store": hang}, interval_s=1)
    await readiness.start()
    await readiness.check()
    assert await answer(readiness) == NOT_SERVING


async def test_after_draining_no_check_brings_it_back(readiness: Readiness) -> None:
    await readiness.check()
    await readiness.drain()
    await readiness.check()
    assert await answer(readiness) == NOT_SERVING


async def test_a_process_that_takes_no_calls_lives_all_the_same(readiness: Readiness, store: Store) -> None:
    assert await answer(readiness, LIVENESS) == SERVING
    store.up = False
    await readiness.check()
    await readiness.check()
    assert (await answer(readiness), await answer(readiness, LIVENESS)) == (NOT_SERVING, SERVING)
    await readiness.drain()
    assert await answer(readiness, LIVENESS) == SERVING
