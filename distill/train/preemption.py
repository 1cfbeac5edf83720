"""Leaving in good order when the machine is about to be taken away."""

from __future__ import annotations

import signal
import threading
from typing import Any

import jax
from jax.experimental import multihost_utils


class Preempted(RuntimeError):
    """The run was asked to stop and has saved what it has; the same command continues it."""


class PreemptionNotice:
    """Notices SIGTERM, with which schedulers announce that they take a machine away, while the context is open.

    Where `jax.distributed` runs, its preemption service listens on every host and all hosts agree on one step.
    Elsewhere a signal handler listens; in a thread other than the main one Python allows none, and SIGTERM ends the
    process as usual.
    """

    def __init__(self) -> None:
        self._noticed = False
        self._previous: Any = None
        self._agreed = jax.distributed.is_initialized() and jax.config.values["jax_enable_preemption_service"]
        self._handles = not self._agreed and threading.current_thread() is threading.main_thread()

    def __enter__(self) -> PreemptionNotice:
        if self._handles:
            self._previous = signal.signal(signal.SIGTERM, self._notice)
        return self

    def _notice(self, number: int, frame: Any) -> None:
        del number, frame
        self._noticed = True

    def reached(self, step: int) -> bool:
        """Whether to save and stop after `step`; called after every step, the same on all hosts."""
        return multihost_utils.reached_preemption_sync_point(step) if self._agreed else self._noticed

    def __exit__(self, *exception: object) -> None:
        if self._handles:
            signal.signal(signal.SIGTERM, signal.SIG_DFL if self._previous is None else self._previous)
