"""Webhooks and their deliveries: what is sent where, how it is signed, and when it is tried again."""

import base64
import random
import re
import secrets
from binascii import Error as NotBase64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import accumulate
from typing import Final

from pydantic import SecretStr
from standardwebhooks import Webhook as Signer

from services.jobs.events import Topics
from services.mesh.errors import (
    AlreadyExists,
    DeliveryNotFound,
    FailedPrecondition,
    InvalidArgument,
    WebhookNotFound,
)

# The example of the Standard Webhooks specification ("Deliverability and reliability"): three days in all.
SCHEDULE_S: Final = (5.0, 300.0, 1800.0, 7200.0, 18000.0, 36000.0, 50400.0, 72000.0, 86400.0)
TEST_TOPIC: Final = "webhook.test"

_SECRET = re.compile(r"whsec_([A-Za-z0-9+/]+={0,2})", re.ASCII)
# As the specification has it: 192 to 512 bits.
_SECRET_BYTES = range(24, 65)
_GONE = 410


class WebhookState(StrEnum):
    ENABLED = "ENABLED"
    DISABLED = "DISABLED"


class DeliveryState(StrEnum):
    """PENDING waits for its turn or its next attempt; DEAD was given up."""

    PENDING = "PENDING"
    DELIVERED = "DELIVERED"
    DEAD = "DEAD"


@dataclass(frozen=True, slots=True)
class Webhook:
    """An address that is told of a tenant's events.

    Attributes:
        topics: As "ingestion.completed" or "ingestion.*"; all where empty.
        collection_id: The one whose events are sent; all where empty.
        old_secret: Signs too, until it expires.
        failing_since: When the first attempt failed after the last that did not; None where none has.
    """

    tenant: str
    id: str
    uri: str
    secret: SecretStr
    create_time: datetime
    update_time: datetime
    etag: str
    topics: tuple[str, ...] = ()
    collection_id: str = ""
    description: str = ""
    state: WebhookState = WebhookState.ENABLED
    disabled_reason: str = ""
    old_secret: SecretStr | None = None
    old_secret_expire_time: datetime | None = None
    failing_since: datetime | None = None

    @property
    def name(self) -> str:
        return f"webhooks/{self.id}"

    def wants(self, topic: str, collection_id: str) -> bool:
        """Whether it is to be told of an event."""
        return self.collection_id in ("", collection_id) and topic in Topics(self.topics)

    def sealed(self) -> "Webhook":
        """Itself without its secrets, as it is shown."""
        return replace(self, secret=SecretStr(""), old_secret=None)

    def headers(self, message_id: str, body: bytes, now: datetime) -> Mapping[str, str]:
        """What a POST of `body` carries: Standard Webhooks' headers, with a signature for each secret that holds.

        Args:
            now: In UTC; receivers refuse what is signed more than five minutes ago.
        """
        holding = [self.secret]
        if self.old_secret and self.old_secret_expire_time and now < self.old_secret_expire_time:
            holding.append(self.old_secret)
        text = body.decode()
        return {
            "content-type": "application/json",
            "webhook-id": message_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": " ".join(
                Signer(each.get_secret_value()).sign(message_id, now, text) for each in holding
            ),
        }


@dataclass(frozen=True, slots=True)
class Delivery:
    """An event on its way to a webhook.

    Attributes:
        sequence: The event's in its tenant; 0 for a test.
        lane: Deliveries of one lane are sent in order.
        attempts: Times it was sent, since it was last replayed.
        last_status: HTTP status of the last answer; 0 where there was none.
        slot: How far it is in the schedule of attempts.
        first_attempt_time: None before it.
        next_attempt_time: When the schedule has it sent again; None where it was not sent yet, or has ended.
    """

    webhook_id: str
    sequence: int
    lane: str
    topic: str
    event_uid: str
    create_time: datetime
    state: DeliveryState = DeliveryState.PENDING
    attempts: int = 0
    last_status: int = 0
    last_error: str = ""
    slot: int = 0
    first_attempt_time: datetime | None = None
    next_attempt_time: datetime | None = None
    end_time: datetime | None = None

    @property
    def name(self) -> str:
        return f"webhooks/{self.webhook_id}/deliveries/{self.sequence}" if self.sequence else ""


@dataclass(frozen=True, slots=True)
class NewDelivery:
    """An event to be delivered to a webhook.

    Attributes:
        caused_by: The traceparent of the call that the event came of; "" where none is known.
    """

    webhook_id: str
    sequence: int
    lane: str
    topic: str
    event_uid: str
    event_time: datetime
    body: bytes
    caused_by: str = ""


