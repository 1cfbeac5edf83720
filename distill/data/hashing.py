"""Chance that belongs to a pair or a name, not to the order of asking: counter-based random numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from scipy.special import ndtri


def _splitmix(state: np.ndarray) -> np.ndarray:
    """The finalizer of SplitMix64 (Steele, Lea, Flood 2014): [N] uint64 → [N] uint64 well mixed bits."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def uniform(seed: int, stream: int, *keys: np.ndarray) -> np.ndarray:
    """Uniform numbers in (0, 1), float64 [N], that depend only on (seed, stream, keys at that row).

    Args:
        seed: of the world.
        stream: tells apart uses of the same keys.
        *keys: non-negative integers [N], one array a key (an item's index, a keyphrase's index).
    """
    state = _splitmix(np.full(np.shape(keys[0]), (seed * 64 + stream + 1) % 2**64, np.uint64))
    for key in keys:
        state = _splitmix(state + np.asarray(key).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(1))
    return ((state >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def normal(seed: int, stream: int, *keys: np.ndarray) -> np.ndarray:
    """Standard normal numbers, float64 [N]; arguments as in `uniform`."""
    return ndtri(uniform(seed, stream, *keys))


def order_by_name(names: Sequence[str], seed: int, stream: int) -> np.ndarray:
    """Rows of these distinct names in a random order, int64.

    Every name has a place in it that depends on (seed, stream, name) alone, so that tomorrow's table, with some names
    more and others gone, gives the same order but for those.
    """

    def place(name: str) -> bytes:
        return hashlib.blake2b(f"{seed} {stream} {name}".encode(), digest_size=16).digest()

    return np.array(sorted(range(len(names)), key=lambda row: place(names[row])), np.int64)


def draw_by_name(names: Sequence[str], count: int, seed: int, stream: int) -> np.ndarray:
    """Rows of the first `count` of `order_by_name`, or of all where there are no more: int64, rising."""
    return np.sort(order_by_name(names, seed, stream)[: max(0, count)])
