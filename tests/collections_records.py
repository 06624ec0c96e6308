"""Collections and documents for tests, and what the registry needs of the other services, faked."""

import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from services.collections.collection_deletions import CollectionDeletions
from services.collections.document_deletions import DocumentDeletions
from services.collections.document_writer import DocumentWriter
from services.collections.entries import Entry, Kind
from services.collections.imports import Imports
from services.collections.ports import Content, EmbeddingModel, Index, IndexStats, Jobs, RegistryStore, Upload
from services.collections.quotas import Quotas
from services.collections.records import Chunk, Collection, Document, new_etag
from services.collections.registry import Registry
from services.collections.upkeep import Upkeep
from services.mesh.audit import Trail
from services.mesh.errors import (
    DependencyUnavailable,
    InvalidArgument,
    ModelNotFound,
    PathNotAllowed,
    PathNotFound,
    UploadNotFound,
)
from services.mesh.quotas import Amounts
from services.mesh.receipts import Receipt
from tests.audit_fakes import FakeTrail

AT_ONCE = timedelta(0)
WEEK = timedelta(days=7)
PLENTY = Amounts(1_000, 1_000, 1_000, 10**12)
LONG_AGO = datetime(2024, 5, 1, 12, 0, 0, 123456, tzinfo=UTC)


def collection(collection_id: str = "docs", *, tenant: str = "acme", **fields: Any) -> Collection:
    made = Collection(
        tenant=tenant,
        collection_id=collection_id,
        uid=f"uid-{tenant}-{collection_id}",
        embedding_model="models/mini",
        dimension=4,
        language="en",
        create_time=LONG_AGO,
        update_time=LONG_AGO,
        etag=new_etag(),
    )
    return replace(made, **fields)


def document(document_id: str = "a", *, of: Collection | None = None, **fields: Any) -> Document:
    parent = of or collection()
    made = Document(
        collection_uid=parent.uid,
        collection_id=parent.collection_id,
        document_id=document_id,
        uid=f"{parent.uid}-{document_id}",
        state="PENDING",
        create_time=LONG_AGO,
        update_time=LONG_AGO,
        etag=new_etag(),
    )
    return replace(made, **fields)


def receipt(request_id: str = "r1", digest: str = "body", *, method: str = "Create", tenant: str = "acme") -> Receipt:
    return Receipt(tenant, method, request_id, digest)


class FakeIndex:
    """What searches would see: collections applied, documents with their fields; may be down."""

    def __init__(self) -> None:
        self.applied: dict[str, Collection] = {}
        self.fields: dict[tuple[str, str], Document] = {}
        self.hidden: set[tuple[str, str]] = set()
        self.chunks: dict[tuple[str, str], list[Chunk]] = {}
        self.dropped: list[str] = []
        self.retired: list[tuple[str, str]] = []
        self.calls: list[str] = []
        self._generations: dict[tuple[str, str], int] = {}
        self.down = False
        self.fails_at = ""

    def _answer(self, call: str) -> None:
        self.calls.append(call)
        if self.down or call == self.fails_at:
            raise DependencyUnavailable("retrieval is unavailable")

    async def apply(self, collection: Collection) -> None:
        self._answer("apply")
        self.applied[collection.uid] = collection

    async def drop(self, collection: Collection) -> None:
        self._answer("drop")
        self.dropped.append(collection.uid)
        self.chunks = {key: each for key, each in self.chunks.items() if key[0] != collection.uid}

    async def stats(self, collection: Collection) -> IndexStats:
        self._answer("stats")
        return IndexStats(sum(len(each) for (uid, _), each in self.chunks.items() if uid == collection.uid), 0)

    async def delete_documents(self, collection: Collection, document_ids: Sequence[str]) -> None:
        self._answer("delete_documents")
        for document_id in document_ids:
            self.chunks.pop((collection.uid, document_id), None)
            self.hidden.discard((collection.uid, document_id))
            self._generations.pop((collection.uid, document_id), None)

    async def retire(self, document: Document, keep_revision_key: str) -> None:
        self._answer("retire")
        self.retired.append((document.document_id, keep_revision_key))

    async def hide(self, collection: Collection, documents: Sequence[Document]) -> None:
        self._answer("hide")
        for document in documents:
            if self._takes(document):
                self.hidden.add((collection.uid, document.document_id))

    async def update_fields(self, document: Document) -> None:
        self._answer("update_fields")
        if self._takes(document):
            self.fields[document.collection_uid, document.document_id] = document
            self.hidden.discard((document.collection_uid, document.document_id))

    def _takes(self, document: Document) -> bool:
        """Whether it is of the latest generation."""
        key = document.collection_uid, document.document_id
        self._generations[key] = max(self._generations.get(key, 0), document.generation)
        return document.generation == self._generations[key]

    async def list_chunks(self, document: Document, from_ordinal: int, limit: int) -> tuple[list[Chunk], int]:
        self._answer("list_chunks")
        chunks = self.chunks.get((document.collection_uid, document.document_id), [])
        return chunks[from_ordinal : from_ordinal + limit], len(chunks)


