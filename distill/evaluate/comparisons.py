"""Comparing models over queries and training seeds, and correcting many comparisons for their number.

A model's figure is the mean over seeds of its figure on that seed's groups (queries or listings). When the seeds'
groups are of one data set, a draw of the bootstrap takes the same ones in every seed that has them; when each seed has
groups of its own (a marketplace each), they are drawn seed by seed.

Seeds are resampled too, by as much of their spread as their groups do not explain: the variance between seeds less the
part that resampling groups shows, as a random effect is estimated by moments (Searle, Casella & McCulloch 1992,
ch. 3). One seed fewer is drawn than there are, which makes the variance of their mean unbiased (McCarthy & Snowden
1985). Three seeds say little about a spread, and intervals are too narrow where seeds differ much: of simulated equal
models (25 queries, three seeds) a 95 % interval misses zero 5 times in 100 when seeds do not differ, 9 times when they
differ half as much as queries do, 14 times when as much.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike, NDArray

from distill.evaluate.significance import Clusters
from distill.resampling import CHUNK, CONFIDENCE, group_draws, percentile_interval


@dataclasses.dataclass(frozen=True)
class Values:
    """One value a group (nDCG, recall) of one model and seed."""

    groups: NDArray[np.int64]  # [G]
    values: NDArray[np.float64]  # [G]

    def estimate(self) -> float:
        return float(self.values.mean())

    def resampled(self, counts: NDArray[np.float64]) -> NDArray[np.float64]:
        """The figure for each draw [R], groups counted as in `counts` [R, G]; NaN where a draw holds no group."""
        with np.errstate(invalid="ignore"):
            return counts @ self.values / counts.sum(axis=1)

    def paired(self, other: Values | Pairs) -> bool:
        return isinstance(other, Values) and np.array_equal(self.groups, other.groups)

    @property
    def group_ids(self) -> NDArray[np.int64]:
        return self.groups


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Scored pairs of one model and seed, whose figure is the AUC pooled over all of them; arrays [N]."""

    groups: NDArray[np.int64]
    labels: NDArray[np.bool_]
    scores: NDArray[np.float64]

    def estimate(self) -> float:
        clusters = Clusters(self.groups, self.labels)
        return float(clusters.auc(np.ones((1, clusters.number)), self.scores)[0])

    def resampled(self, counts: NDArray[np.float64]) -> NDArray[np.float64]:
        """The AUC for each draw [R], groups counted as in `counts` [R, G]; NaN where a draw holds one class."""
        clusters = Clusters(self.groups, self.labels)
        blocks = np.array_split(counts, max(1, counts.shape[0] * self.labels.size // CHUNK))
        return np.concatenate([clusters.auc(block, self.scores) for block in blocks])

    def paired(self, other: Values | Pairs) -> bool:
        return (
            isinstance(other, Pairs)
            and np.array_equal(self.groups, other.groups)
            and np.array_equal(self.labels, other.labels)
        )

    @property
    def group_ids(self) -> NDArray[np.int64]:
        return np.unique(self.groups)


Sample = Values | Pairs


@dataclasses.dataclass(frozen=True)
class Resampled:
    """A model on one metric: its figure on each seed, and on each draw of the groups."""

    samples: tuple[Sample, ...]  # one a seed
    estimates: NDArray[np.float64]  # [S]
    draws: NDArray[np.float64]  # [R, S]
    shared_groups: bool


@dataclasses.dataclass(frozen=True)
class Contrast:
    """A difference between models, averaged over seeds; bounds and p are NaN where they cannot be had."""

    estimate: float
    ci_low: float  # 95 %, of this comparison alone
    ci_high: float
    p: float  # two-sided, of "no difference" on these seeds
    by_seed: tuple[float, ...]
    draws: NDArray[np.float64]  # [R], of the bootstrap


def resample(samples: Sequence[Sample], *, shared_groups: bool, resamples: int, seed: int = 0) -> Resampled:
    """Draws groups with replacement; the same draws for the same groups, so that models can be compared.

    Args:
      samples: one a seed, none empty.
      shared_groups: an id is the same group on every seed. One that a seed lacks (its judge graded no pair of that
        listing, say) is drawn for the others alone: drawn apart, three seeds would pass for thrice as many queries.

    Raises:
      ValueError: no sample, or one without a group.
    """
    if not samples or any(not sample.group_ids.size for sample in samples):
        raise ValueError("samples: give one a seed, each with at least one group")
    ids = [sample.group_ids for sample in samples]
    every = np.unique(np.concatenate(ids))
    counts = np.concatenate(list(group_draws(every.size, resamples, (seed, 0)))) if shared_groups else None
    columns = []
    for number, sample in enumerate(samples):
        if counts is not None:
            own = counts[:, np.searchsorted(every, ids[number])]
        else:
            own = np.concatenate(list(group_draws(ids[number].size, resamples, (seed, number))))
        columns.append(sample.resampled(own))
    estimates = np.array([sample.estimate() for sample in samples])
    return Resampled(tuple(samples), estimates, np.stack(columns, axis=1), shared_groups)


def interval(model: Resampled, seed: int = 0) -> tuple[float, float]:
    """The 95 % percentile interval of a model's figure; NaN when a seed has one group alone."""
    if min(sample.group_ids.size for sample in model.samples) < 2:
        return math.nan, math.nan
    return percentile_interval(_over_seeds(model.draws, model.estimates, seed))


def contrast(
    first: Resampled,
    second: Resampled,
    *,
    factor: float = 1.0,
    than: Sequence[Resampled] = (),
    seed: int = 0,
) -> Contrast:
    """Compares two models seed by seed on the same groups: first − factor · second.

    With `than`, two more models, two such differences are compared, first − factor · second − (than[0] − than[1]):
    what one change is worth here more than there (an interaction).

    p for one value a group: under "no difference" each group's difference, averaged over the seeds that share it, could
    as well have the other sign; the share of sign patterns that give at least so large a mean (Smucker, Allan &
    Carterette 2007). For a pooled AUC, which is no mean over groups: twice the smaller share of the bootstrap's
    differences on either side of zero, counted with the observed one, so never 0. Both describe these training runs on
    other queries; only the interval speaks of other seeds.

    Raises:
      ValueError: the models were measured on different groups or pairs.
    """
    terms = [(1.0, first), (-factor, second)]
    if than:
        terms += zip((-1.0, 1.0), than, strict=True)
    for _, other in terms[1:]:
        if len(first.samples) != len(other.samples) or not all(
            a.paired(b) for a, b in zip(first.samples, other.samples, strict=True)
        ):
            raise ValueError("the models were measured on different queries or pairs, so they cannot be compared")
    by_seed = np.sum([weight * one.estimates for weight, one in terms], axis=0)
    raw = np.sum([weight * one.draws for weight, one in terms], axis=0)
    draws = _over_seeds(raw, by_seed, seed)
    estimate = float(by_seed.mean())
    if min(sample.group_ids.size for sample in first.samples) < 2:
        return Contrast(estimate, math.nan, math.nan, math.nan, tuple(by_seed), draws)
    low, high = percentile_interval(draws)
    if not math.isfinite(low):  # an AUC of one class
        p = math.nan
    elif isinstance(first.samples[0], Values):
        p = _sign_flips(terms, seed)
    else:
        p = _tail(raw.mean(axis=1))
    return Contrast(estimate, low, high, p, tuple(by_seed.tolist()), draws)


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """p-values adjusted for their number by Holm's step-down method (1979); NaN stays NaN and is not counted."""
    p = np.asarray(p_values, np.float64)
    adjusted = np.full(p.shape, math.nan)
    tested = np.flatnonzero(np.isfinite(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    steps = (order.size - np.arange(order.size)) * p[order]
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return adjusted


def simultaneous(contrasts: Sequence[Contrast]) -> list[tuple[float, float]]:
    """95 % intervals that hold together: with 95 % confidence every one of them covers its difference.

    estimate ± c · standard error, c the 95 % quantile over draws of the largest |deviation| / standard error
    (single-step max-t: Westfall & Young 1993). A difference that never varies gets an interval of
    no width; NaN where there is none.
    """
    deviations, errors = [], []
    for one in contrasts:
        usable = np.isfinite(one.ci_low)
        error = float(np.nanstd(one.draws)) if usable else math.nan
        errors.append(error)
        if usable and error > 0:
            deviations.append(np.abs(np.nan_to_num(one.draws - one.estimate)) / error)
    critical = float(np.quantile(np.max(deviations, axis=0), CONFIDENCE)) if deviations else 0.0
    return [(one.estimate - critical * error, one.estimate + critical * error) for one, error in zip(contrasts, errors)]


def _over_seeds(draws: NDArray[np.float64], estimates: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """The mean over seeds in each draw [R], with the spread between seeds that the groups do not explain."""
    pooled, seeds = draws.mean(axis=1), estimates.size
    spread = float(estimates.var(ddof=1)) if seeds > 1 else 0.0
    if not spread > 0:
        return pooled
    explained = float(np.nanvar(draws - pooled[:, None], axis=0).mean()) * seeds / (seeds - 1)
    share = max(0.0, 1 - explained / spread)
    rng = np.random.default_rng((seed, 1, seeds))
    weights = rng.multinomial(seeds - 1, np.full(seeds, 1 / seeds), size=len(draws)) / (seeds - 1)
    return pooled + math.sqrt(share) * (weights @ estimates - estimates.mean())


def _sign_flips(terms: Sequence[tuple[float, Resampled]], seed: int) -> float:
    first = terms[0][1]
    changes = []
    for number in range(len(first.samples)):
        own = [(weight, one.samples[number]) for weight, one in terms]
        changes.append(np.sum([weight * sample.values for weight, sample in own if isinstance(sample, Values)], axis=0))
    shares = np.concatenate([each / each.size for each in changes])  # their sum is the estimate, but for a constant
    if first.shared_groups:
        groups = np.concatenate([sample.group_ids for sample in first.samples])
        shares = np.bincount(np.unique(groups, return_inverse=True)[1], shares)
    if not shares.any():
        return 1.0
    resamples = 10 * len(first.draws)
    result = scipy.stats.permutation_test(
        (shares,),
        np.sum,
        permutation_type="samples",
        n_resamples=resamples,
        batch=max(1, CHUNK // shares.size),
        vectorized=True,
        rng=np.random.default_rng(seed),
    )
    return float(result.pvalue)


def _tail(draws: NDArray[np.float64]) -> float:
    draws = draws[np.isfinite(draws)]
    smaller = min(np.count_nonzero(draws <= 0), np.count_nonzero(draws >= 0))
    return min(1.0, 2 * (1 + int(smaller)) / (1 + draws.size))
