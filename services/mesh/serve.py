"""Runs a process of the mesh: wires it, serves until told to stop, drains, closes."""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    ExitStack,
    asynccontextmanager,
    contextmanager,
    suppress,
)
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar, cast

import grpc
import structlog
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from ragweave import contract
from ragweave.internal.v1.process_service_pb2_grpc import add_ProcessServiceServicer_to_server
from services.mesh import interceptors
from services.mesh.breakers import breakers, protecting
from services.mesh.chain import Chain
from services.mesh.channels import opening_as
from services.mesh.guards import Guards, open_guards
from services.mesh.health import Check, Readiness
from services.mesh.heartbeat import beating
from services.mesh.listening import CannotStart, cannot_listen, claimed, listen, options, stop_listening
from services.mesh.process_servicer import ProcessServicer
from services.mesh.settings import MeshSettings, ServiceSettings
from services.mesh.succession import GO, may_begin, tell_to_go
from services.mesh.telemetry import configure_logs, exporting_traces, exposing_metrics
from services.mesh.this_process import Queues, ThisProcess, Unchecked, no_queues
from services.mesh.tls import Certificates, CertificatesUnusable
from services.mesh.vitals import telling_vitals
from services.mesh.weaknesses import refused
from services.mesh.worker_reports import reporting

S = TypeVar("S", bound=ServiceSettings)
Guard: TypeAlias = Callable[[MeshSettings], AbstractAsyncContextManager[Guards]]

# How long who takes over waits for what it needs before it answers all the same, and between two looks.
_FIRST_SERVING_S, _FIRST_LOOK_S = 5.0, 0.05
# Cancelled handlers need a moment to end.
_HANDLERS_END_S = 0.2


@dataclass(frozen=True)
class Wiring:
    """What a service's `wire` hands to `serve` once all its parts are open.

    Attributes:
        register: Adds the servicers to the server.
        checks: What the service cannot work without, by name; each raises while its dependency cannot be used, and then
            it takes no calls.
        uses: What it goes on without, if worse, by name: told in its health, and no reason to leave rotation.
        queues: What waits in it, or for its workers.
        stopping: Told once no new calls should come: ends streams that would otherwise outlast the grace.
    """

    register: Callable[[grpc.aio.Server], None]
    checks: Mapping[str, Check] = field(default_factory=dict)
    uses: Mapping[str, Check] = field(default_factory=dict)
    queues: Queues = no_queues
    stopping: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Running:
    """A server that takes calls.

    Attributes:
        port: Port it listens on; the free one found where the settings say 0.
        drain: Says NOT_SERVING, pauses, takes no new calls, gives those in flight their grace.
        hand_over: The same without turning anybody away: a successor listens already.
    """

    port: int
    drain: Callable[[], Awaitable[None]]
    hand_over: Callable[[], Awaitable[None]]


async def serve(
    name: str,
    wire: Callable[[S], AbstractAsyncContextManager[Wiring]],
    settings: S,
    *,
    guard: Guard = open_guards,
) -> None:
    """Serves until SIGTERM or SIGINT, then drains and closes; a second signal ends the process at once.

    `wire` is entered before this creates any gRPC object: start child processes first in it, open channels after.

    Args:
        name: The service's name: in logs, in its tokens, and in RAGWEAVE_<NAME>_PORT.
        guard: Opens what the chain asks about callers.

    Raises:
        CannotStart: The port is taken or cannot be listened on, the certificates cannot be used, or production refuses
            the settings as too weak.
    """
    configure_logs(name, settings.mesh.log_level, settings.mesh.log_levels)
    log = structlog.get_logger("mesh")
    with _stop_signal() as stopped:
        if not settings.mesh.takes_over and not await may_begin(settings.mesh.predecessor, stopped):
            return
        async with running(name, wire, settings, guard=guard) as server:
            log.info("serving", port=server.port)
            await stopped.wait()
            log.info("draining", handed_over=stopped.handed_over)
            await (server.hand_over() if stopped.handed_over else server.drain())
        await _all_ended()
    log.info("stopped")


