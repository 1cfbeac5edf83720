"""A figure by group, worst first: which categories a model serves badly, as far as their size lets one say.

Neither the estimate nor a bound of its interval ranks groups well: both put the smallest first, the one by chance, the
other by width. So groups are ordered by their estimate shrunk towards the mean of all, the more the fewer members they
have and the less groups differ at all (empirical Bayes: Efron & Morris 1975; variance components of the one-way random
effects model by analysis of variance: Searle, Casella & McCulloch 1992, ch. 3). The estimated variance between groups
is above zero half of the time when they do not differ at all, so the F test of the same analysis says whether they do.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike, NDArray

from distill.evaluate.metrics import require_scores
from distill.evaluate.significance import Interval, bootstrap_mean

_SIGNIFICANT = 0.05


@dataclasses.dataclass(frozen=True)
class Group:
    """A group's mean with its 95 % interval, and that mean shrunk."""

    name: str
    size: int
    figure: Interval
    shrunk: float
    small: bool  # its interval is wide, and bootstrapping so few values makes it too narrow still


@dataclasses.dataclass(frozen=True)
class GroupTable:
    """The worst groups of a figure, and what is known of the others."""

    overall: float  # mean over all values
    worst: Sequence[Group]
    ranked: int  # groups that were large enough to be ranked; `worst` are the first of them
    least: int  # values that a group needed for it
    small: int  # values below which a ranked group is marked as small
    pooled_groups: int  # smaller groups, which are one together
    pooled: Group | None
    spread: float  # estimated standard deviation between groups beyond chance
    p: float  # of the ranked groups' means differing so much by chance; NaN where there are fewer than two

    @property
    def differ(self) -> bool:
        """Whether the ranked groups differ by more than chance explains, at 5 %."""
        return self.p < _SIGNIFICANT


def worst_groups(
    values: ArrayLike,
    names: Sequence[str],
    *,
    least: int = 10,
    small: int = 30,
    most: int = 10,
    resamples: int = 1000,
    seed: int = 0,
) -> GroupTable:
    """The groups of the lowest shrunk mean.

    Args:
      values: float [N], one a member (an item's nDCG), higher is better.
      names: the group of each, N of them.
      least: members below which groups are poured together and not ranked.
      small: members below which a ranked group is marked as small.
      most: groups that are given back.
      resamples, seed: of the bootstrap.

    Raises:
      ValueError: a value is not finite, or there are more or fewer names than values.
    """
    values = require_scores(values, "values by group")
    if len(names) != values.size:
        raise ValueError(f"names: {len(names)} for {values.size} values; give each value the name of its group")
    labels, member, sizes = np.unique(np.asarray(names, object), return_inverse=True, return_counts=True)
    ranked = np.flatnonzero(sizes >= least)
    means = np.bincount(member, values, len(labels)) / np.maximum(1, sizes)
    squares = np.bincount(member, (values - means[member]) ** 2, len(labels))
    within = float(squares[ranked].sum())
    shrunk, spread = shrunken_means(means[ranked], sizes[ranked], within)
    # Ties of the shrunk mean, as where chance explains all, go by the estimate.
    order = np.lexsort((means[ranked], shrunk))[:most]

    def group(name: str, rows: NDArray[np.bool_], shrunk: float) -> Group:
        chosen = values[rows]
        return Group(name, chosen.size, bootstrap_mean(chosen, resamples, seed), shrunk, chosen.size < small)

    rest = sizes[member] < least
    return GroupTable(
        overall=float(values.mean()) if values.size else math.nan,
        worst=[group(str(labels[ranked[at]]), member == ranked[at], float(shrunk[at])) for at in order],
        ranked=len(ranked),
        least=least,
        small=small,
        pooled_groups=len(labels) - len(ranked),
        pooled=group("", rest, math.nan) if rest.any() else None,
        spread=spread,
        p=chance_of_difference(means[ranked], sizes[ranked], within),
    )


def chance_of_difference(means: NDArray[np.float64], sizes: NDArray[np.int64], within: float) -> float:
    """p of the one-way analysis of variance (Fisher's F test) that all groups have one mean; NaN where it has no test.

    Args as in `shrunken_means`.
    """
    groups, total = len(means), int(sizes.sum())
    if groups < 2 or total <= groups:
        return math.nan
    centre = float(sizes @ means) / total
    between = float(sizes @ (means - centre) ** 2) / (groups - 1)
    if not within > 0:
        return 0.0 if between > 0 else 1.0
    return float(scipy.stats.f.sf(between * (total - groups) / within, groups - 1, total - groups))


def shrunken_means(
    means: NDArray[np.float64], sizes: NDArray[np.int64], within: float
) -> tuple[NDArray[np.float64], float]:
    """Best linear unbiased predictions of the groups' means, and the standard deviation between groups.

    With σ² the variance within groups and τ² that between them, a mean m of n values becomes
    μ + τ²/(τ² + σ²/n)·(m − μ), where μ weighs the means by 1/(τ² + σ²/n).

    Args:
      means: float [G].
      sizes: int [G].
      within: sum of squared deviations of all values from their group's mean.
    """
    total = int(sizes.sum())
    if len(means) < 2 or total <= len(means):
        return means.copy(), 0.0
    noise = within / (total - len(means))
    centre = float(sizes @ means) / total
    between = float(sizes @ (means - centre) ** 2)
    effective = total - float(sizes @ sizes) / total
    signal = max(0.0, (between - (len(means) - 1) * noise) / effective)
    variance = signal + noise / sizes
    if not variance.all():  # no noise: the means are exact
        return means.copy(), math.sqrt(signal)
    centre = float((means / variance).sum() / (1 / variance).sum())
    return centre + signal / variance * (means - centre), math.sqrt(signal)
