"""Exact search over chosen rows, re-scoring of candidates, and searching an index for allowed rows only.

Plain numpy: subsets come in every size, and a compiled kernel for each size would cost more than it saves.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

_SCORES_AT_ONCE = 1 << 23  # float32 entries of a block of scores or of gathered vectors: 32 MiB
# A search for k neighbours costs about as much as so many inner products of the same width. It decides when exact
# search over the allowed rows is cheaper than asking the index for more than k and filtering.
_SEARCH_COST = 11_000

Search = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]


def exact_over(
    queries: np.ndarray, vectors: np.ndarray, k: int, rows: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The k rows of largest inner product with each query, best first, equal ones by row.

    Which of several rows that tie for the last place is taken is not said.

    Args:
      queries: [Q, D] float32.
      vectors: [N, D] float32, may be memory-mapped.
      k: at least 1.
      rows: [M] rows to choose from, each once; None: all.

    Returns:
      row numbers [Q, k] int32 and scores [Q, k] float32; -1 and -inf beyond the number of rows.
    """
    indices = np.full((len(queries), k), -1, np.int32)
    scores = np.full((len(queries), k), -np.inf, np.float32)
    count = len(vectors) if rows is None else len(rows)
    if not count or not len(queries):
        return indices, scores
    step = max(1, _SCORES_AT_ONCE // vectors.shape[1])
    for start in range(0, count, step):
        chosen = np.arange(start, min(start + step, count)) if rows is None else rows[start : start + step]
        block = vectors[start : start + step] if rows is None else vectors[chosen]
        for at in range(0, len(queries), many := max(1, _SCORES_AT_ONCE // len(block))):
            span = slice(at, at + many)
            products = queries[span] @ block.T
            found = np.broadcast_to(chosen.astype(np.int32), products.shape)
            if len(chosen) > k:
                best = np.argpartition(-products, k - 1, axis=1)[:, :k]
                products, found = np.take_along_axis(products, best, 1), np.take_along_axis(found, best, 1)
            indices[span], scores[span] = merge(k, (indices[span], scores[span]), (found, products))
    return indices, scores


def merge(k: int, *results: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The k best of several (indices [Q, n], scores [Q, n]), best first, -1 last; results share no index of a query."""
    indices = np.concatenate([found for found, _ in results], axis=1)
    scores = np.concatenate([values for _, values in results], axis=1)
    order = np.lexsort((indices, -scores), axis=1)[:, :k]
    return np.take_along_axis(indices, order, 1), np.take_along_axis(scores, order, 1)


def score_candidates(queries: np.ndarray, vectors: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """Inner products [Q, C] float32 of queries [Q, D] with the rows `candidates` [Q, C]; -inf where that is -1."""
    scores = np.full(candidates.shape, -np.inf, np.float32)
    if not len(vectors):
        return scores
    step = max(1, _SCORES_AT_ONCE // max(1, candidates.shape[1] * vectors.shape[1]))
    for at in range(0, len(queries), step):
        span = slice(at, at + step)
        gathered = vectors[np.maximum(candidates[span], 0)]
        scores[span] = np.matmul(gathered, queries[span, :, None])[:, :, 0]
    scores[candidates < 0] = -np.inf
    return scores


def rescore(queries: np.ndarray, vectors: np.ndarray, candidates: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k best of each query's candidate rows [Q, C] by inner product: indices and scores [Q, k]."""
    result = merge(k, (candidates, score_candidates(queries, vectors, candidates)))
    if candidates.shape[1] < k:
        pad = ((0, 0), (0, k - candidates.shape[1]))
        result = np.pad(result[0], pad, constant_values=-1), np.pad(result[1], pad, constant_values=-np.inf)
    return result


def allowed_mask(allowed: np.ndarray, count: int) -> np.ndarray:
    """[N] bool of an allow-list: [M] row numbers or [N] bool.

    Raises:
      ValueError: it fits neither.
    """
    allowed = np.asarray(allowed)
    if allowed.dtype == bool:
        if allowed.shape != (count,):
            raise ValueError(f"allowed: bool of shape {allowed.shape}; the index holds {count} keyphrases")
        return allowed
    if allowed.ndim != 1 or (allowed.size and not np.issubdtype(allowed.dtype, np.integer)):
        raise ValueError(f"allowed: {allowed.dtype} of shape {allowed.shape}; pass [M] row numbers or [N] bool")
    if allowed.size and not 0 <= allowed.min() <= allowed.max() < count:
        raise ValueError(f"allowed: rows {allowed.min()} to {allowed.max()}; the index holds {count} keyphrases")
    mask = np.zeros(count, bool)
    mask[allowed.astype(np.int64)] = True
    return mask


def search_allowed(
    search: Search, queries: np.ndarray, vectors: np.ndarray, k: int, mask: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest allowed rows: exact over few; among many, what the index finds, asked for more until k are allowed.

    Args:
      search: (queries [q, D], k) → (indices [q, k], scores [q, k]) over all rows.
      queries: [Q, D].
      vectors: [N, D], what exact search reads.
      k: at least 1.
      mask: [N] bool.

    Returns:
      indices [Q, k] int32 and scores [Q, k] float32; -1 and -inf where fewer than k rows are allowed.
    """
    count, allowed = len(mask), int(np.count_nonzero(mask))
    # To be left with k of M allowed rows, somewhat over k·N/M must be found.
    if allowed <= max(k, math.sqrt(_SEARCH_COST * 1.5 * count)) and allowed < count:
        return exact_over(queries, vectors, k, np.flatnonzero(mask))
    indices = np.full((len(queries), k), -1, np.int32)
    scores = np.full((len(queries), k), -np.inf, np.float32)
    wanted, left = min(k, allowed), np.arange(len(queries))
    # Three standard deviations more than would do if the forbidden rows lay anywhere.
    forbidden = 1 - allowed / count
    asked = min(count, math.ceil((k + 3 * math.sqrt(k * forbidden)) / max(1 - forbidden, 1 / count)))
    while len(left) and wanted:
        short = []
        for rows in np.array_split(left, math.ceil(len(left) * asked / _SCORES_AT_ONCE)):
            found, values = search(queries[rows], asked)
            good = (found >= 0) & mask[np.maximum(found, 0)]
            enough = good.sum(axis=1) >= wanted
            # Allowed ones first, in the order found.
            place = np.argsort(~good[enough], axis=1, kind="stable")[:, :wanted]
            indices[rows[enough], :wanted] = np.take_along_axis(found[enough], place, 1)
            scores[rows[enough], :wanted] = np.take_along_axis(values[enough], place, 1)
            short.append(rows[~enough])
        left, asked = np.concatenate(short), 4 * asked
        if len(left) and asked > min(
            count, k * allowed / _SEARCH_COST
        ):  # their neighbourhoods are almost all forbidden
            exact = exact_over(queries[left], vectors, wanted, np.flatnonzero(mask))
            indices[left, :wanted], scores[left, :wanted] = exact
            break
    return indices, scores
