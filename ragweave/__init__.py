"""Ragweave for other backends: `Client`, `AsyncClient`, `RagweaveError`; the messages are in `ragweave.v1`."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ragweave.client import AsyncClient, Client
    from ragweave.errors import RagweaveError

__all__ = ["AsyncClient", "Client", "RagweaveError"]


def __getattr__(name: str) -> object:
    """Loads gRPC only for those who call: the supervisor and the stubs do without."""
    if name in ("AsyncClient", "Client"):
        from ragweave import client

        return getattr(client, name)
    if name == "RagweaveError":
        from ragweave.errors import RagweaveError

        return RagweaveError
    raise AttributeError(f"module 'ragweave' has no attribute {name!r}")
