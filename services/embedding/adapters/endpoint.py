"""A model behind an HTTP endpoint: JSON there, JSON back, within the caller's time."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final, Self

import httpx
import stamina
from opentelemetry.semconv.attributes.http_attributes import HTTP_REQUEST_METHOD, HTTP_RESPONSE_STATUS_CODE
from opentelemetry.semconv.attributes.server_attributes import SERVER_ADDRESS

from services.mesh import traces
from services.mesh.breakers import Verdict, breaker_of
from services.mesh.calls import bounded
from services.mesh.errors import DeadlineExceeded, DependencyUnavailable
from services.mesh.traces import Part

# What a call leaves unused, so that it tells of a late endpoint before its own caller gives up.
_MARGIN_S: Final = 0.020
# For callers without a deadline.
_PATIENCE_S: Final = 30.0
# A host that is down may swallow what is sent to it: another try, on another address, is worth more than waiting.
_CONNECT_S: Final = 2.0
_ATTEMPTS: Final = 2
_RETRY_AFTER_S: Final = 1.0
_CONNECTIONS: Final = 16
# Some endpoints send the documents back.
_MOST_BYTES: Final = 32 * 2**20
_AGAIN: Final = frozenset({429, 502, 503})
# Connections that could not be made, or broke before an answer came; what is asked for has no effects.
_BROKEN: Final = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.ReadError,
    httpx.WriteError,
    httpx.RemoteProtocolError,
)


class Refused(Exception):
    """The endpoint answered with an error that asking again will not mend; the status is its own."""

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.status = status


class _Passing(Exception):
    """What may be over soon.

    Args:
        after_s: When, if the endpoint says.
    """

    def __init__(self, what: str, after_s: float | None = None) -> None:
        super().__init__(what)
        self.after_s = after_s


class Endpoint:
    """Keeps connections open. Errors name its host, and nothing else of what it was configured with."""

    def __init__(self, client: httpx.AsyncClient, url: str) -> None:
        self._client = client
        self._url = url
        self.host = httpx.URL(url).netloc.decode()
        self._breaker = breaker_of(f"endpoint {self.host}")

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, *, api_key: str = "") -> AsyncIterator[Self]:
        """The endpoint at a URL, which need not be up.

        Args:
            api_key: Sent as a bearer token, where there is one.
        """
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        limits = httpx.Limits(max_connections=_CONNECTIONS, max_keepalive_connections=_CONNECTIONS)
        async with httpx.AsyncClient(headers=headers, limits=limits) as client:
            yield cls(client, url)

    async def ask(self, question: dict[str, Any], *, timeout_s: float | None = None) -> Any:
        """The answer to a question, as parsed JSON. Tried again where that may help and there is time for it.

        Raises:
            Refused: It refuses the question.
            DependencyUnavailable: It cannot be reached, is too busy, does not answer in JSON, or has failed so often
                that its breaker leaves it alone.
            DeadlineExceeded: It takes too long.
        """
        left_s = _PATIENCE_S if timeout_s is None else max(0.0, timeout_s - _MARGIN_S)
        until = time.monotonic() + left_s
        failures: list[_Passing] = []

        def worth_another(error: Exception) -> bool | float:
            if not isinstance(error, _Passing):
                return False
            failures.append(error)
            if error.after_s is None:
                return True
            return error.after_s if time.monotonic() + error.after_s < until else False

        attempts = stamina.retry_context(
            worth_another, attempts=_ATTEMPTS, timeout=None, wait_initial=0.1, wait_max=2.0, wait_jitter=0.1
        )
        try:
            with bounded(left_s):
                async with asyncio.timeout(left_s):
                    async for attempt in attempts:
                        with attempt, self._breaker.asking(_verdict):
                            return await self._answer(question, until)
        except (_Passing, TimeoutError, httpx.TimeoutException):
            if not failures:
                raise DeadlineExceeded(f"{self.host} did not answer within {left_s:.3g} s") from None
            after_s = failures[-1].after_s or _RETRY_AFTER_S
            raise DependencyUnavailable(str(failures[-1]), retry_after_s=after_s) from None

    async def _answer(self, question: dict[str, Any], until: float) -> Any:
        with traces.part("POST", {HTTP_REQUEST_METHOD: "POST", SERVER_ADDRESS: self.host}) as part:
            return await self._posted(question, until, part)

    async def _posted(self, question: dict[str, Any], until: float, part: Part) -> Any:
        left_s = max(0.001, until - time.monotonic())
        timeout = httpx.Timeout(left_s, connect=min(left_s, _CONNECT_S))
        headers = traces.headers(part)
        try:
            async with self._client.stream(
                "POST", self._url, json=question, timeout=timeout, headers=headers
            ) as response:
                part.note(HTTP_RESPONSE_STATUS_CODE, response.status_code)
                if response.status_code in _AGAIN:
                    raise _Passing(f"{self.host} answered {response.status_code}", _retry_after_s(response))
                if response.status_code in (401, 403):
                    refusal = f"{self.host} does not take our API key ({response.status_code})"
                    raise DependencyUnavailable(refusal)
                if response.is_server_error or response.is_redirect:
                    raise DependencyUnavailable(f"{self.host} answered {response.status_code}")
                if not response.is_success:
                    raise Refused(response.status_code)
                content = await self._content(response)
        except _BROKEN as error:
            connected = not isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout))
            raise _Passing(f"{self.host} {'broke the connection' if connected else 'cannot be connected to'}") from None
        except httpx.TimeoutException:
            raise
        except httpx.HTTPError:
            raise self.misanswered("cannot be read") from None
        try:
            return json.loads(content)
        except (ValueError, RecursionError):
            raise self.misanswered("is not JSON") from None

    async def _content(self, response: httpx.Response) -> bytes:
        content = bytearray()
        async for part in response.aiter_bytes():
            content += part
            if len(content) > _MOST_BYTES:
                raise self.misanswered(f"is longer than {_MOST_BYTES} bytes")
        return bytes(content)

    def misanswered(self, description: str) -> DependencyUnavailable:
        """The error for an answer that cannot be used: "description" says what it is or has."""
        return DependencyUnavailable(f"the answer of {self.host} {description}")


def _verdict(error: Exception) -> Verdict:
    if isinstance(error, httpx.TimeoutException):
        return Verdict.LATE
    return Verdict.FAILURE if isinstance(error, (_Passing, DependencyUnavailable)) else Verdict.ANSWER


def _retry_after_s(response: httpx.Response) -> float | None:
    """Seconds, where the header says so; a date there is as good as none."""
    told = response.headers.get("retry-after", "")
    return float(told) if told.isascii() and told.isdigit() else None
