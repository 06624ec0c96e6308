"""No call between services goes without an end: whatever method it is of, and whoever makes it."""

import re
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc

import services
from ragweave import contract
from tests.mesh.harness import World, caller_of

# What makes channels to others than services: to Qdrant by its own client, to the collector by OpenTelemetry's.
CHANNELS = "services/mesh/channels.py"


class Deadlines(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    """Answers any method with nothing; notes the time each was given."""

    def __init__(self) -> None:
        self.left_s: dict[str, float | None] = {}

    def service(self, handler_call_details: Any) -> Any:
        async def note(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
            self.left_s[handler_call_details.method] = context.time_remaining()
            return
            yield b""

        if handler_call_details.method not in contract.methods():
            return None
        return grpc.stream_stream_rpc_method_handler(note)


async def test_every_method_of_the_contract_is_called_with_its_own_bound(world: World) -> None:
    noted, server = Deadlines(), grpc.aio.server()
    server.add_generic_rpc_handlers((noted,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with world.channel_as(port, caller_of()) as channel:
            for path, method in contract.methods().items():
                called: Any = getattr(channel, _kind(method))(path)
                sent = _no_requests() if method.client_streaming else b""
                with suppress(grpc.aio.AioRpcError):  # an answer of no message is none
                    answer = called(sent)
                    if method.server_streaming:
                        async for _ in answer:
                            pass
                    else:
                        await answer
    finally:
        await server.stop(None)
    assert noted.left_s.keys() == contract.methods().keys()
    for path, left_s in noted.left_s.items():
        assert left_s is not None, path
        assert left_s <= contract.method(path).timeout_s * 1.05 + 1, "gRPC rounds what it sends"


def test_there_is_one_way_to_a_service() -> None:
    root = Path(services.__path__[0])
    makers = {
        str(file.relative_to(root.parent))
        for file in root.rglob("*.py")
        if re.search(r"\b(in)?secure_channel\(", file.read_text())
    }
    assert makers == {CHANNELS}


def _kind(method: contract.Method) -> str:
    ends = {True: "stream", False: "unary"}
    return f"{ends[method.client_streaming]}_{ends[method.server_streaming]}"


async def _no_requests() -> AsyncIterator[bytes]:
    return
    yield b""
