"""Tells what an import would do, by doing it for as many documents as fit in a few seconds, and keeping nothing."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from services.jobs.chunker import Chunk
from services.jobs.cutting import Cutting
from services.jobs.job import Assignment, DocumentSpec, Estimate, OnDuplicate
from services.jobs.ports import Collection, Models, Registry
from services.jobs.ports_content import BlobStore, Extractor
from services.jobs.reading import Found, Reader, file_name, media_type, text_version
from services.jobs.ready import READY_TYPE, ReadyChunks
from services.mesh.errors import DomainError
from services.mesh.quotas import Amounts

_MAX_LISTED = 100_000
_MAX_SAMPLED = 1000


@dataclass(frozen=True, slots=True)
class Candidate:
    """A document that would be imported; how to get it where the request brought it, and nothing has kept it."""

    spec: DocumentSpec
    read: Callable[[], Awaitable[Found]] | None = None


@dataclass(slots=True)
class _Count:
    documents: int = 0
    chunks: int = 0
    tokens: int = 0
    duplicates: int = 0
    added: Amounts = field(default_factory=Amounts)


class Estimator:
    """Reads, extracts and cuts documents as an import would.

    Args:
        limit_s: Time one estimate may take; what is left then is inferred from what was seen.
    """

    def __init__(
        self,
        registry: Registry,
        models: Models,
        blobs: BlobStore,
        extractor: Extractor,
        reader: Reader,
        *,
        limit_s: float = 15.0,
    ) -> None:
        self._registry = registry
        self._models = models
        self._blobs = blobs
        self._extractor = extractor
        self._reader = reader
        self._limit_s = limit_s

    async def estimate(
        self, job: Assignment, collection: Collection, found: AsyncIterator[Candidate]
    ) -> tuple[Estimate, Amounts]:
        """What importing these documents would do, and add to the tenant's; one that cannot be read adds nothing."""
        cutting = await Cutting.of(collection, self._models)
        candidates = [candidate async for candidate in _first(found, _MAX_LISTED)]
        now = asyncio.get_running_loop().time
        until = now() + self._limit_s
        count, looked = _Count(), 0
        for candidate in _spread(candidates, _MAX_SAMPLED):
            if looked and now() > until:
                break
            await self._add(count, candidate, job, cutting)
            looked += 1
        scale = len(candidates) / looked if looked else 1.0
        estimate = Estimate(
            documents=round(count.documents * scale),
            chunks=round(count.chunks * scale),
            tokens=round(count.tokens * scale),
            duplicates=round(count.duplicates * scale),
            sampled=looked < len(candidates),
        )
        added = count.added
        return estimate, Amounts(
            documents=round(added.documents * scale),
            chunks=max(0, round(added.chunks * scale)),
            storage_bytes=max(0, round(added.storage_bytes * scale)),
        )

    async def _add(self, count: _Count, candidate: Candidate, job: Assignment, cutting: Cutting) -> None:
        try:
            found = await (candidate.read() if candidate.read else self._reader.read(job, candidate.spec))
            spec, content = found.spec, found.content
            digest = await asyncio.to_thread(_digest, content)
            version = text_version(self._extractor, spec)
            known = (await self._registry.lookup(job.collection_id, [spec.document_id])).get(spec.document_id)
            unchanged = (
                job.on_duplicate is OnDuplicate.SKIP
                and known is not None
                and known.active
                and known.revision_key == cutting.revision_key(digest, version)
            )
            if unchanged:
                count.duplicates += 1
                return
            chunks = await self._chunks(job, Found(spec, content), digest, cutting)
        except DomainError:
            return
        count.documents += 1
        count.chunks += len(chunks)
        count.tokens += sum(chunk.token_count for chunk in chunks)
        before = Amounts()
        if known is not None:
            before = Amounts(0, -1, -known.chunk_count if known.active else 0, -known.size_bytes)
        count.added += before + Amounts(0, 1, len(chunks), len(content))

    async def _chunks(self, job: Assignment, found: Found, digest: str, cutting: Cutting) -> Sequence[Chunk]:
        spec, content = found.spec, found.content
        if spec.mime_type == READY_TYPE:
            return await asyncio.to_thread(ReadyChunks.unpacked(content, file_name(spec)).cut, cutting.model.tokenizer)
        text = await self._blobs.get_text(job.tenant, digest, text_version(self._extractor, spec))
        if text is None:
            text = await self._extractor.extract(
                content, name=file_name(spec), media_type=media_type(spec), tenant=job.tenant
            )
        return await cutting.chunks(text, spec.title)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


async def _first(found: AsyncIterator[Candidate], limit: int) -> AsyncIterator[Candidate]:
    seen = 0
    async for each in found:
        yield each
        seen += 1
        if seen == limit:
            return


def _spread(candidates: Sequence[Candidate], most: int) -> Sequence[Candidate]:
    """At most so many of them, evenly spread, so that what is looked at stands for the rest."""
    step = max(1, len(candidates) // most)
    chosen = candidates[::step][:most]
    # Every other, then those between: whenever time is up, what was seen is spread over all.
    return [*chosen[::2], *chosen[1::2]]
