"""A `jax.profiler` trace of a few steps, for TensorBoard's profile plugin or Perfetto."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax


class StepTrace:
    """Traces steps `first` to `last`, into `directory`; does nothing where that is None."""

    def __init__(self, directory: Path | None, first: int, last: int):
        self._directory, self._first, self._last = directory, first, last
        self._running = False

    def before(self, step: int) -> None:
        if self._directory is not None and step == self._first:
            jax.profiler.start_trace(self._directory)
            self._running = True

    def after(self, step: int, result: Any) -> bool:
        """Whether the trace ended with this step; it then waits for `result`, so that the device's work is in it."""
        if not self._running or step < self._last:
            return False
        jax.block_until_ready(result)
        self.close()
        return True

    def close(self) -> None:
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
