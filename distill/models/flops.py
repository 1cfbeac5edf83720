"""Floating-point operations of the models, counted from their sizes and the shapes of packed rows.

Counted are matrix products, 2 · m · n · k each, as Megatron-LM and PaLM count (arXiv 2104.04473, 2204.02311 appendix
B): attention over whole rows, padding included, for that is what runs; not the element-wise operations, look-ups and
losses, a few per cent at common widths; nor what rematerialisation computes again.
"""

from __future__ import annotations

from distill.models.decoder import DecoderSpec
from distill.models.encoder import EncoderSpec

TRAINING = 3  # a product's gradient is two products of the same size


def encoder_flops(spec: EncoderSpec, rows: int, length: int) -> int:
    """Of one `encode` of [rows, length] tokens."""
    tokens, width = rows * length, spec.width
    projections = 4 * width * width  # query, key, value and output
    attention = 2 * length * width  # logits and mixing
    mlp = 2 * width * spec.mlp_width
    return 2 * tokens * spec.layers * (projections + attention + mlp)


def embed_flops(spec: EncoderSpec, rows: int, length: int, texts_per_row: int) -> int:
    """Of one `bi_encoder.embed`: the encoder and the pooling product."""
    return encoder_flops(spec, rows, length) + 2 * rows * texts_per_row * length * spec.width


def score_flops(spec: EncoderSpec, rows: int, length: int, texts_per_row: int, pairs: int) -> int:
    """Of one `cross_encoder.score` of `pairs` slots: the encoder, its pooling product, pooler and classifier."""
    return embed_flops(spec, rows, length, texts_per_row) + 2 * pairs * spec.width * (spec.width + 1)


def decoder_flops(spec: DecoderSpec, rows: int, length: int, prefix: int = 0, scored: int = 0) -> int:
    """Of one `hidden_states` of [rows, length] tokens after a common prefix, and of `scored` tokens' logits.

    A token attends to the prefix, to itself and to those before it in its row, other branches included; what runs is a
    little more. The logits are those of the whole vocabulary. That the prefix itself was run is not counted.
    """
    queries, keys = spec.heads * spec.head_width, spec.kv_heads * spec.head_width
    projections = spec.width * (2 * queries + 2 * keys)  # query, key, value and output
    attention = (2 * prefix + length + 1) * queries  # logits and mixing
    mlp = 3 * spec.width * spec.mlp_width
    layers = 2 * rows * length * spec.layers * (projections + attention + mlp)
    return layers + 2 * scored * spec.width * spec.vocab_size
