"""An answer in steps: what is found at once, then the whole."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

from services.mesh.errors import DomainError
from services.mesh.identity import Caller
from services.retrieval.chunks import Mode
from services.retrieval.query import Query
from services.retrieval.retriever import Answer, Retriever


@dataclass(frozen=True, slots=True)
class Step:
    """One step of an answer; the last one is complete."""

    answer: Answer
    complete: bool


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of an answer, always its last message; with the error that ended it early."""

    error: Exception | None = None


async def answered_in_steps(
    retriever: Retriever, query: Query, who: Caller, *, timeout_s: float | None = None
) -> AsyncIterator[Step | Ended]:
    """Yields what the first stage finds, where that comes sooner, then the whole answer, then Ended.

    Raises:
        Exception: What ended the answer early, once Ended has told of it where there was a step; a first step that
            fails is left out.
    """
    begun = False
    try:
        async for step in _steps(retriever, query, who, timeout_s):
            begun = True
            yield step
    except Exception as error:
        if begun:  # else the call itself fails, over REST with a status of its own
            yield Ended(error)
        raise
    yield Ended()


async def _steps(retriever: Retriever, query: Query, who: Caller, timeout_s: float | None) -> AsyncIterator[Step]:
    whole = asyncio.create_task(retriever.search(query, who, timeout_s=timeout_s))
    tasks: list[asyncio.Task[Answer]] = [whole]
    try:
        first_query = _first_of(query)
        if first_query is not None:
            first = asyncio.create_task(retriever.search(first_query, who, timeout_s=timeout_s))
            tasks.append(first)
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if not whole.done() and isinstance(found := await _settled(first), Answer):
                # Pages are of the whole answer's ranking.
                yield Step(replace(found, next_page_token=""), complete=False)
        yield Step(await whole, complete=True)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _first_of(query: Query) -> Query | None:
    """What can be answered sooner: by words, which need no model, or without reranking, and without facets; None where
    there is no such thing.
    """
    if query.page_token or query.page:
        return None
    if query.mode in (None, Mode.HYBRID) and query.text.strip() and not query.min_score:
        return replace(query, mode=Mode.SPARSE, rough=True, require_all=False, facets=())
    return None if query.rerank is None else replace(query, rough=True, require_all=False, facets=())


async def _settled(task: "asyncio.Task[Answer]") -> Answer | DomainError:
    try:
        return await task
    except DomainError as error:
        return error
