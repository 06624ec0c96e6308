"""Times, as messages."""

from datetime import datetime

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp


def duration_to(seconds: float) -> Duration:
    whole, nanos = divmod(round(seconds * 1e9), 10**9)
    return Duration(seconds=whole, nanos=nanos)


def time_to(moment: float | datetime) -> Timestamp:
    """A moment, given as such or as by time.time()."""
    seconds = moment.timestamp() if isinstance(moment, datetime) else moment
    whole, micros = divmod(round(seconds * 1e6), 10**6)
    return Timestamp(seconds=whole, nanos=micros * 1000)
