"""The student: one encoder for items and keyphrases, mean pooling, unit vectors, Matryoshka prefixes.

Parameters are `{'encoder': …}`, as of `distill.models.encoder.init_encoder`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from distill.models.encoder import EncoderSpec, PackedTokens, Params, encode, init_encoder
from distill.models.pooling import pool, take_slots


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
    slots: jax.Array,
    max_texts_per_row: int,
    width: int | None = None,
    dropout_key: jax.Array | None = None,
) -> jax.Array:
    """Unit embeddings of packed texts.

    Args:
      spec: static.
      params: `{'encoder': …}`.
      packed: int32 [R, L] fields.
      slots: int32 [N], row * S + (segment - 1); negative is padding.
      max_texts_per_row: S; static.
      width: a Matryoshka prefix; None is the full width D. Static.
      dropout_key: turns dropout on.

    Returns:
      float32 [N, width or D]; zeros where the slot is negative.
    """
    hidden = encode(spec, params["encoder"], packed, dropout_key=dropout_key)
    pooled = take_slots(pool(hidden, packed, max_texts_per_row, "mean"), slots)
    return normalise(pooled) if width is None else prefix(pooled, width)
