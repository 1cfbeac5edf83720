"""Several small requests as one call of a model, in one thread, so that the event loop stays free."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from distill.export.loading import Signature
from distill.serving.limits import Limits

Columns = Mapping[str, Sequence[bytes]]
Outputs = dict[str, np.ndarray]


@dataclasses.dataclass(eq=False)
class _Job:
    columns: Columns
    rows: int
    arrived: float
    deadline: float  # of time.monotonic
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Outputs]


class Batcher:
    """Runs models for an event loop.

    The model whose oldest job is the oldest is next. Its jobs join until the call is full or `limits.linger` has passed
    since the oldest came; a call is padded to one of `limits.batch_sizes()`. What a call gives for a row does not
    depend on the other rows, up to rounding.
    """

    def __init__(self, models: Mapping[str, Signature], limits: Limits, observe: Callable[[str, int], None]):
        """`observe(model, rows)` is called for each call, in the thread that makes it."""
        self._models, self._limits, self._observe = models, limits, observe
        self._sizes = limits.batch_sizes()
        self._waiting: dict[str, collections.deque[_Job]] = {name: collections.deque() for name in models}
        self._changed = threading.Condition()
        self._stopped = False
        # A daemon, so that a call which hangs cannot keep the process from its end.
        self._thread = threading.Thread(target=self._run, name="models", daemon=True)
        self._thread.start()

    async def predict(self, name: str, columns: Columns, deadline: float) -> Outputs:
        """The outputs of a model for N rows, N at most `limits.batch`.

        Raises:
          TimeoutError: `deadline` (of `time.monotonic`) passed first.
        """
        loop = asyncio.get_running_loop()
        rows = len(next(iter(columns.values())))
        job = _Job(columns, rows, time.monotonic(), deadline, loop, loop.create_future())
        with self._changed:
            self._waiting[name].append(job)
            self._changed.notify()
        return await asyncio.wait_for(job.future, max(0.0, deadline - time.monotonic()))

    def waiting(self) -> int:
        """Jobs that no call has taken yet."""
        return sum(len(jobs) for jobs in self._waiting.values())

    def stop(self, seconds: float) -> None:
        """Ends the thread once its call is done, and waits for that so long; what waits for a call is not run."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._thread.join(seconds)

    def _run(self) -> None:
        while (taken := self._take()) is not None:
            name, jobs = taken
            now = time.monotonic()
            jobs = [job for job in jobs if job.deadline > now and not job.future.cancelled()]
            if not jobs:
                continue
            try:
                parts = self._call(name, jobs)
            except Exception as error:
                for job in jobs:
                    _tell(job, error)
            else:
                for job, part in zip(jobs, parts):
                    _tell(job, part)

    def _take(self) -> tuple[str, list[_Job]] | None:
        with self._changed:
            while not self._stopped:
                heads = [(jobs[0].arrived, name) for name, jobs in self._waiting.items() if jobs]
                if not heads:
                    self._changed.wait()
                    continue
                oldest, name = min(heads)
                waiting = self._waiting[name]
                patience = oldest + self._limits.linger - time.monotonic()
                if patience > 0 and sum(job.rows for job in waiting) < self._limits.batch:
                    self._changed.wait(patience)
                    continue
                jobs, rows = [], 0
                while waiting and rows + waiting[0].rows <= self._limits.batch:
                    jobs.append(waiting.popleft())
                    rows += jobs[-1].rows
                return name, jobs
            return None

    def _call(self, name: str, jobs: Sequence[_Job]) -> list[Outputs]:
        rows = sum(job.rows for job in jobs)
        size = next(size for size in self._sizes if size >= rows)
        model = self._models[name]
        columns = {
            column: [text for job in jobs for text in job.columns[column]] + [b""] * (size - rows)
            for column in model.inputs
        }
        outputs = model(columns)
        self._observe(name, rows)
        stops = np.cumsum([job.rows for job in jobs]).tolist()
        return [
            {key: values[stop - job.rows : stop] for key, values in outputs.items()} for job, stop in zip(jobs, stops)
        ]


def _tell(job: _Job, result: Outputs | Exception) -> None:
    def tell() -> None:
        if job.future.done():  # the client's patience ended first
            return
        if isinstance(result, Exception):
            job.future.set_exception(result)
        else:
            job.future.set_result(result)

    with contextlib.suppress(RuntimeError):  # the loop is gone, and so is the client
        job.loop.call_soon_threadsafe(tell)
