"""What services say to a worker that slept while another did its work."""

from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import structlog

from services.mesh.errors import LeaseLost
from services.mesh.status import reason_of, status_of

_log = structlog.get_logger("jobs.lateness")


@contextmanager
def held_to_turn() -> Iterator[None]:
    """Raises LeaseLost where a write inside the block was refused for coming after one whose turn was later."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        status = status_of(error)
        if reason_of(status) != LeaseLost.reason:
            raise
        _log.warning("lease lost", message=status.message)
        raise LeaseLost(status.message) from None
