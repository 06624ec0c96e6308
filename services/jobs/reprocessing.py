"""One document of a collection, made again from its stored original as the collection now says."""

from collections.abc import Sequence
from contextlib import suppress

from services.jobs.cutting import Cutting
from services.jobs.extraction import ExtractedText
from services.jobs.job import Assignment, DocumentSpec, Failure, ItemChange, Lease, Outcome
from services.jobs.origin import Origin
from services.jobs.pipeline import DocumentImport, Tools
from services.jobs.ports import Collection, DocumentFields, EmbeddedChunk, ImportedDocument, KnownDocument
from services.jobs.ready import READY_TYPE
from services.mesh.errors import CollectionNotFound, DocumentNotFound, OriginalNotFound, UploadNotFound

_NOT_FOUND = 5  # google.rpc.Code
_FAILED_PRECONDITION = 9


class DocumentReprocess(DocumentImport):
    """As an import of the same bytes, but what users may change of the document stays, and a document that was deleted
    meanwhile is not brought back.
    """

    def __init__(self, tools: Tools, lease: Lease, job: Assignment) -> None:
        super().__init__(tools, lease, job)
        self._known_before: KnownDocument | None = None

    async def _import(self) -> Outcome:
        collection = await self._collection()
        await self._locked(collection)
        known = await self._known()
        if known is None or known.pending:
            return await self._left(collection, known)
        self._take(known)
        if known.mime_type == READY_TYPE:
            told = f"{self._name}: its chunks were cut by who sent them, and stay as they are"
            return self._outcome(ItemChange.SKIP, error=Failure(_FAILED_PRECONDITION, "READY_CHUNKS", told))
        with self._timed("read"):
            try:
                content = await self._content()
            except UploadNotFound:
                raise OriginalNotFound(
                    f"{self._name}: its original is not stored (any more); import it again"
                ) from None
        try:
            return await self._made(collection, content, known)
        except DocumentNotFound:
            return await self._left(collection, await self._known())

    async def _left(self, collection: Collection, known: KnownDocument | None) -> Outcome:
        """There is no such document to make again; what was written of the one there was is taken back."""
        revision = await self._take_back(collection, known) if self._written else 0
        told = "its first import has not ended" if known and known.pending else "it was deleted meanwhile"
        failure = Failure(_NOT_FOUND, DocumentNotFound.reason, f"{self._name}: {told}")
        return self._outcome(ItemChange.SKIP, index_revision=revision, error=failure)

    async def _replace(
        self,
        collection: Collection,
        cutting: Cutting,
        known: KnownDocument | None,
        text: ExtractedText,
        chunks: Sequence[EmbeddedChunk],
    ) -> Outcome:
        """A document that is gone by now is not written at all; one that goes this very moment is taken back."""
        latest = await self._known()
        if latest is None or latest.uid != self._uid:
            raise DocumentNotFound(f"{self._name}: it was deleted meanwhile")
        return await super()._replace(collection, cutting, known, text, chunks)

    async def _record_failure(self, failure: Failure) -> None:
        """The error is recorded with the document; it stays searchable as it was."""
        try:
            collection = await self._collection()
        except CollectionNotFound:
            return
        written = self._written
        await self._locked(collection)
        known = await self._known()
        if written:
            await self._take_back(collection, known)
        if known is None or known.pending:
            return
        self._take(known)
        fields = DocumentFields(self._spec, known.title, known.mime_type, known.content_hash, 0, fence=self._fence)
        document = ImportedDocument(fields, known.size_bytes, failure=failure, document_uid=known.uid)
        with suppress(DocumentNotFound):  # deleted meanwhile: nobody looks there for a reason
            await self._write(0, lambda: self._tools.registry.record(collection, document))

    def _take(self, known: KnownDocument) -> None:
        self._known_before = known
        self._spec = spec_of(known)

    @property
    def _fields_hash(self) -> str:
        return self._known_before.fields_hash if self._known_before else ""

    @property
    def _uid(self) -> str:
        return self._known_before.uid if self._known_before else ""

    def _titled(self, found: str) -> str:
        return self._known_before.title if self._known_before else super()._titled(found)


def spec_of(known: KnownDocument) -> DocumentSpec:
    """The document as its import had it, with the fields it has now; a title that was found is found again."""
    origin = Origin.unpacked(known.origin) or Origin(known.mime_type, titled=True)
    return DocumentSpec(
        known.document_id,
        source_uri=known.source_uri,
        title=known.title if origin.titled else "",
        mime_type=origin.mime_type,
        charset=origin.charset,
        metadata=known.metadata,
        principals=known.principals,
        content_hash=known.content_hash,
    )
