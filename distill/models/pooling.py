"""From token vectors of packed rows to one vector a text."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from distill.models.encoder import PackedTokens


def pool(hidden: jax.Array, packed: PackedTokens, max_texts_per_row: int, mode: str) -> jax.Array:
    """One vector for each text of each row.

    A product with 0/1 weights within a row, so rows may be sharded over devices without communication.

    Args:
      hidden: [R, L, D].
      packed: [R, L] fields; `segments` runs from 1 to at most `max_texts_per_row` (S) in every row.
      max_texts_per_row: S; static.
      mode: `mean` over the text's tokens or its `first` token ([CLS]).

    Returns:
      [R, S, D]; slot s holds segment s + 1, and zeros where the row has no such segment.

    Raises:
      ValueError: an unknown mode.
    """
    segments = jnp.asarray(packed.segments)
    wanted = jnp.arange(1, max_texts_per_row + 1, dtype=segments.dtype)
    members = segments[:, None, :] == wanted[:, None]  # [R, S, L]
    if mode == "first":
        weights = (members & (jnp.asarray(packed.positions)[:, None, :] == 0)).astype(hidden.dtype)
    elif mode == "mean":
        weights = members.astype(hidden.dtype)
        weights = weights / jnp.maximum(weights.sum(axis=-1, keepdims=True), 1)
    else:
        raise ValueError(f"pooling mode is {mode!r}; use 'mean' or 'first'")
    return jnp.einsum("rsl,rld->rsd", weights, hidden)


def take_slots(pooled: jax.Array, slots: jax.Array) -> jax.Array:
    """Pooled vectors by flat slot.

    Args:
      pooled: [R, S, D].
      slots: int32 [N], row * S + (segment - 1); negative is padding.

    Returns:
      [N, D]; zeros (and no gradient) where the slot is negative.
    """
    slots = jnp.asarray(slots)
    taken = pooled.reshape(-1, pooled.shape[-1])[jnp.maximum(slots, 0)]
    return jnp.where((slots >= 0)[:, None], taken, 0)
