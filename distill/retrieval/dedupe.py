"""De-duplication of recommended keyphrases: word order, case, punctuation, plurals and the spelling of units aside."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from typing import Literal

import numpy as np

from distill.data.text import fold_tokens, normalise_keyphrase


@dataclasses.dataclass(frozen=True)
class Dropped:
    """Why a keyphrase was left out.

    Attributes:
      reason: `already` where another source recommends it, `repeat` where a better ranked keyphrase says the same.
      of: the keyphrase that it repeats.
    """

    reason: Literal["already", "repeat"]
    of: str


def deduplicate(
    ranked_keyphrases: Sequence[str], already: Collection[str] = ()
) -> tuple[list[int], dict[int, Dropped]]:
    """Keeps the first keyphrase of each meaning and none that is recommended already.

    Two keyphrases are equal when their sets of folded tokens are (`distill.data.text.fold_tokens`), or, where a
    keyphrase has no token, when they are equal once normalised.

    Args:
      ranked_keyphrases: best first.
      already: what other sources recommend.

    Returns:
      The kept indices in rank order, and dropped index → why.
    """
    # Sorted, so that the quoted keyphrase does not depend on a set's order.
    recommended = {_key(keyphrase): keyphrase for keyphrase in sorted(already, reverse=True)}
    seen: dict[frozenset[str], str] = {}
    kept: list[int] = []
    dropped: dict[int, Dropped] = {}
    for index, keyphrase in enumerate(ranked_keyphrases):
        key = _key(keyphrase)
        if key in recommended:
            dropped[index] = Dropped("already", recommended[key])
        elif key in seen:
            dropped[index] = Dropped("repeat", seen[key])
        else:
            seen[key] = keyphrase
            kept.append(index)
    return kept, dropped


def meanings(keyphrases: Sequence[str]) -> np.ndarray:
    """The lowest index that says the same as each keyphrase, by the rule of `deduplicate`: int32 [K].

    Made once, it lets the candidates of many items be compared as numbers.
    """
    first: dict[str, int] = {}
    # Joined, since a text takes far less memory than a set; no token holds the character that joins.
    keys = ("\n".join(sorted(_key(keyphrase))) for keyphrase in keyphrases)
    return np.fromiter((first.setdefault(key, index) for index, key in enumerate(keys)), np.int32, len(keyphrases))


def _key(keyphrase: str) -> frozenset[str]:
    return fold_tokens(keyphrase) or frozenset({normalise_keyphrase(keyphrase)})
