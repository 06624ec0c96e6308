"""Sends deliveries to their webhooks, each at its time and in the order of its lane."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress

import structlog
from opentelemetry.semconv.attributes.http_attributes import HTTP_REQUEST_METHOD, HTTP_RESPONSE_STATUS_CODE
from prometheus_client import REGISTRY, CollectorRegistry

from services.jobs.figures import DeliveryFigures
from services.jobs.ports_web import Web
from services.jobs.ports_webhooks import Outbox
from services.jobs.webhook import Schedule, Turn
from services.mesh import traces
from services.mesh.errors import AddressNotAllowed, DependencyUnavailable, LeaseLost, Unreachable

# How often the outbox is looked into for what other processes put there.
_LOOK_S = 0.5
_STORE_PAUSE_S = 0.2
_MESSAGE_LENGTH = 512


class Deliverer:
    """Any number of processes may run it, and each may be killed: what one was sending is sent again by another.

    Args:
        slots: Deliveries it has under way at a time.
    """

    def __init__(
        self, outbox: Outbox, web: Web, schedule: Schedule, *, slots: int, registry: CollectorRegistry = REGISTRY
    ) -> None:
        self._outbox = outbox
        self._web = web
        self._schedule = schedule
        self._slots = slots
        self._figures = DeliveryFigures(registry)
        self._sending: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._log = structlog.get_logger("jobs.webhooks")

    async def run(self) -> None:
        """Sends until cancelled; what is being sent then is sent again after its lease.

        Raises:
            DependencyUnavailable: there are no deliveries to be had; begin anew.
        """
        try:
            while True:
                self._changed.clear()
                pause_s = min(_LOOK_S, await self._begin())
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause_s):
                        await self._changed.wait()
        finally:
            for task in self._sending:
                task.cancel()
            await asyncio.gather(*self._sending, return_exceptions=True)

    def look(self) -> None:
        """There may be something to send."""
        self._changed.set()

    async def deliver(self) -> None:
        """Sends what is to be sent now, and what has its turn after that, until nothing is left but to wait."""
        while True:
            self._changed.clear()
            await self._begin()
            if self._sending:
                await asyncio.wait(self._sending, return_when=asyncio.FIRST_COMPLETED)
            elif not self._changed.is_set():
                return

    async def _begin(self) -> float:
        """Begins to send what is to be sent now; returns in how many seconds to look again, at the latest."""
        free = self._slots - len(self._sending)
        if not free:
            return _LOOK_S
        asked_s = asyncio.get_running_loop().time()
        taken = await self._outbox.take(free)
        for turn in taken.turns:
            task = asyncio.create_task(self._send(turn, asked_s))
            self._sending.add(task)
            task.add_done_callback(self._ended)
        return _LOOK_S if taken.more_in_s is None or len(taken.turns) == free else taken.more_in_s

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._sending.discard(task)
        self._changed.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.error("a delivery broke; it is sent again after its lease", exc_info=error)

    async def _send(self, turn: Turn, asked_s: float) -> None:
        webhook, delivery = turn.webhook, turn.delivery
        piece = f"{webhook.id}:{delivery.sequence}"
        about: Mapping[str, str | int] = {
            "tenant": webhook.tenant,
            "webhook": webhook.id,
            "delivery": delivery.sequence,
            "attempt": delivery.attempts,
        }
        with traces.begun("DELIVERY", turn.caused_by, request_id=piece, about=about):
            await self._to_its_end(turn, asked_s)

    async def _to_its_end(self, turn: Turn, asked_s: float) -> None:
        if asyncio.get_running_loop().time() - asked_s > turn.lease_s / 2:
            # This process slept. Another may have sent this one and the next by now: it would come out of order.
            self._log.warning("too late to be sent")
            return
        status, error = await post(self._web, turn)
        sent = self._schedule.after(turn, status, error)
        if sent.error:  # which may show a uri, and with it what only its receiver should know
            self._log.info("not delivered", state=str(sent.state), status=status)
            traces.failed(str(status) if status else "UNREACHABLE")
        if sent.disable:
            self._log.warning("webhook disabled", reason=sent.disable)
        while True:
            try:
                await self._outbox.finish(turn, sent)
                self._figures.sent(sent)
                return
            except DependencyUnavailable:
                await asyncio.sleep(_STORE_PAUSE_S)
            except LeaseLost:
                self._log.warning("delivered by another meanwhile, or no longer wanted")
                return


async def post(web: Web, turn: Turn) -> tuple[int, str]:
    """The status a delivery was answered with; or 0, and why there was no answer. The answer itself is not read."""
    webhook, delivery = turn.webhook, turn.delivery
    signed = webhook.headers(delivery.event_uid, turn.body, turn.now)
    try:
        with traces.part("POST", {HTTP_REQUEST_METHOD: "POST"}) as part:
            status = await web.post(webhook.uri, turn.body, {**signed, **traces.headers(part)})
            part.note(HTTP_RESPONSE_STATUS_CODE, status)
        return status, ""
    except (AddressNotAllowed, Unreachable) as error:
        return 0, error.message[:_MESSAGE_LENGTH]
