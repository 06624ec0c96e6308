"""Mutual TLS between the processes: what each shows and trusts, read anew when the files change."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from ragweave.certificates import CertificateFiles, role_of

_LOOK_AGAIN_S = 1.0
# Time for calls that have begun on a replaced channel to reach it, and then to end.
_LEAVE_S = 30.0
_END_S = 3600.0


class CertificatesUnusable(Exception):
    """The certificates cannot be used; says which file, why, and what to set."""


@dataclass(frozen=True)
class Material:
    """The files' content, PEM."""

    certificate: bytes
    key: bytes
    authority: bytes


class Certificates:
    """A process's certificate, kept current: the files are looked at once a second, when they are asked for.

    What was read earlier goes on serving while the files cannot be used, as between the writing of a key and of its
    certificate.

    Raises:
        CertificatesUnusable: The files cannot be read, or do not fit one another.
    """

    def __init__(self, files: CertificateFiles, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._files = files
        self._clock = clock
        self._log = structlog.get_logger("mesh.tls")
        self._versions: object = self._stat()
        self._material = self._read()
        self._looked_at = clock()
        self._failing = False

    def current(self) -> Material:
        """What to use now; another object than before when it has changed."""
        if self._clock() - self._looked_at >= _LOOK_AGAIN_S:
            self._looked_at = self._clock()
            self._look()
        return self._material

    def _look(self) -> None:
        try:
            versions = self._stat()
            if versions == self._versions:
                return
            self._material = self._read()
        except CertificatesUnusable as error:
            if not self._failing:
                self._log.warning("certificates cannot be used; the earlier ones go on serving", error=str(error))
            self._failing = True
        else:
            self._versions, self._failing = versions, False
            self._log.info("certificates read anew", certificate=str(self._files.certificate))

    def _stat(self) -> object:
        found = []
        for path in (self._files.certificate, self._files.key, self._files.authority):
            try:
                stat = path.stat()
            except OSError as error:
                raise _unreadable(path, error) from None
            found.append((stat.st_mtime_ns, stat.st_size, stat.st_ino))
        return found

    def _read(self) -> Material:
        files = self._files
        read = []
        for path in (files.certificate, files.key, files.authority):
            try:
                read.append(path.read_bytes())
            except OSError as error:
                raise _unreadable(path, error) from None
        certificate, key, authority = read
        _check(files, certificate, key, authority)
        return Material(certificate, key, authority)


def server_credentials(certificates: Certificates) -> grpc.ServerCredentials:
    """For a server that refuses peers without a certificate of its CA; each handshake uses the current files."""
    shown: Material | None = None

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        nonlocal shown
        current = certificates.current()
        if current is shown:
            return None  # unchanged
        shown = current
        return grpc.ssl_server_certificate_configuration(
            [(current.key, current.certificate)], root_certificates=current.authority
        )

    initial = fetch()
    assert initial is not None
    return grpc.dynamic_ssl_server_credentials(
        initial,
        fetch,  # type: ignore[arg-type]  # None is allowed, and means unchanged
        require_client_authentication=True,
    )


def peer_roles(peer: Mapping[str, Iterable[bytes]]) -> frozenset[str]:
    """The roles a peer's certificate names, given gRPC's authentication context; none in one of another CA."""
    names = (name.decode("utf-8", "replace") for name in peer.get("peer_dns", ()))
    return frozenset(role for role in map(role_of, names) if role)


def channel_credentials(material: Material) -> grpc.ChannelCredentials:
    """For a channel that shows the certificate and trusts the CA."""
    return grpc.ssl_channel_credentials(material.authority, material.key, material.certificate)


@asynccontextmanager
async def renewing_channel(
    certificates: Certificates, opened: Callable[[grpc.ChannelCredentials], grpc.aio.Channel]
) -> AsyncIterator[grpc.aio.Channel]:
    """A channel whose calls always go by the current certificate; closed on exit with the calls still on it.

    gRPC's channel credentials keep what they were made of (grpc#15735), so changed files mean a new channel beneath;
    calls that run on the old one end there.

    Args:
        opened: Opens a channel with given credentials.
    """
    channel = _Renewing(certificates, opened)
    try:
        yield channel
    finally:
        await channel.close()


class _Renewing(grpc.aio.Channel):
    def __init__(
        self, certificates: Certificates, opened: Callable[[grpc.ChannelCredentials], grpc.aio.Channel]
    ) -> None:
        self._certificates = certificates
        self._opened = opened
        self._material = certificates.current()
        self._channel = opened(channel_credentials(self._material))
        self._leaving: set[asyncio.Task[None]] = set()

    def now(self) -> grpc.aio.Channel:
        """The channel to begin a call on."""
        material = self._certificates.current()
        if material is not self._material:
            task = asyncio.create_task(_left(self._channel))
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)
            self._material, self._channel = material, self._opened(channel_credentials(material))
        return self._channel

    async def __aenter__(self) -> "_Renewing":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self, grace: float | None = None) -> None:
        for task in list(self._leaving):
            task.cancel()
        await asyncio.gather(*self._leaving, return_exceptions=True)
        await self._channel.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self.now().get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self.now().wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self.now().channel_ready()

    def unary_unary(self, *arguments: Any, **named: Any) -> Any:
        return self._method("unary_unary", arguments, named)

    def unary_stream(self, *arguments: Any, **named: Any) -> Any:
        return self._method("unary_stream", arguments, named)

    def stream_unary(self, *arguments: Any, **named: Any) -> Any:
        return self._method("stream_unary", arguments, named)

    def stream_stream(self, *arguments: Any, **named: Any) -> Any:
        return self._method("stream_stream", arguments, named)

    def _method(self, kind: str, arguments: Any, named: Any) -> Callable[..., Any]:
        """A method as stubs keep it, made anew on each channel."""
        made: tuple[grpc.aio.Channel, Callable[..., Any]] | None = None

        def call(*given: Any, **more: Any) -> Any:
            nonlocal made
            channel = self.now()
            if made is None or made[0] is not channel:
                made = channel, getattr(channel, kind)(*arguments, **named)
            return made[1](*given, **more)

        return call


