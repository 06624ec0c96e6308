"""Receivers and a store of webhooks, for tests of what is sent to whom and when."""

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pydantic import SecretStr
from standardwebhooks import Webhook as Verifier

from services.jobs.adapters.redis_webhooks import RedisWebhooks
from services.jobs.delivering import Deliverer
from services.jobs.webhook import NewDelivery, Schedule, Webhook, new_etag
from services.mesh.errors import Unreachable
from tests.webhooks_memory import Clock, MemoryWebhooks

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
DISABLE_AFTER_S = 5 * 24 * 3600.0


@dataclass(frozen=True)
class Received:
    """One POST, its signature verified."""

    uri: str
    message_id: str
    lane: str
    sequence: int


@dataclass
class Receivers:
    """A web of receivers; fulfils Web.

    Attributes:
        answers: By uri what a receiver answers now: a status; None for no answer. 200 where nothing is said.
        got: Everything that was answered with 2xx, and `tried` everything that was sent at all.
        gates: By uri what its receiver waits for before it answers.
    """

    answers: dict[str, int | None] = field(default_factory=dict)
    got: list[Received] = field(default_factory=list)
    tried: list[Received] = field(default_factory=list)
    gates: dict[str, asyncio.Event] = field(default_factory=dict)
    came: asyncio.Event = field(default_factory=asyncio.Event)

    async def fetch(self, url: str, *, max_bytes: int) -> Any:
        raise NotImplementedError

    async def check(self, url: str) -> None:
        return

    async def post(self, url: str, content: bytes, headers: Mapping[str, str]) -> int:
        said = json.loads(content)
        signed = Verifier(SECRET).sign(headers["webhook-id"], _signed_at(headers), content.decode())
        assert signed in headers["webhook-signature"].split(" ")
        each = Received(url, headers["webhook-id"], said["lane"], said["sequence"])
        self.tried.append(each)
        self.came.set()
        if url in self.gates:
            await self.gates[url].wait()
        status = self.answers.get(url, 200)
        if status is None:
            raise Unreachable(f"{url} cannot be connected to", passing=True)
        if 200 <= status < 300:
            self.got.append(each)
        return status

    def sequences(self, uri: str, lane: str) -> list[int]:
        return [each.sequence for each in self.got if (each.uri, each.lane) == (uri, lane)]


def _signed_at(headers: Mapping[str, str]) -> datetime:
    return datetime.fromtimestamp(int(headers["webhook-timestamp"]), UTC)


@dataclass
class Deliveries:
    """A store with webhooks, and events that become deliveries as a test says."""

    store: RedisWebhooks | MemoryWebhooks
    clock: Clock
    web: Receivers = field(default_factory=Receivers)

    def deliverer(self, *, slots: int = 64, chance: Callable[[], float] = lambda: 0.5, **parts: Any) -> Deliverer:
        schedule = Schedule(disable_after_s=DISABLE_AFTER_S, chance=chance)
        return Deliverer(parts.get("outbox", self.store), parts.get("web", self.web), schedule, slots=slots)

    async def add(self, tenant: str = "acme", webhook_id: str = "w") -> str:
        """The uri of a new webhook."""
        uri = f"https://{webhook_id}.{tenant}.example/"
        made = Webhook(tenant, webhook_id, uri, SecretStr(SECRET), self.clock.now, self.clock.now, new_etag())
        await self.store.add(made, 1000)
        return uri

    async def happen(self, *lanes: str, tenant: str = "acme") -> list[int]:
        """An event in each lane, for every webhook of the tenant; their sequences."""
        after, webhooks = await self.store.progress(tenant)
        sequences = list(range(after + 1, after + 1 + len(lanes)))
        new = [
            NewDelivery(
                each.id, sequence, lane, "document.indexed", f"uid-{sequence}", self.clock.now, said(lane, sequence)
            )
            for sequence, lane in zip(sequences, lanes, strict=True)
            for each in webhooks
        ]
        assert await self.store.record(tenant, after, sequences[-1], new)
        return sequences


def said(lane: str, sequence: int) -> bytes:
    return json.dumps({"lane": lane, "sequence": sequence}).encode()
