"""Packing ragged texts into fixed rows of tokens, so that little computation is spent on padding.

A row holds several texts one after another; segment ids keep attention and pooling within a text (Krell et al. 2021,
"Efficient Sequence Packing without Cross-contamination"). Shapes are fixed by a `RowBudget`, so a step compiles once.
"""

from __future__ import annotations

import bisect
from typing import NamedTuple

import numpy as np

from distill.data.ragged import Ragged
from distill.data.stream import round_up


class RowBudget(NamedTuple):
    """The fixed shape of packed rows."""

    rows: int
    row_tokens: int
    texts_per_row: int


class Packed(NamedTuple):
    """Rows of tokens, int32 [R, L] each, and where each text went: int32 [N], row · S + number in the row, or −1."""

    tokens: np.ndarray
    positions: np.ndarray
    segments: np.ndarray
    types: np.ndarray
    slots: np.ndarray


def assign_rows(lengths: np.ndarray, row_tokens: int) -> np.ndarray:
    """Best-fit decreasing bin packing: the row of each text, int32 [N]; opens as many rows as it needs.

    Raises ValueError for a text longer than a row.
    """
    if len(lengths) and lengths.max() > row_tokens:
        raise ValueError(f"a text of {lengths.max()} tokens does not fit a row of {row_tokens}")
    rows = np.empty(len(lengths), np.int32)
    open_rows: dict[int, list[int]] = {}  # free tokens → rows with just that much left
    free_sizes: list[int] = []  # the keys of open_rows, sorted
    count = 0
    for text in np.argsort(-lengths, kind="stable"):
        length = int(lengths[text])
        at = bisect.bisect_left(free_sizes, length)
        if at == len(free_sizes):
            row, free = count, row_tokens
            count += 1
        else:
            free = free_sizes[at]
            row = open_rows[free].pop()
            if not open_rows[free]:
                del open_rows[free], free_sizes[at]
        rows[text] = row
        left = free - length
        if left:
            if left not in open_rows:
                open_rows[left] = []
                bisect.insort(free_sizes, left)
            open_rows[left].append(row)
    return rows


def rows_needed(lengths: np.ndarray, row_tokens: int) -> tuple[int, int]:
    """(rows, most texts in one row) that `assign_rows` uses for these texts."""
    if not len(lengths):
        return 0, 0
    counts = np.bincount(assign_rows(lengths, row_tokens))
    return len(counts), int(counts.max())


def fitting_rows(rows: int, shards: int, chunk_rows: int) -> int:
    """At least `rows`, to be split over `shards` devices and encoded in even chunks of at most `chunk_rows` (0: one).

    `chunk_rows` is a multiple of `shards`.
    """
    chunks = -(-rows // chunk_rows) if chunk_rows else 1
    return round_up(max(rows, 1), shards * max(chunks, 1))


def pack(texts: Ragged, budget: RowBudget, types: np.ndarray | None = None) -> Packed:
    """Packs N texts into `budget`; a text beyond it gets slot −1 and is for the caller to mask.

    `types` are the token type ids aligned with `texts.values`; zeros when not given.
    """
    lengths = texts.lengths
    row = assign_rows(lengths, budget.row_tokens)
    order = np.argsort(row, kind="stable")
    sorted_row = row[order]
    first = np.searchsorted(sorted_row, sorted_row)  # where each text's row begins in `order`
    number = np.empty(len(row), np.int64)
    number[order] = np.arange(len(row)) - first
    start = np.empty(len(row), np.int64)
    before = np.concatenate([[0], np.cumsum(lengths[order])])
    start[order] = before[:-1] - before[first]
    fits = (row < budget.rows) & (number < budget.texts_per_row)

    fields = {name: np.zeros((budget.rows, budget.row_tokens), np.int32) for name in Packed._fields[:-1]}
    kept = np.flatnonzero(fits)
    count = lengths[kept]
    within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    source = np.repeat(texts.offsets[kept], count) + within
    target = np.repeat(row[kept].astype(np.int64) * budget.row_tokens + start[kept], count) + within
    fields["tokens"].reshape(-1)[target] = texts.values[source]
    fields["positions"].reshape(-1)[target] = within
    fields["segments"].reshape(-1)[target] = np.repeat(number[kept] + 1, count)
    if types is not None:
        fields["types"].reshape(-1)[target] = types[source]
    slots = np.where(fits, row * budget.texts_per_row + number, -1).astype(np.int32)
    return Packed(**fields, slots=slots)


def padded(values: np.ndarray, size: int, fill: float) -> np.ndarray:
    """`values` [n, …] followed by `fill` up to [size, …]."""
    result = np.full((size, *values.shape[1:]), fill, values.dtype)
    result[: len(values)] = values
    return result
