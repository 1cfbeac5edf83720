"""One device and eight, in several mesh shapes, compute the same losses and gradients."""

import jax
import numpy as np
import pytest

from distill.config import ConfigError, OptimizerConfig, ParallelConfig
from distill.parallel.mesh import make_mesh, to_global
from distill.parallel.partition import path_string, spec_for
from distill.stages.student import ROW_FIELDS, batch_arrays
from distill.train.optimizer import make_optimizer
from distill.train.state import create_state
from distill.train.step import compile_step
from tests.train.problems import batches, config, loss_fn, params


def run(mesh, steps: int = 3):
    settings, data = config(), batches(steps)
    optimizer = make_optimizer(OptimizerConfig(learning_rate=1e-2), 10)
    state = create_state(params(), optimizer, mesh)
    step = compile_step(state, loss_fn(data, settings), optimizer, seed=0)
    losses = []
    for i in range(steps):
        state, scalars = step(state, to_global(mesh, batch_arrays(data.build(i), settings), ROW_FIELDS))
        losses.append(float(scalars["loss"]))
    return losses, jax.device_get(state.params)


@pytest.fixture(scope="module")
def one_device():
    return run(make_mesh(ParallelConfig(), devices=jax.devices()[:1]))


@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 2, 2), (1, 8, 1)], ids=str)
def test_losses_and_parameters_equal_those_of_one_device(shape, one_device):
    losses, trained = run(make_mesh(ParallelConfig(*shape)))
    np.testing.assert_allclose(losses, one_device[0], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), trained, one_device[1])


def test_parameters_and_moments_are_split_alike():
    mesh = make_mesh(ParallelConfig(2, 2, 2))
    state = create_state(params(), make_optimizer(OptimizerConfig(), 10), mesh)
    up = state.params["encoder"]["layers"]["0"]["mlp"]["up"]["kernel"]
    assert up.addressable_shards[0].data.size == up.size // 4  # fsdp × tensor
    moments = [
        leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(state.opt_state)
        if path_string(path).endswith("mlp/up/kernel")
    ]
    assert len(moments) == 2 and all(leaf.sharding == up.sharding for leaf in moments)


def test_a_dimension_that_does_not_divide_is_replicated():
    mesh = make_mesh(ParallelConfig(1, 8, 1))
    assert spec_for("x/up/kernel", (12, 8), mesh) == jax.sharding.PartitionSpec(None, "tensor")


def test_a_mesh_that_does_not_fit_the_devices_is_refused():
    with pytest.raises(ConfigError, match=r"config\.parallel.*8 device"):
        make_mesh(ParallelConfig(3, 1, 1))
