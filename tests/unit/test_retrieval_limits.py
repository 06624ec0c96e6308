"""What a search may ask for at most: as much is taken, and more is refused by name; docs/search.md tells of each."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from ragweave.v1 import filter_pb2
from ragweave.v1 import search_pb2 as pb
from services.mesh.errors import InvalidArgument, InvalidFilter
from services.mesh.interceptors.validation import check
from services.mesh.openapi.rules import rules_of
from services.retrieval.convert import query_from, similar_from
from services.retrieval.query import planned
from tests.retrieval_fakes import view
from tests.retrieval_rig import ANN

DOCS: Final = Path(__file__).parents[2] / "docs" / "search.md"


@dataclass(frozen=True)
class Limit:
    """What requests may have at most.

    Attributes:
        fields: Named by the refusal; of several, what they make together.
        make: A request with so much of it.
        step: The least that is more.
    """

    fields: str
    bound: int
    make: Callable[[Any], Message]
    step: float = 1

    def __str__(self) -> str:
        return f"{self.fields} {self.bound}"


def search(**fields: Any) -> pb.SearchRequest:
    return pb.SearchRequest(**{"query": "foxes", "collection": "docs", **fields})


def grouped(hits: int) -> pb.SearchRequest:
    """Groups of 3 hits, where they make so many, else of 2."""
    size = 2 if hits % 3 else 3
    return search(top_k=hits // size, group_by={"field": "document", "group_size": size})


def beside(passages: int) -> pb.SearchRequest:
    """3 neighbors on each side, where hits and they make so many, else 2."""
    neighbors = 2 if passages % 7 else 3
    return search(top_k=passages // (2 * neighbors + 1), neighbors=neighbors)


def boost(**fields: Any) -> pb.SearchRequest:
    return search(boosts=[fields])


LIMITS: Final = [
    Limit("query", 8192, lambda n: search(query="a" * n)),
    Limit("vector", 8192, lambda n: search(vector=[1.0] * n)),
    Limit("collection", 140, lambda n: search(collection="collections/".ljust(n, "c"))),
    Limit("collections", 20, lambda n: search(collection="", collections=[f"c{at}" for at in range(n)])),
    Limit("collections[0]", 140, lambda n: search(collection="", collections=["collections/".ljust(n, "c")])),
    Limit("filter", 8192, lambda n: search(filter="title=".ljust(n, "a"))),
    Limit("top_k", 200, lambda n: search(top_k=n)),
    Limit("page_size", 200, lambda n: search(page_size=n)),
    Limit("page", 200, lambda n: search(page=n)),
    Limit("page_token", 32768, lambda n: search(page_token="a" * n)),
    Limit("candidates", 1000, lambda n: search(candidates=n)),
    Limit("fusion.rrf.k", 10_000, lambda n: search(fusion={"rrf": {"k": n}})),
    Limit("fusion.rrf.dense_weight", 1000, lambda n: search(fusion={"rrf": {"dense_weight": n}}), step=0.1),
    Limit("fusion.rrf.sparse_weight", 1000, lambda n: search(fusion={"rrf": {"sparse_weight": n}}), step=0.1),
    Limit("rerank.model", 140, lambda n: search(rerank={"model": "m" * n})),
    Limit("rerank.top_n", 200, lambda n: search(rerank={"top_n": n})),
    Limit("mmr.diversity", 1, lambda n: search(mmr={"diversity": n}), step=0.001),
    Limit("mmr.candidates", 1000, lambda n: search(mmr={"candidates": n})),
    Limit("min_score", 1, lambda n: search(min_score=n), step=0.001),
    Limit("group_by.field", 512, lambda n: search(group_by={"field": "metadata.".ljust(n, "k")})),
    Limit("group_by.group_size", 20, lambda n: search(top_k=1, group_by={"field": "document", "group_size": n})),
    Limit("top_k group_by.group_size", 200, grouped),
    Limit("facets", 10, lambda n: search(facets=[{"field": f"metadata.k{at}"} for at in range(n)])),
    Limit("facets[0].field", 512, lambda n: search(facets=[{"field": "metadata.".ljust(n, "k")}])),
    Limit("facets[0].limit", 100, lambda n: search(facets=[{"field": "metadata.k", "limit": n}])),
    Limit("neighbors", 5, lambda n: search(neighbors=n)),
    Limit("neighbors page_size", 1000, beside),
    Limit("read_mask", 100, lambda n: search(read_mask=FieldMask(paths=[f"metadata.k{at}" for at in range(n)]))),
    Limit("consistency_token", 512, lambda n: search(consistency_token="a" * n)),
    Limit("boosts", 10, lambda n: search(boosts=[{"filter": "title=a", "factor": 2}] * n)),
    Limit("boosts", 64, lambda n: boost(filter="title=a " * n, factor=2)),
    Limit(
        "boosts", 64, lambda n: search(boosts=[{"filter": "title=a " * k, "factor": 2} for k in (n // 2, n - n // 2)])
    ),
    Limit("boosts[0].filter", 8192, lambda n: boost(filter="title=".ljust(n, "a"), factor=2)),
    Limit("boosts[0].factor", 1000, lambda n: boost(filter="title=a", factor=n), step=0.1),
    Limit("boosts[0].decay.field", 512, lambda n: boost(decay={"field": "metadata.".ljust(n, "k"), "scale": 1})),
    Limit("requests", 50, lambda n: pb.BatchSearchRequest(requests=[search()] * n)),
    Limit("name", 420, lambda n: pb.FindSimilarRequest(name="a" * n)),
]
"""But for those within filters, which tests/unit/test_filters*.py hold."""


def understood(request: Message) -> None:
    """Reads the request as the service does.

    Raises:
        InvalidArgument, InvalidFilter: Something about it is wrong; named.
    """
    check(request)
    if isinstance(request, pb.FindSimilarRequest):
        similar_from(request)
    if isinstance(request, pb.SearchRequest) and not request.page_token:  # what a token holds is another matter
        query = query_from(request)
        assert query.collection_ids
        planned(query, [view(dimension=len(query.vector))], ANN)


@pytest.mark.parametrize("limit", LIMITS, ids=str)
def test_as_much_as_the_limit_is_taken_and_more_is_refused_with_field_and_bound(limit: Limit) -> None:
    understood(limit.make(limit.bound))
    with pytest.raises((InvalidArgument, InvalidFilter)) as raised:
        understood(limit.make(limit.bound + limit.step))
    assert [each.field for each in raised.value.violations] == limit.fields.split()
    assert re.search(rf"\b{limit.bound}\b", raised.value.message), raised.value.message


def test_every_bound_of_the_contract_is_among_the_limits() -> None:
    held = {(field, limit.bound) for limit in LIMITS for field in limit.fields.split()}
    for request in (pb.SearchRequest, pb.FindSimilarRequest, pb.BatchSearchRequest):
        assert set(bounds(request.DESCRIPTOR)) - held == set()


def bounds(message: Descriptor, path: str = "") -> Iterator[tuple[str, float]]:
    """The fields of a message that have a greatest size or value, and that; not of filters as a tree."""
    for field in message.fields:
        named = f"{path}{field.name}"
        yield from bound(field, named)
        inner = field.message_type
        if inner in (None, filter_pb2.TypedFilter.DESCRIPTOR, pb.SearchRequest.DESCRIPTOR):
            continue
        if inner.file.package == "ragweave.v1":
            yield from bounds(inner, f"{named}[0]." if field.is_repeated else f"{named}.")


def bound(field: FieldDescriptor, named: str) -> Iterator[tuple[str, float]]:
    rules = rules_of(field)
    for kind, most in (
        (rules.int32, "lte"),
        (rules.double, "lte"),
        (rules.string, "max_len"),
        (rules.repeated, "max_items"),
    ):
        if kind.HasField(most):
            yield named, getattr(kind, most)
    if field.is_repeated and rules.repeated.items.string.HasField("max_len"):
        yield f"{named}[0]", rules.repeated.items.string.max_len


def test_the_documentation_tells_of_each_limit_and_of_no_other() -> None:
    section = DOCS.read_text().partition("\n## Limits\n")[2].partition("\n## ")[0]
    rows = [line.split("|") for line in section.splitlines() if line.startswith("| `") or line.startswith("| all")]
    told = {
        (name, int(re.search(r"[\d,]+", row[2])[0].replace(",", "")))  # type: ignore[index]
        for row in rows
        for name in re.findall(r"`([^`]+)`", row[1])
    }
    assert told == {(camel(field), limit.bound) for limit in LIMITS for field in limit.fields.split()}


def camel(path: str) -> str:
    return re.sub("_([a-z])", lambda found: found[1].upper(), path.replace("[0]", "[]"))
