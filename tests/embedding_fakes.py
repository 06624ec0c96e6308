"""In-memory stand-ins for the embedding service's ports."""

import asyncio
import hashlib
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from services.embedding.models import ModelSpec, RerankerSpec
from services.embedding.ports import InputType, Tokens

BEGIN, END = 1, 2


def spec_of(**fields: object) -> ModelSpec:
    """A small model's description, with the given fields changed."""
    known: dict[str, object] = {
        "id": "words",
        "display_name": "Words",
        "dimension": 64,
        "max_tokens": 32,
        "special_tokens": 2,
        "distance": "cosine",
        "normalized": True,
        "license": "MIT",
        "languages": ("en",),
        "revision": "1",
    }
    return ModelSpec(**{**known, **fields})  # type: ignore[arg-type]


@dataclass
class WordModel:
    """A bag of hashed words, normalised; a token is a word.

    Attributes:
        batches: Every batch it ran, as the tokens' ids.
        input_types: Of every batch it ran.
        tokenized: Every text it tokenized.
        gate: Closed, it holds each batch until opened.
        error: Raised by every embed and probe while set.
        probes: How often it was probed.
    """

    spec: ModelSpec = field(default_factory=spec_of)
    tokenizer_json: bytes = b"{}"
    batches: list[list[list[int]]] = field(default_factory=list)
    input_types: list[InputType] = field(default_factory=list)
    tokenized: list[str] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    error: Exception | None = None
    probes: int = 0
    started: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))

    def __post_init__(self) -> None:
        self.gate.set()

    async def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        self.tokenized += texts
        return [self._tokens(text) for text in texts]

    async def embed(self, batch: Sequence[Tokens], input_type: InputType) -> list[bytes]:
        self.input_types.append(input_type)
        self.batches.append([list(tokens.ids) for tokens in batch])
        self.started.release()
        await asyncio.sleep(0)  # as a thread would, lets others run
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return [self._vector(tokens.ids) for tokens in batch]

    async def probe(self) -> None:
        self.probes += 1
        if self.error is not None:
            raise self.error

    def lengths(self) -> list[list[int]]:
        """Words of the texts of each batch, in the order they ran."""
        return [[len(ids) - 2 for ids in batch] for batch in self.batches]

    def _tokens(self, text: str) -> Tokens:
        ids = [BEGIN, *(_token(word) for word in text.lower().split()), END]
        limit = self.spec.max_tokens
        return Tokens(ids if len(ids) <= limit else [*ids[: limit - 1], END], len(ids))

    def _vector(self, ids: Sequence[int]) -> bytes:
        values = [0.0] * self.spec.dimension
        for token in ids[1:-1]:
            values[token % len(values)] += 1.0
        length = math.hypot(*values)
        return struct.pack(f"<{len(values)}f", *(value / length for value in values))


@dataclass
class OverlapEncoder:
    """Scores a text by how many of its words stand in the query, less a hundredth of its length; a token is a word.

    Attributes:
        batches: Every batch it ran, as the words of each text.
        gate: Closed, it holds each batch until opened.
        error: Raised by every score while set.
        worst: Given to every text instead, while set.
    """

    spec: RerankerSpec = field(default_factory=lambda: RerankerSpec("overlap", "Overlap", 32, "1"))
    batches: list[list[int]] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    started: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    error: Exception | None = None
    worst: float | None = None

    def __post_init__(self) -> None:
        self.gate.set()

    async def tokenize(self, query: str, texts: Sequence[str]) -> list[Tokens]:
        return [self._pair(query.lower().split(), text.lower().split()) for text in texts]

    async def score(self, batch: Sequence[Tokens]) -> list[float]:
        self.batches.append([list(tokens.type_ids).count(1) - 1 for tokens in batch])
        self.started.release()
        await asyncio.sleep(0)  # as a thread would, lets others run
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return [self._score(tokens) if self.worst is None else self.worst for tokens in batch]

    def _pair(self, query: Sequence[str], text: Sequence[str]) -> Tokens:
        count = len(query) + len(text) + 3
        room = self.spec.max_tokens - 3
        query = query[: max(room // 2, room - len(text))]
        text = text[: room - len(query)]
        ids = [BEGIN, *map(_token, query), END, *map(_token, text), END]
        return Tokens(ids, count, [0] * (len(query) + 2) + [1] * (len(text) + 1))

    def _score(self, tokens: Tokens) -> float:
        split = list(tokens.type_ids).index(1)
        query, text = set(tokens.ids[1 : split - 1]), tokens.ids[split:-1]
        return 1 / (1 + math.exp(len(text) / 100 - sum(each in query for each in text)))


@dataclass
class MemoryCache:
    """A cache that forgets nothing.

    Attributes:
        asked: Lookups so far.
    """

    entries: dict[bytes, bytes] = field(default_factory=dict)
    asked: int = 0

    async def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        self.asked += 1
        return [self.entries.get(key) for key in keys]

    async def put(self, entries: Mapping[bytes, bytes]) -> None:
        self.entries.update(entries)

    async def erase(self, tenant: bytes) -> tuple[int, bool]:
        gone = [key for key in self.entries if key.startswith(tenant)]
        for key in gone:
            del self.entries[key]
        return len(gone), True


def _token(word: str) -> int:
    return int.from_bytes(hashlib.sha256(word.encode()).digest()[:4]) + 3
