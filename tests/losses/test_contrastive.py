import itertools
import math

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.losses import contrastive
from tests.losses.compiling import compiled

info_nce, value_and_gradients = compiled(contrastive.info_nce), compiled(contrastive.info_nce, gradient_of=(0, 1))
allowed_negatives, duplicate_mask = compiled(contrastive.allowed_negatives), compiled(contrastive.duplicate_mask)


def by_loops(anchors, targets, positives, allowed, temperature, weights, log_q):
    scores = anchors @ targets.T / temperature
    total, mass = 0.0, 0.0
    for a in range(len(anchors)):
        others = [n for n in range(len(targets)) if allowed[a, n] and not positives[a, n]]
        for p in np.flatnonzero(positives[a]):
            wanted = math.exp(scores[a, p])
            unwanted = sum(math.exp(scores[a, n]) / math.exp(log_q[n]) for n in others)
            weight = weights[a, p] / sum(positives[a])
            total -= weight * math.log(wanted / (wanted + unwanted))
            mass += weight
    return total / mass if mass else 0.0


def a_batch(seed, anchors=4, targets=6):
    rng = np.random.default_rng(seed)
    x, y = (rng.normal(size=(n, 5)) for n in (anchors, targets))
    x, y = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, y))
    positives, allowed = rng.random((anchors, targets)) < 0.3, rng.random((anchors, targets)) < 0.6
    return x, y, positives, allowed, rng.random((anchors, targets)) + 0.1, np.log(rng.random(targets))


@given(seed=st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_info_nce_by_loops(seed):
    x, y, positives, allowed, weights, log_q = a_batch(seed)
    value, gradients = value_and_gradients(
        x, y, positives=positives, negatives_allowed=allowed, temperature=0.3, weights=weights, log_q=log_q
    )
    expected = by_loops(x, y, positives, allowed, 0.3, weights, log_q)
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-6)
    assert all(np.isfinite(g).all() for g in gradients)


def test_in_batch_softmax_by_hand():
    x, y = np.eye(2), np.eye(2)
    value = info_nce(x, y, positives=np.eye(2, dtype=bool), negatives_allowed=np.ones((2, 2)), temperature=0.5)
    np.testing.assert_allclose(value, math.log1p(math.exp(-2.0)), rtol=1e-5)


def test_positives_are_never_each_others_negatives():
    x, y = np.array([[1.0, 0.0]]), np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    positives, everything = np.array([[True, True, False]]), np.ones((1, 3), bool)
    value = info_nce(x, y, positives=positives, negatives_allowed=everything, temperature=1.0)
    np.testing.assert_allclose(value, (math.log1p(math.exp(-1)) + math.log1p(math.exp(1))) / 2, rtol=1e-5)


def test_symmetric_is_the_mean_of_both_directions():
    x, y, positives, allowed, _, _ = a_batch(3, 4, 4)
    positives = np.eye(4, dtype=bool)  # one an anchor and one a target: every pair counts alike in both directions
    options = {"temperature": 0.2}
    there = info_nce(x, y, positives=positives, negatives_allowed=allowed, **options)
    back = info_nce(y, x, positives=positives.T, negatives_allowed=allowed.T, **options)
    both = info_nce(x, y, positives=positives, negatives_allowed=allowed, symmetric=True, **options)
    np.testing.assert_allclose(both, (there + back) / 2, rtol=1e-5)


def test_gradient_pulls_the_positive_and_pushes_the_negative():
    x, y = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0], [1.0, 0.0]])
    _, (gradient, _) = value_and_gradients(
        x, y, positives=np.array([[True, False]]), negatives_allowed=np.array([[False, True]]), temperature=1.0
    )
    assert gradient[0] @ y[0] < 0 < gradient[0] @ y[1]


@pytest.mark.parametrize("symmetric", [False, True])
def test_nothing_to_learn_is_zero_with_zero_gradient(symmetric):
    x, y, positives, allowed, _, _ = a_batch(4)
    no = np.zeros_like(positives)
    for masks in ((no, allowed), (positives, no), (no, no)):
        value, gradients = value_and_gradients(
            x, y, positives=masks[0], negatives_allowed=masks[1], temperature=0.05, symmetric=symmetric
        )
        assert value == 0.0
        assert all((np.asarray(g) == 0).all() for g in gradients)


def test_an_anchor_without_positives_contributes_nothing():
    x, y, positives, allowed, weights, _ = a_batch(5)
    positives[1] = False
    keep = np.arange(len(x)) != 1
    value, gradients = value_and_gradients(
        x, y, positives=positives, negatives_allowed=allowed, temperature=0.1, weights=weights
    )
    fewer, _ = value_and_gradients(
        x[keep], y, positives=positives[keep], negatives_allowed=allowed[keep], temperature=0.1, weights=weights[keep]
    )
    np.testing.assert_allclose(value, fewer, rtol=1e-6)
    np.testing.assert_array_equal(gradients[0][1], 0.0)


@pytest.mark.parametrize("size", [1e4, 1e2])
def test_extremes_are_finite(size):
    x, y, positives, allowed, _, _ = a_batch(6)
    for masks in ((positives, allowed), (~positives, ~allowed)):
        value, gradients = value_and_gradients(
            x * size, y, positives=masks[0], negatives_allowed=masks[1], temperature=0.01, symmetric=True
        )
        assert np.isfinite(value) and all(np.isfinite(g).all() for g in gradients)


def test_a_duplicate_of_a_positive_is_not_a_negative():
    ids = np.array([7, 3, 7, 5])
    np.testing.assert_array_equal(
        duplicate_mask(ids), np.array([[0, 0, 1, 0], [0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]], bool)
    )
    positives = np.array([[True, False, False, False], [False, True, False, False]])
    np.testing.assert_array_equal(allowed_negatives(positives, ids), np.array([[0, 1, 0, 1], [1, 0, 1, 1]], bool))


