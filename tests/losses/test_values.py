"""Values worked out by hand, and by independent implementations."""

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats

from distill.losses import correlation, listwise, pairwise, pointwise
from distill.losses.reduction import total, unreduced
from tests.losses.compiling import compiled

soft_cross_entropy, mse = compiled(pointwise.soft_cross_entropy), compiled(pointwise.mse)
ordinal_cross_entropy = compiled(pointwise.ordinal_cross_entropy)
pearson_loss, global_pearson_loss = compiled(correlation.pearson_loss), compiled(correlation.global_pearson_loss)
cosent_loss, listwise_cosent_loss = compiled(correlation.cosent_loss), compiled(correlation.listwise_cosent_loss)
margin_mse, mse_margin_hybrid = compiled(pairwise.margin_mse), compiled(pairwise.mse_margin_hybrid)
ranknet, kl_divergence = compiled(pairwise.ranknet), compiled(listwise.kl_divergence)
pearson_gradient = compiled(correlation.pearson_loss, gradient_of=0)


def test_soft_cross_entropy_by_hand():
    # A logit of ln 3 is a probability of 3/4.
    losses = soft_cross_entropy([math.log(3.0), 0.0], [1.0, 0.3], reduce_fn=unreduced)
    np.testing.assert_allclose(losses, [math.log(4 / 3), math.log(2.0)], rtol=1e-6)
    half = soft_cross_entropy([math.log(3.0)], [0.5])
    np.testing.assert_allclose(half, -0.5 * math.log(0.75) - 0.5 * math.log(0.25), rtol=1e-6)


def test_soft_cross_entropy_takes_logits_not_probabilities():
    _, gradient = compiled(pointwise.soft_cross_entropy, gradient_of=0)(np.zeros(1), np.array([0.25]))
    np.testing.assert_allclose(gradient, [0.5 - 0.25], rtol=1e-6)


def test_weights_make_a_weighted_mean():
    np.testing.assert_allclose(mse([1.0, 2.0, 9.0], [0.0, 0.0, 0.0], weights=[3.0, 1.0, 0.0]), (3 * 1 + 4) / 4)
    np.testing.assert_allclose(mse([1.0, 2.0], [0.0, 0.0], weights=[3.0, 1.0], reduce_fn=total), 7.0)
    np.testing.assert_allclose(mse([1.0, 2.0], [0.0, 0.0], where=[False, True], reduce_fn=unreduced), [0.0, 4.0])


def test_ordinal_cross_entropy_by_hand():
    thresholds = [-1.0, 0.0, 2.0]
    losses = ordinal_cross_entropy([0.5, 0.5], [0, 2], thresholds, reduce_fn=unreduced)
    above = scipy.special.expit(0.5 - np.array(thresholds))  # chance of a grade above 0, 1 and 2
    expected = [-np.log(1 - above).sum(), -np.log(above[0]) - np.log(above[1]) - np.log(1 - above[2])]
    np.testing.assert_allclose(losses, expected, rtol=1e-6)


@pytest.mark.parametrize("grade,sign", [(0, 1), (3, -1)])
def test_ordinal_gradient_pushes_extreme_grades_outward(grade, sign):
    _, gradient = compiled(pointwise.ordinal_cross_entropy, gradient_of=0)(0.0, grade, np.array([-1.0, 0.0, 1.0]))
    assert sign * gradient > 0


def test_pearson_is_scipys():
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(2, 5, 9)).astype(np.float32)
    expected = [1 - scipy.stats.pearsonr(s, t).statistic for s, t in zip(student, teacher)]
    np.testing.assert_allclose(pearson_loss(student, teacher, reduce_fn=unreduced), expected, atol=1e-5)
    np.testing.assert_allclose(pearson_loss(student.T, teacher.T, axis=0), np.mean(expected), atol=1e-5)
    whole = 1 - scipy.stats.pearsonr(student.ravel(), teacher.ravel()).statistic
    np.testing.assert_allclose(global_pearson_loss(student, teacher), whole, atol=1e-5)


