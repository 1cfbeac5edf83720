"""The bootstrap over groups (queries, listings): draws with replacement, and percentile intervals of what they give.

Pairs of one query or listing are not independent, so groups are drawn, never pairs (Efron & Tibshirani 1993, "An
Introduction to the Bootstrap", ch. 13 for percentile intervals).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
CHUNK = 2_000_000  # numbers of a block held at once


def group_draws(
    groups: int, resamples: int, seed: int | Sequence[int], *, numbers: int = 0
) -> Iterator[NDArray[np.float64]]:
    """How often each group is drawn, in blocks [r, `groups`] of `resamples` rows in all.

    The same seed and number of groups give the same rows, whatever the blocks, so that two models can be measured on
    the same draws.

    Args:
      groups: at least 1.
      numbers: that a row of the block makes the caller hold, where these are more than `groups`.
    """
    rng, chances = np.random.default_rng(seed), np.full(groups, 1 / groups)
    block = max(1, CHUNK // max(groups, numbers))
    for start in range(0, resamples, block):
        yield rng.multinomial(groups, chances, size=min(block, resamples - start)).astype(np.float64)


def percentile_interval(draws: NDArray[np.float64]) -> tuple[float, float]:
    """The 95 % interval of the finite values of `draws` [R]; NaN where fewer than half are, or there is none.

    An AUC, for one, has no value in a draw that holds one class only.
    """
    defined = draws[np.isfinite(draws)]
    if not defined.size or 2 * defined.size < draws.size:
        return math.nan, math.nan
    low, high = np.quantile(defined, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]).tolist()
    return low, high
