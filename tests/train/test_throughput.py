"""The figures of a run's speed, by steps whose time is known."""

import resource
from pathlib import Path

import jax
import pytest

from distill.train.throughput import Batch, Throughput, peak_flops, peak_memory


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


class Device:
    """What `Throughput` asks of a device of a kind that is not here."""

    process_index = 0

    def __init__(self, kind, peak_bytes=None):
        self.device_kind, self._peak_bytes = kind, peak_bytes

    def memory_stats(self):
        return None if self._peak_bytes is None else {"peak_bytes_in_use": self._peak_bytes, "bytes_in_use": 1}


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-40GB", 312e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", 362e12),
        ("TPU v4", 275e12),
        ("TPU v5 lite", 197e12),
        ("TPU v5p", 459e12),
        ("TPU v6 lite", 918e12),
        ("cpu", None),
        ("NVIDIA L400", None),
    ],
)
def test_peaks_by_kind(kind, peak):
    assert peak_flops(kind) == peak


def test_speeds_and_share_of_the_peak_leave_out_pauses_and_what_was_before_the_restart():
    devices = [Device("TPU v4", 7), Device("TPU v4", 9)]
    speed = Throughput(devices, clock := Clock())
    speed.count(Batch(None, 999, 999, 1e20))
    clock.now += 50
    speed.restart()
    for _ in range(4):
        speed.count(Batch(None, 10, 300, 110e12))
        clock.now += 0.5
    with speed.pause():
        clock.now += 100
    figures = speed.figures()
    assert figures["speed/examples_per_second"] == pytest.approx(20)
    assert figures["speed/real_tokens_per_second"] == pytest.approx(600)
    assert figures["speed/mfu"] == pytest.approx(4 * 110 / (2 * 2 * 275))
    assert figures["memory/peak_bytes"] == 9
    speed.count(Batch(None, 40, 0))
    clock.now += 2
    assert speed.figures()["speed/examples_per_second"] == pytest.approx(20)
    assert speed.figures().keys() == {"memory/peak_bytes"}
    assert (speed.examples_per_second, speed.tokens_per_second) == pytest.approx((20, 300))


def test_waiting_for_input_counts_only_while_the_device_has_nothing_to_do():
    class Running:
        def __init__(self, ready):
            self._ready = ready

        def is_ready(self):
            return self._ready

    clock = Clock()
    speed = Throughput(jax.devices()[:1], clock)

    def slow():
        for _ in range(3):
            clock.now += 1.0
            yield Batch(None, 1, 1)

    stream = slow()
    for running in (Running(True), Running(False), Running(True)):
        speed.count(speed.next(stream, running))
        clock.now += 3.0
    assert speed.figures()["speed/input_wait_share"] == pytest.approx(2 / 12)


def test_the_memory_of_a_process_is_what_it_has_held_at_most():
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    assert 0.9 * resident <= peak_memory(jax.devices()[:1]) < 100 * resident
