"""Which candidates an item keeps, and in what order: by relevance, diversity and reserved places."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from distill.retrieval.mixing import UNKNOWN

_ENTRIES_AT_ONCE = 1 << 24  # of gathered vectors; 64 MiB of float32


def choose(
    relevance: np.ndarray,
    candidate: np.ndarray,
    keep: int,
    *,
    mmr_lambda: float = 1.0,
    vectors: np.ndarray | None = None,
    kind: np.ndarray | None = None,
    reserved: Mapping[int, int] | None = None,
) -> np.ndarray:
    """Chooses up to `keep` candidates of each item greedily, all items at once.

    The next one chosen is the candidate d of largest marginal relevance, S being those already chosen:

        λ · relevance(d) − (1 − λ) · max over s in S of vector(d) · vector(s)

    λ = 1 is the plain order; equal values go to the candidate that stands further left. Where places are reserved, the
    choice is restricted to the kinds that lack some as soon as no other place is left, so they take the places of the
    least relevant ones only; what a kind has too few candidates to fill is free for all.

    Source: Carbonell and Goldstein, "The Use of MMR, Diversity-Based Reranking for Reordering Documents and Producing
    Summaries" (SIGIR 1998).

    Args:
      relevance: [I, M] finite where there is a candidate.
      candidate: [I, M] integers, rows of `vectors` and `kind`, best first; negative where there is none.
      keep: at least 1.
      mmr_lambda: λ, 0 to 1.
      vectors: [K, D] unit vectors; needed below λ = 1 only, and read a few items at a time (it may be memory-mapped).
      kind: [K] small integers; with `reserved`.
      reserved: kind → number of places, at most `keep` together.

    Returns:
      [I, min(keep, M)] int64 places in the row, in the order of choice; −1 where candidates ran out.

    Raises:
      ValueError: shapes, λ or the reserved places do not fit.
    """
    relevance, candidate = np.asarray(relevance, np.float64), np.asarray(candidate)
    if relevance.shape != candidate.shape or candidate.ndim != 2:
        raise ValueError(f"relevance {relevance.shape}, candidate {candidate.shape}: pass [I, M] both")
    if keep < 1:
        raise ValueError(f"keep: {keep}; pass at least 1")
    if not 0 <= mmr_lambda <= 1:
        raise ValueError(f"mmr_lambda: {mmr_lambda}; pass 0 to 1")
    if mmr_lambda < 1 and vectors is None:
        raise ValueError(f"mmr_lambda: {mmr_lambda}; below 1 it needs vectors")
    reserved = {number: places for number, places in (reserved or {}).items() if places}
    if reserved and kind is None:
        raise ValueError(f"reserved: {dict(reserved)}; needs the kind of each keyphrase")
    if sum(reserved.values()) > keep or any(places < 0 for places in reserved.values()):
        raise ValueError(f"reserved: {dict(reserved)}; pass 0 or more places, at most keep={keep} together")
    keep = min(keep, candidate.shape[1])
    chosen = np.full((len(candidate), keep), -1, np.int64)
    width = 1 if vectors is None else vectors.shape[1]
    block = max(1, _ENTRIES_AT_ONCE // max(1, candidate.shape[1] * width))
    for start in range(0, len(candidate), block):
        part = slice(start, start + block)
        present = candidate[part] >= 0
        known = np.maximum(candidate[part], 0)
        of_kind = np.full(known.shape, UNKNOWN, np.int8) if kind is None else np.where(present, kind[known], UNKNOWN)
        near = np.asarray(vectors[known], np.float32) if vectors is not None and mmr_lambda < 1 else None
        relevant = np.where(present, relevance[part], 0.0)
        chosen[part] = _choose(relevant, present, keep, mmr_lambda, near, of_kind, reserved)
    return chosen


def _choose(
    relevance: np.ndarray,
    present: np.ndarray,
    keep: int,
    mmr_lambda: float,
    vectors: np.ndarray | None,
    kind: np.ndarray,
    reserved: Mapping[int, int],
) -> np.ndarray:
    """As `choose`, with the vectors [I, M, D] and kinds [I, M] of the candidates."""
    rows = np.arange(len(present))
    chosen = np.full((len(present), keep), -1, np.int64)
    free, nearest = present.copy(), np.zeros(present.shape)
    left = np.minimum(keep, present.sum(axis=1))  # places still to be filled
    lacking = {k: np.minimum(places, (present & (kind == k)).sum(axis=1)) for k, places in reserved.items()}
    for step in range(keep):
        allowed = free
        if lacking:
            full = sum(lacking.values()) >= left
            wanted = np.any([(kind == k) & (lack > 0)[:, None] for k, lack in lacking.items()], axis=0)
            allowed = free & (wanted | ~full[:, None])
        value = np.where(allowed, mmr_lambda * relevance - (1 - mmr_lambda) * nearest, -np.inf)
        best = value.argmax(axis=1)
        some = allowed[rows, best]
        if not some.any():
            break
        chosen[some, step] = best[some]
        free[rows[some], best[some]] = False
        left = left - some
        for k, lack in lacking.items():
            lacking[k] = lack - (some & (lack > 0) & (kind[rows, best] == k))
        if vectors is not None:
            similar = np.matmul(vectors, vectors[rows, best][:, :, None])[:, :, 0]
            nearest = np.maximum(nearest, similar) if step else similar
    return chosen
