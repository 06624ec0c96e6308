"""Maximal marginal relevance against the formula computed at length."""

import numpy as np
import pytest

from services.retrieval.diversity import Mmr, diversified
from services.retrieval.ranking import Hit
from tests.retrieval_fakes import chunk, direction, hit, view
from tests.retrieval_rig import Searching, documents


def names(hits: list[Hit]) -> list[str]:
    return [each.found.chunk.document.document_id for each in hits]


def spread(scores: list[float], *, dimension: int = 3) -> list[Hit]:
    return [hit(chunk(document=str(at)), score, direction(at, dimension)) for at, score in enumerate(scores)]


def at_length(hits: list[Hit], diversity: float) -> list[tuple[str, float]]:
    """MMR as the paper writes it, a hit at a time."""
    vectors = {each.key: np.frombuffer(each.found.vector or b"", "<f4") for each in hits}
    unit = {key: each / np.linalg.norm(each) for key, each in vectors.items()}
    least = min(0.0, *(each.found.score for each in hits))
    best = max(each.found.score for each in hits) - least
    chosen: list[Hit] = []
    told: list[tuple[str, float]] = []
    left = list(hits)
    while left:
        worth = []
        for each in left:
            alike = max([0.0, *(float(unit[each.key] @ unit[other.key]) for other in chosen)])
            worth.append((1 - diversity) * (each.found.score - least) / best + diversity * (1 - alike))
        place = int(np.argmax(worth))
        told.append((left[place].found.chunk.document.document_id, worth[place]))
        chosen.append(left.pop(place))
    return told


@pytest.mark.parametrize("diversity", [0.0, 0.2, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("scores", [[5.0, 4.0, 3.5, 3.4, 1.0, 0.5], [0.9, 0.2, -0.1, -0.4], [2.0, 2.0, 2.0]])
def test_the_order_is_that_of_the_formula(diversity: float, scores: list[float]) -> None:
    hits = spread(scores)
    found = diversified(hits, Mmr(diversity))
    wanted = at_length(hits, diversity)
    assert names(found) == [name for name, _ in wanted]
    assert [each.found.score for each in found] == pytest.approx([worth for _, worth in wanted], abs=1e-6)
    assert all(each.found.vector is None for each in found)
    assert [(each.stage, each.rank) for each in found[1].found.stages] == [("mmr", 2)]


@pytest.mark.parametrize("candidates", [1, 7, 20, 50])
@pytest.mark.parametrize("diversity", [0.0, 0.4, 1.0])
def test_scores_never_rise_and_no_hit_is_lost(diversity: float, candidates: int) -> None:
    hits = spread([1.0 / place for place in range(1, 31)])
    found = diversified(hits, Mmr(diversity, candidates))
    scores = [each.found.score for each in found]
    assert scores == sorted(scores, reverse=True)
    assert sorted(names(found)) == sorted(names(hits))
    assert names(found)[candidates:] == names(hits)[candidates:]


def test_a_copy_comes_after_what_is_new() -> None:
    copies = [hit(chunk(document=f"copy{at}"), 1.0 - at / 100, [1.0, 0.01 * at]) for at in range(5)]
    found = diversified([*copies, hit(chunk(document="other"), 0.7, [0.1, 1.0])], Mmr(0.5))
    assert names(found)[:2] == ["copy0", "other"]
    assert names(diversified([*copies, hit(chunk(document="other"), 0.7, [0.1, 1.0])], Mmr(0.0)))[-1] == "other"


def test_hits_of_two_models_do_not_compare() -> None:
    one = hit(chunk(document="one"), 1.0, [1.0, 0.0])
    same = hit(chunk(document="same"), 0.9, [1.0, 0.0])
    other = hit(chunk(document="other"), 0.8, [1.0, 0.0, 0.0], embedding_model="models/other")
    assert names(diversified([one, same, other], Mmr(0.9))) == ["one", "other", "same"]


@pytest.mark.parametrize("scores", [[], [0.0, 0.0], [-1.0, -1.0]])
def test_hits_without_a_difference_in_score_are_as_relevant_as_each_other(scores: list[float]) -> None:
    assert names(diversified(spread(scores), Mmr(0.0))) == names(spread(scores))


async def test_a_search_takes_vectors_along_in_the_same_round_trip() -> None:
    searching = await Searching(view(), view("more")).holding("docs", "more")
    plain = await searching.search(top_k=3)
    found = await searching.search(mmr=Mmr(0.0), top_k=3)
    assert documents(found) == documents(plain)
    assert [query.with_vectors for query in searching.store.queries] == [False, True]
    assert all(each.found.vector is None for each in found.hits)
    assert "mmr" in found.timings_s
    # The two collections hold the same passages: each has a copy, which comes after all others.
    both = await searching.search(collections=["docs", "more"], mmr=Mmr(0.95), top_k=8)
    assert len(set(documents(both)[:4])) == 4
    assert sorted(documents(both)[4:]) == sorted(documents(both)[:4])
