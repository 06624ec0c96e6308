"""Rankings merged into one."""

import pytest

from services.retrieval.fusion import Dbsf, Rrf, fuse, fuse_by_distribution, merge, ranked


def test_scores_are_weights_over_k_plus_rank() -> None:
    fused = fuse([[("a", 9.0), ("b", 8.0)], [("b", 0.2), ("c", 0.1)]], k=60, weights=[1.0, 2.0])
    assert fused == [("b", 1 / 62 + 2 / 61), ("c", 2 / 62), ("a", 1 / 61)]


def test_of_equal_sums_that_one_goes_first_which_leads_by_more() -> None:
    dense = [("b", 0.9), ("a", 0.8), ("c", 0.1), ("d", 0.0)]
    sparse = [("a", 9.0), ("b", 2.0), ("d", 1.0), ("c", 0.9)]
    assert [id_ for id_, _ in fuse([dense, sparse])] == ["a", "b", "c", "d"]


def test_ties_that_go_on_past_the_settled_part_are_settled_whole() -> None:
    dense = [("b", 0.9), ("c", 0.8), ("e", 0.1)]
    sparse = [("c", 9.0), ("b", 2.0), ("f", 1.0)]
    assert [id_ for id_, _ in fuse([dense, sparse], settled=1)] == ["c", "b", "e", "f"]
    assert [id_ for id_, _ in fuse([dense, sparse], settled=3)] == ["c", "b", "f", "e"]
    assert [id_ for id_, _ in fuse([dense, sparse], settled=0)] == ["b", "c", "e", "f"]


def test_ties_go_by_id() -> None:
    assert [id_ for id_, _ in fuse([[("b", 1.0), ("a", 0.5)], [("a", 1.0), ("b", 0.5)]])] == ["a", "b"]
    assert ranked([("b", 1.0), ("c", 2.0), ("a", 1.0)]) == [("c", 2.0), ("a", 1.0), ("b", 1.0)]


def test_each_ranking_needs_its_weight() -> None:
    with pytest.raises(ValueError):
        fuse([[("a", 1.0)]], weights=[1.0, 2.0])


def test_distributions_are_brought_to_one_scale() -> None:
    fused = dict(fuse_by_distribution([[("a", 100.0), ("b", 50.0), ("c", 0.0)], [("c", 0.3), ("b", 0.2), ("a", 0.1)]]))
    assert fused["a"] == pytest.approx(1.0) == fused["b"] == fused["c"]
    assert fuse_by_distribution([[("a", 3.0), ("b", 3.0)], []]) == [("a", 0.5), ("b", 0.5)]


def test_a_single_stage_keeps_its_scores() -> None:
    dense, sparse = [("a", 0.9)], [("b", 7.0)]
    assert merge(Rrf(), dense, None) == dense
    assert merge(Dbsf(), None, sparse) == sparse
    assert merge(Rrf(), None, None) == []
    assert merge(Rrf(k=1), dense, sparse) == [("a", 0.5), ("b", 0.5)]