async def serve_worker(
    name: str, wire: Callable[[S], AbstractAsyncContextManager[Callable[[], Awaitable[None]]]], settings: S
) -> None:
    """Runs a process that serves no gRPC, with the same signals, logs, traces, metrics and closing.

    `wire` opens what the work needs and yields the work: a function that runs until cancelled. It is cancelled on
    SIGTERM or SIGINT and gets the grace to end; where it ends or fails by itself, so does the process.
    """
    configure_logs(name, settings.mesh.log_level, settings.mesh.log_levels)
    log = structlog.get_logger("mesh")
    _refuse_unfit(name, settings.mesh)
    with _stop_signal() as stopped:
        if not await may_begin(settings.mesh.predecessor, stopped):
            return
        async with AsyncExitStack() as opened:
            protected = opened.enter_context(protecting(settings.mesh))
            with opening_as(name), protected.wiring():
                work = await opened.enter_async_context(wire(settings))
            await opened.enter_async_context(exporting_traces(name, settings.mesh))
            opened.enter_context(_metrics(name, settings))
            loop_lag = await opened.enter_async_context(telling_vitals(name, settings.mesh.data_dir))
            await opened.enter_async_context(beating(settings.mesh.heartbeat_file))
            itself = ThisProcess(name, settings.mesh, Unchecked(), breakers=breakers, loop_lag_s=loop_lag)
            with protected.wiring():
                await opened.enter_async_context(reporting(itself, settings.mesh))
            working, told = asyncio.ensure_future(work()), asyncio.create_task(stopped.wait())
            log.info("working")
            await asyncio.wait({working, told}, return_when=asyncio.FIRST_COMPLETED)
            told.cancel()
            if not working.done():
                log.info("draining")
                working.cancel()
                await asyncio.wait({working}, timeout=settings.mesh.grace_s)
            if working.done() and not working.cancelled():
                working.result()
    log.info("stopped")


@asynccontextmanager
async def running(
    name: str,
    wire: Callable[[S], AbstractAsyncContextManager[Wiring]],
    settings: S,
    *,
    guard: Guard = open_guards,
) -> AsyncIterator[Running]:
    """The server of a service inside the block, with the whole chain, health and reflection; `serve` less the signals.

    One that takes over listens first, then has its predecessor go, and opens what it needs when that one has ended.

    Args:
        guard: Opens what the chain asks about callers.

    Raises:
        CannotStart: The port is taken or cannot be listened on, the certificates cannot be used, or production refuses
            the settings as too weak.
    """
    _refuse_unfit(name, settings.mesh)
    async with AsyncExitStack() as opened:
        chained, server, port = _Chained(), None, 0
        if settings.mesh.takes_over:
            server = _server(chained, settings)
            opened.push_async_callback(server.stop, 0)
            port = listen(server, name, settings)
            tell_to_go(settings.mesh.predecessor)
            await may_begin(settings.mesh.predecessor, asyncio.Event())
        protected = opened.enter_context(protecting(settings.mesh))
        with opening_as(name), protected.wiring():
            wiring = await opened.enter_async_context(wire(settings))
        await opened.enter_async_context(exporting_traces(name, settings.mesh))
        opened.enter_context(_metrics(name, settings))
        loop_lag = await opened.enter_async_context(telling_vitals(name, settings.mesh.data_dir))
        with protected.wiring():
            guards = await opened.enter_async_context(guard(settings.mesh))
        chain = interceptors.chain(settings.mesh, contract.methods(), guards.trail, guards.denials)
        chained.chain = chain
        server = server or _server(chained, settings)
        registrations = _Registrations(server)
        wiring.register(cast(grpc.aio.Server, registrations))
        checks = {**wiring.checks, **guards.checks}
        uses = {name: check for name, check in {**guards.uses, **wiring.uses}.items() if name not in checks}
        readiness = Readiness(registrations.services, checks, uses, interval_s=settings.mesh.health_interval_s)
        itself = ThisProcess(
            name,
            settings.mesh,
            readiness,
            queues=wiring.queues,
            running_calls=lambda: chain.running,
            breakers=breakers,
            loop_lag_s=loop_lag,
        )
        add_ProcessServiceServicer_to_server(ProcessServicer(itself), server)
        await opened.enter_async_context(beating(settings.mesh.heartbeat_file))
        await readiness.start()
        await readiness.check()
        if settings.mesh.takes_over:
            await _first_serving(readiness)
        health_pb2_grpc.add_HealthServicer_to_server(readiness.servicer, server)
        # One cluster answers reflection at the edge, so every server lists all that can be called there.
        reflection.enable_server_reflection(
            (*contract.public_services(), "grpc.health.v1.Health", reflection.SERVICE_NAME), server
        )
        opened.enter_context(claimed(name, settings))
        port = port or listen(server, name, settings)
        await server.start()
        opened.push_async_callback(chain.ended, _HANDLERS_END_S)
        opened.push_async_callback(server.stop, 0)
        for work in (readiness.run(), itself.watch()):
            opened.push_async_callback(_cancelled, asyncio.create_task(work))

        async def stop() -> None:
            wiring.stopping()
            await server.stop(settings.mesh.grace_s)

        async def drain() -> None:
            await readiness.drain()
            await asyncio.sleep(settings.mesh.drain_s)
            await stop()

        async def hand_over() -> None:
            stop_listening(port)
            await stop()

        yield Running(port, drain, hand_over)


