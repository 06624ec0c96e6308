"""A stream of texts, each answered as soon as it is done."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from services.embedding.embedder import Embedder, Embedding
from services.embedding.models import Catalog
from services.embedding.ports import InputType
from services.mesh.errors import DomainError

# Texts of one stream that are being embedded or wait to be read by its caller; reading more of them waits.
MAX_IN_FLIGHT: Final = 64


@dataclass(frozen=True, slots=True)
class Item:
    """One text of a stream. Model, input type and truncation count in the first item only."""

    id: str
    text: str
    model: str = ""
    input_type: InputType = InputType.DOCUMENT
    truncate: bool = False


@dataclass(frozen=True, slots=True)
class Embedded:
    """What became of the item with this id: its embedding, or why there is none."""

    id: str
    outcome: Embedding | DomainError


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of a stream, always its last message; with the error that ended it early."""

    error: Exception | None = None


async def embed_stream(
    catalog: Catalog, tenant: str, items: AsyncIterator[Item], *, max_in_flight: int = MAX_IN_FLIGHT
) -> AsyncIterator[Embedded | Ended]:
    """Yields what becomes of each item, in the order they finish, then Ended. A text that is refused fails alone.

    Raises:
        Exception: what ended the stream early, once Ended has told of it.
    """
    stream = _Stream(catalog, tenant, max_in_flight)
    reader = asyncio.create_task(stream.read(items))
    try:
        while not isinstance(outcome := await stream.next(), Ended):
            yield outcome
        yield outcome
    finally:
        await stream.stop(reader)
    if outcome.error is not None:
        raise outcome.error


class _Stream:
    """One stream's items in flight and its outcomes to be read. Its tasks never raise: errors are outcomes too."""

    def __init__(self, catalog: Catalog, tenant: str, max_in_flight: int) -> None:
        self._catalog = catalog
        self._tenant = tenant
        self._room = asyncio.Semaphore(max_in_flight)
        self._outcomes: asyncio.Queue[Embedded | Ended] = asyncio.Queue()
        self._running: set[asyncio.Task[None]] = set()

    async def next(self) -> Embedded | Ended:
        outcome = await self._outcomes.get()
        self._room.release()
        return outcome

    async def read(self, items: AsyncIterator[Item]) -> None:
        """Starts each item as it comes, then waits for those that run."""
        first: Item | None = None
        try:
            async for item in items:
                first = first or item
                embedder = self._catalog.embedder(first.model)
                await self._room.acquire()
                task = asyncio.create_task(self._embed(embedder, item, first))
                self._running.add(task)
                task.add_done_callback(self._running.discard)
            await asyncio.gather(*self._running)
        except Exception as error:
            self._outcomes.put_nowait(Ended(error))
        else:
            self._outcomes.put_nowait(Ended())

    async def stop(self, reader: asyncio.Task[None]) -> None:
        tasks = [reader, *self._running]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _embed(self, embedder: Embedder, item: Item, first: Item) -> None:
        try:
            (embedding,) = await embedder.embed(
                self._tenant,
                [item.text],
                input_type=first.input_type,
                truncate=first.truncate,
                named="text".format,
            )
            self._outcomes.put_nowait(Embedded(item.id, embedding))
        except DomainError as error:
            self._outcomes.put_nowait(Embedded(item.id, error))
        except Exception as error:
            self._outcomes.put_nowait(Ended(error))
