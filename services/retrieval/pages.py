"""Page tokens. A token holds the ranking that its first page was cut of, so later pages repeat and miss nothing."""

import base64
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from services.mesh.errors import InvalidPageToken, Violation
from services.retrieval.chunks import StageScore
from services.retrieval.stages import Degraded

MAX_TOKEN: Final = 32_768
"""Characters of the longest token, as the contract bounds it."""

_VERSION: Final = 3
# What a token of the longest ranking unpacks to, several times over; a token made up to be more is refused unread.
_MAX_BYTES: Final = 262_144


@dataclass(frozen=True, slots=True)
class Place:
    """A hit of a ranking, without its text.

    Attributes:
        view: Which of the collections searched, from 0.
        key: The chunk's.
        measured: As of ScoredChunk.
    """

    view: int
    key: int
    score: float
    stages: tuple[StageScore, ...]
    measured: float | None = None


@dataclass(frozen=True, slots=True)
class FrozenRanking:
    """A whole ranking as it was when its first page was answered, and what that answer went without.

    Attributes:
        groups: How many places each group has, in order; empty where hits are not grouped.
    """

    places: Sequence[Place]
    degraded: Sequence[Degraded] = ()
    groups: Sequence[int] = ()


def hits_on(page: slice, groups: Sequence[int]) -> slice:
    """Which hits of a ranking are on a page; where there are groups, it is a page of these."""
    return slice(sum(groups[: page.start]), sum(groups[: page.stop])) if groups else page


def token(ranking: FrozenRanking, offset: int, binding: str) -> str:
    """What stands for the page of a ranking that begins at `offset`, and for which search it is of."""
    places = [
        (place.view, place.key, place.score, place.measured, [(s.stage, s.score, s.rank) for s in place.stages])
        for place in ranking.places
    ]
    degraded = [(each.stage, each.reason, each.collection) for each in ranking.degraded]
    parts = [_VERSION, binding, offset, places, degraded, list(ranking.groups)]
    content = json.dumps(parts, separators=(",", ":"))
    return base64.urlsafe_b64encode(zlib.compress(content.encode())).rstrip(b"=").decode()


def read(token: str, binding: str) -> tuple[FrozenRanking, int]:
    """The ranking that a token holds, and where its page begins.

    Raises:
        InvalidPageToken: It is no token, or of another search.
    """
    try:
        packed = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        unpacking = zlib.decompressobj()
        content = unpacking.decompress(packed, _MAX_BYTES)
        if unpacking.unconsumed_tail or not unpacking.eof:
            raise ValueError("longer than any token")
        version, bound, offset, places, degraded, groups = json.loads(content)
        if version != _VERSION:
            raise ValueError("not a token of this version")
        ranking = FrozenRanking([_place(*each) for each in places], [_degraded(*each) for each in degraded], groups)
        if not all(type(size) is int and size > 0 for size in groups):
            raise ValueError("no group is empty")
        if groups and sum(groups) != len(places):
            raise ValueError("every place is in one group")
        if type(offset) is not int or not 0 < offset < len(groups or places):
            raise ValueError("no page begins there")
    except (ValueError, TypeError, RecursionError, zlib.error):
        raise _refused("not a token that this method returned") from None
    if bound != binding:
        raise _refused("belongs to another search; start again without it")
    return ranking, offset


def _place(view: Any, key: Any, score: Any, measured: Any, stages: Any) -> Place:
    if type(view) is not int or type(key) is not int or view < 0 or not 0 <= key < 2**64:
        raise ValueError("no chunk")
    scores = tuple(StageScore(str(stage), float(each), int(rank)) for stage, each, rank in stages)
    return Place(view, key, float(score), scores, None if measured is None else float(measured))


def _degraded(stage: Any, reason: Any, collection: Any) -> Degraded:
    return Degraded(str(stage), str(reason), str(collection))


def _refused(description: str) -> InvalidPageToken:
    return InvalidPageToken(f"page_token: {description}", violations=[Violation("page_token", description)])
