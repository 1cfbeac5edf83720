"""One optimiser step as a pure function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from distill.train.state import TrainState

# (parameters, batch, dropout key) → (loss to descend, scalars to log)
LossFn = Callable[[Any, Any, jax.Array], tuple[jax.Array, dict[str, jax.Array]]]


def train_step(
    state: TrainState, batch: Any, *, loss_fn: LossFn, optimizer: optax.GradientTransformation, seed: int
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Gradient, clip, update. The dropout key is folded from (seed, step), so a resumed run repeats it bit for bit."""
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    (loss, scalars), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params, batch, key)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    scalars = scalars | {"loss": loss, "gradient_norm": optax.tree.norm(grads)}
    return TrainState(state.step + jnp.int32(1), params, opt_state), scalars


def compile_step(
    state: TrainState, loss_fn: LossFn, optimizer: optax.GradientTransformation, seed: int
) -> Callable[[TrainState, Any], tuple[TrainState, dict[str, jax.Array]]]:
    """`train_step` jitted with the state's shardings kept and its buffers donated."""

    def step(state: TrainState, batch: Any) -> tuple[TrainState, dict[str, jax.Array]]:
        return train_step(state, batch, loss_fn=loss_fn, optimizer=optimizer, seed=seed)

    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    return jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))
