"""Batches for the student: some items, for each a few keyphrases, and whatever each signal knows of those pairs.

A batch encodes each item once and each keyphrase once, however often it stands in the batch; a signal that says nothing
of a pair is a mask, never a number.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import numpy as np

from distill.data.packing import Packed, RowBudget, fitting_rows, pack, padded, rows_needed
from distill.data.pair_pool import PairPool
from distill.data.ragged import Ragged, number_within, places, ragged_ranges
from distill.data.stream import round_up

_BLOCK = 1024  # items whose pairs are drawn together


@dataclasses.dataclass(frozen=True)
class Quota:
    """How many of an item's pairs a batch draws for each signal: the sizes of the tasks within it.

    A pair drawn for one signal also teaches what the others know of it: a clicked one that the teacher scored is
    distilled beside the `teacher` pairs drawn for that.
    """

    teacher: int
    searched: int
    clicked: int
    hard: int = 0

    @property
    def total(self) -> int:
        return self.teacher + self.searched + self.contrasted

    @property
    def contrasted(self) -> int:
        """Of an item's pairs, those whose keyphrases are targets of the clicks task."""
        return self.clicked + self.hard


class ItemBatch(NamedTuple):
    """B items, K pairs each, U distinct keyphrases, T of them targets of the clicks task; −1 is none, everywhere.

    B, U and T are multiples of the number of devices that split a batch.
    """

    texts: Packed  # the items, then the keyphrases, in the same rows
    item_slots: np.ndarray  # int32 [B]
    keyphrase_slots: np.ndarray  # int32 [U]
    candidates: np.ndarray  # int32 [B, K] into U
    teacher: np.ndarray  # float32 [B, K]; NaN unknown
    passed: np.ndarray  # float32 [B, K]; NaN unknown
    targets: np.ndarray  # int32 [T] into U: the keyphrases drawn as some item's clicked one or hard negative
    positives: np.ndarray  # int32 [B, P] into T: all those that the item clicked, whoever drew them
    ignored: np.ndarray  # int32 [B, I] into T: those that are right for the item though it did not click them
    positive_weights: np.ndarray  # float32 [B, P]; 1 without weights
    target_log_q: np.ndarray  # float32 [T]: log of the share of steps whose batch holds the target

    @property
    def pairs(self) -> int:
        return int((self.candidates >= 0).sum())

    @property
    def tokens(self) -> int:
        """Real ones, in the batch's R · L places."""
        return int((self.texts.segments > 0).sum())


class _Draw(NamedTuple):
    """What one step holds, before texts are packed."""

    rows: np.ndarray  # int64 [B] of the pool's items
    pairs: np.ndarray  # int64 [B, K] of the pool's pairs, −1 none
    distinct: np.ndarray  # int32, sorted: the keyphrases of those pairs
    targets: np.ndarray  # int32, sorted: those of them that were drawn as clicked or as hard negatives