def test_pearson_gradient_is_that_of_the_formula():
    rng = np.random.default_rng(1)
    student, teacher = rng.normal(size=(2, 7))
    _, gradient = pearson_gradient(student.astype(np.float32), teacher.astype(np.float32))
    step = 1e-5
    numeric = [
        (scipy.stats.pearsonr(student - step * e, teacher).statistic
         - scipy.stats.pearsonr(student + step * e, teacher).statistic) / (2 * step)
        for e in np.eye(7)
    ]  # fmt: skip
    np.testing.assert_allclose(gradient, numeric, atol=1e-4)


@pytest.mark.parametrize("constant", [0.0, 0.1, -7.3, 1e4, 1e-3, 0.7])
@pytest.mark.parametrize("side", [0, 1])
def test_a_constant_list_contributes_nothing(constant, side):
    # Thirteen entries: the float32 mean of thirteen equal numbers is not that number, so rounding looks like variance.
    student, teacher = (np.tile(row, (2, 1)) for row in np.random.default_rng(5).random((2, 13), np.float32))
    lists = [student.copy(), teacher.copy()]
    lists[side][0] = constant
    np.testing.assert_allclose(pearson_loss(*lists), pearson_loss(student[1], teacher[1]), rtol=1e-5)
    _, gradient = pearson_gradient(*lists)
    np.testing.assert_array_equal(gradient[0], 0.0)
    assert np.isfinite(gradient).all() and np.abs(gradient[1]).max() > 0


def test_one_valid_entry_has_no_correlation():
    student, teacher = np.float32([[0.1, 0.9, 0.4]]), np.float32([[1.0, 2.0, 3.0]])
    value, gradient = pearson_gradient(student, teacher, where=np.array([[True, False, False]]))
    assert value == 0.0
    np.testing.assert_array_equal(gradient, 0.0)


def test_pearson_of_near_equal_cosines_survives_float32():
    teacher = np.linspace(0, 1, 8, dtype=np.float32)
    np.testing.assert_allclose(pearson_loss(0.9 + 1e-4 * teacher, teacher), 0.0, atol=1e-3)
    np.testing.assert_allclose(pearson_loss(0.9 - 1e-4 * teacher, teacher), 2.0, atol=1e-3)


def cosent_by_loops(cosines, targets, scale):
    total = 1.0
    for i in range(len(cosines)):
        for j in range(len(cosines)):
            if targets[i] > targets[j]:
                total += math.exp(scale * (cosines[j] - cosines[i]))
    return math.log(total)


def test_cosent_by_loops():
    rng = np.random.default_rng(2)
    cosines, targets = rng.uniform(-1, 1, (3, 6)), rng.integers(0, 3, (3, 6))
    per_list = [cosent_by_loops(c, t, 5.0) for c, t in zip(cosines, targets)]
    np.testing.assert_allclose(listwise_cosent_loss(cosines, targets, scale=5.0), np.mean(per_list), rtol=1e-5)
    whole = cosent_by_loops(cosines.ravel(), targets.ravel(), 5.0)
    np.testing.assert_allclose(cosent_loss(cosines, targets, scale=5.0), whole, rtol=1e-5)
    # One pair in the right order, by 0.1 at the default scale of 20.
    np.testing.assert_allclose(cosent_loss([0.6, 0.5], [1.0, 0.0]), math.log1p(math.exp(-2.0)), rtol=1e-4)


def test_margin_mse_by_loops():
    rng = np.random.default_rng(3)
    student, teacher = rng.normal(size=(2, 4, 6))
    where = rng.random((4, 6)) < 0.7
    per_list = []
    for s, t, valid in zip(student, teacher, where):
        pairs = [(i, j) for i in range(6) for j in range(6) if i != j and valid[i] and valid[j]]
        per_list.append(np.mean([((s[i] - s[j]) - (t[i] - t[j])) ** 2 for i, j in pairs]))
    np.testing.assert_allclose(margin_mse(student, teacher, where=where), np.mean(per_list), rtol=1e-5)


