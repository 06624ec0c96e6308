"""A board of graphs, and the PromQL that most graphs are of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Panel:
    """One graph.

    Attributes:
        unit: Grafana's id of the unit: s, reqps, percentunit, bytes, short, ...
        queries: PromQL by legend, where {{label}} stands for a label's value.
        about: How to read it.
        stacked: Whether what it shows adds up to something.
        limit: A value worth a line of its own, such as an alert's.
    """

    title: str
    unit: str
    queries: Mapping[str, str]
    about: str = ""
    stacked: bool = False
    limit: float | None = None


@dataclass(frozen=True)
class Board:
    """One dashboard.

    Attributes:
        uid: Its name in links and in the file system.
        by_job: Whether the services shown can be chosen.
    """

    uid: str
    title: str
    about: str
    rows: Mapping[str, Sequence[Panel]]
    by_job: bool = False


def quantile(share: float, metric: str, by: str = "", where: str = "") -> str:
    """PromQL for a quantile of a histogram, over the time a point of the graph stands for."""
    labels = f"{by}, le" if by else "le"
    return f"histogram_quantile({share}, sum by ({labels}) (rate({metric}_bucket{{{where}}}[$__rate_interval])))"


def rate(metric: str, by: str = "", where: str = "") -> str:
    """PromQL for how much of a counter there is a second."""
    return f"sum by ({by}) (rate({metric}{{{where}}}[$__rate_interval]))"


def quantiles(metric: str, where: str = "", scale: float = 1) -> dict[str, str]:
    """The usual three."""
    factor = "" if scale == 1 else f" * {scale}"
    return {f"p{int(share * 100)}": quantile(share, metric, where=where) + factor for share in (0.5, 0.95, 0.99)}


def ratio(part: str, whole: str) -> str:
    """PromQL for one rate as a share of another."""
    return f"{part} / {whole}"
