"""What the cache of answers brings: `python -m benchmarks.cache [--searches N] [--questions N] [--exponent S]`.

One mesh with the demo's corpus. A query log is replayed through the edge: questions drawn by Zipf's law, the one of
rank r as often as 1 / r ** exponent, and now and then a document that is replaced, after which nothing of the
collection may be given again. How many searches repeat one made since the last write follows from the log alone, and so
does the best hit rate that a cache can have which never hides a write; it is told beside the one measured.
"""

import argparse
import itertools
import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.rig import Rig
from ragweave.client import Client
from ragweave.v1 import job_pb2, search_pb2
from ragweave.v1.cache_service_pb2 import GetCacheStatsRequest, PurgeCacheRequest, WarmCacheRequest

_AT_ONCE: Final = 100
_WARMED: Final = 200
_AFTER_WARMING: Final = 1000


@dataclass
class Replay:
    """How the searches of a log were answered.

    Attributes:
        taken_ms: Of each, by what the cache did.
    """

    taken_ms: dict[str, list[float]] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def hit_rate(self) -> float:
        """Of all searches."""
        return len(self.taken_ms.get("HIT", ())) / sum(map(len, self.taken_ms.values()))


def zipf_log(questions: Sequence[str], length: int, exponent: float, draw: random.Random) -> list[str]:
    """Questions as often as their rank says, in random order."""
    return draw.choices(questions, [1 / rank**exponent for rank in range(1, len(questions) + 1)], k=length)


def parts(log: Sequence[str], every: int) -> list[Sequence[str]]:
    """What is asked between two writes."""
    return [log[begin : begin + every] for begin in range(0, len(log), every)]


def repeats(log: Sequence[str], every: int) -> int:
    """Searches that repeat one made since the last write, with one before each `every` searches."""
    return sum(len(part) - len(set(part)) for part in parts(log, every))


def replay(
    client: Client, collection: str, log: Sequence[str], write: Callable[[], object], every: int, callers: int = 1
) -> Replay:
    """Makes the searches of a log in order, `callers` at a time, and a write before each `every` of them."""
    replayed = Replay()

    def search(text: str) -> tuple[str, float]:
        began_s = time.perf_counter()
        found = client.search(text, collection)
        taken_ms = (time.perf_counter() - began_s) * 1e3
        return search_pb2.SearchResponse.Cache.Status.Name(found.cache.status), taken_ms

    with ThreadPoolExecutor(callers) as threads:
        for part in parts(log, every):
            write()
            began_s = time.perf_counter()
            for status, taken_ms in threads.map(search, part):
                replayed.taken_ms.setdefault(status, []).append(taken_ms)
            replayed.seconds += time.perf_counter() - began_s
    return replayed


def writer(client: Client, collection: str) -> Callable[[], None]:
    """Replaces one document by another text each time, and returns when searches show it."""
    numbers = itertools.count()

    def write() -> None:
        text = f"Edition {next(numbers)} of what is said of lambdas."
        given = [{"document_id": "edited", "text": text}]
        ended = client.wait(client.import_texts(collection, given, on_duplicate="REPLACE").name)
        assert ended.state == job_pb2.Job.SUCCEEDED, ended

    return write


def asked_at_once(client: Client, collection: str, text: str) -> Counter[str]:
    """What the cache did for so many who ask the same at the same time."""
    name = search_pb2.SearchResponse.Cache.Layer.Name
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        found = threads.map(lambda _: client.search(text, collection), range(_AT_ONCE))
        return Counter(name(each.cache.layer) if each.cache.status == each.cache.HIT else "MISS" for each in found)


def main() -> None:
    """Prints a line for each number of writes and of callers."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--searches", type=int, default=20_000)
    arguments.add_argument("--questions", type=int, default=1000)
    arguments.add_argument("--exponent", type=float, default=1.0)
    arguments.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    given = arguments.parse_args()
    print(f"seed {given.seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder, Rig(Path(folder)) as rig, rig.client() as client:
        _measure(client, rig.collection, rig.words, given)


def _measure(client: Client, collection: str, words: Sequence[str], given: argparse.Namespace) -> None:
    draw = random.Random(given.seed)  # noqa: S311  (picks words, guards nothing)
    questions = [" ".join(draw.sample(words, 6)) for _ in range(given.questions)]
    log = zipf_log(questions, given.searches, given.exponent, draw)
    write = writer(client, collection)
    print("a write every   callers   hit rate   at best    hit p50   p95 ms   miss p50   p95 ms   searches/s")
    for callers, every in itertools.product((1, 16), (given.searches, 5000, 1000)):
        before = client.cache.GetCacheStats(GetCacheStatsRequest())
        client.cache.PurgeCache(PurgeCacheRequest())
        done = replay(client, collection, log, write, every, callers)
        told = client.cache.GetCacheStats(GetCacheStatsRequest())
        assert told.hits - before.hits == len(done.taken_ms["HIT"]), "the service counts as its callers do"
        cells = [*_spread(done.taken_ms["HIT"]), *_spread(done.taken_ms["MISS"])]
        print(
            f"{every:>13,} {callers:>9} {done.hit_rate:>10.1%} {repeats(log, every) / len(log):>9.1%}"
            + "".join(f"{each:>10.2f}" for each in cells)
            + f"{len(log) / done.seconds:>13,.0f}",
            flush=True,
        )
    print("100 who ask the same at once:", dict(asked_at_once(client, collection, "which question is asked by all")))
    write()
    began_s = time.perf_counter()
    warmed = client.cache.WarmCache(WarmCacheRequest(collection=collection, limit=_WARMED))
    seconds = time.perf_counter() - began_s
    following = log[:_AFTER_WARMING]
    after = replay(client, collection, following, lambda: None, len(following))
    best = repeats(following, len(following)) / len(following)
    print(
        f"warmed {warmed.warmed} of {_WARMED} after a write, in {seconds:.1f} s; of {len(following):,} searches "
        f"after that {after.hit_rate:.1%} are hits, {best:.1%} without"
    )


def _spread(taken_ms: Sequence[float]) -> tuple[Any, Any]:
    """Median and 95th percentile."""
    return statistics.median(taken_ms), statistics.quantiles(taken_ms, n=20)[-1]


if __name__ == "__main__":
    main()
