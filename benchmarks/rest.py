"""Users over REST, by the scenarios of benchmarks/k6."""

import asyncio
import json
import os
import random
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.plan import Plan
from benchmarks.results import Bar, Outcome, Table
from benchmarks.rig import Rig
from benchmarks.tools import found_tool

SCENARIOS: Final = {
    "ramp": "10, 50, 100 users who think 0.5 to 1.5 s",
    "spike": "10 users, of a sudden 300",
    "mixed": "500 requests/s, 2 % writes",
}
_FOLDER: Final = Path(__file__).parent / "k6"
_INBOX: Final = "inbox"
_QUESTIONS: Final = 1000
# For a quick look.
_FEW: Final = 20
# A scenario has phases, and takes so many times as long as one turn of another contest.
_LONGER: Final = 7.5
# k6 ends so where a threshold was crossed.
_CROSSED: Final = 99
_ABOUT: Final = (
    f"k6 through the edge. Searches are drawn from {_QUESTIONS:,} questions by Zipf's law, each asked once beforehand. "
    "The mixed load is open: 90 % searches, 8 % reads of the collection and its documents, 1 % changes of another "
    "collection and 1 % documents made in it; what cannot be begun in time is dropped, and counts as an error."
)


@dataclass(frozen=True)
class Summary:
    """What k6 says of a scenario.

    Attributes:
        errors: Requests that failed or were never begun, and searches without hits; `asked` counts them, too.
        crossed: Thresholds that were not kept.
    """

    per_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    errors: int
    asked: int
    crossed: Sequence[str]

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> "Summary":
        """Reads what handleSummary was given."""
        metrics = told["metrics"]
        took, requests = metrics["http_req_duration"]["values"], metrics["http_reqs"]["values"]
        crossed = [
            f"{name} {threshold}"
            for name, metric in metrics.items()
            for threshold, kept in metric.get("thresholds", {}).items()
            if not kept["ok"]
        ]
        dropped = metrics.get("dropped_iterations", {"values": {"count": 0}})["values"]["count"]
        # A rate counts as passes what was true: of requests, that they failed.
        failed, unsound = metrics["http_req_failed"]["values"]["passes"], metrics["checks"]["values"]["fails"]
        return cls(
            per_s=requests["rate"],
            p50_ms=took["med"],
            p95_ms=took["p(95)"],
            p99_ms=took["p(99)"],
            errors=int(max(failed, unsound) + dropped),
            asked=int(requests["count"] + dropped),
            crossed=crossed,
        )


async def run(rig: Rig, plan: Plan) -> Outcome:
    """Every scenario once a round; says that it is left out where there is no k6."""
    k6 = found_tool("k6")
    if k6 is None:
        print("k6 is not installed, so its scenarios are left out: make bench-k6 installs it", flush=True)
        return Outcome("Left out: k6 is not installed.", bars=[bar(None)])
    questions = _questions(rig)
    environment = {**os.environ, **_environment(rig, questions, plan)}
    found: dict[str, list[Summary]] = {scenario: [] for scenario in SCENARIOS}
    for round_ in range(1, plan.rounds + 1):
        for scenario in SCENARIOS:
            await asyncio.to_thread(_ask_each, rig, questions)
            summary = await asyncio.to_thread(_run, k6, scenario, environment)
            found[scenario].append(summary)
            print(f"k6 {scenario}, round {round_} of {plan.rounds}: {summary}", flush=True)
    return Outcome(_ABOUT, bars=[bar(found["mixed"])], tables=[_table(found)])


def _run(k6: str, scenario: str, environment: Mapping[str, str]) -> Summary:
    command = [k6, "run", "--quiet", "--no-usage-report", str(_FOLDER / f"{scenario}.js")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode not in (0, _CROSSED):
        raise RuntimeError(f"k6 ended with {done.returncode}: {done.stderr[-2000:]}")
    return Summary.of(json.loads(Path(environment["SUMMARY"]).read_text()))


def _environment(rig: Rig, questions: Sequence[str], plan: Plan) -> dict[str, str]:
    file = rig.folder / "questions.json"
    file.write_text(json.dumps(questions))
    with rig.client() as client:
        client.create_collection(_INBOX)
    return {
        "EDGE": rig.mesh.layout.url,
        "TOKEN": rig.token("admin"),
        "COLLECTION": rig.collection,
        "INBOX": _INBOX,
        "QUESTIONS": str(file),
        "SECONDS": str(plan.seconds * _LONGER),
        "SUMMARY": str(rig.folder / "k6.json"),
    }


def _questions(rig: Rig) -> list[str]:
    draw = random.Random(rig.seed)  # noqa: S311  (picks words, guards nothing)
    number = _QUESTIONS if rig.documents is None else _FEW
    return [" ".join(draw.sample(rig.words, 6)) for _ in range(number)]


def _ask_each(rig: Rig, questions: Sequence[str]) -> None:
    """So that the cache knows them, as it does after a while."""
    with rig.client() as client:
        for question in questions:
            client.search(question, rig.collection)


def bar(summaries: Sequence[Summary] | None) -> Bar:
    """What is asked of the mixed load, and what it came to; without k6, that it was not measured."""
    asked = "mixed load of 500 requests/s: p95 < 500 ms, p99 < 1 s, 0 errors"
    if summaries is None:
        return Bar(3, asked, "k6 is not installed", None)
    p95_ms, p99_ms = _median(summaries, "p95_ms"), _median(summaries, "p99_ms")
    errors = sum(each.errors for each in summaries)
    measured = f"p95 {p95_ms:.0f} ms, p99 {p99_ms:.0f} ms, {errors} errors of {sum(s.asked for s in summaries):,}"
    return Bar(3, asked, measured, p95_ms < 500 and p99_ms < 1000 and not errors)


def _table(found: Mapping[str, Sequence[Summary]]) -> Table:
    columns = ["scenario", "what", "requests/s", "p50 ms", "p95 ms", "p99 ms", "errors", "thresholds crossed"]
    rows = [
        [
            scenario,
            SCENARIOS[scenario],
            f"{_median(summaries, 'per_s'):.0f}",
            *(f"{_median(summaries, figure):.1f}" for figure in ("p50_ms", "p95_ms", "p99_ms")),
            f"{sum(each.errors for each in summaries)} of {sum(each.asked for each in summaries):,}",
            ", ".join(sorted({each for summary in summaries for each in summary.crossed})) or "none",
        ]
        for scenario, summaries in found.items()
    ]
    return Table("REST by k6, medians of the rounds, errors of all", columns, rows)


def _median(summaries: Sequence[Summary], figure: str) -> float:
    return statistics.median(getattr(each, figure) for each in summaries)
