"""Which fields of a hit are asked for; what is not asked for need not be found out."""

import difflib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from services.mesh.errors import InvalidArgument

HIT_FIELDS: Final = (
    "chunk",
    "document",
    "collection",
    "score",
    "scores",
    "text",
    "highlights",
    "metadata",
    "revision",
    "content_hash",
    "start_offset",
    "end_offset",
    "title",
    "source_uri",
    "section",
    "page_number",
    "mime_type",
    "neighbors",
    "similarity",
    "stitched_text",
)

_METADATA: Final = "metadata"
_MAX_PATHS: Final = 100


@dataclass(frozen=True, slots=True)
class HitMask:
    """The fields of a hit to return.

    Attributes:
        left_out: All other ones, by their names in the contract.
        paths: Below the metadata; empty: all of it.
    """

    left_out: tuple[str, ...] = ()
    paths: tuple[tuple[str, ...], ...] = ()

    def __contains__(self, field: str) -> bool:
        return field not in self.left_out

    def of_metadata(self, metadata: Mapping[str, Any]) -> Mapping[str, Any]:
        """What is asked for of it. REST spells paths in camelCase and sends them in snake_case: both find a key."""
        return _picked(metadata, self.paths) if self.paths else metadata


ALL: Final = HitMask()


def mask_of(paths: Sequence[str]) -> HitMask:
    """The mask of a request's paths: fields of a hit, or keys below its metadata; none, or "*": all.

    Raises:
        InvalidArgument: A path names no field; says which one may be meant.
    """
    if not paths or "*" in paths:
        return ALL
    if len(paths) > _MAX_PATHS:
        raise InvalidArgument.of("read_mask", f"has {len(paths)} paths, at most {_MAX_PATHS}")
    fields: set[str] = set()
    below: set[tuple[str, ...]] = set()
    for path in paths:
        field, _, rest = path.partition(".")
        if field not in HIT_FIELDS or (rest and field != _METADATA) or path.endswith("."):
            raise InvalidArgument.of("read_mask", _unknown(path, field, rest))
        fields.add(field)
        if rest:
            below.add(tuple(rest.split(".")))
    return HitMask(
        left_out=tuple(field for field in HIT_FIELDS if field not in fields),
        paths=() if _METADATA in paths else tuple(sorted(below)),
    )


def _picked(metadata: Mapping[str, Any], paths: Collection[tuple[str, ...]]) -> dict[str, Any]:
    picked: dict[str, Any] = {}
    for key, value in metadata.items():
        below = [path[1:] for path in paths if path[0] in (key, _snake(key))]
        if below and () in below:
            picked[key] = value
        elif below and isinstance(value, Mapping):
            picked[key] = _picked(value, below)
    return picked


def _snake(key: str) -> str:
    return re.sub("[A-Z]", lambda capital: "_" + capital[0].lower(), key)


def _unknown(path: str, field: str, rest: str) -> str:
    shown = f"{path[:80]!r}"
    if field in HIT_FIELDS:
        return f"{shown}: {field} is returned whole; write {field}"
    meant = difflib.get_close_matches(rest if field in ("hit", "hits") else field[:80], HIT_FIELDS, n=1)
    hint = f" (did you mean {meant[0]}?)" if meant else ""
    return f"{shown} names no field of a hit{hint}; fields: {', '.join(HIT_FIELDS)}"
