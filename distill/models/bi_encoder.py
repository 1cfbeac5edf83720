"""The student: one encoder for items and keyphrases, mean pooling, unit vectors, Matryoshka prefixes.

Parameters are `{'encoder': …}`, as of `distill.models.encoder.init_encoder`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from distill.models.encoder import EncoderSpec, PackedTokens, Params, encode, init_encoder
from distill.models.pooling import pool, take_slots
from distill.parallel.chunks import map_rows


def init_bi_encoder(spec: EncoderSpec, seed: int) -> Params:
    """Random parameters, a function of (spec, seed)."""
    return {"encoder": init_encoder(spec, seed)}


def normalise(vectors: jax.Array) -> jax.Array:
    """Unit vectors along the last axis; a zero vector stays zero with a finite gradient."""
    return vectors * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(vectors), axis=-1, keepdims=True), 1e-12))


def prefix(embeddings: jax.Array, width: int) -> jax.Array:
    """The first `width` coordinates, normalised again (Matryoshka, arXiv 2205.13147): [..., D] → [..., width].

    Raises:
      ValueError: `width` is not within 1 … D.
    """
    if not 1 <= width <= embeddings.shape[-1]:
        raise ValueError(f"prefix width is {width}; the embeddings have {embeddings.shape[-1]} coordinates")
    return normalise(embeddings[..., :width])


def embed(
    spec: EncoderSpec,
    params: Params,
    packed: PackedTokens,
    slots: Any,
    max_texts_per_row: int,
    width: int | None = None,
    dropout_key: jax.Array | None = None,
    chunk_rows: int = 0,
) -> Any:
    """Unit embeddings of packed texts.

    Args:
      spec: static.
      params: `{'encoder': …}`.
      packed: int32 [R, L] fields.
      slots: int32 [N], row * S + (segment - 1); negative is padding. Or a tree of such arrays.
      max_texts_per_row: S; static.
      width: a Matryoshka prefix; None is the full width D. Static.
      dropout_key: turns dropout on.
      chunk_rows: rows that are encoded at a time, whose activations are all that is ever held (`map_rows`); 0 is all
        R. Static. Dropout draws differ with it, nothing else does.

    Returns:
      float32 [N, width or D], or a tree like `slots`; zeros where the slot is negative.
    """

    def pooled_rows(rows: PackedTokens, key: jax.Array | None) -> jax.Array:
        hidden = encode(spec, params["encoder"], rows, dropout_key=key)
        return pool(hidden, rows, max_texts_per_row, "mean")

    pooled = map_rows(pooled_rows, packed, chunk_rows, dropout_key)
    vectors = jax.tree.map(lambda wanted: take_slots(pooled, wanted), slots)
    return jax.tree.map(normalise if width is None else lambda taken: prefix(taken, width), vectors)
