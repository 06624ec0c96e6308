"""Between times and messages."""

from datetime import UTC, datetime
from typing import overload

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from services.mesh.errors import InvalidArgument


@overload
def duration_to(seconds: float) -> Duration: ...


@overload
def duration_to(seconds: float | None) -> Duration | None: ...


def duration_to(seconds: float | None) -> Duration | None:
    """To the microsecond; None where there is none."""
    if seconds is None:
        return None
    message = Duration()
    message.FromMicroseconds(round(seconds * 1e6))
    return message


@overload
def time_to(moment: float | datetime) -> Timestamp: ...


@overload
def time_to(moment: float | datetime | None) -> Timestamp | None: ...


def time_to(moment: float | datetime | None) -> Timestamp | None:
    """A moment, given as such or as by time.time(), to the microsecond; None where there is none."""
    if moment is None:
        return None
    message = Timestamp()
    if isinstance(moment, datetime):
        message.FromDatetime(moment)
    else:
        message.FromMicroseconds(round(moment * 1e6))
    return message


def time_from(message: Timestamp, field: str) -> datetime:
    """In UTC. Raises InvalidArgument, naming the field, for one that no calendar has."""
    try:
        return message.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise InvalidArgument.of(field, "is no time between the years 1 and 9999") from None
