"""Kills are tried after every side effect there is: what counts as one is everything that is not known to be none."""

import inspect
from dataclasses import fields
from typing import Any, get_type_hints

import pytest

from services.jobs.pipeline import Tools
from tests.side_effects import READS, stepping


def ports() -> dict[str, type]:
    hints = get_type_hints(Tools)
    return {each.name: hints[each.name] for each in fields(Tools) if getattr(hints[each.name], "_is_protocol", False)}


def methods(port: type) -> set[str]:
    return {name for name, each in vars(port).items() if not name.startswith("_") and inspect.isfunction(each)}


def test_every_port_of_a_worker_is_stepped_through() -> None:
    assert set(ports()) == set(READS)


@pytest.mark.parametrize("port", READS)
def test_what_is_said_to_be_no_side_effect_is_a_method_of_its_port(port: str) -> None:
    known = set().union(*(methods(each) for each in ports()[port].__mro__))
    assert READS[port] <= known


async def test_each_side_effect_is_a_step_and_a_read_is_none() -> None:
    class Queue:
        async def commit(self) -> str:
            return "done"

        async def wait(self) -> str:
            return "waited"

    said: list[str] = []

    async def before(effect: str) -> None:
        said.append(f"before {effect}")

    async def after(effect: str) -> None:
        said.append(f"after {effect}")

    nothing: dict[str, Any] = {each.name: None for each in fields(Tools)}
    queue: Any = stepping(Tools(**{**nothing, "queue": Queue()}), before=before, after=after).queue
    assert [await queue.commit(), await queue.wait()] == ["done", "waited"]
    assert said == ["before queue.commit", "after queue.commit"]
