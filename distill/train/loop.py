"""The training loop: steps, validations, checkpoints, curves. It knows nothing of models or data."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from distill.reporting import Reporter
from distill.train.checkpoint import Checkpoints
from distill.train.state import TrainState
from distill.train.writers import MetricWriter


class TrainingDiverged(RuntimeError):
    """The loss became NaN or infinite."""


@dataclasses.dataclass(frozen=True)
class Fit:
    """What a run did: the best parameters by the validation metric, and how fast."""

    params: Any
    best_step: int
    best_metric: float
    steps: int
    examples_per_second: float


def fit(
    *,
    name: str,
    state: TrainState,
    step_fn: Callable[[TrainState, Any], tuple[TrainState, dict[str, jax.Array]]],
    batches: Callable[[int], Iterator[tuple[Any, int]]],
    steps: int,
    validate: Callable[[Any], dict[str, float]],
    metric: str,
    validations: int,
    directory: Path,
    reporter: Reporter,
) -> Fit:
    """Trains to `steps`, resuming from the newest checkpoint under `directory`.

    `batches(start)` yields (device batch, number of examples) from step `start` on; it must be a pure function of the
    step. `validate(params)` runs at `validations` evenly spaced steps and last of all; each result is saved with a
    checkpoint and `metric` of it (higher is better) picks the parameters that are returned.

    Raises TrainingDiverged when the loss is not finite; the last good checkpoint stays.
    """
    checkpoints = Checkpoints(directory / "checkpoints", metric)
    like = state
    state = checkpoints.restore_latest(like) or state
    start = int(state.step)
    if start:
        reporter.line(f"{name}: resumed at step {start} of {steps}")
    writer = MetricWriter(directory, start)
    stops = {round(steps * (i + 1) / validations) for i in range(validations)} | {steps}
    examples, clock, compiled, shown = 0, time.perf_counter(), False, start
    try:
        with reporter.progress(name, steps, start) as advance:
            stream = batches(start)
            for step in range(start + 1, steps + 1):
                batch, count = next(stream)
                state, scalars = step_fn(state, batch)
                if not compiled:  # the first step's compilation is not training speed
                    jax.block_until_ready(scalars["loss"])
                    examples, clock, compiled = 0, time.perf_counter(), True
                else:
                    examples += count
                if step % max(1, steps // 100) == 0 or step in stops:
                    values = {key: float(value) for key, value in scalars.items()}
                    if not math.isfinite(values["loss"]):
                        raise TrainingDiverged(
                            f"{name}: loss is {values['loss']} at step {step}; the last good checkpoint is in "
                            f"{directory / 'checkpoints'}. Lower the learning rate or the clip norm"
                        )
                    writer.write(step, values)
                    rate = examples / max(time.perf_counter() - clock, 1e-9)
                    advance(step - shown, loss=values["loss"], examples_per_second=rate)
                    shown = step
                if step in stops:
                    pause = time.perf_counter()
                    figures = validate(state.params)
                    writer.write(step, {f"valid/{key}": value for key, value in figures.items()})
                    checkpoints.save(step, state, figures)
                    clock += time.perf_counter() - pause
        speed = examples / max(time.perf_counter() - clock, 1e-9)
        best_step, best = checkpoints.restore_best(like)
        best_metric = checkpoints.metric_at(best_step)
    finally:
        writer.close()
        checkpoints.close()
    return Fit(best.params, best_step, best_metric, steps, speed)
