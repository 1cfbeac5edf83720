"""Exact top-k by inner product: the reference that every approximate index is measured against."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def top_k(
    queries: np.ndarray,
    corpus: np.ndarray,
    k: int,
    *,
    chunk: int = 256,
    devices: Sequence[Any] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The k corpus rows of largest inner product with each query, best first.

    Equal scores are ordered by index, the lower first. The corpus is split over the devices: each finds the best of
    its own part, and the best of those few are kept. Queries go through `chunk` at a time, so the memory beside the
    inputs is that of [chunk, N] scores over all devices.

    Args:
      queries: [Q, D] floats.
      corpus: [N, D] floats.
      k: how many; where it exceeds N the rest of a row is index -1 with score -inf.
      chunk: queries a call.
      devices: of this process; None is all of them.

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
    chunk, size = min(chunk, len(queries)), len(corpus)
    mesh = Mesh(np.asarray(jax.local_devices() if devices is None else devices), ("corpus",))
    if padding := -len(corpus) % mesh.size:
        corpus = np.pad(corpus, ((0, padding), (0, 0)))
    split = jax.device_put(corpus, NamedSharding(mesh, PartitionSpec("corpus")))
    for start in range(0, len(queries), chunk):
        block = queries[start : start + chunk]
        filled = np.pad(block, ((0, chunk - len(block)), (0, 0)))  # one shape, one compilation
        block_scores, block_indices = _top_k_of_chunk(filled, split, found, size, mesh)
        # Fetching at once keeps a single chunk's scores in device memory.
        scores[start : start + len(block), :found] = np.asarray(block_scores)[: len(block)]
        indices[start : start + len(block), :found] = np.asarray(block_indices)[: len(block)]
    return indices, scores


@functools.partial(jax.jit, static_argnames=("k", "size", "mesh"))
def _top_k_of_chunk(
    queries: jax.Array, corpus: jax.Array, k: int, size: int, mesh: Mesh
) -> tuple[jax.Array, jax.Array]:
    """`corpus` is padded to a multiple of the devices; its first `size` rows are real, and k is at most `size`."""

    def best_of_part(queries: jax.Array, part: jax.Array) -> tuple[jax.Array, jax.Array]:
        index = jax.lax.axis_index("corpus") * len(part) + jnp.arange(len(part), dtype=jnp.int32)
        scores = jnp.matmul(queries, part.T, precision=jax.lax.Precision.HIGHEST)
        values, places = jax.lax.top_k(jnp.where(index < size, scores, -jnp.inf), min(k, len(part)))
        return values, index[places]

    split, whole = PartitionSpec("corpus"), PartitionSpec()
    # Side by side in the order of the devices; so among equal scores the lower index still comes first.
    side_by_side = PartitionSpec(None, "corpus")
    values, indices = jax.shard_map(
        best_of_part, mesh=mesh, in_specs=(whole, split), out_specs=(side_by_side, side_by_side)
    )(queries, corpus)
    best, places = jax.lax.top_k(values, k)
    return best, jnp.take_along_axis(indices, places, axis=1)
