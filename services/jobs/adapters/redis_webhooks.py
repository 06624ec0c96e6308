"""The ports WebhookStore and Outbox over Redis, by the commands of webhooks.lua."""

import zlib
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final, cast
from urllib.parse import unquote

import msgpack  # type: ignore[import-untyped]
from pydantic import SecretStr

from services.jobs.adapters.redis import (
    Redis,
    check_recalled,
    moment,
    named,
    once,
    once_at_least,
)
from services.jobs.ports_webhooks import Turns
from services.jobs.webhook import (
    Delivery,
    DeliveryState,
    NewDelivery,
    Sent,
    Turn,
    Webhook,
    WebhookState,
    no_delivery,
    no_webhook,
    not_while_disabled,
    taken,
    too_many,
)
from services.jobs.webhooks import delivery_fields
from services.mesh.errors import LeaseLost, TenantDeleted
from services.mesh.filters import EVERYTHING
from services.mesh.lists import ListQuery, Page, paginate
from services.mesh.receipts import REQUEST_TTL, Receipt

_REMEMBER_MS: Final = int(REQUEST_TTL.total_seconds() * 1000)


class RedisWebhooks:
    """Webhooks and deliveries of all tenants in one Redis.

    Args:
        lease_s: How long a delivery that was taken is nobody else's; longer than sending it may take.
        retention_s: Deliveries that ended are forgotten after so long, and the oldest before where there are more than
            `keep` that were delivered, or that were given up.
        most_waiting: A webhook with more deliveries waiting is disabled.
        of_hook, of_tenant: Deliveries under way at a time, of one webhook and of one tenant.
        clock: In place of the store's own time, in tests.
    """

    def __init__(
        self,
        redis: Redis,
        *,
        lease_s: float = 60.0,
        retention_s: float = 7 * 24 * 3600,
        keep: int = 1000,
        most_waiting: int = 20_000,
        of_hook: int = 4,
        of_tenant: int = 16,
        clock: Callable[[], datetime] | None = None,
    ) -> None:
        self._redis = redis
        self._bounds = {"of_hook": of_hook, "of_tenant": of_tenant}
        self._kept = {"keep_ms": int(retention_s * 1000), "keep": keep}
        self._lease_ms = int(lease_s * 1000)
        self._most_waiting = most_waiting
        self._clock = clock

    async def recall(self, receipt: Receipt) -> Webhook | None:
        answer = await self._run("recall", receipt.tenant, **once(receipt, _REMEMBER_MS))
        check_recalled(answer, receipt)
        return _webhook(receipt.tenant, answer[2]) if answer[0] == b"SAME" else None

    async def add(self, webhook: Webhook, most: int, receipt: Receipt | None = None) -> Webhook:
        answer = await self._put(webhook, "", receipt, most=most)
        match answer[0]:
            case b"ERASED":
                raise TenantDeleted("the tenant was deleted; nothing is kept for it")
            case b"TAKEN":
                raise taken(webhook)
            case b"FULL":
                raise too_many(most)
        return _webhook(webhook.tenant, answer[2])

    async def change(
        self, tenant: str, webhook_id: str, change: Callable[[Webhook], Webhook], receipt: Receipt | None = None
    ) -> Webhook:
        while True:
            current = await self.get(tenant, webhook_id)
            answer = await self._put(change(current), current.etag, receipt)
            if answer[0] in (b"OK", b"SAME"):
                return _webhook(tenant, answer[2])
            if answer[0] == b"ERASED":
                raise no_webhook(webhook_id)

    async def remove(
        self, tenant: str, webhook_id: str, check: Callable[[Webhook], None], receipt: Receipt | None = None
    ) -> Webhook:
        while True:
            current = await self.get(tenant, webhook_id)
            check(current)
            receipted = once_at_least(receipt, _REMEMBER_MS)
            answer = await self._run("hook_drop", tenant, hook=webhook_id, was=current.etag, **receipted)
            check_recalled(answer, receipt)
            if answer[0] in (b"OK", b"SAME"):
                return _webhook(tenant, answer[2])

    async def get(self, tenant: str, webhook_id: str) -> Webhook:
        packed = await self._run("hook_find", tenant, hook=webhook_id)
        if packed is None:
            raise no_webhook(webhook_id)
        return _webhook(tenant, packed)

    async def all(self, tenant: str) -> list[Webhook]:
        return (await self.progress(tenant))[1]

    async def list_deliveries(self, tenant: str, webhook_id: str, query: ListQuery) -> Page[Delivery]:
        """Of a list without a filter, only the page's deliveries are read."""
        whole = query.filter != EVERYTHING
        found = await self._run("hook_sends", tenant, hook=webhook_id, whole=int(whole), **self._kept)
        if found is None:
            raise no_webhook(webhook_id)
        if whole:
            pairs = zip(found[::2], found[1::2], strict=True)
            return paginate(
                [_delivery(webhook_id, int(each), packed) for each, packed in pairs], query, delivery_fields
            )
        page = paginate([int(each) for each in found], query, lambda sequence: {"sequence": sequence})
        deliveries: list[Delivery] = []
        if page.items:
            async with self._redis.answering():
                records = await self._redis.client.hmget(self._redis.key(tenant, "sends", webhook_id), page.items)
            pairs = zip(page.items, records, strict=True)
            deliveries = [_delivery(webhook_id, each, packed) for each, packed in pairs if packed is not None]
        return Page(tuple(deliveries), page.next_page_token, page.total_size)

    async def replay(
        self,
        tenant: str,
        webhook_id: str,
        sequence: int,
        *,
        receipt: Receipt | None = None,
        validate_only: bool = False,
    ) -> Delivery:
        answer = await self._run(
            "hook_replay",
            tenant,
            hook=webhook_id,
            number=sequence,
            dry=int(validate_only),
            **once_at_least(receipt, _REMEMBER_MS),
        )
        check_recalled(answer, receipt)
        match answer[0]:
            case b"MISSING":
                raise no_delivery(webhook_id, sequence)
            case b"DISABLED":
                raise not_while_disabled(webhook_id)
        return _delivery(webhook_id, sequence, answer[2])

    async def progress(self, tenant: str) -> tuple[int, list[Webhook]]:
        sequence, found = await self._run("hook_all", tenant)
        return sequence, [_webhook(tenant, packed) for packed in found]

    async def record(
        self, tenant: str, after: int, upto: int, deliveries: Sequence[NewDelivery], *, lost: str = ""
    ) -> bool:
        hooks = (
            [each.id for each in await self.all(tenant)] if lost else sorted({each.webhook_id for each in deliveries})
        )
        packed = [
            [
                each.webhook_id,
                each.sequence,
                each.lane,
                each.topic,
                each.event_uid,
                _milliseconds(each.event_time),
                zlib.compress(each.body),
                each.caused_by,
            ]
            for each in deliveries
        ]
        answer = await self._run(
            "hook_record",
            tenant,
            after=after,
            upto=upto,
            hooks=hooks,
            deliveries=packed,
            lost=lost,
            most=self._most_waiting,
        )
        return bool(answer == b"OK")

    async def take(self, slots: int) -> Turns:
        now, leases, more_ms = await self._run("hook_lease", "", slots=slots, lease_ms=self._lease_ms, **self._bounds)
        turns = []
        for tenant, webhook, number, packed, body, by in leases:
            of = _webhook(unquote(tenant.decode()), webhook)
            delivery = _delivery(of.id, number, packed)
            body, lease_s = zlib.decompress(body), self._lease_ms / 1000
            turns.append(Turn(of, delivery, body, _fence(packed), moment(now), lease_s, by.decode()))
        return Turns(turns, None if more_ms < 0 else more_ms / 1000)

    async def finish(self, turn: Turn, sent: Sent) -> None:
        answer = await self._run(
            "hook_finish",
            turn.webhook.tenant,
            hook=turn.webhook.id,
            number=turn.delivery.sequence,
            fence=turn.fence,
            state=str(sent.state),
            status=sent.status,
            error=sent.error,
            slot=sent.slot,
            delay_ms=int(sent.retry_in_s * 1000),
            disable=sent.disable,
            **self._bounds,
            **self._kept,
        )
        if answer != b"OK":
            raise LeaseLost(f"{turn.delivery.name} is somebody else's by now", delivery=turn.delivery.name)

    async def _put(self, webhook: Webhook, was: str, receipt: Receipt | None, *, most: int = 0) -> Sequence[Any]:
        answer = await self._run(
            "hook_put",
            webhook.tenant,
            hook=webhook.id,
            was=was,
            most=most,
            about=_about(webhook),
            state=str(webhook.state),
            reason=webhook.disabled_reason,
            etag=webhook.etag,
            create=_milliseconds(webhook.create_time),
            update=_milliseconds(webhook.update_time),
            **once_at_least(receipt, _REMEMBER_MS),
        )
        check_recalled(answer, receipt)
        return cast(Sequence[Any], answer)

    async def _run(self, command: str, tenant: str, **arguments: Any) -> Any:
        if self._clock is not None:
            arguments["now"] = _milliseconds(self._clock())
        return await self._redis.run(command, tenant=named(tenant), **arguments)


