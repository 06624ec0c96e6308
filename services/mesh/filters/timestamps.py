"""Timestamps as filters read them: a strict subset of RFC 3339 and ISO 8601 that every backend reads alike."""

import re
from datetime import UTC, datetime

# Date alone, or date and time. Digits below the microsecond are cut; the offset is "Z" or "+hh:mm", none means UTC.
_OFFSET = r"(?:[Zz]|[+-](?:0\d|1[0-4]):[0-5]\d)"
INSTANT = re.compile(
    rf"\d{{4}}-\d{{2}}-\d{{2}}(?:[Tt ](?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{{1,9}})?{_OFFSET}?)?", re.ASCII
)


def timestamp(moment: datetime) -> str:
    """The canonical spelling of an instant, in UTC; `instant` reads it."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def instant(text: str) -> datetime | None:
    """The instant that `text` names, in UTC; None where it names none."""
    if INSTANT.fullmatch(text) is None:
        return None
    try:
        moment = datetime.fromisoformat(text.upper())
        return moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
