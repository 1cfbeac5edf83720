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
    weight: np.ndarray  # float32 [P], of a click; 1 where it has none
    hard: np.ndarray  # bool [P]: a negative of the clicks task
    right: np.ndarray  # bool [P]: known to be right, so no negative of it


def pair_keys(item: np.ndarray, keyphrase: np.ndarray, keyphrases: int) -> np.ndarray:
    """One number a pair, int64: key // keyphrases is the item, key % keyphrases the keyphrase."""
    return item.astype(np.int64) * keyphrases + keyphrase


def join_signals(
    *,
    teacher: tuple[np.ndarray, np.ndarray, np.ndarray] | None,
    searched: tuple[np.ndarray, np.ndarray, np.ndarray] | None,
    clicked: tuple[np.ndarray, ...] | None,
    keyphrases: int,
    exclude: np.ndarray,
    hard: tuple[np.ndarray, np.ndarray] | None = None,
    right: tuple[np.ndarray, np.ndarray] | None = None,
) -> PairPool:
    """Joins the signals' pair tables; items in `exclude` (held back for validation) are left out.

    `teacher` is (item, keyphrase, value), `searched` (item, keyphrase, passed), `clicked` (item, keyphrase) or (item,
    keyphrase, weight), `hard` and `right` (item, keyphrase), and no pair is both; None leaves a signal out. An item
    needs one of the first three. Raises ValueError when no pair is left.
    """
    given = [table for table in (teacher, searched, clicked) if table is not None]
    keys = [pair_keys(table[0], table[1], keyphrases) for table in given]
    joined = np.unique(np.concatenate(keys)) if keys else np.zeros(0, np.int64)
    joined = joined[~np.isin(joined // keyphrases, exclude)]
    more = [pair_keys(*table, keyphrases) for table in (hard, right) if table is not None]
    if more:
        added = np.concatenate(more)
        joined = np.union1d(joined, added[np.isin(added // keyphrases, joined // keyphrases)])
    if not len(joined):
        raise ValueError("no training pair is left for the student: every enabled signal's table is empty")

    def column(table: tuple | None, fill: float, dtype: type) -> np.ndarray:
        values = np.full(len(joined), fill, dtype)
        if table is not None:
            key = pair_keys(table[0], table[1], keyphrases)
            at = np.searchsorted(joined, key)
            known = (at < len(joined)) & (joined[np.minimum(at, len(joined) - 1)] == key)
            values[at[known]] = table[2][known] if len(table) > 2 and dtype != np.bool_ else True
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
        column(clicked if clicked is not None and len(clicked) > 2 else None, 1.0, np.float32),
        column(hard, False, np.bool_),
        column(right, False, np.bool_),
    )
