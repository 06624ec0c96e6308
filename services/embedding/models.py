"""What a model is, apart from how it runs, and the models this service has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from services.mesh.errors import ModelNotFound
from services.mesh.filters import Field, FieldType, Schema
from services.mesh.lists import Listing, Page, paginate

if TYPE_CHECKING:
    from services.embedding.embedder import Embedder

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


class Catalog:
    """The models of this service by name; the first is the default."""

    def __init__(self, embedders: Sequence[Embedder]) -> None:
        self._embedders = {embedder.spec.id: embedder for embedder in embedders}
        self._default = embedders[0]

    @property
    def default(self) -> ModelSpec:
        """Taken where a request names no model."""
        return self._default.spec

    def embedder(self, name: str) -> Embedder:
        """The embedder of a model, named as `models/{model}` or by its bare id; of the default model where empty.

        Raises:
            ModelNotFound: there is no such model; names those there are.
        """
        if not name:
            return self._default
        found = self._embedders.get(name.removeprefix(COLLECTION))
        if found is None:
            known = ", ".join(self._embedders)
            raise ModelNotFound(f"model: no model {name!r:.160}; there are: {known}", model=name)
        return found

    def page(self, *, filter: str, order_by: str, page_size: int, page_token: str, page: int) -> Page[ModelSpec]:
        """One page of the models.

        Raises:
            InvalidArgument, InvalidFilter, InvalidPageToken: as `services.mesh.lists.Listing.query` says.
        """
        query = _LISTING.query(filter=filter, order_by=order_by, page_size=page_size, page_token=page_token, page=page)
        return paginate((each.spec for each in self._embedders.values()), query, _fields)


def _fields(spec: ModelSpec) -> dict[str, str | int]:
    return {"name": spec.name, "kind": "EMBEDDING", "dimension": spec.dimension}
