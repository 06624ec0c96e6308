"""What the edge's request check and rate limits cost, of a bare echo: `python -m benchmarks.edge [--rounds N]`.

Two bare echoes behind four Envoys that differ only in what is measured: neither, the request check (request.lua), the
rate limits, both. Every round loads each in turn with the same REST search over the same number of connections, in
another order each time, and the medians of the rounds are compared; an idle Envoy costs nothing. Beside the throughput,
which suffers from whatever else the machine does, stands the CPU time a request takes, which hardly does.
"""

import argparse
import asyncio
import statistics
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import yaml

from benchmarks import http1
from benchmarks.echo import Echo, running_echo
from benchmarks.measure import Calling, Measured, Sample, measure, repeated
from benchmarks.processors import used_s
from benchmarks.searching import opening
from ragweave.v1 import search_pb2
from services.mesh.edge import OWNERS, command, render
from services.mesh.edge_settings import EdgeSettings
from tests.e2e.stack import PREFIX
from tests.mesh.edge_stack import GENEROUS
from tests.mesh.harness import World
from tests.ports import free_port

_BODY = (
    b'{"query": "how do I catch several exception types", "collection": "collections/python-reference", "topK": 10, '
    b'"filter": "metadata.version = \\"3.11\\"", "highlight": true, "fusion": {"rrf": {"k": 60}}}'
)
_ANSWER = search_pb2.SearchResponse(hits=[search_pb2.Hit(text="an answer", score=0.5)], total_size=1)
# The variants: is a request checked, is it counted.
_VARIANTS = {"bare": (False, False), "check": (True, False), "limits": (False, True), "both": (True, True)}
_SERVERS = 2
_PATIENCE_S = 120.0


async def _measure(arguments: argparse.Namespace) -> Measured:
    with tempfile.TemporaryDirectory() as temporary:
        world = World.in_folder(Path(temporary))
        token = world.token(roles=["admin"], tier="pro")
        request = http1.request(f"{PREFIX}/search", _BODY, headers={"authorization": f"Bearer {token}"})
        async with AsyncExitStack() as stack:
            echoes = [stack.enter_context(running_echo(_ANSWER)) for _ in range(_SERVERS)]
            variants = []
            for name, (check, limits) in _VARIANTS.items():
                folder = Path(temporary) / name
                folder.mkdir()
                envoy = _envoy(world, folder, name, echoes, request, check=check, limits=limits)
                variants.append(await stack.enter_async_context(envoy))
            return await measure(
                f"{arguments.connections} connections",
                variants,
                repeated("the same"),
                callers=arguments.connections,
                rounds=arguments.rounds,
                seconds=arguments.seconds,
                against=dict.fromkeys(_VARIANTS, "bare"),
            )


@asynccontextmanager
async def _envoy(
    world: World, folder: Path, name: str, echoes: Sequence[Echo], request: bytes, *, check: bool, limits: bool
) -> AsyncIterator[Calling]:
    """A variant, once it answers."""
    replicas = tuple(f"127.0.0.1:{each.port}" for each in echoes)
    settings = EdgeSettings(
        mesh=world.mesh,
        port=free_port(),
        admin_port=free_port(),
        access_log=str(folder / "access.log"),
        rate_limiting=limits,
        rate_limits=GENEROUS,
        **{f"{owner}_endpoints": replicas for owner in set(OWNERS.values())},  # type: ignore[arg-type]
    )
    config = render(settings, folder)
    if not check:
        config.write_text(yaml.safe_dump(_without(yaml.safe_load(config.read_text()), "envoy.filters.http.lua")))
    with (folder / "envoy.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(*command(settings, folder), stdout=log, stderr=log)

    def processor_s() -> Mapping[str, float]:
        return {"envoy": used_s([process.pid]), "echo": used_s([each.pid for each in echoes])}

    try:
        asking = opening(lambda: http1.Connection(settings.port), lambda _: request, lambda _: None)
        variant = Calling(name, asking, processor_s)
        await _warm(variant)
        yield variant
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


def _without(config: dict[str, Any], name: str) -> dict[str, Any]:
    for listener in config["static_resources"]["listeners"]:
        for chain in listener["filter_chains"]:
            manager = chain["filters"][0]["typed_config"]
            kept = [each for each in manager["http_filters"] if each["name"] != name]
            assert len(kept) == len(manager["http_filters"]) - 1
            manager["http_filters"] = kept
    return config


async def _warm(variant: Calling) -> None:
    """Loads an Envoy until it answers, and a second more."""
    async with asyncio.timeout(_PATIENCE_S):
        while True:
            try:
                await variant.load(4, 1.0, repeated("the same")(variant.name, 0))
                return
            except RuntimeError:
                await asyncio.sleep(0.1)


def main() -> None:
    """Prints a table: requests a second against the bare variant's, and CPU time a request."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=3.0, help="of load for each variant in each round")
    parser.add_argument("--connections", type=int, default=50)
    measured = asyncio.run(_measure(parser.parse_args()))
    bare = measured.samples["bare"]
    spent = statistics.median(map(_spent_us, bare))
    envoy = statistics.median(map(_envoy_us, bare))
    print(f"\nCPU a request, bare: {spent:.0f} us, of which Envoy {envoy:.0f} us\n")
    print("| variant | requests/s | of bare | Envoy's CPU a request | more than bare, of all CPU |")
    print("| --- | --- | --- | --- | --- |")
    for name, each in measured.samples.items():
        more = statistics.median(_envoy_us(mine) - _envoy_us(its) for mine, its in zip(each, bare, strict=True))
        rate, ratio = measured.median(name, "per_s"), measured.ratio(name, "per_s")
        cpu = statistics.median(map(_envoy_us, each))
        print(f"| {name} | {rate:,.0f} | {ratio:.1%} | {cpu:.0f} us | {more:+.0f} us, {more / spent:.1%} |")


def _envoy_us(sample: Sample) -> float:
    return sample.cpu_us["envoy"]


def _spent_us(sample: Sample) -> float:
    return sum(sample.cpu_us.values())


if __name__ == "__main__":
    main()
