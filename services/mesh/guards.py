"""What the door of every serving process asks of the world: who is denied, and where mutations are recorded."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from services.mesh.audit import Trail
from services.mesh.audit_trail import AuditTrail
from services.mesh.deny_list import Denials, DenyList
from services.mesh.health import Check
from services.mesh.redis import open_redis
from services.mesh.settings import MeshSettings


@dataclass(frozen=True)
class Guards:
    """See the module.

    Attributes:
        checks: What they cannot work without, by name; as Wiring.checks.
        uses: What they go on without; as Wiring.uses.
    """

    trail: Trail
    denials: Denials
    checks: Mapping[str, Check] = field(default_factory=dict)
    uses: Mapping[str, Check] = field(default_factory=dict)


@asynccontextmanager
async def open_guards(settings: MeshSettings) -> AsyncIterator[Guards]:
    """The guards of a real process, over the mesh's Redis; not ready until the deny list has been read once."""
    async with AuditTrail.open(settings) as trail, open_redis(settings.redis_url, connections=1) as client:
        denials = DenyList(client, refresh_s=settings.deny_list_refresh_s)
        await denials.refresh()
        refreshing = asyncio.create_task(denials.run())
        try:
            # Without the store who is denied stays as it was last read, and audit events wait in memory.
            yield Guards(trail, denials, {"deny list": denials.check}, {"redis": client.ping})
        finally:
            refreshing.cancel()
            with suppress(asyncio.CancelledError):
                await refreshing
