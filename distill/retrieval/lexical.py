"""BM25 over short texts: candidates that share words, and lexical scores of given pairs."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence

import bm25s
import numpy as np
import Stemmer
from scipy.sparse import csc_array, csr_array

from distill.data.text import normalise_keyphrase

logging.getLogger("bm25s").setLevel(logging.WARNING)  # its import sets DEBUG

_TOKEN = r"(?u)\b\w+\b"  # single characters too: sizes and model numbers carry meaning in listings
_QUERIES_AT_ONCE = 512


class Lexical:
    """BM25 (Lucene's variant, k1 = 1.2, b = 0.75) with English stop words and stemming.

    score(q, d) = Σ over tokens t of q, repeats counted, of
    ln(1 + (N - df_t + ½) / (df_t + ½)) · tf_td / (tf_td + k1 · (1 - b + b · len_d / mean len)).

    Source: Kamphuis et al., "Which BM25 do you mean?" (ECIR 2020); Lù, BM25S (arXiv 2407.03618).
    """

    def __init__(self, documents: Sequence[str]):
        """Indexes the documents; a document without any token is never found."""
        tokenized = _tokenize(documents)
        # bm25s numbers its vocabulary in the order of a set, which differs from process to process; a sorted one
        # makes the order of float additions, and so every last bit, reproducible.
        vocabulary = {token: index for index, token in enumerate(sorted({t for ts in tokenized for t in ts}))}
        self._vocabulary = vocabulary
        self._documents = len(documents)
        shape = (len(documents), len(vocabulary))
        if not vocabulary:
            self._weights = csr_array(shape, dtype=np.float32)
            return
        ids = [[vocabulary[token] for token in tokens] for tokens in tokenized]
        bm25 = bm25s.BM25(method="lucene", k1=1.2, b=0.75, backend="numpy")
        bm25.index((ids, dict(vocabulary)), create_empty_token=False, show_progress=False)
        parts = bm25.scores
        self._weights = csr_array(csc_array((parts["data"], parts["indices"], parts["indptr"]), shape=shape))
        self._weights.sort_indices()

    def top_k(self, queries: Sequence[str], k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k best documents of each query, best first, equal scores by index.

        Returns:
          indices [Q, k] int32 and scores [Q, k] float32; -1 and -inf where no further document shares a token.

        Raises:
          ValueError: k is below 1.
        """
        if k < 1:
            raise ValueError(f"k: {k}; pass at least 1")
        indices = np.full((len(queries), k), -1, np.int32)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        for start in range(0, len(queries), _QUERIES_AT_ONCE):
            found = csr_array(self._count_tokens(queries[start : start + _QUERIES_AT_ONCE]) @ self._by_token)
            for row, (left, right) in enumerate(zip(found.indptr[:-1], found.indptr[1:]), start):
                documents, values = found.indices[left:right], np.asarray(found.data[left:right], np.float32)
                if len(values) > k:
                    at_least = np.partition(values, len(values) - k)[len(values) - k]
                    kept = values >= at_least  # more than k where the last place is shared
                    documents, values = documents[kept], values[kept]
                order = np.lexsort((documents, -values))[:k]
                indices[row, : len(order)], scores[row, : len(order)] = documents[order], values[order]
        return indices, scores

    def score_pairs(self, queries: Sequence[str], query_index: np.ndarray, document_index: np.ndarray) -> np.ndarray:
        """BM25 scores of given pairs; 0 where no token is shared.

        Args:
          queries: the distinct query texts.
          query_index: [N] integers into `queries`.
          document_index: [N] integers into the documents.

        Returns:
          [N] float32.

        Raises:
          ValueError: the index arrays differ in shape or point outside.
        """
        query_index, document_index = np.asarray(query_index, np.int64), np.asarray(document_index, np.int64)
        if query_index.shape != document_index.shape or query_index.ndim != 1:
            raise ValueError(f"query_index {query_index.shape}, document_index {document_index.shape}: pass [N] both")
        for name, index, count in (
            ("query_index", query_index, len(queries)),
            ("document_index", document_index, self._documents),
        ):
            if index.size and (index.min() < 0 or index.max() >= count):
                raise ValueError(f"{name}: holds {index.min()} to {index.max()}; there are {count}")
        if not query_index.size:
            return np.zeros(0, np.float32)
        counts = csr_array(self._count_tokens(queries)[query_index])
        products = counts.multiply(csr_array(self._weights[document_index]))
        return np.asarray(products.sum(axis=1), np.float32)

    @functools.cached_property
    def _by_token(self) -> csr_array:
        """[V, D] weights; only a search needs them so."""
        return csr_array(self._weights.T)

    def _count_tokens(self, queries: Sequence[str]) -> csr_array:
        """[Q, V] counts; tokens that no document holds are left out."""
        known = [[self._vocabulary[t] for t in tokens if t in self._vocabulary] for tokens in _tokenize(queries)]
        lengths = [len(ids) for ids in known]
        columns = np.fromiter((i for ids in known for i in ids), np.int64, sum(lengths))
        rows = np.repeat(np.arange(len(queries)), lengths)
        ones = np.ones(len(columns), np.float32)
        return csr_array((ones, (rows, columns)), shape=(len(queries), len(self._vocabulary)))


def _tokenize(texts: Sequence[str]) -> list[list[str]]:
    tokens = bm25s.tokenize(
        [normalise_keyphrase(text) for text in texts],  # so that 12" in a title meets 12 inch
        stopwords="en",
        stemmer=Stemmer.Stemmer("english"),
        token_pattern=_TOKEN,
        return_ids=False,
        show_progress=False,
    )
    return tokens  # pyright: ignore[reportReturnType] - a list of lists of strings when return_ids is False
