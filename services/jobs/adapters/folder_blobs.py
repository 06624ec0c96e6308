"""The BlobStore port over a folder: `<tenant>/<aa>/<bb>/<sha256>`, extracted texts beside as `<sha256>.<version>`.

Content is as old as its file; who puts or keeps what is there makes it new.

In place of the folder of an erased tenant there is a file: whoever is late finds no way to write below it.
"""

import asyncio
import hashlib
import json
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import astuple
from dataclasses import fields as fields_of
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

from services.jobs.adapters import folder_rest
from services.jobs.adapters.folder_uploads import FolderUploads, Stretch
from services.jobs.blobs import PIECE_BYTES, Blob, check_content, check_hash, check_size, key_part
from services.jobs.extraction import ExtractedText, Page, Syntax
from services.mesh.disk import writing
from services.mesh.errors import DomainError, TenantDeleted, UploadNotFound

_TEMPORARY = ".incoming"
_UNFINISHED = ".uploads"
_DOOMED = ".erased"
# Beside the content of a tenant whose folder cannot be named as it is: how it is named.
_NAME = "tenant"
_ABANDONED_S = 24 * 3600
# As callers hear of it.
_KEPT = "originals and texts"


class FolderBlobStore:
    """Files written whole or not at all: a temporary file, fsync, rename. Processes may share the folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._incoming = folder / _TEMPORARY
        self._doomed = folder / _DOOMED
        self._unfinished = folder / _UNFINISHED
        self._uploads = FolderUploads(self._unfinished)

    @classmethod
    @asynccontextmanager
    async def open_folder(cls, folder: Path) -> AsyncIterator["FolderBlobStore"]:
        """The store in this folder, made where missing; what crashed writers left a day ago is swept."""
        store = cls(folder)
        await asyncio.to_thread(store._prepare)
        yield store

    async def put(
        self, tenant: str, content: AsyncIterable[bytes], *, max_bytes: int | None = None, sha256: str = ""
    ) -> Blob:
        incoming: _Incoming | None = None
        buffer = bytearray()
        size = 0
        try:
            with writing(_KEPT):
                async for piece in content:
                    size += len(piece)
                    check_size(size, max_bytes)
                    buffer += piece
                    if len(buffer) >= PIECE_BYTES:
                        incoming = await asyncio.to_thread(self._write, tenant, incoming, bytes(buffer))
                        buffer.clear()
                content_hash = await asyncio.to_thread(self._finish, tenant, incoming, bytes(buffer), sha256)
        except BaseException:
            if incoming:
                incoming.discard()
            raise
        return Blob(content_hash, size)

    async def put_upload(
        self,
        tenant: str,
        upload: str,
        offset: int,
        content: AsyncIterable[bytes],
        *,
        max_bytes: int | None = None,
        sha256: str = "",
    ) -> Blob:
        with writing(_KEPT):
            stretch = await asyncio.to_thread(self._begin, tenant, upload, offset)
            buffer, size = bytearray(), offset
            working: asyncio.Future[Any] | None = None
            try:
                async for piece in content:
                    size += len(piece)
                    check_size(size, max_bytes)
                    buffer += piece
                    if len(buffer) >= PIECE_BYTES:
                        working = asyncio.ensure_future(
                            asyncio.to_thread(stretch.write, size - len(buffer), bytes(buffer))
                        )
                        await asyncio.shield(working)
                        buffer.clear()
                working = asyncio.ensure_future(
                    asyncio.to_thread(self._complete, tenant, upload, stretch, size, bytes(buffer), sha256)
                )
                return Blob(await asyncio.shield(working), size)
            except DomainError:
                self._uploads.drop(key_part(tenant), key_part(upload))
                raise
            except BaseException:
                if working:
                    await asyncio.gather(working, return_exceptions=True)
                self._cut(tenant, upload, stretch, size - len(buffer), bytes(buffer))
                raise
            finally:
                stretch.close()

    async def received(self, tenant: str, upload: str) -> int:
        received = await asyncio.to_thread(self._uploads.received, key_part(tenant), key_part(upload))
        if not received:
            raise UploadNotFound(
                f"nothing has arrived of an upload of the request_id {upload[:128]!r}, or it has ended"
            )
        return received

    async def forget_uploads(self, idle_s: float) -> int:
        return await asyncio.to_thread(self._uploads.sweep, idle_s)

    async def open(self, tenant: str, content_hash: str) -> AsyncIterator[bytes]:
        file = await asyncio.to_thread(self._open, tenant, content_hash)
        try:
            while piece := await asyncio.to_thread(file.read, PIECE_BYTES):
                yield piece
        finally:
            file.close()

    async def read(self, tenant: str, content_hash: str) -> bytes:
        def whole() -> bytes:
            with self._open(tenant, content_hash) as file:
                return file.read()

        return await asyncio.to_thread(whole)

    async def part(self, tenant: str, content_hash: str, start: int, length: int) -> bytes:
        def some() -> bytes:
            with self._open(tenant, content_hash) as file:
                file.seek(start)
                return file.read(length)

        return await asyncio.to_thread(some)

    async def keep(self, tenant: str, content_hash: str) -> bool:
        try:
            return await asyncio.to_thread(folder_rest.keep, self._path(tenant, content_hash))
        except UploadNotFound:
            return False

    async def resting(self, part: int, before: datetime) -> AsyncIterator[tuple[str, Sequence[str]]]:
        for tenant, home in await asyncio.to_thread(self._homes):
            found = folder_rest.resting(home / f"{part:02x}", before.timestamp())
            while hashes := await asyncio.to_thread(next, found, None):
                yield tenant, hashes

    async def forget(self, tenant: str, content_hashes: Sequence[str], before: datetime) -> int:
        def forgotten() -> int:
            paths = [self._path(tenant, content_hash) for content_hash in content_hashes]
            return sum(folder_rest.forget(path, before.timestamp()) for path in paths)

        return await asyncio.to_thread(forgotten)

    async def put_text(self, tenant: str, content_hash: str, version: str, text: ExtractedText) -> None:
        path = self._text_path(tenant, content_hash, version)
        fields = {field.name: getattr(text, field.name) for field in fields_of(text)}
        fields |= {"pages": [astuple(page) for page in text.pages], "metadata": dict(text.metadata)}
        packed = json.dumps(fields, ensure_ascii=False).encode()
        with writing(_KEPT):
            await asyncio.to_thread(lambda: self._publish(tenant, self._write(tenant, None, packed), path))

    async def get_text(self, tenant: str, content_hash: str, version: str) -> ExtractedText | None:
        try:
            packed = await asyncio.to_thread(self._text_path(tenant, content_hash, version).read_bytes)
            fields = json.loads(packed)
        except (UploadNotFound, FileNotFoundError, NotADirectoryError, ValueError):
            return None
        fields["syntax"] = Syntax(fields["syntax"])
        fields["pages"] = tuple(Page(*page) for page in fields["pages"])
        fields["metadata"] = MappingProxyType(fields["metadata"])
        return ExtractedText(**fields)

    async def erase(self, tenant: str, limit: int) -> tuple[int, bool]:
        return await asyncio.to_thread(self._erase, key_part(tenant), limit)

    async def admit(self, tenant: str) -> None:
        def open_up() -> None:
            home = self._folder / key_part(tenant)
            if home.is_file():
                home.unlink()
                _sync_folder(self._folder)

        await asyncio.to_thread(open_up)

    def _prepare(self) -> None:
        for folder in (self._incoming, self._doomed, self._unfinished):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for file in self._incoming.iterdir():
            with suppress(FileNotFoundError):
                if file.stat().st_mtime < time.time() - _ABANDONED_S:
                    file.unlink()

    def _path(self, tenant: str, content_hash: str) -> Path:
        content_hash = check_hash(content_hash)
        return self._folder / key_part(tenant) / content_hash[:2] / content_hash[2:4] / content_hash

    def _text_path(self, tenant: str, content_hash: str, version: str) -> Path:
        path = self._path(tenant, content_hash)
        return path.with_name(f"{path.name}.{key_part(version)}")

    def _open(self, tenant: str, content_hash: str) -> BinaryIO:
        try:
            return self._path(tenant, content_hash).open("rb")
        except (FileNotFoundError, NotADirectoryError):
            raise UploadNotFound(f"no stored content is named {content_hash}") from None

    def _erase(self, home_name: str, limit: int) -> tuple[int, bool]:
        self._bar(self._folder / home_name)
        doomed = list(self._doomed.glob(f"{home_name}.*"))
        erased = 0
        coming = (*self._incoming.glob(f"{home_name}.*"), *self._unfinished.glob(f"{home_name}.*"))
        for file in (*coming, *_files_in(doomed)):
            if erased == limit:
                return erased, False
            file.unlink(missing_ok=True)
            erased += 1
        for folder in doomed:
            shutil.rmtree(folder)
        return erased, True

    def _bar(self, home: Path) -> None:
        """Puts a file in the place of a tenant's folder, which moves away whole, and for good."""
        while not home.is_file():
            with suppress(FileNotFoundError):
                home.rename(self._doomed / f"{home.name}.{secrets.token_hex(8)}")
            with suppress(FileExistsError):  # somebody wrote in between: it moves away too
                os.close(os.open(home, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        _sync_folder(self._folder)

    def _write(self, tenant: str, incoming: "_Incoming | None", piece: bytes) -> "_Incoming":
        incoming = incoming or _Incoming(self._incoming, key_part(tenant))
        try:
            incoming.write(piece)
        except OSError:
            incoming.discard()
            raise
        return incoming

    def _homes(self) -> list[tuple[str, Path]]:
        """Tenants and their folders; without tenants that were erased."""
        homes: list[tuple[str, Path]] = []
        for home in self._folder.iterdir():
            with suppress(FileNotFoundError, NotADirectoryError):
                name = home / _NAME
                tenant = name.read_text("utf-8", "surrogatepass") if name.exists() else home.name
                if key_part(tenant) == home.name and home.is_dir():
                    homes.append((tenant, home))
        return homes

    def _publish(self, tenant: str, incoming: "_Incoming", path: Path) -> None:
        try:
            incoming.publish(path)
            name = self._folder / key_part(tenant) / _NAME
            if name.parent.name != tenant and not name.exists():
                self._write(tenant, None, tenant.encode("utf-8", "surrogatepass")).publish(name)
        except OSError as error:
            incoming.discard()
            if isinstance(error, (FileNotFoundError, FileExistsError, NotADirectoryError)):
                self._check_admitted(tenant)
            raise

    def _check_admitted(self, tenant: str) -> None:
        if (self._folder / key_part(tenant)).is_file():
            raise TenantDeleted("the tenant was deleted; nothing is kept for it") from None

    def _begin(self, tenant: str, upload: str, offset: int) -> Stretch:
        stretch = self._uploads.begin(key_part(tenant), key_part(upload), offset)
        try:
            self._check_admitted(tenant)  # either it is seen here, or who erases sees the file
        except TenantDeleted:
            stretch.path.unlink(missing_ok=True)
            stretch.close()
            raise
        return stretch

    def _cut(self, tenant: str, upload: str, stretch: Stretch, at: int, rest: bytes) -> None:
        stretch.write(at, rest)
        self._uploads.keep(key_part(tenant), key_part(upload), stretch)

    def _complete(self, tenant: str, upload: str, stretch: Stretch, size: int, rest: bytes, sha256: str) -> str:
        """All stretches become the content, and go."""
        home, name = key_part(tenant), key_part(upload)
        stretch.write(size - len(rest), rest)
        incoming = self._write(tenant, None, b"")
        try:
            for piece in self._uploads.read(home, name, stretch.begin):
                incoming.write(piece)
            at = stretch.begin
            while at < size:
                piece = os.pread(stretch.file, PIECE_BYTES, at - stretch.begin)
                incoming.write(piece)
                at += len(piece)
        except BaseException:
            incoming.discard()
            raise
        content_hash = self._finish(tenant, incoming, b"", sha256)
        self._uploads.drop(home, name)
        return content_hash

    def _finish(self, tenant: str, incoming: "_Incoming | None", rest: bytes, sha256: str) -> str:
        incoming = self._write(tenant, incoming, rest)
        content_hash = incoming.digest.hexdigest()
        try:
            check_content(content_hash, sha256)
        except DomainError:
            incoming.discard()
            raise
        path = self._path(tenant, content_hash)
        if folder_rest.keep(path):
            incoming.discard()
        else:
            self._publish(tenant, incoming, path)
        return content_hash


class _Incoming:
    """A file on its way in, hashed as it is written; its name begins with that of its tenant's folder."""

    def __init__(self, folder: Path, home_name: str) -> None:
        self.digest = hashlib.sha256()
        descriptor, name = tempfile.mkstemp(prefix=f"{home_name}.", dir=folder)
        self._file = os.fdopen(descriptor, "wb")
        self._path = Path(name)

    def write(self, piece: bytes) -> None:
        self.digest.update(piece)
        self._file.write(piece)

    def publish(self, path: Path) -> None:
        """Under its final name, so that a power cut leaves all of it or nothing."""
        with self._file:
            self._file.flush()
            os.fsync(self._file.fileno())
        made = [folder for folder in (path.parent, *path.parent.parents) if not folder.exists()]
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path.rename(path)
        for folder in {path.parent, *(folder.parent for folder in made)}:
            _sync_folder(folder)

    def discard(self) -> None:
        with suppress(OSError):  # what a full disk did not take is tried once more; the file is closed all the same
            self._file.close()
        self._path.unlink(missing_ok=True)


def _files_in(folders: Iterable[Path]) -> Iterator[Path]:
    for folder in folders:
        for parent, _, names in os.walk(folder):
            yield from (Path(parent, name) for name in names)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
