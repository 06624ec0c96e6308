"""Webhooks as callers manage them: made, listed, changed, tested; and their deliveries, listed and replayed."""

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from pydantic import SecretStr

from services.jobs.delivering import post
from services.jobs.events import Topics
from services.jobs.ports_web import Web
from services.jobs.ports_webhooks import WebhookStore
from services.jobs.webhook import (
    TEST_TOPIC,
    Delivery,
    DeliveryState,
    Turn,
    Webhook,
    WebhookState,
    new_etag,
    new_secret,
    secret_from,
    taken,
    too_many,
)
from services.mesh.errors import DeliveryNotFound, EtagMismatch, InvalidArgument
from services.mesh.filters import Field, FieldType, Schema, parse
from services.mesh.lists import Listing, Page, paginate
from services.mesh.masks import Mask
from services.mesh.receipts import Receipt, once

_OLD_SECRET_TTL: Final = timedelta(days=1)
_DELIVERY = re.compile(r"webhooks/([^/]+)/deliveries/([0-9]{1,18})", re.ASCII)

_MASK: Final = Mask(
    "webhook",
    mutable={
        "uri": "",
        "topics": (),
        "collection": "",
        "description": "",
        "state": WebhookState.ENABLED,
        "secret": None,
    },
    ignored=("name", "disabled_reason", "old_secret_expire_time", "create_time", "update_time", "etag"),
)

_WEBHOOK_FIELDS: Final = {
    "uri": Field(FieldType.STRING),
    "collection": Field(FieldType.STRING),
    "state": Field(FieldType.ENUM, values=tuple(WebhookState)),
    "create_time": Field(FieldType.TIMESTAMP),
}
# `name` and `update_time` are for the order only.
_FILTERED_BY: Final = Schema(_WEBHOOK_FIELDS)
_WEBHOOKS: Final = Listing(
    Schema({**_WEBHOOK_FIELDS, "update_time": Field(FieldType.TIMESTAMP), "name": Field(FieldType.STRING)}),
    sortable=("create_time", "update_time", "name"),
    key="name",
    default_order="create_time desc",
)
DELIVERIES: Final = Listing(
    Schema(
        {
            "topic": Field(FieldType.STRING),
            "state": Field(FieldType.ENUM, values=tuple(DeliveryState)),
            "sequence": Field(FieldType.NUMBER),
            "event_uid": Field(FieldType.STRING),
            "attempts": Field(FieldType.NUMBER),
            "last_status": Field(FieldType.NUMBER),
            "create_time": Field(FieldType.TIMESTAMP),
        }
    ),
    sortable=("sequence",),
    key="sequence",
    default_order="sequence desc",
)


def delivery_fields(delivery: Delivery) -> Mapping[str, Any]:
    """A delivery as filters and orders see it."""
    return {name: getattr(delivery, name) for name in DELIVERIES.schema.fields}


@dataclass(frozen=True, slots=True)
class Given:
    """What a caller says of a webhook: the fields set, and those to change.

    Attributes:
        fields: By name; a field left out is not in it.
        paths: The update_mask.
        old_secret_ttl: How long the secret before a new one signs too; a day where None.
    """

    fields: Mapping[str, Any]
    paths: Sequence[str] = ()
    etag: str = ""
    old_secret_ttl: timedelta | None = None

    @property
    def rotates(self) -> bool:
        return "secret" in self.paths or bool(self.fields.get("secret") and (not self.paths or "*" in self.paths))


