"""Seeing at which step a loss or gradient stopped being a number, without waiting for the device at every step."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp

from distill.artifacts import write_json


class TrainingDiverged(RuntimeError):
    """The loss or its gradient became NaN or infinite; the message names the step and the batch."""


class FirstBadStep(NamedTuple):
    """Device scalars that follow the steps: the first of them whose loss or gradient was not finite."""

    step: jax.Array  # int32: steps seen, from where the run started
    bad_step: jax.Array  # int32: 0 while all were finite
    loss: jax.Array  # float32, of the bad step
    gradient_norm: jax.Array  # float32, of the bad step

    @classmethod
    def starting_at(cls, step: jax.Array) -> FirstBadStep:
        """`step` is that of the state that training starts from."""
        return _start(step)

    def after(self, loss: jax.Array, gradient_norm: jax.Array) -> FirstBadStep:
        """Takes one step's scalars; queued on the device, like the step itself."""
        return _follow(self, loss, gradient_norm)


@jax.jit
def _start(step: jax.Array) -> FirstBadStep:
    zero = jnp.zeros((), jnp.float32)
    return FirstBadStep(step.astype(jnp.int32), jnp.zeros((), jnp.int32), zero, zero)


@jax.jit
def _follow(seen: FirstBadStep, loss: jax.Array, gradient_norm: jax.Array) -> FirstBadStep:
    step = seen.step + 1
    bad = (seen.bad_step == 0) & ~(jnp.isfinite(loss) & jnp.isfinite(gradient_norm))
    fresh = FirstBadStep(step, step, loss.astype(jnp.float32), gradient_norm.astype(jnp.float32))
    return jax.tree.map(lambda new, old: jnp.where(bad, new, old), fresh, seen)._replace(step=step)


def require_finite(
    seen: FirstBadStep,
    *,
    name: str,
    batch_ids: Callable[[int], Mapping[str, Sequence[str]]],
    directory: Path,
    checkpoint_step: Callable[[], int],
) -> None:
    """Raises TrainingDiverged when a step was not finite, after writing `diverged.json` into `directory`.

    `batch_ids(i)` names what the batch of step i + 1 held.
    """
    host = jax.device_get(seen)
    step = int(host.bad_step)
    if not step:
        return
    figures = {"loss": float(host.loss), "gradient_norm": float(host.gradient_norm)}
    ids = {kind: list(values) for kind, values in batch_ids(step - 1).items()}
    file = directory / "diverged.json"
    if jax.process_index() == 0:
        # As text: JSON has no NaN.
        write_json(file, {"step": step, **{key: str(value) for key, value in figures.items()}, "batch": ids})
    shown = "; ".join(f"{kind} {_some(values)}" for kind, values in ids.items())
    raise TrainingDiverged(
        f"{name}: loss {figures['loss']}, gradient norm {figures['gradient_norm']} at step {step}. "
        f"Its batch: {shown} (all in {file}). The last good step was {step - 1}, the newest checkpoint is of step "
        f"{checkpoint_step()}. Look at these inputs, or lower the learning rate or the clip norm"
    )


def _some(values: Sequence[str], count: int = 5) -> str:
    listed = ", ".join(json.dumps(value, ensure_ascii=False) for value in values[:count])
    return listed + (f" and {len(values) - count} more" if len(values) > count else "")
