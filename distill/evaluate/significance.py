"""Intervals and p-values: bootstrap over groups (queries or items), paired wherever two models are compared.

Intervals describe the sample of queries or items, not another training seed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike, NDArray

from distill.evaluate.metrics import require_scores
from distill.resampling import CHUNK, CONFIDENCE, group_draws, percentile_interval

_T_TEST_ABOVE = 2_000  # groups


@dataclasses.dataclass(frozen=True)
class Interval:
    """An estimate and its 95 % interval; bounds are NaN when there are fewer than two groups."""

    estimate: float
    ci_low: float
    ci_high: float


@dataclasses.dataclass(frozen=True)
class Difference:
    """First minus second, its 95 % interval, and the two-sided p-value of "no difference"."""

    estimate: float
    ci_low: float
    ci_high: float
    p: float


def bootstrap_mean(values: ArrayLike, resamples: int = 1000, seed: int = 0) -> Interval:
    """The mean of one value a group, with a percentile bootstrap interval.

    Args:
      values: float [G].

    Raises:
      ValueError: a value is NaN or infinite.
    """
    values = require_scores(values, "values to average")
    if values.size < 2:
        return Interval(float(values[0]) if values.size else math.nan, math.nan, math.nan)
    result = scipy.stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=resamples,
        batch=max(1, CHUNK // values.size),
        vectorized=True,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    low, high = result.confidence_interval
    return Interval(float(values.mean()), float(low), float(high))


def paired_difference(values_a: ArrayLike, values_b: ArrayLike, resamples: int = 1000, seed: int = 0) -> Difference:
    """Mean of `values_a - values_b` over the same groups: bootstrap interval, sign-flip randomisation p-value.

    Under "no difference" a group's two values could be swapped, which flips the sign of its difference; p is the share
    of sign patterns at least as extreme, all of them when there are at most 10 x `resamples`, else so many at random
    (Smucker, Allan & Carterette 2007). Beyond 2,000 groups the paired t-test gives the same p in far less time.

    Args:
      values_a, values_b: float [G], one value a group, in one order.

    Raises:
      ValueError: lengths differ, or a value is NaN or infinite.
    """
    values_a, values_b = require_scores(values_a, "values_a"), require_scores(values_b, "values_b")
    if values_a.shape != values_b.shape:
        raise ValueError(
            f"paired values: {values_a.size} and {values_b.size} groups; give the same groups in one order"
        )
    change = values_a - values_b
    interval = bootstrap_mean(change, resamples, seed)
    if change.size < 2:
        return Difference(interval.estimate, math.nan, math.nan, math.nan)
    if not change.any():
        p = 1.0
    elif change.size > _T_TEST_ABOVE:
        t_test: Any = scipy.stats.ttest_1samp(change, 0.0)
        p = t_test.pvalue
    else:
        p = scipy.stats.permutation_test(
            (change,),
            np.mean,
            permutation_type="samples",
            n_resamples=10 * resamples,
            batch=max(1, CHUNK // change.size),
            vectorized=True,
            rng=np.random.default_rng(seed),
        ).pvalue
    return Difference(interval.estimate, interval.ci_low, interval.ci_high, float(p))


def bootstrap_auc(
    groups: ArrayLike, labels: ArrayLike, scores: ArrayLike, resamples: int = 1000, seed: int = 0
) -> Interval:
    """Pooled AUC with a cluster bootstrap interval: whole groups are drawn with replacement.

    Args:
      groups: int [N], the query or item of each pair.
      labels: bool [N].
      scores: float [N].

    Returns:
      Interval; NaN throughout when `labels` holds one class, NaN bounds when there is one group.

    Raises:
      ValueError: lengths differ or a score is missing.
    """
    sample = Clusters(groups, labels)
    estimate = sample.auc(np.ones((1, sample.number)), scores)[0]
    drawn = [sample.auc(counts, scores) for counts in sample.draws(resamples, seed)]
    low, high = percentile_interval(np.concatenate(drawn))
    return Interval(float(estimate), low, high)


def paired_auc_difference(
    groups: ArrayLike,
    labels: ArrayLike,
    scores_a: ArrayLike,
    scores_b: ArrayLike,
    resamples: int = 1000,
    seed: int = 0,
) -> Difference:
    """Difference of two models' pooled AUC on the same pairs: both are measured on each resample of the groups.

    p is the bootstrap's: twice the smaller share of resampled differences on either side of zero, counted with the
    observed one, so never 0.

    Args:
      groups: int [N].
      labels: bool [N].
      scores_a, scores_b: float [N].

    Raises:
      ValueError: lengths differ or a score is missing.
    """
    sample = Clusters(groups, labels)
    whole = np.ones((1, sample.number))
    estimate = sample.auc(whole, scores_a)[0] - sample.auc(whole, scores_b)[0]
    drawn = np.concatenate(
        [sample.auc(counts, scores_a) - sample.auc(counts, scores_b) for counts in sample.draws(resamples, seed)]
    )
    low, high = percentile_interval(drawn)
    drawn = drawn[np.isfinite(drawn)]
    if not drawn.size or not math.isfinite(low):
        return Difference(float(estimate), math.nan, math.nan, math.nan)
    tail = min(np.count_nonzero(drawn <= 0), np.count_nonzero(drawn >= 0))
    return Difference(float(estimate), low, high, min(1.0, 2 * (1 + int(tail)) / (1 + drawn.size)))


class Clusters:
    """Pairs in groups, and their AUC when each group counts a given number of times."""

    def __init__(self, groups: ArrayLike, labels: ArrayLike):
        ids, self.group = np.unique(np.asarray(groups), return_inverse=True)
        self.number = ids.size
        self.labels = np.asarray(labels, bool)
        if self.labels.shape != self.group.shape:
            raise ValueError(f"groups {self.group.shape} and labels {self.labels.shape} must have one length")

    def draws(self, resamples: int, seed: int) -> Iterator[NDArray[np.float64]]:
        """How often each group was drawn, in blocks [r, groups]; the same draws for the same seed."""
        if self.number > 1:
            yield from group_draws(self.number, resamples, seed, numbers=self.labels.size)
        yield np.empty((0, self.number))  # so that one group gives no draws, not an error

    def auc(self, counts: NDArray[np.float64], scores: ArrayLike) -> NDArray[np.float64]:
        """AUC [r] under group weights `counts` [r, groups]; NaN where a draw holds one class only."""
        scores = require_scores(scores)
        if scores.shape != self.labels.shape:
            raise ValueError(f"labels {self.labels.shape} and scores {scores.shape} must have one length")
        if self.labels.all() or not self.labels.any():
            return np.full(len(counts), math.nan)
        rest = np.flatnonzero(~self.labels)
        rest = rest[np.argsort(scores[rest], kind="stable")]  # negatives by their scores
        # [pairs, r], so that the counts of one pair lie together
        positive, negative = counts.T[self.group[self.labels]], counts.T[self.group[rest]]
        lowest = np.cumsum(np.vstack([np.zeros(len(counts)), negative]), axis=0)  # row n: of the n lowest negatives
        below, not_above = (np.searchsorted(scores[rest], scores[self.labels], side) for side in ("left", "right"))
        won = sum(np.einsum("pr,pr->r", positive, lowest[end]) for end in (below, not_above)) / 2  # half of a tie
        pairs = positive.sum(axis=0) * lowest[-1]
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(pairs > 0, won / pairs, math.nan)
