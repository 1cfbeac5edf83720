"""The assistant: reads `[CLS] keyphrase [SEP] item text [SEP]` (types 0 and 1, as BERT) and gives one raw logit.

Parameters are `{'encoder': …, 'pooler': {kernel [D, D], bias [D]}, 'classifier': {kernel [D, 1], bias [1]}}`, the
layout of Hugging Face's `BertForSequenceClassification` with one label.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from distill.models.encoder import EncoderSpec, PackedTokens, Params, dropout, encode, init_encoder
from distill.models.pooling import pool, take_slots
from distill.parallel.chunks import map_rows


def init_cross_encoder(spec: EncoderSpec, seed: int, start: Params | None = None) -> Params:
    """Parameters, a function of (spec, seed); the parts that `start` has (`load_pretrained`) are used as they are."""
    pooler_key, classifier_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), 1))

    def dense(key: jax.Array, width: int) -> Params:
        return {"kernel": 0.02 * jax.random.normal(key, (spec.width, width)), "bias": jnp.zeros((width,))}

    start = start or {}
    return {
        "encoder": start.get("encoder") or init_encoder(spec, seed),
        "pooler": start.get("pooler") or dense(pooler_key, spec.width),
        "classifier": start.get("classifier") or dense(classifier_key, 1),
    }


def score(
    spec: EncoderSpec,
    params: Params,
    packed: PackedTokens,
    slots: jax.Array,
    max_texts_per_row: int,
    dropout_key: jax.Array | None = None,
    chunk_rows: int = 0,
) -> jax.Array:
    """Raw relevance logits of packed pairs (`sigmoid` gives the relevance).

    Args:
      spec: static.
      params: as of `init_cross_encoder`.
      packed: int32 [R, L] fields, one segment a pair.
      slots: int32 [N], row * S + (segment - 1); negative is padding.
      max_texts_per_row: S; static.
      dropout_key: turns dropout on, before the classifier too.
      chunk_rows: rows that are read at a time, as in `distill.models.bi_encoder.embed`; 0 is all R. Static.

    Returns:
      float32 [N]; 0.0 where the slot is negative.
    """
    encoder_key, head_key = (None, None) if dropout_key is None else jax.random.split(dropout_key)

    def first_tokens(rows: PackedTokens, key: jax.Array | None) -> jax.Array:
        hidden = encode(spec, params["encoder"], rows, dropout_key=key)
        return pool(hidden, rows, max_texts_per_row, "first")

    first = take_slots(map_rows(first_tokens, packed, chunk_rows, encoder_key), slots)
    pooled = jnp.tanh(first @ params["pooler"]["kernel"] + params["pooler"]["bias"])
    pooled = dropout(pooled, spec.dropout, head_key)
    logits = (pooled @ params["classifier"]["kernel"] + params["classifier"]["bias"])[:, 0]
    return jnp.where(jnp.asarray(slots) >= 0, logits, 0.0)
