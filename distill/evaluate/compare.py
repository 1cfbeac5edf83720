"""Two runs on one metric: is the candidate worse than the baseline beyond what chance explains?

Both runs store what their figures are made of (`distill.evaluate.samples`). Where they measured the same queries or
listings, these are drawn together, so that what makes a query hard cancels out; where too few are shared, each run's
own are drawn apart and the interval is wider (`distill.resampling`).
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from distill.evaluate.comparisons import Pairs, Sample, Values
from distill.resampling import group_draws, percentile_interval

_SHARED = 0.5  # of the smaller run's groups: with fewer in common, comparing these alone would say little of either run

Finding = Literal["regressed", "improved", "no clear change", "untested"]


@dataclasses.dataclass(frozen=True)
class Change:
    """Candidate minus baseline on one metric; higher is better, as it is for every metric that has samples."""

    name: str
    baseline: float  # over the groups that are compared
    candidate: float
    difference: float
    ci_low: float  # 95 %; NaN where there are fewer than two groups, or a draw has no value
    ci_high: float
    paired: bool  # by group
    groups: int  # that are compared: those in common, or, unpaired, the fewer of the two runs'
    baseline_groups: int  # that the run measured
    candidate_groups: int
    same_pairs: bool | None  # of a pooled AUC, whether both runs scored the same labelled pairs; else None
    finding: Finding


def compare(
    name: str,
    baseline: Sample,
    candidate: Sample,
    *,
    tolerance: float = 0.0,
    resamples: int = 1000,
    seed: int = 0,
) -> Change:
    """Compares two runs' samples of one metric.

    The finding is `regressed` where even the upper end of the interval is below -`tolerance`, `improved` where the
    lower end is above `tolerance`, `untested` where there is no interval.

    Args:
      baseline, candidate: `groups` may be row numbers or names, of the same meaning in both.

    Raises:
      ValueError: one run has a value a group and the other pooled pairs, or a run measured no group.
    """
    if type(baseline) is not type(candidate):
        raise ValueError(f"{name}: one run has a value a group, the other scored pairs; run evaluate again in both")
    before, after = baseline.group_ids, candidate.group_ids
    if not before.size or not after.size:
        raise ValueError(f"{name}: the {'candidate' if before.size else 'baseline'} measured no query or listing")
    shared, fewer = np.intersect1d(before, after), min(before.size, after.size)
    paired = shared.size >= max(2, math.ceil(_SHARED * fewer))
    sides: list[Sample] = [_within(one, shared) for one in (baseline, candidate)] if paired else [baseline, candidate]
    draws = [_draws(sides[0], resamples, seed), _draws(sides[1], resamples, seed if paired else seed + 1)]
    estimates = [one.estimate() for one in sides]
    groups = shared.size if paired else fewer
    low, high = percentile_interval(draws[1] - draws[0]) if groups > 1 else (math.nan, math.nan)
    finding: Finding = "no clear change"
    if not math.isfinite(low):
        finding = "untested"
    elif high < -tolerance:
        finding = "regressed"
    elif low > tolerance:
        finding = "improved"
    same = sides[0].paired(sides[1]) if isinstance(baseline, Pairs) else None
    return Change(
        name=name,
        baseline=estimates[0],
        candidate=estimates[1],
        difference=estimates[1] - estimates[0],
        ci_low=low,
        ci_high=high,
        paired=paired,
        groups=int(groups),
        baseline_groups=int(before.size),
        candidate_groups=int(after.size),
        same_pairs=same,
        finding=finding,
    )


def _within(sample: Sample, groups: NDArray) -> Sample:
    """The rows of `groups`, in an order that depends on what they are alone, so that two runs' draws match."""
    inside = np.isin(sample.groups, groups)
    if isinstance(sample, Values):
        order = np.argsort(sample.groups[inside], kind="stable")
        return Values(sample.groups[inside][order], sample.values[inside][order])
    return Pairs(sample.groups[inside], sample.labels[inside], sample.scores[inside])


def _draws(sample: Sample, resamples: int, seed: int) -> NDArray[np.float64]:
    """The figure of each draw of the groups with replacement, [R]; equal groups see equal draws."""
    draws = group_draws(sample.group_ids.size, resamples, seed)
    return np.concatenate([sample.resampled(counts) for counts in draws])
