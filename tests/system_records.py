"""Audit events and revocations for tests, and the system's database on every engine."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from services.mesh.audit import AuditEvent
from services.mesh.deny_list import Denial
from services.mesh.redis import open_redis
from services.mesh.sql import OpenDatabase, sqlite_url
from services.system.adapters.redis_deny_list import RedisDenyList
from services.system.migrations import SYSTEM
from services.system.records import Revocation
from tests.contract.test_registry_store import database

LONG_AGO = datetime(2024, 5, 1, 12, 0, 0, 123456, tzinfo=UTC)
DELETE = "/ragweave.v1.CollectionService/DeleteCollection"


def event(number: int = 0, *, tenant: str = "acme", **fields: Any) -> AuditEvent:
    """A begun event, a second later for each number."""
    made = AuditEvent(
        event_id=f"{number:016x}",
        tenant=tenant,
        event_time=LONG_AGO + timedelta(seconds=number),
        subject="ann",
        service="",
        method=DELETE,
        resource=f"collections/c{number}",
        call_id=f"call-{number}",
        trace_id=f"{number:032x}",
        token_id="token-1",
    )
    return replace(made, **fields)


def revocation(number: int = 0, *, tenant: str = "acme", **fields: Any) -> Revocation:
    """Of subject s0, s1, ..., a second later for each number."""
    made = Revocation(
        tenant=tenant,
        revocation_id=f"r{number}",
        subject=f"s{number}",
        token_id="",
        reason="lost",
        creator="ann",
        create_time=LONG_AGO + timedelta(seconds=number),
        etag=f'"{number}"',
    )
    return replace(made, **fields)


async def publish(url: str, *denials: Denial) -> None:
    """Tells the processes that read the store at `url` who is denied."""
    async with open_redis(url, connections=1) as client:
        await RedisDenyList(client).publish(denials)


@asynccontextmanager
async def system_database(engine: str, request: pytest.FixtureRequest, folder: Path) -> AsyncIterator[OpenDatabase]:
    """The system's database on "sqlite" or "postgresql", empty."""
    if engine == "sqlite":
        async with OpenDatabase.open(sqlite_url(folder / "system" / "system.db"), SYSTEM) as opened:
            yield opened
    else:
        async with (
            database(request.getfixturevalue("postgres_url")) as url,
            OpenDatabase.open(url, SYSTEM) as opened,
        ):
            yield opened
