"""Between the contract's webhooks and the domain's."""

import json
from datetime import timedelta
from typing import Any

from google.protobuf.json_format import MessageToDict

from ragweave.v1 import webhook_pb2
from ragweave.v1 import webhook_service_pb2 as pb
from services.jobs.convert_events import event_to
from services.jobs.events import TenantEvent
from services.jobs.webhook import Delivery, Webhook, WebhookState
from services.jobs.webhooks import Given
from services.mesh.convert_times import time_to
from services.mesh.lists import Page


def body_of(event: TenantEvent) -> bytes:
    """What a webhook is sent of an event, as Standard Webhooks would have it."""
    message = event_to(event)
    said = {"type": event.topic, "timestamp": message.event_time.ToJsonString(), "data": MessageToDict(message)}
    return json.dumps(said, ensure_ascii=False, separators=(",", ":")).encode()


def created_from(request: pb.CreateWebhookRequest) -> Given:
    return Given(fields_from(request.webhook))


def updated_from(request: pb.UpdateWebhookRequest) -> Given:
    return Given(
        fields_from(request.webhook),
        paths=tuple(request.update_mask.paths),
        etag=request.webhook.etag,
        old_secret_ttl=(
            timedelta(seconds=request.old_secret_ttl.seconds) if request.HasField("old_secret_ttl") else None
        ),
    )


def fields_from(webhook: webhook_pb2.Webhook) -> dict[str, Any]:
    """The fields that are set."""
    given: dict[str, Any] = {
        "uri": webhook.uri,
        "topics": tuple(webhook.topics),
        "collection": webhook.collection.removeprefix("collections/"),
        "description": webhook.description,
        "state": WebhookState(webhook_pb2.Webhook.State.Name(webhook.state)) if webhook.state else None,
        "secret": webhook.secret,
    }
    return {name: value for name, value in given.items() if value}


def webhook_to(webhook: Webhook) -> webhook_pb2.Webhook:
    return webhook_pb2.Webhook(
        name=webhook.name,
        uri=webhook.uri,
        topics=webhook.topics,
        collection=f"collections/{webhook.collection_id}" if webhook.collection_id else "",
        description=webhook.description,
        state=webhook_pb2.Webhook.State.Value(webhook.state),
        disabled_reason=webhook.disabled_reason,
        secret=webhook.secret.get_secret_value(),
        old_secret_expire_time=time_to(webhook.old_secret_expire_time),
        create_time=time_to(webhook.create_time),
        update_time=time_to(webhook.update_time),
        etag=webhook.etag,
    )


def webhooks_to(page: Page[Webhook]) -> pb.ListWebhooksResponse:
    return pb.ListWebhooksResponse(
        webhooks=[webhook_to(webhook) for webhook in page.items],
        next_page_token=page.next_page_token,
        total_size=page.total_size,
    )


def delivery_to(delivery: Delivery) -> webhook_pb2.WebhookDelivery:
    return webhook_pb2.WebhookDelivery(
        name=delivery.name,
        topic=delivery.topic,
        sequence=delivery.sequence,
        event_uid=delivery.event_uid,
        state=webhook_pb2.WebhookDelivery.State.Value(delivery.state),
        attempts=delivery.attempts,
        last_status=delivery.last_status,
        last_error=delivery.last_error,
        next_attempt_time=time_to(delivery.next_attempt_time),
        create_time=time_to(delivery.create_time),
        end_time=time_to(delivery.end_time),
    )


def deliveries_to(page: Page[Delivery]) -> pb.ListDeliveriesResponse:
    return pb.ListDeliveriesResponse(
        deliveries=[delivery_to(delivery) for delivery in page.items],
        next_page_token=page.next_page_token,
        total_size=page.total_size,
    )
