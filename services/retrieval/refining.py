"""What becomes of a ranking after the fusion: raised and lowered, spread, cut to what was asked for."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from services.mesh.filters import spelled
from services.retrieval.boosts import boosted
from services.retrieval.diversity import diversified
from services.retrieval.grouping import group_count, grouped
from services.retrieval.query import MAX_CANDIDATES, Plan
from services.retrieval.ranking import Hit
from services.retrieval.stages import Stages

_DEEPER: Final = 4


def deepened(plan: Plan, hits: Sequence[Hit], candidates: int) -> Plan | None:
    """How to find more groups; None where there are enough of them, or no more to be had.

    Args:
        candidates: What the stages handed to the fusion; fewer than they might have, and there is nothing deeper.
    """
    if plan.group_by is None or plan.depth >= MAX_CANDIDATES or candidates < plan.depth:
        return None
    if group_count(hits, plan.group_by) >= plan.top_k:
        return None
    depth = min(MAX_CANDIDATES, _DEEPER * plan.depth)
    return replace(plan, depth=depth, pool=depth)


async def refined(hits: Sequence[Hit], plan: Plan, stages: Stages) -> tuple[Sequence[Hit], Sequence[int]]:
    """The hits as the stages that were asked for order them, best first, and how many of them each group has.

    There are `top_k` of them at most; with groups, hits of `top_k` groups.
    """
    if plan.boosts:
        with stages.timed("boosts"):
            hits = await asyncio.to_thread(boosted, hits, plan.boosts)
        stages.noted("boosts", len(hits))
    if plan.mmr is not None:
        with stages.timed("mmr"):
            hits = await asyncio.to_thread(diversified, hits, plan.mmr)
        stages.noted("mmr", len(hits), detail=f"diversity {plan.mmr.diversity:g}")
    if plan.group_by is None:
        return hits[: plan.top_k], ()
    hits, groups = grouped(hits, plan.group_by, plan.top_k)
    stages.noted("group_by", len(hits), detail=f"{len(groups)} groups by {spelled(plan.group_by.path)}")
    return hits, groups
