"""A vector store whose uses are parts of the trace they belong to, whichever store it is."""

from collections.abc import Awaitable, Callable
from typing import Any, cast

from opentelemetry.semconv.attributes.db_attributes import DB_COLLECTION_NAME, DB_OPERATION_NAME, DB_SYSTEM_NAME

from services.mesh import traces
from services.retrieval.ports import VectorStore


def traced(store: VectorStore, system: str) -> VectorStore:
    """The store, with a span for each use by a recorded call.

    Args:
        system: What is told of it as the database.
    """
    return cast(VectorStore, _Traced(store, system))


class _Traced:
    def __init__(self, store: VectorStore, system: str) -> None:
        self._store = store
        self._system = system

    def __getattr__(self, operation: str) -> Callable[..., Awaitable[Any]]:
        """The store's method of that name, which is made once: all of the port's are coroutines, the index first."""
        method = getattr(self._store, operation)
        known = {DB_SYSTEM_NAME: self._system, DB_OPERATION_NAME: operation}

        async def use(*arguments: Any, **named: Any) -> Any:
            with traces.part("vector store", {**known, DB_COLLECTION_NAME: str(next(iter(arguments), ""))}):
                return await method(*arguments, **named)

        setattr(self, operation, use)
        return use
