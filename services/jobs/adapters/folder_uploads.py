"""What has come of uploads that were cut off: files `<tenant>.<upload>.<begin>.<random>`, each a stretch of the bytes.

Every call writes a file of its own, so that one that is late, its client long gone on with another, disturbs nobody.
How far an upload has come is how far its stretches reach from the first byte on without a gap.
"""

import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from services.jobs.blobs import PIECE_BYTES
from services.mesh.errors import UploadOffsetInvalid

# Most uploads of a tenant; and stretches of one, which become one stretch then.
_MAX_UPLOADS: Final = 16
_MAX_STRETCHES: Final = 64


@dataclass(frozen=True)
class Stretch:
    """Bytes of an upload from `begin` on, open while a call brings them. May be written from any thread, also twice."""

    path: Path
    begin: int
    file: int

    def write(self, at: int, piece: bytes) -> None:
        """The bytes at that offset of the whole."""
        view = memoryview(piece)
        while view:
            written = os.pwrite(self.file, view, at - self.begin)
            at, view = at + written, view[written:]

    def close(self) -> None:
        os.close(self.file)


class FolderUploads:
    """Blocking; the names it is given are plain, as `key_part` makes them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def begin(self, tenant: str, upload: str, offset: int) -> Stretch:
        """Raises UploadOffsetInvalid where less has come than that."""
        self._make_room(tenant, upload)
        received = self.received(tenant, upload)
        if offset > received:
            raise _too_far(received)
        return self._opened(tenant, upload, offset)

    def received(self, tenant: str, upload: str) -> int:
        return max((end for _, _, end in self._way(tenant, upload)), default=0)

    def read(self, tenant: str, upload: str, until: int) -> Iterator[bytes]:
        """The first `until` bytes in pieces.

        Raises:
            UploadOffsetInvalid: they are not there any more: another call has ended the upload.
        """
        at = 0
        for path, begin, end in self._way(tenant, upload):
            with suppress(FileNotFoundError), path.open("rb") as file:
                file.seek(at - begin)
                while at < min(end, until) and (piece := file.read(min(PIECE_BYTES, end - at, until - at))):
                    at += len(piece)
                    yield piece
        if at < until:
            raise _too_far(self.received(tenant, upload))

    def keep(self, tenant: str, upload: str, stretch: Stretch) -> None:
        """After the call that brought it was cut off; those that it holds too are dropped."""
        end = stretch.begin + os.fstat(stretch.file).st_size
        if end == stretch.begin:
            stretch.path.unlink(missing_ok=True)
            return
        for path, begin, other_end in self._stretches(tenant, upload):
            if path != stretch.path and stretch.begin <= begin and other_end <= end:
                path.unlink(missing_ok=True)

    def drop(self, tenant: str, upload: str) -> None:
        for path, _, _ in self._stretches(tenant, upload):
            path.unlink(missing_ok=True)

    def sweep(self, idle_s: float) -> int:
        """Drops what nobody has gone on with for so long; returns how many files that were."""
        swept = 0
        for path in self._folder.iterdir():
            with suppress(FileNotFoundError):
                if path.stat().st_mtime < time.time() - idle_s:
                    path.unlink()
                    swept += 1
        return swept

    def _make_room(self, tenant: str, upload: str) -> None:
        last: defaultdict[str, float] = defaultdict(float)
        count = 0
        for path in self._folder.glob(f"{tenant}.*"):
            named = path.name.split(".")[1]
            count += named == upload
            with suppress(FileNotFoundError):
                last[named] = max(last[named], path.stat().st_mtime)
        if count >= _MAX_STRETCHES:
            self._join(tenant, upload)
        if upload not in last and len(last) >= _MAX_UPLOADS:
            self.drop(tenant, min(last, key=lambda name: last[name]))

    def _opened(self, tenant: str, upload: str, begin: int) -> Stretch:
        file, name = tempfile.mkstemp(prefix=f"{tenant}.{upload}.{begin}.", dir=self._folder)
        return Stretch(Path(name), begin, file)

    def _join(self, tenant: str, upload: str) -> None:
        whole, at = self._opened(tenant, upload, 0), 0
        try:
            for piece in self.read(tenant, upload, self.received(tenant, upload)):
                whole.write(at, piece)
                at += len(piece)
            self.keep(tenant, upload, whole)
        finally:
            whole.close()

    def _stretches(self, tenant: str, upload: str) -> list[tuple[Path, int, int]]:
        """Each with where it begins and ends."""
        found = []
        for path in self._folder.glob(f"{tenant}.{upload}.*"):
            begin = int(path.name.split(".")[2])
            with suppress(FileNotFoundError):
                found.append((path, begin, begin + path.stat().st_size))
        return sorted(found, key=lambda each: each[1])

    def _way(self, tenant: str, upload: str) -> Iterator[tuple[Path, int, int]]:
        """The stretches that lead from the first byte on without a gap, each reaching further than the one before."""
        at = 0
        for path, begin, end in self._stretches(tenant, upload):
            if begin <= at < end:
                yield path, begin, end
                at = end


def _too_far(received: int) -> UploadOffsetInvalid:
    return UploadOffsetInvalid(
        f"offset: {received} bytes have arrived, so the upload goes on there", received_bytes=str(received)
    )
