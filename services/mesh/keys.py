"""The public keys tokens are verified with: a JWKS file, or a URL that serves one."""

import asyncio
import contextlib
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import structlog
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, JWKRegistry, OKPKey, RSAKey

from ragweave.development import is_development
from services.mesh.urls import redacted

# How often a file is looked at; how soon after one fetch an unknown key id, or a URL that failed, may cause another.
_LOOK_AGAIN_S = 2.0
_FETCH_TIMEOUT_S = 5.0


PublicKey = ECKey | RSAKey | OKPKey


class KeysUnavailable(Exception):
    """The keys cannot be read, and none were read before."""


class Keys:
    """A key set kept current: a file is read anew when it changes, a URL when its keys are `fresh_s` old.

    Keys read earlier go on serving while the source cannot be read. Of a URL whose keys are twice as old, since nobody
    asked for long, the first to ask waits for new ones: a key removed meanwhile opens nothing.

    Args:
        source: A path, or an http or https URL.
        on_change: Called when the keys have changed, so that what was concluded from the old ones can be dropped.
        fresh_s: Seconds fetched keys serve before they are fetched again.
        development: Whether keys marked as made for development count.
    """

    def __init__(
        self,
        source: str,
        on_change: Callable[[], None] = lambda: None,
        *,
        fresh_s: float = 30.0,
        development: bool = True,
        clock: Callable[[], float] = time.monotonic,
        fetch: Callable[[str], Awaitable[str]] | None = None,
    ) -> None:
        self._source = source
        self._on_change = on_change
        self._development = development
        self._clock = clock
        self._remote = source.startswith(("http://", "https://"))
        self._fresh_s = fresh_s if self._remote else _LOOK_AGAIN_S
        self._fetch = fetch or _fetch
        self._keys: tuple[PublicKey, ...] = ()
        self._version: object = None
        self._looked_at = float("-inf")
        self._looking = asyncio.Lock()
        self._refreshing: asyncio.Task[None] | None = None
        self._failing = False
        self._log = structlog.get_logger("mesh.keys")

    async def current(self) -> Sequence[PublicKey]:
        """The keys, at most 2 s (file) or about `fresh_s` (URL) behind their source. Raises KeysUnavailable."""
        await self.keep_current()
        if not self._keys:
            raise KeysUnavailable(redacted(self._source))
        return self._keys

    async def fitting(self, kid: str | None) -> Sequence[PublicKey]:
        """The keys a token that names `kid` may be signed with, looked up once more when there are none.

        Those of that id and those without any; all where the token names none. Raises KeysUnavailable.
        """
        found = _fitting(await self.current(), kid)
        if not found:
            # A file costs a stat: a key just published serves at once.
            await self._look(older_than_s=_LOOK_AGAIN_S if self._remote else 0)
            found = _fitting(self._keys, kid)
        return found

    async def keep_current(self) -> None:
        """Looks at the source when it is due. A URL makes nobody wait while earlier keys serve and are not too old."""
        age_s = self._clock() - self._looked_at
        if age_s < (_LOOK_AGAIN_S if self._failing else self._fresh_s):
            return
        if not self._remote or not self._keys or (age_s >= 2 * self._fresh_s and not self._failing):
            await self._look(older_than_s=_LOOK_AGAIN_S)
        elif self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.create_task(self._look(older_than_s=_LOOK_AGAIN_S))

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
                    self._log.warning("keys cannot be read", source=redacted(self._source), error=type(error).__name__)
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
        self._keys = _public_keys(json.loads(text), development=self._development)
        self._on_change()


def _public_keys(published: Any, *, development: bool) -> tuple[PublicKey, ...]:
    """The signature keys of a JWKS document; others it may hold, such as for encryption, are left out.

    Raises:
        ValueError: It holds none.
    """
    found = []
    for each in published["keys"]:
        if not isinstance(each, dict) or (is_development(each) and not development):
            continue
        if each.get("use", "sig") == "sig":
            with contextlib.suppress(JoseError, ValueError, KeyError, TypeError):  # RFC 7517, 5: ignore what is unknown
                found.append(JWKRegistry.import_key(each))
    # A shared secret (`oct`) is never among them: who could verify could sign.
    keys = tuple(key for key in found if isinstance(key, PublicKey))
    if not keys:
        raise ValueError("no public key")
    return keys


def _fitting(keys: Sequence[PublicKey], kid: str | None) -> Sequence[PublicKey]:
    return keys if kid is None else [key for key in keys if key.kid in (kid, None)]


async def _fetch(url: str) -> str:
    async with httpx.AsyncClient(timeout=_FETCH_TIMEOUT_S) as client:
        response = await client.get(url)
        response.raise_for_status()
        return response.text
