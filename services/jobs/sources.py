"""Directories documents may be imported from: resolved, listed and read without ever leaving the allowed roots."""

import os
import re
import stat
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from fnmatch import translate
from pathlib import Path, PurePosixPath

from services.mesh.errors import DocumentTooLarge, InvalidArgument, PathNotAllowed, UnreadableDocument

_MAX_DEPTH = 64
_READ_BYTES = 1 << 20
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

_UNSHOWABLE = "its name is not valid UTF-8 or holds control characters"

# A component is opened without following a link, and a pipe or terminal without waiting for its other end.
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Directory:
    """A place under an allowed root; `path` is relative to the root, "" being the root itself."""

    root: Path
    path: str


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file found in a directory; `path` is relative to that directory, with `/` between its parts."""

    path: str
    size_bytes: int
    modified_ns: int


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that will not be imported, and why; bytes of its name that are no UTF-8 are shown escaped."""

    path: str
    reason: str


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


class SourceRoots:
    """The allowed roots. Symbolic links are refused wherever they lead, in every part of a path.

    Everything is opened part by part from the root's own descriptor with O_NOFOLLOW, and judged by what was opened: a
    path swapped between check and use leads nowhere. Blocking, so run it in a thread.

    Args:
        roots: Existing directories; relative ones count from the working directory.
        max_file_bytes: Larger files are skipped in listings and refused by `read`.
    """

    def __init__(self, roots: Sequence[Path], *, max_file_bytes: int = 50 << 20) -> None:
        self.roots = tuple(Path(os.path.realpath(root)) for root in roots)
        self._max_file_bytes = max_file_bytes

    def resolve(self, path: str) -> Directory:
        """The directory a caller names: relative to an allowed root (the first that has it), or absolute under one.

        Raises:
            PathNotAllowed: outside the roots, through a link, or no such directory.
        """
        parts = _parts(path)
        if path.startswith("/"):
            candidates = [
                Directory(root, "/".join(parts[len(root.parts) - 1 :]))
                for root in self.roots
                if parts[: len(root.parts) - 1] == root.parts[1:]
            ]
            if not candidates:
                raise PathNotAllowed(f"{path}: not under an allowed root")
        else:
            candidates = [Directory(root, "/".join(parts)) for root in self.roots]
        for candidate in candidates:
            try:
                os.close(self._descend(candidate.root, _parts(candidate.path), path))
            except FileNotFoundError:
                continue
            return candidate
        raise PathNotAllowed(f"{path}: no such directory under an allowed root")

    def list(
        self,
        directory: Directory,
        selection: Selection = EVERYTHING,
        *,
        after: str = "",
        limit: int = 500,
        hidden: bool = False,
    ) -> SourcePage:
        """The next `limit` files in the order of their paths' parts, those before and at `after` left out.

        Raises:
            PathNotAllowed: the directory is gone, or became a link.
        """
        page = SourcePage()
        past = tuple(after.split("/")) if after else ()
        top = self._open_directory(directory)
        with closing(self._walk(top, (), past, selection, hidden)) as walk:
            for found in walk:
                if isinstance(found, SourceFile):
                    page.files.append(found)
                else:
                    page.skipped.append(found)
                # A page never ends at a name that is only shown escaped: no other could go on after it.
                nameless = isinstance(found, Skipped) and found.reason is _UNSHOWABLE
                if len(page.files) + len(page.skipped) >= limit and not nameless:
                    return SourcePage(page.files, page.skipped, found.path)
        return page

    def read(self, directory: Directory, path: str) -> bytes:
        """The content of a file of this directory.

        Raises:
            PathNotAllowed: not a regular file reached without links.
            UnreadableDocument: gone, or access to it denied.
            DocumentTooLarge: over `max_file_bytes`.
        """
        *folders, name = _parts(path) or ("",)
        try:
            folder = self._descend(directory.root, (*_parts(directory.path), *folders), path)
            try:
                descriptor = os.open(name, _OPEN, dir_fd=folder)
            finally:
                os.close(folder)
        except FileNotFoundError:
            raise UnreadableDocument(f"{path}: the file is gone") from None
        except PermissionError:
            raise UnreadableDocument(f"{path}: access denied") from None
        except OSError:  # a link (ELOOP), a socket (ENXIO), a name too long
            raise PathNotAllowed(f"{path}: not a regular file") from None
        content = bytearray()
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise PathNotAllowed(f"{path}: not a regular file")
            while len(content) <= self._max_file_bytes and (piece := os.read(descriptor, _READ_BYTES)):
                content += piece
        finally:
            os.close(descriptor)
        if len(content) > self._max_file_bytes:
            raise DocumentTooLarge(f"{path}: over the limit of {self._max_file_bytes} bytes")
        return bytes(content)

    def _open_directory(self, directory: Directory) -> int:
        try:
            return self._descend(directory.root, _parts(directory.path), directory.path)
        except FileNotFoundError:
            raise PathNotAllowed(f"{directory.path or directory.root.name}: the directory is gone") from None

    def _descend(self, root: Path, parts: Sequence[str], shown: str) -> int:
        """A descriptor of the directory so many parts below the root.

        Raises:
            FileNotFoundError: a part is missing.
            PathNotAllowed: a part is a link, or no directory.
        """
        try:
            current = os.open(root, _OPEN | os.O_DIRECTORY)
        except OSError:
            raise FileNotFoundError(root) from None
        for part in parts:
            try:
                below = os.open(part, _OPEN | os.O_DIRECTORY, dir_fd=current)
            except FileNotFoundError:
                raise
            except OSError:
                raise PathNotAllowed(f"{shown}: {part} is not a directory that may be entered") from None
            finally:
                os.close(current)
            current = below
        return current

    def _walk(
        self, folder: int, above: tuple[str, ...], past: tuple[str, ...], selection: Selection, hidden: bool
    ) -> Generator[SourceFile | Skipped, None, None]:
        """Files below an open directory, closed at the end; `past` is what remains of the path to go on after."""
        try:
            for name in sorted(os.listdir(folder)):
                at_checkpoint = bool(past) and name == past[0]
                if (past and name < past[0]) or (at_checkpoint and len(past) == 1):
                    continue
                if name.startswith(".") and not hidden:
                    continue
                below = past[1:] if at_checkpoint else ()
                yield from self._entry(folder, (*above, name), below, selection, hidden)
        finally:
            os.close(folder)

    def _entry(
        self, folder: int, parts: tuple[str, ...], past: tuple[str, ...], selection: Selection, hidden: bool
    ) -> Generator[SourceFile | Skipped, None, None]:
        """One name of an open directory: the file, why it is skipped, or what lies below it."""
        path = "/".join(parts)
        try:
            found = os.stat(parts[-1], dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return
        if stat.S_ISDIR(found.st_mode):
            if not selection.excludes(path):
                yield from self._below(folder, parts, past, selection, hidden)
        elif not past and selection.wants(path):
            if reason := self._refused(path, found):
                yield Skipped(_shown(path), reason)
            else:
                yield SourceFile(path, found.st_size, found.st_mtime_ns)

    def _below(
        self, folder: int, parts: tuple[str, ...], past: tuple[str, ...], selection: Selection, hidden: bool
    ) -> Generator[SourceFile | Skipped, None, None]:
        path = "/".join(parts)
        if _shown(path) != path:
            yield Skipped(_shown(path), _UNSHOWABLE)
        elif len(parts) > _MAX_DEPTH:
            yield Skipped(path, f"nested deeper than {_MAX_DEPTH} directories")
        else:
            try:
                below = os.open(parts[-1], _OPEN | os.O_DIRECTORY, dir_fd=folder)
            except OSError:
                yield Skipped(path, "the directory cannot be entered")
            else:
                yield from self._walk(below, parts, past, selection, hidden)

    def _refused(self, path: str, found: os.stat_result) -> str:
        """Why a file is left out, or ""."""
        if stat.S_ISLNK(found.st_mode):
            return "it is a symbolic link"
        if not stat.S_ISREG(found.st_mode):
            return "it is not a regular file"
        if _shown(path) != path:
            return _UNSHOWABLE
        if found.st_size > self._max_file_bytes:
            return f"{found.st_size} bytes are over the limit of {self._max_file_bytes}"
        return ""


def _parts(path: str) -> tuple[str, ...]:
    """The parts of a path, in either form.

    Raises:
        PathNotAllowed: `..`, or a character no file name may hold.
    """
    parts = PurePosixPath(path.lstrip("/")).parts
    if ".." in parts:
        raise PathNotAllowed(f"{path}: '..' is not allowed in a path")
    if _shown(path) != path:
        raise PathNotAllowed(f"{_shown(path)}: control characters are not allowed in a path")
    return parts


def _shown(path: str) -> str:
    """A path as it may be shown: bytes that are no UTF-8, and control characters, escaped."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
