"""What a backup says of itself: `manifest.json`, written last."""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Self

from ragweave.backups.errors import BackupDamaged
from ragweave.copying import sync_file

MANIFEST: Final = "manifest.json"
FORMAT: Final = 1
_NAME: Final = re.compile(r"\d{8}T\d{6}Z")
_NAME_FORMAT: Final = "%Y%m%dT%H%M%SZ"


def name_at(moment: datetime) -> str:
    """The name of a backup begun then."""
    return moment.astimezone(UTC).strftime(_NAME_FORMAT)


def is_name(text: str) -> bool:
    return _NAME.fullmatch(text) is not None


def time_of(name: str) -> datetime:
    """When a backup of that name was begun."""
    return datetime.strptime(name, _NAME_FORMAT).replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of a backup.

    Attributes:
        sha256: Lower-case hex.
        modified_ns: When what it was copied from was last written.
    """

    bytes: int
    sha256: str
    modified_ns: int = 0


@dataclass(frozen=True, slots=True)
class Collection:
    """A collection as the backup holds it.

    Attributes:
        index_revision: How far its index had come; 0 where the mesh was down.
    """

    uid: str
    tenant: str
    collection: str
    index_revision: int
    documents: int
    chunks: int


@dataclass(frozen=True)
class Manifest:
    """A backup.

    Attributes:
        time: The instant all of it is of, ISO 8601 in UTC.
        version: The release of Ragweave that made it.
        held_s: How long writes waited.
        took_s: How long it took in all.
        disk_bytes: What it takes when it is restored; less than its files' sizes where these have holes.
        copied_bytes: Bytes on disk that it does not share with the backup before.
        parts: What it holds, by name, with the version of its schema.
        left_out: What it does not hold, and who keeps a backup of that.
        erased: Tenants that were known by then to have been deleted, and when that was last asked for.
        files: By path below the backup's folder.
    """

    name: str
    time: str
    version: str
    held_s: float = 0.0
    took_s: float = 0.0
    disk_bytes: int = 0
    copied_bytes: int = 0
    parts: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    collections: tuple[Collection, ...] = ()
    erased: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, Entry] = field(default_factory=dict)
    format: int = FORMAT

    @property
    def moment(self) -> datetime:
        return datetime.fromisoformat(self.time)

    @property
    def bytes(self) -> int:
        """What there is to read of it, holes included."""
        return sum(entry.bytes for entry in self.files.values())

    def store(self, folder: Path) -> None:
        """Writes it into a backup's folder, on disk when it returns."""
        body = json.dumps(asdict(self), sort_keys=True)
        part = folder / f".{MANIFEST}"
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump({"sha256": _digest(body), "manifest": json.loads(body)}, file, sort_keys=True)
            file.flush()
            os.fsync(file.fileno())
        part.rename(folder / MANIFEST)
        sync_file(folder)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """That of a backup's folder.

        Raises:
            BackupDamaged: It is not whole, or of a format this version does not know.
        """
        try:
            written = json.loads((folder / MANIFEST).read_text())
            content: dict[str, Any] = written["manifest"]
            if written["sha256"] != _digest(json.dumps(content, sort_keys=True)):
                raise BackupDamaged(f"{folder.name}: its manifest is not what was written")
            if content["format"] > FORMAT:
                raise BackupDamaged(f"{folder.name}: is of format {content['format']}, made by {content['version']}")
            files = {_inside(path): Entry(**entry) for path, entry in content.pop("files").items()}
            collections = tuple(Collection(**each) for each in content.pop("collections"))
            known = {each.name for each in fields(cls)}
            return cls(
                **{name: value for name, value in content.items() if name in known},
                collections=collections,
                files=files,
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BackupDamaged(f"{folder.name}: its manifest cannot be read ({type(error).__name__})") from None


def _digest(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()


def _inside(path: str) -> str:
    """The path, where it leads nowhere but down. Raises ValueError."""
    if path.startswith("/") or any(part in ("", ".", "..") for part in path.split("/")):
        raise ValueError("leads out of the backup")
    return path
