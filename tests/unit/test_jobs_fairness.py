"""How what a worker can do at a time is shared by tenants."""

import asyncio
from collections import Counter

import pytest

from services.jobs.fairness import Capacity, Turns


@pytest.mark.parametrize(
    ("held", "full"),
    [
        ({}, set()),
        ({"a": 3}, set()),
        ({"a": 4}, {"a"}),
        ({"a": 4, "b": 1}, {"a"}),
        ({"a": 4, "b": 2}, {"a", "b"}),
        ({"a": 1, "b": 2}, set()),
        ({"a": 2, "b": 2}, {"a", "b"}),
        ({"a": 4, "b": 2, "c": 2}, None),
    ],
)
def test_a_tenant_gets_all_there_is_and_others_as_much_again_between_them(
    held: dict[str, int], full: set[str] | None
) -> None:
    assert Capacity(4).full(Counter(held)) == full


def test_where_one_goes_at_a_time_another_tenant_goes_beside_it() -> None:
    assert Capacity(1).full(Counter(a=1)) == {"a"}
    assert Capacity(1).full(Counter(a=1, b=1)) is None


class Asked:
    """Those who want a turn and end when they are told; `begun` says in which order they got one."""

    def __init__(self, count: int) -> None:
        self.turns = Turns(count)
        self.begun: list[str] = []
        self.may_end: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    def ask(self, tenant: str, name: str) -> None:
        async def go() -> None:
            async with self.turns.of(tenant):
                self.begun.append(name)
                await self.may_end[name].wait()

        self.may_end[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(go())

    async def end(self, name: str) -> None:
        self.may_end[name].set()
        await self.tasks[name]
        await settled()


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_those_who_wait_go_by_tenant_in_turns() -> None:
    asked = Asked(2)
    for at in range(5):
        asked.ask("many", f"m{at}")
    asked.ask("few", "f0")
    asked.ask("few", "f1")
    await settled()
    assert asked.begun == ["m0", "m1", "f0"]
    await asked.end("m0")
    assert asked.begun[3:] == []  # two are under way, one of each
    await asked.end("f0")
    assert asked.begun[3:] == ["m2", "f1"]
    await asked.end("f1")
    assert asked.begun[5:] == []
    await asked.end("m1")
    assert asked.begun[5:] == ["m3"]
    for name in ("m2", "m3", "m4"):
        await asked.end(name)


async def test_whoever_holds_every_turn_for_long_keeps_no_other_tenant_waiting() -> None:
    asked = Asked(2)
    for at in range(100):
        asked.ask("many", f"m{at}")
    await settled()
    for at in range(5):
        asked.ask("few", f"f{at}")
        await settled()
        assert asked.begun[-1] == f"f{at}"
        await asked.end(f"f{at}")
    assert asked.begun[:2] == ["m0", "m1"]
    assert len([name for name in asked.begun if name.startswith("m")]) == 2
    for task in asked.tasks.values():
        task.cancel()
    await asyncio.gather(*asked.tasks.values(), return_exceptions=True)


@pytest.mark.parametrize("when", ["waiting", "granted", "ahead"])
async def test_whoever_goes_away_leaves_its_turn_to_the_next(when: str) -> None:
    asked = Asked(1)
    asked.ask("a", "first")
    asked.ask("a", "second")
    asked.ask("a", "third")
    if when == "waiting":
        await settled()
        asked.tasks["second"].cancel()
        await asked.end("first")
    elif when == "granted":
        await settled()
        asked.may_end["first"].set()
        await asyncio.wait({asked.tasks["first"]})
        asked.tasks["second"].cancel()
    else:
        await settled()
        asked.tasks["first"].cancel()
        await settled()
        await asked.end("second")
    await settled()
    assert asked.begun[-1] == "third"
    await asked.end("third")
