"""Folders below a root, listed and read through their descriptors: no path is ever joined and opened again."""

import errno
import heapq
import os
import stat
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from services.mesh.beneath import Opener, safest_opener
from services.mesh.errors import (
    DependencyUnavailable,
    DocumentTooLarge,
    PathNotAllowed,
    PathNotFound,
    UnreadableDocument,
)
from services.mesh.paths import MAX_BYTES, legible, shown
from services.mesh.roots import Place

MAX_DEPTH: Final = 64

_PIECE_BYTES: Final = 1 << 20
# Names held in memory at a time, however many a folder has.
_NAMES: Final = 10_000
# Says that the machine is at its limits or a disk fails, not that the path is wrong.
_TROUBLE: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.ESTALE, errno.ETIMEDOUT})


class Folder:
    """An open folder. What it is was decided when it was opened; renaming or linking its path leads nowhere else."""

    def __init__(self, descriptor: int, opener: Opener) -> None:
        self._descriptor = descriptor
        self._open = opener

    @classmethod
    def at(cls, place: Place, opener: Opener | None = None, *, spelt: str = "") -> Self:
        """The folder at a place; errors name it as `spelt` where something in it was asked for.

        Raises:
            PathNotFound: there is nothing.
            PathNotAllowed: a link is on the way, or it is no folder, or may not be entered.
            DependencyUnavailable: the file system fails.
        """
        opener = opener or safest_opener()
        spelt = spelt or place.spelt
        # Where the root itself is a link, whoever set it so meant what it leads to; below that none is followed.
        top = os.path.realpath(place.root.path)
        system = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with _refusing(spelt):
                root = opener(system, top.lstrip("/"), os.O_RDONLY | os.O_DIRECTORY)
        finally:
            os.close(system)
        with cls(root, opener) as folder:
            return folder.below("/".join(place.names), spelt)

    def below(self, path: str, spelt: str = "") -> Self:
        """A folder in this one, "" being itself again; raises as `at` does, naming it as `spelt`."""
        with _refusing(spelt or shown(path)):
            return type(self)(self._open(self._descriptor, path, os.O_RDONLY | os.O_DIRECTORY), self._open)

    def status(self, name: str, spelt: str = "") -> os.stat_result:
        """What a name of this folder stands for, links unfollowed; the folder itself for "". Raises as `at` does."""
        with _refusing(spelt or shown(name)):
            if not name:
                return os.fstat(self._descriptor)
            return os.stat(name, dir_fd=self._descriptor, follow_symlinks=False)

    def scan(self) -> Iterator[str]:
        """Its names in no order, a few in memory at a time."""
        with _refusing("the folder"), os.scandir(self._descriptor) as entries:
            for entry in entries:
                yield entry.name

    def names(self, start: str = "") -> Iterator[str]:
        """Its names in order, from `start` on; those of a huge folder are looked for several times, never all held."""
        while True:
            found = heapq.nsmallest(_NAMES, (name for name in self.scan() if name >= start))
            yield from found
            if len(found) < _NAMES:
                return
            start = found[-1] + "\0"

    def read(self, path: str, spelt: str, max_bytes: int) -> bytes:
        """The content of a regular file below.

        Raises:
            PathNotAllowed: it is none, or a link is on the way.
            UnreadableDocument: gone, or access to it denied.
            DocumentTooLarge: over `max_bytes`.
        """
        content = self.begin(path, spelt, max_bytes + 1)
        if len(content) > max_bytes:
            raise DocumentTooLarge(f"{legible(spelt)}: over the limit of {max_bytes} bytes")
        return content

    def begin(self, path: str, spelt: str, most: int) -> bytes:
        """The first bytes of a regular file below, at most so many; raises as `read` does."""
        descriptor = self._regular(path, spelt)
        content = bytearray()
        try:
            while len(content) < most and (piece := os.read(descriptor, min(_PIECE_BYTES, most - len(content)))):
                content += piece
        except OSError:
            raise UnreadableDocument(f"{legible(spelt)}: it cannot be read") from None
        finally:
            os.close(descriptor)
        return bytes(content)

    def _regular(self, path: str, spelt: str) -> int:
        try:
            descriptor = self._open(self._descriptor, path, os.O_RDONLY)
        except FileNotFoundError:
            raise UnreadableDocument(f"{legible(spelt)}: the file is gone") from None
        except PermissionError:
            raise UnreadableDocument(f"{legible(spelt)}: access denied") from None
        except OSError as error:
            if error.errno in _TROUBLE:
                raise _unavailable(spelt, error) from None
            raise PathNotAllowed(f"{legible(spelt)}: not a regular file") from None  # a link, a socket, a name too long
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return descriptor
        os.close(descriptor)
        raise PathNotAllowed(f"{legible(spelt)}: not a regular file")

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class Seen:
    """Something a walk came by.

    Attributes:
        path: From where the walk began, as `shown` spells it.
        folder: The open folder it is in, until the walk goes on; its name there is `name`.
        status: What it is, links unfollowed.
        refused: Why the walk does not go into it, where it is a folder and cannot be gone into.
        barred: It may hold what was seen in it before.
    """

    path: str
    folder: Folder
    name: str
    status: os.stat_result
    refused: str = ""
    barred: bool = False


