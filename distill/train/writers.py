"""Where a run's curves go: JSON lines for programs, TensorBoard for eyes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import jax

from distill.artifacts import write_atomic


class MetricWriter:
    """Appends scalars to `metrics.jsonl` and to TensorBoard event files under one folder.

    A run that resumes at `step` first drops the lines beyond it, so that the file never holds a step twice. Of several
    processes only the first writes.
    """

    def __init__(self, directory: Path, resume_step: int = 0):
        self._file = self._board = None
        if jax.process_index() != 0:
            return
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / "metrics.jsonl"
        kept = [record for record in read_metrics(directory) if record["step"] <= resume_step]
        write_atomic(path, "".join(json.dumps(record) + "\n" for record in kept))
        self._file = path.open("a")
        try:
            from tensorboardX import SummaryWriter
        except ImportError:  # the training core runs where only jax, flax, optax and orbax are installed
            self._board = None
        else:
            self._board = SummaryWriter(str(directory / "tensorboard"), purge_step=resume_step)

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        if self._file is None:
            return
        values = {name: float(value) for name, value in scalars.items()}
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        if self._board is not None:
            self._board.close()


def read_metrics(directory: Path) -> list[dict[str, float]]:
    """All records of a run's `metrics.jsonl`, in order; a line cut off by a kill is left out."""
    path = directory / "metrics.jsonl"
    if not path.exists():
        return []
    records = []
    for line in path.read_text().splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return records
