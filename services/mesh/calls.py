"""The call being served: what the interceptors learn about it, and what outgoing calls take from it."""

from __future__ import annotations  # grpc's classes are generic to type checkers only

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from math import inf
from typing import Any

import grpc

from ragweave.contract import Method
from services.mesh.admission import GIVEN_HEADER
from services.mesh.identity import Caller


@dataclass(slots=True)
class Call:
    """One incoming call, from its first interceptor to its last.

    Attributes:
        method: What the contract says about it.
        context: gRPC's own view of it.
        metadata: What the caller sent; of a repeated key, the last.
        request_id: The caller's x-request-id where valid, else made here.
        trace_id: 32 hex digits, shared by all hops of a call; `traces.current()` has the rest.
        caller: Who it acts for, once authenticated.
        deadline: time.monotonic() by which it must end, once known.
        status: How it ended.
        reason: Why it failed, for programs; "" where it did not.
        dependency: What did not answer, where that is why, and it has a name for programs.
        why: The same as a sentence.
        headers: Initial metadata, sent with the first message; part of the trailers where an error comes first.
    """

    method: Method
    context: grpc.aio.ServicerContext[Any, Any]
    metadata: Mapping[str, str | bytes]
    request_id: str = ""
    trace_id: str = ""
    caller: Caller | None = None
    deadline: float | None = None
    status: grpc.StatusCode = grpc.StatusCode.OK
    reason: str = ""
    dependency: str = ""
    why: str = ""
    headers: list[tuple[str, str]] = field(default_factory=list)
    headers_sent: bool = False

    async def send_headers(self) -> None:
        """Sends the initial metadata, once."""
        if not self.headers_sent:
            self.headers_sent = True
            await self.context.send_initial_metadata(self.headers)

    @property
    def transcoded(self) -> bool:
        """Whether the edge made it of a REST request. Only the edge says so: it strips the header from callers."""
        return "x-envoy-original-path" in self.metadata

    @property
    def by_edge(self) -> bool:
        """Whether the edge sent it on, by headers that it strips from callers; unseen of gRPC without a deadline."""
        return self.transcoded or GIVEN_HEADER in self.metadata

    def remaining_s(self) -> float | None:
        """Seconds until its deadline, never negative; None without one."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())


_current: ContextVar[Call | None] = ContextVar("call", default=None)
_until: ContextVar[float] = ContextVar("until", default=inf)


def current_call() -> Call | None:
    """The call being served; None outside one, as in a worker."""
    return _current.get()


@contextmanager
def serving(call: Call) -> Iterator[None]:
    """Makes `call` the current one inside the block."""
    token = _current.set(call)
    try:
        yield
    finally:
        _current.reset(token)


@contextmanager
def bounded(timeout_s: float) -> Iterator[None]:
    """Outgoing calls inside the block end within that time too, so that a callee stops when nobody waits any more."""
    token = _until.set(min(_until.get(), time.monotonic() + timeout_s))
    try:
        yield
    finally:
        _until.reset(token)


def bound_s() -> float:
    """Seconds that the blocks of `bounded` leave to an outgoing call, never negative; infinite outside any."""
    return max(0.0, _until.get() - time.monotonic())


@contextmanager
def detached() -> Iterator[None]:
    """Outgoing calls inside the block have bounds of their own only: for what others wait for besides this call."""
    token, until = _current.set(None), _until.set(inf)
    try:
        yield
    finally:
        _until.reset(until)
        _current.reset(token)
