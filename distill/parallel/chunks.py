"""A long batch in chunks of rows, so that it needs the memory of one chunk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

ENTRIES_AT_ONCE = 1 << 24  # of a matrix that grows with the square of the batch; 64 MiB of float32


def rows_at_once(entries_per_row: int) -> int:
    """How many rows of so many entries are made at once: a power of two, so that it divides most batches."""
    return 1 << max(0, (ENTRIES_AT_ONCE // max(1, entries_per_row)).bit_length() - 1)


def split_rows(rows: Any, chunks: int) -> Any:
    """[R, …] leaves as [chunks, ⌈R / chunks⌉, …], padded with zeros at the end.

    Chunk j holds rows j, j + chunks, j + 2 chunks, …: where the rows are split over N devices and R is a multiple of
    N · chunks, each device finds its share of every chunk among its own rows, and nothing is moved.
    """

    def split(leaf: jax.Array) -> jax.Array:
        leaf = jnp.asarray(leaf)
        if missing := -leaf.shape[0] % chunks:
            leaf = jnp.pad(leaf, [(0, missing)] + [(0, 0)] * (leaf.ndim - 1))
        return leaf.reshape(-1, chunks, *leaf.shape[1:]).swapaxes(0, 1)

    return jax.tree.map(split, rows)


def map_rows(function: Callable[[Any, Any], Any], rows: Any, chunk_rows: int, key: jax.Array | None = None) -> Any:
    """`function(rows, key)` over at most `chunk_rows` rows at a time; the same values and gradients as all at once.

    The backward pass computes each chunk again, so that of a chunk nothing but its result is kept: GradCache (Gao et
    al., arXiv 2101.06983) as a scan. It costs one more forward pass.

    Args:
      function: takes a pytree of [r, …] rows and a key or None, gives one of [r, …]; each row's result depends on that
        row alone.
      rows: a pytree of [R, …] arrays.
      chunk_rows: 0 is all at once. Static.
      key: where given, each chunk has a key of its own.

    Returns:
      `function`'s results, [R, …].
    """
    count = jax.tree.leaves(rows)[0].shape[0]
    if not 0 < chunk_rows < count:
        return function(rows, key)
    chunks = -(-count // chunk_rows)
    keys = None if key is None else jax.random.split(key, chunks)
    # In a scan nothing can be shared between the two passes, so their products need no barrier.
    once_more = jax.checkpoint(function, prevent_cse=False)
    results = jax.lax.map(lambda chunk: once_more(*chunk), (split_rows(rows, chunks), keys))

    def join(leaf: jax.Array) -> jax.Array:
        joined = leaf.swapaxes(0, 1).reshape(-1, *leaf.shape[2:])
        return joined if len(joined) == count else joined[:count]

    return jax.tree.map(join, results)
