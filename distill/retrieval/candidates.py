"""The pairs that the assistant scores: a union of candidate sources, known pairs and random keyphrases."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np


class Candidates(NamedTuple):
    """Distinct pairs, sorted by item and then keyphrase.

    Attributes:
      item: [N] int64, of the `items` asked for.
      keyphrase: [N] int64.
      source_bits: [N] uint32; bit b is set where source b of `source_names` holds the pair.
    """

    item: np.ndarray
    keyphrase: np.ndarray
    source_bits: np.ndarray


def source_names(sources: Iterable[str], pairs: Iterable[str]) -> tuple[str, ...]:
    """Names of the bits, lowest first: the sources, the pairs, then `random`."""
    return (*sources, *pairs, "random")


def gather_candidates(
    *,
    sources: Mapping[str, np.ndarray],
    pairs: Mapping[str, tuple[np.ndarray, np.ndarray]],
    allowed: np.ndarray,
    random_per_item: int,
    seed: int,
    items: np.ndarray,
) -> Candidates:
    """De-duplicated union of all sources for the given items; never a keyphrase that is not allowed.

    Args:
      sources: name → [I, k] keyphrase indices of each item of `items`, row by row; -1 means none.
      pairs: name → (item [P], keyphrase [P]); pairs of other items are left out.
      allowed: [K] bool.
      random_per_item: uniform draws from the allowed keyphrases, with replacement, for each item.
      seed: of those draws.
      items: [I] distinct item indices.

    Raises:
      ValueError: a shape does not fit, an index points outside, a name is used twice, or there are over 32 sources.
    """
    items, allowed = np.asarray(items, np.int64), np.asarray(allowed, bool)
    names = source_names(sources, pairs)
    if len(set(names)) != len(names) or len(names) > 32:
        raise ValueError(f"sources and pairs: {names}; pass at most 31 distinct names, none of them `random`")
    if len(np.unique(items)) != len(items) or (items.size and items.min() < 0):
        raise ValueError("items: holds an item twice or a negative one; pass distinct item indices")
    if random_per_item < 0:
        raise ValueError(f"random_per_item: {random_per_item}; pass 0 or more")

    keys, bits = [], []

    def add(bit: int, item: np.ndarray, keyphrase: np.ndarray) -> None:
        _check_range(names[bit], keyphrase, len(allowed))
        item, keyphrase = item[keyphrase >= 0], keyphrase[keyphrase >= 0]
        kept = allowed[keyphrase]
        keys.append(item[kept] * len(allowed) + keyphrase[kept])
        bits.append(np.full(np.count_nonzero(kept), 1 << bit, np.uint32))

    for bit, (name, indices) in enumerate(sources.items()):
        indices = np.asarray(indices, np.int64)
        if indices.ndim != 2 or len(indices) != len(items):
            raise ValueError(f"sources[{name!r}]: shape {indices.shape}; pass one row for each of {len(items)} items")
        add(bit, np.repeat(items, indices.shape[1]), indices.reshape(-1))
    for bit, (name, (item, keyphrase)) in enumerate(pairs.items(), len(sources)):
        item, keyphrase = np.asarray(item, np.int64), np.asarray(keyphrase, np.int64)
        if item.shape != keyphrase.shape or item.ndim != 1:
            raise ValueError(f"pairs[{name!r}]: shapes {item.shape} and {keyphrase.shape}; pass [P] both")
        wanted = np.isin(item, items)
        add(bit, item[wanted], keyphrase[wanted])
    pool = np.flatnonzero(allowed)
    if random_per_item and len(pool):
        draws = np.random.default_rng(seed).integers(len(pool), size=len(items) * random_per_item)
        add(len(names) - 1, np.repeat(items, random_per_item), pool[draws])

    all_keys = np.concatenate([np.zeros(0, np.int64), *keys])
    distinct, position = np.unique(all_keys, return_inverse=True)
    merged = np.zeros(len(distinct), np.uint32)
    np.bitwise_or.at(merged, position, np.concatenate([np.zeros(0, np.uint32), *bits]))
    item, keyphrase = np.divmod(distinct, max(len(allowed), 1))
    return Candidates(item, keyphrase, merged)


def _check_range(name: str, keyphrase: np.ndarray, count: int) -> None:
    if keyphrase.size and (keyphrase.min() < -1 or keyphrase.max() >= count):
        raise ValueError(f"{name}: keyphrase indices {keyphrase.min()} to {keyphrase.max()}; there are {count}")
