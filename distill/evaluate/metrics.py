"""Ranking metrics as functions of arrays: per-group nDCG and recall, pooled AUC.

A missing score is a mask, never a number: a model is measured on rows that it scored, all of them, or not at all.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import scipy.sparse
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import roc_auc_score

Relevant = Sequence[Collection[int]] | scipy.sparse.csr_array | scipy.sparse.csr_matrix


def require_scores(scores: ArrayLike, model: str = "model") -> NDArray[np.float64]:
    """`scores` as float64 [N].

    Raises:
      ValueError: a score is NaN or infinite, or the array is not one-dimensional; the message names `model`.
    """
    scores = np.asarray(scores, np.float64)
    if scores.ndim != 1:
        raise ValueError(f"scores of {model!r}: expected one score a row, got shape {scores.shape}")
    bad = int(np.count_nonzero(~np.isfinite(scores)))
    if bad:
        raise ValueError(
            f"scores of {model!r}: {bad:,} of {scores.size:,} are NaN or infinite; score every row or leave it out"
        )
    return scores


def ndcg_per_group(
    groups: ArrayLike, gains: ArrayLike, scores: ArrayLike, k: int = 10, *, model: str = "model"
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """nDCG@k of each group: linear gain, discount 1 / log2(rank + 1), rank from 1.

    Rows of equal score are ordered against the model, lowest gain first, so that a constant scorer earns nothing by
    the order of its input. Groups of fewer than two rows, or without any gain, say nothing about a ranking and are left
    out. (Järvelin & Kekäläinen 2002, with linear gain.)

    Args:
      groups: int [N], e.g. the query of each row; rows need not be sorted.
      gains: float [N], >= 0.
      scores: float [N], higher is better.
      k: rows of a group that count.
      model: the model's name, for errors.

    Returns:
      (group ids [G], values [G] in 0–1), ids ascending.

    Raises:
      ValueError: lengths differ, a gain is negative or not finite, a score is missing, or k < 1.
    """
    scores = require_scores(scores, model)
    groups, gains = np.asarray(groups), np.asarray(gains, np.float64)
    if groups.shape != scores.shape or gains.shape != scores.shape:
        raise ValueError(
            f"{model!r}: groups {groups.shape}, gains {gains.shape} and scores {scores.shape} must have one length"
        )
    if k < 1:
        raise ValueError(f"k = {k}: must be at least 1")
    if not np.all((gains >= 0) & np.isfinite(gains)):
        raise ValueError("gains: nDCG needs finite gains of at least 0")
    group_ids, group, rows = np.unique(groups, return_inverse=True, return_counts=True)
    rank = np.arange(scores.size) - np.repeat(np.cumsum(rows) - rows, rows)  # from 0, in rows sorted by group
    top = np.flatnonzero(rank < k)
    discount = 1 / np.log2(rank[top] + 2.0)

    def dcg(order: NDArray[np.int64]) -> NDArray[np.float64]:
        best = order[top]
        total = np.bincount(group[best], weights=gains[best] * discount, minlength=group_ids.size)
        return total.astype(np.float64)

    actual = dcg(np.lexsort((gains, -scores, group)))
    ideal = dcg(np.lexsort((-gains, group)))
    keep = (rows >= 2) & (ideal > 0)
    return group_ids[keep], np.minimum(actual[keep] / ideal[keep], 1.0)  # rounding may pass 1


def recall_per_group(recommended: ArrayLike, relevant: Relevant) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """recall@K of each group: distinct relevant ids among its K recommended ones, over min(K, number relevant).

    The denominator is capped so that a perfect list reaches 1 where more than K ids are relevant. Groups with nothing
    relevant are left out.

    Args:
      recommended: int [G, K] ids, -1 where a list is shorter.
      relevant: G collections of ids, or a sparse matrix [G, ids] whose stored non-zeros are relevant.

    Returns:
      (row numbers [H] of the groups kept, values [H] in 0–1).

    Raises:
      ValueError: `recommended` is not [G, K] with K >= 1, or `relevant` has another number of groups.
    """
    recommended = np.asarray(recommended, np.int64)
    if recommended.ndim != 2 or recommended.shape[1] < 1:
        raise ValueError(f"recommended: expected [groups, K >= 1], got shape {recommended.shape}")
    number, width = recommended.shape
    if isinstance(relevant, (scipy.sparse.csr_array, scipy.sparse.csr_matrix)):
        size = len(relevant.indptr) - 1
        rows, ids = relevant.nonzero()
    else:
        size = len(relevant)
        rows = np.repeat(np.arange(size), [len(one) for one in relevant])
        ids = np.fromiter((i for one in relevant for i in one), np.int64, count=rows.size)
    if size != number:
        raise ValueError(f"relevant: {size} groups, but recommended has {number}")
    stride = 1 + max(int(recommended.max(initial=-1)), int(ids.max(initial=-1)))
    wanted = np.unique(rows.astype(np.int64) * stride + ids)
    given_rows, column = np.nonzero(recommended >= 0)
    given = np.unique(given_rows * stride + recommended[given_rows, column])  # a repeated id is one hit
    hits = np.bincount(given[np.isin(given, wanted)] // max(stride, 1), minlength=number)
    total = np.bincount(wanted // max(stride, 1), minlength=number)
    keep = np.flatnonzero(total > 0)
    return keep, hits[keep] / np.minimum(total[keep], width)


def auc(labels: ArrayLike, scores: ArrayLike, *, model: str = "model") -> float:
    """Area under the ROC curve over all rows pooled, ties counting half; NaN when `labels` holds one class only.

    Args:
      labels: bool [N].
      scores: float [N].

    Raises:
      ValueError: lengths differ or a score is missing.
    """
    scores, labels = require_scores(scores, model), np.asarray(labels, bool)
    if labels.shape != scores.shape:
        raise ValueError(f"{model!r}: labels {labels.shape} and scores {scores.shape} must have one length")
    if labels.all() or not labels.any():
        return float("nan")
    return float(roc_auc_score(labels, scores))
