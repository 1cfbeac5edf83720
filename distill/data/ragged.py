"""Rows of different lengths in one flat array."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Ragged(NamedTuple):
    """N rows; row i is `values[offsets[i] : offsets[i + 1]]`."""

    values: np.ndarray  # int32
    offsets: np.ndarray  # int64 [N + 1], from 0
    truncated: int = 0  # rows that were cut when they were made

    @property
    def lengths(self) -> np.ndarray:
        """int64 [N]."""
        return np.diff(self.offsets)

    def take(self, ids: np.ndarray) -> Ragged:
        """The rows `ids`, in that order."""
        lengths = self.lengths[ids]
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])
        flat = np.repeat(self.offsets[ids] - offsets[:-1], lengths) + np.arange(offsets[-1])
        return Ragged(self.values[flat], offsets)

    @staticmethod
    def concatenate(first: Ragged, second: Ragged) -> Ragged:
        """The rows of `first`, then those of `second`."""
        return Ragged(
            np.concatenate([first.values, second.values]),
            np.concatenate([first.offsets, first.offsets[-1] + second.offsets[1:]]),
            first.truncated + second.truncated,
        )


def ragged_ranges(bounds: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each row r, all of bounds[r] … bounds[r + 1] − 1, one after another, and before them which of `rows` it is."""
    counts = bounds[rows + 1] - bounds[rows]
    number = np.repeat(np.arange(len(rows)), counts)
    return number, np.repeat(bounds[rows] - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())


def number_within(groups: np.ndarray) -> np.ndarray:
    """Of sorted group numbers [N], how many of its group stand before each entry."""
    return np.arange(len(groups)) - np.searchsorted(groups, groups)


def places(among: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each value stands in the sorted `among` (0 where it does not), and whether it does."""
    at = np.minimum(np.searchsorted(among, values), max(len(among) - 1, 0))
    known = among[at] == values if len(among) else np.zeros(values.shape, bool)
    return np.where(known, at, 0), known
