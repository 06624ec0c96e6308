"""Between the contract's messages and reports."""

from datetime import datetime

from google.protobuf.message import Message

from ragweave.v1.health_pb2 import Health
from services.mesh.breakers import State as BreakerState
from services.mesh.convert_times import duration_to, time_from, time_to
from services.mesh.reports import (
    BreakerReport,
    DependencyReport,
    ProcessReport,
    QueueReport,
    State,
)

# As the contract bounds it.
_MAX_TEXT = 1024


def process_to(report: ProcessReport) -> Health.Process:
    return Health.Process(
        name=report.name,
        state=Health.State.Value(report.state),
        error=report.error[:_MAX_TEXT],
        version=report.version,
        commit=report.commit,
        start_time=time_to(report.start_time),
        uptime=duration_to(report.uptime_s),
        response_time=duration_to(report.response_s),
        memory_bytes=report.memory_bytes,
        cpu_usage=report.cpu_usage,
        loop_lag=duration_to(report.loop_lag_s),
        running_calls=report.running_calls,
        dependencies=map(_dependency_to, report.dependencies),
        queues=map(_queue_to, report.queues),
    )


def process_from(message: Health.Process) -> ProcessReport:
    return ProcessReport(
        name=message.name,
        state=_state_from(message.state),
        error=message.error,
        version=message.version,
        commit=message.commit,
        start_time=_time_from(message, "start_time"),
        uptime_s=_seconds_from(message, "uptime"),
        response_s=_seconds_from(message, "response_time"),
        memory_bytes=message.memory_bytes,
        cpu_usage=message.cpu_usage,
        loop_lag_s=_seconds_from(message, "loop_lag"),
        running_calls=message.running_calls,
        dependencies=tuple(map(_dependency_from, message.dependencies)),
        queues=tuple(map(_queue_from, message.queues)),
    )


def _dependency_to(report: DependencyReport) -> Health.Dependency:
    return Health.Dependency(
        name=report.name,
        state=Health.State.Value(report.state),
        required=report.required,
        response_time=duration_to(report.response_s),
        error=report.error[:_MAX_TEXT],
        breaker=None if report.breaker is None else _breaker_to(report.breaker),
    )


def _dependency_from(message: Health.Dependency) -> DependencyReport:
    return DependencyReport(
        name=message.name,
        state=_state_from(message.state),
        required=message.required,
        response_s=_seconds_from(message, "response_time"),
        error=message.error,
        breaker=_breaker_from(message.breaker) if message.HasField("breaker") else None,
    )


def _breaker_to(report: BreakerReport) -> Health.Breaker:
    return Health.Breaker(
        state=Health.Breaker.State.Value(report.state),
        failures=report.failures,
        open_time=time_to(report.open_time),
        last_error=report.last_error[:_MAX_TEXT],
    )


def _breaker_from(message: Health.Breaker) -> BreakerReport:
    return BreakerReport(
        state=BreakerState(Health.Breaker.State.Name(message.state)),
        failures=message.failures,
        open_time=_time_from(message, "open_time"),
        last_error=message.last_error,
    )


def _queue_to(report: QueueReport) -> Health.Queue:
    return Health.Queue(
        name=report.name,
        depth=report.depth,
        leased=report.leased,
        delayed=report.delayed,
        oldest_age=duration_to(report.oldest_s),
        late_leases=report.late_leases,
        longest_silence=duration_to(report.silence_s),
    )


def _queue_from(message: Health.Queue) -> QueueReport:
    return QueueReport(
        name=message.name,
        depth=message.depth,
        leased=message.leased,
        delayed=message.delayed,
        oldest_s=_seconds_from(message, "oldest_age"),
        late_leases=message.late_leases,
        silence_s=_seconds_from(message, "longest_silence"),
    )


def _state_from(value: Health.State.ValueType) -> State:
    """What a later version says that this one does not know is not SERVING."""
    return State(Health.State.Name(value)) if value in (Health.SERVING, Health.DOWN) else State.DEGRADED


def _seconds_from(message: Message, field: str) -> float | None:
    return getattr(message, field).ToMicroseconds() / 1e6 if message.HasField(field) else None


def _time_from(message: Message, field: str) -> datetime | None:
    return time_from(getattr(message, field), field) if message.HasField(field) else None
