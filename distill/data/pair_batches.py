"""Batches of (keyphrase, item) pairs for the assistant: each as full as its rows allow."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from distill.data.packing import Packed, RowBudget, fitting_rows, pack, padded, rows_needed
from distill.data.ragged import Ragged
from distill.data.stream import epoch_order


class PairPlan(NamedTuple):
    """Which pairs go into which step: step t takes order[bounds[t]:bounds[t + 1]]."""

    order: np.ndarray  # int64 [total]
    bounds: np.ndarray  # int64 [steps + 1]
    budget: RowBudget
    slots: int  # most pairs in one batch

    @property
    def steps(self) -> int:
        return len(self.bounds) - 1

    def pairs(self, step: int) -> np.ndarray:
        return self.order[self.bounds[step] : self.bounds[step + 1]]


def plan_pairs(
    lengths: np.ndarray,
    *,
    total: int,
    batch_pairs: int,
    row_tokens: int,
    shards: int,
    seed: int | None,
    chunk_rows: int = 0,
) -> PairPlan:
    """Cuts `total` pairs (shuffled by `seed`, or in their order when None) into batches of about `batch_pairs`.

    Every batch is the longest run of pairs that packs into one fixed number of rows (as `fitting_rows` makes it of
    `shards` and `chunk_rows`), so the share of real tokens stays high while the shape never changes. `lengths` are
    tokens of each pair, int [N].
    """
    order = np.arange(total) if seed is None else epoch_order(len(lengths), total, seed)
    mean = float(lengths.mean()) if len(lengths) else 1.0
    rows = fitting_rows(round(batch_pairs * mean / row_tokens / 0.95), shards, chunk_rows)
    most = max(1, round(1.5 * batch_pairs))
    bounds = [0]
    texts_per_row = 1
    while bounds[-1] < total:
        begin = bounds[-1]
        window = lengths[order[begin : begin + most]]
        # Tokens bound the count from above; best-fit rows then decide, a few pairs at a time.
        count = int(np.searchsorted(np.cumsum(window), rows * row_tokens, side="right"))
        count = max(1, min(count, len(window)))
        needed, densest = rows_needed(window[:count], row_tokens)
        while needed > rows:
            count = max(1, min(count - 1, int(count * rows / needed)))
            needed, densest = rows_needed(window[:count], row_tokens)
        texts_per_row = max(texts_per_row, densest)
        bounds.append(begin + count)
    return PairPlan(
        order, np.asarray(bounds), RowBudget(rows, row_tokens, texts_per_row), int(np.diff(bounds).max(initial=1))
    )


def pack_pairs(tokens: Ragged, types: np.ndarray, plan: PairPlan) -> Packed:
    """Packs one batch; its slots are padded with −1 to the plan's width."""
    packed = pack(tokens, plan.budget, types)
    return packed._replace(slots=padded(packed.slots, plan.slots, -1))
