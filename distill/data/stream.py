"""Batches as a stream: a pure function of the step, built ahead of the device by a few threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np

Batch = TypeVar("Batch")


def stream_steps(build: Callable[[int], Batch], start: int, steps: int) -> Iterator[Batch]:
    """Yields build(start), build(start + 1), … build(steps − 1) in order, two threads ahead."""
    import grain  # only here: packing is used where Grain is not installed

    dataset = grain.MapDataset.range(start, steps).map(lambda step: build(int(step)))
    return iter(dataset.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)))


def epoch_order(count: int, total: int, seed: int) -> np.ndarray:
    """`total` indices into `count` things: one seeded permutation after another, int64 [total]."""
    epochs = -(-total // count)
    orders = [np.random.default_rng((seed, epoch)).permutation(count) for epoch in range(epochs)]
    return np.concatenate(orders)[:total] if orders else np.zeros(0, np.int64)


def round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