def _about(webhook: Webhook) -> bytes:
    """What Python alone looks at of a webhook."""
    old = webhook.old_secret.get_secret_value() if webhook.old_secret else ""
    expire = webhook.old_secret_expire_time
    parts = [
        webhook.uri,
        list(webhook.topics),
        webhook.collection_id,
        webhook.description,
        webhook.secret.get_secret_value(),
        old,
        _milliseconds(expire) if expire else 0,
    ]
    return cast(bytes, msgpack.packb(parts))


def _webhook(tenant: str, packed: bytes) -> Webhook:
    webhook_id, about, state, reason, etag, create, update, failing = msgpack.unpackb(packed, raw=True)
    uri, topics, collection_id, description, secret, old, expire = msgpack.unpackb(about)
    return Webhook(
        tenant=tenant,
        id=webhook_id.decode(),
        uri=uri,
        secret=SecretStr(secret),
        create_time=moment(create),
        update_time=moment(update),
        etag=etag.decode(),
        topics=tuple(topics),
        collection_id=collection_id,
        description=description,
        state=WebhookState(state.decode()),
        disabled_reason=reason.decode(),
        old_secret=SecretStr(old) if old else None,
        old_secret_expire_time=moment(expire) if expire else None,
        failing_since=moment(failing) if failing else None,
    )


def _delivery(webhook_id: str, sequence: int, packed: bytes) -> Delivery:
    state, lane, topic, uid, time, attempts, _, status, error, slot, first, due, ended = msgpack.unpackb(
        packed, raw=True
    )
    return Delivery(
        webhook_id=webhook_id,
        sequence=sequence,
        lane=lane.decode(),
        topic=topic.decode(),
        event_uid=uid.decode(),
        create_time=moment(time),
        state=DeliveryState(state.decode()),
        attempts=attempts,
        last_status=status,
        last_error=error.decode(),
        slot=slot,
        first_attempt_time=moment(first) if first else None,
        next_attempt_time=moment(due) if due else None,
        end_time=moment(ended) if ended else None,
    )


def _fence(packed: bytes) -> int:
    return cast(int, msgpack.unpackb(packed, raw=True)[6])


def _milliseconds(at: datetime) -> int:
    return round(at.timestamp() * 1000)
