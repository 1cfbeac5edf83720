"""Batches for the student: some items, for each a few keyphrases, and whatever each signal knows of those pairs.

Signals are joined into one pool of pairs per item. A batch encodes each item once and each keyphrase once, however
often it stands in the batch; a signal that says nothing of a pair is a mask, never a number.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from distill.data.packing import Packed, RowBudget, pack, rows_needed
from distill.data.ragged import Ragged
from distill.data.stream import round_up


class PairPool(NamedTuple):
    """All known pairs, sorted by item: rows bounds[i]:bounds[i + 1] are those of `items[i]`."""

    items: np.ndarray  # int32 [I] item indices with at least one pair
    bounds: np.ndarray  # int64 [I + 1]
    keyphrase: np.ndarray  # int32 [P]
    teacher: np.ndarray  # float32 [P], NaN where there is none
    passed: np.ndarray  # float32 [P] 0 or 1, NaN where the search engine's verdict is not known
    clicked: np.ndarray  # bool [P]


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
    keys = [table[0].astype(np.int64) * keyphrases + table[1] for table in given]
    joined = np.unique(np.concatenate(keys)) if keys else np.zeros(0, np.int64)
    joined = joined[~np.isin(joined // keyphrases, exclude)]
    if not len(joined):
        raise ValueError("no training pair is left for the student: every enabled signal's table is empty")

    def column(table: tuple | None, fill: float, dtype: type) -> np.ndarray:
        values = np.full(len(joined), fill, dtype)
        if table is not None:
            key = table[0].astype(np.int64) * keyphrases + table[1]
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


@dataclasses.dataclass(frozen=True)
class Quota:
    """How many of an item's pairs a batch draws for each signal."""

    teacher: int
    searched: int
    clicked: int

    @property
    def total(self) -> int:
        return self.teacher + self.searched + self.clicked


class ItemBatch(NamedTuple):
    """B items, K pairs each, U distinct keyphrases (slots beyond those in use are −1)."""

    items: Packed  # slots [B]
    keyphrases: Packed  # slots [U]
    candidates: np.ndarray  # int32 [B, K] into U; −1 is none
    teacher: np.ndarray  # float32 [B, K]; NaN unknown
    passed: np.ndarray  # float32 [B, K]; NaN unknown
    clicked: np.ndarray  # bool [B, U]: the item's clicked keyphrases among the batch's
    drawn_by_click: np.ndarray  # bool [U]: drawn as some item's clicked keyphrase, the clicks task's targets


