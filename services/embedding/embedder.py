"""Texts to vectors: the texts of concurrent calls are scheduled together on a few workers."""

import struct
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from services.embedding.cache import TieredCache, cache_key
from services.embedding.figures import CacheFigures
from services.embedding.lanes import Lane, Work
from services.embedding.models import ModelSpec
from services.embedding.ports import InputType, Model, Tokens
from services.embedding.scheduler import Scheduler, Turns
from services.mesh.bypass import AdaptiveBypass
from services.mesh.errors import InvalidArgument, TextTooLong, Violation

# A model that embedded something within this time need not prove that it can.
_PROVEN_S: Final = 30.0
_COUNT: Final = struct.Struct("<I")


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
    """Embeds texts on one model. Queries overtake documents.

    Args:
        workers: Batches that run at a time.
        max_queue: Texts that may wait, of queries and of documents each.
        batch_tokens: Bound of a batch, padding included.
    """

    def __init__(
        self, model: Model, cache: TieredCache, *, workers: int = 2, max_queue: int = 1024, batch_tokens: int = 128
    ) -> None:
        self._model = model
        self._cache = cache
        self._bypass = AdaptiveBypass()
        self._lanes: dict[InputType, Lane[bytes]] = {
            InputType.QUERY: Lane(max_queue, "queries"),
            InputType.DOCUMENT: Lane(max_queue, "documents"),
        }
        self._scheduler = Scheduler(
            {lane: partial(self._vectors, input_type) for input_type, lane in self._lanes.items()},
            model=model.spec.name,
            workers=workers,
            batch_tokens=batch_tokens,
            finished=self._keep,
        )
        self._figures = CacheFigures()
        self._turns = Turns()
        self._proven_at = -_PROVEN_S

    @property
    def spec(self) -> ModelSpec:
        return self._model.spec

    @property
    def tokenizer_json(self) -> bytes:
        return self._model.tokenizer_json

    @property
    def waiting(self) -> Mapping[str, int]:
        """How many texts of each kind wait for the model."""
        return {lane.kind: len(lane) for lane in self._lanes.values()}

    async def embed(
        self,
        tenant: str,
        texts: Sequence[str],
        *,
        input_type: InputType = InputType.DOCUMENT,
        truncate: bool = False,
        recompute: bool = False,
        named: Callable[[int], str] = "texts[{}]".format,
        within_s: float | None = None,
    ) -> list[Embedding]:
        """The embedding of each text, in order; all or none.

        Args:
            tenant: Whose texts they are; no other tenant learns from the cache that they were embedded.
            truncate: Cut texts over the model's limit, where they would be refused.
            recompute: Take nothing from the cache.
            named: What the caller calls the text at an index.
            within_s: When nobody waits for it any more; None where that is not known.

        Raises:
            InvalidArgument: a text holds nothing to embed.
            TextTooLong: a text is over the model's limit, and truncate is off.
            TooManyRequests: too many texts wait already.
            Overloaded: those that wait leave too little of `within_s`.
        """
        keys = [cache_key(tenant, self.spec, input_type, text) for text in texts]
        text_of = dict(zip(keys, texts, strict=True))
        found = {} if recompute else await self._cached(text_of, input_type)
        missing = [key for key in text_of if key not in found]
        tokens = dict(zip(missing, await self._tokenize([text_of[key] for key in missing], input_type), strict=True))
        counts = {key: _COUNT.unpack_from(entry)[0] for key, entry in found.items()}
        counts |= {key: each.count for key, each in tokens.items()}
        self._check([counts[key] for key in keys], truncate, named)
        entries = found | await self._computed(tenant, tokens, input_type, recompute, within_s)
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
        """Documents by turns, so that no query waits behind a large import."""
        if input_type is InputType.QUERY:
            return await self._model.tokenize(texts) if texts else []
        return await self._turns.tokenized(texts, self._model.tokenize)

    async def _cached(self, keys: Collection[bytes], input_type: InputType) -> dict[bytes, bytes]:
        near = self._cache.near(keys)
        left = [key for key in keys if key not in near]
        far: dict[bytes, bytes] = {}
        if input_type is InputType.DOCUMENT:  # takes long to embed, and many are looked up at once
            far = await self._far(left)
        elif left and self._bypass.looks():
            far = await self._far(left)
            self._bypass.found(bool(far))
        self._figures.looked_up(len(near), len(far), len(left) - len(far))
        return near | far

    async def _far(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        return await self._cache.far(keys, length=_COUNT.size + 4 * self.spec.dimension)

    async def _computed(
        self,
        tenant: str,
        tokens: Mapping[bytes, Tokens],
        input_type: InputType,
        recompute: bool,
        within_s: float | None,
    ) -> dict[bytes, bytes]:
        """Cache entries of texts, once the model made them.

        Between the look into the cache and the queue nothing is awaited, so two calls never compute the same text.
        """
        entries = {} if recompute else self._cache.near(tokens)
        missing = {key: each for key, each in tokens.items() if key not in entries}
        vectors = await self._scheduler.results(self._lanes[input_type], tenant, missing, within_s=within_s)
        return entries | {key: _entry(tokens[key], vector) for key, vector in vectors.items()}

    async def _vectors(self, input_type: InputType, batch: Sequence[Tokens]) -> list[bytes]:
        vectors = await self._model.embed(batch, input_type)
        self._proven_at = time.monotonic()
        return vectors

    def _keep(self, work: Work[bytes]) -> None:
        self._cache.put(work.key, _entry(work.tokens, work.outcome.result()))

    def _embedding(self, entry: bytes, *, cached: bool) -> Embedding:
        (count,) = _COUNT.unpack_from(entry)
        limit = self.spec.max_tokens
        return Embedding(entry[_COUNT.size :], min(count, limit), count > limit, cached)


def _entry(tokens: Tokens, vector: bytes) -> bytes:
    """What the cache keeps of a text: the tokens of the whole of it, then its vector."""
    return _COUNT.pack(tokens.count) + vector
