"""The student's training pairs: every signal's table joined by pair, sorted by item."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class PairPool(NamedTuple):
    """All known pairs, sorted by item: rows bounds[i]:bounds[i + 1] are those of `items[i]`."""

    items: np.ndarray  # int32 [I] item indices with at least one pair
    bounds: np.ndarray  # int64 [I + 1]
    keyphrase: np.ndarray  # int32 [P]
    teacher: np.ndarray  # float32 [P], NaN where there is none
    passed: np.ndarray  # float32 [P] 0 or 1, NaN where the search engine's verdict is not known
    clicked: np.ndarray  # bool [P]


def pair_keys(item: np.ndarray, keyphrase: np.ndarray, keyphrases: int) -> np.ndarray:
    """One number a pair, int64: key // keyphrases is the item, key % keyphrases the keyphrase."""
    return item.astype(np.int64) * keyphrases + keyphrase


def join_signals(
    *,
    teacher: tuple[np.ndarray, np.ndarray, np.ndarray] | None,
    searched: tuple[np.ndarray, np.ndarray, np.ndarray] | None,
    clicked: tuple[np.ndarray, np.ndarray] | None,
    keyphrases: int,
    exclude: np.ndarray,
) -> PairPool:
    """Joins the signals' pair tables; items in `exclude` (held back for validation) are left out.

    `teacher` is (item, keyphrase, value), `searched` (item, keyphrase, passed), `clicked` (item, keyphrase); None
    leaves a signal out. Raises ValueError when no pair is left.
    """
    given = [table for table in (teacher, searched, clicked) if table is not None]
    keys = [pair_keys(table[0], table[1], keyphrases) for table in given]
    joined = np.unique(np.concatenate(keys)) if keys else np.zeros(0, np.int64)
    joined = joined[~np.isin(joined // keyphrases, exclude)]
    if not len(joined):
        raise ValueError("no training pair is left for the student: every enabled signal's table is empty")

    def column(table: tuple | None, fill: float, dtype: type) -> np.ndarray:
        values = np.full(len(joined), fill, dtype)
        if table is not None:
            key = pair_keys(table[0], table[1], keyphrases)
            at = np.searchsorted(joined, key)
            known = (at < len(joined)) & (joined[np.minimum(at, len(joined) - 1)] == key)
            values[at[known]] = table[2][known] if len(table) > 2 else True
        return values

    item = (joined // keyphrases).astype(np.int32)
    items, first = np.unique(item, return_index=True)
    return PairPool(
        items,
        np.append(first, len(item)),
        (joined % keyphrases).astype(np.int32),
        column(teacher, np.nan, np.float32),
        column(searched, np.nan, np.float32),
        column(clicked, False, np.bool_),
    )
