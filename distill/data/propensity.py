"""How clicks mislead, in numbers: position bias from an aggregated log, and weights against it.

The position-based model: a result shown at rank r is clicked with probability θ(r) · γ, where θ is the chance that a
buyer examines the rank and γ that an examined result is clicked. Only ratios of θ are identified, so rank 1 has 1.

Source: Wang et al., "Position Bias Estimation for Unbiased Learning to Rank in Personal Search" (WSDM 2018).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import fmin_l_bfgs_b, minimize_scalar

from distill.data.schema import DataError

_STEEPEST = 5.0  # of η; a fit there has seen next to no click below rank 1
_DEVIATION = 0.5  # standard deviation, a priori, of log θ(r) from the curve


@dataclasses.dataclass(frozen=True)
class PositionBias:
    """Chance of examination by rank, relative to rank 1.

    Attributes:
      propensity: [R] float64; entry r - 1 is rank r's. 1 at rank 1.
      eta: of the curve rank^-η that fits best; 0 is no bias.
      eta_error: its standard error, clusters being what was held equally attractive.
      basis: what identified it: `pairs`, `strata` or `keyphrases`, see `estimate_position_bias`.
      clicks: that informed it: of pairs, or groups of pairs, that were shown at two ranks or more.
    """

    propensity: np.ndarray
    eta: float
    eta_error: float
    basis: str
    clicks: int


def estimate_position_bias(
    item: ArrayLike,
    keyphrase: ArrayLike,
    impressions: ArrayLike,
    clicks: ArrayLike,
    position: ArrayLike,
    *,
    strata: ArrayLike | None = None,
    ranks: int = 50,
    least_clicks: int = 100,
) -> PositionBias:
    """Position bias from rows that count impressions and clicks of a pair at a (mean) position.

    What such rows can identify depends on what may be held equal while the rank changes. The first of these with
    enough clicks is taken:
      `pairs`: a pair in several rows at different ranks is its own control; sound wherever the model holds.
      `strata`: with `strata` given, pairs of one keyphrase and stratum. As sound as the strata measure attractiveness:
        where a better result stands higher within a stratum, the estimate is too steep.
      `keyphrases`: all pairs of a keyphrase. The ranking's own merit is then taken for position bias: the better the
        search engine, the further the estimate is too steep. A table of one row a pair, as `prepare` makes it, gives
        no more by itself.
    On the embedded marketplace log θ is off by 0.02 (root mean square, ranks 1 to 10), 0.1 with the true grades as
    strata, and 0.24. No basis tells examination from trust in high ranks, and a mean of different positions flattens
    the estimate.

    θ is estimated from how the clicks of a group divide, given their sum: Poisson with an effect of each group, which
    is consistent if the mean is right, however few impressions a group has (Wooldridge 1999, "Distribution-free
    estimation of some nonlinear panel data models"). It is the model of Wang et al. with an effect of each group in
    place of their regression on features, so it needs no EM. First comes the curve rank^-η; then, by `pairs` or
    `strata`, each rank's deviation from it, shrunk where clicks are few. By `keyphrases` the curve stands alone, since
    a deviation would be the ranking's.

    Args:
      item, keyphrase: [N] integers.
      impressions, clicks: [N] counts, clicks at most impressions.
      position: [N] mean rank, 1 the top; rows with NaN are left out.
      strata: [N] integers, such as a judge's grades or bands of the assistant's score; rows below 0 are left out.
      ranks: length R of the result; deeper rows count as rank R.
      least_clicks: of groups shown at different ranks, that a basis must have.

    Raises:
      ValueError: lengths differ, a count is negative or NaN, or clicks exceed impressions.
      DataError: no row has a position, a position is below 1, too few clicks stand at different ranks, or none of them
        stands below the highest one.
    """
    arrays = [np.asarray(a) for a in (item, keyphrase, impressions, clicks, position)]
    shapes = [a.shape for a in arrays] + ([np.shape(strata)] if strata is not None else [])
    if len(set(shapes)) != 1 or arrays[0].ndim != 1:
        raise ValueError(f"item, keyphrase, impressions, clicks, position, strata: shapes {shapes}; pass [N] all")
    if ranks < 2 or least_clicks < 1:
        raise ValueError(f"ranks {ranks}, least_clicks {least_clicks}: pass at least 2 and 1")
    shown, clicked, where = (a.astype(np.float64) for a in arrays[2:])
    wrong = ~((clicked >= 0) & (clicked <= shown) & np.isfinite(shown))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ValueError(
            f"rows with impossible counts: {wrong.sum()}; the first is {row}: {clicked[row]:g} clicks of "
            f"{shown[row]:g} impressions; leave them out or repair them"
        )
    usable = np.isfinite(where) & (shown > 0)
    if not usable.any():
        raise DataError(
            "clicks: no row has impressions and a position, so position bias cannot be estimated; give the table a "
            "column `position`, the mean rank at which the pair was shown, or train without inverse propensity weights"
        )
    if where[usable].min() < 1:
        raise DataError(
            f"clicks: position {where[usable].min():g}; ranks count from 1, so add 1 to those that count from 0"
        )
    rank = np.clip(np.rint(where[usable]), 1, ranks).astype(np.int64)
    pair = _codes(arrays[0][usable], arrays[1][usable])
    bases = {"pairs": (pair, np.ones(len(rank), bool))}
    if strata is not None:
        stratum = np.asarray(strata)[usable]
        bases["strata"] = _codes(arrays[1][usable], stratum), stratum >= 0
    bases["keyphrases"] = _codes(arrays[1][usable]), np.ones(len(rank), bool)
    clicks_of = {}
    for basis, (group, chosen) in bases.items():
        log = _Log(group[chosen], rank[chosen], shown[usable][chosen], clicked[usable][chosen], ranks)
        clicks_of[basis] = int(log.clicks.sum())
        if clicks_of[basis] >= least_clicks:
            eta, error = log.curve()
            logs = -eta * np.log(np.arange(1, ranks + 1))
            if basis != "keyphrases":
                logs = log.deviations(logs)
            return PositionBias(np.exp(logs - logs[0]), eta, error, basis, clicks_of[basis])
    raise DataError(
        f"clicks: {clicks_of['keyphrases']} clicks on keyphrases whose results stood at different ranks; estimating "
        f"position bias takes {least_clicks}. Use a longer log, or train without inverse propensity weights"
    )


class _Log:
    """Cells [M] of (group, rank), of groups with a click that were shown at two ranks or more."""

    def __init__(self, group: np.ndarray, rank: np.ndarray, shown: np.ndarray, clicked: np.ndarray, ranks: int):
        cells, cell = np.unique(group * (ranks + 1) + rank, return_inverse=True)
        shown, clicked = (np.bincount(cell, values, len(cells)) for values in (shown, clicked))
        group, rank = np.divmod(cells, ranks + 1)
        _, group, size = np.unique(group, return_inverse=True, return_counts=True)
        total = np.bincount(group, clicked)
        kept = (size[group] > 1) & (total[group] > 0)
        _, self._starts, self._group = np.unique(group[kept], return_index=True, return_inverse=True)
        self._rank, self._ranks, self._log_shown = rank[kept], ranks, np.log(shown[kept])
        self.clicks = clicked[kept]
        self._total = np.bincount(self._group, self.clicks)

    def _shares(self, logs: np.ndarray) -> tuple[np.ndarray, float]:
        """Expected share [M] of a group's clicks in each of its cells under log θ [R], and the log likelihood."""
        values = self._log_shown + logs[self._rank - 1]
        values -= np.maximum.reduceat(values, self._starts)[self._group]
        log_shares = values - np.log(np.add.reduceat(np.exp(values), self._starts))[self._group]
        return np.exp(log_shares), float(self.clicks @ log_shares)

    def curve(self) -> tuple[float, float]:
        """η of rank^-η and its standard error, robust to clicks of a group that hang together."""
        depth = np.log(np.arange(1, self._ranks + 1))

        def loss(eta: float) -> float:
            return -self._shares(-eta * depth)[1]

        limits, accuracy = (-_STEEPEST, _STEEPEST), {"xatol": 1e-6}
        fit: Any = minimize_scalar(loss, bounds=limits, method="bounded", options=accuracy)
        eta = float(fit.x)
        if abs(eta) > 0.99 * _STEEPEST:
            raise DataError(
                f"clicks: rank^-η fits them best at η = {eta:.1f} or beyond, as all stand at one end of the ranking; a "
                "bias so large cannot be weighted away. Check the column `position`"
            )
        shares, _ = self._shares(-eta * depth)
        at = depth[self._rank - 1]
        mean = np.bincount(self._group, shares * at, len(self._total))
        information = float(self._total @ (np.bincount(self._group, shares * at**2, len(self._total)) - mean**2))
        score = np.bincount(self._group, self.clicks * at, len(self._total)) - self._total * mean
        return eta, float(np.sqrt(np.sum(score**2)) / information)

    def deviations(self, logs: np.ndarray) -> np.ndarray:
        """log θ [R], near the given one where clicks are few."""

        def loss(change: np.ndarray) -> tuple[float, np.ndarray]:
            shares, likelihood = self._shares(logs + change)
            surplus = np.bincount(self._rank - 1, self._total[self._group] * shares - self.clicks, self._ranks)
            penalty = change / _DEVIATION**2
            return 0.5 * float(change @ penalty) - likelihood, surplus + penalty

        return logs + fmin_l_bfgs_b(loss, np.zeros(self._ranks))[0]


def _codes(*columns: np.ndarray) -> np.ndarray:
    """int64 [N]: the same number for the same combination."""
    code = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        _, distinct = np.unique(column, return_inverse=True)
        code = code * (int(distinct.max(initial=0)) + 1) + distinct
    return code


def inverse_propensity_weights(position: ArrayLike, propensity: ArrayLike, *, clip: float = 10.0) -> np.ndarray:
    """Weights of clicks against position bias: 1 / propensity, at most `clip`, divided by their mean.

    The mean of 1 makes the weighted mean of a loss self-normalised; clipping trades bias for variance.

    Source: Swaminathan and Joachims, "The Self-Normalized Estimator for Counterfactual Learning" (NeurIPS 2015).

    Args:
      position: [N] mean ranks of clicked pairs, 1 the top.
      propensity: [R] by rank, of `PositionBias`; deeper positions take the last.
      clip: largest 1 / propensity, at least 1.

    Returns:
      [N] float32.

    Raises:
      ValueError: a position is NaN or below 1, a propensity is not positive, or clip is below 1.
    """
    where, chance = np.asarray(position, np.float64), np.asarray(propensity, np.float64)
    if not (where >= 1).all():
        bad = ~(where >= 1)
        raise ValueError(f"position: {bad.sum()} of {where.size} are NaN or below 1; leave out rows without a position")
    if chance.ndim != 1 or not chance.size or not (np.isfinite(chance) & (chance > 0)).all():
        raise ValueError(f"propensity: {chance}; pass [R] positive numbers")
    if not clip >= 1:
        raise ValueError(f"clip: {clip}; pass at least 1")
    if not where.size:
        return np.zeros(0, np.float32)
    rank = np.clip(np.rint(where), 1, len(chance)).astype(np.int64)
    weights = np.minimum(1 / chance[rank - 1], clip)
    return (weights / weights.mean()).astype(np.float32)
