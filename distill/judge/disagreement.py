"""The active round: pairs on which two opinions differ, assistant against judge or one judge against another."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from distill.data.hashing import uniform
from distill.judge.selection import check_range, place_in_run

_TIES, _CHECK = 8, 9  # streams of hashed numbers, apart from those of `select_pairs`


@dataclasses.dataclass(frozen=True)
class Disagreements:
    """Distinct pairs, sorted by item and then keyphrase."""

    item: NDArray[np.int64]  # [N]
    keyphrase: NDArray[np.int64]  # [N]
    disagreement: NDArray[np.float64]  # [N] distance of the two opinions' ranks, 0–1
    check: NDArray[np.bool_]  # [N] drawn at random from all pairs, whatever their disagreement


def select_disagreements(
    item: ArrayLike,
    keyphrase: ArrayLike,
    first: ArrayLike,
    second: ArrayLike,
    *,
    allowed: ArrayLike,
    budget: int,
    most_per_item: int,
    random_share: float,
    seed: int,
) -> Disagreements:
    """The pairs on which two opinions differ most, and a random check beside them.

    Opinions of different scales (a probability, an expected grade) are compared by their ranks among the allowed pairs,
    ties averaged. The random share is drawn first and from all of them, so that it stays a fair sample.

    Args:
      item, keyphrase: int [N] distinct pairs.
      first, second: float [N] opinions, higher is more relevant.
      allowed: bool [K].
      budget: pairs.
      most_per_item: cap on one item's pairs.
      random_share: of the budget, in 0–1.
      seed: of the draw and of the order of ties.

    Raises:
      ValueError: lengths differ, a pair comes twice, an opinion is missing or an index or a number out of range.
    """
    allowed = np.asarray(allowed, bool)
    item, keyphrase = np.asarray(item, np.int64), np.asarray(keyphrase, np.int64)
    opinions = [np.asarray(one, np.float64) for one in (first, second)]
    if any(one.shape != item.shape for one in (keyphrase, *opinions)) or item.ndim != 1:
        shapes = ", ".join(str(one.shape) for one in (item, keyphrase, *opinions))
        raise ValueError(f"select_disagreements: item, keyphrase and opinions have shapes {shapes}; pass [N] for each")
    missing = int(np.count_nonzero(~np.isfinite(opinions).all(0)))
    if missing:
        raise ValueError(f"select_disagreements: {missing:,} pairs lack an opinion; leave those pairs out")
    if budget < 0 or most_per_item < 1 or not 0 <= random_share <= 1:
        raise ValueError(
            f"budget = {budget}, most_per_item = {most_per_item}, random_share = {random_share}: "
            "must be at least 0, at least 1, and in 0–1"
        )
    check_range("item", item, None)
    check_range("keyphrase", keyphrase, len(allowed))
    order = np.lexsort((keyphrase, item))
    order = order[allowed[keyphrase[order]]]
    item, keyphrase = item[order], keyphrase[order]
    if np.any((np.diff(item) == 0) & (np.diff(keyphrase) == 0)):
        raise ValueError("select_disagreements: a pair comes twice; pass each pair once")
    ranks = [rankdata(one[order]) for one in opinions]
    disagreement = np.abs(ranks[0] - ranks[1]) / max(1, len(order) - 1)

    taken = np.zeros(len(order), bool)
    load = np.zeros(item.max(initial=-1) + 1, np.int64)

    def take(urgency: NDArray[np.float64], stream: int, quota: int) -> None:
        """Most urgent first, under the cap; hashed numbers decide among equals."""
        hashed = uniform(seed, stream, item, keyphrase)
        left = np.flatnonzero(~taken)
        ranked = left[np.lexsort((hashed[left], -urgency[left]))]
        by_item = np.argsort(item[ranked], kind="stable")
        fits = np.empty(len(ranked), bool)
        fits[by_item] = place_in_run(item[ranked[by_item]]) + load[item[ranked[by_item]]] < most_per_item
        chosen = ranked[fits][:quota]
        taken[chosen] = True
        load[:] += np.bincount(item[chosen], minlength=len(load))

    check_pairs = round(random_share * budget)
    take(np.zeros(len(order)), _CHECK, check_pairs)
    check = taken.copy()
    take(disagreement, _TIES, budget - check_pairs)
    return Disagreements(item[taken], keyphrase[taken], disagreement[taken], check[taken])