@dataclass(frozen=True, slots=True)
class Turn:
    """A delivery to be sent now, by who was given it and nobody else.

    Attributes:
        fence: Refuses what is written by who was given it before.
        now: When it was given.
        lease_s: For how long; more than twice as long as it may take to send it.
        caused_by: As of the NewDelivery.
    """

    webhook: Webhook
    delivery: Delivery
    body: bytes
    fence: int
    now: datetime
    lease_s: float
    caused_by: str = ""

    @property
    def early(self) -> bool:
        """Whether it is sent before its time, because its receiver answers again."""
        return self.delivery.next_attempt_time is not None and self.now < self.delivery.next_attempt_time


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of a turn.

    Attributes:
        retry_in_s: When it is sent again, while PENDING.
        disable: Why its webhook is disabled; "" where it is not.
    """

    state: DeliveryState
    status: int = 0
    error: str = ""
    slot: int = 0
    retry_in_s: float = 0.0
    disable: str = ""


class Schedule:
    """When a delivery that failed is sent again, and when it is given up.

    Full jitter, as "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015) has it: each attempt is made at a
    random moment of the whole of its delay. The delays are laid end to end from the first attempt on, so that luck does
    not shorten the time a receiver has to come back: the last attempt is never made before all delays but its own are
    over.

    Args:
        delays_s: One for each attempt after the first.
        disable_after_s: A webhook that was sent nothing with success for so long is disabled.
        chance: From 0 to 1.
    """

    def __init__(
        self,
        delays_s: Sequence[float] = SCHEDULE_S,
        *,
        disable_after_s: float,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._delays_s = tuple(delays_s)
        self._starts_s = (0.0, *accumulate(delays_s))
        self._disable_after_s = disable_after_s
        self._chance = chance

    def after(self, turn: Turn, status: int, error: str) -> Sent:
        """What becomes of a turn that was answered with `status`, or not at all.

        Args:
            status: 0 where there was no answer; `error` says why.
        """
        if 200 <= status < 300:
            return Sent(DeliveryState.DELIVERED, status)
        error = error or f"answered {status}"
        disable = self._disable(turn, status)
        slot = turn.delivery.slot
        if turn.early and turn.delivery.next_attempt_time:
            left_s = (turn.delivery.next_attempt_time - turn.now).total_seconds()
            return Sent(DeliveryState.PENDING, status, error, slot, left_s, disable)
        if slot >= len(self._delays_s):
            return Sent(DeliveryState.DEAD, status, error, slot, disable=disable)
        since_s = (turn.now - (turn.delivery.first_attempt_time or turn.now)).total_seconds()
        delay_s = max(self._starts_s[slot] - since_s, 0.0) + self._chance() * self._delays_s[slot]
        return Sent(DeliveryState.PENDING, status, error, slot + 1, delay_s, disable)

    def _disable(self, turn: Turn, status: int) -> str:
        if status == _GONE:
            return "its receiver answered 410: it wants no more"
        failing_since = turn.webhook.failing_since
        if failing_since and (turn.now - failing_since) >= timedelta(seconds=self._disable_after_s):
            return f"no delivery succeeded since {failing_since:%Y-%m-%d %H:%M} UTC"
        return ""


def new_secret() -> SecretStr:
    """A signing secret of 32 random bytes."""
    return SecretStr(f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}")


def secret_from(given: str) -> SecretStr:
    """A caller's own signing secret. Raises InvalidArgument, which does not show it."""
    found = _SECRET.fullmatch(given)
    try:
        if found and len(base64.b64decode(found[1], validate=True)) in _SECRET_BYTES:
            return SecretStr(given)
    except NotBase64:
        pass
    raise InvalidArgument.of("webhook.secret", "must be whsec_ and the base64 of 24 to 64 bytes")


def new_etag() -> str:
    return f'"{secrets.token_hex(8)}"'


def no_webhook(webhook_id: str) -> WebhookNotFound:
    return WebhookNotFound(f"webhooks/{webhook_id} does not exist", webhook=webhook_id)


def no_delivery(webhook_id: str, sequence: int) -> DeliveryNotFound:
    name = f"webhooks/{webhook_id}/deliveries/{sequence}"
    return DeliveryNotFound(f"{name} does not exist", delivery=name)


def taken(webhook: Webhook) -> AlreadyExists:
    return AlreadyExists(f"{webhook.name} exists already", webhook=webhook.id)


def too_many(most: int) -> FailedPrecondition:
    return FailedPrecondition(f"the tenant has {most} webhooks, as many as it may; delete one")


def not_while_disabled(webhook_id: str) -> FailedPrecondition:
    return FailedPrecondition(f"webhooks/{webhook_id} is disabled; enable it first", webhook=webhook_id)