class _Chained(grpc.aio.ServerInterceptor):
    """The chain, which is made after the server of a process that takes over, and before that starts."""

    chain: Chain

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        return await self.chain.intercept_service(continuation, handler_call_details)


def _server(chained: _Chained, settings: ServiceSettings) -> grpc.aio.Server:
    return grpc.aio.server(
        interceptors=[chained],
        options=options(settings),
        maximum_concurrent_rpcs=settings.mesh.max_concurrent_calls,
    )


async def _first_serving(readiness: Readiness) -> None:
    """Until all checks pass, for a while: whoever waits for this process would be turned away by NOT_SERVING."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_FIRST_SERVING_S):
            while not readiness.serving:
                await asyncio.sleep(_FIRST_LOOK_S)
                await readiness.check()


class _Registrations:
    """Hands servicers on to the server and remembers the services' names, which health answers for."""

    def __init__(self, server: grpc.aio.Server) -> None:
        self._server = server
        self.services: list[str] = []

    def add_generic_rpc_handlers(self, handlers: tuple[grpc.ServiceRpcHandler, ...]) -> None:
        self.services += [handler.service_name() for handler in handlers]
        self._server.add_generic_rpc_handlers(handlers)

    def add_registered_method_handlers(self, service_name: str, method_handlers: Mapping[str, Any]) -> None:
        self._server.add_registered_method_handlers(service_name, method_handlers)


def _refuse_unfit(name: str, settings: MeshSettings) -> None:
    if weak := refused(settings):
        raise CannotStart("\n".join(f"{name}: {each}" for each in weak))
    if settings.tls:
        try:
            Certificates(settings.certificates(name))
        except CertificatesUnusable as error:
            raise CannotStart(f"{name}: {error}") from None


@contextmanager
def _metrics(name: str, settings: ServiceSettings) -> Iterator[None]:
    with ExitStack() as exposed:
        try:
            exposed.enter_context(exposing_metrics(settings.mesh.metrics_host, settings.metrics_port))
        except OSError:
            variable = f"RAGWEAVE_{name.upper()}_METRICS_PORT"
            raise cannot_listen(
                settings.mesh.metrics_host, settings.metrics_port, f"metrics of {name}", variable
            ) from None
        yield


class _Stopped(asyncio.Event):
    """Set when this process is to end.

    Attributes:
        handed_over: Whether a successor listens already.
    """

    handed_over = False


@contextmanager
def _stop_signal() -> Iterator[_Stopped]:
    """Set on the first SIGTERM, SIGINT or GO; the second has its usual effect."""
    loop = asyncio.get_running_loop()
    stopped = _Stopped()

    def stop(number: int) -> None:
        stopped.handed_over = number == GO
        stopped.set()
        restore()

    def restore() -> None:
        for each in (signal.SIGTERM, signal.SIGINT, GO):
            loop.remove_signal_handler(each)

    for each in (signal.SIGTERM, signal.SIGINT, GO):
        loop.add_signal_handler(each, stop, each)
    try:
        yield stopped
    finally:
        restore()


async def _all_ended() -> None:
    """Lets gRPC's own tasks around the handlers end: it logs a traceback for each that the loop's end meets."""
    tasks = [task for task in asyncio.all_tasks() if getattr(task.get_coro(), "__name__", "") == "_schedule_rpc_coro"]
    if tasks:
        await asyncio.wait(tasks, timeout=_HANDLERS_END_S)


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
