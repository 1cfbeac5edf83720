"""Worst groups: shrinkage by hand and by simulation, small groups pooled and marked, an order not made by chance."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from distill.evaluate.groups import chance_of_difference, shrunken_means, worst_groups
from distill.evaluate.significance import bootstrap_mean


def test_shrinkage_worked_out_by_hand():
    # Groups 0, 2 and 4, 6: means 1 and 5, σ² = (2 + 2) / (4 − 2) = 2; between: 2·4 + 2·4 = 16; effective size
    # 4 − 8/4 = 2, so τ² = (16 − 2) / 2 = 7; each mean keeps 7 / (7 + 2/2) = 7/8 of its distance from 3.
    shrunk, spread = shrunken_means(np.array([1.0, 5.0]), np.array([2, 2]), 4.0)
    assert shrunk.tolist() == pytest.approx([3 - 2 * 7 / 8, 3 + 2 * 7 / 8])
    assert spread == pytest.approx(7**0.5)


def test_groups_that_differ_less_than_chance_fall_together():
    shrunk, spread = shrunken_means(np.array([0.49, 0.51]), np.array([10, 30]), 100.0)
    assert spread == 0 and shrunk.tolist() == pytest.approx([0.505, 0.505])


def test_one_group_values_without_noise_and_none_are_left_alone():
    for means, sizes in (([0.3], [5]), ([0.1, 0.9], [1, 1]), ([], [])):
        shrunk, spread = shrunken_means(np.array(means), np.array(sizes, int), 0.0)
        assert shrunk.tolist() == means and spread == 0
    shrunk, spread = shrunken_means(np.array([0.1, 0.9]), np.array([4, 4]), 0.0)
    assert shrunk.tolist() == pytest.approx([0.1, 0.9]) and spread == pytest.approx(0.32**0.5)


def test_shrunken_means_lie_nearer_the_truth_than_plain_ones():
    rng = np.random.default_rng(0)
    sizes = rng.integers(10, 60, 300)
    truth = rng.normal(0.6, 0.1, 300)
    values = [rng.normal(mean, 0.4, size) for mean, size in zip(truth, sizes)]
    means = np.array([one.mean() for one in values])
    within = float(sum(((one - one.mean()) ** 2).sum() for one in values))
    shrunk, spread = shrunken_means(means, sizes, within)
    assert ((shrunk - truth) ** 2).mean() < 0.75 * ((means - truth) ** 2).mean()
    assert spread == pytest.approx(0.1, rel=0.2)


def test_the_f_test_is_that_of_scipy():
    rng = np.random.default_rng(2)
    values = [rng.normal(mean, 1.0, size) for mean, size in ((0.0, 12), (0.3, 40), (0.1, 25))]
    sizes, means = (np.array([kind(one) for one in values]) for kind in (len, np.mean))
    within = float(sum(((one - one.mean()) ** 2).sum() for one in values))
    assert chance_of_difference(means, sizes, within) == pytest.approx(scipy.stats.f_oneway(*values).pvalue)
    assert np.isnan(chance_of_difference(means[:1], sizes[:1], within))
    assert chance_of_difference(means, sizes, 0.0) == 0 and chance_of_difference(means[[0, 0]], sizes[:2], 0.0) == 1


def test_equal_groups_are_rarely_said_to_differ():
    """Where all are alike the estimated spread is above zero half of the time, which alone says nothing."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(200):
        names = [str(one) for one in rng.integers(0, 12, 300)]
        found.append(worst_groups(rng.beta(8, 2, 300), names, resamples=2))
    assert np.mean([one.spread > 0 for one in found]) > 0.3
    assert np.mean([one.differ for one in found]) < 0.1


def test_a_large_weak_group_comes_before_a_small_one_that_looks_weaker():
    rng = np.random.default_rng(1)
    values = np.concatenate([rng.normal(0.30, 0.3, 10), rng.normal(0.40, 0.3, 400), rng.normal(0.5, 0.3, 800)])
    names = ["few"] * 10 + ["many"] * 400 + ["fine"] * 800
    values[:10] += 0.35 - values[:10].mean()  # below the many
    values[10:410] += 0.40 - values[10:410].mean()
    found = worst_groups(values, names, resamples=100)
    assert [group.name for group in found.worst] == ["many", "few", "fine"]
    assert [group.small for group in found.worst] == [False, True, False]


def test_small_groups_are_pooled_and_the_rest_counted():
    values = [0.1] * 9 + [0.2] * 1 + [0.5, 0.7] * 10 + [0.9, 0.7] * 10
    names = ["nine"] * 9 + ["other"] + ["a"] * 20 + ["b"] * 20
    found = worst_groups(values, names, most=1, resamples=200, seed=3)
    assert [group.name for group in found.worst] == ["a"] and found.ranked == 2
    assert found.pooled_groups == 2 and found.pooled is not None and found.pooled.size == 10
    assert found.pooled.figure.estimate == pytest.approx(0.11)
    assert found.worst[0].figure == bootstrap_mean([0.5, 0.7] * 10, 200, 3)
    assert found.overall == pytest.approx(np.mean(values))


def test_nothing_to_group_and_nothing_large_enough():
    none = worst_groups([], [])
    assert none.worst == [] and none.pooled is None and none.ranked == 0 and np.isnan(none.overall)
    small = worst_groups([0.5], ["a"])
    assert small.worst == [] and small.pooled is not None and small.pooled_groups == 1
    with pytest.raises(ValueError, match="names: 1 for 2 values"):
        worst_groups([0.5, 0.6], ["a"])
    with pytest.raises(ValueError, match="values by group"):
        worst_groups([np.nan], ["a"])


@given(st.lists(st.tuples(st.floats(0, 1), st.sampled_from(["", "a", "b", "ß", "other"])), max_size=60))
def test_every_value_is_counted_once_and_shrinking_stays_between(rows):
    values, names = [value for value, _ in rows], [name for _, name in rows]
    found = worst_groups(values, names, least=3, most=9, resamples=100)
    assert sum(group.size for group in found.worst) + (found.pooled.size if found.pooled else 0) == len(rows)
    shrunk = [group.shrunk for group in found.worst]
    assert shrunk == sorted(shrunk)
    means = [group.figure.estimate for group in found.worst]
    assert all(min(means) - 1e-9 <= one <= max(means) + 1e-9 for one in shrunk)
