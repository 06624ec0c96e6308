"""Tenants that were deleted: no restore brings them back."""

import sqlite3
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

DELETED_TENANTS: Final = "SELECT tenant, delete_time FROM tenants"
# As SQLAlchemy writes a time into SQLite.
_STORED: Final = "%Y-%m-%d %H:%M:%S.%f"


def erased_tenants(rows: Iterable[Any]) -> dict[str, str]:
    """When the deletion of each was asked for, ISO 8601 in UTC, from rows of DELETED_TENANTS."""
    return {
        tenant: datetime.strptime(when, _STORED).replace(tzinfo=UTC).isoformat(timespec="microseconds")
        for tenant, when in rows
    }


def merged(*known: Mapping[str, str]) -> dict[str, str]:
    """The last deletion of each tenant that any of them knows."""
    tenants = {tenant for each in known for tenant in each}
    return {tenant: max(each.get(tenant, "") for each in known) for tenant in tenants}


def erased_since(now: Mapping[str, str], then: Mapping[str, str]) -> dict[str, str]:
    """What is known now of deletions that was not known then."""
    return {tenant: when for tenant, when in now.items() if when > then.get(tenant, "")}


def erase_again(database: Path, tenants: Mapping[str, str]) -> None:
    """Has system, when it starts on its database, see the deletion of these tenants through as if it were asked for."""
    connection = sqlite3.connect(database, isolation_level=None)
    try:
        for tenant, when in tenants.items():
            asked_for = datetime.fromisoformat(when).astimezone(UTC).strftime(_STORED)
            connection.execute("DELETE FROM tenants WHERE tenant = ?", (tenant,))
            connection.execute(
                "INSERT INTO tenants (tenant, state, parts, subject, delete_time) VALUES (?, 'DELETING', '[]', ?, ?)",
                (tenant, "restore", asked_for),
            )
    finally:
        connection.close()
