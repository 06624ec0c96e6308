"""What a call to another service means when it fails."""

from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from services.mesh.errors import DependencyUnavailable


@contextmanager
def answering(service: str) -> Iterator[None]:
    """A call inside the block that nobody answers raises DependencyUnavailable; other failures stay as they are."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.UNAVAILABLE:
            raise
        raise DependencyUnavailable(f"{service} is unavailable", retry_after_s=1.0, service=service) from None


@contextmanager
def passing_over_the_missing() -> Iterator[None]:
    """A call inside the block that finds nothing to work on has done its work."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.NOT_FOUND:
            raise
