"""Whose word counts at the edge on whether a trace is recorded, and what its spans tell."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services.mesh.edge import OWNERS
from tests.mesh.edge_stack import Backend, Edge, running_backend, running_edge
from tests.mesh.harness import World
from tests.spans import collecting, new_traceparent

SEARCH = "/api/v1/rag/search"


@asynccontextmanager
async def edge_that_records(folder: Path, **settings: Any) -> AsyncIterator[Edge]:
    """An edge whose backend knows nothing of it: spans are the edge's alone."""
    world, backend = World.in_folder(folder / "world"), Backend()
    (folder / "edge").mkdir()
    async with running_backend(world, backend) as port:
        everywhere = {f"{owner}_endpoints": (world.target(port),) for owner in set(OWNERS.values())}
        recording = replace(world, mesh=world.mesh.model_copy(update=settings))
        async with running_edge(recording, folder / "edge", backend, **everywhere) as edge:
            yield edge


@pytest.mark.parametrize(("trusted", "recorded"), [(False, False), (True, True)])
async def test_a_callers_sampled_flag_counts_where_callers_are_trusted(
    tmp_path: Path, trusted: bool, recorded: bool
) -> None:
    sent = new_traceparent(7)
    with collecting() as (collector, endpoint):
        settings = {"otlp_endpoint": endpoint, "trace_sample_ratio": 0.0, "trace_callers": trusted}
        async with edge_that_records(tmp_path, **settings) as edge:
            headers = {**edge.bearer(), "traceparent": sent, "x-request-id": "r-1"}
            await edge.rest("POST", f"{SEARCH}?filter=secretword", {"query": "secretword"}, headers=headers)
            await edge.rest("POST", SEARCH, {"query": "secretword"}, headers=headers)
            arrived = edge.backend.seen.metadata[-1]["traceparent"].split("-")
            if recorded:
                await asyncio.to_thread(collector.until, lambda spans: len(spans) == 2)
    assert (arrived[1], arrived[3]) == (sent.split("-")[1], "01" if recorded else "00")
    assert bool(collector.spans) is recorded
    assert all(b"secretword" not in each for each in collector.raw)
    for span in collector.spans:
        assert (span.service, span.trace_id, span.parent) == ("ragweave-edge", *sent.split("-")[1:3])
        assert span.attributes["ragweave.request_id"] == "r-1"
        assert span.attributes["url.path"] == SEARCH