def _topical_order(pool: PairPool, total: int, topic_items: int, seed: int) -> np.ndarray:
    """`total` rows of `pool.items`, epoch after epoch of shuffled runs of items with a keyphrase in common."""
    # An item's topic is the most widely shared keyphrase among those that a signal calls good.
    good = pool.clicked | (np.nan_to_num(pool.teacher, nan=-np.inf) > 0)
    popularity = np.bincount(pool.keyphrase)[pool.keyphrase] * np.where(good, 1.0, 1e-6)
    row = np.repeat(np.arange(len(pool.items)), np.diff(pool.bounds))
    by_popularity = np.lexsort((-popularity, row))
    topic = pool.keyphrase[by_popularity[pool.bounds[:-1]]]
    epochs = []
    for epoch in range(-(-total // len(topic))):
        rng = np.random.default_rng((seed, epoch))
        shuffled = rng.permutation(len(topic))
        by_topic = shuffled[np.argsort(topic[shuffled], kind="stable")]
        runs = np.array_split(by_topic, max(1, len(topic) // topic_items))
        epochs.append(np.concatenate([runs[i] for i in rng.permutation(len(runs))]))
    return np.concatenate(epochs)[:total]


class ItemBatches:
    """The student's batches, each a pure function of (seed, step).

    Items come in runs of `topic_items` that share keyphrases: those are then encoded once for several items, and the
    other items' keyphrases are telling negatives. 1 gives plain shuffling.
    """

    def __init__(
        self,
        pool: PairPool,
        item_texts: Ragged,
        keyphrase_texts: Ragged,
        *,
        batch_items: int,
        topic_items: int,
        quota: Quota,
        row_tokens: int,
        shards: int,
        steps: int,
        seed: int,
    ):
        self._pool, self._items, self._keyphrases = pool, item_texts, keyphrase_texts
        self._quota, self._seed = quota, seed
        self.batch_items = min(batch_items, len(pool.items))
        self._order = _topical_order(pool, steps * self.batch_items, topic_items, seed)
        # The shape that holds the fullest of up to 128 sampled steps, and a little more; `pack` masks what exceeds it.
        item_rows, keyphrase_rows, distinct = [], [], []
        for step in np.unique(np.linspace(0, steps - 1, 128).astype(int)):
            rows, _, ids, _ = self._draw(int(step))
            item_rows.append(rows_needed(item_texts.lengths[pool.items[rows]], row_tokens))
            keyphrase_rows.append(rows_needed(keyphrase_texts.lengths[ids], row_tokens))
            distinct.append(len(ids))
        spare = 1 if steps > 128 else 0
        self._item_budget = self._budget(item_rows, row_tokens, shards, spare)
        self._keyphrase_budget = self._budget(keyphrase_rows, row_tokens, shards, spare)
        self._distinct = int(max(distinct) * 1.05) + 8

    @property
    def item_texts_per_row(self) -> int:
        return self._item_budget.texts_per_row

    @property
    def keyphrase_texts_per_row(self) -> int:
        return self._keyphrase_budget.texts_per_row

    @staticmethod
    def _budget(needed: list[tuple[int, int]], row_tokens: int, shards: int, spare: int) -> RowBudget:
        rows = round_up(max(n for n, _ in needed) + spare, shards)
        return RowBudget(rows, row_tokens, max(t for _, t in needed) + 2 * spare)

    def _draw(self, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(pool items [B], pool pairs [B, K] with −1 for none, distinct keyphrases, of them those drawn by click)."""
        size, pool = self.batch_items, self._pool
        rows = self._order[step * size : (step + 1) * size]
        rng = np.random.default_rng((self._seed, 1, step))
        pairs = np.full((size, self._quota.total), -1, np.int64)
        by_click = []
        for b, row in enumerate(rows):
            begin, end = pool.bounds[row], pool.bounds[row + 1]
            # One random order of the item's pairs, filled by the scarcest signal first.
            shuffled = begin + rng.permutation(end - begin)
            taken: list[int] = []
            free = np.ones(len(shuffled), bool)
            for has, quota in (
                (pool.clicked[shuffled], self._quota.clicked),
                (~np.isnan(pool.teacher[shuffled]), self._quota.teacher),
                (~np.isnan(pool.passed[shuffled]), self._quota.searched),
            ):
                chosen = np.flatnonzero(has & free)[:quota]
                free[chosen] = False
                taken.extend(shuffled[chosen])
            pairs[b, : len(taken)] = taken
            if self._quota.clicked:
                by_click.append(pool.keyphrase[[p for p in taken if pool.clicked[p]][: self._quota.clicked]])
        distinct = np.unique(pool.keyphrase[pairs[pairs >= 0]])
        clicked = np.unique(np.concatenate(by_click)) if by_click else np.zeros(0, np.int32)
        return rows, pairs, distinct, clicked

    def build(self, step: int) -> ItemBatch:
        pool = self._pool
        rows, pairs, distinct, by_click = self._draw(step)
        distinct = distinct[: self._distinct]
        items = pack(self._items.take(pool.items[rows]), self._item_budget)
        keyphrases = pack(self._keyphrases.take(distinct), self._keyphrase_budget)
        slots = np.full(self._distinct, -1, np.int32)
        slots[: len(distinct)] = keyphrases.slots
        drawn = pairs >= 0
        phrase = np.where(drawn, pool.keyphrase[pairs], -1)
        candidates = np.minimum(np.searchsorted(distinct, phrase), len(distinct) - 1)
        known = drawn & (distinct[candidates] == phrase) & (slots[candidates] >= 0) & (items.slots >= 0)[:, None]
        clicked = np.zeros((len(rows), self._distinct), bool)
        for b, row in enumerate(rows):
            span = slice(pool.bounds[row], pool.bounds[row + 1])
            mine = pool.keyphrase[span][pool.clicked[span]]
            clicked[b, : len(distinct)] = np.isin(distinct, mine) & (keyphrases.slots >= 0)
        drawn_by_click = np.zeros(self._distinct, bool)
        drawn_by_click[: len(distinct)] = np.isin(distinct, by_click) & (keyphrases.slots >= 0)
        return ItemBatch(
            items,
            keyphrases._replace(slots=slots),
            np.where(known, candidates, -1).astype(np.int32),
            np.where(known, pool.teacher[pairs], np.nan).astype(np.float32),
            np.where(known, pool.passed[pairs], np.nan).astype(np.float32),
            clicked & (items.slots >= 0)[:, None],
            drawn_by_click,
        )

    def real_token_share(self, batch: ItemBatch) -> float:
        """Of all token places of the batch, the share that holds a token."""
        places = batch.items.segments.size + batch.keyphrases.segments.size
        return float(((batch.items.segments > 0).sum() + (batch.keyphrases.segments > 0).sum()) / places)
