"""What each source offers for the protocol's listings, and what the search engine says of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from distill.config import ConfigError
from distill.stages.base import Context
from distill.stages.recommend_sources import RECOMMENDED

if TYPE_CHECKING:
    import numpy as np

    from distill.evaluate.protocol import Pool

_ORDER = 6  # stream of random numbers: the order of sources that have none


def pool_of(context: Context, models: dict[str, Any], items: np.ndarray) -> Pool:
    """What every source offers for the listings `items` (rows of the items table), and what became of it.

    Raises ConfigError for a source that this run does not have.
    """
    import numpy as np

    from distill.evaluate.protocol import gather

    prepared, settings = context.prepared, context.experiment.evaluate.protocol
    row_of = np.full(len(prepared.item_ids) + 1, -1)  # the last is that of item -1
    row_of[items] = np.arange(len(items))
    recommended = _recommended(context, row_of)
    # The assistant re-ranks the student's candidates and a prefix is the same student: neither is a source beside it.
    usual = [name for name in models if name != "assistant" and "@" not in name]
    names = settings.sources or (*usual, *recommended)
    offered = {}
    for name in names:
        if name in models:
            offered[name] = models[name].top(items, settings.keyphrases)
        elif name in recommended:
            offered[name] = _shuffled(context, recommended[name], items)
        else:
            raise ConfigError(
                f"config.evaluate.protocol.sources={settings.sources}: this run has no {name!r}; it has "
                f"{', '.join((*models, *recommended))}"
            )
    blocked = prepared.blocklist()
    if blocked is not None:
        everywhere = blocked["item"] < 0
        listing = row_of[blocked["item"]]
        inside = everywhere | (listing >= 0)
        blocked = np.where(everywhere, -1, listing)[inside], blocked["keyphrase"][inside].astype(np.int64)
    return gather(offered, prepared.keyphrases, recommended, blocked)


def _recommended(context: Context, row_of: np.ndarray) -> dict[str, Any]:
    """`recommended:NAME` → (listing, keyphrase) of the sampled listings, by source of the `recommendations` table."""
    import numpy as np

    table = context.prepared.recommendations()
    if table is None:
        context.reporter.line("evaluate: no recommendations table, so the protocol has nothing to de-duplicate against")
        return {}
    listing = row_of[table["item"]]
    inside = listing >= 0
    source = table["source"].astype(str)
    pairs = {name: inside & (source == name) for name in np.unique(source)}
    return {
        f"{RECOMMENDED}{name}": (listing[rows], table["keyphrase"][rows].astype(np.int64))
        for name, rows in pairs.items()
    }


def _shuffled(context: Context, pairs: Any, items: np.ndarray) -> np.ndarray:
    """The keyphrases of a source without ranks as lists [I, K] in an order by hash, -1 behind the last."""
    import numpy as np

    from distill.data.hashing import order_by_name

    listing, keyphrase = pairs
    prepared, listings = context.prepared, len(items)
    names = [
        f"{prepared.item_ids[item]} {prepared.keyphrases[phrase]}"
        for item, phrase in zip(items[listing].tolist(), keyphrase.tolist())
    ]
    order = order_by_name(names, context.experiment.seed, _ORDER)
    order = order[np.argsort(listing[order], kind="stable")]
    number = np.bincount(listing, minlength=listings)
    place = np.arange(len(order)) - np.repeat(np.cumsum(number) - number, number)
    most = context.experiment.evaluate.protocol.keyphrases
    lists = np.full((listings, most), -1)
    kept = place < most
    lists[listing[order][kept], place[kept]] = keyphrase[order][kept]
    return lists


def searched(context: Context, item: np.ndarray, keyphrase: np.ndarray) -> np.ndarray:
    """float [N]: 1 where the search engine passes a pair, 0 where not, NaN where its table does not hold it."""
    import numpy as np

    from distill.data.pair_pool import pair_keys

    verdict = np.full(len(item), np.nan)
    table = context.prepared.holdout("search_relevance")
    if table is None or not len(table["item"]):
        context.reporter.line("evaluate: no search_relevance row of a held-out item; the protocol calls all unknown")
        return verdict
    keyphrases = len(context.prepared.keyphrases)
    keys = pair_keys(table["item"], table["keyphrase"], keyphrases)
    order = np.argsort(keys)
    wanted = pair_keys(item, keyphrase, keyphrases)
    at = np.minimum(np.searchsorted(keys[order], wanted), len(order) - 1)
    known = keys[order][at] == wanted
    verdict[known] = table["passed"][order][at][known].astype(np.float64)
    return verdict
