"""The part of docs/benchmarks.md that is made from the JSON document, and the plots it shows."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks import plots
from benchmarks.results import Document

BEGIN: Final = "<!-- made by `make bench`: from here -->"
END: Final = "<!-- made by `make bench`: to here -->"
_COLUMNS: Final = (
    *("", "answers/s", "spread", "held to", "rate of that", "p50 of that"),
    *("p50 ms", "p95 ms", "p99 ms", "errors"),
)
_MET: Final = {True: "yes", False: "**no**", None: "not measured"}


class NoPlace(Exception):
    """A page lacks the two lines between which the figures go."""


def update(page: Path, document: Document) -> None:
    """Writes the figures between the page's two marks, and the plots into a folder beside it.

    Raises:
        NoPlace: The page has no such marks.
    """
    folder = page.with_suffix("")
    drawn = {name: plots.draw(folder, name, suite["measures"]) for name, suite in document["suites"].items()}
    before, begin, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise NoPlace(f"{page} needs the lines {BEGIN!r} and {END!r}")
    page.write_text(f"{before}{begin}\n{figures(document, drawn)}\n{end}{after}")


def figures(document: Document, drawn: Mapping[str, Sequence[str]]) -> str:
    """What goes between the marks: the bars of all suites, then each suite's tables.

    Args:
        drawn: By suite, its plots' paths from the page.
    """
    return "\n".join(
        [*_bars(document), *(line for each in document["suites"] for line in _suite(document, drawn, each))]
    )


def _bars(document: Document) -> Iterator[str]:
    yield ""
    yield "| bar | asked | measured | met | in suite |"
    yield "| --- | --- | --- | --- | --- |"
    bars = [(bar, name) for name, suite in document["suites"].items() for bar in suite["bars"]]
    for bar, name in sorted(bars, key=lambda each: each[0]["number"]):
        yield f"| {bar['number']} | {bar['asked']} | {bar['measured']} | {_MET[bar['met']]} | {name} |"
    yield ""


def _suite(document: Document, drawn: Mapping[str, Sequence[str]], name: str) -> Iterator[str]:
    suite = document["suites"][name]
    yield f"### {name}"
    yield ""
    yield suite["about"]
    yield ""
    versions = ", ".join(f"{package} {version}" for package, version in suite["versions"].items())
    yield (
        f"`{suite['command']}` at {suite['began']}, commit {suite['commit']}, on {suite['machine']} "
        f"(load {suite['load_before']} before); {versions}."
    )
    yield ""
    for measure in suite["measures"]:
        yield from _measure(measure)
    for table in suite["tables"]:
        yield from _table(table["title"], table["columns"], table["rows"])
    for path in drawn.get(name, ()):
        yield f"![{name}, plotted]({path})"
    if drawn.get(name):
        yield ""


def _measure(measure: Mapping[str, Any]) -> Iterator[str]:
    rows = []
    for name, of in measure["contestants"].items():
        least, most = of["per_s"]["spread"]
        rows.append(
            [
                name,
                f"{of['per_s']['median']:,.0f}",
                f"{least:,.0f} - {most:,.0f}",
                of["against"],
                *(_ratios(of["ratio"]) if of["against"] else ("", "")),
                *(f"{of[figure]['median']:.2f}" for figure in ("p50_ms", "p95_ms", "p99_ms")),
                str(of["errors"]),
            ]
        )
    rounds = f"{measure['rounds']} round{'s' * (measure['rounds'] != 1)}"
    title = f"{measure['name']} ({rounds} of {measure['seconds']:g} s each, in turns; medians)"
    yield from _table(title, _COLUMNS, rows)
    yield (
        "Processor time an answer took, in microseconds: "
        + "; ".join(f"{name}: {_processors(of['cpu_us'])}" for name, of in measure["contestants"].items())
        + "."
    )
    yield ""


def _ratios(of: Mapping[str, Any]) -> tuple[str, str]:
    """The median ratio of the rates and its spread over the rounds, and the median ratio of the medians."""
    rates = of["per_s"]["rounds"]
    return f"{of['per_s']['median']:.1%} ({min(rates):.0%} - {max(rates):.0%})", f"{of['p50_ms']['median']:.2f}x"


def _processors(cpu_us: Mapping[str, float]) -> str:
    largest = sorted(cpu_us.items(), key=lambda each: -each[1])
    return ", ".join(f"{process} {us:,.0f}" for process, us in largest if us >= 1)


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"{title}:"
    yield ""
    yield f"| {' | '.join(columns)} |"
    yield f"|{' --- |' * len(columns)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""
