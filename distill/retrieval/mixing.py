"""Head and tail keyphrases by search volume, and how many of each an item's recommendations should hold."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

UNKNOWN, HEAD, TAIL = 0, 1, 2


def head_or_tail(search_volume: np.ndarray, head_volume: float) -> np.ndarray:
    """HEAD, TAIL or UNKNOWN of each keyphrase: int8 [K].

    The head is the fewest keyphrases, the most searched first, that make up the share `head_volume` of all searches;
    those searched as often as its last one belong to it too, so that the order of equal ones does not matter. Whatever
    is never searched is tail.

    Args:
      search_volume: [K], not negative; NaN where unknown.
      head_volume: 0 (no head) to 1 (everything that is searched).

    Raises:
      ValueError: a volume is negative or infinite, or `head_volume` lies outside 0 to 1.
    """
    volume = np.asarray(search_volume, np.float64)
    known = ~np.isnan(volume)
    if (volume[known] < 0).any() or np.isinf(volume).any():
        raise ValueError(f"search_volume: holds {volume[known].min()} to {volume[known].max()}; pass 0 or more, or NaN")
    if not 0 <= head_volume <= 1:
        raise ValueError(f"head_volume: {head_volume}; pass 0 to 1")
    kind = np.where(known, TAIL, UNKNOWN).astype(np.int8)
    falling = np.sort(volume[known & (volume > 0)])[::-1]
    if head_volume > 0 and len(falling):
        reached = np.cumsum(falling)
        # A sum of shares such as 0.1 + 0.2 may come out a hair above what was asked for.
        last = int(np.searchsorted(reached, head_volume * reached[-1] * (1 - 1e-12)))
        kind[known & (volume >= falling[min(last, len(falling) - 1)])] = HEAD
    return kind


def reserved_places(keep: int, *, head: float, tail: float) -> Mapping[int, int]:
    """How many of `keep` places are held for HEAD and for TAIL, by their shares (rounded down)."""
    return {kind: int(share * keep + 1e-9) for kind, share in ((HEAD, head), (TAIL, tail))}
