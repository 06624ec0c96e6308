"""One document, from its bytes to its place in the index and the registry; each step may be the last before a kill."""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from opentelemetry.trace import SpanKind

from services.jobs.chunker import Chunk
from services.jobs.cutting import Cutting, chunk_id, fields_hash
from services.jobs.extraction import ExtractedText
from services.jobs.fairness import Turns
from services.jobs.job import Assignment, Failure, ItemChange, Lease, OnDuplicate, Outcome
from services.jobs.origin import Origin
from services.jobs.patience import Patience
from services.jobs.ports import (
    Collection,
    Diagnose,
    DocumentFields,
    EmbeddedChunk,
    Embedding,
    EvaluationRuns,
    Files,
    ImportedDocument,
    Index,
    KnownDocument,
    Models,
    Queue,
    Registry,
    Vectors,
)
from services.jobs.ports_content import BlobStore, Extractor
from services.jobs.reading import Reader, file_name, last_part, media_type, refuse, text_version
from services.jobs.ready import READY_TYPE, ReadyChunks
from services.jobs.work import DocumentBusy, JobCancelled
from services.mesh import traces
from services.mesh.errors import (
    CollectionNotFound,
    DependencyUnavailable,
    FailedPrecondition,
    NoTextFound,
    QuotaExceeded,
    UnsupportedMediaType,
)
from services.mesh.quotas import Amounts

_CHUNKS_A_WRITE = 256
_FLOAT_BYTES = 4
# Bytes of a document, or characters of its text, from which on it waits for its turn: cut, it takes up to a hundred
# times as much.
_LARGE = 4 << 20
T = TypeVar("T")


@dataclass(frozen=True)
class Tools:
    """What importing a document takes.

    Attributes:
        batch: Texts of one call to the embedding service.
        embedding_turns: How many such calls this worker has under way.
        large_turns: How many large documents it has in work, from their extraction on, whatever its slots: what bounds
            its memory.
    """

    queue: Queue
    registry: Registry
    index: Index
    embedding: Embedding
    models: Models
    blobs: BlobStore
    extractor: Extractor
    files: Files
    reader: Reader
    evaluations: EvaluationRuns
    diagnose: Diagnose
    patience: Patience
    batch: int
    embedding_turns: Turns
    large_turns: Turns


