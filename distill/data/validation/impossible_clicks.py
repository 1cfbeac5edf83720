"""Pairs clicked more often than an audience clicks: bots, scripts, a seller's own clicks.

A pair is impossible when its clicks are improbable under both of these, after Bonferroni's correction for all pairs of
the table (so under the model the chance that an honest table loses a single pair is at most 1 %):
  the ceiling  Binomial(impressions, `possible_ctr`): more clicks than a pair would get of which that share of
               impressions is clicked, which no audience exceeds;
  the table    Beta-Binomial(impressions, a, b) of its position: a pair's rate is drawn from how rates are spread among
               the table's own pairs there (maximum likelihood over all pairs but those beyond the ceiling).
A strong pair is far above its position's mean rate but below the ceiling, so it stays; one that is improbable for the
table alone is `suspicious`: counted and shown, never dropped. Where more than `_NORMAL` of a position's pairs lie
beyond the ceiling, that is how this table counts, and nothing is dropped there.

Source of the Beta-Binomial: Skellam, "A probability distribution derived from the binomial distribution by regarding
the probability of success as variable between the sets of trials" (1948).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np
from scipy.optimize import minimize
from scipy.special import betaln, gammaln
from scipy.stats import binom

FAMILY_ERROR = 0.01  # chance that an honest table loses a pair
_EDGES = np.array([*np.arange(1.5, 11), 15.5, 20.5, 30.5, 50.5])  # between bands of positions; the last is unknown
_BAND_PAIRS = 500  # a band with fewer is joined with the next deeper one
_NORMAL = 0.05
_LARGEST = 10_000_000  # impressions of a row that are summed over term by term
_TERMS = 4_000_000  # of tail sums at once

_BITS = 28  # of a count within a code; a row shown more often is not tested
Tally = tuple[np.ndarray, np.ndarray]  # sorted distinct codes of (band, impressions, clicks), pairs that have them
Rows = tuple[np.ndarray, np.ndarray, np.ndarray]  # impressions, clicks, position (NaN: unknown)


def bands(position: np.ndarray) -> np.ndarray:
    """int64 [N]: ranks 1 to 10 each, four bands below, and one for unknown positions."""
    return np.where(np.isnan(position), len(_EDGES) + 1, np.searchsorted(_EDGES, position))


def _codes(rows: Rows) -> np.ndarray:
    """int64 [N]: band, impressions and clicks in one number; -1 for rows that are not tested."""
    impressions, clicks, position = rows
    tested = (impressions > 0) & (impressions < 2**_BITS)
    n, k = (np.where(tested, column, 0).astype(np.int64) for column in (impressions, clicks))
    return np.where(tested, (bands(position) << 2 * _BITS) | (n << _BITS) | k, -1)


def tally(chunks: Iterable[Rows]) -> Tally:
    """Counts the distinct (band, impressions, clicks) of all chunks; rows never shown are left out."""
    codes, counts = np.zeros(0, np.int64), np.zeros(0, np.int64)
    for rows in chunks:
        fresh, times = np.unique(_codes(rows), return_counts=True)
        fresh, times = fresh[fresh >= 0], times[fresh >= 0]
        codes, inverse = np.unique(np.concatenate([codes, fresh]), return_inverse=True)
        counts = np.bincount(inverse, np.concatenate([counts, times]), minlength=len(codes)).astype(np.int64)
    return codes, counts


def _joined(band: np.ndarray, counts: np.ndarray) -> Iterator[np.ndarray]:
    """Masks over the tally: bands, small ones joined with the next; unknown positions stay by themselves."""
    unknown = band == len(_EDGES) + 1
    waiting = np.zeros(len(band), bool)
    groups: list[np.ndarray] = []
    for number in range(len(_EDGES) + 1):
        waiting = waiting | (band == number)
        if counts[waiting].sum() >= _BAND_PAIRS:
            groups.append(waiting)
            waiting = np.zeros(len(band), bool)
    if waiting.any() and groups:
        groups[-1] = groups[-1] | waiting
    elif waiting.any():
        groups.append(waiting)
    yield from (group for group in [*groups, unknown] if group.any())


def _counted(values: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct values and how many pairs have each."""
    distinct, inverse = np.unique(values, return_inverse=True)
    return distinct, np.bincount(inverse, counts)


