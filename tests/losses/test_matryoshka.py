import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill.losses.matryoshka import matryoshka, unit_prefix
from tests.losses.compiling import compiled


def one_minus_cosine(x, y):
    return 1.0 - jnp.mean(jnp.sum(x * y, axis=-1))


@functools.partial(jax.jit, static_argnums=(2, 3))
def value_and_gradient(x, y, widths, weights):
    return jax.value_and_grad(lambda v: matryoshka(one_minus_cosine, (v, y), widths, weights)[0])(x)


def test_prefixes_are_renormalised_and_weighted():
    x, y = np.float32([[3, 4, 12]]), np.float32([[1, 0, 0]])
    total, per_width = compiled(lambda *v: matryoshka(one_minus_cosine, v, (1, 2, 3), (1.0, 1.0, 2.0)))(x, y)
    expected = {1: 0.0, 2: 1 - 3 / 5, 3: 1 - 3 / 13}
    assert list(per_width) == [1, 2, 3]
    for width, loss in expected.items():
        np.testing.assert_allclose(per_width[width], loss, atol=1e-6)
    np.testing.assert_allclose(total, (expected[1] + expected[2] + 2 * expected[3]) / 4, rtol=1e-5)


def test_weights_are_relative():
    x, y = np.random.default_rng(0).normal(size=(2, 4, 8)).astype(np.float32)
    first, _ = value_and_gradient(x, y, (4, 8), (1.0, 3.0))
    second, _ = value_and_gradient(x, y, (4, 8), (10.0, 30.0))
    np.testing.assert_allclose(first, second, rtol=1e-6)


def test_entries_beyond_the_widest_prefix_have_no_gradient():
    x, y = np.random.default_rng(1).normal(size=(2, 4, 8)).astype(np.float32)
    _, gradient = value_and_gradient(x, y, (2, 5), (1.0, 1.0))
    assert np.abs(gradient[:, :5]).min() > 0
    np.testing.assert_array_equal(gradient[:, 5:], 0.0)


@pytest.mark.parametrize("size", [0.0, 1e-20, 1e4])
def test_zero_and_extreme_vectors_are_finite(size):
    x, y = size * np.ones((2, 4), np.float32), np.ones((2, 4), np.float32)
    value, gradient = value_and_gradient(x, y, (2, 4), (1.0, 1.0))
    assert np.isfinite(value) and np.isfinite(gradient).all()


def test_unit_prefix_of_bfloat16_is_float32():
    prefix = unit_prefix(jnp.ones((2, 4), jnp.bfloat16), 3)
    assert prefix.dtype == jnp.float32
    np.testing.assert_allclose(jnp.linalg.norm(prefix, axis=-1), 1.0, rtol=1e-6)


@pytest.mark.parametrize(
    "widths,weights,word",
    [
        ((2, 9), (1.0, 1.0), "1 to 8"),
        ((0,), (1.0,), "1 to 8"),
        ((2,), (1.0, 1.0), "one weight a width"),
        ((), (), "at least one"),
        ((2, 2), (1.0, 1.0), "once"),
        ((2, 4), (0.0, 0.0), "not all 0"),
        ((2, 4), (2.0, -1.0), "non-negative"),
    ],
)
def test_settings_that_do_not_fit_are_refused(widths, weights, word):
    with pytest.raises(ValueError, match=word):
        matryoshka(one_minus_cosine, (np.ones((2, 8)), np.ones((2, 8))), widths, weights)
