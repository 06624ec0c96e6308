"""Texts to vectors: the texts of concurrent calls are scheduled together on a few workers."""

import asyncio
import struct
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from services.embedding.cache import TieredCache, cache_key
from services.embedding.lanes import Lane, Work
from services.embedding.models import ModelSpec
from services.embedding.ports import Model, Tokens
from services.mesh.errors import InvalidArgument, TextTooLong, TooManyRequests, Violation

# Batches of queries in a row after which one of documents runs, so that no load of queries stops an import for good.
QUERIES_BEFORE_DOCUMENTS: Final = 16
# Characters of documents tokenized at a time: about 10 ms, after which others have their turn.
_TOKENIZED_AT_ONCE: Final = 32_768
# A model that embedded something within this time need not prove that it can.
_PROVEN_S: Final = 30.0
_RETRY_AFTER_S: Final = 1.0
_COUNT: Final = struct.Struct("<I")


class InputType(StrEnum):
    """What a text is to be used for; queries are served before documents."""

    DOCUMENT = "document"
    QUERY = "query"


@dataclass(frozen=True, slots=True)
class Embedding:
    """The vector of one text.

    Attributes:
        vector: Little-endian float32, as many as the model's dimension.
        token_count: Tokens that were embedded, special tokens included.
        truncated: The text was cut at the model's limit.
        cached: Nothing was computed for it.
    """

    vector: bytes
    token_count: int
    truncated: bool
    cached: bool


