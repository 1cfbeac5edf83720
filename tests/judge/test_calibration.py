"""Calibration recovers a known sigmoid; thresholds reach the wanted precision and are not decided by luck."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from distill.judge.calibration import Calibration, Threshold, reliability, threshold_for_precision


def drawn(number: int, slope: float = 1.7, intercept: float = -0.4, seed: int = 0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, number)
    return logits, np.where(rng.random(number) < expit(slope * logits + intercept), 2, 1)


def test_fit_recovers_the_sigmoid_that_drew_the_grades():
    result = Calibration.fit(*drawn(20_000), relevant_grade=2)
    assert result.slope == pytest.approx(1.7, abs=0.08) and result.intercept == pytest.approx(-0.4, abs=0.08)
    assert result.probability([0.4 / 1.7])[0] == pytest.approx(0.5, abs=0.03)


def test_mean_probability_is_the_softened_base_rate():
    logits, grades = drawn(300)
    positives = int((grades == 2).sum())
    soft = np.where(grades == 2, (positives + 1) / (positives + 2), 1 / (300 - positives + 2)).mean()
    assert Calibration.fit(logits, grades, 2).probability(logits).mean() == pytest.approx(soft, abs=1e-4)


@pytest.mark.parametrize(
    ("logits", "grades", "probability"),
    [
        (np.arange(10.0), np.repeat([3, 0], 5), 0.5),  # falling: the base rate, never against the model's order
        (np.full(10, 7.3), np.repeat([3, 0], 5), 0.5),  # constant
        (np.array([2.0]), np.array([3]), 2 / 3),  # one pair: Platt's (1 + 1) / (1 + 2)
    ],
)
def test_logits_that_say_nothing_give_the_base_rate(logits, grades, probability):
    result = Calibration.fit(logits, grades, 2)
    assert result.slope == 0
    assert result.probability(logits) == pytest.approx(np.full(len(logits), probability))


def test_separable_pairs_and_one_class_stay_finite():
    separable = Calibration.fit([-2000.0, -1000.0, 1000.0, 2000.0], [0, 0, 3, 3], 2)
    assert 0 < separable.slope < 1 and separable.probability([0.0])[0] == pytest.approx(0.5)
    alike = Calibration.fit([1.0, 2.0, 3.0], [3, 3, 3], 2)
    assert alike.probability([2.0])[0] == pytest.approx(0.8, abs=1e-3)  # (3 + 1) / (3 + 2)


def test_probability_rises_with_the_logit_and_keeps_shape_and_nan():
    result = Calibration.fit(*drawn(500), relevant_grade=2)
    grid = result.probability(np.linspace(-1e4, 1e4, 50).reshape(5, 10))
    assert grid.shape == (5, 10) and np.all(np.diff(grid.ravel()) >= 0) and grid.min() >= 0 and grid.max() <= 1
    assert math.isnan(result.probability([math.nan])[0])


def test_round_trip_through_json():
    result = Calibration.fit(*drawn(500), relevant_grade=2)
    assert Calibration.from_dict(json.loads(json.dumps(result.to_dict()))) == result
    with pytest.raises(ValueError, match="'intercept' is missing"):
        Calibration.from_dict({"slope": 1.0, "relevant_grade": 2})
    with pytest.raises(ValueError, match="finite"):
        Calibration.from_dict({"slope": math.nan, "intercept": 0.0, "relevant_grade": 2})


def test_threshold_by_hand():
    # 100 pairs: the upper 60 relevant but for 6 at the bottom of them, the lower 40 not.
    logits = np.arange(100.0)
    grades = np.where(logits >= 46, 3, 0)
    result = threshold_for_precision(logits, grades, 2, 0.9)
    # base .54; smoothed (54 + 5.4) / (kept + 10) >= .9 up to kept = 56, from logit 44.
    assert result == Threshold(logit=44.0, precision=54 / 56, recall=1.0, coverage=0.56, reached=True)


def test_everything_is_kept_when_all_pairs_are_precise_enough():
    logits, grades = drawn(200)
    result = threshold_for_precision(logits, grades, 2, 0.1)
    assert result.logit == logits.min() and result.coverage == result.recall == 1 and result.reached


def test_a_lucky_top_pair_does_not_decide():
    rng = np.random.default_rng(0)
    logits = np.sort(rng.normal(size=500))
    grades = np.where(rng.random(500) < 0.3, 3, 0)
    grades[-3:] = 3  # noise but for the top three
    result = threshold_for_precision(logits, grades, 2, 0.9)
    assert not result.reached and result.coverage >= 0.04 and result.precision < 0.7


def test_no_relevant_pair_at_all():
    result = threshold_for_precision(np.arange(50.0), np.zeros(50), 2, 0.8)
    assert (result.precision, result.recall, result.reached) == (0, 0, False)


@given(
    st.lists(st.tuples(st.integers(-6, 6), st.integers(0, 3)), min_size=1, max_size=150),
    st.floats(0.05, 1.0),
)
@settings(max_examples=150)
def test_threshold_says_what_it_does(pairs, precision):
    logits, grades = (np.array(column, float) for column in zip(*pairs))
    result = threshold_for_precision(logits, grades, 2, precision)
    kept = logits >= result.logit
    relevant = grades >= 2
    assert kept.sum() >= min(len(pairs), 20)
    assert result.coverage == pytest.approx(kept.mean()) and result.precision == pytest.approx(relevant[kept].mean())
    assert result.recall == pytest.approx(relevant[kept].sum() / max(1, relevant.sum()))
    if result.reached:
        assert result.precision >= precision - 1e-9


@given(st.integers(0, 50), st.floats(0.1, 0.9), st.floats(0.1, 0.9))
@settings(max_examples=40)
def test_more_precision_never_keeps_more_pairs(seed, one, other):
    logits, grades = drawn(200, seed=seed)
    low, high = (threshold_for_precision(logits, grades, 2, wanted) for wanted in sorted((one, other)))
    if high.reached:
        assert low.reached and low.logit <= high.logit


def test_reliability_by_hand():
    result = reliability([0.05, 0.15, 0.12, 1.0], [False, True, False, True], bins=10)
    assert result.predicted == pytest.approx([0.05, 0.135, 1.0])
    assert result.observed.tolist() == [0, 0.5, 1] and result.count.tolist() == [1, 2, 1]


def test_calibrated_probabilities_lie_on_the_diagonal():
    logits, grades = drawn(20_000, seed=1)
    result = reliability(Calibration.fit(*drawn(5_000), relevant_grade=2).probability(logits), grades >= 2)
    assert np.abs(result.predicted - result.observed).max() < 0.06 and result.count.sum() == 20_000


def test_refusals_name_the_trouble():
    with pytest.raises(ValueError, match="1 of 2 pairs lack"):
        Calibration.fit([1.0, math.nan], [1, 2], 2)
    with pytest.raises(ValueError, match="one length > 0"):
        Calibration.fit([], [], 2)
    with pytest.raises(ValueError, match=r"precision = 1\.5"):
        threshold_for_precision([1.0], [1], 2, 1.5)
    with pytest.raises(ValueError, match="between 0 and 1"):
        reliability([1.2], [True])
    with pytest.raises(ValueError, match="bins = 0"):
        reliability([0.2], [True], bins=0)
