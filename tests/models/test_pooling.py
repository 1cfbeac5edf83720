import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill.models.bi_encoder import normalise, prefix
from distill.models.encoder import PackedTokens
from distill.models.pooling import pool, take_slots

# One row: a text of two tokens, one of one token, padding.
FIELDS = PackedTokens(
    tokens=np.array([[9, 8, 7, 0]]),
    positions=np.array([[0, 1, 0, 0]]),
    segments=np.array([[1, 1, 2, 0]]),
    types=np.zeros((1, 4), int),
)
HIDDEN = jnp.array([[[1.0, 2.0], [3.0, 6.0], [5.0, 5.0], [100.0, 100.0]]])


def test_values_by_hand():
    np.testing.assert_array_equal(pool(HIDDEN, FIELDS, 3, "mean"), [[[2, 4], [5, 5], [0, 0]]])
    np.testing.assert_array_equal(pool(HIDDEN, FIELDS, 3, "first"), [[[1, 2], [5, 5], [0, 0]]])


@pytest.mark.parametrize("mode", ["mean", "first"])
def test_empty_slots_have_no_nan_gradient(mode):
    def loss(hidden):
        return normalise(take_slots(pool(hidden, FIELDS, 3, mode), jnp.array([0, 1, 2, -1]))).sum()

    grads = jax.grad(loss)(HIDDEN)
    assert np.isfinite(grads).all()
    np.testing.assert_array_equal(grads[0, 3], [0, 0])


def test_negative_slots_are_zero_and_order_is_kept():
    pooled = jnp.arange(8.0).reshape(2, 2, 2)
    np.testing.assert_array_equal(take_slots(pooled, jnp.array([3, -1, 0])), [[6, 7], [0, 0], [0, 1]])
    grads = jax.grad(lambda p: take_slots(p, jnp.array([-1, 3])).sum())(pooled)
    np.testing.assert_array_equal(grads, [[[0, 0], [0, 0]], [[0, 0], [1, 1]]])


def test_prefix_is_renormalised():
    np.testing.assert_allclose(prefix(jnp.array([[3.0, 4.0, 12.0]]), 2), [[0.6, 0.8]], rtol=1e-6)
    np.testing.assert_allclose(prefix(jnp.array([[3.0, 4.0, 12.0]]), 3), [[3 / 13, 4 / 13, 12 / 13]], rtol=1e-6)
    for width in (0, 4):
        with pytest.raises(ValueError, match=f"width is {width}"):
            prefix(jnp.zeros((1, 3)), width)


def test_unknown_mode():
    with pytest.raises(ValueError, match="'max'"):
        pool(HIDDEN, FIELDS, 3, "max")