class Embedder:
    """Embeds texts on one model.

    Queries overtake documents: whatever waits, at most one running batch per worker is ahead of a query. A text that
    several calls want at a time is computed once; a text nobody waits for any more is not computed at all.

    Args:
        workers: Batches that run at a time.
        max_queue: Texts that may wait, of queries and of documents each.
        batch_tokens: Bound of a batch, padding included. Long texts gain nothing from company, short ones half.
    """

    def __init__(
        self, model: Model, cache: TieredCache, *, workers: int = 2, max_queue: int = 1024, batch_tokens: int = 128
    ) -> None:
        self._model = model
        self._cache = cache
        self._batch_tokens = batch_tokens
        self._lanes = {InputType.QUERY: Lane(max_queue), InputType.DOCUMENT: Lane(max_queue)}
        self._in_flight: dict[bytes, Work] = {}
        self._idle = workers
        self._running: set[asyncio.Task[None]] = set()
        self._queries_in_a_row = 0
        self._tokenizing = asyncio.Lock()
        self._proven_at = -_PROVEN_S

    @property
    def spec(self) -> ModelSpec:
        return self._model.spec

    @property
    def tokenizer_json(self) -> bytes:
        return self._model.tokenizer_json

    async def embed(
        self,
        tenant: str,
        texts: Sequence[str],
        *,
        input_type: InputType = InputType.DOCUMENT,
        truncate: bool = False,
        named: Callable[[int], str] = "texts[{}]".format,
    ) -> list[Embedding]:
        """The embedding of each text, in order; all or none.

        Args:
            tenant: Whose texts they are; no other tenant learns from the cache that they were embedded.
            truncate: Cut texts over the model's limit, where they would be refused.
            named: What the caller calls the text at an index.

        Raises:
            InvalidArgument: a text holds nothing to embed.
            TextTooLong: a text is over the model's limit, and truncate is off.
            TooManyRequests: too many texts wait already.
        """
        keys = [cache_key(tenant, self.spec, input_type, text) for text in texts]
        text_of = dict(zip(keys, texts, strict=True))
        found = self._cache.near(text_of)
        found |= await self._cache.far(
            (key for key in text_of if key not in found), length=_COUNT.size + 4 * self.spec.dimension
        )
        missing = [key for key in text_of if key not in found]
        tokens = dict(zip(missing, await self._tokenize([text_of[key] for key in missing], input_type), strict=True))
        counts = {key: _COUNT.unpack_from(entry)[0] for key, entry in found.items()}
        counts |= {key: each.count for key, each in tokens.items()}
        self._check([counts[key] for key in keys], truncate, named)
        entries = found | await self._computed(tenant, tokens, input_type)
        return [self._embedding(entries[key], cached=key in found) for key in keys]

    async def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, special tokens included."""
        return [each.count for each in await self._tokenize(texts, InputType.DOCUMENT)]

    async def check(self) -> None:
        """Returns if the model embedded something lately, or does so now; raises what the model raises."""
        if time.monotonic() - self._proven_at >= _PROVEN_S:
            await self._model.probe()
            self._proven_at = time.monotonic()

    def _check(self, counts: Sequence[int], truncate: bool, named: Callable[[int], str]) -> None:
        limit = self.spec.max_tokens
        blank = [index for index, count in enumerate(counts) if count <= self.spec.special_tokens]
        if blank:
            description = "holds no text to embed"
            raise InvalidArgument(
                f"{named(blank[0])}: {description}",
                violations=[Violation(named(index), description) for index in blank],
            )
        long = {} if truncate else {index: count for index, count in enumerate(counts) if count > limit}
        if long:
            index, count = next(iter(long.items()))
            raise TextTooLong(
                f"{named(index)}: has {count} tokens, and {self.spec.id} takes {limit}; "
                "shorten it, or set truncate to have it cut",
                violations=[
                    Violation(named(index), f"has {count} tokens; the limit is {limit}")
                    for index, count in long.items()
                ],
                index=str(index),
                tokens=str(count),
                limit=str(limit),
            )

    async def _tokenize(self, texts: Sequence[str], input_type: InputType) -> list[Tokens]:
        """Documents a slice at a time and one call at a time, so that no query waits behind a large import."""
        if input_type is InputType.QUERY:
            return await self._model.tokenize(texts) if texts else []
        tokens: list[Tokens] = []
        for part in _slices(texts):
            async with self._tokenizing:
                tokens += await self._model.tokenize(part)
        return tokens

    async def _computed(self, tenant: str, tokens: Mapping[bytes, Tokens], input_type: InputType) -> dict[bytes, bytes]:
        """Cache entries of texts, once the model made them.

        Everything up to the wait happens in one step of the event loop, so two calls never queue the same text.
        """
        entries = self._cache.near(tokens)
        works = self._enlist(tenant, {key: each for key, each in tokens.items() if key not in entries}, input_type)
        if not works:
            return entries
        try:
            await asyncio.wait([work.vector for work in works], return_when=asyncio.FIRST_EXCEPTION)
            return entries | {work.key: _entry(work) for work in works if work.vector.done()}
        finally:
            for work in works:
                self._leave(work)

    def _enlist(self, tenant: str, tokens: Mapping[bytes, Tokens], input_type: InputType) -> list[Work]:
        lane = self._lanes[input_type]
        fresh = [key for key in tokens if key not in self._in_flight]
        if len(fresh) > lane.room:
            raise TooManyRequests(
                f"{self.spec.id} has too many {input_type}s waiting; try again shortly",
                retry_after_s=_RETRY_AFTER_S,
                subject=f"{self.spec.name} {input_type} queue",
            )
        for key in fresh:
            self._in_flight[key] = Work(key, tokens[key], tenant)
            lane.push(self._in_flight[key])
        works = [self._in_flight[key] for key in tokens]
        for work in works:
            work.waiters += 1
        self._dispatch()
        return works

    def _leave(self, work: Work) -> None:
        work.waiters -= 1
        if not work.waiters and work.lane is not None:
            work.lane.remove(work)
            del self._in_flight[work.key]

    def _dispatch(self) -> None:
        while self._idle and (batch := self._next()):
            self._idle -= 1
            task = asyncio.create_task(self._run(batch))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    def _next(self) -> list[Work]:
        """The batch to run next. Idle workers share what waits: a second worker is worth more than a full batch."""
        queries, documents = self._lanes[InputType.QUERY], self._lanes[InputType.DOCUMENT]
        patient = self._queries_in_a_row < QUERIES_BEFORE_DOCUMENTS or not documents
        lane = queries if queries and patient else documents
        self._queries_in_a_row = self._queries_in_a_row + 1 if lane is queries else 0
        return lane.take(self._batch_tokens, max_works=-(-len(lane) // max(1, self._idle)))

    async def _run(self, batch: Sequence[Work]) -> None:
        """Runs the batch, then whatever is next until nothing is."""
        try:
            while batch:
                await self._embed(batch)
                batch = self._next()
        finally:
            self._idle += 1

    async def _embed(self, batch: Sequence[Work]) -> None:
        try:
            vectors = await self._model.embed([work.tokens for work in batch])
        except Exception as error:
            for work in batch:
                del self._in_flight[work.key]
                work.vector.set_exception(error)
                work.vector.exception()  # seen, even if every caller has left
            return
        self._proven_at = time.monotonic()
        for work, vector in zip(batch, vectors, strict=True):
            del self._in_flight[work.key]
            work.vector.set_result(vector)
            self._cache.put(work.key, _entry(work))

    def _embedding(self, entry: bytes, *, cached: bool) -> Embedding:
        (count,) = _COUNT.unpack_from(entry)
        limit = self.spec.max_tokens
        return Embedding(entry[_COUNT.size :], min(count, limit), count > limit, cached)


def _entry(work: Work) -> bytes:
    """What the cache keeps of a text: the tokens of the whole of it, then its vector."""
    return _COUNT.pack(work.tokens.count) + work.vector.result()


def _slices(texts: Sequence[str]) -> Iterable[Sequence[str]]:
    """The texts in order, in parts of a bounded number of characters; a longer text is a part of its own."""
    start = length = 0
    for index, text in enumerate(texts):
        if index > start and length + len(text) > _TOKENIZED_AT_ONCE:
            yield texts[start:index]
            start, length = index, 0
        length += len(text)
    if start < len(texts):
        yield texts[start:]
