"""A tenant sees its own limits; an operator sees and sets anybody's."""

from dataclasses import replace

import pytest

from services.mesh.errors import (
    DependencyUnavailable,
    EtagMismatch,
    InvalidArgument,
    PermissionDenied,
    QuotaNotFound,
    RequestIdReused,
)
from services.mesh.identity import Caller, caller
from services.mesh.quotas import Amounts
from services.mesh.receipts import Receipt
from services.system.adapters.memory import MemoryQuotaStore
from services.system.operators import Operators
from services.system.quotas import Quotas

DEFAULTS = Amounts(10, 20, 30, 40)
ANN = Caller("acme", "ann", frozenset({"admin", "collections.read"}))
OPERATOR = Caller("operator", "olga", frozenset({"admin", "collections.read"}))
KEY = Receipt("operator", "UpdateQuota", "r1", "digest")


class FakeUsage:
    """What each tenant keeps; may be down."""

    def __init__(self) -> None:
        self.down = False
        self.asked: list[str] = []

    async def of_caller(self) -> Amounts:
        self.asked.append(caller().tenant)
        if self.down:
            raise DependencyUnavailable("collections is unavailable")
        return Amounts(1, 2, 3, 4)


@pytest.fixture
def usage() -> FakeUsage:
    return FakeUsage()


@pytest.fixture
def quotas(usage: FakeUsage) -> Quotas:
    return Quotas(MemoryQuotaStore(), usage, Operators("operator"), defaults=DEFAULTS)


async def test_a_tenant_has_the_configured_limits_until_others_are_set(quotas: Quotas) -> None:
    found = await quotas.get("acme", ANN)
    assert (found.name, found.limits, found.usage, found.update_time) == (
        "quotas/acme",
        DEFAULTS,
        Amounts(1, 2, 3, 4),
        None,
    )
    assert (await quotas.get("acme", ANN)).etag == found.etag


async def test_anothers_quota_is_not_found_but_by_an_operator(quotas: Quotas, usage: FakeUsage) -> None:
    for attempt in (quotas.get("globex", ANN), quotas.update("globex", DEFAULTS, [], ANN)):
        with pytest.raises(QuotaNotFound, match="quotas/globex"):
            await attempt
    assert (await quotas.get("acme", OPERATOR)).limits == DEFAULTS
    assert usage.asked == ["acme"]


@pytest.mark.parametrize(
    "who",
    [
        ANN,
        replace(OPERATOR, scopes=frozenset({"collections.read"})),
        replace(OPERATOR, anonymous=True),
    ],
)
async def test_nobody_but_an_operator_sets_limits(quotas: Quotas, who: Caller) -> None:
    with pytest.raises((PermissionDenied, QuotaNotFound)):
        await quotas.update("acme", Amounts(1, 1, 1, 1), [], who)
    with pytest.raises(PermissionDenied):
        await quotas.update(who.tenant, Amounts(1, 1, 1, 1), [], who)
    assert await quotas.limits_of("acme") == DEFAULTS


async def test_the_limits_of_the_mask_change_and_no_other(quotas: Quotas) -> None:
    given = Amounts(collections=7, documents=0, chunks=9)
    changed = await quotas.update("acme", given, ["limits.documents", "limits.collections"], OPERATOR)
    assert changed.limits == await quotas.limits_of("acme") == Amounts(7, 0, 30, 40)
    assert changed.update_time is not None
    unmasked = await quotas.update("acme", Amounts(documents=5), [], OPERATOR)
    assert unmasked.limits == Amounts(7, 5, 30, 40)
    whole = await quotas.update("acme", Amounts(chunks=1), ["*"], OPERATOR)
    assert whole.limits == Amounts(0, 0, 1, 0)
    assert await quotas.limits_of("globex") == DEFAULTS


@pytest.mark.parametrize("path", ["limits.pages", "tenant", "limits.documents.more"])
async def test_a_path_that_is_no_limit_is_refused(quotas: Quotas, path: str) -> None:
    with pytest.raises(InvalidArgument, match="update_mask"):
        await quotas.update("acme", Amounts(), [path], OPERATOR)


async def test_a_stale_etag_is_refused_the_configured_ones_included(quotas: Quotas) -> None:
    configured = (await quotas.get("acme", OPERATOR)).etag
    changed = await quotas.update("acme", Amounts(documents=5), [], OPERATOR, etag=configured)
    with pytest.raises(EtagMismatch):
        await quotas.update("acme", Amounts(documents=6), [], OPERATOR, etag=configured)
    same = await quotas.update("acme", Amounts(documents=5), [], OPERATOR, etag=changed.etag.strip('"'))
    assert same == changed


async def test_validation_changes_nothing_and_refuses_what_the_change_would(quotas: Quotas) -> None:
    told = await quotas.update("acme", Amounts(documents=5), [], OPERATOR, validate_only=True)
    assert told.limits.documents == 5
    assert await quotas.limits_of("acme") == DEFAULTS
    with pytest.raises(EtagMismatch):
        await quotas.update("acme", Amounts(documents=5), [], OPERATOR, etag="stale", validate_only=True)


async def test_a_request_that_comes_again_is_done_once(quotas: Quotas) -> None:
    first = await quotas.update("acme", Amounts(documents=5), [], OPERATOR, receipt=KEY)
    await quotas.update("acme", Amounts(documents=6), [], OPERATOR)
    assert await quotas.update("acme", Amounts(documents=5), [], OPERATOR, receipt=KEY) == first
    assert (await quotas.limits_of("acme")).documents == 6
    with pytest.raises(RequestIdReused):
        await quotas.update("acme", Amounts(documents=7), [], OPERATOR, receipt=replace(KEY, digest="other"))


async def test_limits_are_set_while_the_registry_is_down_but_usage_is_not_made_up(
    quotas: Quotas, usage: FakeUsage
) -> None:
    usage.down = True
    assert (await quotas.update("acme", Amounts(documents=5), [], OPERATOR)).usage is None
    with pytest.raises(DependencyUnavailable):
        await quotas.get("acme", ANN)
