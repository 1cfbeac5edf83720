"""The assistant: reads `[CLS] keyphrase [SEP] item text [SEP]` (types 0 and 1, as BERT) and gives one raw logit.

Parameters are `{'encoder': …, 'pooler': {kernel [D, D], bias [D]}, 'classifier': {kernel [D, 1], bias [1]}}`, the
layout of Hugging Face's `BertForSequenceClassification` with one label.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from distill.models.encoder import EncoderSpec, PackedTokens, Params, dropout, encode, init_encoder
from distill.models.pooling import pool, take_slots


def init_cross_encoder(
    spec: EncoderSpec, seed: int, encoder_params: Params | None = None, pooler_params: Params | None = None
) -> Params:
    """Parameters, a function of (spec, seed); a given encoder or pooler (`load_pretrained`) is used as it is."""
    pooler_key, classifier_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), 1))

    def dense(key: jax.Array, width: int) -> Params:
        return {"kernel": 0.02 * jax.random.normal(key, (spec.width, width)), "bias": jnp.zeros((width,))}

    return {
        "encoder": init_encoder(spec, seed) if encoder_params is None else encoder_params,
        "pooler": dense(pooler_key, spec.width) if pooler_params is None else pooler_params,
        "classifier": dense(classifier_key, 1),
    }


def score(
    spec: EncoderSpec,
    params: Params,
    packed: PackedTokens,
    slots: jax.Array,
    max_texts_per_row: int,
    dropout_key: jax.Array | None = None,
) -> jax.Array:
    """Raw relevance logits of packed pairs (`sigmoid` gives the relevance).

    Args:
      spec: static.
      params: as of `init_cross_encoder`.
      packed: int32 [R, L] fields, one segment a pair.
      slots: int32 [N], row * S + (segment - 1); negative is padding.
      max_texts_per_row: S; static.
      dropout_key: turns dropout on, before the classifier too.

    Returns:
      float32 [N]; 0.0 where the slot is negative.
    """
    encoder_key, head_key = (None, None) if dropout_key is None else jax.random.split(dropout_key)
    hidden = encode(spec, params["encoder"], packed, dropout_key=encoder_key)
    first = take_slots(pool(hidden, packed, max_texts_per_row, "first"), slots)
    pooled = jnp.tanh(first @ params["pooler"]["kernel"] + params["pooler"]["bias"])
    pooled = dropout(pooled, spec.dropout, head_key)
    logits = (pooled @ params["classifier"]["kernel"] + params["classifier"]["bias"])[:, 0]
    return jnp.where(jnp.asarray(slots) >= 0, logits, 0.0)
