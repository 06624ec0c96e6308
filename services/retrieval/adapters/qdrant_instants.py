"""Timestamps in metadata where Qdrant reads other dates than filters do.

Filters read a strict form (services.mesh.filters.timestamps). Qdrant reads more, such as "2024-5-1", "24-05-01" and
"2024-05-01T10:00:00 UTC", and misses "2024-05-01t10:00:00". A range over metadata cannot tell these apart, so a chunk
whose metadata has any of them carries its true timestamps a second time, in one form, and ranges look there instead.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from services.mesh.filters import instant, timestamp

KEY: Final = "instants"
"""Payload key of the second copy; null or missing where Qdrant reads all texts of the metadata alike."""

# Whatever begins like a date: more than any version of Qdrant, or its client's stand-in for one, takes for one.
_DATE: Final = re.compile(r"\s*[+\-\u2212]?\d+\s*-\s*\d+\s*-\s*\d")
_NO_OFFSET: Final = re.compile(r".*t\d\d:\d\d:\d\d(?:\.\d+)?")


def instants_of(metadata: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a chunk with this metadata carries under KEY."""
    return _instants(metadata) if any(map(_misread, metadata.values())) else None


def _misread(value: Any) -> bool:
    match value:
        case str():
            if _DATE.match(value) is None:
                return False
            return instant(value) is None or _NO_OFFSET.fullmatch(value) is not None
        case Mapping():
            return any(map(_misread, value.values()))
        case list():
            return any(map(_misread, value))
    return False


def _instants(metadata: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: _kept(value) for key, value in metadata.items()}
    return {key: value for key, value in kept.items() if value is not None}


def _kept(value: Any) -> Any:
    match value:
        case str():
            moment = instant(value)
            return None if moment is None else timestamp(moment)
        case Mapping():
            return _instants(value)
        case list():  # filters walk neither into lists within lists nor into objects within them
            return [_kept(each) for each in value if isinstance(each, str) and instant(each) is not None]
    return None
