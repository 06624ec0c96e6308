"""What becomes of the whole by what its parts report, who is told, and how often they are asked."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from services.mesh.identity import Caller
from services.mesh.reports import ProcessReport, State
from services.system.adapters.grpc_processes import addresses_of
from services.system.health import Deployment, DeploymentReport
from services.system.operators import Operators
from services.system.settings import Settings

SERVING, DEGRADED, DOWN = State.SERVING, State.DEGRADED, State.DOWN
OPERATOR = Caller("operator", "olga", frozenset({"admin"}))
ANN = Caller("acme", "ann", frozenset({"admin"}))
STRANGER = Caller("public", "anonymous", anonymous=True)


@dataclass
class FakeProcesses:
    """Reports what it is told to; waits first where it is told to."""

    service: str
    states: Sequence[State]
    waits: asyncio.Event | None = None
    looks: int = 0
    looking: asyncio.Event = field(default_factory=asyncio.Event)

    async def look(self) -> Sequence[ProcessReport]:
        self.looks += 1
        self.looking.set()
        if self.waits:
            await self.waits.wait()
        return [ProcessReport(f"{self.service}-{n}", state) for n, state in enumerate(self.states, 1)]


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def deployment(*services: FakeProcesses, clock: Clock | None = None) -> Deployment:
    operators = Operators("operator")
    return Deployment(services, operators, version="1.2.3", commit="abc", clock=clock or Clock())


async def whole(**states: Sequence[State]) -> DeploymentReport:
    services = [FakeProcesses(*each) for each in states.items()]
    return await deployment(*services).health(OPERATOR)


@pytest.mark.parametrize(
    ("retrieval", "jobs", "state"),
    [
        ([SERVING], [SERVING], SERVING),
        ([SERVING, SERVING], [SERVING], SERVING),
        ([DEGRADED], [SERVING], DEGRADED),
        ([SERVING, DOWN], [SERVING], DEGRADED),
        ([SERVING], [DOWN], DEGRADED),
        ([SERVING], [], DEGRADED),
        ([DOWN, DOWN], [SERVING], DOWN),
        ([], [SERVING], DOWN),
        ([DOWN], [DOWN], DOWN),
    ],
)
async def test_it_is_down_where_nothing_can_be_searched_and_degraded_where_anything_else_is_amiss(
    retrieval: list[State], jobs: list[State], state: State
) -> None:
    assert (await whole(retrieval=retrieval, jobs=jobs)).state is state


async def test_a_service_is_down_where_none_of_its_processes_serves() -> None:
    found = await whole(a=[SERVING, SERVING], b=[SERVING, DOWN], c=[DOWN, DOWN], d=[], e=[DOWN, DEGRADED])
    assert [each.state for each in found.services] == [SERVING, DEGRADED, DOWN, DOWN, DEGRADED]
    assert [each.name for each in found.services[1].processes] == ["b-1", "b-2"]


async def test_strangers_and_tenants_learn_state_and_version_and_operators_the_rest() -> None:
    one = deployment(FakeProcesses("retrieval", [DEGRADED]))
    for who in (ANN, STRANGER, Caller("operator", "eve", frozenset({"search"}))):
        told = await one.health(who)
        assert (told.state, told.version, told.services) == (DEGRADED, "1.2.3", ())
        assert (one.what_runs(who).version, one.what_runs(who).commit) == ("1.2.3", "")
    assert (await one.health(OPERATOR)).services
    assert one.what_runs(OPERATOR).commit == "abc"


async def test_many_who_ask_at_a_time_cost_one_look_and_so_does_a_second_of_them() -> None:
    clock, gate = Clock(), asyncio.Event()
    service = FakeProcesses("retrieval", [SERVING], waits=gate)
    one = deployment(service, clock=clock)
    asked = [asyncio.create_task(one.health(STRANGER)) for _ in range(20)]
    await service.looking.wait()
    asked[0].cancel()  # whoever began the look
    gate.set()
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert {each.state for each in answers if isinstance(each, DeploymentReport)} == {SERVING}
    assert sum(isinstance(each, asyncio.CancelledError) for each in answers) == 1
    clock.now = 0.9
    await one.health(STRANGER)
    assert service.looks == 1
    clock.now = 1.1
    await one.health(STRANGER)
    assert service.looks == 2


async def test_a_service_that_hangs_is_down_and_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.system.health._LOOK_S", 0.01)
    hung = FakeProcesses("jobs", [SERVING], waits=asyncio.Event())
    found = await deployment(hung, FakeProcesses("retrieval", [SERVING])).health(OPERATOR)
    assert [(each.name, each.state) for each in found.services] == [("jobs", DOWN), ("retrieval", SERVING)]
    assert found.state is DEGRADED


async def test_a_look_that_fails_is_not_the_last() -> None:
    class Broken(FakeProcesses):
        async def look(self) -> Sequence[ProcessReport]:
            if not self.looks:
                self.looks += 1
                raise RuntimeError("a defect")
            return await super().look()

    one = deployment(Broken("retrieval", [SERVING]))
    with pytest.raises(RuntimeError):
        await one.health(OPERATOR)
    assert (await one.health(OPERATOR)).state is SERVING


@pytest.mark.parametrize(
    ("target", "addresses"),
    [
        ("127.0.0.1:50051", ["127.0.0.1:50051"]),
        ("[::1]:50051", ["[::1]:50051"]),
        ("ipv4:127.0.0.1:1,127.0.0.1:2", ["127.0.0.1:1", "127.0.0.1:2"]),
        ("ipv6:[::1]:1,[::1]:2", ["[::1]:1", "[::1]:2"]),
        ("dns:///127.0.0.1:7", ["127.0.0.1:7"]),
        ("unix:/run/jobs.sock", ["unix:/run/jobs.sock"]),
        ("localhost:80", ["127.0.0.1:80"]),
        ("dns:///no-such-host.invalid:80", []),
    ],
)
async def test_each_address_of_a_target_is_asked(target: str, addresses: list[str]) -> None:
    assert await addresses_of(target) == addresses


def test_what_is_vital_must_be_a_service() -> None:
    assert Settings(vital_services="retrieval, jobs").vital_services == ("retrieval", "jobs")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not all of them are services"):
        Settings(vital_services="retreival")  # type: ignore[arg-type]
