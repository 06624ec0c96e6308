"""Imports of what is recorded already: from the bytes as they were stored."""

from collections.abc import Mapping
from dataclasses import replace

from services.collections.document_writer import DocumentWriter, still
from services.collections.ports import Jobs, Upload
from services.collections.records import Collection, Document, new_etag, now
from services.mesh.errors import DomainError, UploadNotFound
from services.mesh.status import status_of


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

    async def fail(self, collection: Collection, pending: Document, why: DomainError) -> None:
        """Ends a document's wait with the reason, unless an import has had it meanwhile."""

        def failed(found: Mapping[str, Document]) -> Document:
            latest = still(pending, found)
            if latest.state != "PENDING":
                return latest
            error = status_of(why).SerializeToString()
            return replace(latest, state="FAILED", error=error, update_time=now(), etag=new_etag())

        await self._writer.write(collection, pending.document_id, failed)