def test_margins_are_signed():
    # Margins of -2 and +2 differ by 4, although their sizes are equal.
    np.testing.assert_allclose(margin_mse([0.0, 2.0], [2.0, 0.0]), 16.0)
    _, gradient = compiled(pairwise.margin_mse, gradient_of=0)(np.float32([0, 2]), np.float32([2, 0]))
    assert gradient[0] < 0 < gradient[1]  # descent raises the first and lowers the second


def test_hybrid_by_hand():
    student, teacher = np.float32([[1, 2, 0], [5, 9, 9]]), np.float32([[0, 0, 1], [3, 9, 9]])
    where = np.array([[True, True, True], [True, False, False]])
    # d = (1, 2, -1): mean square 2; margins 1, 2 and 3, mean square 14/3. The second list has no pair: d = 2 alone.
    each = mse_margin_hybrid(student, teacher, margin_weight=0.5, where=where, reduce_fn=unreduced)
    np.testing.assert_allclose(each, [2 + 7 / 3, 4.0], rtol=1e-6)
    weighted = mse_margin_hybrid(student, teacher, margin_weight=0.5, where=where, weights=np.float32([3, 1]))
    np.testing.assert_allclose(weighted, (3 * (2 + 7 / 3) + 4) / 4, rtol=1e-6)


def test_ranknet_by_hand():
    scores, targets = [0.0, 1.0, -1.0], [2.0, 1.0, 1.0]
    # Pairs (0, 1) and (0, 2); entries 1 and 2 tie, so neither ranks the other and both have rank 2: equal weights.
    expected = (math.log1p(math.e) + math.log1p(1 / math.e)) / 2
    np.testing.assert_allclose(ranknet(scores, targets), expected, rtol=1e-6)
    targets = [3.0, 2.0, 1.0]  # weights 1/3, 1/4 and 1/5 on (0, 1), (0, 2), (1, 2)
    losses = np.log1p(np.exp([1.0, -1.0, -2.0]))
    expected = np.average(losses, weights=[1 / 3, 1 / 4, 1 / 5])
    np.testing.assert_allclose(ranknet(scores, targets), expected, rtol=1e-6)
    np.testing.assert_allclose(ranknet(scores, targets, rank_discount=False), np.mean(losses), rtol=1e-6)


def test_kl_divergence_is_scipys():
    rng = np.random.default_rng(4)
    student, teacher = rng.normal(size=(2, 3, 5))
    temperature = 2.0
    p, q = (scipy.special.softmax(x / temperature, axis=-1) for x in (teacher, student))
    expected = temperature**2 * scipy.stats.entropy(p, q, axis=-1).mean()
    np.testing.assert_allclose(kl_divergence(student, teacher, temperature=temperature), expected, rtol=1e-5)


@pytest.mark.parametrize("loss", [mse, soft_cross_entropy, pearson_loss, cosent_loss, margin_mse, ranknet])
def test_shapes_that_would_broadcast_are_refused(loss):
    with pytest.raises(ValueError, match=r"shapes differ.*\(4,\).*\(4, 1\)"):
        loss(np.zeros(4), np.zeros((4, 1)))
    with pytest.raises(ValueError, match="where"):
        loss(np.zeros((4, 2)), np.zeros((4, 2)), where=np.ones(2, bool))


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match=r"temperature: 0"):
        kl_divergence([1.0, 2.0], [1.0, 2.0], temperature=0.0)
    with pytest.raises(ValueError, match="weights"):
        mse([1.0, 2.0], [1.0, 2.0], weights=[1.0])
    with pytest.raises(ValueError, match="thresholds"):
        ordinal_cross_entropy([1.0], [1], 0.0)
