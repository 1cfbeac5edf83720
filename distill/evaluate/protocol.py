"""The evaluation protocol: what each source of keyphrases adds for a listing, and how much of that is relevant.

After LLMDistill4Ads (arXiv 2508.03628) and To Judge or not to Judge (2505.04209), clicks being no referee:

1. Each source offers its best K keyphrases for a sample of held-out listings.
2. Away goes what is blocked, what another source recommends already, and what repeats a better ranked keyphrase
   (word order, case, plurals). The rest is *new*.
3. Search relevance: what the search engine is known to reject cannot be shown and goes too. What its table does not
   speak of is unknown; it stays and is counted. The rest is *eligible*.
4. A judge reads the new pairs. What it has no grade for is unknown: neither relevant nor irrelevant.
5. Counted are relevant, eligible keyphrases per listing, those that only this source has, and those of the head.

Head and exclusive diversity are as in GraphEx (2409.03140). Every figure that depends on a judge names it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distill.evaluate.metric_table import MetricTable, figure_name
from distill.retrieval.dedupe import meanings

FATES = ("new", "already", "repeat", "blocked")
NEW, ALREADY, REPEAT, BLOCKED = range(len(FATES))
SEARCHED = (  # figures that no judge has a say in
    "offered_per_item",
    "new_per_item",
    "search_passed_per_item",
    "search_rejected_per_item",
    "search_unknown_per_item",
    "eligible_per_item",
)
JUDGED = (  # figures by a judge: in `metrics.json` with `_by_JUDGE`
    "relevant_per_item",
    "relevant_share",
    "exclusive_relevant_per_item",
    "head_relevant_per_item",
    "head_share",
    "align_both",
    "align_neither",
    "align_only_search",
    "align_only_judge",
)
UNDIRECTED = (  # figures of which more is neither better nor worse
    "offered_per_item",
    "search_rejected_per_item",
    "search_unknown_per_item",
    "align_neither",
    "align_only_search",
    "align_only_judge",
)
RECOMMEND = "recommend"  # in a source's place: the candidates of all sources of the stage of that name, together
COMPARED = ("relevant_per_item", "relevant_share", "exclusive_relevant_per_item", "head_relevant_per_item")

Pairs = tuple[NDArray[np.int64], NDArray[np.int64]]  # listing and keyphrase, [M] each
Values = dict[str, NDArray[np.float64]]  # figure → one value a listing [I], NaN where it is not defined


@dataclasses.dataclass(frozen=True)
class Pool:
    """The candidates of all sources, one row a source, listing and keyphrase, best first; arrays [N]."""

    sources: tuple[str, ...]
    listings: int
    source: NDArray[np.int64]  # row of `sources`
    listing: NDArray[np.int64]  # 0..listings-1
    keyphrase: NDArray[np.int64]
    meaning: NDArray[np.int64]  # equal for keyphrases that say the same
    fate: NDArray[np.int64]  # row of FATES
    exclusive: NDArray[np.bool_]  # no other source has a keyphrase of this meaning for the listing

    @property
    def new(self) -> NDArray[np.bool_]:
        return self.fate == NEW

    def of(self, source: str) -> NDArray[np.bool_]:
        """bool [N]: the rows of one source."""
        return self.source == self.sources.index(source)

    def per_listing(self, rows: NDArray[np.bool_]) -> NDArray[np.float64]:
        """How many of `rows`, bool [N], each listing has; [I]."""
        return np.bincount(self.listing[rows], minlength=self.listings).astype(np.float64)


def gather(
    offered: Mapping[str, ArrayLike],
    keyphrases: Sequence[str],
    recommended: Mapping[str, Pairs] | None = None,
    blocked: Pairs | None = None,
) -> Pool:
    """Decides each candidate's fate.

    A source's candidates are held against everything that the *other* sources of `recommended` hold, however far down.
    The rest of `offered` are rivals: they take nothing from each other, but share what is not `exclusive`.

    Args:
      offered: source → int [I, K] rows of `keyphrases`, best first, -1 where a list is shorter.
      keyphrases: all texts.
      recommended: source → what it recommends already, as (listing, keyphrase) pairs.
      blocked: (listing, keyphrase) pairs that must not be recommended; listing -1: for none.

    Raises:
      ValueError: no source, or lists for different numbers of listings.
    """
    recommended = recommended or {}
    found = {name: np.asarray(one, np.int64) for name, one in offered.items()}
    sizes = {len(one) for one in found.values()}
    if len(sizes) != 1:
        raise ValueError(f"offered: {len(found)} sources with lists for {sorted(sizes)} listings; give equal numbers")
    parts = [np.nonzero(one >= 0) for one in found.values()]
    source = np.repeat(np.arange(len(parts)), [len(listing) for listing, _ in parts])
    listing = np.concatenate([listing for listing, _ in parts])
    keyphrase = np.concatenate([one[at] for one, at in zip(found.values(), parts)])

    known, spelt = (
        np.unique(np.concatenate([keyphrase, *(pairs[1] for pairs in recommended.values())])),
        len(keyphrases),
    )
    same = np.full(spelt, -1)
    texts: list[str] = [keyphrases[int(row)] for row in known]
    same[known] = known[meanings(texts)]
    meaning = same[keyphrase]
    key = listing * spelt + meaning
    held = {name: np.unique(pairs[0] * spelt + same[pairs[1]]) for name, pairs in recommended.items()}

    fate = np.full(len(key), NEW)
    each = source * (max(sizes) + 1) * spelt + key  # the rows are in rank order within a source and listing
    stopped = _is_blocked(listing, keyphrase, spelt, blocked)
    usable = np.flatnonzero(~stopped)
    _, first = np.unique(each[usable], return_index=True)
    fate[np.setdiff1d(usable, usable[first], assume_unique=True)] = REPEAT
    for row, name in enumerate(found):
        others = [keys for other, keys in held.items() if other != name]
        if others:
            fate[(source == row) & np.isin(key, np.concatenate(others))] = ALREADY
    fate[stopped] = BLOCKED

    owned = [
        np.unique(np.append(key[usable[source[usable] == row]], held.get(name, np.zeros(0, np.int64))))
        for row, name in enumerate(found)
    ]
    owned += [keys for name, keys in held.items() if name not in found]
    keys, owners = np.unique(np.concatenate(owned).astype(np.int64), return_counts=True)
    alone = (fate == NEW) & np.isin(key, keys[owners == 1])
    return Pool(tuple(found), sizes.pop(), source, listing, keyphrase, meaning, fate, alone)


def searched_values(pool: Pool, source: str, search: NDArray[np.float64]) -> Values:
    """SEARCHED of one source; `search` [N]: 1 where the search engine passes a pair, 0 where not, NaN unknown."""
    own, new = pool.of(source), pool.of(source) & pool.new
    masks = (own, new, new & (search == 1), new & (search == 0), new & np.isnan(search), new & (search != 0))
    return {name: pool.per_listing(mask) for name, mask in zip(SEARCHED, masks)}


def judged_values(
    pool: Pool,
    source: str,
    search: NDArray[np.float64],
    relevant: NDArray[np.float64],
    head: NDArray[np.bool_] | None,
    volume_known: NDArray[np.bool_] | None = None,
) -> Values:
    """JUDGED of one source by one judge; without `head` no head figures.

    A count takes what is known to be relevant: where the judge does not know, it is a lower bound. A share is of the
    pairs that the judge knows. Alignment is over new pairs of which both search engine and judge speak.

    Args:
      search, relevant: float [N]: 1, 0, or NaN where unknown.
      head, volume_known: bool [K] by keyphrase.
    """
    own = pool.of(source) & pool.new
    eligible = own & (search != 0)
    good = eligible & (relevant == 1)
    counted = pool.per_listing(good)
    values = {
        "relevant_per_item": counted,
        "relevant_share": _share(counted, pool.per_listing(eligible & ~np.isnan(relevant))),
        "exclusive_relevant_per_item": pool.per_listing(good & pool.exclusive),
    }
    if head is not None:
        known = head | True if volume_known is None else volume_known
        first = pool.per_listing(good & head[pool.keyphrase])
        values["head_relevant_per_item"] = first
        values["head_share"] = _share(first, pool.per_listing(good & known[pool.keyphrase]))
    both = own & ~np.isnan(search) & ~np.isnan(relevant)
    total = pool.per_listing(both)
    passes, right = search == 1, relevant == 1
    cells = (passes & right, ~passes & ~right, passes & ~right, ~passes & right)
    for name, cell in zip(("both", "neither", "only_search", "only_judge"), cells):
        values[f"align_{name}"] = _share(pool.per_listing(both & cell), total)
    return values


def add_protocol(table: MetricTable, source: str, values: Values, items: ArrayLike, judge: str = "") -> None:
    """Writes `protocol/SOURCE/NAME[_by_JUDGE]` of one source, means over the listings where it is defined.

    Args:
      items: int [I], the listings' rows of the items table.
    """
    items = np.asarray(items)
    for name, value in values.items():
        defined = np.isfinite(value)
        table.add(metric_name(name, judge), source, value[defined], items[defined])


def metric_name(name: str, judge: str = "") -> str:
    """A figure's metric, as `MetricTable` and `launch.compare` know it."""
    return f"protocol/{name}_by_{judge}" if judge else f"protocol/{name}"