async def _left(channel: grpc.aio.Channel) -> None:
    """Closes a channel no new calls begin on, once those on it have ended; at once when cancelled."""
    try:
        await asyncio.sleep(_LEAVE_S)
        await channel.close(_END_S)
    finally:
        await channel.close()


def _check(files: CertificateFiles, certificate: bytes, key: bytes, authority: bytes) -> None:
    try:
        leaf = x509.load_pem_x509_certificates(certificate)[0]
    except ValueError:
        raise CertificatesUnusable(f"{files.certificate} holds no PEM certificate") from None
    try:
        private = serialization.load_pem_private_key(key, password=None)
    except (ValueError, TypeError):  # TypeError: it needs a password
        raise CertificatesUnusable(f"{files.key} holds no PEM private key without a password") from None
    if leaf.not_valid_after_utc <= datetime.now(UTC):
        raise CertificatesUnusable(f"{files.certificate} ended on {leaf.not_valid_after_utc:%Y-%m-%d}; renew it")
    if private.public_key() != leaf.public_key():
        raise CertificatesUnusable(f"{files.key} is not the key of {files.certificate}")
    try:
        x509.load_pem_x509_certificates(authority)
    except ValueError:
        raise CertificatesUnusable(f"{files.authority} holds no PEM certificate") from None


def _unreadable(path: Path, error: OSError) -> CertificatesUnusable:
    return CertificatesUnusable(
        f"{path}: {error.strerror}; `ragweave up` makes certificates, or set RAGWEAVE_TLS_CERT, RAGWEAVE_TLS_KEY and "
        "RAGWEAVE_TLS_CA to your own"
    )
