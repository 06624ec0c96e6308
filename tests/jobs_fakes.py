"""In-memory fulfilments of what importing needs, and a trap that kills at any one step."""

import asyncio
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from services.jobs.job import DirectoryImport, DocumentSpec
from services.jobs.ports import (
    Collection,
    DocumentFields,
    EmbeddedChunk,
    EmbeddingModel,
    ImportedDocument,
    KnownDocument,
    Vectors,
)
from services.mesh.errors import (
    CollectionNotFound,
    DocumentNotFound,
    FailedPrecondition,
    LeaseLost,
    PathNotAllowed,
    PathNotFound,
)
from services.mesh.filters import Field, FieldType, Schema, evaluate, parse
from services.mesh.identity import Caller, caller
from services.mesh.quotas import Amounts, check_quota
from tests.fake_content import WordTokenizer

DIMENSION = 4
_FILTERED_BY = Schema(
    {
        "title": Field(FieldType.STRING),
        "source_uri": Field(FieldType.STRING),
        "metadata": Field(FieldType.STRUCT),
    }
)
# What a document made again keeps.
_KEPT = ("title", "source_uri", "metadata", "principals", "source_key", "fields_hash", "origin")


class Turns:
    """The highest fence of each document; lower ones come late."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, str], int] = {}

    def take(self, collection: str, document_id: str, *, fence: int) -> None:
        if fence < self._last.get((collection, document_id), 0):
            raise LeaseLost(f"{document_id} was written by somebody whose turn was later")
        self._last[collection, document_id] = fence


class MemoryRegistry:
    """Collections and documents in dictionaries; `records` is every record ever made."""

    def __init__(self, *collections: Collection) -> None:
        self.collections = {each.id: each for each in collections}
        self.documents: dict[tuple[str, str], KnownDocument] = {}
        self.sources: dict[tuple[str, str], str] = {}
        self.records: list[ImportedDocument] = []
        self.deleted: list[str] = []
        self.limits = Amounts(1_000, 1_000, 1_000, 10**9)
        self.asked: list[Amounts] = []
        self.turns = Turns()
        self.oblivious = False  # as where another worker fills the place between the question and the record

    @property
    def usage(self) -> Amounts:
        kept = self.documents.values()
        return Amounts(
            len(self.collections),
            len(kept),
            sum(each.chunk_count for each in kept if each.active),
            sum(each.size_bytes for each in kept),
        )

    async def check_quota(self, more: Amounts) -> None:
        self.asked.append(more)
        if not self.oblivious:
            check_quota("acme", limits=self.limits, usage=self.usage, more=more)

    async def collection(self, collection_id: str, uid: str = "") -> Collection:
        if collection_id not in self.collections:
            raise CollectionNotFound(f"collections/{collection_id} does not exist")
        return self.collections[collection_id]

    async def lookup(self, collection_id: str, document_ids: Sequence[str]) -> dict[str, KnownDocument]:
        return {
            each: self.documents[collection_id, each]
            for each in document_ids
            if (collection_id, each) in self.documents
        }

    async def select(self, collection_id: str, filter: str, after: str, limit: int) -> list[KnownDocument]:
        found = [self.documents[key] for key in sorted(self.documents) if key[0] == collection_id and key[1] > after]
        wanted = parse(filter, _FILTERED_BY)
        return [each for each in found if evaluate(wanted, _seen(each))][:limit]

    async def needed(self, content_hashes: Sequence[str]) -> set[str]:
        return {each.content_hash for each in self.documents.values()}.intersection(content_hashes)

    async def count(self, collection_id: str, filter: str) -> int:
        return len(await self.select(collection_id, filter, "", len(self.documents)))

    async def record(self, collection: Collection, document: ImportedDocument) -> None:
        key = collection.id, document.fields.spec.document_id
        self.turns.take(*key, fence=document.fields.fence)
        before = self.documents.get(key)
        if document.document_uid and (before is None or before.uid != document.document_uid):
            raise DocumentNotFound(f"{key[1]} was deleted")
        held = before or KnownDocument(False, "", "", "", 0, "", "", 0, 0)
        more = Amounts(
            documents=int(before is None),
            chunks=document.chunk_count - (held.chunk_count if held.active else 0) if not document.failure else 0,
            storage_bytes=document.size_bytes - held.size_bytes,
        )
        check_quota("acme", limits=self.limits, usage=self.usage, more=more)
        self.records.append(document)
        if document.failure is not None and before is not None and before.active:
            return
        spec = document.fields.spec
        made = KnownDocument(
            active=document.failure is None,
            content_hash=document.fields.content_hash,
            revision_key=document.revision_key,
            fields_hash=document.fields_hash,
            revision=document.fields.revision,
            title=document.fields.title,
            mime_type=document.fields.mime_type,
            chunk_count=document.chunk_count,
            token_count=document.token_count,
            size_bytes=document.size_bytes,
            create_time=before.create_time if before else datetime(2024, 1, 1, tzinfo=UTC),
            document_id=spec.document_id,
            uid=before.uid if before else f"uid-{len(self.records)}",
            source_uri=spec.source_uri,
            metadata=spec.metadata,
            principals=spec.principals,
            source_key=document.source_key,
            origin=document.origin,
        )
        if document.document_uid and before:
            made = replace(made, **{name: getattr(before, name) for name in _KEPT})
        self.sources[key] = made.source_key
        self.documents[key] = made

    async def source_documents(self, collection_id: str, source_key: str, after: str, limit: int) -> list[str]:
        of_source = [id for (of, id), key in self.sources.items() if of == collection_id and key == source_key]
        return sorted(id for id in of_source if id > after)[:limit]

    async def delete_documents(self, collection_id: str, document_ids: Sequence[str], *, filter: str = "") -> int:
        known = await self.lookup(collection_id, document_ids)
        wanted = parse(filter, _FILTERED_BY)
        gone = [each for each, document in known.items() if evaluate(wanted, _seen(document))]
        for each in gone:
            self.deleted.append(each)
            del self.documents[collection_id, each]
            self.sources.pop((collection_id, each), None)
        return len(gone)


def _seen(document: KnownDocument) -> dict[str, Any]:
    """A document as filters see it."""
    return {"title": document.title, "source_uri": document.source_uri, "metadata": document.metadata}


class MemoryIndex:
    """Chunks by collection, document and id, each with the revision it is of."""

    def __init__(self) -> None:
        self.chunks: dict[tuple[str, str, str], tuple[str, EmbeddedChunk, DocumentFields]] = {}
        self.turns = Turns()
        self.writes = 0

    def of(self, document_id: str) -> list[tuple[str, EmbeddedChunk, DocumentFields]]:
        """What a search could find of a document, in order."""
        found = [value for (_, document, _), value in self.chunks.items() if document == document_id]
        return sorted(found, key=lambda value: value[1].chunk.ordinal)

    async def upsert(
        self, collection: Collection, document: DocumentFields, revision_key: str, chunks: Sequence[EmbeddedChunk]
    ) -> int:
        self.turns.take(collection.uid, document.spec.document_id, fence=document.fence)
        for each in chunks:
            self.chunks[collection.uid, document.spec.document_id, each.id] = revision_key, each, document
        return self._written()

    async def retire(
        self, collection: Collection, document_id: str, keep: str, expected_chunks: int, fence: int
    ) -> int:
        self.turns.take(collection.uid, document_id, fence=fence)
        mine = {key: value for key, value in self.chunks.items() if key[:2] == (collection.uid, document_id)}
        if sum(value[0] == keep for value in mine.values()) < expected_chunks:
            raise FailedPrecondition("the revision is not whole")
        for key, value in mine.items():
            if value[0] != keep:
                del self.chunks[key]
        return self._written()

    async def revision(self, collection: Collection) -> int:
        return self.writes

    async def update_fields(self, collection: Collection, document: DocumentFields) -> int:
        self.turns.take(collection.uid, document.spec.document_id, fence=document.fence)
        for key, (revision_key, chunk, _) in list(self.chunks.items()):
            if key[:2] == (collection.uid, document.spec.document_id):
                self.chunks[key] = revision_key, chunk, document
        return self._written()

    async def delete(self, collection: Collection, document_ids: Sequence[str], fence: int) -> int:
        for each in document_ids:
            self.turns.take(collection.uid, each, fence=fence)
        self.chunks = {
            key: value for key, value in self.chunks.items() if key[0] != collection.uid or key[1] not in document_ids
        }
        return self._written()

    def _written(self) -> int:
        self.writes += 1
        return self.writes


class LengthEmbedding:
    """A vector that tells the text's length; remembers what it was given. May be told to fail, or to wait."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.calls: list[int] = []
        self.fails: Callable[[Sequence[str]], Exception | None] = lambda texts: None
        self.gate: asyncio.Event | None = None
        self.entered = asyncio.Event()
        self.model_revision = "r1"
        self.dimension = DIMENSION

    async def embed(self, model: str, texts: Sequence[str]) -> Vectors:
        self.entered.set()
        if self.gate is not None:
            await self.gate.wait()
        error = self.fails(texts)
        if error is not None:
            raise error
        self.texts += texts
        self.calls.append(len(texts))
        return Vectors([len(text).to_bytes(4, "little") * self.dimension for text in texts], self.model_revision)