def test_the_same_keyphrase_twice_leaves_the_loss_as_it_was():
    x, y, positives, _, _, _ = a_batch(7)
    ids = np.arange(len(y))
    once = info_nce(x, y, positives=positives, negatives_allowed=allowed_negatives(positives, ids), temperature=0.2)
    repeated = np.concatenate([y, y[:1]])  # a copy of target 0, a positive of some anchors
    ids, wider = np.append(ids, 0), np.pad(positives, ((0, 0), (0, 1)))
    allowed = np.array(allowed_negatives(wider, ids))
    allowed[:, -1] = False
    twice = info_nce(x, repeated, positives=wider, negatives_allowed=allowed, temperature=0.2)
    np.testing.assert_allclose(twice, once, rtol=1e-6)
    assert not np.asarray(allowed_negatives(wider, ids))[positives[:, 0], -1].any()


def test_bad_arguments_are_refused():
    x, y, positives, allowed, _, _ = a_batch(8)
    with pytest.raises(ValueError, match="temperature"):
        info_nce(x, y, positives=positives, negatives_allowed=allowed, temperature=0.0)
    with pytest.raises(ValueError, match=r"positives: shape \(6, 4\)"):
        info_nce(x, y, positives=positives.T, negatives_allowed=allowed, temperature=1.0)
    with pytest.raises(ValueError, match="weights"):
        info_nce(x, y, positives=positives, negatives_allowed=allowed, temperature=1.0, weights=np.ones(4))
    with pytest.raises(ValueError, match=r"log_q: shape \(4,\)"):
        info_nce(x, y, positives=positives, negatives_allowed=allowed, temperature=1.0, log_q=np.ones(4))


def test_weights_count_pairs_by_hand():
    x, y = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    positives = np.array([[True, False, False], [False, True, True]])
    weights = np.array([[3.0, 9.0, 9.0], [9.0, 1.0, 5.0]])  # those beside the positives are not read
    value = info_nce(x, y, positives=positives, negatives_allowed=~positives, temperature=1.0, weights=weights)
    first = math.log1p(math.exp(0.6 - 1.0) + math.exp(0.0 - 1.0))
    second = math.log1p(math.exp(0.0 - 0.8)), math.log1p(math.exp(0.0 - 1.0))
    expected = (3 * first + 0.5 * (1 * second[0] + 5 * second[1])) / (3 + 0.5 * (1 + 5))
    np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_log_q_makes_the_batch_stand_for_all_targets():
    """Over all batches that can be drawn, the mean of the softmax's denominator is that over all targets."""
    x, y, _, _, _, _ = a_batch(9, 1, 5)
    chance = np.array([0.1, 0.3, 0.5, 0.7, 0.9])
    drawn = np.array(list(itertools.product([False, True], repeat=5)))
    drawn = drawn[drawn[:, 0]]  # the positive is always there, however rare it is otherwise
    positive = np.arange(5) == 0

    def denominators(log_q, batches):
        def one(allowed):
            return info_nce(
                x, y, positives=positive[None], negatives_allowed=allowed[None], temperature=0.3, log_q=log_q
            )

        return np.exp(jax.vmap(one)(batches))  # as a share of the positive's term

    odds = np.prod(np.where(drawn, chance, 1 - chance)[:, 1:], axis=1)
    everything = denominators(None, np.ones((1, 5), bool))
    np.testing.assert_allclose(odds @ denominators(np.log(chance), drawn), everything[0], rtol=1e-5)
    assert odds @ denominators(None, drawn) < 0.9 * everything[0]


def test_a_learnt_temperature_stays_within_clips_bounds():
    temperature = jax.jit(jax.vmap(jax.value_and_grad(contrastive.learnt_temperature)))
    values, _ = temperature(np.log(np.float32([0.5, 1, 20, 100, 1e4])))
    np.testing.assert_allclose(values, [1.0, 1.0, 0.05, 0.01, 0.01], rtol=1e-5)
    values, slopes = temperature(np.float32([-np.inf, np.inf]))
    np.testing.assert_allclose(values, [1.0, 0.01], rtol=1e-5)
    assert np.isfinite(slopes).all()


@pytest.mark.parametrize("wanted,reached", [(0.2, 0.2), (0.001, 0.01), (10.0, 1.0)])
def test_a_learnt_temperature_goes_to_the_bound_and_comes_back(wanted, reached):
    @jax.jit
    def descend(log_scale, wanted):
        def loss(log_scale):
            return (jax.numpy.log(contrastive.learnt_temperature(log_scale)) - jax.numpy.log(wanted)) ** 2

        return jax.lax.fori_loop(0, 100, lambda _, at: at - 0.1 * jax.grad(loss)(at), log_scale)

    there = descend(np.float32(3.0), wanted)
    np.testing.assert_allclose(contrastive.learnt_temperature(there), reached, rtol=1e-3)
    back = descend(there, 0.05)
    np.testing.assert_allclose(contrastive.learnt_temperature(back), 0.05, rtol=1e-3)


def test_the_loss_teaches_the_temperature():
    x, y, positives, allowed, _, _ = a_batch(11)

    def loss(temperature):
        return contrastive.info_nce(
            x, y, positives=positives, negatives_allowed=allowed, temperature=temperature, symmetric=True
        )

    values, slopes = jax.jit(jax.vmap(jax.value_and_grad(loss)))(np.float32([0.49, 0.5, 0.51]))
    np.testing.assert_allclose(slopes[1], (values[2] - values[0]) / 0.02, rtol=1e-2)
