"""What every loss of (predictions, targets) over [lists, entries] must keep to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.losses.correlation import cosent_loss, global_pearson_loss, listwise_cosent_loss, pearson_loss
from distill.losses.listwise import kl_divergence
from distill.losses.pairwise import margin_mse, mse_margin_hybrid, ranknet
from distill.losses.pointwise import mse, ordinal_cross_entropy, soft_cross_entropy
from distill.losses.reduction import unreduced
from tests.losses.compiling import compiled


def ordinal(logits, targets, **options):
    """Grades 0–3 from targets in [0, 1]."""
    grades = jnp.round(3 * jnp.nan_to_num(jnp.asarray(targets))).astype(int)
    return ordinal_cross_entropy(logits, grades, jnp.array([-1.0, 0.0, 1.0]), **options)


PER_LIST = {
    "pearson": pearson_loss,
    "cosent": listwise_cosent_loss,
    "margin_mse": margin_mse,
    "ranknet": ranknet,
    "kl": kl_divergence,
    "hybrid": mse_margin_hybrid,
}
LOSSES = PER_LIST | {
    "soft_cross_entropy": soft_cross_entropy,
    "ordinal": ordinal,
    "mse": mse,
    "global_pearson": global_pearson_loss,
    "global_cosent": cosent_loss,
}
LISTS, ENTRIES = 3, 6
ALL = np.ones((LISTS, ENTRIES), bool)
COMPILED = {name: compiled(loss, gradient_of=0) for name, loss in LOSSES.items()}
every_loss = pytest.mark.parametrize("name", LOSSES)


@st.composite
def batches(draw):
    """Predictions, targets in [0, 1] and a mask, ties and constant lists among them."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    predictions = rng.normal(size=(LISTS, ENTRIES)).astype(np.float32)
    targets = rng.integers(0, 4, (LISTS, ENTRIES)).astype(np.float32) / 3
    where = rng.random((LISTS, ENTRIES)) < draw(st.sampled_from([0.3, 0.7, 1.0]))
    return predictions, targets, where


