"""Where the candidates of `recommend` come from: the student's index, word matching, other recommenders' table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from distill.retrieval.union import Entries, Found, unite
from distill.stages.base import Context
from distill.stages.index import INDEX, ITEMS, KEYPHRASES, indexed_width

STUDENT, LEXICAL, GRAPHEX = "student", "lexical", "graphex"
RECOMMENDED = "recommended:"  # before the name of a source of the `recommendations` table
_PAIRS_AT_ONCE = 65_536  # whose embeddings are gathered
_ITEMS_AT_ONCE = 128  # in word matching, where a common word of a title finds a good part of all keyphrases


class Sources:
    """The sources that the settings ask for. `names` are theirs, in the order of `Found.source`."""

    def __init__(self, context: Context):
        from distill.retrieval.scann_index import KeyphraseIndex

        settings, folder = context.experiment.recommend, context.folder("index")
        self._context, self._settings = context, settings
        # Mapped, so that a shard reads its own items and the keyphrases found for them.
        self._items = np.load(folder / ITEMS, mmap_mode="r")
        self._keyphrases = np.load(folder / KEYPHRASES, mmap_mode="r")
        self._index = KeyphraseIndex.load(folder / INDEX) if settings.candidates else None
        self.names: tuple[str, ...] = (STUDENT,) if settings.candidates else ()
        self._by_words: list[Callable[[np.ndarray], np.ndarray]] = []
        for name, wanted, search in ((LEXICAL, settings.lexical, _lexical), (GRAPHEX, settings.graphex, _graphex)):
            if wanted:
                self.names += (name,)
                self._by_words.append(search(context, wanted))
        self._others: _Others | None = None
        if settings.others == "include":
            self._others = _others(context, self.names)
            self.names = self._others.names

    @property
    def keyphrase_vectors(self) -> np.ndarray:
        """[K, D] unit vectors, full width, memory-mapped."""
        return self._keyphrases

    def find(self, items: np.ndarray) -> tuple[Found, np.ndarray]:
        """The candidates of `items` (distinct, rising) and the student's cosine of each, float32 [N]."""
        count, parts = len(self._keyphrases), []
        vectors = indexed_width(self._context, np.asarray(self._items[items]))
        if self._index is not None:
            parts.append(Entries.of_matrix(self._index.search(vectors, self._settings.candidates)[0], 0))
        blocks = np.array_split(items, max(1, -(-len(items) // _ITEMS_AT_ONCE)))
        for search in self._by_words:
            parts.append(Entries.of_matrix(np.concatenate([search(block) for block in blocks]), len(parts)))
        if self._others is not None:
            parts.append(self._others.of(items))
        found = unite(parts, count)
        # Not the index's scores, which an index of bfloat16 or int8 rounds: a pair's score is one whoever found it.
        score = np.zeros(len(found.row), np.float32)
        for start in range(0, len(score), _PAIRS_AT_ONCE):
            at = slice(start, start + _PAIRS_AT_ONCE)
            right = indexed_width(self._context, np.asarray(self._keyphrases[found.keyphrase[at]]))
            score[at] = np.einsum("nd,nd->n", vectors[found.row[at]], right)
        return found, score


def _lexical(context: Context, k: int) -> Callable[[np.ndarray], np.ndarray]:
    from distill.retrieval.lexical import Lexical

    texts, lexical = context.prepared.item_texts, Lexical(context.prepared.keyphrases)
    return lambda items: lexical.top_k([texts[i] for i in items], k)[0]


def _graphex(context: Context, k: int) -> Callable[[np.ndarray], np.ndarray]:
    titles, leafs, graph = context.prepared.titles, leaf_names(context), fit_graph(context)
    return lambda items: graph.top_k([titles[i] for i in items], [leafs[i] for i in items], k)[0]


def leaf_names(context: Context) -> list[str]:
    """The whole category path of each item as one name, since a leaf's own name recurs below other parents."""
    return ["\x1f".join(path) for path in context.prepared.categories]


def fit_graph(context: Context) -> Any:
    """GraphEx over all keyphrases, its leaf graphs by the training clicks where there are any."""
    from distill.retrieval.graph import GraphBaseline

    prepared, leafs = context.prepared, leaf_names(context)
    clicks = prepared.training("clicks")
    clicked = np.flatnonzero(clicks["clicks"] > 0) if clicks is not None else np.zeros(0, np.int64)
    pairs = {name: clicks[name][clicked] if clicks is not None else clicked for name in ("item", "keyphrase")}
    of_clicks = [leafs[item] for item in pairs["item"]]
    return GraphBaseline.fit(prepared.keyphrases, prepared.search_volume, pairs["keyphrase"], of_clicks)


class _Others(NamedTuple):
    """The `recommendations` table, sorted by item."""

    names: tuple[str, ...]  # those that there were before, then the table's
    item: np.ndarray
    keyphrase: np.ndarray
    source: np.ndarray  # index into names

    def of(self, items: np.ndarray) -> Entries:
        left, right = np.searchsorted(self.item, items), np.searchsorted(self.item, items, side="right")
        counts = right - left
        row = np.repeat(np.arange(len(items)), counts)
        at = np.repeat(left - (np.cumsum(counts) - counts), counts) + np.arange(len(row))
        return Entries(row, self.keyphrase[at].astype(np.int64), self.source[at])


def _others(context: Context, names: tuple[str, ...]) -> _Others:
    table = context.prepared.recommendations()
    if table is None:
        context.reporter.line("recommend: no recommendations table, so others='include' adds no candidates")
        empty = np.zeros(0, np.int64)
        return _Others(names, empty, empty, empty)
    import pyarrow as pa

    encoded = pa.array(table["source"]).dictionary_encode()
    theirs = [f"{RECOMMENDED}{name}" for name in encoded.dictionary.to_pylist()]
    names = (*names, *sorted(theirs))
    number = np.array([names.index(name) for name in theirs], np.int64)
    order = np.argsort(table["item"], kind="stable")
    source = number[encoded.indices.to_numpy()]
    return _Others(names, table["item"][order], table["keyphrase"][order], source[order])
