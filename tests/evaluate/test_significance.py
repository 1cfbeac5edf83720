"""Bootstrap intervals and p-values: by hand, against independent computations, and over repeated samples."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from sklearn.metrics import roc_auc_score

from distill.evaluate import significance


def clustered(seed: int, groups: int = 60, rows: int = 900, skill: float = 1.0):
    rng = np.random.default_rng(seed)
    group, labels = rng.integers(0, groups, rows), rng.random(rows) < 0.4
    return group, labels, np.round(skill * labels + rng.normal(size=rows), 1)  # rounded: with ties


def test_mean_interval_is_near_the_normal_one():
    values = np.random.default_rng(0).normal(0.6, 0.2, 400)
    result = significance.bootstrap_mean(values, 2000, seed=1)
    error = 1.96 * values.std() / 20
    assert result.estimate == pytest.approx(values.mean())
    assert result.ci_low == pytest.approx(values.mean() - error, abs=0.004)
    assert result.ci_high == pytest.approx(values.mean() + error, abs=0.004)


def test_mean_interval_covers_the_truth_about_95_times_in_100():
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        one = significance.bootstrap_mean(rng.exponential(1.0, 80), 300, seed)
        covered += one.ci_low <= 1 <= one.ci_high
    assert 0.88 <= covered / 200 <= 0.99


def test_same_seed_same_interval():
    values = np.random.default_rng(0).random(50)
    assert significance.bootstrap_mean(values, 200, 3) == significance.bootstrap_mean(values, 200, 3)
    sample = clustered(0)
    assert significance.bootstrap_auc(*sample, 100, 3) == significance.bootstrap_auc(*sample, 100, 3)


def test_fewer_than_two_groups_have_no_interval():
    one = significance.bootstrap_mean([0.5])
    assert one.estimate == 0.5 and math.isnan(one.ci_low) and math.isnan(one.ci_high)
    assert math.isnan(significance.bootstrap_mean([]).estimate)
    single = significance.bootstrap_auc([0, 0, 0], [1, 0, 1], [2, 1, 3])
    assert single.estimate == 1 and math.isnan(single.ci_low)
    pair = significance.paired_auc_difference([0, 0], [1, 0], [2, 1], [1, 2])
    assert pair.estimate == 1 and math.isnan(pair.p)


def test_constant_values_have_a_point_interval():
    result = significance.bootstrap_mean([1.0] * 5)
    assert (result.ci_low, result.ci_high) == (1, 1)


def test_auc_estimate_and_draws_equal_scikit_learn():
    group, labels, scores = clustered(0)
    result = significance.bootstrap_auc(group, labels, scores, 80, seed=5)
    assert result.estimate == pytest.approx(roc_auc_score(labels, scores))
    # The same draws, pair by pair.
    rng, drawn = np.random.default_rng(5), []
    for times in rng.multinomial(60, [1 / 60] * 60, size=80):
        rows = np.repeat(np.arange(group.size), times[group])
        drawn.append(roc_auc_score(labels[rows], scores[rows]))
    assert [result.ci_low, result.ci_high] == pytest.approx(np.quantile(drawn, [0.025, 0.975]))


def test_clusters_widen_the_interval_of_dependent_pairs():
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(30), 40)
    labels = np.repeat(rng.random(30) < 0.5, 40)  # a group's pairs all say the same
    scores = np.repeat(rng.normal(size=30), 40) + labels
    by_group = significance.bootstrap_auc(group, labels, scores, 300)
    by_row = significance.bootstrap_auc(np.arange(1200), labels, scores, 300)
    assert by_group.ci_high - by_group.ci_low > 3 * (by_row.ci_high - by_row.ci_low)


def test_auc_of_one_class_is_nan():
    assert math.isnan(significance.bootstrap_auc([0, 1], [1, 1], [1, 2]).estimate)


def test_sign_flips_of_few_groups_are_counted_exactly():
    # All of 2^4 sign patterns: only the observed one and its mirror are as extreme.
    result = significance.paired_difference([2, 3, 4, 5], [1, 1, 1, 1])
    assert result.estimate == 2.5 and result.p == pytest.approx(2 / 16)


def test_paired_p_agrees_with_the_t_test_below_and_above_its_switch():
    rng = np.random.default_rng(0)
    for groups in (500, 3000):
        first = rng.random(groups)
        second = first + rng.normal(0.1, 1.2, groups) / math.sqrt(groups) * 10
        result = significance.paired_difference(first, second)
        assert result.p == pytest.approx(scipy.stats.ttest_rel(first, second).pvalue, abs=0.02)
        assert result.ci_low < result.estimate < result.ci_high


def test_equal_models_do_not_differ():
    values = np.random.default_rng(0).random(30)
    assert significance.paired_difference(values, values) == significance.Difference(0, 0, 0, 1)
    group, labels, scores = clustered(0)
    same = significance.paired_auc_difference(group, labels, scores, 2 * scores, 100)
    assert same == significance.Difference(0, 0, 0, 1)


def test_pairing_sees_what_separate_intervals_hide():
    rng = np.random.default_rng(0)
    hard = rng.random(100)  # queries differ far more than the models do
    better = hard + 0.02 + rng.normal(0, 0.02, 100)
    paired = significance.paired_difference(better, hard)
    assert paired.ci_low > 0 and paired.p < 0.001
    assert significance.bootstrap_mean(better).ci_low < significance.bootstrap_mean(hard).ci_high


def test_auc_difference_finds_the_better_scorer_and_its_sign():
    group, labels, good = clustered(0, skill=1.5)
    bad = clustered(1, skill=0.3)[2]
    bad = bad - np.mean(bad) + 0.2 * labels
    forth = significance.paired_auc_difference(group, labels, good, bad, 300)
    back = significance.paired_auc_difference(group, labels, bad, good, 300)
    assert forth.estimate == pytest.approx(roc_auc_score(labels, good) - roc_auc_score(labels, bad))
    assert forth.ci_low > 0 and forth.p == pytest.approx(2 / 301)
    assert back.estimate == pytest.approx(-forth.estimate) and back.ci_high == pytest.approx(-forth.ci_low)


def test_p_is_uniform_when_models_are_equally_good():
    rng = np.random.default_rng(0)
    small = 0
    for seed in range(150):
        group, labels = rng.integers(0, 30, 240), rng.random(240) < 0.5
        first, second = (labels + rng.normal(size=240) for _ in range(2))
        small += significance.paired_auc_difference(group, labels, first, second, 100, seed).p <= 0.1
    assert 0.03 <= small / 150 <= 0.2


def test_different_lengths_and_missing_scores_are_refused():
    with pytest.raises(ValueError, match="3 and 2 groups"):
        significance.paired_difference([1, 2, 3], [1, 2])
    with pytest.raises(ValueError, match="one length"):
        significance.bootstrap_auc([0, 1], [1], [1, 2])
    with pytest.raises(ValueError, match="one length"):
        significance.bootstrap_auc([0, 1], [1, 0], [1, 2, 3])
    with pytest.raises(ValueError, match="1 of 2 are NaN"):
        significance.bootstrap_auc([0, 1], [1, 0], [1, math.nan])
