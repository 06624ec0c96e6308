"""What a growing index came to, as tables, bars and curves: a part of docs/scaling.md and scaling.json."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import leather  # type: ignore[import-untyped]

from benchmarks import page, results
from benchmarks.results import Bar, Outcome, Run, Table
from benchmarks.scale_mesh import Whole
from benchmarks.scale_store import CALLERS, Searched, Spread

_GIB: Final = 2**30
_MIB: Final = 2**20
_WIDTH, _HEIGHT = 800, 320
_ABOUT: Final = {
    "edge": "The embedded store as retrieval opens it. Searches give the ten best of what each asks for, and their "
    "chunks; each carries the filter of a caller who may see all that has no ACL. Times are those of the adapter: what "
    "travels to the engine process and back is in them. A cell is: median, 95th percentile, and in brackets the "
    "processor time of the engine.",
    "qdrant": "A collection on a Qdrant server through the adapter that retrieval uses. A cell is: median, 95th "
    "percentile.",
    "mesh": "The whole mesh with one collection, its chunks written through retrieval with their vectors made before. "
    "Memory is the proportional share (PSS) of every process, after ten seconds of rest.",
}


def record(out: Path, kind: str, run: Run, sizes: Sequence[Any]) -> None:
    """Writes down what a kind came to so far, in place of what it came to before."""
    outcome = _of_mesh(sizes) if kind == "mesh" else _of_store(kind, sizes)
    document = results.read(out / "scaling.json")
    told = results.told(replace(outcome, about=f"{outcome.about}\n\n{_curves(out, kind, sizes)}"), run)
    document["suites"][kind] = {**told, "sizes": [asdict(each) for each in sizes]}
    results.write(out / "scaling.json", document)
    page.update(out / "scaling.md", document)
    for bar in outcome.bars:
        print(f"bar {bar.number}: {bar.asked}: {bar.measured}: {'met' if bar.met else 'NOT MET'}", flush=True)


def _curves(out: Path, kind: str, sizes: Sequence[Any]) -> str:
    """Draws what searches take by size: the line that shows it on the page."""
    chart = leather.Chart("milliseconds (95th percentile) by the power of ten of chunks")
    for name, ms in _lines(kind, sizes).items():
        chart.add_line([(math.log10(each.chunks), value) for each, value in zip(sizes, ms, strict=True)], name=name)
    first = math.floor(math.log10(sizes[0].chunks))
    chart.add_x_scale(first, max(first + 1, math.ceil(math.log10(sizes[-1].chunks))))
    (out / "scaling").mkdir(exist_ok=True)
    chart.to_svg(str(out / "scaling" / f"{kind}.svg"), width=_WIDTH, height=_HEIGHT)
    return f"![What searches take, by chunks](scaling/{kind}.svg)"


def _lines(kind: str, sizes: Sequence[Any]) -> Mapping[str, Sequence[float]]:
    """By what is drawn, its 95th percentile at each size."""
    if kind == "mesh":
        return {name: [getattr(each, name).p95_ms for each in sizes] for name in ("stage", "direct", "through")}
    kinds = [(each.mode, place) for place, each in enumerate(sizes[0].searched) if each.narrowed == "none"]
    return {mode: [each.searched[place].taken.p95_ms for each in sizes] for mode, place in kinds}


def _of_store(kind: str, sizes: Sequence[Any]) -> Outcome:
    tables = [_searches(sizes), _recall(sizes), _growth(sizes)]
    if kind == "edge":
        tables += [_memory(sizes), _disk(sizes)]
    return Outcome(_ABOUT[kind], bars=_bars_of_store(sizes), tables=tables)


def _of_mesh(sizes: Sequence[Whole]) -> Outcome:
    rows = [
        [
            f"{each.chunks:,}",
            f"{each.chunks_per_s:,.0f}/s",
            f"{each.settling_s:,.0f} s",
            _times(each.stage),
            _times(each.direct),
            _times(each.through),
            _mib(each.memory["retrieval"]),
            _mib(each.all_bytes),
        ]
        for each in sizes
    ]
    columns = ["chunks", "written", "then built in", "of it the index", "vector given, direct", "words, by the edge"]
    table = Table("Hybrid searches, and memory", [*columns, "retrieval with engines", "all processes"], rows)
    hundred = [each for each in sizes if each.chunks == 100_000]
    asked = "100,000 chunks under 1.2 GiB in the whole mesh"
    bars = [Bar(7, asked, _mib(each.all_bytes), each.all_bytes < 1.2 * _GIB) for each in hundred]
    return Outcome(_ABOUT["mesh"], bars=bars, tables=[table])


def _bars_of_store(sizes: Sequence[Any]) -> list[Bar]:
    p95 = {each.chunks: _plain_hybrid(each).taken.p95_ms for each in sizes}
    bars = []
    if {1000, 100_000} <= p95.keys():
        ratio = p95[100_000] / p95[1000]
        told = f"{ratio:.2f}x ({p95[1000]:.2f} ms, {p95[100_000]:.2f} ms)"
        bars.append(Bar(6, "hybrid p95 of 100,000 chunks at most 3x that of 1,000", told, ratio <= 3))
    if 1_000_000 in p95:
        bars.append(Bar(6, "hybrid p95 of 1,000,000 under 25 ms", f"{p95[1_000_000]:.2f} ms", p95[1_000_000] < 25))
    return bars


def _plain_hybrid(size: Any) -> Searched:
    found: Searched = next(each for each in size.searched if (each.mode, each.narrowed) == ("hybrid", "none"))
    return found


def _searches(sizes: Sequence[Any]) -> Table:
    def cell(searched: Searched) -> str:
        cpu = "" if searched.cpu_ms is None else f" ({searched.cpu_ms:.2f})"
        return f"{_times(searched.taken)}{cpu}"

    return _by_size("Searches one at a time, in milliseconds", sizes, cell)


def _recall(sizes: Sequence[Any]) -> Table:
    def cell(searched: Searched) -> str:
        return "" if searched.recall is None else f"{searched.recall:.3f}"

    return _by_size("Of the ten that exact search finds by meaning, the graph finds", sizes, cell)


def _by_size(title: str, sizes: Sequence[Any], cell: Callable[[Searched], str]) -> Table:
    rows = [
        [f"{of.mode}, filter: {of.narrowed}", *(cell(each.searched[place]) for each in sizes)]
        for place, of in enumerate(sizes[0].searched)
    ]
    columns = ["chunks", *(f"{each.chunks:,}" for each in sizes)]
    return Table(title, columns, [row for row in rows if any(row[1:])])


def _growth(sizes: Sequence[Any]) -> Table:
    columns = ["up to chunks", "written", "a document of ten: p50, p95, most ms", "then built in"]
    columns += [
        "hybrid search while written: p50, p95 ms",
        "while only built",
        f"{CALLERS} callers: per s, p50, p95 ms",
    ]
    rows = [
        [
            f"{each.chunks:,}",
            f"{each.growth.chunks_per_s:,.0f}/s",
            f"{_times(each.growth.write)}, {each.growth.write.most_ms:.0f}" if each.growth.write else "",
            f"{each.growth.settling_s:,.0f} s",
            _times(each.growth.beside_writes),
            _times(each.growth.beside_builds),
            f"{each.at_once_per_s:,.0f}, {_times(each.at_once)}",
        ]
        for each in sizes
    ]
    return Table("Growing, with searches beside it", columns, rows)


def _memory(sizes: Sequence[Any]) -> Table:
    columns = ["chunks", "engines: kept", "of files", "most while it grew", "opened and answered in"]
    columns += ["copied for a backup in", "longest write meanwhile"]
    rows = [
        [
            f"{each.chunks:,}",
            _mib(each.kept.memory.kept),
            _mib(each.kept.memory.of_files),
            _mib(each.kept.peak.all),
            f"{each.kept.opened_s:.2f} s",
            f"{each.kept.copied.seconds:.1f} s",
            f"{each.kept.copied.longest_write_ms:,.0f} ms",
        ]
        for each in sizes
        if each.kept
    ]
    return Table("Memory of the engines (PSS), opening and copying", columns, rows)


def _disk(sizes: Sequence[Any]) -> Table:
    kept = [each for each in sizes if each.kept]
    parts = sorted({part for each in kept for part in each.kept.disk})
    rows = [[part, *(_per_chunk(each.kept.disk, part, each.chunks) for each in kept)] for part in parts]
    rows.append(["all", *(f"{sum(each.kept.disk.values()) / each.chunks:,.0f}" for each in kept)])
    return Table("Bytes a chunk on the disk", ["chunks", *(f"{each.chunks:,}" for each in kept)], rows)


def _per_chunk(disk: Mapping[str, int], part: str, chunks: int) -> str:
    return f"{disk.get(part, 0) / chunks:,.0f}"


def _times(spread: Spread | None) -> str:
    """Median and 95th percentile, in milliseconds."""
    return f"{spread.p50_ms:.2f}, {spread.p95_ms:.2f}" if spread else ""


def _mib(size: int) -> str:
    return f"{size / _MIB:,.0f} MiB"
