"""Whatever three tenants ask, over every RPC: none sees or changes what is another's."""

import asyncio
import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.e2e.doors import opened
from tests.e2e.stack import Mesh
from tests.e2e.tenancy import TENANTS, Campaign, never_reached, summary
from tests.e2e.test_identity import bearer

# `make soak-tenancy` sets 100,000.
CALLS = int(os.environ.get("TENANCY_CALLS", "500"))
BATCH = 100
# Batches for what chance has missed: the more methods there are, the likelier that is.
MORE = 8
# Operators only, or of another tenant: no call of these may succeed. A directory is empty, and its root the operator's.
# Deliveries are called by the numbers of their events: few calls find one, and whether any does is chance. No call here
# is cut off, so there is no upload to go on with: test_uploads.py has those.
NEVER = ("DeleteTenant", "RestoreTenant", "UpdateQuota", "ReplayDelivery", "GetUpload")


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.Runner]:
    """One event loop for all batches: the channels belong to it."""
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def campaign(mesh: Mesh, loop: asyncio.Runner) -> Iterator[Campaign]:
    headers = {
        tenant: bearer(mesh.token(tenant=tenant, subject=f"user-of-{tenant}", lifetime_s=24 * 3600))
        for tenant in TENANTS
    }
    doors = opened(mesh, endless_s=0.8)
    made = Campaign(loop.run(doors.__aenter__()), headers)
    try:
        loop.run(made.prepare(*TENANTS))
        yield made
    finally:
        loop.run(doors.__aexit__(None, None, None))


@pytest.mark.timeout(600 if CALLS <= 2000 else 6 * 3600)
def test_no_call_of_one_tenant_sees_or_changes_what_is_anothers(campaign: Campaign, loop: asyncio.Runner) -> None:
    @settings(
        max_examples=CALLS // BATCH,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate],  # a batch changes the mesh: it cannot be shrunk, only repeated by its seed
        suppress_health_check=list(HealthCheck),
    )
    @given(seed=st.integers(0, 2**64 - 1))
    def batches(seed: int) -> None:
        loop.run(campaign.batch(seed, BATCH))

    batches()
    for seed in range(MORE):
        if missed := never_reached(campaign, but=NEVER):
            loop.run(campaign.batch(seed, BATCH, often=missed))
    print(summary(campaign))
    assert campaign.calls >= CALLS
    assert campaign.own_seen > CALLS / 20, "hardly any answer held content: nothing was proved"
    assert never_reached(campaign, but=NEVER) == []
