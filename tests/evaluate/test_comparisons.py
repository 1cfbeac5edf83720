"""Comparisons over queries and seeds: values worked out by hand, invariants, and error rates on simulated data."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from distill.evaluate.comparisons import Pairs, Values, contrast, holm, interval, resample, simultaneous


def model(*by_seed, shared=True, resamples=500):
    samples = [Values(np.arange(len(values)), np.asarray(values, float)) for values in by_seed]
    return resample(samples, shared_groups=shared, resamples=resamples)


def test_shared_queries_are_averaged_over_seeds_before_signs_are_flipped():
    first, second = model((0.5, 0.7, 0.9), (0.7, 0.9, 0.9)), model((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    found = contrast(first, second)
    assert found.by_seed == pytest.approx((0.2, 1 / 3))
    assert found.estimate == pytest.approx(0.8 / 3)
    # Differences by query are 0.1, 0.3, 0.4: of eight sign patterns, all plus and all minus are as extreme.
    assert found.p == pytest.approx(2 / 8)
    assert 0 < found.ci_low < found.estimate < found.ci_high < 0.5


def test_one_seed_is_a_bootstrap_of_its_queries():
    found = contrast(model((0.6, 0.8, 0.9)), model((0.5, 0.5, 0.5)))
    # Three queries, drawn three at a time: all of one kind one time in 27, more often than a tail holds.
    assert (found.ci_low, found.ci_high) == pytest.approx((0.1, 0.4))


def test_queries_of_their_own_on_each_seed_weigh_by_seed():
    first = model((0.2, 0.4), (0.6, 0.2, 0.4, 0.8), shared=False)
    found = contrast(first, model((0.0, 0.0), (0.0,) * 4, shared=False))
    assert found.by_seed == pytest.approx((0.3, 0.5))
    assert found.estimate == pytest.approx(0.4)
    # All six differences are positive: only all plus and all minus reach so far.
    assert found.p == pytest.approx(2 / 2**6)


def test_a_share_of_the_second_is_what_a_factor_asks():
    found = contrast(model((0.49, 0.50, 0.51)), model((0.5, 0.5, 0.5)), factor=0.9)
    assert found.estimate == pytest.approx(0.05)
    assert found.ci_low > 0


def test_two_differences_are_compared_query_by_query():
    few, few_direct = model((0.5, 0.9, 0.7), (0.7, 0.9, 0.9)), model((0.4, 0.5, 0.5), (0.4, 0.5, 0.5))
    many, many_direct = model((0.6, 0.6, 0.6), (0.6, 0.6, 0.6)), model((0.6, 0.5, 0.7), (0.6, 0.5, 0.5))
    found = contrast(few, few_direct, than=(many, many_direct))
    # Gains of few by seed (0.1, 0.4, 0.2) and (0.3, 0.4, 0.4); of many (0, 0.1, -0.1) and (0, 0.1, 0.1).
    assert found.by_seed == pytest.approx((0.7 / 3, 0.9 / 3))
    assert found.estimate == pytest.approx(0.8 / 3)
    # By query 0.2, 0.3, 0.3: of eight sign patterns, all plus and all minus are as extreme.
    assert found.p == pytest.approx(2 / 8)
    assert 0.2 <= found.ci_low < found.estimate < found.ci_high
    other_way = contrast(many, many_direct, than=(few, few_direct))
    assert (other_way.ci_low, other_way.ci_high) == pytest.approx((-found.ci_high, -found.ci_low))
    with pytest.raises(ValueError, match="different queries"):
        contrast(few, few_direct, than=(many, model((0.1, 0.2), (0.1, 0.2))))


def test_differences_of_pooled_aucs_are_compared():
    rng = np.random.default_rng(2)
    groups, labels = np.repeat(np.arange(12), 5), rng.random(60) < 0.4
    models = [
        resample([Pairs(groups, labels, labels * skill + rng.normal(0, 1, 60))], shared_groups=True, resamples=400)
        for skill in (3.0, 0.5, 1.0, 1.0)
    ]
    gains = [contrast(*models[:2]), contrast(*models[2:])]
    found = contrast(models[0], models[1], than=(models[2], models[3]))
    assert found.estimate == pytest.approx(gains[0].estimate - gains[1].estimate)
    assert found.draws == pytest.approx(gains[0].draws - gains[1].draws)
    assert found.ci_low < found.estimate < found.ci_high and 2 / 401 <= found.p <= 1


def test_a_pooled_auc_is_that_of_scikit_learn_on_every_seed():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(12), 5)
    labels = rng.random(60) < 0.4
    scores = [labels * 1.0 + rng.normal(0, 1, 60) for _ in range(2)]
    noise = [rng.normal(0, 1, 60) for _ in range(2)]
    first, second = (
        resample([Pairs(groups, labels, s) for s in each], shared_groups=True, resamples=400)
        for each in (scores, noise)
    )
    found = contrast(first, second)
    expected = [roc_auc_score(labels, a) - roc_auc_score(labels, b) for a, b in zip(scores, noise)]
    assert found.by_seed == pytest.approx(expected)
    assert found.ci_low < found.estimate < found.ci_high and 2 / 401 <= found.p <= 1
    low, high = interval(first)
    assert low < np.mean([roc_auc_score(labels, s) for s in scores]) < high


def test_equal_models_do_not_differ():
    values = np.random.default_rng(1).random((2, 20))
    found = contrast(model(*values), model(*values))
    assert (found.estimate, found.ci_low, found.ci_high, found.p) == (0, 0, 0, 1)
    assert simultaneous([found]) == [(0, 0)]


def test_other_queries_or_pairs_cannot_be_compared():
    one = resample([Values(np.arange(3), np.ones(3))], shared_groups=True, resamples=200)
    other = resample([Values(np.arange(1, 4), np.ones(3))], shared_groups=True, resamples=200)
    with pytest.raises(ValueError, match="different queries"):
        contrast(one, other)
    pairs = Pairs(np.arange(4) // 2, np.array([True, False, True, False]), np.arange(4.0))
    with pytest.raises(ValueError, match="different queries"):
        contrast(one, resample([pairs], shared_groups=True, resamples=200))
    with pytest.raises(ValueError, match="at least one group"):
        resample([Values(np.arange(0), np.ones(0))], shared_groups=True, resamples=200)


def test_a_query_that_one_seed_lacks_is_the_same_on_the_others():
    values = [Values(np.array([0, 1]), np.array([0.2, 0.4])), Values(np.array([1, 2]), np.array([0.6, 0.0]))]
    zeros = [Values(one.groups, np.zeros(2)) for one in values]
    first, second = (resample(samples, shared_groups=True, resamples=200) for samples in (values, zeros))
    found = contrast(first, second)
    assert found.by_seed == pytest.approx((0.3, 0.3)) and found.estimate == pytest.approx(0.3)
    # By query 0.1, 0.2 + 0.3 and 0: four of eight sign patterns reach as far.
    assert found.p == pytest.approx(4 / 8)
    # Query 1 stands in both: a draw that holds it alone gives each seed its own value of it.
    both = first.draws[np.isclose(first.draws[:, 0], 0.4) & np.isclose(first.draws[:, 1], 0.6)]
    assert len(both) > 0

    rng = np.random.default_rng(6)
    queries = rng.normal(0, 0.1, 30) + rng.normal(0, 0.02, (3, 30))
    ids = np.arange(30)
    lacking = [Values(np.delete(ids, seed), np.delete(queries[seed], seed)) for seed in range(3)]
    (low, high), (low_of_all, high_of_all) = (
        interval(one) for one in (resample(lacking, shared_groups=True, resamples=500), model(*queries))
    )
    # Drawn apart on each seed, 29 queries would pass for 87 and the interval be about 1 / √3 as wide.
    assert high - low > 0.9 * (high_of_all - low_of_all)


def test_pairs_of_one_class_have_no_p_value():
    groups, labels = np.repeat(np.arange(4), 2), np.ones(8, bool)
    one = resample([Pairs(groups, labels, np.arange(8.0))], shared_groups=True, resamples=200)
    found = contrast(one, one)
    assert np.isnan([found.estimate, found.ci_low, found.ci_high, found.p]).all()
    assert holm([found.p, 0.03])[1] == 0.03  # what was not tested is not corrected for


def test_one_query_alone_has_no_interval():
    found = contrast(model((0.5,)), model((0.4,)))
    assert found.estimate == pytest.approx(0.1)
    assert np.isnan([found.ci_low, found.ci_high, found.p]).all()
    assert np.isnan(interval(model((0.5,)))).all() and np.isnan(simultaneous([found])).all()


def test_holm_as_in_the_textbook():
    # Sorted .005, .01, .03, .04 times 4, 3, 2, 1, and never falling.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    adjusted = holm([0.02, np.nan, 0.5])
    assert adjusted[[0, 2]] == pytest.approx([0.04, 0.5]) and np.isnan(adjusted[1])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_never_lowers_a_p_value_or_swaps_two(p):
    adjusted = holm(p)
    assert (adjusted >= np.array(p) - 1e-15).all() and (adjusted <= 1).all()
    order = np.argsort(p, kind="stable")
    assert (np.diff(adjusted[order]) >= 0).all()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_swapping_the_models_changes_the_sign_alone(seed, shared):
    first, second = (model(*np.random.default_rng((seed, i)).random((2, 9)), shared=shared) for i in range(2))
    one, other = contrast(first, second), contrast(second, first)
    assert one.estimate == pytest.approx(-other.estimate)
    assert (one.ci_low, one.ci_high) == pytest.approx((-other.ci_high, -other.ci_low))
    assert one.p == pytest.approx(other.p)


def test_a_family_widens_intervals_by_how_many_comparisons_differ():
    rng = np.random.default_rng(2)
    base = model(rng.random(40))
    alone = contrast(model(rng.random(40)), base)
    others = [contrast(model(rng.random(40)), base) for _ in range(7)]
    (narrow,), copies, wide = simultaneous([alone]), simultaneous([alone] * 8), simultaneous([alone, *others])
    assert copies[0] == pytest.approx(narrow)  # the same comparison eight times is one comparison
    assert wide[0][0] < narrow[0] and narrow[1] < wide[0][1]
    bonferroni = 2.73 * alone.draws.std()  # normal quantile of .05 / 16
    assert wide[0][1] - alone.estimate < 1.15 * bonferroni


def seeds_of(rng, shared, queries=25, seeds=3, query_sd=0.1, noise_sd=0.1, seed_sd=0.0):
    """Per-query differences of two equally good models, by seed."""
    query = rng.normal(0, query_sd, queries if shared else (seeds, queries))
    return query + rng.normal(0, noise_sd, (seeds, queries)) + rng.normal(0, seed_sd, (seeds, 1))


@pytest.mark.parametrize("shared", [True, False])
def test_errors_of_the_first_kind_are_about_one_in_twenty(shared):
    """Comparisons of models that differ by chance; two standard errors of such a share are .03."""
    rng = np.random.default_rng(3)
    zero = model(*np.zeros((3, 25)), shared=shared, resamples=200)
    found = [contrast(model(*seeds_of(rng, shared), shared=shared, resamples=200), zero) for _ in range(200)]
    assert 0.02 <= np.mean([one.p <= 0.05 for one in found]) <= 0.09
    outside = np.mean([one.ci_low > 0 or one.ci_high < 0 for one in found])
    assert 0.005 <= outside <= 0.09


def test_where_seeds_differ_the_interval_widens_though_three_say_little():
    rng = np.random.default_rng(4)
    zero = model(*np.zeros((3, 25)), resamples=200)
    found = [contrast(model(*seeds_of(rng, True, seed_sd=0.1), resamples=200), zero) for _ in range(200)]
    queries_alone = np.mean([one.p <= 0.05 for one in found])
    outside = np.mean([one.ci_low > 0 or one.ci_high < 0 for one in found])
    assert queries_alone > 0.25  # p is of these trained models, so other seeds surprise it
    assert outside < 0.22 and outside < queries_alone / 2


def test_a_family_errs_once_in_twenty_as_a_whole():
    rng = np.random.default_rng(5)
    zero = model(*np.zeros((3, 25)), resamples=200)
    by_interval, by_p = [], []
    for _ in range(60):
        family = [contrast(model(*seeds_of(rng, True), resamples=200), zero) for _ in range(6)]
        by_interval.append(any(low > 0 or high < 0 for low, high in simultaneous(family)))
        by_p.append((holm([one.p for one in family]) <= 0.05).any())
    assert np.mean(by_interval) <= 0.1 and np.mean(by_p) <= 0.1  # uncorrected it were .26
