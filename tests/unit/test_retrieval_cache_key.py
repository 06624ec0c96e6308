"""What tells cached answers apart: everything asked for that may change one, and who asks."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor

from ragweave.v1 import search_pb2 as pb
from services.mesh.filters import parse
from services.mesh.identity import Caller
from services.retrieval import convert, results
from services.retrieval.chunks import Mode, Rerank
from services.retrieval.collection import SearchDefaults
from services.retrieval.filterable import SCHEMA
from services.retrieval.query import Query, planned
from tests.retrieval_fakes import view
from tests.retrieval_replica import ANN, BOB

QUERY = Query(collection="docs", text="foxes")
VIEWS = {"docs": view(), "others": view("others")}


def key(query: Query = QUERY, who: Caller = ANN, **changed: Any) -> bytes:
    asked = replace(query, **changed)
    views = [replace(VIEWS[each]) for each in asked.collection_ids]
    return results.asked(asked, planned(asked, views, who), views, who).key


def key_of(**given: Any) -> bytes:
    """Of a request about foxes in docs with these fields, as JSON."""
    request = {"query": "foxes", "collection": "docs", **given}
    return key(convert.query_from(json_format.ParseDict(request, pb.SearchRequest())))


DECAY = {"field": "metadata.size", "origin": 5, "scale": 10}
BOOST = {"filter": 'title = "x"', "factor": 2}
TREE = {"comparisons": [{"field": "title", "operator": "EQUAL", "value": "x"}]}


def decays(**changed: Any) -> dict[str, Any]:
    return {"boosts": [{"decay": {**DECAY, **changed}}]}


# Of each field of the contract's request, however deep: two requests that differ in it alone.
DIFFERENT: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "query": ({}, {"query": "dogs"}),
    "vector": ({}, {"vector": [1, 0, 0, 0]}),
    "collection": ({}, {"collection": "others"}),
    "collections": ({}, {"collection": "", "collections": ["docs", "others"]}),
    "filter": ({}, {"filter": 'title = "x"'}),
    "typed_filter": ({}, {"typedFilter": TREE}),
    "top_k": ({}, {"topK": 3}),
    "page_size": ({}, {"pageSize": 2}),
    "page": ({}, {"page": 2}),
    "mode": ({}, {"mode": "SPARSE"}),
    "fusion.rrf.k": ({"fusion": {"rrf": {}}}, {"fusion": {"rrf": {"k": 7}}}),
    "fusion.rrf.dense_weight": ({"fusion": {"rrf": {}}}, {"fusion": {"rrf": {"denseWeight": 2}}}),
    "fusion.rrf.sparse_weight": ({"fusion": {"rrf": {}}}, {"fusion": {"rrf": {"sparseWeight": 2}}}),
    "fusion.dbsf": ({}, {"fusion": {"dbsf": {}}}),
    "rerank.model": ({"rerank": {}}, {"rerank": {"model": "m"}}),
    "rerank.top_n": ({"rerank": {}}, {"rerank": {"topN": 20}}),
    "mmr.diversity": ({"mmr": {"diversity": 0.2}}, {"mmr": {"diversity": 0.3}}),
    "mmr.candidates": ({"mmr": {"diversity": 0.2}}, {"mmr": {"diversity": 0.2, "candidates": 20}}),
    "group_by.field": ({"groupBy": {"field": "document"}}, {"groupBy": {"field": "metadata.x"}}),
    "group_by.group_size": ({"groupBy": {"field": "document"}}, {"groupBy": {"field": "document", "groupSize": 3}}),
    "facets.field": ({"facets": [{"field": "metadata.x"}]}, {"facets": [{"field": "metadata.y"}]}),
    "facets.limit": ({"facets": [{"field": "metadata.x"}]}, {"facets": [{"field": "metadata.x", "limit": 3}]}),
    "highlight": ({}, {"highlight": True}),
    "neighbors": ({"neighbors": 1}, {"neighbors": 2}),
    "min_score": ({}, {"minScore": 0.5}),
    "read_mask": ({}, {"readMask": "text"}),
    "explain": ({}, {"explain": True}),
    "boosts.filter": ({"boosts": [BOOST]}, {"boosts": [{**BOOST, "filter": 'title = "y"'}]}),
    "boosts.factor": ({"boosts": [BOOST]}, {"boosts": [{**BOOST, "factor": 3}]}),
    "boosts.decay.field": (decays(), decays(field="metadata.other")),
    "boosts.decay.origin": (decays(), decays(origin=6)),
    "boosts.decay.scale": (decays(), decays(scale=11)),
    "boosts.decay.offset": (decays(), decays(offset=1)),
    "boosts.decay.midpoint": (decays(), decays(midpoint=0.4)),
    "boosts.decay.curve": (decays(), decays(curve="LINEAR")),
    "candidates": ({}, {"candidates": 300}),
}
# They tell how to come by the answer, not which.
INDIFFERENT = {
    "consistency_token": {"consistencyToken": "anything"},  # waited for before
    "cache_control": {"cacheControl": "REFRESH"},
    "require_all": {"requireAll": True},  # an answer that went without something is not kept
}
NEVER_KEPT = {"page_token"}
# Their content is in the tree that filters are read into, or is compared as a whole.
WHOLE = {"ragweave.v1.TypedFilter"}


def paths(of: Descriptor, before: str = "") -> Iterator[str]:
    """Every field of a message and of the messages in it, down to those that are ours."""
    for field in of.fields:
        inner = field.message_type
        if inner is None or inner.file.package != "ragweave.v1" or inner.full_name in WHOLE or not inner.fields:
            yield before + field.name
        else:
            yield from paths(inner, f"{before}{field.name}.")


def test_every_field_of_a_request_is_known_to_tell_answers_apart_or_not_to() -> None:
    known = [*DIFFERENT, *INDIFFERENT, *NEVER_KEPT]
    assert sorted(known) == sorted(paths(pb.SearchRequest.DESCRIPTOR))


@pytest.mark.parametrize("path", DIFFERENT)
def test_requests_that_may_have_different_answers_have_different_keys(path: str) -> None:
    one, other = (key_of(**given) for given in DIFFERENT[path])
    assert one != other


@pytest.mark.parametrize("path", INDIFFERENT)
def test_requests_that_have_the_same_answer_have_one_key(path: str) -> None:
    assert key_of(**INDIFFERENT[path]) == key_of()


def test_what_a_query_holds_beyond_the_request_is_in_the_key() -> None:
    assert key(rough=True) == key() != key(rerank=Rerank())  # rough: where nothing is reranked, no difference
    without = ("uid-docs", parse('document = "d1"', SCHEMA))
    assert key(without=without) != key()
    tried = {path.partition(".")[0] for path in DIFFERENT} | NEVER_KEPT | {"rough"}
    assert tried >= results._PLANNED, "said to be in the plan: try what a change of it does to the key"
    assert INDIFFERENT.keys() == {*results.OF_NO_ANSWER}


def test_what_reads_the_same_has_one_key() -> None:
    assert key() == key(collection="collections/docs") == key(top_k=10) == key(mode=Mode.HYBRID)
    assert key(filter='title="x"') == key(filter='title  =  "x"') == key(typed_filter=parse('title = "x"', SCHEMA))
    assert key(collection="", collections=("docs",)) == key()
    assert key(rerank=Rerank()) == key(rerank=Rerank(top_n=50)) != key()
    assert key(rerank=Rerank(), rough=True) == key()


def test_callers_collections_and_models_have_keys_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {key(), key(who=BOB), key(who=replace(ANN, tenant="globex"))}
    changes = ({"embedding_model": "models/other"}, {"language": "de"}, {"defaults": SearchDefaults(top_k=3)})
    for changed in changes:
        monkeypatch.setitem(VIEWS, "docs", view(**changed))
        keys.add(key())
    monkeypatch.setitem(VIEWS, "docs", view(uid="uid-anew"))
    keys.add(key())
    assert len(keys) == 7
    monkeypatch.setitem(VIEWS, "docs", view(sequence=9, public=True))
    assert key() in keys  # the right to search is looked at for every call, and not in the key
