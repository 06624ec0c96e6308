"""What a folder of the server holds, as imports see it; nothing here reads or writes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from services.mesh.filters import Field, FieldType, Schema
from services.mesh.lists import Listing
from services.mesh.media_types import problem_by_look, type_by_name


class Kind(StrEnum):
    FILE = "FILE"
    DIRECTORY = "DIRECTORY"
    SYMLINK = "SYMLINK"
    OTHER = "OTHER"


@dataclass(frozen=True, slots=True)
class FoundRoot:
    """A root of the tenant; `path` as requests write it, and why it cannot be read, or ""."""

    name: str
    path: str
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """Something in a folder.

    Attributes:
        path: As requests write it.
        size_bytes: None for all but files.
        mime_type: By its name; "" where that tells nothing.
        problem: Why an import would leave it out, or "".
    """

    path: str
    kind: Kind
    size_bytes: int | None
    update_time: datetime
    mime_type: str = ""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """What an import of a path would come upon; `entry` is None where there is nothing."""

    entry: Entry | None
    importable_files: int
    problem: str = ""


ROOTS: Final = Listing(Schema({"path": Field(FieldType.STRING, ordered=True)}), sortable=("path",), key="path")
ENTRIES: Final = Listing(
    Schema(
        {
            "path": Field(FieldType.STRING, ordered=True),
            "size_bytes": Field(FieldType.NUMBER),
            "update_time": Field(FieldType.TIMESTAMP),
        }
    ),
    sortable=("path", "size_bytes", "update_time"),
    key="path",
)


def root_fields(root: FoundRoot) -> Mapping[str, Any]:
    return {"path": root.path}


def problem_of_file(name: str, size_bytes: int, max_bytes: int, begin: Callable[[], bytes]) -> str:
    """Why an import leaves a regular file out, or "".

    Args:
        begin: Reads its first bytes; called where its name tells nothing.
    """
    if size_bytes > max_bytes:
        return f"{size_bytes} bytes are over the limit of {max_bytes}"
    if not size_bytes:
        return "it is empty"
    return "" if type_by_name(name) else problem_by_look(begin())