class FakeLimits:
    """The limits of every tenant, as their owner has them; may be down."""

    def __init__(self, amounts: Amounts = PLENTY) -> None:
        self.amounts = amounts
        self.asked = 0
        self.down = False

    async def of_caller(self) -> Amounts:
        self.asked += 1
        if self.down:
            raise DependencyUnavailable("system does not tell limits")
        return self.amounts


def quotas(store: RegistryStore, limits: FakeLimits | None = None, **given: Any) -> Quotas:
    """Quotas of a store, with plenty of everything unless told otherwise."""
    return Quotas(store, limits or FakeLimits(), **{"defaults": PLENTY, **given})


class FakeModels:
    """One model, the default."""

    MINI = EmbeddingModel("models/mini", dimension=4, max_tokens=256)

    async def embedding_model(self, name: str) -> EmbeddingModel:
        if name.removeprefix("models/") not in ("", "mini"):
            raise ModelNotFound(f"no embedding model {name!r}")
        return self.MINI


class FakePlaces:
    """What every tenant finds, by path; paths with `..` are refused."""

    def __init__(self) -> None:
        self.found = {"docs": Kind.DIRECTORY, "file": Kind.FILE}

    async def admit(self, tenant: str, path: str) -> None:
        if ".." in path:
            raise PathNotAllowed(f"{path}: not allowed")

    async def look(self, tenant: str, path: str) -> Entry:
        await self.admit(tenant, path)
        if path not in self.found:
            raise PathNotFound(f"{path}: there is no such file or directory")
        return Entry(path, self.found[path], None, LONG_AGO)


class FakeJobs:
    """Jobs by document uid, and uploads by content; may be down, or have lost what was uploaded.

    What broke off is kept by its name.
    """

    def __init__(self) -> None:
        self.imports: dict[str, tuple[Document, Content]] = {}
        self.uploads: list[bytes] = []
        self.parts_seen: list[int] = []
        self.unfinished: dict[str, bytes] = {}
        self.down = False
        self.lost = False

    async def import_document(self, document: Document, content: Content, *, validate_only: bool = False) -> bytes:
        if self.down:
            raise DependencyUnavailable("jobs is unavailable")
        if self.lost and isinstance(content, Upload):
            raise UploadNotFound("nothing with this hash was uploaded")
        if not validate_only:
            self.imports[document.uid] = (document, content)
        return f"job of {document.uid}".encode()

    async def find_imports(self, documents: Sequence[Document]) -> set[str]:
        if self.down:
            raise DependencyUnavailable("jobs is unavailable")
        return {each.uid for each in documents if each.uid in self.imports}

    async def store(
        self,
        parts: AsyncIterator[bytes],
        *,
        upload: str = "",
        offset: int = 0,
        sha256: str = "",
        validate_only: bool = False,
    ) -> Upload:
        content = self.unfinished.get(upload, b"")[:offset]
        try:
            async for part in parts:
                self.parts_seen.append(len(part))
                content += part
        except ConnectionError:
            self.unfinished[upload] = content
            raise
        if sha256 and hashlib.sha256(content).hexdigest() != sha256:
            raise InvalidArgument.of("sha256", "is another")
        if not validate_only:
            self.uploads.append(content)
        return Upload(f"hash of {content[:20]!r}", len(content))

    async def received(self, upload: str) -> int:
        return len(self.unfinished[upload])


def document_deletions(
    store: RegistryStore, index: Index, jobs: Jobs, limits: Quotas | None = None, *, retention: timedelta = WEEK
) -> DocumentDeletions:
    imports = Imports(DocumentWriter(store, index), jobs)
    return DocumentDeletions(store, index, imports, limits or quotas(store), retention=retention)


def collection_deletions(
    store: RegistryStore, index: Index, registry: Registry, limits: Quotas | None = None, *, retention: timedelta = WEEK
) -> CollectionDeletions:
    return CollectionDeletions(store, index, limits or quotas(store), registry.announce, retention=retention)


def upkeep_of(
    store: RegistryStore,
    index: Index,
    registry: Registry,
    trail: Trail | None = None,
    jobs: Jobs | None = None,
    *,
    retention: timedelta = AT_ONCE,
) -> Upkeep:
    whole = collection_deletions(store, index, registry, retention=retention)
    writer = DocumentWriter(store, index)
    return Upkeep(store, whole, writer, Imports(writer, jobs or FakeJobs()), trail or FakeTrail())
