"""Near-duplicate token sets, found exactly through an inverted index, and the keyphrases to keep out of training.

`similar_pairs` is a prefix-filtered set-similarity join (Chaudhuri et al. 2006; Bayardo et al. 2007, "AllPairs"): with
tokens ordered from rare to common, two sets of Jaccard ≥ t share a token within their first n − ⌈t·n⌉ + 1. So only
pairs that meet on a rare token are compared, and none is missed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import numpy as np
import scipy.sparse as sp

from distill.data.preparation.token_sets import TokenSets, folded_sets
from distill.data.text import normalise_keyphrase

_EPSILON = 1e-9  # thresholds such as 0.7 are not exact in binary
_ROWS = 2048  # rows of the left side joined at once, at most
_MEETINGS = 4_000_000  # pairs that meet on a token, and so wait for comparison, at once
_PAIRS = 200_000  # candidate pairs compared at once


def _matrix(sets: TokenSets, rank: np.ndarray) -> sp.csr_matrix:
    """Rows of ones at the tokens' ranks from rare to common."""
    matrix = sp.csr_matrix(
        (np.ones(len(sets.tokens), np.int32), rank[sets.tokens], sets.starts), (len(sets), len(rank))
    )
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


def _batches(first: sp.csr_matrix, second: sp.csr_matrix) -> Iterator[slice]:
    """Runs of rows of `first` that meet no more than `_MEETINGS` rows of the transposed `second`, one row at least."""
    meetings = np.diff(second.indptr)[first.indices]
    total = np.concatenate([[0], np.cumsum(meetings)])[first.indptr]
    start, rows = 0, len(first.indptr) - 1
    while start < rows:
        fits = int(np.searchsorted(total, total[start] + _MEETINGS, side="right")) - 1
        stop = min(max(fits, start + 1), start + _ROWS, rows)
        yield slice(start, stop)
        start = stop


def similar_pairs(left: TokenSets, right: TokenSets | None, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """All index pairs (i, j) with Jaccard(left[i], right[j]) ≥ threshold, as two int arrays of one length.

    Both sides number their tokens by one vocabulary. With `right=None`, `left` is joined with itself and each unordered
    pair comes once, i < j. Empty sets match nothing.

    Raises:
      ValueError: if threshold is not in (0, 1].
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold {threshold}: a Jaccard threshold lies in (0, 1]")
    tokens = left.tokens if right is None else np.concatenate([left.tokens, right.tokens])
    frequency = np.bincount(tokens, minlength=1)
    rank = np.empty(len(frequency), np.int32)
    rank[np.argsort(frequency, kind="stable")] = np.arange(len(frequency), dtype=np.int32)
    first = _matrix(left, rank)
    second = first if right is None else _matrix(right, rank)
    first_prefix = _prefixes(first, threshold)
    second_prefix = (first_prefix if right is None else _prefixes(second, threshold)).T.tocsr()
    first_sizes, second_sizes = np.diff(first.indptr), np.diff(second.indptr)
    found: list[tuple[np.ndarray, np.ndarray]] = []
    for rows in _batches(first_prefix, second_prefix):
        meeting = (first_prefix[rows] @ second_prefix).tocoo()
        i, j = meeting.row.astype(np.int64) + rows.start, meeting.col.astype(np.int64)
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
    keyphrases: Sequence[str],
    human_queries: Collection[str],
    threshold: float,
    sets: TokenSets | None = None,
    vocabulary: dict[str, int] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Which keyphrases are human queries, and which are near-duplicates of one.

    Args:
      keyphrases: [K] texts.
      human_queries: the texts of valid and test queries.
      threshold: token Jaccard, after folding plurals, from which two texts count as near-duplicates.
      sets, vocabulary: the keyphrases' folded sets and what numbers them, if they are known already.

    Returns:
      Two bool arrays [K]: the same after `normalise_keyphrase`; not the same but a near-duplicate.
    """
    queries = sorted({normalise_keyphrase(query) for query in human_queries} - {""})
    near = np.zeros(len(keyphrases), bool)
    if not queries:
        return near, near.copy()
    known = set(queries)
    same = np.fromiter((normalise_keyphrase(text) in known for text in keyphrases), bool, len(keyphrases))
    if sets is None or vocabulary is None:
        vocabulary = {}
        sets = folded_sets(keyphrases, vocabulary)
    matched, _ = similar_pairs(sets, folded_sets(queries, vocabulary), threshold)
    near[matched] = True
    return same, near & ~same
