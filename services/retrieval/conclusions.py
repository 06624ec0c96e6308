"""What the queries of an evaluation found, as measures of each and of all, and how two configurations differ."""

from collections.abc import Mapping, Sequence
from typing import Final

from services.retrieval.measures import MEASURES, Measures, chances, mean_measures, measured, percentile
from services.retrieval.samples import (
    Conclusion,
    Configuration,
    Difference,
    EvaluatedQuery,
    Found,
    FoundByEach,
    Outcome,
    Queries,
    Result,
    SampleQuery,
    now,
)

_PERCENTILES: Final = (0.5, 0.9, 0.95, 0.99)


def concluded(
    configurations: Sequence[Configuration], queries: Queries, found: Mapping[str, FoundByEach]
) -> Conclusion:
    """What all of them came to; a query that found nothing yet has failed."""
    evaluated = [evaluated_query(configurations, query, found.get(id_, ())) for id_, query in queries.items()]
    results = [
        _result(configuration.name, [each.outcomes[at] for each in evaluated])
        for at, configuration in enumerate(configurations)
    ]
    return Conclusion(results, _differences([each.differences for each in evaluated if each.differences]), now())


def evaluated_query(configurations: Sequence[Configuration], query: SampleQuery, found: FoundByEach) -> EvaluatedQuery:
    """How a query did.

    Args:
        found: Empty before its searches.
    """
    outcomes = [
        Outcome(configuration.name, each, measured(each.ranks, query.grades) if isinstance(each, Found) else [])
        for configuration, each in zip(configurations, found or [None] * len(configurations), strict=True)
    ]
    if len(outcomes) < 2:
        return EvaluatedQuery(query, outcomes, [])
    first, second = outcomes
    both = zip(first.measures, second.measures, strict=True) if first.measures and second.measures else ()
    return EvaluatedQuery(query, outcomes, [_less(other, one) for one, other in both])


def _less(other: Measures, one: Measures) -> Measures:
    return Measures(one.k, *(getattr(other, name) - getattr(one, name) for name in MEASURES))


def _result(name: str, outcomes: Sequence[Outcome]) -> Result:
    found = [each.found for each in outcomes if isinstance(each.found, Found)]
    latencies_s = sorted(each.seconds for each in found)
    return Result(
        configuration=name,
        measures=mean_measures([each.measures for each in outcomes if each.measures]),
        latencies_s=[percentile(latencies_s, share) for share in _PERCENTILES],
        answered=len(found),
        failed=len(outcomes) - len(found),
        empty=sum(not each.hits for each in found),
        lacking=sum(bool(each.lacking) for each in found),
    )


def _differences(rows: Sequence[Sequence[Measures]]) -> list[Difference]:
    """By measure and cutoff, over the queries, one row each."""
    if not rows:
        return []
    kinds = [(name, each.k) for name in MEASURES for each in rows[0]]
    table = [[getattr(each, name) for name in MEASURES for each in row] for row in rows]
    return [
        Difference(name, k, sum(column) / len(column), chance, sum(x > 0 for x in column), sum(x < 0 for x in column))
        for (name, k), column, chance in zip(kinds, zip(*table, strict=True), chances(table), strict=True)
    ]
