"""A keyphrase index: searching it, saving and loading it."""

from __future__ import annotations

import dataclasses
import functools
import json
import operator
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from distill.artifacts import write_json
from distill.retrieval import index_store as store
from distill.retrieval import scann_native
from distill.retrieval.index_settings import IndexSettings
from distill.retrieval.subset_search import allowed_mask, rescore, score_candidates, search_allowed
from distill.retrieval.vectors import check_vectors, prefix, save_vectors

_EQUAL = 1e-5  # scores this close are equal: which of several equal vectors is returned does not matter


class KeyphraseIndex:
    """A searchable index of unit vectors; made by `build_index` or `KeyphraseIndex.load`.

    Attributes:
      settings: how it was built and how it searches.
      vectors: [N, D] float32, the full width; memory-mapped where it was loaded.
      sample: [S, D] float32, the queries that it was tuned on; its recall can be measured on them again.
      curve: every setting that was measured, with its recall and queries a second.
    """

    def __init__(
        self,
        searcher: Any,
        settings: IndexSettings,
        vectors: np.ndarray,
        sample: np.ndarray,
        curve: tuple[dict[str, Any], ...] = (),
    ):
        self._searcher = searcher
        self.settings, self.vectors, self.sample, self.curve = settings, vectors, sample, curve

    @property
    def recall_at_100(self) -> float:
        """Share of the exact 100 best neighbours found, measured on the sample queries when the index was built."""
        return self.settings.recall_at_100

    def with_settings(self, **changed: Any) -> KeyphraseIndex:
        """The same index under other settings of the search."""
        settings = dataclasses.replace(self.settings, **changed)
        return KeyphraseIndex(self._searcher, settings, self.vectors, self.sample, self.curve)

    def describe(self) -> dict[str, Any]:
        """The settings as a flat, JSON-ready dict."""
        return dataclasses.asdict(self.settings)

    def search(
        self,
        queries: np.ndarray,
        k: int,
        *,
        allowed: np.ndarray | None = None,
        leaves_to_search: int | None = None,
        reorder: int | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest keyphrases of each query by inner product, best first.

        The recall that the index was tuned for holds at k = `recall_at` and, by searching in proportion, about holds
        beyond; a smaller k finds more of its own.

        Args:
          queries: [Q, D] float32, finite, of the embeddings' full width.
          k: at least 1.
          allowed: keyphrases to choose from, [M] row numbers or [N] bool, such as those of the items' category. Few are
            searched exactly, many by finding more and filtering.
          leaves_to_search: instead of the chosen number; trees only.
          reorder: instead of the chosen number of ScaNN's candidates; trees only.

        Returns:
          indices [Q, k] int32 and scores [Q, k] float32; -1 and -inf where fewer were found. Scores are cosines over
          the full width; those of `dtype` bfloat16 and int8 are rounded.

        Raises:
          ValueError: an argument does not fit the index.
        """
        settings = self.settings
        queries = check_vectors("queries", queries, width=settings.full_width, may_be_empty=True)
        k = whole_number("k", k)
        given = {"leaves_to_search": (leaves_to_search, settings.leaves), "reorder": (reorder, settings.count)}
        for name, (value, most) in given.items():
            if value is not None and (not settings.leaves or not 1 <= whole_number(name, value) <= most):
                what = f"pass 1 to {most}" if settings.leaves else "brute force has none; leave it out"
                raise ValueError(f"{name}: {value}; {what}")
        search = functools.partial(self._search, leaves_to_search=leaves_to_search, reorder=reorder)
        if allowed is None:
            return search(queries, k)
        return search_allowed(search, queries, self.vectors, k, allowed_mask(allowed, settings.count))

    def _search(
        self, queries: np.ndarray, k: int, *, leaves_to_search: int | None = None, reorder: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        settings = self.settings
        wanted = min(settings.candidates(settings.rescore, k) if settings.rescore else k, settings.count)
        options: dict[str, int] = {}
        if settings.leaves:
            reorder = settings.candidates(settings.reorder, k) if reorder is None else reorder
            options["leaves_to_search"] = settings.leaves_for(k) if leaves_to_search is None else leaves_to_search
            options["reorder"] = max(reorder, wanted)
        searched = prefix(queries, settings.width) if settings.width < settings.full_width else queries
        indices, scores = scann_native.search(self._searcher, searched, wanted, **options)
        if leaves_to_search is None:
            self._fill(searched, indices, scores, options)
        if settings.rescore:
            return rescore(queries, self.vectors, indices, k)
        if k == wanted:
            return indices, scores
        missing = ((0, 0), (0, k - wanted))
        return np.pad(indices, missing, constant_values=-1), np.pad(scores, missing, constant_values=-np.inf)

    def _fill(self, searched: np.ndarray, indices: np.ndarray, scores: np.ndarray, options: dict[str, int]) -> None:
        """Searches more leaves for those queries whose leaves held too few vectors: duplicates leave many empty."""
        leaves = options.get("leaves_to_search", 0)
        while len(short := np.flatnonzero(indices[:, -1] < 0)) and leaves < self.settings.leaves:
            leaves = min(4 * leaves, self.settings.leaves)
            more = options | {"leaves_to_search": leaves}
            indices[short], scores[short] = scann_native.search(
                self._searcher, searched[short], indices.shape[1], **more
            )

    def measure_recall(self, k: int | None = None, queries: np.ndarray | None = None) -> float:
        """Recall@k (of `recall_at` by default) on [Q, D] queries (the sample) against exact search over all vectors."""
        k = min(k or self.settings.recall_at, self.settings.count)
        queries = self.sample if queries is None else check_vectors("queries", queries, width=self.settings.full_width)
        kth = scann_native.exact_top(queries, self.vectors, k)[1][:, -1]
        return share_found(self, queries, k, kth)

    def save(self, directory: str | Path) -> None:
        """Writes the index; its `index.json` comes last, and the directory may be moved afterwards.

        What a killed save left there is replaced.

        Raises:
          FileExistsError: the directory holds something already.
        """
        directory = Path(directory)
        store.remove_unfinished(directory)
        if directory.exists() and any(directory.iterdir()):
            raise FileExistsError(f"{directory}: not empty; pass a new directory for the index")
        assets = directory / store.ASSETS
        assets.mkdir(parents=True, exist_ok=True)
        scann_native.save(self._searcher, assets)
        if not store.keeps_exact_vectors(self.settings):
            save_vectors(directory / store.VECTORS, self.vectors)
        save_vectors(directory / store.SAMPLE, self.sample)
        write_json(directory / store.CURVE, list(self.curve))
        store.write_manifest(directory, self.settings)

    @classmethod
    def load(cls, directory: str | Path, expected: Mapping[str, Any] | None = None) -> KeyphraseIndex:
        """Reads an index written by `save`, after checking that every file is the one that was written.

        Args:
          directory: that `save` wrote.
          expected: names and values of IndexSettings that must be so, such as `{"model": …, "keyphrases_sha256": …}`.

        Raises:
          FileNotFoundError: there is no index.
          ValueError: the manifest or a file is damaged, of another format, or not as expected; the message says where.
          ImportError: scann is not installed.
        """
        directory = Path(directory)
        settings = store.read_manifest(directory)
        store.check_expected(directory, settings, expected or {})
        searcher = scann_native.load(directory / store.ASSETS)
        sample = np.load(directory / store.SAMPLE)
        curve = json.loads((directory / store.CURVE).read_text())
        return cls(searcher, settings, store.map_vectors(directory, settings), sample, tuple(curve))


def share_found(index: KeyphraseIndex, queries: np.ndarray, k: int, kth: np.ndarray, **parameters: Any) -> float:
    """Recall@k: the share of what is found that scores at least as the exact k-th neighbour, `kth` [Q]."""
    found, scores = index.search(queries, k, **parameters)
    if index.settings.dtype != "float32":  # its scores are rounded
        scores = score_candidates(queries, index.vectors, found)
    return float(np.mean(scores >= kth[:, None] - _EQUAL))


def seconds_a_query(index: KeyphraseIndex, queries: np.ndarray, k: int, at_least: float, **parameters: Any) -> float:
    """Wall time of one query where all are asked together, over as many passes as take `at_least` seconds."""
    passes, seconds, begun = 0, 0.0, time.perf_counter()
    while not passes or seconds < at_least:
        index.search(queries, k, **parameters)
        passes, seconds = passes + 1, time.perf_counter() - begun
    return seconds / (passes * len(queries))


def whole_number(name: str, value: Any) -> int:
    """Raises ValueError unless `value` is a whole number of at least 1: ScaNN takes nothing else."""
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if number < 1 or isinstance(value, bool):
        raise ValueError(f"{name}: {value!r}; pass at least 1, a whole number")
    return number
