"""The training loop: steps, validations, checkpoints, curves. It knows nothing of models or data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from distill.config import TrainingConfig
from distill.reporting import Reporter
from distill.train.checkpoint import Checkpoints
from distill.train.divergence import FirstBadStep, TrainingDiverged, require_finite
from distill.train.preemption import Preempted, PreemptionNotice
from distill.train.profiling import StepTrace
from distill.train.state import TrainState
from distill.train.throughput import Batch, Throughput
from distill.train.writers import MetricWriter

LOG_STEPS = 50  # at most, between two looks at the device's scalars
TRACED = (4, 7)  # steps of the trace, counted from where the run starts: past compiling and the first allocations


@dataclasses.dataclass(frozen=True)
class Fit:
    """What a run did: the parameters that its validations chose, and how fast."""

    params: Any
    kept_step: int
    kept_metric: float
    steps: int
    examples_per_second: float
    tokens_per_second: float  # real ones


def fit(
    *,
    name: str,
    state: TrainState,
    step_fn: Callable[[TrainState, Any], tuple[TrainState, dict[str, jax.Array]]],
    batches: Callable[[int, Any], Iterator[Batch]],
    batch_ids: Callable[[int], Mapping[str, Sequence[str]]],
    steps: int,
    validate: Callable[[Any], dict[str, float]],
    metric: str,
    validations: int,
    directory: Path,
    reporter: Reporter,
    training: TrainingConfig,
    profile: bool = False,
) -> Fit:
    """Trains to `steps`, resuming from the newest sound checkpoint under `directory`.

    `batches(start, params)` yields the batches of steps `start` + 1 on and must be a pure function of the step; where
    they end before the last step it is asked again, with the parameters that were reached there. `batch_ids(i)` says
    what the batch of step i + 1 holds, kind → ids, and is asked only when that step failed. `step_fn` returns at
    least the scalars `loss` and `gradient_norm`. `validate(params)` runs at `validations` evenly spaced steps and last
    of all; each result is saved with a checkpoint, and `metric` of it (higher is better) with its standard error,
    `metric`_error, picks the parameters that are returned: `distill.train.selection.preference`. With `profile`, a few
    steps are traced into `directory`/profile.

    Killed or stopped at any moment and called again, it ends in the same parameters, bit for bit, on the same devices.

    Raises:
      TrainingDiverged: a loss or gradient was not finite; the checkpoint before it stays.
      Preempted: SIGTERM came; what was reached is saved.
    """
    checkpoints = Checkpoints(
        directory / "checkpoints",
        state,
        metric=metric,
        reporter=reporter,
        keep_last=training.keep_last,
        keep_best=training.keep_best,
    )
    restored = checkpoints.restore_latest()
    state = restored.state if restored else state
    start = restored.step if restored else 0
    if start:
        reporter.line(f"{name}: resumed at step {start} of {steps}")
    writer = MetricWriter(directory, start)
    stops = {round(steps * (i + 1) / validations) for i in range(validations)} | {steps}
    every = max(1, min(LOG_STEPS, steps // 100))
    speed = Throughput(sorted(state.step.sharding.device_set, key=lambda device: device.id))
    seen = FirstBadStep.starting_at(state.step)
    trace = StepTrace(directory / "profile" if profile else None, *(min(start + n, steps) for n in TRACED))

    def validated(step: int, state: TrainState) -> None:
        with speed.pause():
            figures = validate(state.params)
            writer.write(step, {f"valid/{key}": value for key, value in figures.items()})
            checkpoints.save(state, figures)

    try:
        with PreemptionNotice() as notice, reporter.progress(name, steps, start) as advance:
            if start in stops and restored and not restored.metrics:  # stopped just before this validation
                validated(start, state)
            stream, running, shown = iter(()), None, start
            for step in range(start + 1, steps + 1):
                trace.before(step)
                with jax.profiler.StepTraceAnnotation(name, step_num=step):
                    batch = speed.next(stream, running)
                    if batch is None:
                        with speed.pause():
                            stream = batches(step - 1, state.params)
                        batch = speed.next(stream, running)
                    if batch is None:
                        raise ValueError(f"{name}: batches({step - 1}, …) holds no batch of step {step}")
                    state, scalars = step_fn(state, batch.arrays)
                    seen, running = seen.after(scalars["loss"], scalars["gradient_norm"]), scalars["loss"]
                speed.count(batch)
                if step == start + 1:
                    jax.block_until_ready(running)
                    speed.restart()
                leave = notice.reached(step)
                save = step % training.checkpoint_steps == 0
                if step % every == 0 or step in stops or save or leave:
                    require_finite(
                        seen,
                        name=name,
                        batch_ids=batch_ids,
                        directory=directory,
                        checkpoint_step=checkpoints.latest_step,
                    )
                    values = {key: float(value) for key, value in scalars.items()}
                    writer.write(step, values | speed.figures())
                    advance(step - shown, loss=values["loss"], examples_per_second=speed.examples_per_second)
                    shown = step
                if leave:
                    checkpoints.save(state)
                    checkpoints.wait()
                    raise Preempted(
                        f"{name}: asked to stop by SIGTERM; saved step {step} of {steps}. "
                        f"The same command continues from there"
                    )
                if step in stops:
                    validated(step, state)
                elif save:
                    with speed.pause():
                        checkpoints.save(state)
                if trace.after(step, running):
                    reporter.line(f"{name}: a trace is in {directory / 'profile'}; tensorboard --logdir shows it")
        chosen = checkpoints.restore_chosen()
    finally:
        trace.close()
        writer.close()
        checkpoints.close()
    return Fit(
        chosen.state.params,
        chosen.step,
        float(chosen.metrics[metric]),
        steps,
        speed.examples_per_second,
        speed.tokens_per_second,
    )


__all__ = ["Batch", "Fit", "Preempted", "TrainingDiverged", "fit"]
