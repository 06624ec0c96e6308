"""Whether what the mesh is set to reach answers, and what time it says it is there."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
from redis.exceptions import RedisError

from ragweave.findings import Finding, error, ok, warning
from services.mesh.redis import open_redis
from services.mesh.urls import redacted

_TIMEOUT_S: Final = 3.0
# An HTTP date counts whole seconds, and an answer takes a while: less than this is no skew.
_SKEW_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Reached:
    """What answered.

    Attributes:
        ahead_s: By how many seconds its clock is ahead of this machine's; None where it says nothing of the time.
        more: What else was found out about it.
    """

    ahead_s: float | None = None
    more: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class Dependency:
    """Something the mesh is set to reach.

    Attributes:
        name: What people call it.
        variable: The setting that says where it is.
        place: That, without secrets.
        why: What does not work without it.
        vital: Whether nothing works without it.
    """

    name: str
    variable: str
    place: str
    why: str
    reach: Callable[[], Awaitable[Reached]]
    vital: bool = True


async def look_at(dependencies: list[Dependency], *, skew_s: float) -> list[Finding]:
    """All at the same time.

    Args:
        skew_s: Leeway on the times of tokens: clocks that differ by more refuse them.
    """
    found = await asyncio.gather(*(_look(each, skew_s) for each in dependencies))
    return [finding for each in found for finding in each]


async def _look(each: Dependency, skew_s: float) -> list[Finding]:
    at = f"{each.name} at {each.place}"
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            reached = await each.reach()
    except Exception as failure:
        mend = f"start it, or set {each.variable}; a firewall or a name that does not resolve looks the same"
        found = (error if each.vital else warning)(f"{at} does not answer ({_said(failure)})", each.why, mend)
        return [found]
    return [ok(f"{at} answers"), *_skew(each, reached, skew_s), *reached.more]


def _skew(each: Dependency, reached: Reached, skew_s: float) -> Iterator[Finding]:
    ahead_s = reached.ahead_s
    if ahead_s is None or abs(ahead_s) < _SKEW_S:
        return
    what = f"this machine's clock is {abs(ahead_s):.0f} s {'behind' if ahead_s > 0 else 'ahead of'} that of {each.name}"
    mend = "set the clock and keep it set: `timedatectl set-ntp true`"
    if abs(ahead_s) > skew_s:
        yield error(what, f"tokens are refused that seem to be of the future or the past by over {skew_s:.0f} s", mend)
    else:
        yield warning(what, "times in answers and logs do not compare, and tokens are about to be refused", mend)


def _said(failure: Exception) -> str:
    if isinstance(failure, TimeoutError):
        return f"no answer within {_TIMEOUT_S:.0f} s"
    return os.strerror(failure.errno) if isinstance(failure, OSError) and failure.errno else type(failure).__name__


def http(name: str, variable: str, url: str, why: str, *, vital: bool = True) -> Dependency:
    """An HTTP server. Whatever it answers, it answers."""

    async def reach() -> Reached:
        before = time.time()
        async with httpx.AsyncClient(timeout=_TIMEOUT_S, verify=True, trust_env=False) as client:
            answer = await client.get(url)
        return Reached(_ahead(answer.headers, (before + time.time()) / 2))

    return Dependency(name, variable, redacted(url), why, reach, vital)


def port(name: str, variable: str, url: str, default: int, why: str, *, vital: bool = True) -> Dependency:
    """Whatever takes connections."""
    parts = urlsplit(url)

    async def reach() -> Reached:
        _, writer = await asyncio.open_connection(parts.hostname, parts.port or default)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        return Reached()

    return Dependency(name, variable, redacted(url), why, reach, vital)


def redis(name: str, variable: str, url: str, why: str, *, durable: bool, vital: bool = True) -> Dependency:
    """A Redis-protocol store; one that keeps jobs must keep them."""

    async def reach() -> Reached:
        async with open_redis(url, connections=1) as client:
            before = time.time()
            seconds, microseconds = await client.time()
            ahead_s = seconds + microseconds / 1e6 - (before + time.time()) / 2
            more = [each async for each in _durable(client, name)] if durable else []
        return Reached(ahead_s, tuple(more))

    return Dependency(name, variable, redacted(url), why, reach, vital)


async def _durable(client: Any, name: str) -> AsyncIterator[Finding]:
    """What keeps the store from keeping; nothing where it does not tell, as a managed one may not."""
    try:
        told: dict[str, str] = await client.config_get("*")
    except RedisError:
        return
    for setting, wanted, why in (
        ("maxmemory-policy", "noeviction", "a full store drops jobs and queues instead of refusing new ones"),
        ("appendonly", "yes", "jobs, webhooks and queues are lost when it is started again"),
        ("appendfsync", "always", "what was acknowledged in the last second is lost when its machine dies"),
    ):
        if told.get(setting, wanted) != wanted and (setting != "appendfsync" or told.get("appendonly") == "yes"):
            yield warning(f"{name} runs with {setting} {told[setting]}", why, f"`CONFIG SET {setting} {wanted}`")


def _ahead(headers: Mapping[str, str], now_s: float) -> float | None:
    try:
        return parsedate_to_datetime(headers["date"]).timestamp() + 0.5 - now_s
    except (KeyError, ValueError, TypeError):
        return None
