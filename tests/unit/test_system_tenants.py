"""A tenant's deletion is seen through, whoever dies on the way, and nothing that comes late stays."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from services.mesh.audit import AuditEvent
from services.mesh.errors import DependencyUnavailable, FailedPrecondition, RequestIdReused, TenantNotFound
from services.mesh.identity import Caller
from services.mesh.receipts import Receipt
from services.system.adapters.memory import MemoryTenantStore
from services.system.operators import Operators
from services.system.records import Tenant, TenantState
from services.system.tenants import Tenants
from tests.jobs_fakes import Killed, Trap

ANN = Caller("acme", "ann", frozenset({"admin"}))
EVE = Caller("globex", "eve", frozenset({"admin"}))
OPERATOR = Caller("operator", "olga", frozenset({"admin"}))
SETTLE = timedelta(seconds=60)
KEY = Receipt("acme", "DeleteTenant", "r1", "digest")


@dataclass
class FakeOwner:
    """Keeps things by tenant, gives up one of them a call; may be down. Steps tell a trap."""

    service: str
    kept: dict[str, list[str]] = field(default_factory=dict)
    barred: set[str] = field(default_factory=set)
    calls: list[str] = field(default_factory=list)
    down: bool = False

    async def erase(self, tenant: str) -> bool:
        if self.down:
            raise DependencyUnavailable(f"{self.service} is unavailable")
        self.calls.append(tenant)
        self.barred.add(tenant)
        mine = self.kept.get(tenant, [])
        if mine:
            mine.pop()
            return False
        return True

    async def admit(self, tenant: str) -> None:
        if self.down:
            raise DependencyUnavailable(f"{self.service} is unavailable")
        self.barred.discard(tenant)

    async def record(self, event: AuditEvent) -> None:
        self.kept.setdefault(event.tenant, [])
        if event.event_id not in self.kept[event.tenant]:
            self.kept[event.tenant].append(event.event_id)


@dataclass
class FakeDenials:
    denied: set[str] = field(default_factory=set)
    down: bool = False

    async def deny_tenant(self, tenant: str, *, creator: str, reason: str) -> None:
        if self.down:
            raise DependencyUnavailable("the deny list cannot be published")
        self.denied.add(tenant)

    async def allow_tenant(self, tenant: str) -> None:
        self.denied.discard(tenant)


@dataclass
class FakeCompaction:
    times: int = 0
    down: bool = False

    async def compact(self) -> None:
        if self.down:
            raise DependencyUnavailable("the store is still rewriting its log")
        self.times += 1


@dataclass
class World:
    """What outlives a process, and processes that work on it."""

    store: MemoryTenantStore = field(default_factory=MemoryTenantStore)
    records: FakeOwner = field(default_factory=lambda: FakeOwner("system", {"acme": ["quota", "event"]}))
    collections: FakeOwner = field(
        default_factory=lambda: FakeOwner("collections", {"acme": ["a", "b"], "globex": ["c"]})
    )
    jobs: FakeOwner = field(default_factory=lambda: FakeOwner("jobs", {"acme": ["j"]}))
    denials: FakeDenials = field(default_factory=FakeDenials)
    compaction: FakeCompaction = field(default_factory=FakeCompaction)
    now: datetime = datetime(2024, 5, 1, tzinfo=UTC)

    def process(self, trap: Trap | None = None) -> Tenants:
        def at(port: Any, *names: str) -> Any:
            return trap.on(port, *names) if trap else port

        return Tenants(
            at(self.store, "write"),
            at(self.records, "erase", "record"),
            at(self.denials, "deny_tenant", "allow_tenant"),
            [at(self.collections, "erase", "admit"), at(self.jobs, "erase", "admit")],
            at(self.compaction, "compact"),
            Operators("operator"),
            settle=SETTLE,
            clock=lambda: self.now,
        )

    async def see_through(self, tenants: Tenants, tenant: str = "acme") -> Tenant:
        """The tenant once its deletion has ended, time passing with every round."""
        for _ in range(20):
            await tenants.advance()
            found = await self.store.find(tenant)
            assert found is not None
            if found.state is TenantState.DELETED:
                return found
            self.now += timedelta(seconds=30)
        raise AssertionError("never deleted")


@pytest.fixture
def world() -> World:
    return World()


async def test_a_deletion_denies_erases_everywhere_and_says_when_nothing_is_left(world: World) -> None:
    tenants = world.process()
    asked = await tenants.delete("acme", ANN)
    assert (asked.state, asked.delete_time, asked.subject) == (TenantState.DELETING, world.now, "ann")
    assert [part.service for part in asked.parts] == ["collections", "jobs", "system"]
    await tenants.advance()
    assert world.denials.denied == {"acme"}
    gone = await world.see_through(tenants)
    assert gone.purge_time is not None
    assert gone.purge_time >= world.now - SETTLE
    assert all(part.erased for part in gone.parts)
    assert world.collections.kept == {"acme": [], "globex": ["c"]}
    assert world.jobs.kept["acme"] == []
    assert len(world.records.kept["acme"]) == 1  # the deletion itself
    assert world.compaction.times == 1
    assert await tenants.get("acme", OPERATOR) == gone
    assert (await tenants.get("globex", EVE)).state is TenantState.ACTIVE


async def test_what_is_written_late_is_erased_before_the_tenant_counts_as_deleted(world: World) -> None:
    tenants = world.process()
    await tenants.delete("acme", ANN)
    await tenants.advance()
    found = await world.store.find("acme")
    assert found is not None
    assert all(part.erased for part in found.parts)
    assert found.state is TenantState.DELETING
    world.jobs.kept["acme"].append("of a call that began before the denial")
    await world.see_through(tenants)
    assert world.jobs.kept["acme"] == []


async def test_nothing_is_erased_of_a_tenant_that_could_not_be_denied(world: World) -> None:
    world.denials.down = True
    tenants = world.process()
    await tenants.delete("acme", ANN)
    await tenants.advance()
    assert world.collections.calls == world.jobs.calls == []
    world.denials.down = False
    await world.see_through(tenants)


async def test_an_owner_that_is_down_is_named_and_waited_for(world: World) -> None:
    world.jobs.down = True
    tenants = world.process()
    await tenants.delete("acme", ANN)
    for _ in range(5):
        await tenants.advance()
        world.now += SETTLE
    waiting = await tenants.get("acme", OPERATOR)
    assert waiting.state is TenantState.DELETING
    assert (waiting.part("jobs").code, waiting.part("jobs").message) == (14, "jobs is unavailable")
    assert waiting.part("collections").confirmed
    world.jobs.down = False
    gone = await world.see_through(tenants)
    assert gone.part("jobs").code == 0


async def test_a_history_that_cannot_be_rewritten_yet_is_waited_for(world: World) -> None:
    world.compaction.down = True
    tenants = world.process()
    await tenants.delete("acme", ANN)
    for _ in range(5):
        await tenants.advance()
        world.now += SETTLE
    assert (await tenants.get("acme", OPERATOR)).state is TenantState.DELETING
    world.compaction.down = False
    await world.see_through(tenants)


async def test_a_process_killed_at_any_step_leaves_nothing_that_the_next_does_not_end() -> None:
    for at in range(200):
        world, trap = World(), Trap()
        await world.process().delete("acme", ANN)
        trap.at = at
        killed = False
        try:
            await world.see_through(world.process(trap))
        except (Killed, BaseExceptionGroup):
            killed = True
        gone = await world.see_through(world.process())
        assert gone.state is TenantState.DELETED, at
        assert world.collections.kept == {"acme": [], "globex": ["c"]}, at
        assert world.jobs.kept["acme"] == [], at
        assert len(world.records.kept["acme"]) == 1, at
        if not killed:
            assert at > 20
            return
    raise AssertionError("more steps than expected")


async def test_two_processes_at_once_do_no_harm(world: World) -> None:
    one, two = world.process(), world.process()
    await one.delete("acme", ANN)
    for _ in range(10):
        await two.advance()
        await one.advance()
        world.now += SETTLE / 3
    assert (await one.get("acme", OPERATOR)).state is TenantState.DELETED
    assert len(world.records.kept["acme"]) == 1


@pytest.mark.parametrize("who", [EVE, replace(OPERATOR, scopes=frozenset({"collections.write"}))])
async def test_another_tenant_is_not_found(world: World, who: Caller) -> None:
    tenants = world.process()
    attempts: list[Callable[[], Any]] = [
        lambda: tenants.get("acme", who),
        lambda: tenants.delete("acme", who),
        lambda: tenants.restore("acme", who),
    ]
    for attempt in attempts:
        with pytest.raises(TenantNotFound):
            await attempt()
    assert await world.store.deleting() == []


async def test_the_operators_own_tenant_stays(world: World) -> None:
    with pytest.raises(FailedPrecondition):
        await world.process().delete("operator", OPERATOR)


async def test_validation_records_nothing(world: World) -> None:
    told = await world.process().delete("acme", ANN, validate_only=True)
    assert told.state is TenantState.DELETING
    assert await world.store.find("acme") is None


async def test_a_deletion_asked_for_again_is_the_same_one(world: World) -> None:
    tenants = world.process()
    first = await tenants.delete("acme", ANN, receipt=KEY)
    world.now += SETTLE
    assert await tenants.delete("acme", ANN, receipt=KEY) == first
    assert await tenants.delete("acme", OPERATOR) == first
    with pytest.raises(RequestIdReused):
        await tenants.delete("acme", ANN, receipt=replace(KEY, digest="other"))


async def test_a_deleted_tenant_returns_empty_when_an_operator_says_so_and_not_before(world: World) -> None:
    tenants = world.process()
    await tenants.delete("acme", ANN)
    with pytest.raises(FailedPrecondition, match="still being erased"):
        await tenants.restore("acme", OPERATOR)
    await world.see_through(tenants)
    with pytest.raises(TenantNotFound):
        await tenants.restore("acme", ANN)
    assert (await tenants.restore("acme", OPERATOR, validate_only=True)).state is TenantState.ACTIVE
    assert world.denials.denied == {"acme"}
    world.jobs.down = True
    with pytest.raises(DependencyUnavailable):
        await tenants.restore("acme", OPERATOR)
    assert world.denials.denied == {"acme"}
    world.jobs.down = False
    for _ in range(2):
        assert (await tenants.restore("acme", OPERATOR)).state is TenantState.ACTIVE
    assert world.denials.denied == world.jobs.barred == world.collections.barred - {"acme"} == set()
    again = await tenants.delete("acme", ANN)
    assert again.state is TenantState.DELETING


async def test_a_return_asked_for_again_is_the_same_one_whatever_came_after(world: World) -> None:
    tenants = world.process()
    await tenants.delete("acme", ANN)
    await world.see_through(tenants)
    first = await tenants.restore("acme", OPERATOR, receipt=KEY)
    again = await tenants.delete("acme", ANN)
    assert await tenants.restore("acme", OPERATOR, receipt=KEY) == first
    assert await tenants.get("acme", OPERATOR) == again
    with pytest.raises(RequestIdReused):
        await tenants.restore("acme", OPERATOR, receipt=replace(KEY, digest="other"))


async def test_a_deletion_begins_at_once_where_it_was_asked_for(world: World) -> None:
    tenants = world.process()
    async with tenants.running():
        await tenants.delete("acme", ANN)
        while "acme" not in world.jobs.calls:
            await asyncio.sleep(0)
