"""How well scores rank the judged pairs of held-back items, with a standard error: what picks a training's step."""

from __future__ import annotations

import math

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike, NDArray

from distill.evaluate.metrics import auc, ndcg_per_group

EXACT = 3  # the grade


def ranking_quality(items: ArrayLike, grades: ArrayLike, scores: ArrayLike) -> dict[str, float]:
    """`ndcg@10` per item (gain grade / 3), pooled AUC of grade 3, `auc_exact`, their mean `quality` and its error.

    A figure that the grades do not define (one class alone has no AUC, no grade above 0 no ranking) is left out.
    `quality_error` is the standard error over items, which are drawn and pairs not: with ψ(item) the item's part in
    the mean's deviation, √(n / (n - 1) · Σ ψ²), for the AUC after Obuchowski (1997), "Nonparametric analysis of
    clustered ROC curve data". Of fewer than two items it is 1, for they say nothing.

    Args:
      items: int [N], the item of each pair.
      grades: int [N], 0–3.
      scores: float [N], higher is better.

    Raises:
      ValueError: lengths differ or a score is missing.
    """
    items, grades, scores = np.asarray(items), np.asarray(grades), np.asarray(scores, np.float64)
    item_ids, item_at = np.unique(items, return_inverse=True)
    figures: dict[str, float] = {}
    parts: list[NDArray[np.float64]] = []
    drawn = 0
    ranked, ndcg = ndcg_per_group(item_at, grades / EXACT, scores, k=10)
    if len(ndcg):
        figures["ndcg@10"] = float(ndcg.mean())
        part = np.zeros(len(item_ids))
        part[ranked] = (ndcg - ndcg.mean()) / len(ndcg)
        parts.append(part)
        drawn = len(ndcg)
    exact = grades == EXACT
    area = auc(exact, scores)
    if not math.isnan(area):
        figures["auc_exact"] = area
        part = np.bincount(item_at, _auc_parts(exact, scores, area), minlength=len(item_ids))
        parts.append(np.asarray(part, np.float64))
        drawn = len(item_ids)
    if not figures:
        return {"quality": 0.0, "quality_error": 1.0}
    error = 1.0
    if drawn > 1:
        error = math.sqrt(drawn / (drawn - 1) * float(np.square(np.mean(parts, axis=0)).sum()))
    return figures | {"quality": sum(figures.values()) / len(figures), "quality_error": error}


def _auc_parts(positive: NDArray[np.bool_], scores: NDArray[np.float64], area: float) -> NDArray[np.float64]:
    """Each row's part of the AUC's deviation from its expectation [N]; they sum to 0."""
    above = scipy.stats.rankdata(scores)
    for side in (positive, ~positive):
        above[side] -= scipy.stats.rankdata(scores[side])  # leaves the rows of the other class; a tie counts half
    positives, negatives = int(positive.sum()), int((~positive).sum())
    placement = np.where(positive, above / negatives, 1 - above / positives)
    return (placement - area) / np.where(positive, positives, negatives)
