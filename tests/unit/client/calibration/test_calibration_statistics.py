"""Figures of agreement, held against values reckoned by hand and identities that need no library."""

from __future__ import annotations

import json
import math
import random
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from judge_client.calibration import statistics
from judge_client.calibration.statistics import NO_SPREAD, need_statistics
from judge_client.errors import InputProblem
from sklearn.metrics import cohen_kappa_score

UP = list(range(1, 11))
GRID = [(one, other) for one in UP for other in UP]
SCORES = some.lists(some.tuples(some.integers(1, 10), some.integers(1, 10)), max_size=40)


def test_the_same_scores_agree_perfectly() -> None:
    assert statistics.spearman(UP, UP).value == 1
    assert statistics.weighted_kappa(UP, UP).value == 1


def test_reversed_scores_give_minus_one() -> None:
    # Kappa: the mean of (2x - 11)^2 over 1..10 is 33, and chance gives twice the variance, 2 * 8.25.
    assert statistics.spearman(UP, UP[::-1]).value == -1
    assert statistics.weighted_kappa(UP, UP[::-1]).value == -1


def test_a_generous_judge_keeps_the_order_and_loses_kappa() -> None:
    # One point more for each of 1..9: chance gives twice the variance of 1..9 (80/12 each) and 1 for the shift.
    gold, judge = UP[:9], UP[1:]
    assert statistics.spearman(gold, judge).value == 1
    assert statistics.weighted_kappa(gold, judge).value == pytest.approx(1 - 1 / (2 * 80 / 12 + 1), abs=1e-4)


def test_scores_that_have_nothing_to_do_with_each_other_give_zero() -> None:
    gold, judge = [one for one, _ in GRID], [other for _, other in GRID]
    assert statistics.spearman(gold, judge).value == 0
    assert statistics.weighted_kappa(gold, judge).value == 0


def test_ties_share_their_mean_rank() -> None:
    # Ranks 1.5 1.5 3.5 3.5 5 and 1 2 4 4 4: the deviations' products sum to 7.5, their squares to 9 and 8.
    assert statistics.spearman([1, 1, 2, 2, 3], [1, 2, 3, 3, 3]).value == pytest.approx(7.5 / math.sqrt(72), abs=1e-4)


def test_kappa_weighs_by_the_whole_scale_and_not_by_the_scores_that_occur() -> None:
    # 1 and 10 alone: were they neighbours among the labels, as two classes, kappa would be the same; 1, 2 and 10 tell.
    gold, judge = [1, 2, 10, 10, 1, 2], [2, 2, 10, 10, 1, 1]
    # (x-y)^2 is 1 twice of 6. Means 26/6 both, means of squares 210/6 both.
    assert statistics.weighted_kappa(gold, judge).value == pytest.approx(
        1 - (2 / 6) / (2 * 210 / 6 - 2 * (26 / 6) ** 2), abs=1e-4)


def test_the_interval_of_a_mean_is_the_one_of_the_normal_distribution_for_many_items() -> None:
    found = statistics.mean([0.0, 1.0] * 200)
    assert found.value == 0.5
    assert found.low == pytest.approx(0.5 - 1.96 * 0.025, abs=0.005)
    assert found.high == pytest.approx(0.5 + 1.96 * 0.025, abs=0.005)


def test_the_interval_of_a_share_is_wilsons() -> None:
    found = statistics.share(10, 10)
    assert (found.value, found.high) == (1, 1)
    assert found.low == pytest.approx(10 / (10 + 1.959964**2), abs=1e-4)


def test_a_fisher_interval_of_a_correlation_is_nearly_the_bootstraps() -> None:
    drawn = np.random.default_rng(7).multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], 300)
    found = statistics.spearman(drawn[:, 0].tolist(), drawn[:, 1].tolist())
    assert found.value is not None and found.low is not None and found.high is not None
    # Bonett and Wright's standard error of the transformed correlation.
    half = 1.96 * math.sqrt((1 + found.value**2 / 2) / 297)
    assert found.low == pytest.approx(math.tanh(math.atanh(found.value) - half), abs=0.03)
    assert found.high == pytest.approx(math.tanh(math.atanh(found.value) + half), abs=0.03)


