"""What tracing costs a call: `python -m benchmarks.tracing [--rounds N]`.

A client calls a service that calls another, which uses a store three times: six spans where they are recorded. The
same with no exporter, with one and a caller that has nothing recorded, and with all recorded. Everything runs in one
process; what is told is its processor time, which a busy machine changes less than the time that passes. Spans are
batched and serialised as for a collector, and dropped.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from services.mesh import traces
from services.mesh.telemetry import configure_logs
from tests.mesh.harness import World
from tests.mesh.kinds import KINDS
from tests.mesh.relaying import Relay, relaying

_CALLS = 200
_GET = KINDS[0]


class Dropping(SpanExporter):
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        encode_spans(spans).SerializeToString()
        return SpanExportResult.SUCCESS


async def _store() -> None:
    for operation in ("search", "fetch", "count"):
        with traces.part("vector store", {"db.operation.name": operation, "db.collection.name": "acme.docs"}):
            pass


async def _us_each(relay: Relay, metadata: tuple[tuple[str, str], ...]) -> float:
    """Processor time of a call, in microseconds."""
    began_s = time.process_time()
    for _ in range(_CALLS):
        await _GET.start(relay.near, metadata=metadata)
    return (time.process_time() - began_s) / _CALLS * 1e6


async def measure(rounds: int) -> None:
    configure_logs("bench", "error", {})
    with tempfile.TemporaryDirectory(prefix="rw-") as name:
        world = World.in_folder(Path(name))
        bearer = world.bearer(roles=["admin"])
        unrecorded = (*bearer, ("traceparent", traces.new_traceparent()))
        sampled = (*bearer, ("traceparent", traces.new_traceparent()[:-2] + "01"))
        async with AsyncExitStack() as opened:
            off = await opened.enter_async_context(relaying(world, _GET))
            provider = TracerProvider()
            provider.add_span_processor(BatchSpanProcessor(Dropping(), max_queue_size=100_000))
            trace.set_tracer_provider(provider)  # servers look for it once, when they are made
            on = await opened.enter_async_context(relaying(world, _GET))
            off.second.script = on.second.script = _store
            modes = {
                "no exporter": (off, unrecorded),
                "exporter, not recorded": (on, unrecorded),
                "recorded": (on, sampled),
            }
            taken: dict[str, list[float]] = {mode: [] for mode in modes}
            for _ in range(rounds + 1):
                for mode, (relay, metadata) in modes.items():
                    taken[mode].append(await _us_each(relay, metadata))
        await asyncio.to_thread(provider.shutdown)
    for mode, each in taken.items():
        print(f"{mode:<24}{statistics.median(each[1:]):7.0f} us of processor time a call")  # the first warms up


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    asyncio.run(measure(parser.parse_args().rounds))


if __name__ == "__main__":
    main()
