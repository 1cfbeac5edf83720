"""Hard negatives: keyphrases that a retriever ranks high for an item, and that are not right for it.

Ranks right below the top hold many keyphrases that are right though nobody clicked them; far ranks teach nothing. So
negatives come from a band of ranks, and stay below the item's nearest positive. Source: ANCE (Xiong et al., arXiv
2007.00808) for mining by the model that is trained; a limit from the positive's score as in NV-Retriever (Moreira et
al., arXiv 2407.15831), but a difference of cosines, since a share of a score turns round where scores are negative.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from distill.data.hashing import uniform
from distill.data.pair_pool import pair_keys

# Vectors [Q, D] and k → (indices [Q, k], −1 for none, and scores [Q, k]), best first: an index's or exact search.
Search = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]
_BLOCK = 65_536  # items searched together
_DRAW = 30  # stream of hashed numbers


class Mined(NamedTuple):
    """N pairs, sorted by item; an item has as many as the band and the margin leave, at most the number asked for."""

    item: np.ndarray  # int32 [N], rows of the item vectors
    keyphrase: np.ndarray  # int32 [N], rows of what was searched
    rank: np.ndarray  # int32 [N], 1 the nearest
    cosine: np.ndarray  # float32 [N]
    positive_cosine: np.ndarray  # float32 [N], of the item's nearest positive


def mine_negatives(
    items: np.ndarray,
    keyphrases: np.ndarray,
    search: Search,
    *,
    positives: tuple[np.ndarray, np.ndarray],
    per_item: int,
    first_rank: int,
    last_rank: int,
    margin: float,
    seed: int,
) -> Mined:
    """Draws `per_item` negatives of each item evenly from what its band of ranks holds.

    A keyphrase is a candidate of an item at ranks `first_rank` to `last_rank`, unless it is one of the item's positives
    or its cosine exceeds that of the nearest positive less `margin`. An item without a positive has none.

    Args:
      items: [I, D] unit vectors.
      keyphrases: [K, D] unit vectors, those that `search` searches.
      search: finds the nearest keyphrases.
      positives: item and keyphrase rows, [N] each.
      per_item: at least 1.
      first_rank, last_rank: 1 is the nearest.
      margin: of cosines.
      seed: of the draw, which reads nothing else but the pair.

    Raises:
      ValueError: the band is empty, or per_item is below 1.
    """
    if not 1 <= first_rank <= last_rank or per_item < 1:
        raise ValueError(
            f"ranks {first_rank} to {last_rank}, per_item {per_item}: pass a band from 1 on and at least 1"
        )
    nearest = np.full(len(items), -np.inf, np.float32)
    for part in np.array_split(np.arange(len(positives[0])), max(1, len(positives[0]) // _BLOCK)):
        item, keyphrase = (column[part] for column in positives)
        np.maximum.at(nearest, item, np.einsum("nd,nd->n", items[item], keyphrases[keyphrase]))
    known = np.unique(pair_keys(*positives, len(keyphrases)))
    rows = np.flatnonzero(np.isfinite(nearest))
    blocks = [rows[start : start + _BLOCK] for start in range(0, len(rows), _BLOCK)]
    found = [_in_band(block, items, search, nearest[block] - margin, first_rank, last_rank) for block in blocks]
    item, keyphrase, rank, cosine = (np.concatenate(parts) for parts in zip(*found)) if found else (rows,) * 4
    item, keyphrase = item.astype(np.int32), keyphrase.astype(np.int32)
    keep = ~np.isin(pair_keys(item, keyphrase, len(keyphrases)), known, kind="sort")
    item, keyphrase, rank, cosine = item[keep], keyphrase[keep], rank[keep], cosine[keep]
    order = np.lexsort((uniform(seed, _DRAW, item, keyphrase), item))
    first_of = np.searchsorted(item[order], item[order])
    order = np.sort(order[np.arange(len(order)) - first_of < per_item])
    item = item[order]
    return Mined(item, keyphrase[order], rank[order].astype(np.int32), cosine[order].astype(np.float32), nearest[item])


def _in_band(
    rows: np.ndarray, items: np.ndarray, search: Search, highest: np.ndarray, first_rank: int, last_rank: int
) -> tuple[np.ndarray, ...]:
    """Item row, keyphrase, rank and cosine of the candidates of the items `rows`, whose limits are `highest`."""
    indices, scores = search(items[rows], last_rank)
    allowed = (indices >= 0) & (scores <= highest[:, None])
    allowed[:, : first_rank - 1] = False
    row, place = np.nonzero(allowed)
    return rows[row], indices[row, place], place + 1, scores[row, place]
