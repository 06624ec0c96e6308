"""Where a server of the mesh listens: with which bounds, and that nobody shares the port with it but its successor."""

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc

from services.mesh.settings import ServiceSettings
from services.mesh.tls import Certificates, server_credentials

# Connections are renewed at this age, so that channels see new addresses; streams on them may end in their own time.
_CONNECTION_AGE_S = 30 * 60
_CONNECTION_GRACE_S = 60 * 60
# Pings that come faster than this get a connection ended: the edge sends one every second, channels less often.
PING_INTERVAL_MS = 500
# Metadata of one call: a REST path arrives as such, and the edge takes 32 KiB of headers. gRPC's own bounds begin to
# refuse calls at 8 KiB, at random, and all over 16 KiB.
_METADATA_BYTES = 64 * 2**10


class CannotStart(SystemExit):
    """The process cannot serve; ends it with one line that says why and what to set."""


def options(settings: ServiceSettings) -> list[tuple[str, int]]:
    """Of a gRPC server."""
    return [
        # For a successor to listen beside this server; nobody else does, see `claimed`.
        ("grpc.so_reuseport", int(settings.port > 0)),
        ("grpc.max_send_message_length", settings.mesh.max_message_bytes),
        ("grpc.max_receive_message_length", settings.mesh.max_message_bytes),
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


@contextmanager
def claimed(name: str, settings: ServiceSettings) -> Iterator[None]:
    """Holds the port against all but a successor, to which the system would give it without a word: as an abstract
    socket of that name, which ends with the process (unix(7)).

    Raises:
        CannotStart: Another process holds it.
    """
    if not settings.port:
        yield
        return
    with socket.socket(socket.AF_UNIX) as claim:
        try:
            claim.bind(f"\0ragweave-{settings.mesh.host}-{settings.port}")
        except OSError:
            raise cannot_listen(settings.mesh.host, settings.port, name, f"RAGWEAVE_{name.upper()}_PORT") from None
        yield


def listen(server: grpc.aio.Server, name: str, settings: ServiceSettings) -> int:
    """Has a server listen where the settings say, with TLS where it is on; the port. It answers once it is started.

    Raises:
        CannotStart: The port is taken, or cannot be listened on.
    """
    host, port = settings.mesh.host, settings.port
    if not settings.mesh.takes_over and port and _trouble_with(host, port):
        raise cannot_listen(host, port, name, f"RAGWEAVE_{name.upper()}_PORT")
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        if settings.mesh.tls:
            return server.add_secure_port(address, server_credentials(Certificates(settings.mesh.certificates(name))))
        return server.add_insecure_port(address)
    except RuntimeError:
        raise cannot_listen(host, port, name, f"RAGWEAVE_{name.upper()}_PORT") from None


def cannot_listen(host: str, port: int, name: str, variable: str) -> CannotStart:
    """The reason, found by asking the system once more: gRPC does not tell."""
    error = _trouble_with(host, port)
    if error and error.errno != errno.EADDRINUSE:
        return CannotStart(f"{name} cannot listen on {host}:{port}: {error.strerror}; set RAGWEAVE_HOST")
    return CannotStart(f"port {port} ({name}) is taken; set {variable}")


def _trouble_with(host: str, port: int) -> OSError | None:
    """What keeps a port from being listened on by who shares it with nobody."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen()
    except OSError as error:
        return error
    return None


def stop_listening(port: int) -> None:
    """Has this process take no more connections at a port, and keep those it has.

    gRPC ends both at once, and a caller that is told to go connects again before the port is closed: to be reset.
    """
    for descriptor in _listening(port):
        with socket.socket(fileno=os.dup(descriptor)) as listener, suppress(OSError):
            listener.shutdown(socket.SHUT_RD)


def _listening(port: int) -> Iterator[int]:
    """Descriptors of the sockets of this process that listen at a port (proc(5), net/tcp: state 0A)."""
    inodes = set()
    for name in ("tcp", "tcp6"):
        with suppress(FileNotFoundError):
            rows = [row.split() for row in Path(f"/proc/self/net/{name}").read_text().splitlines()[1:]]
            inodes |= {row[9] for row in rows if row[3] == "0A" and int(row[1].rpartition(":")[2], 16) == port}
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            if entry.readlink().name.removeprefix("socket:[").rstrip("]") in inodes:
                yield int(entry.name)
