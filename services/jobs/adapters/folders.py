"""Files and their listings over SourceRoots, off the event loop's thread."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from ragweave.names import document_id_from
from services.jobs.job import DirectoryImport, DocumentSpec
from services.jobs.sources import Directory, Selection, SourceRoots
from services.mesh.errors import PathNotAllowed


class Folders:
    """Directories under the allowed roots. A file's document is named by its path from the root: no two share one."""

    def __init__(self, roots: SourceRoots) -> None:
        self._roots = roots

    @classmethod
    def under(cls, roots: Sequence[Path], *, max_file_bytes: int) -> "Folders":
        """Roots that do not exist are made: an empty one is no reason not to start."""
        for root in roots:
            root.mkdir(parents=True, exist_ok=True)
        return cls(SourceRoots(roots, max_file_bytes=max_file_bytes))

    async def resolve(
        self, path: str, include_globs: tuple[str, ...] = (), exclude_globs: tuple[str, ...] = ()
    ) -> DirectoryImport:
        """The directory a caller names.

        Raises:
            PathNotAllowed: outside the roots, through a link, or no such directory.
            InvalidArgument: a glob that is none.
        """
        Selection(include_globs, exclude_globs)
        found = await asyncio.to_thread(self._roots.resolve, path)
        return DirectoryImport(str(found.root), found.path, include_globs, exclude_globs)

    async def read(self, directory: DirectoryImport, path: str) -> bytes:
        return await asyncio.to_thread(self._roots.read, self._allowed(directory), path)

    async def page(self, directory: DirectoryImport, after: str, limit: int) -> tuple[list[DocumentSpec], str | None]:
        selection = Selection(directory.include_globs, directory.exclude_globs)
        allowed = self._allowed(directory)
        page = await asyncio.to_thread(self._roots.list, allowed, selection, after=after, limit=limit)
        found = [self.spec(directory, file.path) for file in page.files]
        found += [self.spec(directory, skipped.path, skipped.reason) for skipped in page.skipped]
        return found, page.after

    @staticmethod
    def spec(directory: DirectoryImport, path: str, refused: str = "") -> DocumentSpec:
        """The document made from a file of the directory."""
        from_root = f"{directory.path}/{path}" if directory.path else path
        return DocumentSpec(document_id_from(from_root), path=path, refused=refused)

    def _allowed(self, directory: DirectoryImport) -> Directory:
        """The directory as recorded with a job; the roots may have changed since."""
        root = Path(directory.root)
        if root not in self._roots.roots:
            raise PathNotAllowed(f"{directory.path or root.name}: not under an allowed root any more")
        return Directory(root, directory.path)
