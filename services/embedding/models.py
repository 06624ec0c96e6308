"""What a model is, apart from how it runs, and the models this service has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from services.mesh.errors import FailedPrecondition, ModelNotFound
from services.mesh.filters import Field, FieldType, Schema
from services.mesh.lists import Listing, Page, paginate

if TYPE_CHECKING:
    from services.embedding.embedder import Embedder
    from services.embedding.ports import Reranker

COLLECTION: Final = "models/"

_LISTING: Final = Listing(
    schema=Schema(
        {
            "name": Field(FieldType.STRING),
            "kind": Field(FieldType.ENUM, values=("EMBEDDING", "RERANKING")),
            "dimension": Field(FieldType.NUMBER),
        }
    ),
    sortable=("name", "dimension"),
    key="name",
)


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A text embedding model.

    Attributes:
        id: Bare id, the last part of `models/{model}`.
        display_name: For people.
        dimension: Length of its vectors.
        max_tokens: Most tokens of one text, special tokens included.
        special_tokens: Tokens added to every text.
        distance: How vectors are compared.
        normalized: Vectors have length 1.
        license: SPDX identifier of the weights' licence.
        languages: ISO 639-1 codes it was trained for.
        revision: Changes when the weights or the tokenizer change; vectors of two revisions do not compare.
    """

    id: str
    display_name: str
    dimension: int
    max_tokens: int
    special_tokens: int
    distance: str
    normalized: bool
    license: str
    languages: tuple[str, ...]
    revision: str

    @property
    def name(self) -> str:
        """`models/{model}`."""
        return COLLECTION + self.id


@dataclass(frozen=True, slots=True)
class RerankerSpec:
    """A model that scores texts by a query.

    Attributes:
        id: Bare id, the last part of `models/{model}`.
        display_name: For people.
        max_tokens: Most tokens of a query and a text together, special tokens included; 0 where that is not known.
        revision: Changes when the weights or the tokenizer change; "" where that is not known.
    """

    id: str
    display_name: str
    max_tokens: int = 0
    revision: str = ""

    @property
    def name(self) -> str:
        """`models/{model}`."""
        return COLLECTION + self.id


class Catalog:
    """The models of this service by name; the first of a kind is its default.

    Raises:
        ValueError: Two models have the same id.
    """

    def __init__(self, embedders: Sequence[Embedder], rerankers: Sequence[Reranker] = ()) -> None:
        self._embedders = {embedder.spec.id: embedder for embedder in embedders}
        self._rerankers = {reranker.spec.id: reranker for reranker in rerankers}
        specs: list[ModelSpec | RerankerSpec] = [embedder.spec for embedder in embedders]
        specs += [reranker.spec for reranker in rerankers]
        self._specs = {spec.id: spec for spec in specs}
        if len(self._specs) < len(specs):
            raise ValueError("two models have the same id")
        self._defaults = {next(iter(each)) for each in (self._embedders, self._rerankers) if each}

    def is_default(self, spec: ModelSpec | RerankerSpec) -> bool:
        """Whether it is taken where a request for its kind names no model."""
        return spec.id in self._defaults

    def spec(self, name: str) -> ModelSpec | RerankerSpec:
        """What a model is, named as `models/{model}` or by its bare id.

        Raises:
            ModelNotFound: There is no such model; names those there are.
        """
        found = self._specs.get(name.removeprefix(COLLECTION))
        if found is None:
            raise _unknown(name, "model", self._specs)
        return found

    def embedder(self, name: str) -> Embedder:
        """The embedder of a model, named as `models/{model}` or by its bare id; of the default model where empty.

        Raises:
            ModelNotFound: there is no such model; names those there are.
        """
        found = self._embedders.get(name.removeprefix(COLLECTION)) if name else next(iter(self._embedders.values()))
        if found is None:
            raise _unknown(name, "embedding model", self._embedders)
        return found

    def reranker(self, name: str) -> Reranker:
        """The reranker of a model, named as `models/{model}` or by its bare id; of the default one where empty.

        Raises:
            FailedPrecondition: No reranking model is configured.
            ModelNotFound: There is no such reranking model; names those there are.
        """
        if not self._rerankers:
            raise FailedPrecondition("model: no reranking model is configured")
        found = self._rerankers.get(name.removeprefix(COLLECTION)) if name else next(iter(self._rerankers.values()))
        if found is None:
            raise _unknown(name, "reranking model", self._rerankers)
        return found

    def page(
        self, *, filter: str, order_by: str, page_size: int, page_token: str, page: int
    ) -> Page[ModelSpec | RerankerSpec]:
        """One page of the models.

        Raises:
            InvalidArgument, InvalidFilter, InvalidPageToken: as `services.mesh.lists.Listing.query` says.
        """
        query = _LISTING.query(filter=filter, order_by=order_by, page_size=page_size, page_token=page_token, page=page)
        return paginate(self._specs.values(), query, _fields)


def _fields(spec: ModelSpec | RerankerSpec) -> dict[str, str | int]:
    if isinstance(spec, RerankerSpec):
        return {"name": spec.name, "kind": "RERANKING", "dimension": 0}
    return {"name": spec.name, "kind": "EMBEDDING", "dimension": spec.dimension}


def _unknown(name: str, kind: str, known: Iterable[str]) -> ModelNotFound:
    return ModelNotFound(f"model: no {kind} {name!r:.160}; there are: {', '.join(known)}", model=name)
