"""Directories documents may be imported from: resolved, listed and read without ever leaving the allowed roots."""

import re
import stat
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from fnmatch import translate

from services.mesh.beneath import Opener, safest_opener
from services.mesh.errors import InvalidArgument, PathNotAllowed
from services.mesh.folders import Folder, Seen, walk
from services.mesh.paths import MAX_BYTES, names_in, shown
from services.mesh.roots import Place, Root, Roots


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file found in a directory; `path` is relative to that directory, as `shown` spells it."""

    path: str
    size_bytes: int
    modified_ns: int


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file, or a directory, that will not be imported, and why.

    Attributes:
        barred: A directory that may hold what was imported from it before.
    """

    path: str
    reason: str
    barred: bool = False


@dataclass(frozen=True, slots=True)
class SourcePage:
    """Some files of a directory in order; the next page is listed `after` the path here, None after the last."""

    files: list[SourceFile] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    after: str | None = None


class Selection:
    """Which paths are wanted: any include glob matches (or there is none) and no exclude glob does.

    `*` and `?` stay within one part of a path, `**` stands for any number of parts, `[a-z]` for a character. A glob
    without `/` is matched against the name at any depth. An exclude glob that matches a directory leaves out all of it.
    """

    def __init__(self, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> None:
        self._include = [_Glob(glob) for glob in include]
        self._exclude = [_Glob(glob) for glob in exclude]

    def wants(self, path: str) -> bool:
        parts = tuple(path.split("/"))
        return (not self._include or any(glob.matches(parts) for glob in self._include)) and not self.excludes(path)

    def excludes(self, path: str) -> bool:
        parts = tuple(path.split("/"))
        return any(glob.matches(parts) for glob in self._exclude)


class _Glob:
    """A glob, matched part by part in time linear in both: no pattern makes it slow."""

    def __init__(self, glob: str) -> None:
        parts = [part for part in glob.strip("/").split("/") if part not in ("", ".")]
        if not parts or ".." in parts:
            raise InvalidArgument.of("globs", f"{glob!r} is not a relative glob")
        if "/" not in glob.strip("/"):
            parts = ["**", *parts]
        self._parts = [None if part == "**" else re.compile(translate(part)) for part in parts]

    def matches(self, path: tuple[str, ...]) -> bool:
        states = self._reachable({0})
        for part in path:
            states = self._reachable({after for state in states for after in self._step(state, part)})
        return len(self._parts) in states

    def _step(self, state: int, part: str) -> tuple[int, ...]:
        """Where one part of a path leads from here: `**` takes any and stays, another pattern takes what it matches."""
        if state == len(self._parts):
            return ()
        pattern = self._parts[state]
        if pattern is None:
            return (state,)
        return (state + 1,) if pattern.match(part) else ()

    def _reachable(self, states: set[int]) -> set[int]:
        """With the states behind a `**`, which may stand for no part at all."""
        for state in range(len(self._parts)):
            if state in states and self._parts[state] is None:
                states.add(state + 1)
        return states


EVERYTHING = Selection()


class Sources:
    """Directories below the roots. Symbolic links are refused wherever they lead, in every part of a path.

    Everything is opened from the root's own descriptor and judged by what was opened: a path swapped between check and
    use leads nowhere. Blocking, so run it in a thread.

    Args:
        max_file_bytes: Larger files are skipped in listings and refused by `read`.
    """

    def __init__(self, roots: Roots, *, max_file_bytes: int = 50 << 20, opener: Opener | None = None) -> None:
        self._roots = roots
        self._max_file_bytes = max_file_bytes
        self._opener = opener or safest_opener()

    def resolve(self, tenant: str, path: str) -> tuple[Place, str]:
        """The directory a caller names, and the name of the one file in it where the path is a file's.

        Raises:
            PathNotAllowed: outside the tenant's roots, through a link, or neither a directory nor a regular file.
            PathNotFound: nothing is there.
        """
        place = self._roots.place(tenant, path)
        *above, name = place.names or ("",)
        parent = Place(place.root, shown("/".join(above)))
        with Folder.at(parent, self._opener, spelt=place.spelt) as folder:
            found = folder.status(name, place.spelt)
            if stat.S_ISREG(found.st_mode):
                return parent, shown(name)
            with folder.below(name, place.spelt):
                return place, ""

    def root(self, tenant: str, name: str) -> Root:
        """The root of a directory recorded earlier. Raises PathNotAllowed where it is the tenant's no more."""
        return self._roots.named(tenant, name)

    def list(
        self,
        directory: Place,
        selection: Selection = EVERYTHING,
        *,
        after: str = "",
        limit: int = 500,
        hidden: bool = False,
    ) -> SourcePage:
        """The next `limit` files in the order of their paths' parts, those before and at `after` left out.

        Raises:
            PathNotAllowed, PathNotFound: the directory is gone, or became a link.
        """
        page = SourcePage()
        with (
            Folder.at(directory, self._opener) as top,
            closing(
                walk(top, after=names_in(after), hidden=hidden, enters=lambda path: not selection.excludes(path))
            ) as found,
        ):
            for seen in found:
                if not seen.refused and not selection.wants(seen.path):
                    continue
                if reason := self._refused(directory, seen):
                    page.skipped.append(Skipped(seen.path, reason, seen.barred))
                else:
                    page.files.append(SourceFile(seen.path, seen.status.st_size, seen.status.st_mtime_ns))
                if len(page.files) + len(page.skipped) >= limit:
                    return SourcePage(page.files, page.skipped, seen.path)
        return page

    def read(self, directory: Place, path: str) -> bytes:
        """The content of a file of this directory.

        Raises:
            PathNotAllowed: not a regular file reached without links.
            PathNotFound, UnreadableDocument: gone, or access to it denied.
            DocumentTooLarge: over `max_file_bytes`.
        """
        names = names_in(path)
        if path.startswith("/") or not names:
            raise PathNotAllowed(f"{path}: not a file of the directory")
        with Folder.at(directory, self._opener) as folder:
            return folder.read("/".join(names), path, self._max_file_bytes)

    def _refused(self, directory: Place, seen: Seen) -> str:
        """Why a file is left out, or ""."""
        if seen.refused:
            return seen.refused
        if stat.S_ISLNK(seen.status.st_mode):
            return "it is a symbolic link"
        if not stat.S_ISREG(seen.status.st_mode):
            return "it is not a regular file"
        if len(directory.below(seen.path).path.encode()) > MAX_BYTES:
            return f"its path is longer than {MAX_BYTES} bytes"
        if seen.status.st_size > self._max_file_bytes:
            return f"{seen.status.st_size} bytes are over the limit of {self._max_file_bytes}"
        return ""
