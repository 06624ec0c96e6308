"""A rate limit service as several edges share one: Envoy's protocol, limits from the file the edge renders."""

import json
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc_tools
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.duration_pb2 import DESCRIPTOR as DURATION
from google.protobuf.message_factory import GetMessageClass
from grpc_tools import protoc

_PROTO = Path(__file__).with_name("rls.proto")
_SERVICE = "envoy.service.ratelimit.v3.RateLimitService"
# What it says of when its window ends; the tests' word, so that it can be told from what an edge would say itself.
RESET_S = 42
OK, OVER_LIMIT, MINUTE = 1, 2, 2

Caller = tuple[tuple[str, str], ...]


def _messages() -> dict[str, Any]:
    folders = (_PROTO.parent, Path(grpc_tools.__file__).with_name("_proto"))
    with tempfile.NamedTemporaryFile(suffix=".binpb") as out:
        line = [*(f"-I{folder}" for folder in folders), f"--descriptor_set_out={out.name}", str(_PROTO)]
        assert protoc.main(["protoc", *line]) == 0
        files = FileDescriptorSet.FromString(Path(out.name).read_bytes())
    pool = DescriptorPool()
    pool.AddSerializedFile(DURATION.serialized_pb)
    pool.AddSerializedFile(files.file[0].SerializeToString())
    prefix = _SERVICE.rpartition(".")[0]
    return {
        name: GetMessageClass(pool.FindMessageTypeByName(f"{prefix}.{name}"))
        for name in ("RateLimitRequest", "RateLimitResponse")
    }


@dataclass
class LimitService:
    """Counts each caller's calls, for as long as it lives; limits by what `config` (ratelimit.yaml) says."""

    config: Mapping[str, Any] = field(default_factory=dict)
    calls: Counter[Caller] = field(default_factory=Counter)
    domains: set[str] = field(default_factory=set)

    def read(self, file: Path) -> None:
        self.config = json.loads(file.read_text())

    def answer(self, request: Any, response: Any) -> Any:
        self.domains.add(request.domain)
        response.overall_code = OK
        for descriptor in request.descriptors:
            caller = tuple((entry.key, entry.value) for entry in descriptor.entries)
            self.calls[caller] += 1
            limit = _limit(self.config["descriptors"], caller)
            status = response.statuses.add(code=OK)
            if limit is None:
                continue
            status.current_limit.requests_per_unit, status.current_limit.unit = limit, MINUTE
            status.limit_remaining = max(limit - self.calls[caller], 0)
            status.duration_until_reset.seconds = RESET_S
            if self.calls[caller] > limit:
                status.code = response.overall_code = OVER_LIMIT
        return response


def _limit(descriptors: Sequence[Mapping[str, Any]], caller: Caller) -> int | None:
    """The limit of the descriptors' entry that fits all of the caller's, as envoyproxy/ratelimit finds it."""
    (key, value), *rest = caller
    for each in descriptors:
        if each["key"] == key and each.get("value", value) == value:
            if rest:
                return _limit(each.get("descriptors", ()), tuple(rest))
            return each["rate_limit"]["requests_per_unit"] if "rate_limit" in each else None
    return None


@asynccontextmanager
async def running_limit_service(service: LimitService, *, port: int = 0) -> AsyncIterator[int]:
    """The port it listens on, any free one where 0."""
    messages = _messages()

    async def should_rate_limit(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        return service.answer(request, messages["RateLimitResponse"]())

    handler = grpc.unary_unary_rpc_method_handler(
        should_rate_limit,
        request_deserializer=messages["RateLimitRequest"].FromString,
        response_serializer=lambda message: message.SerializeToString(),
    )
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, {"ShouldRateLimit": handler}),))
    taken = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield taken
    finally:
        await server.stop(None)
