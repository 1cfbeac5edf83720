"""Two runs' recommendations side by side: how many listings change, and how."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


@dataclasses.dataclass(frozen=True)
class ListingChange:
    """One listing whose first keyphrases changed, each run's best first."""

    item_id: str
    kept: tuple[str, ...]  # in the candidate's order
    gone: tuple[str, ...]
    come: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class RecommendationChange:
    """Over the listings that both runs know."""

    listings: int
    top: int  # keyphrases of a listing that are compared
    changed_share: float  # of the listings: another set of first keyphrases
    reordered_share: float  # of the listings: the same set in another order
    overlap: float  # mean over listings with any: shared keyphrases over all of either run (Jaccard)
    emptied: int  # listings that the baseline has keyphrases for and the candidate has none
    filled: int  # the reverse
    baseline_per_listing: float  # mean number of those first keyphrases
    candidate_per_listing: float
    examples: tuple[ListingChange, ...]  # those of least overlap


def compare_recommendations(
    baseline: pa.Table, candidate: pa.Table, items: list[str], *, top: int = 10, examples: int = 5
) -> RecommendationChange:
    """Compares the first `top` keyphrases of each listing.

    Args:
      baseline, candidate: item_id, keyphrase, rank (from 1); a listing without a row has no recommendation.
      items: ids of the listings that both runs recommended for; other rows are left out.

    Raises:
      ValueError: `items` is empty.
    """
    if not items:
        raise ValueError("the two runs recommend for no listing in common; compare runs of one data set")
    size = len(items)
    runs = [_firsts(table, items, top) for table in (baseline, candidate)]
    texts = pa.concat_arrays([one["keyphrase"].combine_chunks() for one in runs]).dictionary_encode()
    phrases = np.split(texts.indices.to_numpy(), [len(runs[0])])
    rows, ranks = ([one[name].to_numpy() for one in runs] for name in ("row", "rank"))
    keys = [row.astype(np.int64) * max(1, len(texts.dictionary)) + phrase for row, phrase in zip(rows, phrases)]
    _, *at = np.intersect1d(keys[0], keys[1], return_indices=True)
    counts = [np.bincount(row, minlength=size) for row in rows]
    both = np.bincount(rows[0][at[0]], minlength=size)
    union = counts[0] + counts[1] - both
    changed = union != both
    moved = np.bincount(rows[0][at[0][ranks[0][at[0]] != ranks[1][at[1]]]], minlength=size) > 0
    overlap = np.divide(both, union, out=np.ones(size), where=union > 0)
    gone, come = (~np.isin(keys[run], keys[1 - run]) for run in (0, 1))

    def named(chosen: np.ndarray) -> tuple[str, ...]:
        return tuple(texts.dictionary.take(pa.array(chosen)).to_pylist())

    shown = []
    for row in [row for row in np.argsort(overlap, kind="stable").tolist() if changed[row]][:examples]:
        before, after = (rows[run] == row for run in (0, 1))
        kept, left, entered = phrases[1][after & ~come], phrases[0][before & gone], phrases[1][after & come]
        shown.append(ListingChange(items[row], named(kept), named(left), named(entered)))
    return RecommendationChange(
        listings=size,
        top=top,
        changed_share=float(changed.mean()),
        reordered_share=float((moved & ~changed).mean()),
        overlap=float(overlap[union > 0].mean()) if union.any() else 1.0,
        emptied=int(((counts[0] > 0) & (counts[1] == 0)).sum()),
        filled=int(((counts[0] == 0) & (counts[1] > 0)).sum()),
        baseline_per_listing=float(counts[0].mean()),
        candidate_per_listing=float(counts[1].mean()),
        examples=tuple(shown),
    )


def _firsts(table: pa.Table, items: list[str], top: int) -> pa.Table:
    """Row of `items`, keyphrase and rank of the first keyphrases of those listings, best first within a listing."""
    row = pc.index_in(table["item_id"], pa.array(items, pa.string()))
    found = pa.table({"row": row, "keyphrase": table["keyphrase"].cast(pa.string()), "rank": table["rank"]})
    found = found.filter(pc.and_(pc.is_valid(found["row"]), pc.less_equal(found["rank"], top)))
    return found.sort_by([("row", "ascending"), ("rank", "ascending")])