class OneModel:
    """The model of every collection."""

    def __init__(self, revision: str = "r1") -> None:
        self.revision = revision
        self.forgotten: list[str] = []

    async def model(self, name: str) -> EmbeddingModel:
        return EmbeddingModel("tiny", self.revision, 64, DIMENSION, WordTokenizer())

    def forget(self, name: str) -> None:
        self.forgotten.append(name)


@dataclass
class MemoryFiles:
    """One allowed directory, "docs", of files by path; those with a reason cannot be read, or entered."""

    files: dict[str, bytes] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    barred: dict[str, str] = field(default_factory=dict)
    gone: bool = False

    async def resolve(self, tenant: str, wanted: DirectoryImport) -> tuple[DirectoryImport, str]:
        name = wanted.path.removeprefix("docs/")
        if name in self.files and name != wanted.path:
            return replace(wanted, path="docs"), name
        if wanted.path != "docs" or self.gone:
            raise PathNotFound(f"{wanted.path}: there is no such file or directory")
        return wanted, ""

    async def page(
        self, tenant: str, directory: DirectoryImport, after: str, limit: int
    ) -> tuple[list[DocumentSpec], str | None]:
        if self.gone:
            raise PathNotFound("docs: there is no such file or directory")
        names = [name for name in sorted({*self.files, *self.refused}) if name > after]
        page = [self.spec(directory, name, self.refused.get(name, "")) for name in names[:limit]]
        more = names[limit - 1] if len(names) > limit else None
        if more is None:
            page += [DocumentSpec("", path=path, refused=reason) for path, reason in self.barred.items()]
        return page, more

    async def stamp(self, tenant: str, directory: DirectoryImport) -> str:
        await self.resolve(tenant, directory)
        return repr(sorted(self.files.items()))

    def whereabouts(self, tenant: str, directory: DirectoryImport) -> str:
        return f"/{directory.path}"

    async def read(self, tenant: str, directory: DirectoryImport, path: str) -> bytes:
        if path not in self.files:
            raise PathNotAllowed(f"{path}: not a regular file")
        return self.files[path]

    def spec(self, directory: DirectoryImport, path: str, refused: str = "") -> DocumentSpec:
        return DocumentSpec(path.replace("/", "."), path=path, refused=refused)


