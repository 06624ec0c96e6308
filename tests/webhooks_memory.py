"""Webhooks and their deliveries in memory: what the store is held to, and what tests of the domain use."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from services.jobs.ports_webhooks import Turns
from services.jobs.webhook import (
    Delivery,
    DeliveryState,
    NewDelivery,
    Sent,
    Turn,
    Webhook,
    WebhookState,
    new_etag,
    no_delivery,
    no_webhook,
    not_while_disabled,
    taken,
    too_many,
)
from services.jobs.webhooks import delivery_fields
from services.mesh.errors import LeaseLost
from services.mesh.lists import ListQuery, Page, paginate
from services.mesh.receipts import Receipt

_RECOVERED = timedelta(seconds=60)


@dataclass
class Clock:
    """The time, moved by hand."""

    now: datetime = field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0))

    def __call__(self) -> datetime:
        return self.now

    def advance(self, **delta: float) -> None:
        self.now += timedelta(**delta)


@dataclass
class _Kept:
    """A delivery with what is not seen of it. `free` is when its lease runs out."""

    delivery: Delivery
    body: bytes
    caused_by: str
    fence: int = 0
    free: datetime | None = None
    woken: bool = False


class MemoryWebhooks:
    """Fulfils WebhookStore and Outbox; nothing awaits, so every method is one step.

    Attributes:
        happened: The sequence of the last event of each tenant.
    """

    def __init__(
        self,
        clock: Callable[[], datetime],
        *,
        lease_s: float = 60.0,
        retention_s: float = 7 * 24 * 3600,
        keep: int = 1000,
        most_waiting: int = 20_000,
        of_hook: int = 4,
        of_tenant: int = 16,
    ) -> None:
        self.happened: dict[str, int] = {}
        self._clock = clock
        self._lease = timedelta(seconds=lease_s)
        self._retention = timedelta(seconds=retention_s)
        self._keep, self._most_waiting, self._of_hook, self._of_tenant = keep, most_waiting, of_hook, of_tenant
        self._hooks: dict[tuple[str, str], Webhook] = {}
        self._kept: dict[tuple[str, str], dict[int, _Kept]] = {}
        self._progress: dict[str, int] = {}
        self._from: dict[tuple[str, str], int] = {}
        self._answers: dict[tuple[str, str, str], tuple[str, Webhook | Delivery]] = {}
        self._served: list[str] = []

    async def recall(self, receipt: Receipt) -> Webhook | None:
        known = self._recalled(receipt)
        assert not isinstance(known, Delivery)
        return known

    async def add(self, webhook: Webhook, most: int, receipt: Receipt | None = None) -> Webhook:
        if isinstance(known := self._recalled(receipt), Webhook):
            return known
        if (webhook.tenant, webhook.id) in self._hooks:
            raise taken(webhook)
        if len(await self.all(webhook.tenant)) >= most:
            raise too_many(most)
        happened = self.happened.get(webhook.tenant, 0)
        if not await self.all(webhook.tenant):
            self._progress[webhook.tenant] = happened
        self._from[webhook.tenant, webhook.id] = happened
        return self._written(webhook, receipt)

    async def change(
        self, tenant: str, webhook_id: str, change: Callable[[Webhook], Webhook], receipt: Receipt | None = None
    ) -> Webhook:
        if isinstance(known := self._recalled(receipt), Webhook):
            return known
        changed = self._written(change(await self.get(tenant, webhook_id)), receipt)
        self._wake(changed)
        return changed

    async def remove(
        self, tenant: str, webhook_id: str, check: Callable[[Webhook], None], receipt: Receipt | None = None
    ) -> Webhook:
        if isinstance(known := self._recalled(receipt), Webhook):
            return known
        found = await self.get(tenant, webhook_id)
        check(found)
        del self._hooks[tenant, webhook_id], self._kept[tenant, webhook_id]
        self._remember(receipt, found)
        return found

    async def get(self, tenant: str, webhook_id: str) -> Webhook:
        if (tenant, webhook_id) not in self._hooks:
            raise no_webhook(webhook_id)
        return self._hooks[tenant, webhook_id]

    async def all(self, tenant: str) -> list[Webhook]:
        return [hook for (of, _), hook in self._hooks.items() if of == tenant]

    async def list_deliveries(self, tenant: str, webhook_id: str, query: ListQuery) -> Page[Delivery]:
        hook = await self.get(tenant, webhook_id)
        self._forget(hook)
        return paginate((each.delivery for each in self._of(hook).values()), query, delivery_fields)

    async def replay(
        self,
        tenant: str,
        webhook_id: str,
        sequence: int,
        *,
        receipt: Receipt | None = None,
        validate_only: bool = False,
    ) -> Delivery:
        if isinstance(known := self._recalled(receipt), Delivery):
            return known
        kept = self._kept.get((tenant, webhook_id), {}).get(sequence)
        if kept is None:
            raise no_delivery(webhook_id, sequence)
        if self._hooks[tenant, webhook_id].state is not WebhookState.ENABLED:
            raise not_while_disabled(webhook_id)
        replayed = kept.delivery
        if kept.free is None or kept.free <= self._clock():
            replayed = replace(
                kept.delivery,
                state=DeliveryState.PENDING,
                attempts=0,
                last_status=0,
                last_error="",
                slot=0,
                first_attempt_time=None,
                next_attempt_time=None,
                end_time=None,
            )
        if not validate_only:
            kept.delivery = replayed
            self._remember(receipt, replayed)
        return replayed

    async def progress(self, tenant: str) -> tuple[int, list[Webhook]]:
        return self._progress.get(tenant, 0), await self.all(tenant)

    async def record(
        self, tenant: str, after: int, upto: int, deliveries: Sequence[NewDelivery], *, lost: str = ""
    ) -> bool:
        if self._progress.get(tenant, 0) != after:
            return False
        self._progress[tenant] = upto
        for each in deliveries:
            hook = self._hooks.get((tenant, each.webhook_id))
            if hook is None or hook.state is not WebhookState.ENABLED or each.sequence <= self._from[tenant, hook.id]:
                continue
            if (
                sum(kept.delivery.state is DeliveryState.PENDING for kept in self._of(hook).values())
                >= self._most_waiting
            ):
                self._disable(hook, f"more than {self._most_waiting} deliveries wait for it")
                continue
            delivery = Delivery(each.webhook_id, each.sequence, each.lane, each.topic, each.event_uid, each.event_time)
            self._of(hook).setdefault(each.sequence, _Kept(delivery, each.body, each.caused_by))
        for hook in await self.all(tenant) if lost else []:
            self._disable(hook, lost)
        return True

    async def take(self, slots: int) -> Turns:
        now, turns = self._clock(), []
        while len(turns) < slots:
            ready = [each for each in map(self._next, sorted({tenant for tenant, _ in self._hooks})) if each]
            ready.sort(key=lambda each: self._served.index(each[0].tenant) if each[0].tenant in self._served else -1)
            if not ready:
                break
            hook, kept = ready[0]
            self._served = [each for each in self._served if each != hook.tenant] + [hook.tenant]
            kept.fence, kept.free, kept.woken = kept.fence + 1, now + self._lease, False
            first = kept.delivery.first_attempt_time or now
            kept.delivery = replace(kept.delivery, attempts=kept.delivery.attempts + 1, first_attempt_time=first)
            lease_s = self._lease.total_seconds()
            turns.append(Turn(hook, kept.delivery, kept.body, kept.fence, now, lease_s, kept.caused_by))
        return Turns(turns, self._more_in_s())

    async def finish(self, turn: Turn, sent: Sent) -> None:
        key, now = (turn.webhook.tenant, turn.webhook.id), self._clock()
        kept = self._kept.get(key, {}).get(turn.delivery.sequence)
        if kept is None or kept.fence != turn.fence or kept.delivery.state is not DeliveryState.PENDING:
            raise LeaseLost(f"{turn.delivery.name} is somebody else's by now", delivery=turn.delivery.name)
        hook, ended = self._hooks[key], sent.state is not DeliveryState.PENDING
        kept.free = None
        kept.delivery = replace(
            kept.delivery,
            state=sent.state,
            last_status=sent.status,
            last_error=sent.error,
            slot=sent.slot,
            next_attempt_time=None if ended else now + timedelta(seconds=sent.retry_in_s),
            end_time=now if ended else None,
        )
        failing = hook.failing_since
        if sent.state is DeliveryState.DELIVERED:
            if failing and now - failing >= _RECOVERED:
                self._wake(hook)
            failing = None
        self._hooks[key] = hook = replace(
            hook, failing_since=None if sent.state is DeliveryState.DELIVERED else failing or now
        )
        if sent.disable:
            self._disable(hook, sent.disable)
        self._forget(hook)

    def _of(self, hook: Webhook) -> dict[int, _Kept]:
        return self._kept.setdefault((hook.tenant, hook.id), {})

    def _heads(self, hook: Webhook) -> list[_Kept]:
        """The first that waits of each lane."""
        heads: dict[str, _Kept] = {}
        for _, kept in sorted(self._of(hook).items()):
            if kept.delivery.state is DeliveryState.PENDING:
                heads.setdefault(kept.delivery.lane, kept)
        return list(heads.values())

    def _busy(self, hook: Webhook) -> int:
        return sum(each.free is not None and each.free > self._clock() for each in self._of(hook).values())

    def _due(self, kept: _Kept) -> datetime:
        due = self._clock() if kept.woken else kept.delivery.next_attempt_time or self._clock()
        return max(due, kept.free) if kept.free else due

    def _next(self, tenant: str) -> tuple[Webhook, _Kept] | None:
        hooks = [hook for (of, _), hook in self._hooks.items() if of == tenant and hook.state is WebhookState.ENABLED]
        if sum(map(self._busy, hooks)) >= self._of_tenant:
            return None
        ready = [
            (hook, kept)
            for hook in hooks
            if self._busy(hook) < self._of_hook
            for kept in self._heads(hook)
            if self._due(kept) <= self._clock()
        ]
        return min(ready, key=lambda each: each[1].delivery.sequence, default=None)

    def _more_in_s(self) -> float | None:
        hooks = [hook for hook in self._hooks.values() if hook.state is WebhookState.ENABLED]
        due = [self._due(kept) for hook in hooks for kept in self._heads(hook)]
        return max(0.0, (min(due) - self._clock()).total_seconds()) if due else None

    def _wake(self, hook: Webhook) -> None:
        for kept in self._heads(hook):
            kept.woken = True

    def _disable(self, hook: Webhook, reason: str) -> None:
        if hook.state is WebhookState.ENABLED:
            self._hooks[hook.tenant, hook.id] = replace(
                hook,
                state=WebhookState.DISABLED,
                disabled_reason=reason,
                update_time=self._clock(),
                etag=new_etag(),
                failing_since=None,
            )

    def _forget(self, hook: Webhook) -> None:
        for state in (DeliveryState.DELIVERED, DeliveryState.DEAD):
            ended = sorted(
                (each.delivery.end_time, each.delivery.sequence)
                for each in self._of(hook).values()
                if each.delivery.state is state and each.delivery.end_time
            )
            over = len(ended) - self._keep
            for at, (end_time, sequence) in enumerate(ended):
                if at < over or end_time <= self._clock() - self._retention:
                    del self._of(hook)[sequence]

    def _written(self, webhook: Webhook, receipt: Receipt | None) -> Webhook:
        self._hooks[webhook.tenant, webhook.id] = webhook
        self._kept.setdefault((webhook.tenant, webhook.id), {})
        self._remember(receipt, webhook)
        return webhook

    def _recalled(self, receipt: Receipt | None) -> Webhook | Delivery | None:
        if receipt is None:
            return None
        known = self._answers.get((receipt.tenant, receipt.method, receipt.request_id))
        if known is None:
            return None
        receipt.check(known[0])
        return known[1]

    def _remember(self, receipt: Receipt | None, answer: Webhook | Delivery) -> None:
        if receipt:
            self._answers[receipt.tenant, receipt.method, receipt.request_id] = receipt.digest, answer