def test_the_same_scores_give_the_same_interval_each_time() -> None:
    drawn = random.Random(3)
    gold, judge = ([drawn.randint(1, 10) for _ in range(30)] for _ in range(2))
    assert statistics.spearman(gold, judge) == statistics.spearman(gold, judge)


def test_the_kappa_of_the_resamples_is_scikit_learns() -> None:
    drawn = np.random.default_rng(5)
    many = drawn.integers(1, 11, (2, 50, 25)).astype(float)
    ours = statistics.weighted_kappas(many[0], many[1])
    theirs = [cohen_kappa_score(one, other, labels=UP, weights="quadratic")
              for one, other in zip(many[0].astype(int), many[1].astype(int), strict=True)]
    assert ours == pytest.approx(theirs)


def test_the_correlation_of_the_resamples_is_the_value_itself() -> None:
    gold, judge = [1, 1, 2, 2, 3], [1, 2, 3, 3, 3]
    many = statistics.rank_correlations(np.array([gold, judge]), np.array([judge, gold]))
    assert many == pytest.approx([7.5 / math.sqrt(72)] * 2)


@pytest.mark.parametrize(("gold", "judge", "reason"), [
    (UP, [7] * 10, "the judge's scores are all 7: there is no order to compare"),
    ([3] * 10, UP, "the gold scores are all 3: there is no order to compare"),
    ([1, 2, 3, 4], [1, 2, 3, 4], "4 items have both scores, wanted 5"),
    ([], [], "0 items have both scores, wanted 5"),
])
def test_a_correlation_that_is_not_defined_says_why(gold: list[int], judge: list[int], reason: str) -> None:
    found = statistics.spearman(gold, judge)
    assert (found.value, found.low, found.reason) == (None, None, reason)


def test_kappa_of_one_and_the_same_score_is_not_defined() -> None:
    found = statistics.weighted_kappa([8] * 12, [8] * 12)
    assert found.value is None
    assert found.reason == "both gave every item the score 8: chance alone would agree as well"


def test_a_judge_that_always_gives_the_same_score_is_no_better_than_chance() -> None:
    assert statistics.weighted_kappa(UP, [7] * 10).value == 0


def test_what_never_varies_has_no_interval() -> None:
    found = statistics.mean([1.0] * 30)
    assert (found.value, found.low, found.high, found.reason) == (1, None, None, NO_SPREAD)


def test_nine_items_have_no_interval() -> None:
    found = statistics.mean([1.0, 2.0, 3.0] * 3)
    assert (found.value, found.low, found.reason) == (2, None, "9 items, wanted 10 for an interval")


def test_the_mean_of_nothing_says_so() -> None:
    assert statistics.mean([]).reason == "no item has a score"


def test_one_item_that_differs_from_all_others_gives_no_interval_of_the_correlation() -> None:
    # A third of the resamples do not hold it, and are constant.
    found = statistics.spearman([5] * 11 + [9], [5] * 11 + [8])
    assert (found.value, found.low) == (1, None)
    assert found.reason == "too few items differ: many of the resamples have no value"


@settings(max_examples=60, deadline=None)
@given(SCORES)
def test_whatever_the_scores_are_a_figure_is_a_number_or_a_reason(pairs: list[tuple[int, int]]) -> None:
    gold, judge = [one for one, _ in pairs], [other for _, other in pairs]
    for found in (statistics.spearman(gold, judge), statistics.weighted_kappa(gold, judge),
                  statistics.mean([one - other for one, other in pairs])):
        json.dumps(found.to_dict(), allow_nan=False)
        assert (found.value is None or found.low is None) == (found.reason is not None)
        if found.low is not None and found.high is not None:
            assert found.low <= found.high


def test_without_scipy_there_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    with pytest.raises(InputProblem, match=r"scipy\.stats is not installed") as caught:
        need_statistics()
    assert caught.value.reason == "EVALUATION_MISSING"
    assert caught.value.hint == "pip install 'judge-bootstrap[evaluation]'"
