"""Texts ordered by how well they answer a query, and the scheduling of a model here that reads them together."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from services.embedding.lanes import Lane
from services.embedding.models import RerankerSpec
from services.embedding.ports import CrossEncoder, Reranker, Score, Scores, Tokens
from services.embedding.scheduler import Scheduler, Turns
from services.mesh.errors import DependencyUnavailable, InvalidArgument, TextTooLong, Violation


@dataclass(frozen=True, slots=True)
class Ranked:
    """A text's place in the request, from 0, and its score."""

    index: int
    score: Score


@dataclass(frozen=True, slots=True)
class Reranking:
    """Texts, best first.

    Attributes:
        total_tokens: Tokens read for them; 0 where that is not known.
    """

    results: Sequence[Ranked]
    total_tokens: int


async def rerank(
    reranker: Reranker,
    tenant: str,
    query: str,
    documents: Sequence[str],
    *,
    top_n: int = 0,
    truncate: bool = True,
    timeout_s: float | None = None,
) -> Reranking:
    """The documents by score, best first; of equal scores the one that was named first.

    Args:
        top_n: The best so many; 0: all.

    Raises:
        InvalidArgument: The query or a document holds no text; named.
        DependencyUnavailable: A score is not a number.
        DomainError: As Reranker.scores does.
    """
    blank = [] if query.strip() else ["query"]
    blank += [f"documents[{index}]" for index, document in enumerate(documents) if not document.strip()]
    if blank:
        violations = [Violation(field, "holds no text") for field in blank]
        raise InvalidArgument(f"{blank[0]}: holds no text", violations=violations)
    found = await reranker.scores(tenant, query, documents, truncate=truncate, timeout_s=timeout_s)
    if not all(math.isfinite(score.value) for score in found.scores):
        raise DependencyUnavailable(f"{reranker.spec.name} gave a score that is not a finite number")
    ranked = sorted(map(Ranked, range(len(documents)), found.scores), key=lambda each: -each.score.value)
    return Reranking(ranked[: top_n or None], found.total_tokens)


class LocalReranker:
    """A cross-encoder in this process; fulfils Reranker. Texts of concurrent calls are scheduled together.

    Args:
        workers: Batches that run at a time.
        max_queue: Texts that may wait.
        batch_tokens: Bound of a batch, padding included.
    """

    def __init__(
        self, model: CrossEncoder, *, workers: int = 1, max_queue: int = 1024, batch_tokens: int = 128
    ) -> None:
        self._model = model
        self._lane: Lane[float] = Lane(max_queue, "texts to rerank")
        self._scheduler = Scheduler(
            {self._lane: model.score}, model=model.spec.name, workers=workers, batch_tokens=batch_tokens
        )
        self._turns = Turns()

    @property
    def spec(self) -> RerankerSpec:
        return self._model.spec

    async def scores(
        self, tenant: str, query: str, texts: Sequence[str], *, truncate: bool, timeout_s: float | None
    ) -> Scores:
        """As Reranker says. Who is out of time is cancelled, and what nobody waits for any more is not read."""
        text_of = {_key(tenant, query, text): text for text in texts}
        found = await self._turns.tokenized(list(text_of.values()), partial(self._model.tokenize, query))
        tokens = dict(zip(text_of, found, strict=True))
        keys = [_key(tenant, query, text) for text in texts]
        if not truncate:
            self._check([tokens[key] for key in keys])
        scores = await self._scheduler.results(self._lane, tenant, tokens, within_s=timeout_s)
        return Scores(
            [Score(scores[key], tokens[key].count > len(tokens[key].ids)) for key in keys],
            sum(len(each.ids) for each in found),
        )

    def _check(self, tokens: Sequence[Tokens]) -> None:
        long = {index: each.count for index, each in enumerate(tokens) if each.count > len(each.ids)}
        if not long:
            return
        limit = self.spec.max_tokens
        index, count = next(iter(long.items()))
        raise TextTooLong(
            f"documents[{index}]: has {count} tokens together with the query, and {self.spec.id} takes {limit}; "
            "shorten it, or leave truncate on to have it cut",
            violations=[
                Violation(f"documents[{index}]", f"has {count} tokens with the query; the limit is {limit}")
                for index, count in long.items()
            ],
            index=str(index),
            tokens=str(count),
            limit=str(limit),
        )


def _key(tenant: str, query: str, text: str) -> bytes:
    head = f"{tenant}\0{len(query)}\0{query}"
    return hashlib.sha256(f"{head}{text}".encode()).digest()
