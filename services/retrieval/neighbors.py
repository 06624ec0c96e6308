"""Neighbors: the chunks on both sides of a hit, and all of them as one text."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from services.retrieval.chunks import Chunk, IndexId
from services.retrieval.ranking import Hit

MAX_PASSAGES: Final = 1000
"""Hits and their neighbors on one page."""


def beside(hits: Sequence[Hit], adjacent: Mapping[IndexId, Iterable[Chunk]], reach: int) -> list[Hit]:
    """The hits with their neighbors, in the document's order, and all of each as one text.

    Args:
        adjacent: Chunks by index, in any order; a hit of an index that is not there stays as it is.
        reach: How many on each side.
    """
    known = {(index, *_revision(chunk), chunk.ordinal): chunk for index, chunks in adjacent.items() for chunk in chunks}

    def completed(hit: Hit) -> Hit:
        chunk, index = hit.found.chunk, hit.collection.uid
        if index not in adjacent:
            return hit
        around = (known.get((index, *_revision(chunk), chunk.ordinal + step)) for step in _steps(reach))
        neighbors = tuple(each for each in around if each is not None)
        of_all = sorted((*neighbors, chunk), key=lambda each: each.ordinal)
        return replace(hit, neighbors=neighbors, stitched_text=stitched(of_all))

    return [completed(hit) for hit in hits]


def stitched(chunks: Iterable[Chunk]) -> str:
    """The texts of a document's chunks, in order, as one: what two share is there once, and a gap is a line's end."""
    parts: list[str] = []
    end = 0
    for chunk in chunks:
        if not parts:
            parts.append(chunk.text)
        elif chunk.start_offset > end:
            parts += ["\n", chunk.text]
        else:
            parts.append(chunk.text[end - chunk.start_offset :])
        end = max(end, chunk.end_offset)
    return "".join(parts)


def _steps(reach: int) -> list[int]:
    return [step for step in range(-reach, reach + 1) if step]


def _revision(chunk: Chunk) -> tuple[str, str]:
    return chunk.document.document_id, chunk.revision_key
