"""A keyphrase index that changes between two builds: what was added lies beside it, what was removed is left out.

ScaNN 1.4.2 has `upsert` and `delete` of its own. They are not used: a NaN or an index with SOAR ends the process, ids
move when something is deleted, and every change means writing the whole index again to keep it. Here a change costs a
small file: added vectors are searched exactly and merged, removed rows are filtered out, until `needs_rebuild` says
that both have become too many.
"""

from __future__ import annotations

import dataclasses
import io
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from distill.artifacts import hash_file, write_atomic
from distill.retrieval import index_store as store
from distill.retrieval.keyphrase_index import KeyphraseIndex
from distill.retrieval.subset_search import exact_over, merge, rescore, score_candidates
from distill.retrieval.vectors import check_vectors

BASE, CHANGES = "base", "changes.npz"
_MOST_ID = 2**63 - 1


@dataclasses.dataclass(frozen=True)
class RebuildPolicy:
    """When an index with changes is to be built again."""

    changed_share: float = 0.1  # of the keyphrases: added, updated or removed since it was built
    recall_slack: float = 0.01  # by which its measured recall may stay below the target


class ChangingIndex:
    """An index and its changes; keyphrases have ids that stay the same through changes and rebuilds.

    Ids are numbers that the caller gives, such as rows of an append-only keyphrase table. Not thread-safe: publish a
    changed index as a new version, or guard it.
    """

    def __init__(self, base: KeyphraseIndex, ids: np.ndarray | None = None):
        """`ids` [N] int64 of the base's rows, each once; by default the row numbers.

        Raises:
          ValueError: ids do not fit.
        """
        count = base.settings.count
        self.base = base
        self._ids = np.arange(count, dtype=np.int64) if ids is None else _check_ids("ids", ids, count)
        self._order = np.argsort(self._ids)
        self._live = np.ones(count, bool)  # of the base's rows
        self._added_ids = np.zeros(0, np.int64)
        self._added = np.zeros((0, base.settings.full_width), np.float32)

    def __len__(self) -> int:
        return int(np.count_nonzero(self._live)) + len(self._added_ids)

    def ids(self) -> np.ndarray:
        """The ids of all keyphrases, those of the base first, [M] int64."""
        return np.concatenate([self._ids[self._live], self._added_ids])

    def vectors(self) -> np.ndarray:
        """Their vectors, in the same order, [M, D] float32; a copy."""
        return np.concatenate([self.base.vectors[self._live], self._added])

    def put(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        """Adds keyphrases, or replaces the vectors of ids that are there.

        Args:
          ids: [M] integers of at least 0, each once.
          vectors: [M, D] float32 unit vectors.

        Raises:
          ValueError: an argument does not fit; nothing is changed then.
        """
        vectors = check_vectors("vectors", vectors, width=self.base.settings.full_width, may_be_empty=True, unit=True)
        ids = _check_ids("ids", ids, len(vectors))
        self._forget(ids)
        self._added_ids = np.concatenate([self._added_ids, ids])
        self._added = np.concatenate([self._added, vectors])

    def remove(self, ids: np.ndarray) -> None:
        """Takes keyphrases out.

        Raises:
          ValueError: an id is not there, or stands twice; nothing is changed then.
        """
        ids = _check_ids("ids", ids, None)
        missing = ids[~np.isin(ids, self.ids())]
        if len(missing):
            raise ValueError(f"ids: {missing[:5].tolist()} are not in the index; remove what ids() lists")
        self._forget(ids)

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """As `KeyphraseIndex.search`, over the keyphrases of now: ids [Q, k] int64 and scores [Q, k] float32."""
        queries = check_vectors("queries", queries, width=self.base.settings.full_width, may_be_empty=True)
        if k < 1:
            raise ValueError(f"k: {k}; pass at least 1")
        rows, scores = self._search(queries, k)
        names = np.concatenate([self._ids, self._added_ids])
        return np.where(rows >= 0, names[np.maximum(rows, 0)], -1), scores

    def _search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the base and, from its count on, of what was added."""
        allowed = None if self._live.all() else self._live
        found = self.base.search(queries, k, allowed=allowed)
        if not len(self._added_ids):
            return found
        if self.base.settings.dtype != "float32" and not self.base.settings.rescore:
            # Rounded scores would not compare with exact ones.
            found = rescore(queries, self.base.vectors, found[0], k)
        return merge(k, found, self._exact_added(queries, k))

    def _exact_added(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        rows, scores = exact_over(queries, self._added, k)
        return np.where(rows >= 0, rows + self.base.settings.count, -1), scores

    def changed_share(self) -> float:
        """Keyphrases added, replaced or removed since the base was built, as a share of those in it."""
        changed = np.count_nonzero(~self._live) + np.count_nonzero(~np.isin(self._added_ids, self._ids))
        return float(changed / max(1, len(self._ids)))

    def measure_recall(self) -> float:
        """Recall@`recall_at` on the base's sample queries, against exact search over the keyphrases of now."""
        sample, k = self.base.sample, min(self.base.settings.recall_at, len(self))
        if not k:
            return 1.0
        kept = exact_over(sample, self.base.vectors, k, np.flatnonzero(self._live))
        exact = merge(k, kept, self._exact_added(sample, k))[1]
        rows, count = self._search(sample, k)[0], self.base.settings.count
        # By exact scores: those of the index may be rounded, and which of several equal vectors is found is no matter.
        found = np.maximum(
            score_candidates(sample, self.base.vectors, np.where(rows < count, rows, -1)),
            score_candidates(sample, self._added, np.where(rows >= count, rows - count, -1)),
        )
        return float(np.mean(found >= exact[:, -1:] - 1e-5))

    def needs_rebuild(self, policy: RebuildPolicy, measure: bool = False) -> str:
        """Why the index is to be built again, in words; empty while it need not be.

        Args:
          policy: the limits.
          measure: whether recall is measured too, which takes an exact search of the sample.
        """
        share = self.changed_share()
        if share > policy.changed_share:
            return (
                f"{share:.1%} of the keyphrases have changed since it was built, more than {policy.changed_share:.1%}"
            )
        least = self.base.settings.target_recall - policy.recall_slack
        if measure and (recall := self.measure_recall()) < least:
            return f"recall@{self.base.settings.recall_at} has fallen to {recall:.4f}, below {least:.4f}"
        return ""

    def rebuilt(self, build: Callable[[np.ndarray], KeyphraseIndex]) -> ChangingIndex:
        """An index without changes over the keyphrases of now; `build` makes one of their vectors [M, D].

        Raises:
          ValueError: nothing is left to index.
        """
        if not len(self):
            raise ValueError("index: every keyphrase was removed; put some in first")
        return ChangingIndex(build(self.vectors()), self.ids())

    def save(self, directory: str | Path) -> None:
        """Writes the base where the directory is empty, else its changes alone, as one file that replaces the last.

        Raises:
          FileExistsError: the directory holds another index, or something else.
        """
        base = Path(directory) / BASE
        if not (base / store.MANIFEST).exists():
            self.base.save(base)
        elif store.read_settings(base) != self.base.settings:
            raise FileExistsError(f"{base}: another index than the one that was changed; pass a new directory")
        self.save_changes(Path(directory) / CHANGES, base)

    def save_changes(self, path: Path, base: Path) -> None:
        """Writes what has changed since the index saved in `base` was built, as one file."""
        data = io.BytesIO()
        np.savez(
            data,
            base=np.frombuffer(bytes.fromhex(hash_file(base / store.MANIFEST)), np.uint8),
            ids=self._ids,
            removed=np.flatnonzero(~self._live),
            added_ids=self._added_ids,
            added=self._added,
        )
        write_atomic(path, data.getvalue())

    @classmethod
    def load(cls, directory: str | Path) -> ChangingIndex:
        """Reads what `save` wrote.

        Raises:
          FileNotFoundError: there is no index.
          ValueError: a file is damaged, or the changes are those of another base.
        """
        directory = Path(directory)
        return cls.load_changes(directory / CHANGES, directory / BASE)

    @classmethod
    def load_changes(cls, path: Path, base: Path, expected: Mapping[str, Any] | None = None) -> ChangingIndex:
        """Reads what `save_changes` wrote and the index itself, which must be as `expected` (`KeyphraseIndex.load`).

        Raises: as `load`.
        """
        index = KeyphraseIndex.load(base, expected)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: missing; save the index again")
        try:
            with np.load(path, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in ("base", "ids", "removed", "added_ids", "added")}
            if arrays["base"].tobytes().hex() != hash_file(base / store.MANIFEST):
                raise ValueError(f"changes of another index than {base}; save both together")
            changing = cls(index, arrays["ids"])
            changing._live[arrays["removed"]] = False
            added = check_vectors(
                "added", arrays["added"], width=index.settings.full_width, may_be_empty=True, unit=True
            )
            changing._added_ids, changing._added = _check_ids("added_ids", arrays["added_ids"], len(added)), added
        except (ValueError, KeyError, IndexError, zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise ValueError(f"{path}: cannot be used ({error})") from error
        return changing

    def _forget(self, ids: np.ndarray) -> None:
        """Takes ids out that may or may not be there."""
        places = np.minimum(np.searchsorted(self._ids, ids, sorter=self._order), len(self._ids) - 1)
        rows = self._order[places]
        self._live[rows[self._ids[rows] == ids]] = False
        kept = ~np.isin(self._added_ids, ids)
        self._added_ids, self._added = self._added_ids[kept], self._added[kept]


def _check_ids(name: str, ids: np.ndarray, count: int | None) -> np.ndarray:
    ids = np.asarray(ids)
    if ids.ndim != 1 or (ids.size and not np.issubdtype(ids.dtype, np.integer)):
        raise ValueError(f"{name}: {ids.dtype} of shape {ids.shape}; pass [M] integers")
    if count is not None and len(ids) != count:
        raise ValueError(f"{name}: {len(ids)} of them for {count} vectors")
    if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) <= _MOST_ID:
        raise ValueError(f"{name}: {ids.min()} to {ids.max()}; ids are at least 0 and at most {_MOST_ID}")
    if len(np.unique(ids)) != len(ids):
        raise ValueError(f"{name}: one stands twice; pass each once")
    return ids.astype(np.int64)
