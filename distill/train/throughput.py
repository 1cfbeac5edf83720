"""How fast a run is and what it uses: examples, tokens, share of the peak, memory, waiting for input."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax


class Batch(NamedTuple):
    """One step's input on the devices, and what it holds of all processes together."""

    arrays: Any
    examples: int  # pairs
    tokens: int  # real ones, without padding
    flops: float = 0.0  # of the step's products, forward and backward


# Dense bfloat16 peaks of one JAX device, FLOP/s, from the makers' data sheets. The first pattern found counts.
PEAK_FLOPS: tuple[tuple[str, float], ...] = (
    (r"TPU v2", 22.5e12),  # a device is one of the chip's two cores, here and below
    (r"TPU v3", 61.5e12),
    (r"TPU v4", 275e12),
    (r"TPU v5( lite|e)", 197e12),
    (r"TPU v5", 459e12),
    (r"TPU v6( lite|e)", 918e12),
    (r"B200", 2250e12),
    (r"H100 PCIe", 756e12),
    (r"H100|H200|GH200", 989e12),
    (r"A100", 312e12),
    (r"L40S", 362e12),
    (r"L4\b", 121e12),
)


def peak_flops(device_kind: str) -> float | None:
    """Peak FLOP/s of a device by its `device_kind`; None where it is not known."""
    return next((peak for pattern, peak in PEAK_FLOPS if re.search(pattern, device_kind)), None)


def peak_memory(devices: Sequence[Any]) -> int:
    """Bytes: the most that one of this process's devices has held; where devices do not tell, the process itself."""
    stats = [device.memory_stats() for device in devices if device.process_index == jax.process_index()]
    peaks = [each["peak_bytes_in_use"] for each in stats if each and "peak_bytes_in_use" in each]
    if peaks:
        return max(peaks)
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return resident if sys.platform == "darwin" else resident * 1024  # macOS counts bytes, Linux KiB


@dataclasses.dataclass
class _Tally:
    seconds: float = 0.0
    steps: int = 0
    examples: int = 0
    tokens: int = 0
    flops: float = 0.0
    waited: float = 0.0  # seconds


class Throughput:
    """Counts steps between two calls of `figures`, each made when the device has finished all of them."""

    def __init__(self, devices: Sequence[Any], clock: Callable[[], float] = time.perf_counter):
        self._devices, self._time = devices, clock
        peak = peak_flops(devices[0].device_kind)
        self._peak = None if peak is None else peak * len(devices)
        self._now, self._all = _Tally(), _Tally()
        self._begun = clock()

    def next(self, batches: Iterator[Batch], running: Any) -> Batch | None:
        """The next batch, None at the end; waiting is its time where the device has finished `running` meanwhile."""
        begun = self._time()
        batch = next(batches, None)
        if running is None or running.is_ready():
            self._now.waited += self._time() - begun
        return batch

    def count(self, batch: Batch) -> None:
        self._now.steps += 1
        self._now.examples += batch.examples
        self._now.tokens += batch.tokens
        self._now.flops += batch.flops

    def restart(self) -> None:
        """Forgets what was counted since the last figures: the first step's compilation is not training speed."""
        self._now, self._begun = _Tally(), self._time()

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Leaves out validations and saves."""
        begun = self._time()
        yield
        self._begun += self._time() - begun

    def figures(self) -> dict[str, float]:
        """Speeds since the last call; only the memory where no step was counted."""
        now, memory = self._now, {"memory/peak_bytes": float(peak_memory(self._devices))}
        now.seconds = self._time() - self._begun
        if not now.steps:
            return memory
        self._all = _Tally(*(a + b for a, b in zip(dataclasses.astuple(self._all), dataclasses.astuple(now))))
        self.restart()
        figures = {
            "speed/examples_per_second": now.examples / now.seconds,
            "speed/real_tokens_per_second": now.tokens / now.seconds,
            "speed/input_wait_share": min(1.0, now.waited / now.seconds),
        }
        if self._peak is not None and now.flops:
            figures["speed/mfu"] = now.flops / (now.seconds * self._peak)
        return figures | memory

    @property
    def examples_per_second(self) -> float:
        """Over all figures so far."""
        return self._all.examples / max(self._all.seconds, 1e-9)

    @property
    def tokens_per_second(self) -> float:
        return self._all.tokens / max(self._all.seconds, 1e-9)
