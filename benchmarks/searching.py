"""Searches as contestants: of whoever listens at a port, over REST or over gRPC."""

import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence, Set
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, Protocol

from benchmarks import http1, http2
from benchmarks.measure import Ask, Calling, Refused, no_processes
from ragweave.v1 import search_pb2
from tests.e2e.stack import PREFIX

METHOD: Final = "/ragweave.v1.RetrievalService/Search"
# What a caller gives a search, as contract.md has it.
_DEADLINE_S: Final = 5.0
# What a search may do without and still answer the same.
_HARMLESS: Final = {"cache"}

Processors = Callable[[], Mapping[str, float]]


class _Asker(Protocol):
    async def ask(self, request: bytes) -> bytes: ...
    def close(self) -> None: ...


def over_rest(
    name: str, port: int, token: str, collection: str, processor_s: Processors = no_processes, **fields: Any
) -> Calling:
    """Searches by POST, each caller over a connection of its own. `fields` are the request's, as JSON names them."""

    def encoded(question: str) -> bytes:
        body = json.dumps({"query": question, "collection": collection, **fields}).encode()
        return http1.request(f"{PREFIX}/search", body, headers={"authorization": f"Bearer {token}"})

    def whole(answer: bytes) -> None:
        if b'"degradedStages":[]' not in answer:
            _check({each["stage"] for each in json.loads(answer).get("degradedStages", ())})

    return Calling(name, opening(lambda: http1.Connection(port), encoded, whole), processor_s)


def over_grpc(
    name: str, port: int, token: str, collection: str, processor_s: Processors = no_processes, **fields: Any
) -> Calling:
    """Searches by gRPC, each caller over a connection of its own. `fields` are the request's."""
    headers = http2.headers(port, METHOD, token, deadline_s=_DEADLINE_S)

    def encoded(question: str) -> bytes:
        return search_pb2.SearchRequest(query=question, collection=collection, **fields).SerializeToString()

    def whole(answer: bytes) -> None:
        found = search_pb2.SearchResponse.FromString(answer)
        _check({each.stage for each in found.degraded_stages})

    return Calling(name, opening(lambda: http2.Caller(port, headers), encoded, whole), processor_s)


def _check(left_out: Set[str]) -> None:
    """Raises Refused where stages were left out that decide what is found."""
    if lacking := left_out - _HARMLESS:
        raise Refused(f"left out: {', '.join(sorted(lacking))}")


def opening(
    connection: Callable[[], _Asker], encoded: Callable[[str], bytes], whole: Callable[[bytes], None]
) -> Callable[[int], AbstractAsyncContextManager[Sequence[Ask]]]:
    """How callers ask over a connection each.

    Args:
        encoded: A question as it goes over the wire.
        whole: Raises Refused where an answer is not what it should be.
    """

    @asynccontextmanager
    async def opened(callers: int) -> AsyncIterator[Sequence[Ask]]:
        connections = [connection() for _ in range(callers)]
        try:
            yield [_asking(each, encoded, whole) for each in connections]
        finally:
            for each in connections:
                each.close()

    return opened


def _asking(connection: _Asker, encoded: Callable[[str], bytes], whole: Callable[[bytes], None]) -> Ask:
    async def ask(question: str) -> bytes:
        answer = await connection.ask(encoded(question))
        whole(answer)
        return answer

    return ask
