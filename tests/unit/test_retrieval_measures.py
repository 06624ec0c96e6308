"""The measures against trec_eval's own code, and chance against what can be counted."""

import math
import random
from itertools import product

import pytest
import pytrec_eval

from services.retrieval.measures import CUTOFFS, Measures, chances, mean_measures, measured, percentile


def test_every_measure_is_that_of_trec_eval() -> None:
    made = random.Random(7)
    cuts = ",".join(map(str, CUTOFFS))
    wanted = {f"ndcg_cut.{cuts}", f"recall.{cuts}", f"P.{cuts}", "recip_rank"}
    for _ in range(300):
        grades = {f"d{at}": made.randint(0, 4) for at in range(made.randint(1, 40))}
        grades["d0"] = made.randint(1, 4)
        found = made.sample([f"d{at}" for at in range(150)], made.randint(0, 120))
        run = {name: 1000.0 - rank for rank, name in enumerate(found)} or {"none": 1.0}
        theirs = pytrec_eval.RelevanceEvaluator({"q": grades}, wanted).evaluate({"q": run})["q"]
        ranks = [(rank, grades[name]) for rank, name in enumerate(found, start=1) if grades.get(name)]
        for ours in measured(ranks, [grade for grade in grades.values() if grade]):
            assert ours.ndcg == pytest.approx(theirs[f"ndcg_cut_{ours.k}"], abs=1e-9)
            assert ours.recall == pytest.approx(theirs[f"recall_{ours.k}"], abs=1e-9)
            assert ours.precision == pytest.approx(theirs[f"P_{ours.k}"], abs=1e-9)
            within = 1 / theirs["recip_rank"] <= ours.k if theirs["recip_rank"] else False
            assert ours.mrr == pytest.approx(theirs["recip_rank"] if within else 0.0, abs=1e-9)


def test_means_are_taken_at_each_cutoff() -> None:
    all_found, nothing_found = measured([(1, 1)], [1]), measured([], [1])
    assert mean_measures([all_found, nothing_found])[0] == Measures(1, 0.5, 0.5, 0.5, 0.5)
    assert mean_measures([]) == []


def test_a_percentile_is_one_of_the_values() -> None:
    values = [float(each) for each in range(1, 101)]
    assert [percentile(values, share) for share in (0.5, 0.9, 0.99, 1.0)] == [50, 90, 99, 100]
    assert percentile([3.0], 0.5) == 3.0
    assert percentile([], 0.5) == 0.0


def test_chance_is_what_counting_every_toss_gives() -> None:
    differences = [0.3, -0.1, 0.2, 0.05, -0.02, 0.4, 0.1, 0.15]
    observed = abs(sum(differences))
    tosses = list(product((1, -1), repeat=len(differences)))
    as_far = sum(abs(sum(map(math.prod, zip(signs, differences, strict=True)))) >= observed - 1e-9 for signs in tosses)
    (found,) = chances([[each] for each in differences])
    assert found == pytest.approx(as_far / len(tosses), abs=0.01)


def test_no_difference_is_all_chance_and_a_constant_one_is_none() -> None:
    nothing, constant = chances([[0.0, 0.1]] * 40)
    assert nothing == 1.0
    assert constant < 0.001
    assert chances([[0.0, 0.1]] * 40) == [nothing, constant]
