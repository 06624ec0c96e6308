"""What metrics tell of leases and deliveries."""

import time

import pytest
from prometheus_client import CollectorRegistry

from services.jobs.figures import DeliveryFigures, WorkFigures
from services.jobs.webhook import DeliveryState, Sent


def test_the_age_of_the_oldest_lease_is_told_and_none_where_nothing_is_leased() -> None:
    registry, held = CollectorRegistry(), [time.monotonic() - 40, time.monotonic() - 5]
    WorkFigures(registry).holds(lambda: held)
    assert registry.get_sample_value("ragweave_leases") == 2
    assert 40 <= (registry.get_sample_value("ragweave_lease_oldest_seconds") or 0) < 4000
    held.clear()
    assert registry.get_sample_value("ragweave_lease_oldest_seconds") == 0


@pytest.mark.parametrize(
    ("state", "outcome"),
    [(DeliveryState.DELIVERED, "delivered"), (DeliveryState.PENDING, "failed"), (DeliveryState.DEAD, "dead")],
)
def test_attempts_to_deliver_count_by_what_became_of_them(state: DeliveryState, outcome: str) -> None:
    registry = CollectorRegistry()
    figures = DeliveryFigures(registry)
    figures.sent(Sent(state))
    figures.sent(Sent(state, disable="nothing was delivered for five days"))
    assert registry.get_sample_value("ragweave_webhook_deliveries_total", {"outcome": outcome}) == 2
    assert registry.get_sample_value("ragweave_webhooks_disabled_total") == 1