class DocumentImport:
    """The work of one item: read, extract, chunk, embed; then write: chunks, record, retirement of older revisions.

    Whatever has been read or computed is lost with the process and done again. The writes can be repeated: chunk ids
    follow from the content, the record replaces itself. Each asks first whether the lease still holds, and bears the
    fence that came with the document's lock: who sleeps between the two writes nothing over what others wrote since.
    Older revisions stay until the new one is recorded, which the tenant's quota may yet forbid.
    """

    def __init__(self, tools: Tools, lease: Lease, job: Assignment) -> None:
        assert lease.spec is not None
        self.committing = lease.committing
        self._tools = tools
        self._lease = lease
        self._job = job
        self._spec = lease.spec
        self._fence = 0
        self._size_bytes = 0
        self._content_hash = ""
        self._timings_ms: dict[str, float] = {}

    async def run(self) -> Outcome:
        """Raises what any step raises, where waiting for it did not help."""
        try:
            return await self._import()
        except UnsupportedMediaType as error:
            if self._job.directory is None or self._job.directory.include_globs or self._written:
                raise
            # Nobody named the file: a directory is imported for what can be read in it.
            return self._outcome(ItemChange.SKIP, error=self._tools.diagnose(error))

    async def abandon(self, failure: Failure) -> Outcome:
        """Takes back what was written of a revision that will not be, and records the failure with the document."""
        if not self._spec.refused:
            await self._record_failure(failure)
        return self._outcome(ItemChange.FAIL, error=failure)

    async def _record_failure(self, failure: Failure) -> None:
        tools = self._tools
        try:
            collection = await self._collection()
        except CollectionNotFound:
            return
        written = self._written
        await self._locked(collection)
        if written:
            await self._take_back(collection, await self._known())
        fields = DocumentFields(
            self._spec, self._titled(""), self._spec.mime_type, self._content_hash, 0, fence=self._fence
        )
        document = ImportedDocument(
            fields, self._size_bytes, source_key=self._source_key, failure=failure, origin=self._origin
        )
        with suppress(QuotaExceeded):  # no room to keep even that: the item says why
            await self._write(0, lambda: tools.registry.record(collection, document))

    async def _take_back(self, collection: Collection, known: KnownDocument | None) -> int:
        """Deletes the chunks of a revision that will not be; the index revision that shows it."""
        index = self._tools.index
        if known is not None and known.active:
            kept = known.revision_key
            return await self._write(0, lambda: index.retire(collection, self._id, kept, 0, self._fence))
        return await self._write(0, lambda: index.delete(collection, [self._id], self._fence))

    async def _import(self) -> Outcome:
        refuse(self._job, self._spec)
        collection = await self._collection()
        await self._locked(collection)
        with self._timed("read"):
            content = await self._content()
        return await self._made(collection, content, await self._known())

    async def _made(self, collection: Collection, content: bytes, known: KnownDocument | None) -> Outcome:
        """The document as its content and the collection now want it, unless it is so already."""
        tools = self._tools
        cutting = await tools.patience(lambda: Cutting.of(collection, tools.models))
        if known is not None and self._unchanged(known, cutting):
            if known.fields_hash != self._fields_hash:
                return await self._write_fields(collection, content, known)
            if not self._written:
                return self._outcome(ItemChange.SKIP)
            # An earlier attempt came as far as the record and was killed before it could say so.
            with suppress(FailedPrecondition):  # the index lost chunks: they are written anew
                revision = await self._retired(collection, known.revision_key, known.chunk_count)
                count = known.chunk_count if self._lease.torn else self._lease.chunks
                return self._outcome(ItemChange.SUCCEED, chunks=count, index_revision=revision)
        async with AsyncExitStack() as turn:
            if len(content) >= _LARGE:
                await self._take_turn(turn)
            with self._timed("extract"):
                text = await self._text(content)
            if len(text.text) >= _LARGE > len(content):
                await self._take_turn(turn)
            return await self._cut_and_written(collection, cutting, known, content, text)

    async def _take_turn(self, held: AsyncExitStack) -> None:
        with self._timed("wait"):
            await held.enter_async_context(self._tools.large_turns.of(self._job.tenant))

    async def _cut_and_written(
        self,
        collection: Collection,
        cutting: Cutting,
        known: KnownDocument | None,
        content: bytes,
        text: ExtractedText,
    ) -> Outcome:
        tools = self._tools
        given: Mapping[int, bytes] = {}
        with self._timed("chunk"):
            if self._spec.mime_type == READY_TYPE:
                ready = await asyncio.to_thread(ReadyChunks.unpacked, content, self._name)
                chunks = await asyncio.to_thread(ready.cut, cutting.model.tokenizer)
                given = ready.vectors(collection, cutting.collection.dimension or cutting.model.dimension, self._name)
            else:
                chunks = await cutting.chunks(text, self._spec.title)
        if not chunks:
            raise NoTextFound(f"{self._name}: it holds no text")
        with self._naming():
            await tools.patience(lambda: tools.registry.check_quota(self._more_than(known, len(chunks))))
        with self._timed("embed"):
            embedded = await self._embedded(chunks, cutting, given)
        return await self._replace(collection, cutting, known, text, embedded)

    # Reading

    async def _collection(self) -> Collection:
        collection = await self._tools.patience(
            lambda: self._tools.registry.collection(self._job.collection_id, self._job.collection_uid)
        )
        if collection.uid != self._job.collection_uid:
            raise CollectionNotFound(f"collections/{self._job.collection_id} was deleted after the import began")
        return collection

    async def _known(self) -> KnownDocument | None:
        found = await self._tools.patience(lambda: self._tools.registry.lookup(self._job.collection_id, [self._id]))
        return found.get(self._id)

    async def _content(self) -> bytes:
        found = await self._tools.reader.read(self._job, self._spec)
        self._spec, content = found.spec, found.content
        self._content_hash = found.spec.content_hash or await asyncio.to_thread(
            lambda: hashlib.sha256(content).hexdigest()
        )
        self._size_bytes = len(content)
        return content

    def _unchanged(self, known: KnownDocument, cutting: Cutting) -> bool:
        """There is nothing to do but, perhaps, new fields. What this very item has written counts in any case."""
        return (
            (self._job.on_duplicate is OnDuplicate.SKIP or self._written)
            and known.active
            and known.content_hash == self._content_hash
            and known.revision_key == self._key(cutting)
        )

    async def _text(self, content: bytes) -> ExtractedText:
        """The text as kept, else extracted and kept, together with the original."""
        tools, tenant = self._tools, self._job.tenant
        if self._spec.mime_type == READY_TYPE:
            return (await asyncio.to_thread(ReadyChunks.unpacked, content, self._name)).text()
        kept = await tools.blobs.keep(tenant, self._content_hash)
        text = await tools.blobs.get_text(tenant, self._content_hash, self._text_version) if kept else None
        if text is not None:
            return text
        text = await tools.extractor.extract(content, name=self._name, media_type=media_type(self._spec), tenant=tenant)
        if not kept:
            await tools.blobs.put(tenant, _whole(content))
        await tools.blobs.put_text(tenant, self._content_hash, self._text_version, text)
        return text

    async def _embedded(
        self, chunks: Sequence[Chunk], cutting: Cutting, given: Mapping[int, bytes]
    ) -> list[EmbeddedChunk]:
        """The chunks with vectors, given or made; the longest first, so that a call's texts are of about one length."""
        order = sorted((at for at in range(len(chunks)) if at not in given), key=lambda at: -chunks[at].token_count)
        size = self._tools.batch
        vectors = dict(given)

        async def embed(batch: Sequence[int]) -> None:
            found = await self._vectors([chunks[at].embed_text for at in batch], cutting)
            vectors.update(zip(batch, found, strict=True))

        async with asyncio.TaskGroup() as group:
            for start in range(0, len(order), size):
                group.create_task(embed(order[start : start + size]))
        key = self._key(cutting)
        return [EmbeddedChunk(chunk_id(key, at), chunk, vectors[at]) for at, chunk in enumerate(chunks)]

    async def _vectors(self, texts: Sequence[str], cutting: Cutting) -> Sequence[bytes]:
        tools, model = self._tools, cutting.model

        async def embedded() -> Vectors:  # whoever waits for the service gives up its turn meanwhile
            async with tools.embedding_turns.of(self._job.tenant):
                return await tools.embedding.embed(model.name, texts)

        found = await tools.patience(embedded)
        if found.model_revision != model.revision:
            tools.models.forget(model.name)
            raise DependencyUnavailable("the embedding model has changed; the document is embedded anew")
        dimension = cutting.collection.dimension or model.dimension
        for vector in found.vectors:
            if len(vector) != dimension * _FLOAT_BYTES:
                raise FailedPrecondition(
                    f"{self._name}: the model gives vectors of {len(vector) // _FLOAT_BYTES} dimensions, the "
                    f"collection holds vectors of {dimension}"
                )
        return found.vectors

    # Writing

    async def _replace(
        self,
        collection: Collection,
        cutting: Cutting,
        known: KnownDocument | None,
        text: ExtractedText,
        chunks: Sequence[EmbeddedChunk],
    ) -> Outcome:
        tools, key = self._tools, self._key(cutting)
        fields = self._fields(known, title=text.title, mime_type=text.mime_type)
        with self._timed("index"):
            for start in range(0, len(chunks), _CHUNKS_A_WRITE):
                batch = partial(tools.index.upsert, collection, fields, key, chunks[start : start + _CHUNKS_A_WRITE])
                await self._write(len(chunks), batch)
        with self._timed("record"), self._naming():
            await self._record(
                collection,
                fields,
                chunk_count=len(chunks),
                token_count=sum(each.chunk.token_count for each in chunks),
                revision_key=key,
            )
        with self._timed("index"):
            try:
                revision = await self._retired(collection, key, len(chunks))
            except FailedPrecondition:
                raise DependencyUnavailable(f"{self._name}: the index lost chunks; they are written anew") from None
        return self._outcome(ItemChange.SUCCEED, chunks=len(chunks), index_revision=revision)

    async def _write_fields(self, collection: Collection, content: bytes, known: KnownDocument) -> Outcome:
        """The content is the same: what is shown and filtered by changes without embedding anything."""
        tools = self._tools
        with self._timed("extract"):
            text = await self._text(content)
        fields = self._fields(known, title=text.title, mime_type=text.mime_type)
        with self._timed("index"):
            revision = await self._write(self._lease.chunks, lambda: tools.index.update_fields(collection, fields))
        with self._timed("record"):
            await self._record(
                collection,
                fields,
                chunk_count=known.chunk_count,
                token_count=known.token_count,
                revision_key=known.revision_key,
            )
        return self._outcome(ItemChange.SUCCEED, chunks=self._lease.chunks, index_revision=revision)

    async def _retired(self, collection: Collection, key: str, count: int) -> int:
        """Raises FailedPrecondition where the index has fewer chunks of the revision than that."""
        retire = partial(self._tools.index.retire, collection, self._id, key, count, self._fence)
        return await self._write(count, retire)

    async def _record(
        self, collection: Collection, fields: DocumentFields, *, chunk_count: int, token_count: int, revision_key: str
    ) -> None:
        document = ImportedDocument(
            fields,
            self._size_bytes,
            chunk_count,
            token_count,
            revision_key,
            self._fields_hash,
            self._source_key,
            origin=self._origin,
            document_uid=self._uid,
        )
        await self._write(chunk_count, lambda: self._tools.registry.record(collection, document))

    async def _write(self, chunks: int, write: Callable[[], Awaitable[T]]) -> T:
        """Writes outside. Before each try: is the work still ours? From the first yes on, it is seen through."""

        async def tried() -> T:
            before, self.committing = self.committing, True
            if not await self._tools.queue.commit(self._lease, chunks):
                self.committing = before
                raise JobCancelled
            return await write()

        return await self._tools.patience(tried)

    async def _locked(self, collection: Collection) -> None:
        """Nobody else writes to the document from here on, for as long as the lease lasts."""
        self._fence = await self._tools.queue.lock(self._lease, collection.uid, self._id)
        if not self._fence:
            raise DocumentBusy

    # What is known of the document

    @property
    def _written(self) -> bool:
        """This item, in this attempt or an earlier one, may have written outside."""
        return self.committing or self._lease.torn

    @property
    def _id(self) -> str:
        return self._spec.document_id

    @property
    def _name(self) -> str:
        """What errors name it by, and its type is told by where nothing else tells."""
        return file_name(self._spec)

    @contextmanager
    def _naming(self) -> Iterator[None]:
        """A quota that is used up fails the item by the document's name."""
        try:
            yield
        except QuotaExceeded as error:
            raise QuotaExceeded(f"{self._name}: {error.message}", subject=f"tenants/{self._job.tenant}") from None

    def _more_than(self, known: KnownDocument | None, chunks: int) -> Amounts:
        """What the document adds to the tenant's, with so many chunks."""
        if known is None:
            return Amounts(documents=1, chunks=chunks, storage_bytes=self._size_bytes)
        return Amounts(
            chunks=max(0, chunks - (known.chunk_count if known.active else 0)),
            storage_bytes=max(0, self._size_bytes - known.size_bytes),
        )

    @property
    def _fields_hash(self) -> str:
        return fields_hash(self._spec, self._source_key)

    @property
    def _source_key(self) -> str:
        return self._job.source_key

    @property
    def _origin(self) -> str:
        return Origin.of(self._spec).packed()

    @property
    def _uid(self) -> str:
        """The one document that may be written; "" where it may be any, or none yet."""
        return ""

    @property
    def _text_version(self) -> str:
        return text_version(self._tools.extractor, self._spec)

    def _key(self, cutting: Cutting) -> str:
        return cutting.revision_key(self._content_hash, self._text_version)

    def _titled(self, found: str) -> str:
        spec = self._spec
        return spec.title or found or last_part(spec) or spec.document_id

    def _fields(self, known: KnownDocument | None, *, title: str, mime_type: str) -> DocumentFields:
        changed = known is None or not known.revision or known.content_hash != self._content_hash
        before = known.revision if known is not None else 0
        return DocumentFields(
            spec=self._spec,
            title=self._titled(title),
            mime_type=self._spec.mime_type or mime_type,
            content_hash=self._content_hash,
            revision=before + 1 if changed else before,
            create_time=known.create_time if known is not None else None,
            fence=self._fence,
            generation=known.generation if known is not None else 0,
        )

    def _outcome(
        self, change: ItemChange, *, chunks: int = 0, index_revision: int = 0, error: Failure | None = None
    ) -> Outcome:
        return Outcome(change, chunks, self._size_bytes, index_revision, error, dict(self._timings_ms))

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            with traces.part(stage, kind=SpanKind.INTERNAL):
                yield
        finally:
            spent_ms = (time.perf_counter() - started) * 1000
            self._timings_ms[stage] = self._timings_ms.get(stage, 0.0) + spent_ms


async def _whole(content: bytes) -> AsyncIterator[bytes]:
    yield content
