"""Draws of groups with replacement, and the percentile interval."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.resampling import CHUNK, group_draws, percentile_interval


def drawn(*args, **more):
    return np.concatenate([np.empty((0, args[0])), *group_draws(*args, **more)])


@given(st.integers(1, 40), st.integers(0, 60), st.integers(0, 5))
def test_each_draw_takes_as_many_groups_as_there_are(groups, resamples, seed):
    counts = drawn(groups, resamples, seed)
    assert counts.shape == (resamples, groups)
    assert (counts >= 0).all() and (counts.sum(axis=1) == groups).all()


def test_blocks_do_not_change_the_draws_and_seeds_do():
    whole, small = drawn(7, 50, (3, 1)), list(group_draws(7, 50, (3, 1), numbers=CHUNK // 4))
    assert [len(block) for block in small] == [4] * 12 + [2]
    np.testing.assert_array_equal(np.concatenate(small), whole)
    np.testing.assert_array_equal(drawn(7, 20, (3, 1)), whole[:20])  # more resamples only add to the draws
    assert (drawn(7, 50, (3, 2)) != whole).any()


def test_means_of_draws_spread_as_the_standard_error_says():
    values = np.random.default_rng(0).gamma(2.0, size=200)
    means = drawn(200, 4000, 1) @ values / 200
    assert means.std() == pytest.approx(values.std() / math.sqrt(200), rel=0.05)
    assert means.mean() == pytest.approx(values.mean(), abs=0.01)


def test_an_interval_by_hand():
    assert percentile_interval(np.arange(41.0)) == pytest.approx((1.0, 39.0))  # 2.5 % of 40 steps is one step
    assert percentile_interval(np.array([math.nan, 3.0])) == (3.0, 3.0)  # half have a value
    for values in ([], [math.nan, math.nan, 1.0], [math.inf, math.nan]):
        assert all(math.isnan(bound) for bound in percentile_interval(np.array(values, float)))
