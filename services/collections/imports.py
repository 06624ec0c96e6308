"""Imports of what is recorded already: from the bytes as they were stored."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from services.collections.document_writer import DocumentWriter, still
from services.collections.ports import Jobs, Upload
from services.collections.records import Collection, Document, new_etag, now
from services.mesh.errors import DomainError, UploadNotFound
from services.mesh.receipts import REQUEST_TTL
from services.mesh.status import status_of

# Jobs know every import at least this long: half of the time that request ids are kept.
_REMEMBERED: Final = REQUEST_TTL / 2
_NEVER_QUEUED: Final = "its import was never queued, or was cancelled, and its bytes are not kept; create it again"


class Imports:
    """Sees to documents that wait for an import nobody has queued."""

    def __init__(self, writer: DocumentWriter, jobs: Jobs) -> None:
        self._writer = writer
        self._jobs = jobs

    async def again(self, collection: Collection, pending: Document) -> None:
        """Queues the import of a document's stored bytes; where these are gone, it has failed. May be repeated.

        Raises:
            DependencyUnavailable: The jobs service does not answer.
        """
        try:
            await self._jobs.import_document(pending, Upload(pending.content_hash, pending.size_bytes))
        except UploadNotFound as error:
            await self.fail(collection, pending, UploadNotFound(f"{pending.name}: its bytes are gone: {error.message}"))

    async def look_after(self, waiting: Sequence[tuple[Collection, Document]]) -> int:
        """Ends the wait of documents, all of one tenant, that nobody imports; returns how many these are.

        A process that died between recording a document and queueing its import leaves one behind. Its bytes are
        imported if they were stored before; those that were in the request went with it, and the document has failed.
        So it has when jobs may have forgotten the import, as one that was cancelled: that is not to be done after all.

        Raises:
            DependencyUnavailable: The jobs service does not answer.
        """
        known = await self._jobs.find_imports([document for _, document in waiting])
        left = [(collection, document) for collection, document in waiting if document.uid not in known]
        for collection, document in left:
            if document.content_hash and now() - document.update_time < _REMEMBERED:
                await self.again(collection, document)
            else:
                await self.fail(collection, document, UploadNotFound(f"{document.name}: {_NEVER_QUEUED}"))
        return len(left)

    async def fail(self, collection: Collection, pending: Document, why: DomainError) -> None:
        """Ends a document's wait with the reason, unless an import has had it meanwhile."""

        def failed(found: Mapping[str, Document]) -> Document:
            latest = still(pending, found)
            if latest.state != "PENDING":
                return latest
            error = status_of(why).SerializeToString()
            return replace(latest, state="FAILED", error=error, update_time=now(), etag=new_etag())

        await self._writer.write(collection, pending.document_id, failed)
