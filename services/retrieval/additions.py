"""What comes with a page of hits where it is asked for: marked words, neighbors, counts of values."""

import asyncio
from collections.abc import Sequence

from services.retrieval.collection import CollectionView
from services.retrieval.faceting import Facet, counted
from services.retrieval.highlighting import highlighted
from services.retrieval.neighbors import beside
from services.retrieval.ports import VectorStore
from services.retrieval.query import Plan
from services.retrieval.ranking import Hit
from services.retrieval.stages import Stages


async def completed(
    hits: Sequence[Hit], text: str, plan: Plan, views: Sequence[CollectionView], store: VectorStore, stages: Stages
) -> tuple[Sequence[Hit], Sequence[Facet]]:
    """The hits with what is to be added to them, and the facets; what cannot be had is left out."""
    if plan.highlight:
        hits = await _marked(hits, text)
    if plan.neighbors:
        with stages.timed("neighbors"):
            hits = await _with_neighbors(hits, plan, store, stages)
    if not plan.facets:
        return hits, ()
    with stages.timed("facets"):
        return hits, await _counted(plan, views, store, stages)


async def _marked(hits: Sequence[Hit], text: str) -> Sequence[Hit]:
    marked = []
    for hit in highlighted(hits, text):
        marked.append(hit)
        await asyncio.sleep(0)  # 200 hits take some 60 ms: others come in between; stemmers are for one thread
    return marked


async def _with_neighbors(hits: Sequence[Hit], plan: Plan, store: VectorStore, stages: Stages) -> Sequence[Hit]:
    views = {hit.collection.collection_id: hit.collection for hit in hits}
    works = {
        name: store.adjacent(
            view.uid, [hit.found.chunk for hit in hits if hit.collection is view], plan.neighbors, plan.visible
        )
        for name, view in views.items()
    }
    found, failures = await stages.of_all("neighbors", works)
    for name, error in failures.items():
        stages.left_out("neighbors", error, collection=name if len(views) > 1 else "")
    return beside(hits, {views[name].uid: chunks for name, chunks in found.items()}, plan.neighbors)


async def _counted(plan: Plan, views: Sequence[CollectionView], store: VectorStore, stages: Stages) -> Sequence[Facet]:
    """The facets over the collections that can be counted; none without any of them."""
    paths = [each.path for each in plan.facets]
    works = {view.collection_id: store.count_values(view.uid, paths, plan.filter) for view in views}
    found, failures = await stages.of_all("facets", works)
    for name, error in failures.items():
        stages.left_out("facets", error, collection=name if len(views) > 1 else "")
    return counted(plan.facets, found.values()) if found else []
