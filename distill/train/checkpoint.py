"""Checkpoints of a training run: the latest, and the best by a validation metric. The only module that knows Orbax."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orbax.checkpoint.experimental.v1 as ocp

from distill.train.state import TrainState, abstract_state

_policies = ocp.training.preservation_policies


class Checkpoints:
    """Asynchronously saved train states under one folder, one sub-folder a step.

    Kept are the newest two (one may be cut off while it is written) and the best by `metric`, higher is better.
    A state is restored onto the mesh of the state given, whatever mesh saved it.
    """

    def __init__(self, directory: Path, metric: str):
        self._metric = metric
        self._checkpointer = ocp.training.Checkpointer(
            str(Path(directory).absolute()),
            preservation_policy=_policies.AnyPreservationPolicy(  # type: ignore[arg-type]
                [
                    _policies.LatestN(2),
                    _policies.BestN(n=1, get_metric_fn=self._value, keep_checkpoints_without_metrics=False),
                ]
            ),
            cleanup_tmp_directories=True,
        )

    def _value(self, metrics: Any) -> float:
        return float(metrics[self._metric])

    def save(self, step: int, state: TrainState, metrics: Mapping[str, Any]) -> None:
        """Starts a save of `state` with its validation `metrics`; returns once the arrays are copied."""
        self._checkpointer.save_async(step, state._asdict(), metrics=dict(metrics), force=True)

    def restore_latest(self, like: TrainState) -> TrainState | None:
        """The newest complete state in the shape and sharding of `like`, or None when there is none."""
        latest = self._checkpointer.latest
        return None if latest is None else self._load(latest.step, like)

    def restore_best(self, like: TrainState) -> tuple[int, TrainState]:
        """(step, state) of the best validation metric; the later one where two are equal."""
        self._checkpointer.wait()
        best = max(self._checkpointer.checkpoints, key=lambda c: (self._value(c.metrics), c.step))
        return best.step, self._load(best.step, like)

    def metric_at(self, step: int) -> float:
        return next(self._value(c.metrics) for c in self._checkpointer.checkpoints if c.step == step)

    def _load(self, step: int, like: TrainState) -> TrainState:
        return TrainState(**self._checkpointer.load(step, abstract_state(like)._asdict()))

    def close(self) -> None:
        self._checkpointer.close()
