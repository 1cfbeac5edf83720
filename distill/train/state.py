"""What a training run carries from step to step, and nothing else."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from distill.parallel.mesh import place, replicated
from distill.parallel.partition import tree_shardings


class TrainState(NamedTuple):
    """`step` is also the position in the data: a batch is a pure function of (seed, step)."""

    step: jax.Array  # int32 scalar: optimiser steps taken
    params: Any
    opt_state: Any


def create_state(params: Any, optimizer: optax.GradientTransformation, mesh: jax.sharding.Mesh) -> TrainState:
    """A state at step 0, sharded over `mesh` by the partition rules; the optimiser's moments as their parameters."""
    # A copy of its own: the step donates its state, and the caller may still hold the parameters.
    params = jax.tree.map(lambda leaf, to: place(np.array(leaf), to), params, tree_shardings(mesh, params))
    abstract = jax.eval_shape(optimizer.init, params)
    opt_state = jax.jit(optimizer.init, out_shardings=tree_shardings(mesh, abstract))(params)
    return TrainState(place(np.int32(0), replicated(mesh)), params, opt_state)


def abstract_state(state: TrainState) -> TrainState:
    """Shapes, types and shardings: what a checkpoint is restored into, on whatever mesh exists now."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state)
