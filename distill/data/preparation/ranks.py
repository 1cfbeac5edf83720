"""Counts of pairs by the rank they were shown at: what tells position bias from merit, kept in bounded memory.

A pair that was shown at two ranks or more is its own control. Of a long log a sample of such pairs is enough; which
pairs it holds depends on their names' hash alone, so neither the order of the rows nor who adds them up makes a
difference.
"""

from __future__ import annotations

import numpy as np

from distill.data.hashing import uniform
from distill.data.propensity import PositionBias, estimate_position_bias

CELLS = 1_000_000  # pairs × ranks in the sample, at most
LEAST_CLICKS = 100
RANKS = 50  # deeper ones count as this
_STREAM = 7
Cells = dict[str, np.ndarray]  # item, keyphrase, position int32 and impressions, clicks float64, all [M]


class RankSample:
    """Cells (pair × rank) of a share of the pairs, which is halved whenever they are more than `limit`."""

    def __init__(self, limit: int = CELLS):
        self.limit, self.share = limit, 1.0
        self._parts: list[Cells] = []
        self._size = 0

    def add(self, cells: Cells) -> None:
        """Adds all cells of some pairs; a pair comes once only."""
        self._parts.append(self._chosen(cells))
        self._size += len(self._parts[-1]["item"])
        self._shrink()

    def merge(self, other: RankSample) -> None:
        """Adds a sample of other pairs."""
        self.share = min(self.share, other.share)
        self._parts = [self._chosen(part) for part in (*self._parts, *other._parts)]
        self._size = sum(len(part["item"]) for part in self._parts)
        self._shrink()

    def remove(self, item: np.ndarray, keyphrase: np.ndarray) -> None:
        """Takes out all cells of these pairs, two integer arrays of one length."""
        pairs = _pair(item, keyphrase)
        kept = [~np.isin(_pair(part["item"], part["keyphrase"]), pairs) for part in self._parts]
        self._parts = [{name: column[mask] for name, column in part.items()} for part, mask in zip(self._parts, kept)]
        self._size = sum(len(part["item"]) for part in self._parts)

    def _chosen(self, cells: Cells) -> Cells:
        if self.share == 1.0:
            return cells
        mask = uniform(0, _STREAM, cells["item"], cells["keyphrase"]) < self.share
        return {name: column[mask] for name, column in cells.items()}

    def _shrink(self) -> None:
        while self._size > self.limit:
            self.share /= 2
            self._parts = [self._chosen(part) for part in self._parts]
            self._size = sum(len(part["item"]) for part in self._parts)

    def cells(self) -> Cells:
        """All cells, by item, keyphrase and rank."""
        names = ("item", "keyphrase", "position", "impressions", "clicks")
        if not self._parts:
            return {name: np.zeros(0) for name in names}
        joined = {name: np.concatenate([part[name] for part in self._parts]) for name in names}
        order = np.lexsort([joined[name] for name in ("position", "keyphrase", "item")])
        return {name: column[order] for name, column in joined.items()}

    def position_bias(self) -> PositionBias | None:
        """The estimate from pairs shown at different ranks; None where these have too few clicks.

        Raises:
          DataError: the positions cannot be ranks, or the clicks stand at one end of the ranking.
        """
        cells = self.cells()
        if cells["clicks"].sum() < LEAST_CLICKS:
            return None
        names = ("item", "keyphrase", "impressions", "clicks", "position")
        return estimate_position_bias(*(cells[name] for name in names), ranks=RANKS, least_clicks=LEAST_CLICKS)


def _pair(item: np.ndarray, keyphrase: np.ndarray) -> np.ndarray:
    """int64: one number for each pair."""
    return item.astype(np.int64) << 32 | keyphrase.astype(np.int64)


def rank_cells(
    item: np.ndarray, keyphrase: np.ndarray, position: np.ndarray, impressions: np.ndarray, clicks: np.ndarray
) -> Cells:
    """The cells of pairs that were clicked and stood at two ranks or more, from rows in the order of pairs.

    Rows with a mean in place of a rank, or with none, are left out, and so are pairs with more clicks at a rank than
    impressions there: their impressions are not all in the log.
    """
    usable = np.isfinite(position) & (position == np.rint(position)) & ((impressions > 0) | (clicks > 0))
    columns = {
        "item": item[usable],
        "keyphrase": keyphrase[usable],
        "position": np.minimum(position[usable], RANKS).astype(np.int32),
        "impressions": impressions[usable],
        "clicks": clicks[usable],
    }
    if not usable.any():
        return columns
    order = np.lexsort([columns["position"], columns["keyphrase"], columns["item"]])
    columns = {name: column[order] for name, column in columns.items()}
    new_pair = np.concatenate([[True], (np.diff(columns["item"]) != 0) | (np.diff(columns["keyphrase"]) != 0)])
    starts = np.flatnonzero(new_pair | np.concatenate([[True], np.diff(columns["position"]) != 0]))
    cells = {name: columns[name][starts] for name in ("item", "keyphrase", "position")}
    cells |= {name: np.add.reduceat(columns[name], starts) for name in ("impressions", "clicks")}
    pair = np.cumsum(new_pair[starts]) - 1
    ranks, total = np.bincount(pair), np.bincount(pair, cells["clicks"])
    torn = np.bincount(pair, cells["clicks"] > cells["impressions"])
    kept = ((ranks > 1) & (total > 0) & (torn == 0))[pair]
    return {name: column[kept] for name, column in cells.items()}
