"""What becomes of a ranking after the fusion: raised and lowered, spread, cut to what was asked for."""

import asyncio
from collections.abc import Sequence

from services.retrieval.boosts import boosted
from services.retrieval.diversity import diversified
from services.retrieval.query import Plan
from services.retrieval.ranking import Hit
from services.retrieval.stages import Stages


async def refined(hits: Sequence[Hit], plan: Plan, stages: Stages) -> Sequence[Hit]:
    """The hits as the stages that were asked for order them, best first, `top_k` at most."""
    if plan.boosts:
        with stages.timed("boosts"):
            hits = boosted(hits, plan.boosts)
    if plan.mmr is not None:
        with stages.timed("mmr"):
            hits = await asyncio.to_thread(diversified, hits, plan.mmr)
    return hits[: plan.top_k]