def add_judged_scalars(
    table: MetricTable,
    pool: Pool,
    source: str,
    search: NDArray[np.float64],
    relevant: NDArray[np.float64],
    judge: str,
) -> dict[str, int]:
    """Writes `known_share_by_JUDGE` and `exclusive_keyphrases_by_JUDGE`, and returns the counts behind them.

    The first is the judge's share of eligible pairs; the second is how many different keyphrases are relevant to some
    listing where only this source offers them, and to no other listing by another source.
    """
    eligible = pool.of(source) & pool.new & (search != 0)
    known = eligible & ~np.isnan(relevant)
    good = pool.new & (search != 0) & (relevant == 1)
    mine = np.setdiff1d(pool.meaning[good & pool.of(source)], pool.meaning[good & ~pool.of(source)])
    counts = {"eligible": int(eligible.sum()), "known": int(known.sum()), "relevant": int((good & eligible).sum())}
    counts["exclusive_keyphrases"] = len(mine)
    reason = "nothing is left to judge"
    share = counts["known"] / counts["eligible"] if counts["eligible"] else np.nan
    table.add_scalar(figure_name(metric_name("known_share", judge), source), share, reason)
    table.add_scalar(figure_name(metric_name("exclusive_keyphrases", judge), source), len(mine))
    return counts


def figures(numbers: Mapping[str, float], source: str, names: Sequence[str], judge: str = "") -> dict[str, Any]:
    """name → value, low, high of those of `names` that were measured."""
    found = {}
    for name in names:
        full = figure_name(metric_name(name, judge), source)
        if full in numbers:
            low, high = numbers.get(f"{full}/ci_low"), numbers.get(f"{full}/ci_high")
            found[name] = {"value": numbers[full], "low": low, "high": high}
    return found


def _is_blocked(
    listing: NDArray[np.int64], keyphrase: NDArray[np.int64], keyphrases: int, blocked: Pairs | None
) -> NDArray[np.bool_]:
    if blocked is None:
        return np.zeros(len(listing), bool)
    everywhere = blocked[0] < 0
    pairs = blocked[0][~everywhere] * keyphrases + blocked[1][~everywhere]
    return np.isin(keyphrase, blocked[1][everywhere]) | np.isin(listing * keyphrases + keyphrase, pairs)


def _share(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    """part / whole, NaN where there is none."""
    return np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)
