"""Documents of a corpus, made ahead in a process of their own: making one takes longer than writing it down."""

import asyncio
import multiprocessing
from collections import deque
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Final

from benchmarks.scale_corpus import Corpus
from services.retrieval.chunks import EncodedChunk

Document = list[EncodedChunk]

_MADE_AT_A_TIME: Final = 10
_MADE_AHEAD: Final = 40
_corpus: Corpus | None = None


class Feed:
    """Makes documents in `pool`, whose processes hold the corpus."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self._pool = pool

    @classmethod
    @contextmanager
    def open(cls, seed: int) -> Iterator["Feed"]:
        """With one process, started afresh: gRPC does not survive a fork."""
        spawning = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=spawning, initializer=_prepare, initargs=(seed,)) as pool:
            pool.submit(_made, 0, 0).result()  # it is ready
            yield cls(pool)

    async def documents(self, first: int, end: int) -> AsyncIterator[Document]:
        """Those with first <= number < end, in order; some are made while others are in use."""
        loop = asyncio.get_running_loop()
        starts = iter(range(first, end, _MADE_AT_A_TIME))
        making: deque[asyncio.Future[list[Document]]] = deque()
        while True:
            while len(making) < _MADE_AHEAD and (start := next(starts, None)) is not None:
                making.append(loop.run_in_executor(self._pool, _made, start, min(start + _MADE_AT_A_TIME, end)))
            if not making:
                return
            for document in await making.popleft():
                yield document


def _prepare(seed: int) -> None:
    global _corpus
    _corpus = Corpus(seed)


def _made(first: int, end: int) -> list[Document]:
    assert _corpus is not None
    return [_corpus.document(number) for number in range(first, end)]
