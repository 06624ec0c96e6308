"""The folders of the server a tenant may import from: what they hold, before an import is asked for."""

from typing import Any, Final

from services.collections.entries import ENTRIES, ROOTS, Entry, Finding, FoundRoot, Kind, root_fields
from services.collections.ports import Folders, Places
from services.collections.records import Source
from services.mesh.errors import InvalidArgument, PathNotAllowed, PathNotFound, Violation
from services.mesh.identity import Caller
from services.mesh.lists import Page, paginate
from services.mesh.paths import legible

_NOTHING: Final = "there is no file in it that an import would take"
_NOTHING_YET: Final = "it holds so much that no file an import would take was found in time; look at a folder in it"


class Directories:
    """Looks for a caller into the roots of its tenant, and nowhere else."""

    def __init__(self, folders: Folders) -> None:
        self._folders = folders

    async def roots(self, who: Caller, **asked: Any) -> Page[FoundRoot]:
        """A page of the tenant's roots; `asked` as `Listing.query` takes it."""
        query = ROOTS.query(parent=who.tenant, **asked)
        return paginate(await self._folders.roots(who.tenant), query, root_fields)

    async def list(self, path: str, who: Caller, *, hidden: bool = False, **asked: Any) -> Page[Entry]:
        """A page of a folder's entries; `asked` as `Listing.query` takes it.

        Raises:
            PathNotAllowed: Outside the roots, through a link, or no folder.
            PathNotFound: Nothing is there.
            FailedPrecondition: It holds more than can be looked through.
        """
        query = ENTRIES.query(parent=f"{who.tenant}/{path}/{hidden}", **asked)
        try:
            return await self._folders.entries(who.tenant, path, query, hidden=hidden)
        except PathNotAllowed as error:
            raise _named(error) from None

    async def validate(self, path: str, who: Caller) -> Finding:
        """What an import of the path would come upon. Raises PathNotAllowed: outside the roots, or through a link."""
        try:
            entry = await self._folders.look(who.tenant, path)
            if entry.kind is not Kind.DIRECTORY:
                return Finding(entry, 0 if entry.problem else 1, entry.problem)
            count, whole = await self._folders.count(who.tenant, path)
        except PathNotFound as error:
            return Finding(None, 0, error.message)
        except PathNotAllowed as error:
            raise _named(error) from None
        return Finding(entry, count, "" if count else _NOTHING if whole else _NOTHING_YET)


async def check_source(places: Places, tenant: str, source: Source, before: Source | None = None) -> None:
    """Refuses a source that could not be followed. One that is not to be followed by itself may come to be there later.

    Args:
        before: The source so far. Where that has the same directory, a change that ends following it is taken whatever
            has become of it.

    Raises:
        InvalidArgument: The directory is none the tenant may import from; or nothing, or no directory, is there.
    """
    try:
        if source.auto_sync:
            entry = await places.look(tenant, source.directory)
            if entry.kind is not Kind.DIRECTORY:
                raise PathNotAllowed(f"{legible(source.directory)}: it is not a directory")
        elif before is None or before.directory != source.directory:
            await places.admit(tenant, source.directory)
    except (PathNotAllowed, PathNotFound) as error:
        raise InvalidArgument.of("collection.source.directory", error.message) from None


def _named(error: PathNotAllowed) -> PathNotAllowed:
    return PathNotAllowed(f"path: {error.message}", violations=[Violation("path", error.message)])