@every_loss
@given(batch=batches(), seed=st.integers(0, 999))
@settings(max_examples=12, deadline=None)
def test_order_of_lists_and_entries_does_not_matter(name, batch, seed):
    predictions, targets, where = batch
    rng = np.random.default_rng(seed)
    rows, columns = rng.permutation(LISTS)[:, None], rng.permutation(ENTRIES)[None, :]
    value, gradient = COMPILED[name](predictions, targets, where=where)
    moved_value, moved_gradient = COMPILED[name](
        predictions[rows, columns], targets[rows, columns], where=where[rows, columns]
    )
    np.testing.assert_allclose(moved_value, value, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(moved_gradient, np.asarray(gradient)[rows, columns], rtol=1e-3, atol=1e-4)


@every_loss
@given(batch=batches())
@settings(max_examples=12, deadline=None)
def test_what_is_masked_cannot_be_seen(name, batch):
    predictions, targets, where = batch
    value, gradient = COMPILED[name](predictions, targets, where=where)
    for junk in (np.nan, np.inf, -1e4):
        other = COMPILED[name](np.where(where, predictions, junk), np.where(where, targets, junk), where=where)
        np.testing.assert_array_equal(other[0], value)
        np.testing.assert_array_equal(other[1], gradient)
    np.testing.assert_array_equal(np.asarray(gradient)[~where], 0.0)


@every_loss
def test_masking_equals_removal(name):
    rng = np.random.default_rng(5)
    predictions = rng.normal(size=(LISTS, ENTRIES)).astype(np.float32)
    targets = rng.permuted(np.tile(np.linspace(0, 1, ENTRIES, dtype=np.float32), (LISTS, 1)), axis=1)
    kept = np.arange(ENTRIES) % 3 != 1
    masked, gradient = COMPILED[name](predictions, targets, where=np.tile(kept, (LISTS, 1)))
    removed, expected = COMPILED[name](predictions[:, kept], targets[:, kept])
    np.testing.assert_allclose(masked, removed, rtol=1e-5)
    np.testing.assert_allclose(np.asarray(gradient)[:, kept], expected, rtol=1e-4, atol=1e-6)


@every_loss
@pytest.mark.parametrize("size", [1e4, 1e-4])
def test_extremes_are_finite(name, size):
    rng = np.random.default_rng(6)
    for predictions in (
        size * rng.choice([-1.0, 1.0], (LISTS, ENTRIES)),
        size * rng.normal(size=(LISTS, ENTRIES)),
        np.full((LISTS, ENTRIES), size),
        np.zeros((LISTS, ENTRIES)),
    ):
        targets = rng.integers(0, 4, (LISTS, ENTRIES)) / 3
        value, gradient = COMPILED[name](np.float32(predictions), np.float32(targets), where=ALL)
        assert np.isfinite(value) and np.isfinite(gradient).all()


@pytest.mark.parametrize("name", sorted(LOSSES.keys() - {"soft_cross_entropy", "ordinal"}))  # those teach 0–1 or grades
def test_extreme_teachers_are_finite(name):
    rng = np.random.default_rng(7)
    predictions, targets = 1e4 * rng.choice([-1.0, 1.0], (2, LISTS, ENTRIES)).astype(np.float32)
    value, gradient = COMPILED[name](predictions, targets, where=ALL)
    assert np.isfinite(value) and np.isfinite(gradient).all()


@every_loss
def test_nothing_valid_is_zero_with_zero_gradient(name):
    predictions = np.tile(np.arange(ENTRIES, dtype=np.float32), (LISTS, 1))
    value, gradient = COMPILED[name](predictions, predictions / ENTRIES, where=~ALL)
    assert value == 0.0
    np.testing.assert_array_equal(gradient, 0.0)


@pytest.mark.parametrize("name", ["pearson", "ranknet"])
def test_jit_agrees(name):
    rng = np.random.default_rng(8)
    predictions, targets = rng.random((2, LISTS, ENTRIES)).astype(np.float32)
    np.testing.assert_allclose(
        COMPILED[name](predictions, targets, where=ALL)[0], LOSSES[name](predictions, targets, where=ALL), rtol=1e-5
    )


@pytest.mark.parametrize("name", PER_LIST)
def test_vmap_agrees_with_the_batch(name):
    rng = np.random.default_rng(9)
    predictions, targets = rng.random((2, LISTS, ENTRIES)).astype(np.float32)
    loss = PER_LIST[name]
    weights = np.array([1.0, 0.0, 3.0], np.float32)

    @compiled
    def three_ways(predictions, targets):
        together = loss(predictions, targets, reduce_fn=unreduced)
        return together, jax.vmap(loss)(predictions, targets), loss(predictions, targets, weights=weights)

    together, one_by_one, weighted = three_ways(predictions, targets)
    np.testing.assert_allclose(one_by_one, together, rtol=1e-5)
    np.testing.assert_allclose(weighted, np.average(together, weights=weights), rtol=1e-5)


@pytest.mark.parametrize("name", ["pearson", "cosent", "margin_mse", "soft_cross_entropy"])
def test_bfloat16_is_reduced_in_float32(name):
    rng = np.random.default_rng(10)
    predictions = jnp.asarray(rng.random((LISTS, ENTRIES)), jnp.bfloat16)
    targets = jnp.asarray(rng.integers(0, 4, (LISTS, ENTRIES)) / 3, jnp.bfloat16)
    value, gradient = COMPILED[name](predictions, targets, where=ALL)
    assert value.dtype == jnp.float32 and gradient.dtype == jnp.bfloat16
    exact, _ = COMPILED[name](predictions.astype(jnp.float32), targets.astype(jnp.float32), where=ALL)
    np.testing.assert_allclose(value, exact, rtol=1e-5)


@given(seed=st.integers(0, 999), scale=st.sampled_from([0.01, 3.0, 500.0]), shift=st.sampled_from([-20.0, 0.0, 20.0]))
@settings(max_examples=20, deadline=None)
def test_pearson_ignores_the_teachers_scale(seed, scale, shift):
    student, teacher = np.random.default_rng(seed).normal(size=(2, LISTS, ENTRIES)).astype(np.float32)
    value, gradient = COMPILED["pearson"](student, teacher, where=ALL)
    moved, moved_gradient = COMPILED["pearson"](student, np.float32(scale * (teacher + shift)), where=ALL)
    np.testing.assert_allclose(moved, value, atol=1e-4)
    np.testing.assert_allclose(moved_gradient, gradient, atol=1e-3)
