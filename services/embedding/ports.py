"""What the embedder needs of others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from services.embedding.models import ModelSpec, RerankerSpec


class InputType(StrEnum):
    """What a text is to be used for; queries are served before documents, and may be read by other means."""

    DOCUMENT = "document"
    QUERY = "query"


@dataclass(frozen=True, slots=True)
class Tokens:
    """One text as a model reads it, or a query and a text together.

    Attributes:
        ids: Token ids, special tokens included, cut at the model's limit.
        count: Tokens of the whole text, special tokens included; more than `ids` where it was cut.
        type_ids: Of a query and a text: to which of them each of `ids` belongs, 0 or 1, as the tokenizer says it.
    """

    ids: Sequence[int]
    count: int
    type_ids: Sequence[int] = ()


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

    async def embed(self, batch: Sequence[Tokens], input_type: InputType) -> list[bytes]:
        """The vector of each, in order, as little-endian float32.

        It is the same in any company, to cosine .9999, and as one type of input and as the other, to .998.
        """
        ...

    async def probe(self) -> None:
        """Embeds a short text, raising where the model cannot, and gives back memory that large batches left behind."""
        ...


class CrossEncoder(Protocol):
    """Reads a query and a text together. Its methods may run at the same time and never block the event loop."""

    @property
    def spec(self) -> RerankerSpec: ...

    async def tokenize(self, query: str, texts: Sequence[str]) -> list[Tokens]:
        """The tokens of the query with each text, in order. Where both are too long together, the text is cut, and the
        query to no less than half of what the model takes.
        """
        ...

    async def score(self, batch: Sequence[Tokens]) -> list[float]:
        """How well each text answers its query, in order; more is better, and the same in any company, to .001."""
        ...


@dataclass(frozen=True, slots=True)
class Score:
    """How well a text answers a query; more is better.

    Attributes:
        truncated: Either was cut at the model's limit, as far as that is known.
    """

    value: float
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of texts, in their order.

    Attributes:
        total_tokens: Tokens read for them; 0 where that is not known.
    """

    scores: Sequence[Score]
    total_tokens: int = 0


class Reranker(Protocol):
    """Scores texts by a query, wherever its model runs."""

    @property
    def spec(self) -> RerankerSpec: ...

    async def scores(
        self, tenant: str, query: str, texts: Sequence[str], *, truncate: bool, timeout_s: float | None
    ) -> Scores:
        """The score of each text.

        Args:
            tenant: Whose texts they are.
            truncate: Cut what is longer than the model takes, where it would be refused.
            timeout_s: What is left of the caller's time; None where it has no end.

        Raises:
            InvalidArgument: It cannot help but cut, and truncate is off.
            TextTooLong: A text is too long, and truncate is off.
            TooManyRequests: Too many texts wait already.
            DependencyUnavailable: The endpoint that runs the model does not answer, or not as it should; names its
                host.
            DeadlineExceeded: It has not answered in time.
        """
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
