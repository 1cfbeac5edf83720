"""A small student and its batches, for tests of the step and the loop."""

from __future__ import annotations

import numpy as np

from distill.config import StudentConfig, TaskWeights
from distill.data.item_batches import ItemBatches, Quota, join_signals
from distill.data.ragged import Ragged
from distill.models import bi_encoder
from distill.models.encoder import EncoderSpec
from distill.train.objectives import make_student_loss, student_extras

SPEC = EncoderSpec(vocab_size=64, layers=1, width=16, heads=2, mlp_width=32, max_positions=32, dropout=0.1)


def config(**changes) -> StudentConfig:
    settings = StudentConfig(tasks=TaskWeights(1.0, 0.5, 1.0), widths=(8, 16), dropout=0.1)
    for name, value in changes.items():
        setattr(settings, name, value)
    return settings


def texts(count: int, low: int, high: int, seed: int) -> Ragged:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(low, high, count)
    return Ragged(
        rng.integers(1, 64, lengths.sum()).astype(np.int32), np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    )


def batches(steps: int, shards: int = 8, seed: int = 0) -> ItemBatches:
    rng = np.random.default_rng(1)
    item, keyphrase = rng.integers(0, 30, 500), rng.integers(0, 60, 500)
    clicked = rng.random(500) < 0.3
    pool = join_signals(
        teacher=(item, keyphrase, rng.normal(size=500)),
        searched=(item[:200], keyphrase[:200], (rng.random(200) < 0.5).astype(float)),
        clicked=(item[clicked], keyphrase[clicked]),
        keyphrases=60,
        exclude=np.zeros(0, np.int64),
    )
    return ItemBatches(
        pool,
        texts(30, 4, 20, 2),
        texts(60, 2, 8, 3),
        batch_items=8,
        topic_items=2,
        quota=Quota(4, 2, 2),
        row_tokens=32,
        shards=shards,
        steps=steps,
        seed=seed,
    )


def params() -> dict:
    return bi_encoder.init_bi_encoder(SPEC, 0) | {"search_relevance": student_extras()}


def loss_fn(data: ItemBatches, settings: StudentConfig):
    def embedder(texts_per_row: int):
        return lambda params, rows, slots, key: bi_encoder.embed(
            SPEC, params, rows, slots, texts_per_row, dropout_key=key
        )

    return make_student_loss(embedder(data.item_texts_per_row), embedder(data.keyphrase_texts_per_row), settings)
