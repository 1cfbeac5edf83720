import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.losses import contrastive
from tests.losses.compiling import compiled

info_nce, value_and_gradients = compiled(contrastive.info_nce), compiled(contrastive.info_nce, gradient_of=(0, 1))
allowed_negatives, duplicate_mask = compiled(contrastive.allowed_negatives), compiled(contrastive.duplicate_mask)


def by_loops(anchors, targets, positives, allowed, temperature, weights, logq):
    scores = anchors @ targets.T / temperature - logq[None, :]
    total, mass = 0.0, 0.0
    for a in range(len(anchors)):
        losses = []
        for p in range(len(targets)):
            if positives[a, p]:
                others = [n for n in range(len(targets)) if allowed[a, n] and not positives[a, n]]
                denominator = math.exp(scores[a, p]) + sum(math.exp(scores[a, n]) for n in others)
                losses.append(-math.log(math.exp(scores[a, p]) / denominator))
        if losses:
            total += weights[a] * np.mean(losses)
            mass += weights[a]
    return total / mass if mass else 0.0


def a_batch(seed, anchors=4, targets=6):
    rng = np.random.default_rng(seed)
    x, y = (rng.normal(size=(n, 5)) for n in (anchors, targets))
    x, y = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, y))
    positives, allowed = rng.random((anchors, targets)) < 0.3, rng.random((anchors, targets)) < 0.6
    return x, y, positives, allowed, rng.random(anchors) + 0.1, np.log(rng.random(targets))


@given(seed=st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_info_nce_by_loops(seed):
    x, y, positives, allowed, weights, logq = a_batch(seed)
    value, gradients = value_and_gradients(
        x, y, positives=positives, negatives_allowed=allowed, temperature=0.3, weights=weights, logq=logq
    )
    expected = by_loops(x, y, positives, allowed, 0.3, weights, logq)
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
    positives = np.eye(4, dtype=bool)
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


def by_index(positives):
    """A mask [A, T] as indices [A, T] in random order, −1 for none."""
    order = np.random.default_rng(0).permuted(np.tile(np.arange(positives.shape[1]), (len(positives), 1)), axis=1)
    return np.where(np.take_along_axis(positives, order, axis=1), order, -1)


@pytest.mark.parametrize("chunk_rows", [0, 3, 4, None])
@pytest.mark.parametrize("seed", range(3))
def test_in_batch_info_nce_is_info_nce_with_all_other_targets(seed, chunk_rows):
    x, y, positives, _, _, _ = a_batch(seed, 8, 6)
    where = np.arange(6) != 2  # a target that is not there
    positives = positives & where
    positives[1] = False  # an anchor without positives
    masks = {"positives": positives, "negatives_allowed": np.tile(where, (8, 1)) & ~positives}
    expected, expected_gradients = value_and_gradients(x, y, **masks, temperature=0.3)
    value, gradients = jax.value_and_grad(contrastive.in_batch_info_nce, argnums=(0, 1))(
        *(jnp.float32(v) for v in (x, y)),
        positives=by_index(positives),
        where=where,
        temperature=0.3,
        chunk_rows=chunk_rows,
    )
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for ours, theirs in zip(gradients, expected_gradients):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    np.testing.assert_array_equal(gradients[1][2], 0.0)


def test_in_batch_info_nce_without_anything_to_learn_is_zero():
    x, y, _, _, _, _ = a_batch(0)
    nobody, alone = np.full((4, 2), -1), np.zeros((4, 1), int)  # no positive; one, but no other target
    for indices, where in ((nobody, np.ones(6, bool)), (alone, np.arange(6) == 0)):
        value, gradient = jax.value_and_grad(contrastive.in_batch_info_nce)(
            jnp.float32(x), y, positives=indices, where=where, temperature=0.1
        )
        assert value == 0.0 and not np.any(gradient)


def test_similarities_of_a_large_batch_are_never_all_held():
    size = 16_384

    def loss(x, y, positives):
        return contrastive.in_batch_info_nce(x, y, positives=positives, where=jnp.ones(size, bool), temperature=0.05)

    shapes = jax.ShapeDtypeStruct((size, 8), jnp.float32), jax.ShapeDtypeStruct((size, 1), jnp.int32)
    compiled = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(shapes[0], shapes[0], shapes[1]).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < size * size  # a quarter of one float32 matrix


def test_bad_arguments_are_refused():
    x, y, positives, allowed, _, _ = a_batch(8)
    with pytest.raises(ValueError, match="temperature"):
        info_nce(x, y, positives=positives, negatives_allowed=allowed, temperature=0.0)
    with pytest.raises(ValueError, match=r"positives: shape \(6, 4\)"):
        info_nce(x, y, positives=positives.T, negatives_allowed=allowed, temperature=1.0)
    with pytest.raises(ValueError, match="weights"):
        info_nce(x, y, positives=positives, negatives_allowed=allowed, temperature=1.0, weights=np.ones(6))
    in_batch, indices, where = contrastive.in_batch_info_nce, by_index(positives), np.ones(6, bool)
    with pytest.raises(ValueError, match="temperature"):
        in_batch(x, y, positives=indices, where=where, temperature=0.0)
    with pytest.raises(ValueError, match=r"positives: shape \(3, 6\)"):
        in_batch(x, y, positives=indices[:3], where=where, temperature=1.0)
    with pytest.raises(ValueError, match=r"where: shape \(5,\)"):
        in_batch(x, y, positives=indices, where=where[:5], temperature=1.0)