def walk(
    top: Folder,
    *,
    after: tuple[str, ...] = (),
    hidden: bool = False,
    enters: Callable[[str], bool] = lambda path: True,
) -> Generator[Seen, None, None]:
    """All that is below a folder but the folders gone into, in the order of their paths' parts.

    Args:
        after: Names of a path to go on after; it need not exist any more.
        hidden: Whether names that begin with a dot count.
        enters: Whether to go into a folder, by its path; one that is not gone into is not seen at all.
    """
    return _Walk(hidden, enters).through(top, (), after)


class _Walk:
    def __init__(self, hidden: bool, enters: Callable[[str], bool]) -> None:
        self._hidden = hidden
        self._enters = enters

    def through(self, folder: Folder, above: tuple[str, ...], past: tuple[str, ...]) -> Generator[Seen, None, None]:
        for name in folder.names(past[0] if past else ""):
            at_checkpoint = bool(past) and name == past[0]
            if (at_checkpoint and len(past) == 1) or (name.startswith(".") and not self._hidden):
                continue
            below = past[1:] if at_checkpoint else ()
            # Gone since it was listed: nothing to see.
            with suppress(PathNotFound):
                status = folder.status(name)
                seen = Seen(shown("/".join((*above, name))), folder, name, status)
                if stat.S_ISDIR(status.st_mode):
                    yield from self._into(seen, (*above, name), below)
                elif not below:
                    yield seen

    def _into(self, seen: Seen, names: tuple[str, ...], past: tuple[str, ...]) -> Generator[Seen, None, None]:
        if not self._enters(seen.path):
            return
        refused, barred = "", False
        if len(names) > MAX_DEPTH:
            refused = f"nested deeper than {MAX_DEPTH} directories"
        elif len(seen.path.encode()) > MAX_BYTES:
            refused = f"its path is longer than {MAX_BYTES} bytes"
        if not refused:
            try:
                below = seen.folder.below(seen.name)
            except PathNotAllowed:
                refused, barred = "the directory cannot be entered", True
            else:
                with below:
                    yield from self.through(below, names, past)
                return
        yield Seen(seen.path, seen.folder, seen.name, seen.status, refused, barred)


@contextmanager
def _refusing(spelt: str) -> Iterator[None]:
    """The system's errors as the caller may see them; what the path leads to is in none of them."""
    try:
        yield
    except FileNotFoundError:
        raise PathNotFound(f"{legible(spelt)}: there is no such file or directory") from None
    except OSError as error:
        if error.errno in _TROUBLE:
            raise _unavailable(spelt, error) from None
        raise PathNotAllowed(f"{legible(spelt)}: not a directory that may be entered") from None


def _unavailable(spelt: str, error: OSError) -> DependencyUnavailable:
    code = errno.errorcode.get(error.errno or 0, "?")
    return DependencyUnavailable(f"{legible(spelt)}: the file system does not answer ({code})")
