"""Rerankers behind HTTP endpoints: as Cohere, Jina and vLLM have them, and as Text Embeddings Inference has them."""

import asyncio
import math
from collections.abc import Iterable, Sequence
from typing import Any, Final

from services.embedding.adapters.endpoint import Endpoint, Refused
from services.embedding.models import RerankerSpec
from services.embedding.ports import Score, Scores
from services.mesh.errors import DependencyUnavailable, InvalidArgument, TextTooLong

# --max-client-batch-size of Text Embeddings Inference, unless told otherwise.
_TEI_TEXTS: Final = 32
_TOO_LARGE: Final = 413
# JSON has integers that no float holds.
_LARGEST: Final = 2.0**1000


class CohereReranker:
    """`{model, query, documents, top_n}` to `{results: [{index, relevance_score}]}`; fulfils Reranker.

    Args:
        remote_model: What the endpoint calls the model.
    """

    def __init__(self, spec: RerankerSpec, endpoint: Endpoint, remote_model: str) -> None:
        self._spec = spec
        self._endpoint = endpoint
        self._remote_model = remote_model

    @property
    def spec(self) -> RerankerSpec:
        return self._spec

    async def scores(
        self, tenant: str, query: str, texts: Sequence[str], *, truncate: bool, timeout_s: float | None
    ) -> Scores:
        if not truncate:
            raise InvalidArgument.of("truncate", f"{self._spec.id} cuts long texts by itself; leave it on")
        question = {"model": self._remote_model, "query": query, "documents": list(texts), "top_n": len(texts)}
        try:
            answer = await self._endpoint.ask(question, timeout_s=timeout_s)
        except Refused as error:
            raise _refused(self._endpoint, error) from None
        results = answer.get("results") if isinstance(answer, dict) else None
        if not isinstance(results, list):
            raise self._endpoint.misanswered("has no results")
        found = _values(self._endpoint, results, "relevance_score", len(texts))
        return Scores([Score(value) for value in found], _tokens(answer))


class TeiReranker:
    """`{query, texts, truncate}` to `[{index, score}]`; fulfils Reranker. Asks for some texts at a time, at once."""

    def __init__(self, spec: RerankerSpec, endpoint: Endpoint) -> None:
        self._spec = spec
        self._endpoint = endpoint

    @property
    def spec(self) -> RerankerSpec:
        return self._spec

    async def scores(
        self, tenant: str, query: str, texts: Sequence[str], *, truncate: bool, timeout_s: float | None
    ) -> Scores:
        parts = [texts[at : at + _TEI_TEXTS] for at in range(0, len(texts), _TEI_TEXTS)]
        asked = [asyncio.ensure_future(self._part(query, part, truncate, timeout_s)) for part in parts]
        try:
            found = await asyncio.gather(*asked)
        finally:
            for each in asked:
                each.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        return Scores([Score(value) for part in found for value in part])

    async def _part(self, query: str, texts: Sequence[str], truncate: bool, timeout_s: float | None) -> list[float]:
        question = {"query": query, "texts": list(texts), "truncate": truncate}
        try:
            answer = await self._endpoint.ask(question, timeout_s=timeout_s)
        except Refused as error:
            if error.status == _TOO_LARGE and not truncate:
                raise TextTooLong(
                    f"documents: one is longer than {self._spec.id} takes together with the query; "
                    "shorten it, or leave truncate on to have it cut"
                ) from None
            raise _refused(self._endpoint, error) from None
        if not isinstance(answer, list):
            raise self._endpoint.misanswered("is not a list")
        return _values(self._endpoint, answer, "score", len(texts))


def _values(endpoint: Endpoint, results: Iterable[Any], field: str, count: int) -> list[float]:
    """The score of each text, in order, once it is sure that there is one for each.

    Raises:
        DependencyUnavailable: One is missing, is there twice, or is of no text that was sent.
    """
    found: dict[int, float] = {}
    for result in results:
        index, value = (result.get("index"), result.get(field)) if isinstance(result, dict) else (None, None)
        if type(index) is not int or isinstance(value, bool) or not isinstance(value, (int, float)):
            raise endpoint.misanswered(f"has a result without index or {field}")
        if not 0 <= index < count:
            raise endpoint.misanswered(f"has index {str(index)[:20]} for {count} texts")
        if index in found:
            raise endpoint.misanswered(f"has index {index} twice")
        found[index] = value if abs(value) < _LARGEST else math.inf
    if missing := set(range(count)) - found.keys():
        raise endpoint.misanswered(f"has no result for index {min(missing)}")
    return [found[index] for index in range(count)]


def _tokens(answer: dict[str, Any]) -> int:
    """Tokens read, as Jina and vLLM tell them, or as Cohere does."""
    usage, meta = answer.get("usage"), answer.get("meta")
    told = usage.get("total_tokens") if isinstance(usage, dict) else None
    if told is None and isinstance(meta, dict) and isinstance(meta.get("tokens"), dict):
        told = meta["tokens"].get("input_tokens")
    return int(told) if isinstance(told, (int, float)) and 0 <= told < 2**31 else 0


def _refused(endpoint: Endpoint, error: Refused) -> DependencyUnavailable:
    return DependencyUnavailable(f"{endpoint.host} refuses to rerank: it answered {error.status}")
