"""Chunked rows: the same values and gradients, the memory of one chunk, nothing moved between devices."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill.config import ParallelConfig
from distill.parallel.chunks import ENTRIES_AT_ONCE, map_rows, rows_at_once, split_rows
from distill.parallel.mesh import make_mesh, row_sharding


def layer(weights):
    def function(rows, key):
        hidden = jnp.tanh(rows["x"] @ weights) + rows["y"][:, None]
        return hidden if key is None else hidden + jax.random.normal(key, hidden.shape)

    return function


def problem(rows: int = 14):
    rng = np.random.default_rng(0)
    data = {"x": rng.normal(size=(rows, 5)), "y": rng.normal(size=rows)}
    return jax.tree.map(jnp.asarray, data), jnp.asarray(rng.normal(size=(5, 3)))


@pytest.fixture
def float64():
    """A gradient is a sum whose terms cancel: in float32 its error depends on the order in which they are added."""
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("chunk_rows", [1, 4, 7, 13, 14, 99])  # 4 and 13 do not divide 14
@pytest.mark.usefixtures("float64")
def test_values_and_gradients_equal_those_of_all_at_once(chunk_rows):
    data, weights = problem()
    assert weights.dtype == jnp.float64

    @jax.jit
    @jax.value_and_grad
    def chunked(weights):
        return jnp.square(map_rows(layer(weights), data, chunk_rows) + jnp.arange(14.0)[:, None]).sum()

    @jax.value_and_grad
    def whole(weights):
        return jnp.square(layer(weights)(data, None) + jnp.arange(14.0)[:, None]).sum()

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), chunked(weights), whole(weights))


def test_each_chunk_has_a_key_of_its_own():
    data, weights = problem(8)
    same = jax.tree.map(jnp.zeros_like, data)
    rows = np.asarray(map_rows(layer(weights), same, 2, jax.random.key(0)))
    assert len(np.unique(rows.round(6))) == rows.size
    np.testing.assert_array_equal(rows, map_rows(layer(weights), same, 2, jax.random.key(0)))


def test_a_chunk_takes_every_nth_row():
    np.testing.assert_array_equal(split_rows(jnp.arange(6), 3), [[0, 3], [1, 4], [2, 5]])
    np.testing.assert_array_equal(split_rows(jnp.arange(5) + 1, 3), [[1, 4], [2, 5], [3, 0]])


def test_as_many_rows_at_once_as_fit():
    assert rows_at_once(ENTRIES_AT_ONCE) == 1 == rows_at_once(10 * ENTRIES_AT_ONCE)
    assert rows_at_once(ENTRIES_AT_ONCE // 5) == 4
    assert rows_at_once(0) == ENTRIES_AT_ONCE


@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 4, 1)], ids=str)
def test_split_rows_stay_on_their_devices(shape):
    mesh = make_mesh(ParallelConfig(*shape))
    weights = jnp.ones((5, 3))

    def run(chunk_rows):
        rows = {"x": jax.ShapeDtypeStruct((64, 5), jnp.float32), "y": jax.ShapeDtypeStruct((64,), jnp.float32)}
        split = row_sharding(mesh)
        function = jax.jit(
            lambda rows: map_rows(layer(weights), rows, chunk_rows), in_shardings=split, out_shardings=split
        )
        return function.lower(rows).compile().as_text()

    moves = re.compile(r"all-gather|all-to-all|all-reduce|collective-permute")
    assert not moves.search(run(16)) and "while" in run(16)
    assert moves.search(run(13))  # 5 chunks of 13 rows do not go into 8 devices; the search does find such moves


def test_memory_is_that_of_a_chunk():
    def gradient(chunk_rows):
        def loss(weights, x):
            def function(rows, _):
                hidden = rows
                for _ in range(4):
                    hidden = jnp.tanh(hidden @ weights)
                return hidden.mean(axis=1)

            return jnp.square(map_rows(function, x, chunk_rows)).sum()

        shapes = jax.ShapeDtypeStruct((64, 64), jnp.float32), jax.ShapeDtypeStruct((4096, 64), jnp.float32)
        return jax.jit(jax.grad(loss)).lower(*shapes).compile().memory_analysis().temp_size_in_bytes

    row = 64 * 4
    assert gradient(0) > 4 * 4096 * row  # four activations of every row
    assert gradient(64) < 2.5 * 4096 * row  # copies of the rows in the order of the chunks, and little more
