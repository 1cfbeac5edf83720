"""Lists split over eight devices give the value and the gradient of one device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill.config import ParallelConfig
from distill.losses.contrastive import in_batch_info_nce
from distill.parallel.mesh import make_mesh, row_sharding
from tests.losses.compiling import compiled
from tests.losses.test_invariants import LOSSES

DEVICES = 8


def split(tree):
    return jax.device_put(tree, row_sharding(make_mesh(ParallelConfig(), devices=jax.devices()[:DEVICES])))


def assert_equal_when_split(run, tree):
    parts = split(tree)
    assert all(len(leaf.sharding.device_set) == DEVICES for leaf in jax.tree.leaves(parts))
    expected, found = run(tree), run(parts)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, expected)
    assert np.any(jax.tree.leaves(expected)[-1])


@pytest.mark.parametrize("name", LOSSES)
def test_lists_on_eight_devices(name):
    rng = np.random.default_rng(1)
    predictions = rng.normal(size=(16, 5)).astype(np.float32)
    targets = rng.integers(0, 4, (16, 5)).astype(np.float32) / 3
    where = rng.random((16, 5)) < 0.7
    where[:2] = False  # a device without any valid entry
    loss = compiled(LOSSES[name], gradient_of=0)
    assert_equal_when_split(lambda tree: loss(*tree[:2], where=tree[2]), (predictions, targets, where))


@pytest.mark.parametrize("chunk_rows", [0, 8])
def test_in_batch_info_nce_on_eight_devices(chunk_rows):
    """Negatives come from all devices, in both directions."""
    rng = np.random.default_rng(2)
    anchors, targets = (rng.normal(size=(n, 4)).astype(np.float32) for n in (16, 24))
    anchors, targets = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (anchors, targets))
    drawn = rng.permuted(np.tile(np.arange(24), (16, 1)), axis=1)[:, :2]
    batch = {
        "positives": np.where(rng.random((16, 2)) < 0.7, drawn, -1),
        "where": rng.random(24) < 0.9,
        "anchor_where": rng.random(16) < 0.9,
        "ignored": rng.integers(-1, 24, (16, 1)),
        "weights": rng.random((16, 2), np.float32),
        "log_q": np.log(rng.random(24, np.float32)),
    }

    @jax.jit
    def run(tree):
        anchors, targets, batch = tree

        def loss(anchors, targets, temperature):
            return in_batch_info_nce(
                anchors, targets, **batch, temperature=temperature, symmetric=True, chunk_rows=chunk_rows
            )

        return jax.value_and_grad(loss, argnums=(0, 1, 2))(anchors, targets, jnp.float32(0.2))

    assert_equal_when_split(run, (anchors, targets, batch))