class Webhooks:
    """The webhooks of each tenant; another tenant's do not exist.

    Args:
        web: The web as far as webhooks may be sent to it.
        most: How many a tenant may have.
    """

    def __init__(self, store: WebhookStore, web: Web, *, most: int) -> None:
        self._store = store
        self._web = web
        self._most = most

    async def create(
        self,
        tenant: str,
        webhook_id: str,
        given: Given,
        *,
        receipt: Receipt | None = None,
        validate_only: bool = False,
    ) -> Webhook:
        """The webhook with its secret.

        Raises:
            InvalidArgument: a field is wrong.
            AddressNotAllowed: nothing may be sent to its uri.
            AlreadyExists: one of that id exists.
            FailedPrecondition: the tenant has as many as it may.
            RequestIdReused: the receipt's id stands for another request.
        """

        async def work() -> Webhook:
            fields = _named({"uri": "", **await self._checked(given.fields)})
            now = _now()
            made = Webhook(
                tenant=tenant,
                id=webhook_id or f"w-{secrets.token_hex(8)}",
                secret=fields.pop("secret", None) or new_secret(),
                create_time=now,
                update_time=now,
                etag=new_etag(),
                **fields,
            )
            made = _told_why(made)
            if not validate_only:
                return await self._store.add(made, self._most, receipt)
            known = await self._store.all(tenant)
            if any(each.id == made.id for each in known):
                raise taken(made)
            if len(known) >= self._most:
                raise too_many(self._most)
            return made.sealed()

        return await once(receipt, self._store.recall, work)

    async def get(self, tenant: str, webhook_id: str) -> Webhook:
        """Raises WebhookNotFound."""
        return (await self._store.get(tenant, webhook_id)).sealed()

    async def list_webhooks(
        self, tenant: str, *, filter: str, order_by: str, page_size: int, page_token: str, page: int
    ) -> Page[Webhook]:
        """Raises InvalidArgument, InvalidFilter, InvalidPageToken."""
        parse(filter, _FILTERED_BY)
        query = _WEBHOOKS.query(filter=filter, order_by=order_by, page_size=page_size, page_token=page_token, page=page)
        found = [webhook.sealed() for webhook in await self._store.all(tenant)]
        return paginate(found, query, _fields)

    async def update(
        self,
        tenant: str,
        webhook_id: str,
        given: Given,
        *,
        receipt: Receipt | None = None,
        validate_only: bool = False,
    ) -> Webhook:
        """The webhook, changed; with its secret where that is new.

        Raises:
            WebhookNotFound: the tenant has no such webhook.
            InvalidArgument: a field is wrong.
            AddressNotAllowed: nothing may be sent to its uri.
            EtagMismatch: an etag is given and the webhook has another.
            RequestIdReused: the receipt's id stands for another request.
        """

        async def work() -> Webhook:
            fields = await self._checked(given.fields)

            def change(current: Webhook) -> Webhook:
                return _changed(current, replace(given, fields=fields))

            if validate_only:
                return change(await self._store.get(tenant, webhook_id)).sealed()
            return await self._store.change(tenant, webhook_id, change, receipt)

        changed = await once(receipt, self._store.recall, work)
        return changed if given.rotates else changed.sealed()

    async def delete(
        self,
        tenant: str,
        webhook_id: str,
        *,
        etag: str = "",
        receipt: Receipt | None = None,
        validate_only: bool = False,
    ) -> Webhook:
        """The webhook as it was; it and its deliveries are forgotten.

        Raises:
            WebhookNotFound: the tenant has no such webhook.
            EtagMismatch: `etag` is given and the webhook has another.
            RequestIdReused: the receipt's id stands for another request.
        """

        async def work() -> Webhook:
            if validate_only:
                found = await self._store.get(tenant, webhook_id)
                _check_etag(found, etag)
                return found
            return await self._store.remove(tenant, webhook_id, lambda found: _check_etag(found, etag), receipt)

        return (await once(receipt, self._store.recall, work)).sealed()

    async def test(self, tenant: str, webhook_id: str) -> Delivery:
        """What became of an event sent to it now.

        Raises:
            WebhookNotFound: the tenant has no such webhook.
        """
        webhook = await self._store.get(tenant, webhook_id)
        now = _now()
        delivery = Delivery(
            webhook_id=webhook.id,
            sequence=0,
            lane="",
            topic=TEST_TOPIC,
            event_uid=f"test-{secrets.token_hex(12)}",
            create_time=now,
            attempts=1,
        )
        body = json.dumps({"type": TEST_TOPIC, "timestamp": _written(now), "data": {"webhook": webhook.name}}).encode()
        status, error = await post(self._web, Turn(webhook, delivery, body, 0, now, 0.0))
        if 200 <= status < 300:
            return replace(delivery, state=DeliveryState.DELIVERED, last_status=status, end_time=_now())
        error = error or f"answered {status}"
        return replace(delivery, state=DeliveryState.DEAD, last_status=status, last_error=error, end_time=_now())

    async def list_deliveries(
        self, tenant: str, webhook_id: str, *, filter: str, order_by: str, page_size: int, page_token: str, page: int
    ) -> Page[Delivery]:
        """Raises WebhookNotFound, InvalidArgument, InvalidFilter, InvalidPageToken."""
        query = DELIVERIES.query(
            filter=filter,
            order_by=order_by,
            page_size=page_size,
            page_token=page_token,
            page=page,
            parent=webhook_id,
        )
        return await self._store.list_deliveries(tenant, webhook_id, query)

    async def replay(
        self, tenant: str, name: str, *, receipt: Receipt | None = None, validate_only: bool = False
    ) -> Delivery:
        """The delivery, to be sent again.

        Raises:
            DeliveryNotFound: there is none of that name.
            FailedPrecondition: its webhook is disabled.
            RequestIdReused: the receipt's id stands for another request.
        """
        named = _DELIVERY.fullmatch(name)
        if named is None:
            raise DeliveryNotFound(f"{name} does not exist", delivery=name)
        return await self._store.replay(tenant, named[1], int(named[2]), receipt=receipt, validate_only=validate_only)

    async def _checked(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """The fields, if they can be of a webhook.

        Raises:
            InvalidArgument, AddressNotAllowed
        """
        checked = dict(fields)
        Topics(checked.get("topics", ()))
        if "uri" in checked:
            await self._web.check(checked["uri"])
        if checked.get("secret"):
            checked["secret"] = secret_from(checked["secret"])
        return checked


def _changed(current: Webhook, given: Given) -> Webhook:
    _check_etag(current, given.etag)
    changes = _named(_MASK.changes(dict.fromkeys(_MASK.mutable), given.fields, given.paths))
    secret: SecretStr | None = changes.pop("secret", None)
    changed = _told_why(replace(current, **changes))
    now = _now()
    if given.rotates:
        ttl = _OLD_SECRET_TTL if given.old_secret_ttl is None else given.old_secret_ttl
        changed = replace(
            changed,
            secret=secret or new_secret(),
            old_secret=current.secret if ttl else None,
            old_secret_expire_time=now + ttl if ttl else None,
        )
    if changed == current:
        return current
    return replace(changed, update_time=now, etag=new_etag(), failing_since=None)


def _named(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields by the names they have here."""
    return {"collection_id" if name == "collection" else name: value for name, value in fields.items()}


def _told_why(webhook: Webhook) -> Webhook:
    """A webhook that can be sent to, with the reason it is disabled where nothing else gave one."""
    if not webhook.uri:
        raise InvalidArgument.of("webhook.uri", "must be set")
    if webhook.state is WebhookState.ENABLED:
        return replace(webhook, disabled_reason="")
    return replace(webhook, disabled_reason=webhook.disabled_reason or "it was disabled by a caller")


def _check_etag(webhook: Webhook, etag: str) -> None:
    if etag and etag.strip('"') != webhook.etag.strip('"'):
        raise EtagMismatch(f"{webhook.name} has changed since this etag was read; read it again")


def _fields(webhook: Webhook) -> Mapping[str, Any]:
    return {
        "name": webhook.name,
        "uri": webhook.uri,
        "collection": f"collections/{webhook.collection_id}" if webhook.collection_id else "",
        "state": str(webhook.state),
        "create_time": webhook.create_time,
        "update_time": webhook.update_time,
    }


def _now() -> datetime:
    return datetime.now(UTC)


def _written(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
