"""Which pairs to ask a judge for, when there are far more candidates than money.

Pairs are ordered by hashed numbers that belong to the pair, not to its place among the candidates: the order of the
input rows changes nothing, and candidates that come or go leave most of the choice, and so most of the paid
judgements, as they were.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_flow

from distill.config import StrataConfig
from distill.data.hashing import uniform

SOURCES = ("clicked", "shown", "lexical", "dense", "never_shown", "random")
_ITEM, _PAIR, _DRAW = range(3)  # streams of hashed numbers

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

STRATA = tuple(field.name for field in dataclasses.fields(StrataConfig) if not field.name.endswith("_ranks"))
_NEAR = np.array([STRATA.index(f"{s}_near" if s in ("lexical", "dense") else s) for s in SOURCES])
_FAR = np.array([STRATA.index(f"{s}_far" if s in ("lexical", "dense") else s) for s in SOURCES])


class CandidateRows(NamedTuple):
    """One row for each source that holds a pair, in any order; [N] int64 each."""

    item: Ints
    keyphrase: Ints
    source: Ints  # index into SOURCES
    rank: Ints  # from 0 within the source; 0 where a source does not rank


@dataclasses.dataclass(frozen=True)
class Selection:
    """Distinct pairs, sorted by item and then keyphrase."""

    item: Ints  # [N]
    keyphrase: Ints  # [N]
    stratum: Ints  # [N] index into STRATA
    budget: int  # pairs wanted; more than N where the candidates or the cap do not give them
    wanted: dict[str, int]  # stratum → pairs by its share
    taken: dict[str, int]  # stratum → pairs selected, with what it got from strata that ran dry

    @property
    def dry(self) -> list[str]:
        """Strata with fewer pairs than their share; the others got the rest."""
        return [name for name in STRATA if self.taken[name] < self.wanted[name]]


def candidate_rows(
    items: ArrayLike,
    *,
    lexical: ArrayLike,
    dense: ArrayLike,
    shown: tuple[ArrayLike, ArrayLike, ArrayLike] | None,
    allowed: ArrayLike,
    random_per_item: int,
    seed: int,
) -> CandidateRows:
    """Rows for `select_pairs` from what retrieval and the click log give.

    Args:
      items: int [I] distinct item indices.
      lexical, dense: int [I, k] keyphrase indices, best first; -1 means none.
      shown: (item [P], keyphrase [P], clicked bool [P]) of the pairs with an impression; None where there is no log,
        and then no pair counts as never shown.
      allowed: bool [K].
      random_per_item: uniform draws from the allowed keyphrases, with replacement.
      seed: of those draws.

    Raises:
      ValueError: a shape does not fit, or random_per_item < 0.
    """
    items, allowed = np.asarray(items, np.int64), np.asarray(allowed, bool)
    if random_per_item < 0:
        raise ValueError(f"random_per_item = {random_per_item}: must be at least 0")
    parts: list[tuple[Ints, Ints, Ints, Ints]] = []

    def add(name: str, item: Ints, keyphrase: Ints, rank: Ints | None = None) -> None:
        rank = np.zeros(len(item), np.int64) if rank is None else rank
        parts.append((item, keyphrase, np.full(len(item), SOURCES.index(name)), rank))

    for name, found in (("lexical", lexical), ("dense", dense)):
        found = np.asarray(found, np.int64)
        if found.ndim != 2 or len(found) != len(items):
            raise ValueError(f"{name}: shape {found.shape}; pass one row for each of {len(items):,} items")
        row, rank = np.nonzero(found >= 0)
        add(name, items[row], found[row, rank], rank)
    if shown is not None:
        item, keyphrase, clicked = np.asarray(shown[0], np.int64), np.asarray(shown[1], np.int64), np.asarray(shown[2])
        if not item.shape == keyphrase.shape == clicked.shape or item.ndim != 1:
            raise ValueError(f"shown: shapes {item.shape}, {keyphrase.shape}, {clicked.shape}; pass [P] for each")
        clicked = clicked.astype(bool)
        near = _distinct(np.concatenate([one * len(allowed) + two for one, two, *_ in parts]))
        unseen = near[~np.isin(near, _distinct(item * len(allowed) + keyphrase), assume_unique=True)]
        wanted = np.isin(item, items)
        add("clicked", item[wanted & clicked], keyphrase[wanted & clicked])
        add("shown", item[wanted & ~clicked], keyphrase[wanted & ~clicked])
        add("never_shown", *np.divmod(unseen, len(allowed)))
    pool = np.flatnonzero(allowed)
    if random_per_item and len(pool):
        item, draw = np.repeat(items, random_per_item), np.tile(np.arange(random_per_item), len(items))
        drawn = np.floor(uniform(seed, _DRAW, item, draw) * len(pool)).astype(np.int64)
        add("random", item, pool[np.minimum(drawn, len(pool) - 1)])
    return CandidateRows(*(np.concatenate(columns) for columns in zip(*parts)))


def select_pairs(
    candidates: CandidateRows,
    *,
    allowed: ArrayLike,
    holdout: ArrayLike,
    strata: StrataConfig,
    budget: int,
    most_per_item: int,
    seed: int,
    known: tuple[ArrayLike, ArrayLike] | None = None,
) -> Selection:
    """Spends a budget of judgements over the strata, evenly over the items of each.

    Every stratum takes its share in turn, always from the items that have fewest pairs so far, hashed numbers deciding
    among these and among an item's pairs; so a budget below the number of items samples items without replacement. What
    a dry stratum leaves is split among the others by their shares. Held-out and training items get the budget in
    proportion to how many of each have a candidate. What is `known` already comes first, within the shares: a larger
    budget then adds to what a smaller one paid for.

    Args:
      candidates: rows; the same pair may come from several sources.
      allowed: bool [K] keyphrases that may be asked for: no human query, no near-duplicate of one.
      holdout: bool [I].
      strata: shares, relative to their sum; ranks below `near_ranks` (counted from 0) are near, the others far.
      budget: pairs wanted.
      most_per_item: cap on one item's pairs.
      seed: of the hashed numbers.
      known: (item [P], keyphrase [P]) of pairs that the judge has graded before; they cost nothing again.

    Returns:
      Selection; fewer pairs than the budget only where no further candidate fits under the cap.

    Raises:
      ValueError: shapes differ, an index points outside, a share is negative or all are 0, or a number is too small.
    """
    allowed, holdout = np.asarray(allowed, bool), np.asarray(holdout, bool)
    shares = _shares(strata)
    for name, value in (("budget", budget), ("most_per_item", most_per_item)):
        if value < 1:
            raise ValueError(f"{name} = {value}: must be at least 1")
    item, keyphrase, source, rank = _checked(candidates, len(holdout), len(allowed))
    stratum = np.where(rank < strata.near_ranks, _NEAR[source], _FAR[source])
    usable = allowed[keyphrase] & (shares[stratum] > 0)
    rows = _distinct(((item * len(allowed) + keyphrase) * len(STRATA) + stratum)[usable])
    pair_key, stratum = np.divmod(rows, len(STRATA))
    first = np.diff(pair_key, prepend=-1) > 0
    pair = np.cumsum(first) - 1
    pair_item, pair_keyphrase = np.divmod(pair_key[first], max(1, len(allowed)))
    item = pair_item[pair]
    free = np.zeros(len(pair_item), bool)
    if known is not None:
        free = np.isin(pair_key[first], np.asarray(known[0], np.int64) * len(allowed) + np.asarray(known[1], np.int64))
    pair_priority = uniform(seed, _PAIR, pair_item, pair_keyphrase)
    priority = pair_priority[pair]
    membership = np.bitwise_or.reduceat(1 << stratum, np.flatnonzero(first)) if len(pair) else np.zeros(0, np.int64)
    turn = uniform(seed, _ITEM, np.arange(len(holdout)))  # of items with equally many pairs
    load = np.zeros(len(holdout), np.int64)
    stratum_of_pair = np.full(len(pair_item), -1)

    def take(rows: Ints, quota: int, into: int) -> Ints:
        """Selects up to `quota` pairs of these rows, grouped by item; returns the rows that may serve later."""
        rows = rows[(stratum_of_pair[pair[rows]] < 0) & (load[item[rows]] < most_per_item)]
        level = load[item[rows]] + place_in_run(item[rows])
        order = np.where(level < most_per_item, level + turn[item[rows]], np.inf)
        first = np.argpartition(order, quota)[:quota] if quota < len(rows) else np.arange(len(rows))
        chosen = rows[first[np.isfinite(order[first])]]
        stratum_of_pair[pair[chosen]] = into
        load[:] += np.bincount(item[chosen], minlength=len(load))
        taken[into] += len(chosen)
        return rows

    def settle(pairs: Ints, quotas: Ints) -> None:
        """Selects as many of these known pairs as fit into the quotas, each in a stratum that it is in."""
        pairs = pairs[np.argsort(pair_item[pairs] + pair_priority[pairs], kind="stable")]
        pairs = pairs[place_in_run(pair_item[pairs]) < most_per_item]
        for kind, number in _fit(membership[pairs], quotas).items():
            alike = pairs[membership[pairs] == kind]
            alike = alike[np.argsort(pair_priority[alike], kind="stable")]
            stratum_of_pair[alike[: number.sum()]] = np.repeat(np.arange(len(STRATA)), number)
        chosen = pairs[stratum_of_pair[pairs] >= 0]
        load[:] += np.bincount(pair_item[chosen], minlength=len(load))
        taken[:] += np.bincount(stratum_of_pair[chosen], minlength=len(STRATA))

    wanted, taken = np.zeros(len(STRATA), np.int64), np.zeros(len(STRATA), np.int64)
    most = np.minimum(np.bincount(pair_item, minlength=len(holdout)), most_per_item)
    for part, left in zip((False, True), _split_by_holdout(budget, most, holdout)):
        of_part = holdout[item] == part
        waiting: dict[int, Ints] = {}
        for one in np.flatnonzero(shares):
            chosen = np.flatnonzero(of_part & (stratum == one))
            # An item index plus a number in (0, 1) sorts by item, then by that number.
            waiting[int(one)] = chosen[np.argsort(item[chosen] + priority[chosen], kind="stable")]
        before, quotas = taken.copy(), _apportion(left, shares)
        wanted += quotas
        settle(np.flatnonzero(free & (holdout[pair_item] == part)), quotas)
        left -= int((taken - before).sum())
        while left and waiting:
            open_strata = np.isin(np.arange(len(STRATA)), list(waiting))
            missing = np.where(open_strata, np.maximum(quotas - (taken - before), 0), 0)
            turns = _apportion(left, missing if missing.any() else np.where(open_strata, shares, 0))
            for one in list(waiting):
                reached = taken[one] + turns[one]
                waiting[one] = take(waiting[one], int(turns[one]), one)
                left -= int(taken[one] - reached + turns[one])
                if taken[one] < reached:
                    del waiting[one]
    kept = stratum_of_pair >= 0
    return Selection(
        pair_item[kept],
        pair_keyphrase[kept],
        stratum_of_pair[kept],
        budget,
        dict(zip(STRATA, wanted.tolist())),
        dict(zip(STRATA, taken.tolist())),
    )


def _fit(membership: Ints, quotas: Ints) -> dict[int, Ints]:
    """How many pairs of each kind to count in each stratum, so that most find a place: a maximum flow.

    Args:
      membership: [P] bit s is set where the pair is in stratum s.
      quotas: [S] places.

    Returns:
      membership → pairs [S] of that kind in each stratum.
    """
    kinds, number = np.unique(membership, return_counts=True)
    strata, source, sink = len(quotas), len(quotas) + len(kinds), len(quotas) + len(kinds) + 1
    is_in = kinds[:, None] >> np.arange(strata) & 1
    capacity = np.zeros((sink + 1, sink + 1), np.int32)
    capacity[source, strata:source] = number
    capacity[strata:source, :strata] = is_in * number[:, None]
    capacity[:strata, sink] = quotas
    flow = maximum_flow(csr_array(capacity), source, sink).flow.toarray()[strata:source, :strata]
    return {int(kind): row.astype(np.int64) for kind, row in zip(kinds, flow)}


def _shares(strata: StrataConfig) -> NDArray[np.float64]:
    """[S] in the order of STRATA."""
    shares = np.array([getattr(strata, name) for name in STRATA], np.float64)
    for name, share in zip(STRATA, shares.tolist()):
        if not (math.isfinite(share) and share >= 0):
            raise ValueError(f"strata.{name} = {share}: a share must be a number of at least 0")
    if not shares.any():
        raise ValueError("strata: every share is 0; give at least one stratum a positive share")
    if strata.near_ranks < 1:
        raise ValueError(f"strata.near_ranks = {strata.near_ranks}: must be at least 1")
    return shares


def _checked(candidates: CandidateRows, items: int, keyphrases: int) -> CandidateRows:
    rows = CandidateRows(*(np.asarray(column, np.int64) for column in candidates))
    if any(column.shape != rows.item.shape or column.ndim != 1 for column in rows):
        raise ValueError(f"candidates: columns of shapes {[column.shape for column in rows]}; pass [N] for each")
    for name, limit in (("item", items), ("keyphrase", keyphrases), ("source", len(SOURCES)), ("rank", None)):
        check_range(name, getattr(rows, name), limit)
    if items * keyphrases * len(STRATA) >= 2**63:
        raise ValueError(f"candidates: {items:,} items x {keyphrases:,} keyphrases are too many to number their pairs")
    return rows


def check_range(name: str, index: Ints, limit: int | None) -> None:
    if index.size and (index.min() < 0 or (limit is not None and index.max() >= limit)):
        expected = "must be at least 0" if limit is None else f"must lie in 0–{limit - 1:,}"
        raise ValueError(f"{name}: holds {index.min():,} to {index.max():,}; {expected}")


def _apportion(total: int, weights: NDArray[np.float64]) -> Ints:
    """`total` split by weights into whole numbers: largest remainders."""
    exact = total * weights / weights.sum()
    parts = np.floor(exact).astype(np.int64)
    parts[np.argsort(parts - exact, kind="stable")[: total - parts.sum()]] += 1
    return parts


def _split_by_holdout(budget: int, most: Ints, holdout: Mask) -> tuple[int, int]:
    """(training, held-out) parts of a budget by the items that have a pair; what one cannot use, the other gets."""
    parts = ~holdout, holdout
    room = [int(most[part].sum()) for part in parts]
    if not sum(room):
        return budget, 0
    items = np.array([np.count_nonzero(most[part]) for part in parts], np.float64)
    if budget >= sum(room):
        surplus = _apportion(budget - sum(room), items).tolist()
        return room[0] + surplus[0], room[1] + surplus[1]
    held_out = min(max(int(_apportion(budget, items)[1]), budget - room[0]), room[1])
    return budget - held_out, held_out


def _distinct(values: Ints) -> Ints:
    """Values of at least 0, sorted, each once; `np.unique` hashes first, which takes far longer on millions."""
    values = np.sort(values)
    return values[np.diff(values, prepend=-1) != 0]


def place_in_run(values: Ints) -> Ints:
    """0, 1, 2 … within each run of equal values."""
    place = np.arange(len(values))
    starts = np.where(np.diff(values, prepend=-1) != 0, place, 0)
    return place - np.maximum.accumulate(starts)
