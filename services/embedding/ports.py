"""What the embedder needs of others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from services.embedding.models import ModelSpec


@dataclass(frozen=True, slots=True)
class Tokens:
    """One text as a model reads it.

    Attributes:
        ids: Token ids, special tokens included, cut at the model's limit.
        count: Tokens of the whole text, special tokens included; more than `ids` where it was cut.
    """

    ids: Sequence[int]
    count: int


class Model(Protocol):
    """Turns texts into vectors. Its methods may run at the same time and never block the event loop."""

    @property
    def spec(self) -> ModelSpec: ...

    @property
    def tokenizer_json(self) -> bytes:
        """tokenizer.json of the Hugging Face tokenizers library, without truncation and padding."""
        ...

    async def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        """The tokens of each text, in order."""
        ...

    async def embed(self, batch: Sequence[Tokens]) -> list[bytes]:
        """The vector of each, in order, as little-endian float32; the same in any company, to cosine .9999."""
        ...

    async def probe(self) -> None:
        """Embeds a short text, raising where the model cannot, and gives back memory that large batches left behind."""
        ...


class EmbeddingCache(Protocol):
    """Bytes by key. Forgets what it likes, and is never the reason that a text is not embedded: `get` and `put` never
    raise.
    """

    async def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The value of each key, in order; None where there is none, or where the cache does not answer in time."""
        ...

    async def put(self, entries: Mapping[bytes, bytes]) -> None:
        """Keeps the entries, or some of them, for a while."""
        ...

    async def erase(self, tenant: bytes) -> tuple[int, bool]:
        """Drops entries whose keys begin so, as many as it gets to: how many these were, and whether all are gone.

        Args:
            tenant: Eight bytes that keys of one tenant begin with.

        Raises:
            DependencyUnavailable: The cache does not answer.
        """
        ...
