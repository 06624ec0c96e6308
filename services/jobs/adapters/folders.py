"""Files and their listings over Sources, off the event loop's thread."""

import asyncio
import hashlib
from dataclasses import replace

from ragweave.names import document_id_from
from services.jobs.job import DirectoryImport, DocumentSpec
from services.jobs.sources import Selection, Sources
from services.mesh.roots import Place

_LISTED_AT_ONCE = 2000


class Folders:
    """Directories under the tenants' roots. A file's document is named by its path from the root: no two share one."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    async def resolve(self, tenant: str, wanted: DirectoryImport) -> tuple[DirectoryImport, str]:
        """The directory whose path a caller gave, and the name of the one file in it where the path is a file's.

        Raises:
            PathNotAllowed: outside the tenant's roots, or through a link.
            PathNotFound: there is nothing.
            InvalidArgument: a glob that is none.
        """
        Selection(wanted.include_globs, wanted.exclude_globs)
        place, file = await asyncio.to_thread(self._sources.resolve, tenant, wanted.path)
        return replace(wanted, root=place.root.name, path=place.path), file

    async def read(self, tenant: str, directory: DirectoryImport, path: str) -> bytes:
        return await asyncio.to_thread(self._sources.read, self._place(tenant, directory), path)

    async def page(
        self, tenant: str, directory: DirectoryImport, after: str, limit: int
    ) -> tuple[list[DocumentSpec], str | None]:
        selection = Selection(directory.include_globs, directory.exclude_globs)
        place = self._place(tenant, directory)
        page = await asyncio.to_thread(self._sources.list, place, selection, after=after, limit=limit)
        found = [self.spec(directory, file.path) for file in page.files]
        for skipped in page.skipped:
            refused = self.spec(directory, skipped.path, skipped.reason)
            # What is in such a directory cannot be told: an item of no document says so, and nothing has vanished then.
            found.append(replace(refused, document_id="") if skipped.barred else refused)
        return found, page.after

    async def stamp(self, tenant: str, directory: DirectoryImport) -> str:
        selection = Selection(directory.include_globs, directory.exclude_globs)
        place = self._place(tenant, directory)
        found = hashlib.sha256(repr((place.key, directory.include_globs, directory.exclude_globs)).encode())
        after: str | None = ""
        while after is not None:
            page = await asyncio.to_thread(self._sources.list, place, selection, after=after, limit=_LISTED_AT_ONCE)
            for file in page.files:
                found.update(repr((file.path, file.size_bytes, file.modified_ns)).encode())
            for skipped in page.skipped:
                found.update(repr((skipped.path, skipped.reason)).encode())
            after = page.after
        return found.hexdigest()

    def whereabouts(self, tenant: str, directory: DirectoryImport) -> str:
        place = self._place(tenant, directory)
        return str(place.root.path.joinpath(*place.names))

    @staticmethod
    def spec(directory: DirectoryImport, path: str, refused: str = "") -> DocumentSpec:
        """The document made from a file of the directory."""
        return DocumentSpec(document_id_from(directory.key(path)), path=path, refused=refused)

    def _place(self, tenant: str, directory: DirectoryImport) -> Place:
        """The directory as recorded with a job; the roots may have changed since."""
        return Place(self._sources.root(tenant, directory.root), directory.path)
