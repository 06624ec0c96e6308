"""Boosts: hits raised or lowered by what their documents say of themselves."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

from services.mesh.errors import InvalidArgument
from services.mesh.filters import Filter, Path, evaluate, instant, leaves
from services.retrieval.chunks import Chunk, StageScore
from services.retrieval.fields import condition, path_named, resource_of
from services.retrieval.ranking import Hit
from services.retrieval.values import values_at

# A negative score is divided by the factor, so factors that reach 0 must not.
_LEAST: Final = 1e-6
_DECAYING: Final = ("create_time", "page_number")

MAX_COMPARISONS: Final = 64
"""Of the filters of all boosts together: each is made for up to 1,000 hits, at some microseconds."""


class Curve(StrEnum):
    """How a factor falls with distance."""

    EXPONENTIAL = "exponential"
    GAUSSIAN = "gaussian"
    LINEAR = "linear"


@dataclass(frozen=True, slots=True)
class DecayAsked:
    """A decay as asked for.

    Attributes:
        origin: A number or a timestamp's text; None: now.
        scale: Distance beyond `offset` at which the factor is `midpoint`.
    """

    field: str
    origin: float | str | None = None
    scale: float = 1.0
    offset: float = 0.0
    midpoint: float = 0.5
    curve: Curve = Curve.EXPONENTIAL


@dataclass(frozen=True, slots=True)
class BoostAsked:
    """A boost as asked for: a filter with its factor, or a decay."""

    filter: str = ""
    factor: float = 0.0
    decay: DecayAsked | None = None


@dataclass(frozen=True, slots=True)
class Matching:
    """Boosts what a filter lets through."""

    filter: Filter
    factor: float

    def factor_of(self, chunk: Chunk) -> float:
        return self.factor if evaluate(self.filter, resource_of(chunk)) else 1.0


@dataclass(frozen=True, slots=True)
class Decay:
    """Boosts by the distance of a field's value from an origin of the same type: numbers, or instants in seconds."""

    path: Path
    origin: float | datetime
    scale: float
    offset: float
    midpoint: float
    curve: Curve

    def factor_of(self, chunk: Chunk) -> float:
        """1 where the field holds nothing that compares to the origin; of a list the nearest value counts."""
        distances = [each for value in values_at(self.path, resource_of(chunk)) for each in self._distances(value)]
        return self._factor(max(0.0, min(distances) - self.offset) / self.scale) if distances else 1.0

    def _distances(self, value: Any) -> list[float]:
        if isinstance(self.origin, datetime):
            moment = instant(value) if isinstance(value, str) else value if isinstance(value, datetime) else None
            return [] if moment is None else [abs((moment - self.origin).total_seconds())]
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        # Pages count from 1; a format without pages has none.
        return [abs(value - self.origin)] if is_number and (value or self.path != ("page_number",)) else []

    def _factor(self, distance: float) -> float:
        match self.curve:
            case Curve.EXPONENTIAL:
                return float(self.midpoint**distance)
            case Curve.GAUSSIAN:
                return float(self.midpoint ** (distance * distance))
            case Curve.LINEAR:
                return max(0.0, 1.0 - (1.0 - self.midpoint) * distance)


Boost = Matching | Decay


def resolved(
    asked: Sequence[BoostAsked], *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
) -> tuple[Boost, ...]:
    """The boosts, their filters parsed, their fields and origins known.

    Raises:
        InvalidArgument, InvalidFilter: A field of a boost is wrong; named, as `boosts[0].filter`. Or there is too much
            to compare.
    """
    made = tuple(_resolved(each, f"boosts[{place}]", clock) for place, each in enumerate(asked))
    comparisons = sum(1 for each in made if isinstance(each, Matching) for _ in leaves(each.filter))
    if comparisons > MAX_COMPARISONS:
        raise InvalidArgument.of("boosts", f"have {comparisons} comparisons together, at most {MAX_COMPARISONS}")
    return made


def boosted(hits: Sequence[Hit], boosts: Sequence[Boost]) -> list[Hit]:
    """The hits by their scores times the factors of all boosts; equal ones stay in order.

    Of a negative score, as a cross-encoder may give, the factor's inverse is taken: a higher factor is always better.
    """
    factors = [math.prod(boost.factor_of(hit.found.chunk) for boost in boosts) for hit in hits]
    raised = [(hit, factor, _raised(hit.found.score, factor)) for hit, factor in zip(hits, factors, strict=True)]
    return [
        replace(
            hit, found=replace(hit.found, score=score, stages=(*hit.found.stages, StageScore("boosts", factor, rank)))
        )
        for rank, (hit, factor, score) in enumerate(sorted(raised, key=lambda each: -each[2]), start=1)
    ]


def _raised(score: float, factor: float) -> float:
    return score * factor if score >= 0 else score / max(factor, _LEAST)


def _resolved(asked: BoostAsked, field: str, clock: Callable[[], datetime]) -> Boost:
    if asked.decay is None:
        if not asked.factor > 0:
            raise InvalidArgument.of(f"{field}.factor", "must be more than 0; to leave hits out, use filter")
        return Matching(condition(asked.filter, f"{field}.filter"), asked.factor)
    if asked.factor:
        raise InvalidArgument.of(f"{field}.factor", "goes with filter; a decay makes its own")
    decay = asked.decay
    path = path_named(decay.field, f"{field}.decay.field", others=_DECAYING)
    origin = _origin(decay.origin, path, f"{field}.decay.origin", clock)
    return Decay(path, origin, decay.scale, decay.offset, decay.midpoint, decay.curve)


def _origin(asked: float | str | None, path: Path, field: str, clock: Callable[[], datetime]) -> float | datetime:
    if path == ("page_number",) and not isinstance(asked, float):
        raise InvalidArgument.of(field, "takes a number, as page_number does")
    if path == ("create_time",) and isinstance(asked, float):
        raise InvalidArgument.of(field, 'takes a timestamp such as "2024-05-01T12:00:00Z", as create_time does')
    if isinstance(asked, float):
        return asked
    moment = clock().replace(second=0, microsecond=0) if asked is None else instant(asked)
    if moment is None:
        raise InvalidArgument.of(
            field, f'takes a number or a timestamp such as "2024-05-01T12:00:00Z", found {asked!r:.80}'
        )
    return moment
