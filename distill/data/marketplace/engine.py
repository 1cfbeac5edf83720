"""The middleman: a lexical search engine, the pages it shows and the clicks they get.

Buyers see only what it passes, so what it hides never earns a click: its synonyms and implications are those pairs.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import sparse

from distill.data import hashing

_K1, _B = 1.2, 0.75  # BM25's usual constants
_NOISE = 0.12  # standard deviation of the engine's own log-scale errors
PASS = 0.45  # of the query's best score
_PAGE = 10  # results
_PAGES_SEEN = (1.0, 0.3, 0.08)  # share of searches that reach each page
_DAYS = 4  # the ranking is drawn anew each day
_EXAMINE = 0.35  # examination falls as 1 / (1 + .35 (rank - 1))
_CLICK = np.array([0.004, 0.015, 0.06, 0.3])  # probability of clicking an examined result, by true grade


def _tokens(text: str) -> list[str]:
    return [w[:-1] if len(w) > 3 and w.endswith("s") else w for w in re.findall(r"[a-z0-9]+", text.lower())]


def _counts(texts: Sequence[str], vocabulary: dict[str, int], grow: bool) -> sparse.csr_matrix:
    """Token counts [texts, vocabulary]; unknown tokens are dropped unless the vocabulary may grow."""
    indices, indptr = [], [0]
    for text in texts:
        for token in _tokens(text):
            if grow:
                vocabulary.setdefault(token, len(vocabulary))
            if token in vocabulary:
                indices.append(vocabulary[token])
        indptr.append(len(indices))
    shape = (len(texts), len(vocabulary))
    matrix = sparse.csr_matrix((np.ones(len(indices), np.float32), indices, indptr), shape=shape)
    matrix.sum_duplicates()
    return matrix


@dataclasses.dataclass(frozen=True)
class Impressions:
    """Aggregated impressions of one or more keyphrases; all arrays [rows], at most one row a pair."""

    item: np.ndarray
    keyphrase: np.ndarray
    impressions: np.ndarray
    clicks: np.ndarray
    position: np.ndarray  # mean rank shown, 1 is the top


class SearchEngine:
    """BM25 over title, brand and leaf category, relative to the query's best, with errors of its own.

    Args:
        item_texts: what is indexed of each item.
        keyphrases: the queries, in order of their index.
        synonyms: phrase of a query → words that the engine adds to it.
        seed: of the world.
    """

    def __init__(self, item_texts: Sequence[str], keyphrases: Sequence[str], synonyms: Mapping[str, str], seed: int):
        self._seed = seed
        vocabulary: dict[str, int] = {}
        counts = _counts(item_texts, vocabulary, grow=True)
        known = re.compile("|".join(rf"\b{re.escape(s)}\b" for s in sorted(synonyms, key=len, reverse=True)) or "(?!)")
        rewritten = [" ".join([k, *(synonyms[found] for found in known.findall(k))]) for k in keyphrases]
        self._queries = _counts(rewritten, vocabulary, grow=False)
        self._queries.data[:] = 1.0
        length = np.asarray(counts.sum(axis=1)).ravel()
        norm = _K1 * (1 - _B + _B * length / max(length.mean(), 1.0))
        frequency = np.bincount(counts.indices, minlength=len(vocabulary))
        idf = np.log1p((len(item_texts) - frequency + 0.5) / (frequency + 0.5))
        rows = np.repeat(np.arange(len(item_texts)), np.diff(counts.indptr))
        counts.data = (idf[counts.indices] * counts.data * (_K1 + 1) / (counts.data + norm[rows])).astype(np.float32)
        self._weights = counts  # [items, vocabulary]
        self._weights_t = counts.T.tocsr()
        self._queries_t = self._queries.T.tocsr()
        self._popularity = np.exp(0.25 * np.random.default_rng([seed, 3]).standard_normal(len(item_texts)))
        self._best = np.ones(len(keyphrases), np.float32)
        for start in range(0, len(keyphrases), 1024):
            part = np.arange(start, min(start + 1024, len(keyphrases)))
            best = self.by_keyphrase(part).max(axis=1).toarray().ravel()
            self._best[part] = np.where(best > 0, best, 1.0)

    def _noisy(self, scores: sparse.csr_matrix, rows: np.ndarray, rows_are_items: bool) -> sparse.csr_matrix:
        scores.sort_indices()
        row = np.repeat(rows, np.diff(scores.indptr))
        item, keyphrase = (row, scores.indices) if rows_are_items else (scores.indices, row)
        noise = np.exp(_NOISE * hashing.normal(self._seed, 1, item, keyphrase))
        scores.data = (scores.data * noise / self._best[keyphrase]).astype(np.float32)
        return scores

    def by_keyphrase(self, keyphrases: np.ndarray) -> sparse.csr_matrix:
        """Scores [len(keyphrases), items] in 0–1; an absent entry is zero."""
        return self._noisy((self._queries[keyphrases] @ self._weights_t).tocsr(), keyphrases, rows_are_items=False)

    def by_item(self, items: np.ndarray) -> sparse.csr_matrix:
        """Scores [len(items), keyphrases], the same numbers as `by_keyphrase`."""
        return self._noisy((self._weights[items] @ self._queries_t).tocsr(), items, rows_are_items=True)

    def ranking(self, scores: sparse.csr_matrix, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Items that pass for the keyphrase in this row of `by_keyphrase`, best first, and their scores."""
        part = slice(scores.indptr[row], scores.indptr[row + 1])
        items, values = np.asarray(scores.indices[part]), np.asarray(scores.data[part])
        items, values = items[values >= PASS], values[values >= PASS]
        order = np.argsort(np.negative(values), kind="stable")
        return items[order], values[order]

    def show(
        self, keyphrase: int, items: np.ndarray, scores: np.ndarray, grades: np.ndarray, searches: int
    ) -> Impressions:
        """The aggregated log of `searches` searches for one keyphrase.

        Pages rank the passed items by score × popularity, with some exploration each day; buyers examine a rank with a
        falling probability and click an examined result by its true grade.

        Args:
            keyphrase: its index.
            items: passed items [n], best first, with their scores [n] and true grades [n].
            searches: how many.
        """
        rng = np.random.default_rng([self._seed, 4, keyphrase])
        days = min(_DAYS, searches)
        shown = min(len(items), _PAGE * len(_PAGES_SEEN))
        if not days or not shown:
            none = np.empty(0, np.int64)
            return Impressions(none, none, none, none, np.empty(0))
        merit = np.log(scores) + np.log(self._popularity[items])
        daily_merit = merit + 0.1 * rng.gumbel(size=(days, len(items)))
        ranked = np.argsort(np.negative(daily_merit), axis=1, kind="stable")[:, :shown]
        daily = rng.multinomial(searches, np.full(days, 1 / days))
        rank = np.arange(shown)
        # A search that reached page 3 has seen page 2: reach is drawn once a day and page, nested.
        reach = [daily]
        for deeper, shallower in zip(_PAGES_SEEN[1:], _PAGES_SEEN):
            reach.append(rng.binomial(reach[-1], deeper / shallower))
        views = np.stack(reach, axis=1)[:, rank // _PAGE]
        clicked = rng.binomial(views, _CLICK[grades[ranked]] / (1 + _EXAMINE * rank))
        impressions, clicks, position = (
            np.bincount(ranked.ravel(), weights=w.ravel(), minlength=len(items))
            for w in (views, clicked, views * (rank + 1))
        )
        seen = np.flatnonzero(impressions)
        return Impressions(
            items[seen].astype(np.int64),
            np.full(len(seen), keyphrase, np.int64),
            impressions[seen].astype(np.int64),
            clicks[seen].astype(np.int64),
            position[seen] / impressions[seen],
        )
