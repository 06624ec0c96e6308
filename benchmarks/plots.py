"""Plots of measures, as SVG files that need nothing else."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import leather  # type: ignore[import-untyped]

Measure = Mapping[str, Any]

_WIDTH, _HEIGHT = 640, 280
# Of who is held to nobody, and of who is held to somebody.
_LIMIT, _OURS = "#9a9a9a", "#3a6ea5"
_FIGURES: Final = {"per_s": "answers a second", "p50_ms": "ms, median", "p95_ms": "ms, 95th percentile"}


def draw(folder: Path, suite: str, measures: Sequence[Measure]) -> list[str]:
    """Writes the suite's plots into the folder: their paths from the folder's parent."""
    if not measures:
        return []
    folder.mkdir(exist_ok=True)
    charts = [_chart(each, figure) for each in measures for figure in _FIGURES]
    grid = leather.Grid()
    grid.add_many(charts)
    columns = math.ceil(math.sqrt(len(charts)))  # as Grid lays them out
    rows = math.ceil(len(charts) / columns)
    file = folder / f"{suite}.svg"
    grid.to_svg(str(file), width=columns * _WIDTH, height=rows * _HEIGHT)
    return [f"{folder.name}/{file.name}"]


def _chart(measure: Measure, figure: str) -> Any:
    chart = leather.Chart(f"{measure['name']}: {_FIGURES[figure]}")
    bars = [(of[figure]["median"], name) for name, of in measure["contestants"].items()]
    chart.add_x_scale(0, max(value for value, _ in bars) or 1)
    limits = {name for name, of in measure["contestants"].items() if not of["against"]}
    chart.add_bars(bars, fill_color=lambda bar: _LIMIT if bar.y in limits else _OURS)
    return chart
