"""The public web by HTTP/1.1: names are resolved here, and only public addresses are connected to."""

import asyncio
import codecs
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from email.message import Message
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

import httpcore

from services.jobs.addresses import Reachable
from services.jobs.ports_web import Page
from services.mesh.errors import AddressNotAllowed, DocumentTooLarge, Unreachable

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAX_REDIRECTS = 5
_AGENT = "ragweave/1"
# An answer that nobody reads is not waited for longer than that, nor is more of it taken.
_DROPPED_BYTES, _DROP_S = 16 * 2**10, 1.0
# A name that takes longer to resolve is looked up when it is needed.
_CHECK_S = 3.0
_SCHEME_PORTS = {"http": 80, "https": 443}

DEFAULT_PORTS = (80, 443, 8080, 8443)
_PUBLIC = Reachable()
# What may be had later: a timeout, a limit, and what a server or a gateway in front of it blames itself for.
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})

# Whether an address that a host resolved to may be connected to: `host, address -> bool`.
Allowed = Callable[[str, str], bool]
# Addresses a host name stands for: `host, port -> addresses`.
Resolve = Callable[[str, int], Awaitable[list[str]]]


class HttpWeb:
    """The web behind a guard. Between the check of an address and its use nothing is resolved again.

    Args:
        timeout_s: For one whole exchange, redirects included.
        ports: Ports that may be connected to.
        https_only: Whether plain http is refused.
        http_hosts: Hosts that plain http is taken for nevertheless.
        connections: Most at a time; whoever comes then waits for one.
        resolve: The system's resolver unless given.
        allowed: Says of a host and an address it resolved to whether that may be connected to.
        ssl_context: The system's authorities unless given.
    """

    def __init__(
        self,
        *,
        timeout_s: float = 30.0,
        ports: Iterable[int] = DEFAULT_PORTS,
        https_only: bool = False,
        http_hosts: Iterable[str] = (),
        connections: int = 32,
        resolve: Resolve | None = None,
        allowed: Allowed = _PUBLIC.allows,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._timeout_s = timeout_s
        self._ports = frozenset(ports)
        self._schemes = ("https",) if https_only else ("http", "https")
        self._http_hosts = frozenset(http_hosts)
        self._guard = _GuardedBackend(resolve or _resolved, allowed)
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=ssl_context,
            network_backend=self._guard,
            max_connections=connections,
            keepalive_expiry=10,
            retries=0,
        )

    async def __aenter__(self) -> "HttpWeb":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._pool.aclose()

    async def fetch(self, url: str, *, max_bytes: int) -> Page:
        async with self._bounded(url):
            where = url
            for _ in range(_MAX_REDIRECTS + 1):
                async with self._exchange("GET", where, {"accept": "*/*"}, None) as answer:
                    headers = _headers(answer)
                    if answer.status in _REDIRECTS and "location" in headers:
                        where = _led_to(where, headers["location"])
                        continue
                    if answer.status != 200:
                        raise Unreachable(
                            f"{_shown(url)} answered {answer.status}",
                            passing=answer.status in _PASSING,
                            status=str(answer.status),
                        )
                    return await _page(where, headers, answer, max_bytes)
            raise Unreachable(f"{_shown(url)} redirects more than {_MAX_REDIRECTS} times")

    async def check(self, url: str) -> None:
        parts = self._checked(url)
        with suppress(Unreachable, TimeoutError):  # it may be found later
            async with asyncio.timeout(_CHECK_S):
                await self._guard.addresses(*_place(parts))

    async def post(self, url: str, content: bytes, headers: Mapping[str, str]) -> int:
        async with self._bounded(url), self._exchange("POST", url, headers, content) as answer:
            await _drop(answer)
            return int(answer.status)

    @asynccontextmanager
    async def _bounded(self, url: str) -> AsyncIterator[None]:
        """Says of every failure what it means to who gave the URL; never what an inner address answered."""
        try:
            async with asyncio.timeout(self._timeout_s):
                yield
        except TimeoutError:
            raise Unreachable(f"{_shown(url)} did not answer within {self._timeout_s:g} s", passing=True) from None
        except httpcore.ConnectError:
            raise Unreachable(f"{_shown(url)} cannot be connected to", passing=True) from None
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, ssl.SSLError):
            raise Unreachable(f"{_shown(url)} gave no answer that can be read", passing=True) from None

    @asynccontextmanager
    async def _exchange(
        self, method: str, url: str, headers: Mapping[str, str], content: bytes | None
    ) -> AsyncIterator[httpcore.Response]:
        parts = self._checked(url)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        host, port = _place(parts)
        shown = f"[{host}]" if ":" in host else host
        sent = {
            "host": shown if port == _SCHEME_PORTS[parts.scheme] else f"{shown}:{port}",
            "user-agent": _AGENT,
            "accept-encoding": "identity",  # what is unpacked cannot be bounded by what is sent
            **headers,
        }
        if content is not None:
            sent["content-length"] = str(len(content))
        request = httpcore.URL(scheme=parts.scheme, host=host, port=port, target=target.encode("ascii"))
        async with self._pool.stream(method, request, headers=list(sent.items()), content=content) as answer:
            yield answer

    def _checked(self, url: str) -> SplitResult:
        """The parts of a URL that may be asked.

        Raises:
            AddressNotAllowed: It cannot be read, or is of another scheme or port, or carries a password.
        """
        try:
            parts = urlsplit(url)
            port = _SCHEME_PORTS.get(parts.scheme, 0) if parts.port is None else parts.port
            str(parts.hostname or "").encode("idna")
            f"{parts.path}?{parts.query}".encode("ascii")
        except (ValueError, UnicodeError):
            raise AddressNotAllowed(f"{_shown(url)} is not a URL; escape what is not ASCII") from None
        if parts.scheme not in self._schemes and not (parts.scheme == "http" and parts.hostname in self._http_hosts):
            raise AddressNotAllowed(f"{_shown(url)}: only {' and '.join(self._schemes)} URLs are taken")
        if (
            not parts.hostname
            or "%" in parts.hostname
            or any(character <= " " or character == "\x7f" for character in url)
        ):
            raise AddressNotAllowed(f"{_shown(url)} is not a URL")
        if parts.username is not None or parts.password is not None:
            raise AddressNotAllowed("a URL with a user name or password in it is not taken")
        if port not in self._ports:
            raise AddressNotAllowed(f"{_shown(url)}: port {port} is not allowed")
        return parts


