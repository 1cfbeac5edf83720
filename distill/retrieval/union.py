"""Candidates of several sources for some items, each pair once with all that found it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Found(NamedTuple):
    """Distinct (item, keyphrase) pairs, sorted by item and then keyphrase.

    Attributes:
      row: [N] int64, the item's place among those asked for.
      keyphrase: [N] int64.
      source: [S] int64, rising within a pair; pair n was found by source[source_starts[n] : source_starts[n + 1]].
      source_starts: [N + 1] int64.
    """

    row: np.ndarray
    keyphrase: np.ndarray
    source: np.ndarray
    source_starts: np.ndarray


class Entries(NamedTuple):
    """What one source or several found: [n] each; a pair may stand there more than once."""

    row: np.ndarray
    keyphrase: np.ndarray
    source: np.ndarray  # numbers; or one number for all

    @classmethod
    def of_matrix(cls, keyphrase: np.ndarray, source: int) -> Entries:
        """From the keyphrases [I, k] of each item, −1 for none."""
        row, place = np.nonzero(keyphrase >= 0)
        return cls(row, keyphrase[row, place].astype(np.int64), np.array(source))


def unite(parts: Sequence[Entries], keyphrases: int) -> Found:
    """The union of what the sources found among so many keyphrases.

    Raises:
      ValueError: an index points outside.
    """
    for part in parts:
        if part.keyphrase.size and not 0 <= part.keyphrase.min() <= part.keyphrase.max() < keyphrases:
            raise ValueError(
                f"keyphrase: holds {part.keyphrase.min()} to {part.keyphrase.max()}; there are {keyphrases}"
            )
    nothing = np.zeros(0, np.int64)
    keys = np.concatenate([nothing, *(part.row.astype(np.int64) * keyphrases + part.keyphrase for part in parts)])
    source = np.concatenate([nothing, *(np.broadcast_to(part.source, part.row.shape) for part in parts)])
    order = np.lexsort((source, keys))
    keys, source = keys[order], source[order]
    differs = np.diff(keys, prepend=-1) != 0
    distinct = differs | (np.diff(source, prepend=-1) != 0)
    keys, source, first = keys[distinct], source[distinct], np.flatnonzero(differs[distinct])
    row, keyphrase = np.divmod(keys[first], max(keyphrases, 1))
    return Found(row, keyphrase, source, np.append(first, len(keys)))
