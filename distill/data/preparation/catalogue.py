"""Items and keyphrases: numbered in the order of first appearance, split and flagged; what rows of pairs refer to.

A catalogue is held in memory: about 150 bytes an item or keyphrase beside the texts. It is small beside logs of pairs,
which is why these are the part that is streamed or given to Beam, whose workers load the catalogue from files.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from distill.data.text import normalise_keyphrase

UNKNOWN, BAD, ALL_ITEMS = -1, -2, -1
_REMEMBERED = 1 << 18  # texts in other than normal form whose numbers are kept at hand


class Lookup:
    """Numbers of ids or texts: those that are kept, and those whose every row was bad."""

    def __init__(self, names: pa.Array, bad: pa.Array, normalise: Callable[[str], str] | None = None):
        self.names, self.bad, self._normalise = names, bad, normalise
        self._remembered: dict[str, int] = {}

    @functools.cached_property
    def _numbers(self) -> dict[str, int]:
        numbers = dict.fromkeys(self.bad.to_pylist(), BAD)
        numbers.update(zip(self.names.to_pylist(), range(len(self.names))))
        return numbers

    def __len__(self) -> int:
        return len(self.names)

    def find(self, texts: pa.Array) -> np.ndarray:
        """int32 [rows]: number of each text, or `UNKNOWN`, or `BAD`."""
        encoded = texts.dictionary_encode()
        numbers = self._numbers.get
        found = [numbers(text, UNKNOWN) for text in encoded.dictionary.to_pylist()]
        out = np.array(found, np.int32)
        if self._normalise is not None:
            other = np.flatnonzero(out == UNKNOWN)
            for row, text in zip(other.tolist(), encoded.dictionary.take(pa.array(other)).to_pylist()):
                out[row] = self._otherwise(text)
        return out[encoded.indices.to_numpy()] if len(out) else np.zeros(len(texts), np.int32)

    def _otherwise(self, text: str) -> int:
        """The number of a text that is not in normal form."""
        number = self._remembered.get(text)
        if number is None:
            if len(self._remembered) >= _REMEMBERED:
                self._remembered.clear()
            number = self._numbers.get(self._normalise(text), UNKNOWN)  # type: ignore[misc]
            self._remembered[text] = number
        return number


class Catalogue:
    """What rows of pairs refer to, and where they belong.

    Attributes:
      items, keyphrases: their numbers.
      holdout: bool [N], of the items.
      trainable: bool [K], of the keyphrases: neither a human query nor a near-duplicate of one.
    """

    def __init__(self, items: Lookup, keyphrases: Lookup, holdout: np.ndarray, trainable: np.ndarray):
        self.items, self.keyphrases, self.holdout, self.trainable = items, keyphrases, holdout, trainable

    def save(self, folder: Path) -> None:
        """Writes what `load` reads: a few files, of the size of the texts."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, table in (
            ("items", {"name": self.items.names, "holdout": pa.array(self.holdout)}),
            ("keyphrases", {"name": self.keyphrases.names, "trainable": pa.array(self.trainable)}),
            ("bad_items", {"name": self.items.bad}),
            ("bad_keyphrases", {"name": self.keyphrases.bad}),
        ):
            pq.write_table(pa.table(table), folder / f"{name}.parquet")

    @classmethod
    def load(cls, folder: Path) -> Catalogue:
        read = {
            name: pq.read_table(folder / f"{name}.parquet")
            for name in ("items", "keyphrases", "bad_items", "bad_keyphrases")
        }
        names = {name: table["name"].combine_chunks() for name, table in read.items()}
        return cls(
            Lookup(names["items"], names["bad_items"]),
            keyphrase_lookup(names["keyphrases"], names["bad_keyphrases"]),
            read["items"]["holdout"].to_numpy(),
            read["keyphrases"]["trainable"].to_numpy(),
        )


def keyphrase_lookup(names: pa.Array, bad: pa.Array) -> Lookup:
    """The numbers of keyphrases, however they are written."""
    return Lookup(names, bad, normalise_keyphrase)
