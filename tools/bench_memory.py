"""Peak memory of one contrastive training step of a MiniLM-sized student on the CPU, by batch size.

    .venv/bin/python tools/bench_memory.py --pairs=16384 [--chunk_rows=32] [--run]

Each pair is a title of about 32 tokens and the keyphrase of about 8 that was clicked for it; every other keyphrase of
the batch is a negative. Prints what the compiled program asks for and, with --run, what the process took at most; the
last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time

os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import numpy as np

from distill.config import OptimizerConfig, ParallelConfig, StudentConfig, TaskWeights
from distill.data.item_batches import ItemBatches, Quota
from distill.data.pair_pool import join_signals
from distill.data.ragged import Ragged
from distill.models import bi_encoder
from distill.models.encoder import EncoderSpec
from distill.parallel.mesh import make_mesh, to_global
from distill.stages.student import ROW_FIELDS, batch_arrays
from distill.train.objectives import make_student_loss
from distill.train.optimizer import make_optimizer
from distill.train.state import create_state
from distill.train.step import compile_step

MINILM = EncoderSpec(vocab_size=30_522, layers=6, width=384, heads=12, mlp_width=1536, max_positions=512)
ROW_TOKENS, GIB = 128, 1 << 30


def texts(count: int, mean: int, seed: int) -> Ragged:
    """Random texts of mean/2 … 3·mean/2 tokens."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(mean // 2, 3 * mean // 2 + 1, count)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    return Ragged(rng.integers(1, MINILM.vocab_size, offsets[-1]).astype(np.int32), offsets)


def clicks(pairs: int, chunk_rows: int) -> ItemBatches:
    """One batch of as many items, each with a clicked keyphrase of its own."""
    each = np.arange(pairs)
    return ItemBatches(
        join_signals(teacher=None, searched=None, clicked=(each, each), keyphrases=pairs, exclude=each[:0]),
        texts(pairs, 32, 0),
        texts(pairs, 8, 1),
        batch_items=pairs,
        topic_items=1,
        quota=Quota(teacher=0, searched=0, clicked=1),
        row_tokens=ROW_TOKENS,
        shards=1,
        steps=1,
        seed=0,
        chunk_rows=chunk_rows,
    )


def measure(pairs: int, chunk_rows: int, run: bool) -> dict[str, float]:
    data = clicks(pairs, chunk_rows)
    mesh = make_mesh(ParallelConfig(), jax.devices()[:1])
    settings = StudentConfig(tasks=TaskWeights(1.0, 0.0, 0.0), widths=(64, MINILM.width))

    def embed(params, rows, slots, key):
        texts = data.budget.texts_per_row
        return bi_encoder.embed(MINILM, params, rows, slots, texts, dropout_key=key, chunk_rows=chunk_rows)

    loss = make_student_loss(embed, settings)
    optimizer = make_optimizer(OptimizerConfig(), steps=10)
    state = create_state(bi_encoder.init_bi_encoder(MINILM, 0), optimizer, mesh)
    batch = data.build(0)
    arrays = to_global(mesh, batch_arrays(batch, settings), ROW_FIELDS)
    compiled = compile_step(state, loss, optimizer, seed=0).lower(state, arrays).compile()
    memory = compiled.memory_analysis()
    asked = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
    figures = {
        "pairs": pairs,
        "rows": len(batch.texts.tokens),
        "compiled_gib": (asked - memory.alias_size_in_bytes) / GIB,
    }
    if run:
        start = time.perf_counter()
        _, scalars = compiled(state, arrays)
        figures["loss"] = float(scalars["loss"])
        figures["seconds"] = time.perf_counter() - start
        figures["peak_rss_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB
    return figures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=16_384)
    parser.add_argument("--chunk_rows", type=int, default=32, help="rows encoded at a time; 0: all")
    parser.add_argument("--run", action="store_true", help="take the step too, and read the process's peak")
    arguments = parser.parse_args()
    result = measure(arguments.pairs, arguments.chunk_rows, arguments.run)
    for name, value in result.items():
        print(f"{name:>13}  {value:,.3f}" if isinstance(value, float) else f"{name:>13}  {value:,}")
    print(json.dumps(result))
