"""Serves an application by granian on this process's own loop, and takes over certificates that change."""

import asyncio
import contextlib
import errno
import signal
import socket
import ssl
from pathlib import Path

import structlog
from granian.constants import HTTPModes, Interfaces, SSLProtocols
from granian.server.embed import Server
from starlette.types import ASGIApp

from gateway.app import Health
from gateway.settings import ROLE, Settings
from ragweave.certificates import CertificateFiles

_LISTENS_LOOK_S = 0.02
_BEAT_S = 1.0


class CannotStart(SystemExit):
    """The process cannot serve; ends it with one line that says why and what to set."""


async def serve(app: ASGIApp, health: Health, settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT: then says that it is not healthy, waits for that to be seen, lets end what runs.

    Raises:
        CannotStart: The port is taken or cannot be listened on, or the certificates cannot be used.
    """
    log = structlog.get_logger("gateway")
    files = settings.mesh.certificate(ROLE) if settings.mesh.tls else None
    _can_listen(settings)
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    server = Server(
        app,
        address=settings.mesh.host,
        port=settings.port,
        interface=Interfaces.ASGINL,
        http=HTTPModes.http1,
        log_enabled=False,
    )
    if files:
        try:
            _use(server, files)
        except (OSError, ssl.SSLError) as error:
            raise CannotStart(f"gateway: {files.certificate}, {files.key}, {files.authority}: {error}") from None
    serving = asyncio.create_task(server.serve())
    beside = [asyncio.create_task(_beat(settings.heartbeat_file))] if settings.heartbeat_file else []
    if files:
        beside.append(asyncio.create_task(_follow(server, files, settings.certificates_look_s)))
    told = asyncio.create_task(stopped.wait())
    await _listens(settings, serving)
    log.info("serving", port=settings.port)
    await asyncio.wait({serving, told}, return_when=asyncio.FIRST_COMPLETED)
    for task in beside:
        task.cancel()
    if not serving.done():
        log.info("draining")
        health.draining = True
        await asyncio.sleep(settings.drain_s)
        server.stop()  # type: ignore[no-untyped-call]
        await asyncio.wait({serving}, timeout=settings.grace_s)
    if serving.done():
        await serving
    log.info("stopped")


def _can_listen(settings: Settings) -> None:
    """Asks first: granian would share the port silently with whoever has it. Raises CannotStart."""
    host, port = settings.mesh.host, settings.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise CannotStart(f"port {port} (gateway) is taken; set RAGWEAVE_GATEWAY_PORT") from None
            raise CannotStart(f"gateway cannot listen on {host}:{port}: {error.strerror}; set RAGWEAVE_HOST") from None


async def _listens(settings: Settings, serving: asyncio.Task[None]) -> None:
    """Waits until the server takes connections, which it does on a thread of its own, or has ended."""
    while not serving.done():
        try:
            _, writer = await asyncio.open_connection(settings.mesh.address(ROLE).rpartition(":")[0], settings.port)
        except OSError:
            await asyncio.sleep(_LISTENS_LOOK_S)
        else:
            writer.close()
            return


async def _beat(file: Path) -> None:
    """As the services do it: a loop that stands still touches nothing, and the process is started again."""
    while True:
        with contextlib.suppress(OSError):
            file.touch()  # noqa: ASYNC240 - on a disk of this machine
        await asyncio.sleep(_BEAT_S)


async def _follow(server: Server, files: CertificateFiles, every_s: float) -> None:
    """Takes over the files whenever they change; connections that are open go on with what they began with."""
    log = structlog.get_logger("gateway.tls")
    seen = _versions(files)
    while True:
        await asyncio.sleep(every_s)
        found = _versions(files)
        if found is None or found == seen:
            continue
        seen = found
        try:
            _use(server, files)
        except (OSError, ssl.SSLError) as error:
            log.warning("certificates cannot be used; the earlier ones go on serving", error=str(error))
        else:
            server.reload()  # type: ignore[no-untyped-call]
            log.info("certificates read anew", certificate=str(files.certificate))


def _use(server: Server, files: CertificateFiles) -> None:
    """Has connections from the next start of the server on use these files. Raises OSError or SSLError for bad ones."""
    ssl.create_default_context(cafile=files.authority)
    server.build_ssl_context(files.certificate, files.key, None, SSLProtocols.tls13, files.authority, [], True)


def _versions(files: CertificateFiles) -> tuple[tuple[int, int, int], ...] | None:
    def version(path: Path) -> tuple[int, int, int]:
        stat = path.stat()
        return stat.st_mtime_ns, stat.st_size, stat.st_ino

    try:
        return tuple(version(path) for path in (files.certificate, files.key, files.authority))
    except OSError:
        return None
