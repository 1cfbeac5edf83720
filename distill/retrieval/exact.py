"""Exact top-k by inner product: the reference that every approximate index is measured against."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np


def top_k(queries: np.ndarray, corpus: np.ndarray, k: int, *, chunk: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """The k corpus rows of largest inner product with each query, best first.

    Equal scores are ordered by index, the lower first. Queries go through the device `chunk` at a time, so the memory
    beside the inputs is that of [chunk, N] scores.

    Args:
      queries: [Q, D] floats.
      corpus: [N, D] floats.
      k: how many; where it exceeds N the rest of a row is index -1 with score -inf.
      chunk: queries a device call.

    Returns:
      indices [Q, k] int32 and scores [Q, k] float32.

    Raises:
      ValueError: shapes do not fit, or k or chunk is below 1.
    """
    queries, corpus = np.asarray(queries, np.float32), np.asarray(corpus, np.float32)
    if queries.ndim != 2 or corpus.ndim != 2 or queries.shape[1] != corpus.shape[1]:
        raise ValueError(f"queries {queries.shape} and corpus {corpus.shape}: pass [Q, D] and [N, D]")
    if k < 1:
        raise ValueError(f"k: {k}; pass at least 1")
    if chunk < 1:
        raise ValueError(f"chunk: {chunk}; pass at least 1")
    indices = np.full((len(queries), k), -1, np.int32)
    scores = np.full((len(queries), k), -np.inf, np.float32)
    found = min(k, len(corpus))
    if not found or not len(queries):
        return indices, scores
    chunk = min(chunk, len(queries))
    on_device = jnp.asarray(corpus)
    for start in range(0, len(queries), chunk):
        block = queries[start : start + chunk]
        padded = np.pad(block, ((0, chunk - len(block)), (0, 0)))  # one shape, one compilation
        block_scores, block_indices = _top_k_of_chunk(padded, on_device, found)
        # Fetching at once keeps a single chunk's scores in device memory.
        scores[start : start + len(block), :found] = np.asarray(block_scores)[: len(block)]
        indices[start : start + len(block), :found] = np.asarray(block_indices)[: len(block)]
    return indices, scores


@functools.partial(jax.jit, static_argnames="k")
def _top_k_of_chunk(queries: jax.Array, corpus: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    scores = jnp.matmul(queries, corpus.T, precision=jax.lax.Precision.HIGHEST)
    values, indices = jax.lax.top_k(scores, k)
    return values, indices
