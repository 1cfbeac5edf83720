"""Near-duplicate token sets, found exactly through an inverted index, and the keyphrases to keep out of training.

`similar_pairs` is a prefix-filtered set-similarity join (Chaudhuri et al. 2006; Bayardo et al. 2007, "AllPairs"): with
tokens ordered from rare to common, two sets of Jaccard ≥ t share a token within their first n − ⌈t·n⌉ + 1. So only
pairs that meet on a rare token are compared, and none is missed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence

import numpy as np
import scipy.sparse as sp

from distill.data.text import fold_tokens, normalise_keyphrase

_EPSILON = 1e-9  # thresholds such as 0.7 are not exact in binary
_ROWS = 2048  # rows of the left side joined at once
_PAIRS = 200_000  # candidate pairs compared at once


def _matrix(sets: Sequence[Collection[str]], columns: dict[str, int]) -> sp.csr_matrix:
    lengths = np.fromiter((len(tokens) for tokens in sets), np.int64, len(sets))
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    indices = np.fromiter((columns[token] for tokens in sets for token in tokens), np.int32, int(indptr[-1]))
    matrix = sp.csr_matrix((np.ones(len(indices), np.int32), indices, indptr), (len(sets), max(1, len(columns))))
    matrix.sort_indices()
    return matrix


def _prefixes(matrix: sp.csr_matrix, threshold: float) -> sp.csr_matrix:
    """`matrix` with each row cut to the rarest tokens that a similar row must share one of."""
    lengths = np.diff(matrix.indptr)
    keep = np.where(lengths > 0, lengths - np.ceil(threshold * lengths - _EPSILON).astype(int) + 1, 0)
    position = np.arange(matrix.nnz) - np.repeat(matrix.indptr[:-1], lengths)
    chosen = position < np.repeat(keep, lengths)
    indptr = np.concatenate([[0], np.cumsum(np.minimum(keep, lengths))])
    return sp.csr_matrix((matrix.data[chosen], matrix.indices[chosen], indptr), matrix.shape)


def _compare(
    left: sp.csr_matrix, right: sp.csr_matrix, rows: np.ndarray, columns: np.ndarray, threshold: float
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    left_sizes, right_sizes = np.diff(left.indptr), np.diff(right.indptr)
    for start in range(0, len(rows), _PAIRS):
        i, j = rows[start : start + _PAIRS], columns[start : start + _PAIRS]
        shared = np.asarray(left[i].multiply(right[j]).sum(axis=1)).ravel()
        alike = shared >= threshold * (left_sizes[i] + right_sizes[j] - shared) - _EPSILON
        yield i[alike], j[alike]


def similar_pairs(
    left: Sequence[Collection[str]], right: Sequence[Collection[str]] | None, threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """All index pairs (i, j) with Jaccard(left[i], right[j]) ≥ threshold, as two int arrays of one length.

    With `right=None`, `left` is joined with itself and each unordered pair comes once, i < j. Empty sets match nothing.

    Raises:
      ValueError: if threshold is not in (0, 1].
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold {threshold}: a Jaccard threshold lies in (0, 1]")
    frequency = Counter(token for tokens in left for token in tokens)
    if right is not None:
        frequency.update(token for tokens in right for token in tokens)
    order = sorted(frequency, key=lambda token: (frequency[token], token))
    columns = {token: column for column, token in enumerate(order)}
    first = _matrix(left, columns)
    second = first if right is None else _matrix(right, columns)
    first_prefix = _prefixes(first, threshold)
    second_prefix = _prefixes(second, threshold).T.tocsr()
    first_sizes, second_sizes = np.diff(first.indptr), np.diff(second.indptr)
    found: list[tuple[np.ndarray, np.ndarray]] = []
    for start in range(0, len(left), _ROWS):
        meeting = (first_prefix[start : start + _ROWS] @ second_prefix).tocoo()
        i, j = meeting.row.astype(np.int64) + start, meeting.col.astype(np.int64)
        small, large = np.minimum(first_sizes[i], second_sizes[j]), np.maximum(first_sizes[i], second_sizes[j])
        possible = small >= threshold * large - _EPSILON
        if right is None:
            possible &= i < j
        found.extend(_compare(first, second, i[possible], j[possible], threshold))
    if not found:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    i, j = np.concatenate([pair[0] for pair in found]), np.concatenate([pair[1] for pair in found])
    sequence = np.lexsort((j, i))
    return i[sequence], j[sequence]


def leaked_keyphrases(
    keyphrases: Sequence[str], human_queries: Collection[str], threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """Which keyphrases are human queries, and which are near-duplicates of one.

    Args:
      keyphrases: [K] texts.
      human_queries: the texts of valid and test queries.
      threshold: token Jaccard, after folding plurals, from which two texts count as near-duplicates.

    Returns:
      Two bool arrays [K]: the same after `normalise_keyphrase`; not the same but a near-duplicate.
    """
    queries = {normalise_keyphrase(query) for query in human_queries} - {""}
    same = np.fromiter((normalise_keyphrase(text) in queries for text in keyphrases), bool, len(keyphrases))
    near = np.zeros(len(keyphrases), bool)
    matched, _ = similar_pairs(
        [fold_tokens(text) for text in keyphrases], [fold_tokens(query) for query in sorted(queries)], threshold
    )
    near[matched] = True
    return same, near & ~same
