"""The protocol in parts: by kinds of listing and of keyphrase, and two sources listing by listing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distill.data.text import top_labels
from distill.evaluate.protocol import Pool, Values
from distill.judge.agreement import pair_slices
from distill.resampling import group_draws, percentile_interval

SLICED = ("relevant_per_item", "relevant_share")
_LEAST, _MOST = 5, 10  # listings of a slice that is shown by itself; slices of a dimension
_OTHERS = "all others"


def listing_slices(
    titles: Sequence[str], categories: Sequence[Sequence[str]], clicks: ArrayLike | None, few_clicks: int
) -> dict[str, list[str]]:
    """Dimension → the slice of each listing [I]. `clicks` [I] are those of the log; None leaves that dimension out."""
    slices = {"top category": top_labels(categories)}
    as_judged = pair_slices(titles, categories, [""] * len(titles))
    slices |= {name: as_judged[name] for name in ("leaf category", "title")}
    if clicks is not None:
        few, many = f"fewer than {few_clicks}", f"{few_clicks} or more"
        slices["clicks"] = [few if number < few_clicks else many for number in np.asarray(clicks).tolist()]
    return slices


def slice_figures(
    values: Mapping[str, Values], slices: Sequence[str], resamples: int, seed: int
) -> list[dict[str, Any]]:
    """Each slice's listings and figures, the largest first; small slices together as "all others".

    Args:
      values: source → figure → one value a listing [I], NaN where not defined.
      slices: of each listing [I].

    Returns:
      Rows of `name`, `listings` and `figures`: source → figure → `value`, `low`, `high` (None where not defined).
    """
    sizes = sorted(Counter(slices).items(), key=lambda one: (-one[1], one[0]))
    large = [name for name, size in sizes if size >= _LEAST][:_MOST]
    named = np.array([one if one in large else _OTHERS for one in slices], object)
    rows = []
    for name in [*large, *([_OTHERS] if (named == _OTHERS).any() else [])]:
        inside = np.flatnonzero(named == name)
        columns = [(source, figure) for source, own in values.items() for figure in own]
        block = np.stack([values[source][figure][inside] for source, figure in columns], axis=1)
        found: dict[str, dict[str, Any]] = {source: {} for source in values}
        for (source, figure), one in zip(columns, mean_intervals(block, resamples, seed)):
            found[source][figure] = one
        rows.append({"name": name, "listings": len(inside), "figures": found})
    return rows


def volume_slices(
    pool: Pool,
    good: NDArray[np.bool_],
    head: NDArray[np.bool_],
    volume_known: NDArray[np.bool_],
    resamples: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Relevant keyphrases per listing of the head, the tail and of unknown search volume, in `slice_figures`' form.

    Args:
      good: bool [N], relevant and eligible rows of `pool`.
      head, volume_known: bool [K] by keyphrase.
    """
    rows = []
    parts = {"head": head, "tail": volume_known & ~head, "unknown volume": ~volume_known}
    for name, part in parts.items():
        if not part.any():
            continue
        columns = [pool.per_listing(good & pool.of(source) & part[pool.keyphrase]) for source in pool.sources]
        intervals = mean_intervals(np.stack(columns, axis=1), resamples, seed)
        found = {source: {"relevant_per_item": one} for source, one in zip(pool.sources, intervals)}
        rows.append({"name": name, "listings": pool.listings, "figures": found})
    return rows


def mean_intervals(values: NDArray[np.float64], resamples: int, seed: int) -> list[dict[str, float | None]]:
    """The mean and 95 % percentile interval of each column of [I, F], over the listings where it is defined.

    All columns see the same draws of listings. Of fewer than two listings there is a mean but no interval.
    """
    defined = ~np.isnan(values)
    filled, number = np.where(defined, values, 0.0), defined.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = filled.sum(axis=0) / number
        draws = group_draws(len(values), resamples, seed) if len(values) else ()
        drawn = [(counts @ filled) / (counts @ defined.astype(np.float64)) for counts in draws]
    columns = np.concatenate([np.empty((0, values.shape[1])), *drawn]).T
    rows: list[dict[str, float | None]] = []
    for value, column, many in zip(mean.tolist(), columns, number > 1, strict=True):
        bounds = percentile_interval(column) if many else (math.nan, math.nan)
        figures = zip(("value", "low", "high"), (value, *bounds), strict=True)
        rows.append({name: figure if math.isfinite(figure) else None for name, figure in figures})
    return rows


def side_by_side(pool: Pool, first: str, second: str, good: NDArray[np.bool_]) -> dict[str, int]:
    """Two sources by one judge.

    Args:
      good: bool [N], relevant and eligible rows of `pool`.

    Returns:
      `more`, `equal`, `fewer`: listings for which the first has more relevant keyphrases than the second, as many,
      fewer; `both`, `only_first`, `only_second`: relevant keyphrases over all listings, by who has them.
    """
    counts = [pool.per_listing(good & pool.of(source)) for source in (first, second)]
    keys = [_keys(pool, good & pool.of(source)) for source in (first, second)]
    shared = len(np.intersect1d(keys[0], keys[1]))
    return {
        "more": int((counts[0] > counts[1]).sum()),
        "equal": int((counts[0] == counts[1]).sum()),
        "fewer": int((counts[0] < counts[1]).sum()),
        "both": shared,
        "only_first": len(keys[0]) - shared,
        "only_second": len(keys[1]) - shared,
    }


def telling_listings(pool: Pool, first: str, second: str, good: NDArray[np.bool_], number: int) -> list[int]:
    """The listings on which the first source gains most over the second, then those on which it loses most."""
    change = pool.per_listing(good & pool.of(first)) - pool.per_listing(good & pool.of(second))
    order = np.argsort(-change, kind="stable")
    gains = [int(at) for at in order[:number] if change[at] > 0]
    losses = [int(at) for at in order[::-1][:number] if change[at] < 0]
    return gains + losses


def _keys(pool: Pool, rows: NDArray[np.bool_]) -> NDArray[np.int64]:
    """A number for each distinct listing and meaning of `rows`."""
    stride = int(pool.meaning.max(initial=0)) + 1
    return np.unique(pool.listing[rows] * stride + pool.meaning[rows])
