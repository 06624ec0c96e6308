"""A tenant's export on disk: a record a line, originals among the lines or as files, each held to its own hash."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import grpc
from google.protobuf import json_format

from ragweave.errors import RagweaveError
from ragweave.v1 import system_service_pb2 as pb

RECORDS = "records.jsonl"
ORIGINALS = "originals"

_PARTIAL = ".partial"
_HASH = re.compile(r"[0-9a-f]{64}")


class BadExport(Exception):
    """An export that is not whole, or an original that is not what its hash says; the message names it."""


def write(records: Iterable[pb.ExportTenantResponse], to: Path) -> Counter[str]:
    """Writes an export as it comes: a file where `to` ends in ".jsonl", else a new folder.

    A file holds every record. A folder holds all but the originals in `records.jsonl`, and each original as a file
    named by its hash in `originals/`. Only its owner may read either. What did not end well keeps the name it was
    written under, which ends in ".partial".

    Returns:
        How many records of each kind there were; "originals" counts whole ones.

    Raises:
        BadExport: The export does not end, or an original is not what its hash says.
        RagweaveError: The server says that it did not end well.
        FileExistsError: There is something at `to`.
    """
    if to.suffix == ".jsonl":
        return _write_file(records, to)
    return _write_folder(records, to)


def verify(path: Path) -> Counter[str]:
    """Reads an export that `write` wrote and checks all of it; see there."""
    if path.is_file():
        with path.open(encoding="utf-8") as lines:
            return _counted(_parsed(lines), _Hashed())
    originals = path / ORIGINALS
    with (path / RECORDS).open(encoding="utf-8") as lines:
        counts = _counted(_parsed(lines), _Hashed())
    for file in sorted(originals.iterdir()):
        with file.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        _check(file.name, digest)
        counts["originals"] += 1
    return counts


def ended(record: pb.ExportTenantResponse) -> bool:
    """Whether it is the last one. Raises RagweaveError where it says that the export did not end well."""
    if not record.HasField("final_status"):
        return False
    status = record.final_status
    if status.code:
        codes = {code.value[0]: code for code in grpc.StatusCode}
        raise RagweaveError(codes.get(status.code, grpc.StatusCode.UNKNOWN), status.message)
    return True


def _write_file(records: Iterable[pb.ExportTenantResponse], to: Path) -> Counter[str]:
    partial = to.with_name(to.name + _PARTIAL)
    if to.exists():
        raise FileExistsError(f"{to} exists already")
    with _private(partial) as lines:
        counts = _counted(_told(records, lines), _Hashed())
    partial.rename(to)
    return counts


def _write_folder(records: Iterable[pb.ExportTenantResponse], to: Path) -> Counter[str]:
    partial = to.with_name(to.name + _PARTIAL)
    if to.exists():
        raise FileExistsError(f"{to} exists already")
    (partial / ORIGINALS).mkdir(mode=0o700, parents=True)
    with _private(partial / RECORDS) as lines, ExitStack() as opened:
        originals = opened.enter_context(_Files(partial / ORIGINALS))
        counts = _counted(_told(records, lines, originals=False), originals)
    partial.rename(to)
    return counts


def _told(
    records: Iterable[pb.ExportTenantResponse], lines: IO[bytes], *, originals: bool = True
) -> Iterator[pb.ExportTenantResponse]:
    """The records, each written down before it is passed on."""
    for record in records:
        if originals or not record.HasField("original_part"):
            lines.write(json_format.MessageToJson(record, indent=None).encode() + b"\n")
        yield record


def _parsed(lines: Iterable[str]) -> Iterator[pb.ExportTenantResponse]:
    for number, line in enumerate(lines, 1):
        try:
            yield json_format.Parse(line, pb.ExportTenantResponse())
        except json_format.ParseError as error:
            raise BadExport(f"line {number} is no record: {error}") from None


class _Hashed:
    """Holds each original to its hash, from its parts."""

    def __init__(self) -> None:
        self._digest: Any = None
        self._offset = 0

    def take(self, part: pb.ExportTenantResponse.OriginalPart) -> bool:
        """Whether the original is whole now. Raises BadExport where it is another, or a part is missing."""
        if not part.offset_bytes:
            self.check_whole()
            self._digest, self._offset = hashlib.sha256(), 0
        if self._digest is None or part.offset_bytes != self._offset:
            raise BadExport(f"original {part.content_hash[:64]} lacks a part at byte {self._offset}")
        self._digest.update(part.data)
        self._offset += len(part.data)
        if part.final:
            _check(part.content_hash, self._digest.hexdigest())
            self._digest = None
        return bool(part.final)

    def check_whole(self) -> None:
        """Raises BadExport where the last original's end is missing."""
        if self._digest is not None:
            raise BadExport(f"an original lacks its end, after byte {self._offset}")


class _Files(_Hashed):
    """Writes each original to a file of its own as well; one that came before is written anew."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self._file: IO[bytes] | None = None

    def __enter__(self) -> "_Files":
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            self._file.close()

    def take(self, part: pb.ExportTenantResponse.OriginalPart) -> bool:
        if not _HASH.fullmatch(part.content_hash):  # it becomes part of a path
            raise BadExport(f"{part.content_hash[:80]!r} is no SHA-256")
        path = self._folder / (part.content_hash + _PARTIAL)
        if self._file is None or not part.offset_bytes:
            self.__exit__()
            self._file = path.open("wb")
        self._file.write(part.data)
        whole = super().take(part)
        if whole:
            self._file.close()
            self._file = None
            path.rename(self._folder / part.content_hash)
        return whole


def _counted(records: Iterable[pb.ExportTenantResponse], originals: _Hashed) -> Counter[str]:
    counts: Counter[str] = Counter()
    for record in records:
        if ended(record):
            originals.check_whole()
            return counts
        if record.HasField("original_part"):
            counts["originals"] += originals.take(record.original_part)
        else:
            counts[f"{record.WhichOneof('record')}s"] += 1
    raise BadExport("the export does not end: what follows the last record is missing")


def _check(content_hash: str, digest: str) -> None:
    if digest != content_hash:
        raise BadExport(f"original {content_hash[:80]} has another content: its SHA-256 is {digest}")


@contextmanager
def _private(path: Path) -> Iterator[IO[bytes]]:
    path.unlink(missing_ok=True)  # of an earlier attempt
    path.touch(mode=0o600, exist_ok=False)
    with path.open("wb") as file:
        yield file
