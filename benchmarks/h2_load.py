"""The load of `benchmarks.overload`, in a process of its own: gRPC calls by the thousand (benchmarks.http2).

`python -m benchmarks.h2_load` reads a Plan as JSON from stdin and prints a Result. It looks at no more of an answer
than whether there is one, and what it says is missing.
"""

import asyncio
import json
import random
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any, Final

from benchmarks.http2 import Call, Connection, headers
from ragweave.v1 import search_pb2

_SEARCH: Final = "/ragweave.v1.RetrievalService/Search"
# The edge takes 100 streams a connection.
_STREAMS: Final = 90
_CONNECTIONS: Final = 40


@dataclass(frozen=True)
class Plan:
    """What to load.

    Attributes:
        words: Queries are drawn from these.
        callers: Calls at a time, each the next once answered; 0 for an open loop.
        per_s: Calls a second of the open loop, whether answered or not.
    """

    port: int
    token: str
    collection: str
    words: list[str]
    seconds: float
    deadline_s: float
    seed: int
    callers: int = 0
    per_s: float = 0.0


@dataclass
class Result:
    """What came of it. Of `offered`, those that are neither in time nor refused had no answer in time.

    Attributes:
        in_time: Answered within the deadline; `whole` of them with no stage left out.
        refused: Ended at once, or later, without an answer.
        cpu_s: Processor time of this process.
    """

    offered: int = 0
    in_time: int = 0
    whole: int = 0
    refused: int = 0
    seconds: float = 0.0
    cpu_s: float = 0.0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    refused_p50_ms: float = 0.0


class Load:
    """A plan being carried out."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._draw = random.Random(plan.seed)  # noqa: S311  (picks words, guards nothing)
        self._headers = headers(plan.port, _SEARCH, plan.token, deadline_s=plan.deadline_s)
        self._connections: list[Connection] = []
        self._took_ms: list[float] = []
        self._refused_ms: list[float] = []
        self._going = False
        self.result = Result()

    async def run(self) -> Result:
        loop = asyncio.get_running_loop()
        for _ in range(_CONNECTIONS):
            _, made = await loop.create_connection(lambda: Connection(self.ended), "127.0.0.1", self._plan.port)
            self._connections.append(made)
        cpu_s, began_s = time.process_time(), time.perf_counter()
        self._going = True
        if self._plan.callers:
            for _ in range(self._plan.callers):
                self._ask()
            await asyncio.sleep(self._plan.seconds)
        else:
            await self._open_loop(began_s)
        self._going = False
        self.result.seconds = time.perf_counter() - began_s
        self.result.cpu_s = time.process_time() - cpu_s
        if not self._plan.callers:  # what was sent in the last seconds counts, too; of a closed loop it would not
            await asyncio.sleep(self._plan.deadline_s + 0.5)
        for each in self._connections:
            each.close()
        for times, name in ((self._took_ms, "p50_ms"), (self._refused_ms, "refused_p50_ms")):
            setattr(self.result, name, statistics.median(times) if times else 0.0)
        self.result.p99_ms = statistics.quantiles(self._took_ms, n=100)[98] if len(self._took_ms) > 1 else 0.0
        return self.result

    async def _open_loop(self, began_s: float) -> None:
        due_s = began_s
        while due_s < began_s + self._plan.seconds:
            while due_s <= time.perf_counter():
                self._ask()
                due_s += self._draw.expovariate(self._plan.per_s)
            await asyncio.sleep(0.002)

    def _ask(self) -> None:
        text = " ".join(self._draw.sample(self._plan.words, 6))
        message = search_pb2.SearchRequest(
            query=text, collection=self._plan.collection, cache_control=search_pb2.SearchRequest.BYPASS
        )
        self.result.offered += 1
        free = min(self._connections, key=lambda each: len(each.calls))
        if len(free.calls) < _STREAMS:
            free.send(self._headers, message.SerializeToString())

    def ended(self, call: Call) -> None:
        took_s = time.perf_counter() - call.began_s
        if not call.answer:
            self.result.refused += 1
            self._refused_ms.append(took_s * 1e3)
        elif took_s <= self._plan.deadline_s and (self._going or not self._plan.callers):
            answer = search_pb2.SearchResponse.FromString(call.message)
            self.result.in_time += 1
            self.result.whole += not answer.degraded_stages
            self._took_ms.append(took_s * 1e3)
        if self._going and self._plan.callers:
            self._ask()


def main() -> None:
    given: dict[str, Any] = json.load(sys.stdin)
    print(json.dumps(asdict(asyncio.run(Load(Plan(**given)).run()))))


if __name__ == "__main__":
    main()
