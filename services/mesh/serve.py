"""Runs a process of the mesh: wires it, serves until told to stop, drains, closes."""

import asyncio
import errno
import signal
import socket
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
from services.mesh.channels import opening_as
from services.mesh.guards import Guards, open_guards
from services.mesh.health import Check, Readiness
from services.mesh.heartbeat import beating
from services.mesh.process_servicer import ProcessServicer
from services.mesh.settings import MeshSettings, ServiceSettings
from services.mesh.telemetry import configure_logs, exporting_traces, exposing_metrics
from services.mesh.this_process import Queues, ThisProcess, Unchecked, no_queues
from services.mesh.tls import Certificates, CertificatesUnusable, server_credentials
from services.mesh.vitals import telling_vitals
from services.mesh.weaknesses import refused
from services.mesh.worker_reports import reporting

S = TypeVar("S", bound=ServiceSettings)
Guard: TypeAlias = Callable[[MeshSettings], AbstractAsyncContextManager[Guards]]

# Connections are renewed at this age, so that channels see new addresses; streams on them may end in their own time.
_CONNECTION_AGE_S = 30 * 60
_CONNECTION_GRACE_S = 60 * 60
# Pings that come faster than this get a connection ended: the edge sends one every second, channels less often.
PING_INTERVAL_MS = 500
# Metadata of one call: a REST path arrives as such, and the edge takes 32 KiB of headers. gRPC's own bounds begin to
# refuse calls at 8 KiB, at random, and all over 16 KiB.
_METADATA_BYTES = 64 * 2**10
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


class CannotStart(SystemExit):
    """The process cannot serve; ends it with one line that says why and what to set."""


@dataclass(frozen=True)
class Running:
    """A server that takes calls.

    Attributes:
        port: Port it listens on; the free one found where the settings say 0.
        drain: Says NOT_SERVING, pauses, takes no new calls, gives those in flight their grace.
    """

    port: int
    drain: Callable[[], Awaitable[None]]


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
    configure_logs(name, settings.mesh.log_level)
    log = structlog.get_logger("mesh")
    with _stop_signal() as stopped:
        async with running(name, wire, settings, guard=guard) as server:
            log.info("serving", port=server.port)
            await stopped.wait()
            log.info("draining")
            await server.drain()
        await _all_ended()
    log.info("stopped")


async def serve_worker(
    name: str, wire: Callable[[S], AbstractAsyncContextManager[Callable[[], Awaitable[None]]]], settings: S
) -> None:
    """Runs a process that serves no gRPC, with the same signals, logs, traces, metrics and closing.

    `wire` opens what the work needs and yields the work: a function that runs until cancelled. It is cancelled on
    SIGTERM or SIGINT and gets the grace to end; where it ends or fails by itself, so does the process.
    """
    configure_logs(name, settings.mesh.log_level)
    log = structlog.get_logger("mesh")
    _refuse_unfit(name, settings.mesh)
    with _stop_signal() as stopped:
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

    Args:
        guard: Opens what the chain asks about callers.

    Raises:
        CannotStart: The port is taken or cannot be listened on, the certificates cannot be used, or production refuses
            the settings as too weak.
    """
    _refuse_unfit(name, settings.mesh)
    async with AsyncExitStack() as opened:
        protected = opened.enter_context(protecting(settings.mesh))
        with opening_as(name), protected.wiring():
            wiring = await opened.enter_async_context(wire(settings))
        await opened.enter_async_context(exporting_traces(name, settings.mesh))
        opened.enter_context(_metrics(name, settings))
        loop_lag = await opened.enter_async_context(telling_vitals(name, settings.mesh.data_dir))
        with protected.wiring():
            guards = await opened.enter_async_context(guard(settings.mesh))
        chain = interceptors.chain(settings.mesh, contract.methods(), guards.trail, guards.denials)
        server = grpc.aio.server(
            interceptors=[chain],
            options=_options(settings.mesh),
            maximum_concurrent_rpcs=settings.mesh.max_concurrent_calls,
        )
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
        health_pb2_grpc.add_HealthServicer_to_server(readiness.servicer, server)
        # One cluster answers reflection at the edge, so every server lists all that can be called there.
        reflection.enable_server_reflection(
            (*contract.public_services(), "grpc.health.v1.Health", reflection.SERVICE_NAME), server
        )
        port = _listen(server, name, settings)
        await server.start()
        opened.push_async_callback(chain.ended, _HANDLERS_END_S)
        opened.push_async_callback(server.stop, 0)
        checking = asyncio.create_task(readiness.run())
        opened.push_async_callback(_cancelled, checking)

        async def drain() -> None:
            await readiness.drain()
            await asyncio.sleep(settings.mesh.drain_s)
            wiring.stopping()
            await server.stop(settings.mesh.grace_s)

        yield Running(port, drain)


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


def _options(settings: MeshSettings) -> list[tuple[str, int]]:
    return [
        ("grpc.so_reuseport", 0),  # on by default: a second server would share the port silently
        ("grpc.max_send_message_length", settings.max_message_bytes),
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_metadata_size", _METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", _METADATA_BYTES),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.http2.ping_timeout_ms", 10_000),  # or it is a minute, whatever the line above says
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", PING_INTERVAL_MS),
        ("grpc.max_connection_age_ms", _CONNECTION_AGE_S * 1000),
        ("grpc.max_connection_age_grace_ms", _CONNECTION_GRACE_S * 1000),
    ]


def _listen(server: grpc.aio.Server, name: str, settings: ServiceSettings) -> int:
    host, port = settings.mesh.host, settings.port
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        if settings.mesh.tls:
            return server.add_secure_port(address, server_credentials(Certificates(settings.mesh.certificates(name))))
        return server.add_insecure_port(address)
    except RuntimeError:
        raise _cannot_listen(host, port, name, f"RAGWEAVE_{name.upper()}_PORT") from None


@contextmanager
def _metrics(name: str, settings: ServiceSettings) -> Iterator[None]:
    with ExitStack() as exposed:
        try:
            exposed.enter_context(exposing_metrics(settings.mesh.metrics_host, settings.metrics_port))
        except OSError:
            variable = f"RAGWEAVE_{name.upper()}_METRICS_PORT"
            raise _cannot_listen(
                settings.mesh.metrics_host, settings.metrics_port, f"metrics of {name}", variable
            ) from None
        yield


def _cannot_listen(host: str, port: int, name: str, variable: str) -> CannotStart:
    """The reason, found by asking the system once more: gRPC does not tell."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen()
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            return CannotStart(f"{name} cannot listen on {host}:{port}: {error.strerror}; set RAGWEAVE_HOST")
    return CannotStart(f"port {port} ({name}) is taken; set {variable}")


@contextmanager
def _stop_signal() -> Iterator[asyncio.Event]:
    """Set on the first SIGTERM or SIGINT; the second has its usual effect."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()

    def stop() -> None:
        stopped.set()
        restore()

    def restore() -> None:
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(each)

    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, stop)
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
