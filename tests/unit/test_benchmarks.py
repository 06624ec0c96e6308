"""What `make bench` counts, compares and writes down; of recorded samples, and of contestants that answer at once."""

import asyncio
import itertools
import json
import xml.etree.ElementTree
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from benchmarks import cached, page, results, uncached
from benchmarks.__main__ import record
from benchmarks.measure import (
    Ask,
    Calling,
    Measured,
    Refused,
    Sample,
    Taken,
    Working,
    measure,
    never_repeated,
    percentile,
    repeated,
)
from benchmarks.results import Bar, Outcome, Run, Table

# Longer than a test: its questions end before.
_LONG_S = 3600.0
RUN = Run("python -m benchmarks", "2 cores", {"Python": "3.11"}, "abc", 0.1, "2026-11-21 12:00 UTC")


def sample(per_s: float, p50_ms: float, p95_ms: float = 20.0, errors: int = 0) -> Sample:
    return Sample(per_s, p50_ms, p95_ms, 30.0, 100, errors, cpu_us={"envoy": 250.0, "load": 20.0})


def measured(name: str = "1 at a time", **samples: Sequence[Sample]) -> Measured:
    """Where "ours" is held to "limit"."""
    return Measured(name, 1, 4.0, {"ours": "limit"} if "ours" in samples else {}, samples)


class Scripted:
    """Answers as many questions a second as it is told to, load by load."""

    def __init__(self, name: str, answers: Sequence[int], order: list[str]) -> None:
        self.name = name
        self.asked: list[str] = []
        self._answers = iter(answers)
        self._order = order

    async def load(self, callers: int, seconds: float, questions: Iterator[str]) -> Taken:
        self._order.append(self.name)
        self.asked.append(next(questions))
        answers = next(self._answers)
        return Taken(seconds, [5.0] * answers, answers, errors=1, error="once")

    def processor_s(self) -> Mapping[str, float]:
        return {"engine": len(self.asked) * 0.5}


async def test_contestants_take_turns_and_are_compared_round_by_round() -> None:
    order: list[str] = []
    ours, limit = Scripted("ours", [50, 40, 90], order), Scripted("limit", [100, 100, 100], order)
    found = await measure(
        "m", [ours, limit], repeated("q"), callers=2, rounds=3, seconds=2.0, against={"ours": "limit"}, tell=len
    )
    assert [set(order[begin : begin + 2]) for begin in (0, 2, 4)] == [{"ours", "limit"}] * 3
    assert found.ratios("ours", "per_s") == [0.5, 0.4, 0.9]
    assert found.ratio("ours", "per_s") == 0.5
    assert found.median("ours", "per_s") == 25.0
    assert found.spread("ours", "per_s") == (20.0, 45.0)
    assert found.errors("ours") == 3
    assert found.samples["limit"][0].cpu_us["engine"] == pytest.approx(0.5 / 100 * 1e6)


async def test_who_answers_nothing_ends_the_measure_with_the_reason() -> None:
    with pytest.raises(RuntimeError, match="silent answered nothing within 1 s: once"):
        await measure(
            "m", [Scripted("silent", [0], [])], repeated("q"), callers=1, rounds=1, seconds=1.0, against={}, tell=len
        )


async def test_every_caller_asks_again_once_answered_and_refusals_are_counted_apart() -> None:
    asked: list[list[str]] = [[], []]

    @asynccontextmanager
    async def opening(callers: int) -> AsyncIterator[Sequence[Ask]]:
        yield [asking(of) for of in asked[:callers]]

    def asking(of: list[str]) -> Ask:
        async def ask(question: str) -> None:
            of.append(question)
            await asyncio.sleep(0)
            if len(of) == 2:
                raise Refused("busy")

        return ask

    taken = await Calling("c", opening).load(2, _LONG_S, map(str, range(20)))
    assert taken.errors == 2 and taken.error == "busy"
    assert len(taken.ms) == taken.in_time == 20 - 2 - 2  # less the first of each, which is not counted
    assert sorted(map(int, [*asked[0], *asked[1]])) == list(range(20))


async def test_nothing_is_asked_once_time_is_up() -> None:
    asked: list[str] = []

    @asynccontextmanager
    async def opening(callers: int) -> AsyncIterator[Sequence[Ask]]:
        async def ask(question: str) -> None:
            asked.append(question)

        yield [ask]

    assert (await Calling("c", opening).load(1, 0.0, itertools.repeat("q"))).ms == []
    assert (await Working("w", asked.append).load(2, 0.0, itertools.repeat("q"))).ms == []
    assert asked == ["q", "q"]


async def test_who_refuses_the_first_question_is_not_measured() -> None:
    async def refuse(question: str) -> None:
        raise Refused("not serving")

    @asynccontextmanager
    async def opening(callers: int) -> AsyncIterator[Sequence[Ask]]:
        yield [refuse] * callers

    with pytest.raises(RuntimeError, match="not serving"):
        await Calling("c", opening).load(1, _LONG_S, itertools.repeat("q"))


async def test_threads_of_one_process_draw_from_the_same_questions() -> None:
    asked: list[str] = []
    taken = await Working("w", asked.append).load(4, _LONG_S, map(str, range(100)))
    assert sorted(map(int, asked)) == list(range(100))
    assert len(taken.ms) == taken.in_time == 99


