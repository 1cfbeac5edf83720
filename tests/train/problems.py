"""A small student and its batches, for tests of the step and the loop."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from distill.config import OptimizerConfig, ParallelConfig, StudentConfig, TaskWeights, TrainingConfig
from distill.data.item_batches import ItemBatches, Quota
from distill.data.pair_pool import join_signals
from distill.data.ragged import Ragged
from distill.models import bi_encoder
from distill.models.encoder import EncoderSpec
from distill.parallel.mesh import make_mesh, to_global
from distill.reporting import Reporter, Silent
from distill.stages.student import ROW_FIELDS, batch_arrays
from distill.train.loop import Batch, Fit, fit
from distill.train.objectives import make_student_loss, student_extras
from distill.train.optimizer import make_optimizer
from distill.train.state import TrainState, create_state
from distill.train.step import compile_step

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


def batches(steps: int, *, pairs: int = 1, keyphrase_tokens: tuple[int, int] = (2, 8), **changes) -> ItemBatches:
    """Batches of 30 items and 60 keyphrases; `pairs` seeds what the signals say of them."""
    rng = np.random.default_rng(pairs)
    item, keyphrase = rng.integers(0, 30, 500), rng.integers(0, 60, 500)
    clicked = rng.random(500) < 0.3
    pool = join_signals(
        teacher=(item, keyphrase, rng.normal(size=500)),
        searched=(item[:200], keyphrase[:200], (rng.random(200) < 0.5).astype(float)),
        clicked=(item[clicked], keyphrase[clicked]),
        keyphrases=60,
        exclude=np.zeros(0, np.int64),
    )
    settings: dict[str, Any] = {"batch_items": 8, "topic_items": 2, "quota": Quota(4, 2, 2), "row_tokens": 32}
    settings |= {"shards": 8, "steps": steps, "seed": 0} | changes
    return ItemBatches(pool, texts(30, 4, 20, 2), texts(60, *keyphrase_tokens, 3), **settings)


def params() -> dict:
    return bi_encoder.init_bi_encoder(SPEC, 0) | {"search_relevance": student_extras()}


def loss_fn(data: ItemBatches, settings: StudentConfig):
    def embed(params, rows, slots, key):
        return bi_encoder.embed(SPEC, params, rows, slots, data.budget.texts_per_row, dropout_key=key)

    return make_student_loss(embed, settings)


class Lines(Silent):
    """A reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def line(self, text: str) -> None:
        self.lines.append(text)


def one_device() -> jax.sharding.Mesh:
    return make_mesh(ParallelConfig(), devices=jax.devices()[:1])


def fresh_state(mesh: jax.sharding.Mesh, steps: int) -> TrainState:
    return create_state(params(), make_optimizer(OptimizerConfig(learning_rate=1e-2), steps), mesh)


@functools.lru_cache
def compiled(mesh: jax.sharding.Mesh, steps: int) -> Callable[..., Any]:
    """The step of `train`; compiled once for all tests of a process, for that is what takes long."""
    small = loss_fn(batches(steps), config())

    def loss(params: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        value, scalars = small(params, batch, key)
        return value * batch["factor"], scalars

    return compile_step(fresh_state(mesh, steps), loss, make_optimizer(OptimizerConfig(learning_rate=1e-2), steps), 0)


def train(
    directory: Path,
    steps: int,
    *,
    mesh: jax.sharding.Mesh | None = None,
    validate: Callable[[Any], dict[str, float]] = lambda params: {"quality": 0.5},
    validations: int = 4,
    training: TrainingConfig | None = None,
    reporter: Reporter | None = None,
    before: Callable[[int], None] = lambda step: None,
    poisoned: int | None = None,
    profile: bool = False,
) -> Fit:
    """Fits the small student. `before(step)` is called ahead of each batch; that of step `poisoned` gives NaN."""
    mesh, data = mesh or one_device(), batches(steps)

    def stream(start: int, params: Any) -> Iterator[Batch]:
        for index in range(start, steps):
            before(index + 1)
            batch = data.build(index)
            factor = np.float32("nan" if index + 1 == poisoned else 1)
            arrays = to_global(mesh, batch_arrays(batch, config()) | {"factor": factor}, ROW_FIELDS)
            yield Batch(arrays, batch.pairs, batch.tokens)

    return fit(
        name="test",
        state=fresh_state(mesh, steps),
        step_fn=compiled(mesh, steps),
        batches=stream,
        batch_ids=lambda index: {"item_id": [f"item {i}" for i in data.ids(index)[0]]},
        steps=steps,
        validate=validate,
        metric="quality",
        validations=validations,
        directory=directory,
        reporter=reporter or Silent(),
        training=training or TrainingConfig(),
        profile=profile,
    )
