"""Keeps sparse weights in step with the average length of an index, so that scores are BM25's of the texts it holds.

Each chunk notes the average its weights were made for, as a scale. The store counts lengths and scales when asked, so
nothing besides the chunks themselves can be lost or disagree with them: whoever finds chunks of another scale than the
index needs makes their weights anew from their texts.
"""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Sequence
from statistics import fmean
from typing import Final

import structlog

from services.mesh.errors import CollectionNotFound, DependencyUnavailable
from services.retrieval.chunks import IndexId, LengthStats, SparseVector
from services.retrieval.ports import IndexRevisions, UnscaledChunk, VectorStore
from services.retrieval.sparse import SparseEncoder, document_vector, drifted, encoder_for, scale_of

_CHUNKS_AT_A_TIME: Final = 64
_FIRST_REST_S: Final = 0.02
# Rest after work, by its time: at most a fifth of a core goes into rescaling.
_REST_SHARE: Final = 4.0
# To count an index takes the store 0.2 us a chunk, in which it answers nobody. So it rests from that for 100 times as
# long; an average that has to move by 2 % does not go far meanwhile.
_COUNTED_A_SECOND: Final = 50_000
_RETRY_S: Final = 1.0


class SparseScales:
    """The scale of each index, and the work of bringing its chunks to it.

    Args:
        language_of: The language of an index; CollectionNotFound where it is gone.
        revisions: Told of what was rescaled, since answers found before have other scores; None: nobody keeps answers.
    """

    def __init__(
        self,
        store: VectorStore,
        language_of: Callable[[IndexId], Awaitable[str]],
        revisions: IndexRevisions | None = None,
    ) -> None:
        self._store = store
        self._language_of = language_of
        self._revisions = revisions
        self._scales: dict[IndexId, int] = {}
        self._seen: set[IndexId] = set()
        self._due: dict[IndexId, None] = {}
        self._counted_again_s: dict[IndexId, float] = {}
        self._current: IndexId | None = None
        self._changed = asyncio.Condition()
        self._writing: defaultdict[IndexId, asyncio.Lock] = defaultdict(asyncio.Lock)

    def writing(self, index: IndexId) -> asyncio.Lock:
        """Held while chunks are read, encoded and written back, so that none is overwritten with an older text."""
        return self._writing[index]

    async def scale_for(self, index: IndexId, lengths: Sequence[int]) -> int:
        """The scale to encode new chunks of these lengths with."""
        if index not in self._scales:
            stats = await self._store.length_stats(index)
            self._scales.setdefault(index, _used(stats) if stats.chunks else scale_of(fmean(lengths)))
        return self._scales[index]

    async def wrote(self, index: IndexId) -> None:
        """The index has changed; its scale is looked at soon."""
        self._seen.add(index)
        async with self._changed:
            self._due[index] = None
            self._changed.notify_all()

    async def noticed(self, index: IndexId) -> None:
        """The index is in use; looked at once, since a process that ended may have left work."""
        if index not in self._seen:
            await self.wrote(index)

    def forget(self, index: IndexId) -> None:
        """The index is gone."""
        self._scales.pop(index, None)
        self._writing.pop(index, None)
        self._counted_again_s.pop(index, None)
        self._seen.discard(index)

    async def settled(self) -> None:
        """Returns when every index noticed or written so far has its scale."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self._due and self._current is None)

    async def run(self) -> None:
        """Does the work, until cancelled."""
        log = structlog.get_logger("retrieval.scaling")
        clock = asyncio.get_running_loop().time
        while True:
            index = await self._next()
            started_s = clock()
            try:
                await self._settle(index)
            except DependencyUnavailable as error:
                log.warning("sparse weights wait for the store", index=index, reason=error.message)
                await self.wrote(index)
                started_s -= _RETRY_S
            except CollectionNotFound:
                self.forget(index)
            finally:
                async with self._changed:
                    self._current = None
                    self._changed.notify_all()
            await asyncio.sleep(_FIRST_REST_S + _REST_SHARE * (clock() - started_s))

    async def _next(self) -> IndexId:
        """The index that is due for longest, of those that may be counted again."""
        clock = asyncio.get_running_loop().time
        async with self._changed:
            while True:
                again_s = {index: self._counted_again_s.get(index, 0.0) for index in self._due}
                for index, may_s in again_s.items():
                    if may_s <= clock():
                        del self._due[index]
                        self._current = index
                        return index
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(min(again_s.values(), default=None)):
                        await self._changed.wait()

    async def _settle(self, index: IndexId) -> None:
        stats = await self._store.length_stats(index)
        self._counted_again_s[index] = asyncio.get_running_loop().time() + stats.chunks / _COUNTED_A_SECOND
        if not stats.chunks:
            return
        scale, average = self._scales.get(index, _used(stats)), stats.total_length / stats.chunks
        self._scales[index] = scale = scale_of(average) if drifted(scale, average) else scale
        if set(stats.scales) != {scale}:
            encoder = encoder_for(await self._language_of(index))
            while await self._rescale_some(index, stats.scales.keys() - {scale}, scale, encoder):
                pass

    async def _rescale_some(self, index: IndexId, others: Collection[int], scale: int, encoder: SparseEncoder) -> bool:
        async with self.writing(index):
            chunks = await self._store.of_scales(index, others, _CHUNKS_AT_A_TIME)
            if chunks:
                vectors = await asyncio.to_thread(_encoded, chunks, scale, encoder)
                await self._store.rescale(index, scale, vectors)
                if self._revisions is not None:
                    await self._revisions.bump(index)
        return bool(chunks)


def _encoded(chunks: Sequence[UnscaledChunk], scale: int, encoder: SparseEncoder) -> dict[str, SparseVector]:
    return {chunk.key: document_vector(encoder.counts(chunk.text), scale) for chunk in chunks}


def _used(stats: LengthStats) -> int:
    return max(stats.scales, key=lambda scale: (stats.scales[scale], scale))
