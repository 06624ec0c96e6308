"""The public keys tokens are verified with: a JWKS file, or a URL that serves one."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import structlog
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

# How long fetched keys serve before they are fetched again, and how soon an unknown key id may cause another look.
_FRESH_S = 30.0
_LOOK_AGAIN_S = 2.0
_FETCH_TIMEOUT_S = 5.0


class KeysUnavailable(Exception):
    """The keys cannot be read, and none were read before."""


class Keys:
    """A key set kept current: a file is read anew when it changes, a URL every 30 s and never on the event loop's time.

    Keys read earlier go on serving while the source cannot be read.

    Args:
        source: A path, or an http or https URL.
        on_change: Called when the keys have changed, so that what was concluded from the old ones can be dropped.
    """

    def __init__(
        self,
        source: str,
        on_change: Callable[[], None] = lambda: None,
        *,
        clock: Callable[[], float] = time.monotonic,
        fetch: Callable[[str], Awaitable[str]] | None = None,
    ) -> None:
        self._source = source
        self._on_change = on_change
        self._clock = clock
        self._remote = source.startswith(("http://", "https://"))
        self._fresh_s = _FRESH_S if self._remote else _LOOK_AGAIN_S
        self._fetch = fetch or _fetch
        self._keys: KeySet | None = None
        self._ids: frozenset[str] = frozenset()
        self._version: object = None
        self._looked_at = float("-inf")
        self._looking = asyncio.Lock()
        self._refreshing: asyncio.Task[None] | None = None
        self._failing = False
        self._log = structlog.get_logger("mesh.keys")

    async def current(self) -> KeySet:
        """The keys, at most 2 s (file) or about 30 s (URL) behind their source. Raises KeysUnavailable."""
        await self.keep_current()
        if self._keys is None:
            raise KeysUnavailable(self._source)
        return self._keys

    async def with_id(self, kid: str | None) -> KeySet:
        """The keys, looked up once more when `kid` is not among them. Raises KeysUnavailable."""
        keys = await self.current()
        if kid is None or kid in self._ids:
            return keys
        await self._look(older_than_s=_LOOK_AGAIN_S)
        return self._keys or keys

    async def keep_current(self) -> None:
        """Looks at the source when it is due. A URL makes nobody wait while earlier keys serve."""
        if self._clock() - self._looked_at < self._fresh_s:
            return
        if not self._remote or self._keys is None:
            await self._look(older_than_s=self._fresh_s)
        elif self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.create_task(self._look(older_than_s=self._fresh_s))

    async def _look(self, *, older_than_s: float) -> None:
        """Looks at the source unless that was done within `older_than_s`; callers at the same time look once."""
        async with self._looking:
            if self._clock() - self._looked_at < older_than_s:
                return
            try:
                await (self._refresh_url() if self._remote else self._refresh_file())
                self._failing = False
            except (OSError, httpx.HTTPError, ValueError, KeyError, TypeError, JoseError) as error:
                if not self._failing:
                    self._log.warning("keys cannot be read", source=self._source, error=type(error).__name__)
                self._failing = True
            finally:
                self._looked_at = self._clock()

    async def _refresh_file(self) -> None:
        path = Path(self._source)
        stat = path.stat()  # noqa: ASYNC240 - microseconds, every 2 s
        version = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        if version != self._version:
            self._take(await asyncio.to_thread(path.read_text, "utf-8"))
            self._version = version

    async def _refresh_url(self) -> None:
        text = await self._fetch(self._source)
        if text != self._version:
            self._take(text)
            self._version = text

    def _take(self, text: str) -> None:
        keys = KeySet.import_key_set(json.loads(text))
        self._keys = keys
        self._ids = frozenset(key.kid for key in keys.keys if key.kid)
        self._on_change()


async def _fetch(url: str) -> str:
    async with httpx.AsyncClient(timeout=_FETCH_TIMEOUT_S) as client:
        response = await client.get(url)
        response.raise_for_status()
        return response.text