class _GuardedBackend(httpcore.AsyncNetworkBackend):
    """Connects to addresses that were checked, never to names."""

    def __init__(self, resolve: Resolve, allowed: Allowed) -> None:
        self._resolve = resolve
        self._allowed = allowed
        self._backend = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        addresses = await self.addresses(host, port)
        failed: Exception = httpcore.ConnectError()
        for address in addresses:
            try:
                return await self._backend.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failed = error
        raise failed

    async def addresses(self, host: str, port: int) -> list[str]:
        """What a name stands for now. Raises AddressNotAllowed, and Unreachable where that is nothing."""
        try:
            addresses = await self._resolve(host, port)
        except (OSError, UnicodeError):
            raise Unreachable(f"the host name {host} cannot be found", passing=True) from None
        # One that is not public condemns the name: who answers with both is trying something.
        if not addresses or not all(self._allowed(host, address) for address in addresses):
            raise AddressNotAllowed(f"{host} is not a public address")
        return addresses

    async def connect_unix_socket(self, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        raise AddressNotAllowed("a unix socket is not a public address")

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def _place(parts: SplitResult) -> tuple[str, int]:
    """The host and the port of a URL that was checked."""
    host = str(parts.hostname)
    port = _SCHEME_PORTS[parts.scheme] if parts.port is None else parts.port
    return host if ":" in host else host.encode("idna").decode(), port


async def _resolved(host: str, port: int) -> list[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


async def _page(url: str, headers: Mapping[str, str], answer: httpcore.Response, max_bytes: int) -> Page:
    if headers.get("content-encoding", "identity") != "identity":
        raise Unreachable(f"{_shown(url)} answers packed as {headers['content-encoding']!r} though asked not to")
    received = bytearray()
    async for part in answer.aiter_stream():
        received += part
        if len(received) > max_bytes:
            raise DocumentTooLarge(f"{_shown(url)} is larger than {max_bytes} bytes")
    described = Message()
    described["content-type"] = headers.get("content-type", "")
    described["content-disposition"] = headers.get("content-disposition", "")
    media_type = described.get_content_type() if "/" in headers.get("content-type", "") else ""
    name = described.get_filename() or unquote(urlsplit(url).path)
    filename = PurePosixPath(name.replace("\\", "/")).name[:255]
    return Page(url, media_type, filename, bytes(received), _known(described.get_content_charset("")))


async def _drop(answer: httpcore.Response) -> None:
    """Reads an answer to its end, so that its connection can be used again, unless that is far off."""
    received = 0
    with suppress(TimeoutError, httpcore.NetworkError, httpcore.ProtocolError):
        async with asyncio.timeout(_DROP_S):
            async for part in answer.aiter_stream():
                received += len(part)
                if received > _DROPPED_BYTES:
                    break


def _known(charset: str) -> str:
    """Python's name of a charset of texts; "" where it knows none by that name."""
    try:
        "".encode(charset)  # refuses codecs that are not for text, such as base64
        return codecs.lookup(charset).name
    except (LookupError, ValueError):
        return ""


def _led_to(url: str, location: str) -> str:
    try:
        return urljoin(url, location)
    except ValueError:
        raise AddressNotAllowed(f"{_shown(url)} redirects to what is not a URL") from None


def _headers(answer: httpcore.Response) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in answer.headers}


def _shown(url: str) -> str:
    """A URL for messages: no password, no query, no control characters, not long."""
    bare = url.partition("?")[0].partition("#")[0]
    scheme, separator, rest = bare.partition("://")
    authority, slash, path = rest.partition("/")
    shown = f"{scheme}{separator}{authority.rpartition('@')[2]}{slash}{path}" if separator else bare
    return "".join(character if character.isprintable() else "?" for character in shown)[:200]
