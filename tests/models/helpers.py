"""Packing by hand, so that the models' tests do not lean on `distill.data.packing`."""

from collections.abc import Sequence

import jax
import numpy as np

from distill.models import bi_encoder, cross_encoder, encoder
from distill.models.encoder import EncoderSpec, PackedTokens

TINY = EncoderSpec(vocab_size=50, layers=2, width=32, heads=4, mlp_width=48, max_positions=24)

# Compiled as in training; op by op they would take minutes.
encode = jax.jit(encoder.encode, static_argnums=0)
embed = jax.jit(bi_encoder.embed, static_argnums=(0, 4, 5))
score = jax.jit(cross_encoder.score, static_argnums=(0, 4))


def pack_rows(rows: Sequence[Sequence[np.ndarray]], length: int, types: Sequence[Sequence[np.ndarray]] | None = None):
    """Rows of texts, in order, padded to `length`: the tokens, the flat slot of every text, and S, the longest row."""
    fields = np.zeros((4, len(rows), length), np.int32)
    per_row = max(len(row) for row in rows)
    slots = []
    for r, row in enumerate(rows):
        start = 0
        for s, text in enumerate(row):
            stop = start + len(text)
            fields[0, r, start:stop] = text
            fields[1, r, start:stop] = np.arange(len(text))
            fields[2, r, start:stop] = s + 1
            if types is not None:
                fields[3, r, start:stop] = types[r][s]
            slots.append(r * per_row + s)
            start = stop
    return PackedTokens(*fields), np.array(slots, np.int32), per_row


def random_texts(lengths: Sequence[int], seed: int = 0, vocab_size: int = 50) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.integers(5, vocab_size, n).astype(np.int32) for n in lengths]


def scaled(params, factor: float = 10.0):
    """Initial weights are so small that attention is almost even; larger ones make a test of it worth something."""
    return jax.tree_util.tree_map_with_path(
        lambda path, x: x * factor if path[-1].key in ("kernel", "embedding") else x + 0.1, params
    )
