"""A filter tree as a recipe: what travels to an engine, which builds Qdrant Edge's filter from it."""

from collections.abc import Collection
from types import ModuleType
from typing import Any, Final, cast

import numpy

from services.mesh.filters import Filter
from services.retrieval.adapters.qdrant_filter import QdrantFilters
from services.retrieval.adapters.qdrant_instants import KEY as INSTANTS


class _Recipes:
    """Stands for qdrant_edge's module: each class, called, says what to call."""

    def __getattr__(self, name: str) -> Any:
        return lambda **fields: {"type": name, "fields": {key: _plain(value) for key, value in fields.items()}}


def _plain(value: Any) -> Any:
    return bool(value) if isinstance(value, numpy.bool_) else value


_filters: Final = QdrantFilters(cast(ModuleType, _Recipes()), instants={"metadata": INSTANTS})


def recipe(tree: Filter) -> dict[str, Any]:
    """`tree` as nested dicts of `type` and `fields`; edge_child.built reads them.

    Raises:
        InvalidFilter: text is compared by order, which Qdrant cannot do.
    """
    return cast(dict[str, Any], _filters.compile(tree))


def texts(tree: Filter) -> set[str]:
    """The payload keys that a tree compares with texts."""
    return _filters.texts(tree)


def recipe_of_counted(key: str, values: Collection[int]) -> dict[str, Any]:
    """Chunks with one of these integers at a key whose values are counted, as a recipe."""
    return cast(dict[str, Any], _filters.counted(key, values))