def fit_rates(impressions: np.ndarray, clicks: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    """(a, b) of the Beta distribution of click rates, by maximum likelihood of the Beta-Binomial.

    Args:
      impressions, clicks, counts: [N]; `counts` pairs have `clicks` of `impressions`. One click at least in all.
    """
    mean = min(0.999, max(1e-6, float((counts * clicks).sum() / (counts * impressions).sum())))
    total = counts.sum()
    # The likelihood is a sum over clicks, over impressions without one and over impressions, each by itself.
    clicked, unclicked, shown = (_counted(v, counts) for v in (clicks, impressions - clicks, impressions))

    def loss(theta: np.ndarray) -> float:
        a, b = np.exp(theta)
        sums = [np.sum(n * gammaln(v + c)) for (v, n), c in ((clicked, a), (unclicked, b), (shown, a + b))]
        return float(betaln(a, b) - (sums[0] + sums[1] - sums[2]) / total)

    bounds = [(np.log(1e-4), np.log(1e6))] * 2
    starts = [np.log([mean * size, (1 - mean) * size]) for size in (2.0, 50.0)]
    best = min((minimize(loss, start, method="L-BFGS-B", bounds=bounds) for start in starts), key=lambda r: r.fun)
    return float(np.exp(best.x[0])), float(np.exp(best.x[1]))


def table_tail(impressions: np.ndarray, clicks: np.ndarray, a: float, b: float) -> np.ndarray:
    """P(X ≥ clicks) of the Beta-Binomial, float64 [N], summed term by term."""
    out = np.zeros(len(clicks))
    terms = impressions - clicks + 1
    start = 0
    while start < len(clicks):
        stop = start + max(1, int(np.searchsorted(np.cumsum(terms[start:]), _TERMS)))
        n, least, length = impressions[start:stop], clicks[start:stop], terms[start:stop]
        row = np.repeat(np.arange(len(n)), length)
        k = np.repeat(least, length) + np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
        n = n[row]
        # log C(n, k) = −log(n + 1) − log B(n − k + 1, k + 1)
        log = betaln(k + a, n - k + b) - betaln(a, b) - np.log1p(n) - betaln(n - k + 1, k + 1)
        out[start:stop] = np.bincount(row, np.exp(log), minlength=stop - start)
        start = stop
    return np.minimum(out, 1.0)


@dataclasses.dataclass(frozen=True)
class ClickScreen:
    """What `screen` learnt from a table's tally: which (band, impressions, clicks) are impossible or suspicious.

    Attributes:
      impossible, suspicious: sorted codes as `_codes` makes them.
      pairs: that were tested.
      unusual: pairs beyond the ceiling that stay, being too common at their position.
    """

    impossible: np.ndarray
    suspicious: np.ndarray
    pairs: int
    unusual: int

    def flags(self, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
        """Two bool arrays [N]: impossible rows, suspicious rows."""
        codes = _codes(rows)
        return np.isin(codes, self.impossible), np.isin(codes, self.suspicious)


def screen(counted: Tally, possible_ctr: float) -> ClickScreen:
    """Tests every distinct (band, impressions, clicks) of a table; `possible_ctr` in (0, 1) is the ceiling."""
    codes, counts = counted
    band, impressions, clicks = codes >> 2 * _BITS, (codes >> _BITS) & (2**_BITS - 1), codes & (2**_BITS - 1)
    pairs = int(counts.sum())
    impossible, suspicious = np.zeros(len(band), bool), np.zeros(len(band), bool)
    unusual = 0
    limit = FAMILY_ERROR / max(1, pairs)
    with np.errstate(under="ignore"):
        beyond = binom.sf(clicks - 1, impressions, possible_ctr) < limit
    for group in _joined(band, counts):
        beyond_here = int(counts[group & beyond].sum())
        if beyond_here > _NORMAL * counts[group].sum():
            unusual += beyond_here
            continue
        usual = group & ~beyond
        if not (counts * clicks)[usual].any():
            impossible |= group & beyond  # nobody else clicked at all
            continue
        a, b = fit_rates(impressions[usual], clicks[usual], counts[usual])
        likely = clicks <= 3 * impressions * a / (a + b)
        tested = np.flatnonzero(group & ~likely & (impressions <= _LARGEST))
        rare = tested[table_tail(impressions[tested], clicks[tested], a, b) < limit]
        impossible[rare] = beyond[rare]
        suspicious[rare] = ~beyond[rare]
    return ClickScreen(codes[impossible], codes[suspicious], pairs, unusual)