def test_questions_that_never_repeat_are_others_for_each_contestant_and_round() -> None:
    questions = never_repeated([f"word{number}" for number in range(50)], seed=7)
    drawn = [next(questions(name, round_)) for name in ("a", "b") for round_ in (1, 2)]
    assert len(set(drawn)) == 4
    assert drawn[0] == next(questions("a", 1))


def test_percentiles_are_of_what_was_seen() -> None:
    assert percentile([3.0], 99) == 3.0
    assert percentile([float(each) for each in range(1, 101)], 50) == 50.5
    assert percentile([1.0, 2.0], 99) <= 2.0


def cached_measure(rest: Sample, echo: Sample) -> Measured:
    of = {cached.REST: [rest], cached.ECHO_REST: [echo], cached.GRPC: [rest], cached.ECHO_GRPC: [echo]}
    return Measured("m", 1, 4.0, {cached.REST: cached.ECHO_REST, cached.GRPC: cached.ECHO_GRPC}, of)


def test_bars_of_cached_searches_are_met_from_what_is_asked_on() -> None:
    good, bad = (sample(600, 1.2, 6.7), sample(599, 1.21, 6.8))
    met = cached.bars(dict.fromkeys((1, 8, 50), cached_measure(good, sample(1000, 1.2 / 1.7))))
    missed = cached.bars(dict.fromkeys((1, 8, 50), cached_measure(bad, sample(1000, 1.2 / 1.7))))
    assert [bar.number for bar in met] == [1, 1, 3, 3, 3, 3]
    assert all(bar.met for bar in met)
    assert not any(bar.met for bar in missed)
    assert met[0].measured == "60.0%"


def test_bars_of_uncached_searches_hold_one_caller_to_the_faster_layout() -> None:
    def one(grpc_ms: float, rest_ms: float) -> Measured:
        of = {
            uncached.BARE: [sample(200, 5.0)],
            uncached.BARE_OF_TWO: [sample(300, 3.0)],
            uncached.GRPC: [sample(100, grpc_ms)],
            uncached.REST: [sample(100, rest_ms)],
        }
        return Measured("m", 1, 4.0, {}, of)

    many = Measured(
        "m", 16, 4.0, {uncached.GRPC: uncached.BARE}, {uncached.BARE: [sample(100, 5)], uncached.GRPC: [sample(84, 5)]}
    )
    assert [bar.met for bar in uncached.bars(one(4.5, 5.6), many)] == [True, False, False]
    assert uncached.bars(one(4.6, 5.5), many)[1].measured == "+2.50 ms on 3.00 ms"


def test_a_run_brings_its_own_suite_up_to_date_and_leaves_the_others(tmp_path: Path) -> None:
    (tmp_path / "benchmarks.md").write_text(f"# Mine\n\n{page.BEGIN}\nold figures\n{page.END}\n\nby hand\n")
    compared = measured(ours=[sample(500, 4), sample(700, 5)], limit=[sample(1000, 2), sample(1000, 2)])
    record(tmp_path, "uncached", RUN, Outcome("About that.", [compared], [Bar(2, "asked", "much", False)]))
    record(tmp_path, "cached", RUN, Outcome("About this.", bars=[Bar(1, "asked", "more", True)]))
    record(tmp_path, "cached", RUN, Outcome("About it.", tables=[Table("Sizes", ["a", "b"], [["1", "2"]])]))
    document = json.loads((tmp_path / "benchmarks.json").read_text())
    assert list(document["suites"]) == ["cached", "uncached"]
    ours = document["suites"]["uncached"]["measures"][0]["contestants"]["ours"]
    assert ours["per_s"] == {"median": 600, "spread": [500, 700]}
    assert ours["ratio"]["per_s"] == {"median": 0.6, "rounds": [0.5, 0.7]} and ours["against"] == "limit"
    assert len(ours["samples"]) == 2
    written = (tmp_path / "benchmarks.md").read_text()
    assert written.startswith("# Mine\n") and written.endswith("by hand\n")
    assert "old figures" not in written and "About this." not in written
    assert "| 2 | asked | much | **no** | uncached |" in written
    assert "| ours | 600 | 500 - 700 | limit | 60.0% (50% - 70%) | 2.25x | 4.50 |" in written
    assert "| limit | 1,000 | 1,000 - 1,000 |  |  |  | 2.00 |" in written
    assert "| 1 | 2 |" in written
    again = written
    page.update(tmp_path / "benchmarks.md", document)
    assert (tmp_path / "benchmarks.md").read_text() == again


def test_plots_stand_by_themselves(tmp_path: Path) -> None:
    (tmp_path / "benchmarks.md").write_text(f"{page.BEGIN}\n{page.END}\n")
    few = measured("8 at a time", limit=[sample(10, 1)])
    record(tmp_path, "cached", RUN, Outcome("", [measured(ours=[sample(5, 4)], limit=[sample(10, 2)]), few]))
    [plot] = (tmp_path / "benchmarks").iterdir()
    drawn = "".join(xml.etree.ElementTree.parse(plot).getroot().itertext())
    for said in ("1 at a time: answers a second", "8 at a time: ms, median", "ours", "limit"):
        assert said in drawn
    assert "href" not in plot.read_text()
    assert "](benchmarks/cached.svg)" in (tmp_path / "benchmarks.md").read_text()


def test_a_page_without_marks_is_not_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "benchmarks.md"
    file.write_text("all by hand\n")
    with pytest.raises(page.NoPlace):
        page.update(file, results.read(tmp_path / "none.json"))
    assert file.read_text() == "all by hand\n"
