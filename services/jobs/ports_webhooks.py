"""What webhooks need of the world: where they and their deliveries rest."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from services.jobs.webhook import Delivery, NewDelivery, Sent, Turn, Webhook
from services.mesh.lists import ListQuery, Page
from services.mesh.receipts import Receipt


class WebhookStore(Protocol):
    """Webhooks as callers see them. Every method sees one tenant's only."""

    async def recall(self, receipt: Receipt) -> Webhook | None:
        """The answer to an earlier request of this receipt. Raises RequestIdReused."""
        ...

    async def add(self, webhook: Webhook, most: int, receipt: Receipt | None = None) -> Webhook:
        """Record a new webhook, to which what happens from now on is delivered, unless the tenant has `most`.

        Raises:
            AlreadyExists: one of its id exists.
            FailedPrecondition: the tenant has as many as it may.
            TenantDeleted: nothing is kept for the tenant.
            RequestIdReused: the receipt's id stands for another request.
        """
        ...

    async def change(
        self, tenant: str, webhook_id: str, change: Callable[[Webhook], Webhook], receipt: Receipt | None = None
    ) -> Webhook:
        """Record what `change` makes of a webhook as it is; what waits is sent at once.

        `change` is called anew where the webhook changed meanwhile; what it raises is raised.

        Raises:
            WebhookNotFound: the tenant has no such webhook.
            RequestIdReused: the receipt's id stands for another request.
        """
        ...

    async def remove(
        self, tenant: str, webhook_id: str, check: Callable[[Webhook], None], receipt: Receipt | None = None
    ) -> Webhook:
        """Forget a webhook and its deliveries, unless `check` raises; returns it as it was.

        Raises:
            WebhookNotFound: the tenant has no such webhook.
            RequestIdReused: the receipt's id stands for another request.
        """
        ...

    async def get(self, tenant: str, webhook_id: str) -> Webhook:
        """Raises WebhookNotFound."""
        ...

    async def all(self, tenant: str) -> list[Webhook]:
        """The tenant's webhooks, the oldest first."""
        ...

    async def list_deliveries(self, tenant: str, webhook_id: str, query: ListQuery) -> Page[Delivery]:
        """Raises WebhookNotFound."""
        ...

    async def replay(
        self,
        tenant: str,
        webhook_id: str,
        sequence: int,
        *,
        receipt: Receipt | None = None,
        validate_only: bool = False,
    ) -> Delivery:
        """Have a delivery sent again, as if it had never been: in its place among those of its lane that wait.

        One that is being sent right now stays as it is.

        Raises:
            DeliveryNotFound: there is none, or no such webhook.
            FailedPrecondition: the webhook is disabled.
            RequestIdReused: the receipt's id stands for another request.
        """
        ...


@dataclass(frozen=True, slots=True)
class Turns:
    """What is to be sent now.

    Attributes:
        more_in_s: When there is more; None where nothing waits.
    """

    turns: Sequence[Turn]
    more_in_s: float | None


class Outbox(Protocol):
    """Deliveries as those see them who make and send them: any number of processes, each of which may die."""

    async def progress(self, tenant: str) -> tuple[int, list[Webhook]]:
        """The sequence of the last event that deliveries were made of, and the tenant's webhooks."""
        ...

    async def record(
        self, tenant: str, after: int, upto: int, deliveries: Sequence[NewDelivery], *, lost: str = ""
    ) -> bool:
        """Make deliveries of the events up to `upto`, in one step with noting that.

        A webhook that is disabled gets none. One with too many that wait is disabled, and so are all of the tenant
        where events are `lost`: that is the reason.

        Returns:
            False, and nothing is done, where progress is not at `after`: another did so.
        """
        ...

    async def take(self, slots: int) -> Turns:
        """Up to `slots` deliveries to be sent now, tenants in turns, and of each lane the first that waits.

        Who is given one has it for the length of a lease; then another is given it. Of a webhook, and of a tenant, a
        bounded number is under way at a time, in all processes together.
        """
        ...

    async def finish(self, turn: Turn, sent: Sent) -> None:
        """Write down what became of it; then the next of its lane has its turn, unless it is to be sent again.

        Raises:
            LeaseLost: another has it by now, or there is no such delivery any more.
        """
        ...
