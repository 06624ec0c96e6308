"""Which tokens, subjects and tenants are denied: one list in Redis, published by system, held by every process."""

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from math import inf
from typing import Any, Final, Protocol

import structlog

from services.mesh.errors import DependencyUnavailable
from services.mesh.identity import Caller
from services.mesh.redis import UNANSWERED

KEY: Final = "rw:denied"
# The fields of that key: the list, and a digest of it, which tells whether it has changed since it was read.
LIST: Final = "list"
DIGEST: Final = "digest"

_VERSION: Final = 1
_TIMEOUT_S: Final = 2.0
# Until the list has been read once, a process is of no use.
_FIRST_PAUSE_S: Final = 0.2


class Kind(StrEnum):
    TOKEN = "TOKEN"  # noqa: S105 - a kind
    SUBJECT = "SUBJECT"
    TENANT = "TENANT"


@dataclass(frozen=True, slots=True)
class Denial:
    """What is denied within a tenant.

    Attributes:
        value: The token's `jti` or the subject; empty for the whole tenant.
        until: Unix time at which it ends; infinity for never.
    """

    tenant: str
    kind: Kind
    value: str = ""
    until: float = inf


class Denials(Protocol):
    """What the door asks about callers."""

    def denies(self, who: Caller) -> bool:
        """Raises DependencyUnavailable while that is not known."""
        ...

    def watching(self, who: Caller, denied: Callable[[], None]) -> Any:
        """A context manager: inside its block, `denied` is called once `who` is."""
        ...


def packed(denials: Sequence[Denial]) -> tuple[bytes, bytes]:
    """The list as it is published, and its digest; both the same whatever the order."""
    ordered = sorted(denials, key=lambda each: (each.tenant, each.kind, each.value, each.until))
    entries = [[each.tenant, each.kind, each.value, None if each.until == inf else each.until] for each in ordered]
    content = json.dumps([_VERSION, entries], ensure_ascii=False, separators=(",", ":")).encode()
    return content, hashlib.sha256(content).hexdigest().encode()


def unpacked(content: bytes) -> list[Denial]:
    """What `packed` was given. Raises ValueError for what another version wrote, or nobody did."""
    version, entries = json.loads(content)
    if version != _VERSION:
        raise ValueError(f"a deny list of version {version!r}")
    return [
        Denial(tenant, Kind(kind), value, inf if until is None else until) for tenant, kind, value, until in entries
    ]


class DenyList:
    """Fulfils Denials with this process's copy, read anew every `refresh_s`.

    Until it has been read once nobody is let in; after that the last copy counts while the store does not answer, or
    has lost the list and system has not published it anew.
    """

    def __init__(self, client: Any, *, refresh_s: float, clock: Callable[[], float] = time.time) -> None:
        self._redis = client
        self._refresh_s = refresh_s
        self._clock = clock
        self._digest: bytes | None = None
        self._tenants: dict[str, dict[tuple[Kind, str], float]] = {}
        self._watched: list[tuple[Caller, Callable[[], None]]] = []
        self._trouble = ""
        self._log = structlog.get_logger("mesh.deny_list")

    def denies(self, who: Caller) -> bool:
        if who.by_itself:
            return False
        if self._digest is None:
            raise DependencyUnavailable(
                "which tokens are revoked is not known yet", retry_after_s=1.0, service="deny list"
            )
        held = self._tenants.get(who.tenant)
        if not held:
            return False
        keys = [(Kind.TENANT, "")]
        if not who.anonymous:
            keys.append((Kind.SUBJECT, who.subject))
        if who.token_id:
            keys.append((Kind.TOKEN, who.token_id))
        now = self._clock()
        return any(held.get(key, -inf) > now for key in keys)

    @contextmanager
    def watching(self, who: Caller, denied: Callable[[], None]) -> Iterator[None]:
        watched = (who, denied)
        self._watched.append(watched)
        try:
            yield
        finally:
            self._watched.remove(watched)

    async def run(self) -> None:
        """Reads the list over and over, until cancelled."""
        while True:
            await self.refresh()
            await asyncio.sleep(self._refresh_s if self._digest else min(self._refresh_s, _FIRST_PAUSE_S))

    async def check(self) -> None:
        """Raises until the list has been read once."""
        if self._digest is None:
            raise DependencyUnavailable(f"which tokens are revoked is not known yet: {self._trouble or 'not read'}")

    async def refresh(self) -> None:
        """Reads the list if it has changed; on trouble the last copy stays."""
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                digest, content = await self._read()
            if content is not None:
                self._take(digest, unpacked(content))
            self._tell("" if digest else "the store has no deny list; the system service publishes one")
        except UNANSWERED as error:
            self._tell(f"the store does not answer ({type(error).__name__})")
        except (ValueError, TypeError) as error:
            self._tell(f"the deny list cannot be read ({type(error).__name__})")

    async def _read(self) -> tuple[bytes | None, bytes | None]:
        """The digest of the list, and the list where it has changed."""
        digest = await self._redis.hget(KEY, DIGEST)
        if digest is None or digest == self._digest:
            return digest, None
        digest, content = await self._redis.hmget(KEY, DIGEST, LIST)
        return digest, content

    def _take(self, digest: bytes | None, denials: Sequence[Denial]) -> None:
        tenants: dict[str, dict[tuple[Kind, str], float]] = {}
        for each in denials:
            held = tenants.setdefault(each.tenant, {})
            key = (each.kind, each.value)
            held[key] = max(each.until, held.get(key, -inf))
        self._tenants, self._digest = tenants, digest
        for who, denied in list(self._watched):
            if self.denies(who):
                denied()

    def _tell(self, trouble: str) -> None:
        """Logs what keeps the copy from being current when that changes."""
        if trouble != self._trouble:
            if trouble:
                self._log.warning("the deny list is not current", reason=trouble, known=self._digest is not None)
            else:
                self._log.info("the deny list is current again")
        self._trouble = trouble
