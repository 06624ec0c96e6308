"""Between the contract's messages and what refines a ranking: boosts, diversity, groups; and facets."""

import math
from collections.abc import Sequence
from typing import Final

from google.protobuf.struct_pb2 import Value

from ragweave.v1 import search_pb2 as pb
from services.mesh.errors import InvalidArgument
from services.retrieval.boosts import BoostAsked, Curve, DecayAsked
from services.retrieval.diversity import DEFAULT_CANDIDATES, Mmr
from services.retrieval.faceting import DEFAULT_VALUES, Facet, FacetAsked
from services.retrieval.grouping import Group, GroupBy
from services.retrieval.values import Scalar

_CURVES: Final = {
    pb.SearchRequest.Boost.EXPONENTIAL: Curve.EXPONENTIAL,
    pb.SearchRequest.Boost.GAUSSIAN: Curve.GAUSSIAN,
    pb.SearchRequest.Boost.LINEAR: Curve.LINEAR,
}
_DEFAULT_MIDPOINT: Final = 0.5


def boosts_from(boosts: Sequence[pb.SearchRequest.Boost]) -> list[BoostAsked]:
    return [
        BoostAsked(
            filter=each.filter,
            factor=each.factor,
            decay=_decay_from(each.decay, f"boosts[{place}].decay") if each.HasField("decay") else None,
        )
        for place, each in enumerate(boosts)
    ]


def mmr_from(mmr: pb.SearchRequest.Mmr) -> Mmr:
    return Mmr(mmr.diversity, mmr.candidates or DEFAULT_CANDIDATES)


def group_by_from(group_by: pb.SearchRequest.GroupBy) -> GroupBy:
    return GroupBy(group_by.field, group_by.group_size or 1)


def groups_to(groups: Sequence[Group]) -> list[pb.SearchResponse.Group]:
    return [pb.SearchResponse.Group(value=value_to(each.value), hits=each.hits) for each in groups]


def facets_from(facets: Sequence[pb.SearchRequest.FacetRequest]) -> list[FacetAsked]:
    return [FacetAsked(each.field, each.limit or DEFAULT_VALUES) for each in facets]


def facets_to(facets: Sequence[Facet]) -> list[pb.SearchResponse.Facet]:
    return [
        pb.SearchResponse.Facet(
            field=facet.field,
            counts=[pb.SearchResponse.Facet.Count(value=value_to(value), count=count) for value, count in facet.counts],
        )
        for facet in facets
    ]


def value_to(value: Scalar) -> Value:
    match value:
        case bool():
            return Value(bool_value=value)
        case str():
            return Value(string_value=value)
    return Value(number_value=value)


def _decay_from(decay: pb.SearchRequest.Boost.Decay, field: str) -> DecayAsked:
    return DecayAsked(
        field=decay.field,
        origin=_origin_from(decay.origin, f"{field}.origin") if decay.HasField("origin") else None,
        scale=decay.scale,
        offset=decay.offset,
        midpoint=decay.midpoint or _DEFAULT_MIDPOINT,
        curve=_CURVES.get(decay.curve, Curve.EXPONENTIAL),
    )


def _origin_from(origin: Value, field: str) -> float | str | None:
    match origin.WhichOneof("kind"):
        case "string_value":
            return origin.string_value
        case "number_value" if math.isfinite(origin.number_value):
            return origin.number_value
        case "null_value" | None:
            return None
    raise InvalidArgument.of(field, 'takes a number or a timestamp such as "2024-05-01T12:00:00Z"')
