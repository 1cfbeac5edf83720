"""What a version of the index holds and how it is read: index, student, tokenizer, keyphrases, changes since the build.

index/                the index as it was built
changes.npz           what was added and removed since; missing where nothing was
keyphrases.parquet    row i is the keyphrase of id i; those that were removed keep their rows
student/ tokenizer/   what embeds texts for it
export/               SavedModels of the same run, where it had them
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from distill.artifacts import hash_tree
from distill.retrieval import versions
from distill.retrieval.index_store import hash_keyphrases
from distill.retrieval.index_updates import CHANGES, ChangingIndex
from distill.retrieval.keyphrase_index import KeyphraseIndex

INDEX, STUDENT, TOKENIZER, KEYPHRASES, EXPORT = "index", "student", "tokenizer", "keyphrases.parquet", "export"


@dataclasses.dataclass(frozen=True)
class Published:
    """A version, read.

    Attributes:
      folder: where it lies.
      index: finds ids, which are rows of `keyphrases`.
      keyphrases: by id, with those that were removed.
    """

    folder: Path
    index: ChangingIndex
    keyphrases: list[str]

    def search(self, queries: np.ndarray, k: int) -> tuple[list[list[str]], np.ndarray]:
        """The k nearest keyphrases of each query [Q, D], best first, and their scores [Q, k].

        Where fewer than k are there, the lists are shorter and the scores end in -inf.
        """
        ids, scores = self.index.search(queries, k)
        return [[self.keyphrases[i] for i in row if i >= 0] for row in ids.tolist()], scores


def load_published(folder: str | Path) -> Published:
    """Reads a version, after checking that its files belong together.

    Raises:
      FileNotFoundError: it is no version of an index.
      ValueError: a file is damaged, or not of the same index.
    """
    import pyarrow.parquet as pq

    folder = Path(folder)
    keyphrases = pq.read_table(folder / KEYPHRASES, columns=["keyphrase"])["keyphrase"].to_pylist()
    expected = {"model": hash_tree(folder / STUDENT)}
    if (folder / CHANGES).is_file():
        index = ChangingIndex.load_changes(folder / CHANGES, folder / INDEX, expected)
    else:
        index = ChangingIndex(KeyphraseIndex.load(folder / INDEX, expected))
    built = index.base.settings
    if len(keyphrases) < built.count or hash_keyphrases(keyphrases[: built.count]) != built.keyphrases_sha256:
        raise ValueError(f"{folder / KEYPHRASES}: not the keyphrases of {folder / INDEX}; use another version")
    if index.ids().max(initial=-1) >= len(keyphrases):
        raise ValueError(f"{folder / CHANGES}: ids beyond the {len(keyphrases)} keyphrases; use another version")
    return Published(folder, index, keyphrases)


def load_current(root: str | Path) -> Published:
    """Reads the current version of a directory of versions; another one where it is pruned while it is read.

    Raises:
      VersionError: nothing was published.
      FileNotFoundError, ValueError: as `load_published`.
    """
    folder = versions.current(root)
    while True:
        try:
            return load_published(folder)
        except (FileNotFoundError, ValueError):
            if folder == (folder := versions.current(root)):
                raise
