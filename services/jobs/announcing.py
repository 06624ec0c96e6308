"""Makes deliveries of what happens, for each webhook that wants it."""

from collections.abc import Callable
from typing import Final

import structlog

from services.jobs.events import TenantEvent
from services.jobs.ports_events import EventLog
from services.jobs.ports_webhooks import Outbox
from services.jobs.webhook import NewDelivery, WebhookState
from services.mesh.errors import DependencyUnavailable, EventsForgotten

_EVENTS_AT_ONCE: Final = 200


class Announcer:
    """Any number of processes may run it. Each event becomes a delivery once, if later where none of them runs.

    Args:
        body: What is sent of an event.
        told: Called when there are new deliveries.
    """

    def __init__(
        self,
        log: EventLog,
        outbox: Outbox,
        body: Callable[[TenantEvent], bytes],
        *,
        told: Callable[[], None] = lambda: None,
    ) -> None:
        self._events = log
        self._outbox = outbox
        self._body = body
        self._told = told
        self._log = structlog.get_logger("jobs.webhooks")

    async def run(self) -> None:
        """Follows what happens, from where it had got to before, until cancelled.

        Raises:
            DependencyUnavailable: the store does not answer; begin anew.
        """
        async for tenants in self._events.news():
            for tenant in tenants:
                await self._announce(tenant)

    async def _announce(self, tenant: str) -> None:
        try:
            await self.announce(tenant)
        except DependencyUnavailable:
            raise
        except Exception:  # another tenant's are made nevertheless; this one's when something happens in it again
            self._log.exception("deliveries cannot be made", tenant=tenant)

    async def announce(self, tenant: str) -> None:
        """Makes deliveries of all that happened in a tenant by now."""
        while True:
            after, webhooks = await self._outbox.progress(tenant)
            if not webhooks:
                return
            try:
                events = await self._events.read(tenant, after, _EVENTS_AT_ONCE)
            except EventsForgotten:
                await self._lost(tenant, after)
                return
            if not events:
                return
            enabled = [webhook for webhook in webhooks if webhook.state is WebhookState.ENABLED]
            deliveries = []
            for event in events:
                if wanting := [each.id for each in enabled if each.wants(event.topic, event.collection_id)]:
                    body = self._body(event)
                    deliveries += [
                        NewDelivery(
                            each,
                            event.sequence,
                            lane_of(event),
                            event.topic,
                            event.uid,
                            event.time,
                            body,
                            event.caused_by,
                        )
                        for each in wanting
                    ]
            if await self._outbox.record(tenant, after, events[-1].sequence, deliveries) and deliveries:
                self._told()

    async def _lost(self, tenant: str, after: int) -> None:
        """Says so to whoever would have been sent what is no longer kept, instead of going on as if nothing were."""
        last = (await self._events.span(tenant)).last
        self._log.error("events are lost to webhooks", tenant=tenant, after=after, upto=last)
        reason = f"events after {after} could not be delivered: they were no longer kept when their turn came"
        await self._outbox.record(tenant, after, last, [], lost=reason)


def lane_of(event: TenantEvent) -> str:
    """Events of one lane are delivered in order: those of a job, or of what else happens to a collection."""
    return f"job:{event.assignment.job_id}" if event.assignment else f"collection:{event.collection_id}"