class ItemBatches:
    """The student's batches, each a pure function of (seed, step) over a plan made once.

    Items come in runs of `topic_items` that share keyphrases: those are then encoded once for several items, and the
    other items' keyphrases are telling negatives. 1 gives plain shuffling, as `target_log_q` takes for granted: in runs
    of 8 on the embedded marketplace, a batch holds the keyphrases of items that share a click with an anchor three
    times as often as all batches do, and the logQ correction counts them so.

    Every step takes as many items as fill a fixed number of rows, the number that `batch_items` items need on average:
    the shape never changes, and few places are padding. `shards` devices split a batch; rows come in even chunks of at
    most `chunk_rows`, a multiple of `shards` (0: one chunk). `first` items of the endless row of epochs are left out.
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
        chunk_rows: int = 0,
        first: int = 0,
    ):
        self._pool, self._quota, self._seed = pool, quota, seed
        self._item_lengths, self._keyphrase_lengths = item_texts.lengths, keyphrase_texts.lengths
        self._texts = Ragged.concatenate(item_texts, keyphrase_texts)
        self._topics, self._runs = _topics(pool), max(1, len(pool.items) // topic_items)
        self._clicks, self._right = _Marked(pool, pool.clicked), _Marked(pool, pool.right & ~pool.clicked)
        self._click_weight = pool.weight[pool.clicked]
        self._epoch = functools.lru_cache(maxsize=4)(self._draw_epoch)
        self._block = functools.lru_cache(maxsize=128)(self._draw_block)

        batch_items = min(batch_items, len(pool.items))
        rows = fitting_rows(self._usual_rows(batch_items, row_tokens, first, steps), shards, chunk_rows)
        self._target_steps = np.zeros(len(self._keyphrase_lengths), np.int32)
        self._bounds, most = self._fill(rows, row_tokens, 2 * batch_items, first, steps)
        texts_per_row, self._positives, self._ignored, *lengths = most
        self._budget = RowBudget(rows, row_tokens, texts_per_row)
        self._size, self._distinct, self._targets = (round_up(length, shards) for length in lengths)

    @property
    def pairs(self) -> int:
        return len(self._pool.keyphrase)

    @property
    def items(self) -> int:
        return len(self._pool.items)

    @property
    def items_per_step(self) -> float:
        """Mean over the steps."""
        return float(np.diff(self._bounds).mean())

    @property
    def budget(self) -> RowBudget:
        return self._budget

    @property
    def real_token_share(self) -> float:
        """Of all token places of some steps, the share that holds a token."""
        steps = np.unique(np.linspace(0, len(self._bounds) - 2, 16).astype(int))
        places = self._budget.rows * self._budget.row_tokens
        return float(np.mean([self._lengths(self._draw(int(step))).sum() for step in steps]) / places)

    def ids(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """(item indices, distinct keyphrase indices) of a step's batch, without packing it."""
        draw = self._draw(step)
        return self._pool.items[draw.rows], draw.distinct

    def build(self, step: int) -> ItemBatch:
        pool, draw = self._pool, self._draw(step)
        items = pool.items[draw.rows]
        packed = pack(self._texts.take(np.append(items, len(self._item_lengths) + draw.distinct)), self._budget)
        drawn = draw.pairs >= 0
        candidates, _ = places(draw.distinct, np.where(drawn, pool.keyphrase[draw.pairs], -1))
        item, target, click = self._clicks.among(draw)
        positives = np.full((self._size, self._positives), -1, np.int32)
        weights = np.ones(positives.shape, np.float32)
        place = item, number_within(item)
        positives[place], weights[place] = target, self._click_weight[click]
        item, target, _ = self._right.among(draw)
        ignored = np.full((self._size, self._ignored), -1, np.int32)
        ignored[item, number_within(item)] = target
        log_q = np.log(self._target_steps[draw.targets] / (len(self._bounds) - 1)).astype(np.float32)

        def pairwise(values: np.ndarray, none: float, dtype: type) -> np.ndarray:
            return padded(np.where(drawn, values, none).astype(dtype), self._size, none)

        return ItemBatch(
            packed,
            padded(packed.slots[: len(items)], self._size, -1),
            padded(packed.slots[len(items) :], self._distinct, -1),
            pairwise(candidates, -1, np.int32),
            pairwise(pool.teacher[draw.pairs], np.nan, np.float32),
            pairwise(pool.passed[draw.pairs], np.nan, np.float32),
            padded(places(draw.distinct, draw.targets)[0].astype(np.int32), self._targets, -1),
            positives,
            ignored,
            weights,
            padded(log_q, self._targets, 0.0),
        )

    def _usual_rows(self, batch_items: int, row_tokens: int, first: int, steps: int) -> int:
        """Rows that `batch_items` items and their keyphrases need on average, and any single item needs."""
        begins = first + np.unique(np.linspace(0, (steps - 1) * batch_items, 32).astype(int))
        tokens = np.mean([self._tokens(begin, begin + batch_items)[-1] for begin in begins])
        longest = [self._item_lengths.max(initial=1), *[self._keyphrase_lengths.max(initial=1)] * self._quota.total]
        return max(round(float(tokens) / row_tokens / 0.98), rows_needed(np.array(longest), row_tokens)[0])

    def _fill(self, rows: int, row_tokens: int, limit: int, first: int, steps: int) -> tuple[np.ndarray, list[int]]:
        """Cuts the endless row of items into steps of at most `limit` that fit `rows`: their bounds, int64 [steps + 1].

        And the most that any step has: texts in a row, positives of an item, ignored targets of one, items, distinct
        keyphrases, targets. Counts each target's steps.
        """
        limit, bounds, most = min(limit, len(self._pool.items)), [first], np.array([1, 1, 0, 1, 1, 1])
        for _ in range(steps):
            begin = bounds[-1]
            # Tokens bound the count from above; best-fit rows then decide.
            count = int(np.searchsorted(self._tokens(begin, begin + limit), rows * row_tokens, side="right"))
            while True:
                draw = self._between(begin, begin + count)
                needed, densest = rows_needed(self._lengths(draw), row_tokens)
                if needed <= rows:
                    break
                count = min(count - 1, int(count * rows / needed))
            bounds.append(begin + count)
            clicks, right = (np.bincount(of.among(draw)[0], minlength=1).max() for of in (self._clicks, self._right))
            most = np.maximum(most, (densest, clicks, right, count, len(draw.distinct), len(draw.targets)))
            self._target_steps[draw.targets] += 1
        return np.asarray(bounds), most.tolist()

    def _tokens(self, begin: int, end: int) -> np.ndarray:
        """Tokens of the first 1, 2, … items from `begin` with their distinct keyphrases: int64 [end − begin]."""
        rows, pairs = self._stretch(begin, end)
        phrase = np.where(pairs >= 0, self._pool.keyphrase[pairs], -1).reshape(-1)
        distinct, first = np.unique(phrase, return_index=True)
        lengths = np.where(distinct >= 0, self._keyphrase_lengths[distinct], 0)
        added = np.bincount(first // pairs.shape[1], weights=lengths, minlength=len(rows)).astype(np.int64)
        return np.cumsum(self._item_lengths[self._pool.items[rows]] + added)

    def _lengths(self, draw: _Draw) -> np.ndarray:
        """Tokens of each text of a batch, as `build` packs them."""
        items = self._item_lengths[self._pool.items[draw.rows]]
        return np.concatenate([items, self._keyphrase_lengths[draw.distinct]])

    def _draw(self, step: int) -> _Draw:
        return self._between(*self._bounds[step : step + 2])

    def _between(self, begin: int, end: int) -> _Draw:
        rows, pairs = self._stretch(begin, end)
        phrase = self._pool.keyphrase
        contrasted = pairs[:, : self._quota.contrasted]
        return _Draw(rows, pairs, np.unique(phrase[pairs[pairs >= 0]]), np.unique(phrase[contrasted[contrasted >= 0]]))

    def _stretch(self, begin: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """(pool items [B], their pool pairs [B, K] with −1 for none) at places begin … end of the endless row."""
        blocks = [self._block(block) for block in range(begin // _BLOCK, -(-end // _BLOCK))]
        span = slice(begin % _BLOCK, begin % _BLOCK + end - begin)
        return np.concatenate([b[0] for b in blocks])[span], np.concatenate([b[1] for b in blocks])[span]

    def _draw_epoch(self, epoch: int) -> np.ndarray:
        """One epoch's order of the pool's items: shuffled runs of items with a keyphrase in common."""
        rng = np.random.default_rng((self._seed, epoch))
        shuffled = rng.permutation(len(self._topics))
        by_topic = shuffled[np.argsort(self._topics[shuffled], kind="stable")]
        runs = np.array_split(by_topic, self._runs)
        return np.concatenate([runs[i] for i in rng.permutation(len(runs))])

    def _draw_block(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """`_stretch` of one block: an item's pairs in random order fill the quotas, the scarcest signal's first."""
        pool, count = self._pool, len(self._topics)
        places = np.arange(block * _BLOCK, (block + 1) * _BLOCK)
        epochs = [self._epoch(epoch) for epoch in range(places[0] // count, places[-1] // count + 1)]
        rows = np.concatenate(epochs)[places - places[0] // count * count]
        item, pair = ragged_ranges(pool.bounds, rows)
        rng = np.random.default_rng((self._seed, 1, block))
        pair = pair[np.lexsort((rng.random(len(pair)), item))]
        pairs = np.full((_BLOCK, self._quota.total), -1, np.int64)
        free, column = np.ones(len(pair), bool), 0
        for has, quota in (
            (pool.clicked, self._quota.clicked),
            (pool.hard, self._quota.hard),
            (~np.isnan(pool.teacher), self._quota.teacher),
            (~np.isnan(pool.passed), self._quota.searched),
        ):
            at = np.flatnonzero(has[pair] & free)
            number = number_within(item[at])
            at, number = at[number < quota], number[number < quota]
            pairs[item[at], column + number] = pair[at]
            free[at] = False
            column += quota
        return rows, pairs


class _Marked:
    """The pool's pairs under a mask, to be found among a batch's targets."""

    def __init__(self, pool: PairPool, mask: np.ndarray):
        self._bounds = np.concatenate([[0], np.cumsum(mask)])[pool.bounds]
        self._keyphrase = pool.keyphrase[mask]

    def among(self, draw: _Draw) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of the batch's items' pairs here on one of the targets: place in the batch, in the targets, in the mask."""
        item, pair = ragged_ranges(self._bounds, draw.rows)
        at, known = places(draw.targets, self._keyphrase[pair])
        return item[known], at[known], pair[known]


def _topics(pool: PairPool) -> np.ndarray:
    """Each item's most widely shared keyphrase among those that a signal calls good: int32 [I]."""
    good = pool.clicked | (np.nan_to_num(pool.teacher, nan=-np.inf) > 0)
    popularity = np.bincount(pool.keyphrase)[pool.keyphrase] * np.where(good, 1.0, 1e-6)
    row = np.repeat(np.arange(len(pool.items)), np.diff(pool.bounds))
    by_popularity = np.lexsort((-popularity, row))
    return pool.keyphrase[by_popularity[pool.bounds[:-1]]]