class Killed(BaseException):
    """The process ends here."""


class Trap:
    """Counts the steps of trapped ports, before and after each call, and kills at one of them.

    Attributes:
        at: The step to kill at; -1 for none.
        seen: Names of the steps so far.
    """

    def __init__(self, at: int = -1) -> None:
        self.at = at
        self.seen: list[str] = []

    def on(self, port: Any, *names: str) -> Any:
        """The port, with steps before and after each call of these methods."""
        return _Trapped(port, self, names)

    def step(self, name: str) -> None:
        self.seen.append(name)
        if len(self.seen) - 1 == self.at:
            raise Killed(name)


class _Trapped:
    def __init__(self, port: Any, trap: Trap, names: Sequence[str]) -> None:
        self._port, self._trap, self._names = port, trap, names

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._port, name)
        if name not in self._names:
            return found
        assert inspect.iscoroutinefunction(found)

        async def trapped(*args: Any, **kwargs: Any) -> Any:
            self._trap.step(f"before {name}")
            result = await found(*args, **kwargs)
            self._trap.step(f"after {name}")
            return result

        return trapped


def collection(**fields: Any) -> Collection:
    """books, of the tiny model, in chunks of at most 40 words."""
    return replace(Collection("books", "uid-1", "models/tiny", DIMENSION, max_tokens=40), **fields)


class MemoryRuns:
    """Fulfils EvaluationRuns over queries by their ids; what was done, by whom, is noted.

    Attributes:
        failures: What running a query raises.
        held: Queries that run until they are stopped.
    """

    def __init__(self, *ids: str) -> None:
        self.ids = list(ids)
        self.failures: dict[str, Exception] = {}
        self.held: set[str] = set()
        self.ran: list[tuple[str, str, Caller]] = []
        self.concluded: list[str] = []

    async def queries(self, evaluation_id: str, offset: int, limit: int) -> tuple[list[str], int]:
        return self.ids[offset : offset + limit], len(self.ids)

    async def run(self, evaluation_id: str, query_id: str) -> None:
        self.ran.append((evaluation_id, query_id, caller()))
        if query_id in self.held:
            await asyncio.Event().wait()
        if query_id in self.failures:
            raise self.failures[query_id]

    async def conclude(self, evaluation_id: str) -> None:
        self.concluded.append(evaluation_id)
