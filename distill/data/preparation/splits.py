"""The train/holdout split of items, by clusters of twin titles, so that no held-out listing has a twin in training.

A cluster's side is told by a hash of its oldest item and by nothing else, so another day of logs moves no item, and
new listings move those few whose clusters they join. With an earlier run's split none moves: what it knew stays where
it was, and new twins of that follow it.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components

from distill.data.preparation.leakage import similar_pairs
from distill.data.preparation.token_sets import folded_sets
from distill.data.schema import DataError

UNKNOWN, TRAIN, HOLDOUT = -1, 0, 1


class Twins:
    """Which titles are alike: titles of the same words, and pairs of token Jaccard ≥ threshold.

    Titles without a single word each stand alone: nothing says that they are alike.
    """

    def __init__(self, titles: Sequence[str], threshold: float):
        sets = folded_sets(titles, {})
        first = sets.distinct()
        rows = np.flatnonzero(first == np.arange(len(first)))
        self.count = len(rows)  # distinct titles
        self.of_title = np.searchsorted(rows, first)  # int64 [N]: distinct title of each
        self._i, self._j = similar_pairs(sets.take(rows), None, threshold)

    def clusters(self, among: np.ndarray | None = None) -> np.ndarray:
        """Cluster number [distinct titles]: connected components, of the titles in the bool mask `among` alone."""
        i, j = self._i, self._j
        if among is not None:
            kept = among[i] & among[j]
            i, j = i[kept], j[kept]
        graph = sp.coo_matrix((np.ones(len(i), bool), (i, j)), (self.count, self.count))
        return connected_components(graph, directed=False)[1]

    def near(self, mask: np.ndarray) -> np.ndarray:
        """bool [distinct titles]: those in the mask and those with a twin in it."""
        out = mask.copy()
        out[self._i[mask[self._j]]] = True
        out[self._j[mask[self._i]]] = True
        return out

    def distinct_with(self, items: np.ndarray) -> np.ndarray:
        """bool [distinct titles]: those of one of the items in the bool mask [N]."""
        return np.bincount(self.of_title[items], minlength=self.count) > 0

    def across(self, holdout: np.ndarray) -> int:
        """How many held-out items have a twin title among the training items."""
        return int(self.near(self.distinct_with(~holdout))[self.of_title[holdout]].sum())


@dataclasses.dataclass
class Split:
    """Where each item belongs, and what an earlier split had to do with it."""

    holdout: np.ndarray  # bool [N]
    kept: int = 0  # items that an earlier run knew
    followed: int = 0  # new items that went where their twins were
    torn: int = 0  # of those: with twins on both sides, and so held out


def find_earlier(previous: str) -> Path | None:
    """The `data` folder of an earlier run that the setting `data.previous` names; None where it is empty.

    Raises:
      DataError: there are no items in it that `prepare` wrote.
    """
    if not previous:
        return None
    path, place = Path(previous) / "items.parquet", f"config.data.previous={previous!r}"
    if not path.exists():
        raise DataError(f"{place}: holds no items.parquet; name the `data` folder of a run")
    try:
        schema = pq.read_schema(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{place}: its items.parquet is damaged ({error}); name the `data` folder of a run") from error
    if not {"item_id", "split", "text"} <= {*schema.names}:  # a data directory has no texts
        raise DataError(f"{place}: its items.parquet is none that a run prepared; name the `data` folder of a run")
    return Path(previous)


def earlier_split(previous: Path, item_ids: pa.ChunkedArray) -> np.ndarray:
    """int8 [N]: the side on which an earlier run put each item, or `UNKNOWN`."""
    earlier = pq.read_table(previous / "items.parquet", columns=["item_id", "split"])
    side = np.where(pc.equal(earlier["split"], "holdout").to_numpy(), HOLDOUT, TRAIN).astype(np.int8)
    found = pc.index_in(item_ids.combine_chunks(), earlier["item_id"].combine_chunks())
    at = found.fill_null(-1).to_numpy()
    return np.where(at >= 0, side[at], UNKNOWN).astype(np.int8)


def choose_holdout(item_ids: Sequence[str], twins: Twins, share: float, previous: np.ndarray | None = None) -> Split:
    """The items held out, whole clusters of twin titles at a time.

    About `share` of the clusters is held out: those whose oldest item (shortest, then smallest id) hashes below it.

    Args:
      item_ids: [N].
      twins: of their titles.
      share: 0–1.
      previous: int8 [N], `TRAIN` or `HOLDOUT` where an earlier run knew the item, else `UNKNOWN`. An item that is new
        follows its known twins, whom it may also meet through other new items; held out where these disagree.
    """
    known = np.full(len(item_ids), UNKNOWN, np.int8) if previous is None else previous
    new = known == UNKNOWN
    new_titles = twins.distinct_with(new)
    # A title that both known and new items bear ties the new to the known, not its known twins to each other.
    sides = []
    for side in (TRAIN, HOLDOUT):
        titles = twins.distinct_with(known == side)
        sides.append(twins.near(titles) & new_titles)
    labels = twins.clusters(new_titles)
    count = int(labels.max(initial=-1)) + 1
    beside = [np.bincount(labels[side], minlength=count) > 0 for side in sides]
    chosen = np.zeros(count, bool)
    for label, item_id in _oldest(item_ids, labels[twins.of_title], new).items():
        chosen[label] = _hash(item_id) < share
    tied = beside[TRAIN] | beside[HOLDOUT]
    decided = np.where(tied, beside[HOLDOUT], chosen)
    label = labels[twins.of_title]
    return Split(
        np.where(new, decided[label], known == HOLDOUT),
        kept=int((~new).sum()),
        followed=int((new & tied[label]).sum()),
        torn=int((new & (beside[TRAIN] & beside[HOLDOUT])[label]).sum()),
    )


def _oldest(item_ids: Sequence[str], labels: np.ndarray, new: np.ndarray) -> dict[int, str]:
    """The representative of each cluster: ids that count up grow, so the shortest, then smallest one is the oldest."""
    oldest: dict[int, str] = {}
    for row in np.flatnonzero(new).tolist():
        item_id, label = item_ids[row], int(labels[row])
        best = oldest.get(label)
        if best is None or (len(item_id), item_id) < (len(best), best):
            oldest[label] = item_id
    return oldest


def _hash(item_id: str) -> float:
    """Uniform on [0, 1)."""
    return int.from_bytes(hashlib.blake2b(item_id.encode(), digest_size=8).digest(), "big") / 2**64
