"""How much of an accelerator packed bfloat16 student training uses, and its speed against sentence-transformers there.

    PYTHONPATH=. python tools/bench_gpu.py            # one accelerator: a random BERT-base, synthetic lengths
    PYTHONPATH=. python tools/bench_gpu.py --tiny     # anywhere: only shows that it runs

Ours needs jax, flax and optax alone; the peer needs PyTorch and sentence-transformers in `--peers`. MFU is the FLOPs of
`distill.models.flops` ÷ (time × the device's dense bfloat16 peak): packed rows as they run, padding included, of which
`real_token_share` is text. Last line: JSON.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# The peer shares the accelerator's memory.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import numpy as np
from bench_common import Measured, Peer, PeerError, alternate, median_rate, print_table, ratios

from distill.config import DistillLoss, OptimizerConfig, ParallelConfig, StudentConfig, TaskWeights
from distill.data.packing import Packed, RowBudget, pack, rows_needed
from distill.data.ragged import Ragged
from distill.models import bi_encoder
from distill.models.encoder import REMAT, EncoderSpec, PackedTokens
from distill.models.flops import TRAINING, embed_flops
from distill.parallel.mesh import make_mesh, to_global
from distill.train.objectives import make_student_loss
from distill.train.optimizer import make_optimizer, make_schedule
from distill.train.state import create_state
from distill.train.step import compile_step
from distill.train.throughput import peak_flops, peak_memory

BERT_BASE = EncoderSpec(
    vocab_size=30_522, layers=12, width=768, heads=12, mlp_width=3072, max_positions=512, compute_dtype="bfloat16"
)
TINY = EncoderSpec(vocab_size=200, layers=1, width=32, heads=2, mlp_width=64, max_positions=128)
ROW_TOKENS = 128
KEYPHRASES_PER_ITEM = 7
BATCHES = 4  # different ones, taken in turn
WARM_UP = 3  # steps; the first holds the compilation
SCALE = 20.0  # of CoSENT
OPTIMIZER = OptimizerConfig()


@dataclasses.dataclass(frozen=True)
class Texts:
    """One step's items and keyphrases, K of the latter an item; items share none, so nothing is saved by sharing."""

    items: Ragged
    keyphrases: Ragged
    teacher: np.ndarray  # float32 [items, K], logits of four grades


def make_texts(spec: EncoderSpec, items: int, seed: int) -> Texts:
    """Lengths like those of real titles (median 26 tokens, at most 72) and keyphrases (median 7, at most 24)."""
    rng = np.random.default_rng(seed)

    def draw(count: int, median: float, spread: float, most: int) -> Ragged:
        lengths = np.clip(np.round(rng.lognormal(math.log(median), spread, count)), 4, most).astype(np.int64)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        return Ragged(rng.integers(5, spec.vocab_size, offsets[-1], dtype=np.int32), offsets)

    grades = np.array([-4.6, -2.2, 0.0, 4.6], np.float32)
    teacher = grades[rng.integers(0, 4, (items, KEYPHRASES_PER_ITEM))]
    return Texts(draw(items, 26, 0.45, 72), draw(items * KEYPHRASES_PER_ITEM, 7, 0.3, 24), teacher)


class Student:
    """Our training step on one device, over packed batches of one shape."""

    def __init__(self, spec: EncoderSpec, texts: list[Texts], steps: int):
        self._mesh = make_mesh(ParallelConfig(), jax.devices()[:1])
        joined = [Ragged.concatenate(each.items, each.keyphrases) for each in texts]
        budget = _budget(joined)
        packed = [pack(each, budget) for each in joined]
        self._batches = [_arrays(each, rows) for each, rows in zip(texts, packed)]
        self._pairs = texts[0].teacher.size
        self.flops = TRAINING * embed_flops(spec, *budget)
        self.real_token_share = float(np.mean([(rows.segments > 0).mean() for rows in packed]))
        settings = StudentConfig(
            tasks=TaskWeights(clicks=0.0, search_relevance=0.0, distill=1.0),
            distill=DistillLoss(pearson=0.0, cosent=1.0, scale=SCALE),
            widths=(spec.width,),
            width_weights=(1.0,),
        )
        self.params = bi_encoder.init_bi_encoder(spec, seed=0)
        optimizer = make_optimizer(OPTIMIZER, steps)
        self._state = create_state(self.params, optimizer, self._mesh)

        def embed(params: Any, rows: Any, slots: Any, key: Any) -> Any:
            return bi_encoder.embed(spec, params, rows, slots, budget.texts_per_row, dropout_key=key)

        loss = make_student_loss(embed, settings)
        self._step = compile_step(self._state, loss, optimizer, seed=0)

    def run(self, start: int, count: int) -> Measured:
        losses: list[jax.Array] = []
        begun = time.perf_counter()
        for step in range(start, start + count):
            batch = self._batches[step % len(self._batches)]
            self._state, scalars = self._step(self._state, to_global(self._mesh, batch, frozenset(batch)))
            losses.append(scalars["loss"])
        jax.block_until_ready(self._state)
        seconds = time.perf_counter() - begun
        return Measured(self._pairs * count, seconds, tuple(float(loss) for loss in losses))


def _budget(texts: list[Ragged]) -> RowBudget:
    rows, densest = zip(*(rows_needed(each.lengths, ROW_TOKENS) for each in texts))
    return RowBudget(max(rows), ROW_TOKENS, max(densest))


def _arrays(texts: Texts, rows: Packed) -> dict[str, Any]:
    item_slots, keyphrase_slots = np.split(rows.slots, [len(texts.teacher)])
    return {
        "rows": PackedTokens(*rows[:4]),
        "item_slots": item_slots,
        "keyphrase_slots": keyphrase_slots,
        "candidates": np.arange(texts.teacher.size, dtype=np.int32).reshape(texts.teacher.shape),
        "teacher": texts.teacher,
    }


def measure_mfu(spec: EncoderSpec, items: int, rounds: int, steps: int) -> dict[str, float]:
    """Our step alone, at a batch that fills the device; a round is whole cycles of the batches."""
    student = Student(spec, [make_texts(spec, items, seed) for seed in range(BATCHES)], WARM_UP + rounds * steps)
    warm_up = student.run(0, WARM_UP)
    print(f"{spec.attention}: warm-up, compilation included, took {warm_up.seconds:.1f} s (not counted)", flush=True)
    runs = [student.run(WARM_UP + number * steps, steps) for number in range(rounds)]
    if not np.isfinite(runs[-1].losses).all():
        raise RuntimeError(f"{spec.attention}: the loss became {runs[-1].losses[-1]}")
    seconds = statistics.median(run.seconds for run in runs) / steps
    figures = {
        "teraflops": student.flops / seconds / 1e12,
        "step_milliseconds": 1000 * seconds,
        "pairs_per_second": items * KEYPHRASES_PER_ITEM / seconds,
        "real_token_share": student.real_token_share,
        "memory_gib": peak_memory(jax.devices()[:1]) / 2**30,
    }
    peak = peak_flops(jax.devices()[0].device_kind)
    return ({"mfu": student.flops / seconds / peak} if peak else {}) | figures


def start_peer(python: Path, folder: Path, spec: EncoderSpec, student: Student, texts: list[Texts], steps: int) -> Peer:
    """A peer with our initial weights and the same pairs; raises PeerError where there is none."""
    peer = Peer(python, Path(__file__).parent / "peers/gpu_peer.py")
    try:
        from distill.models.pretrained import bert_config, to_hugging_face
    except ImportError as error:
        raise PeerError(f"{error}; it is needed to hand our weights over") from error

    weights, batches = folder / "weights.npz", folder / "batches.json"
    np.savez(weights, **to_hugging_face(jax.device_get(student.params)))  # type: ignore[arg-type]
    batches.write_text(json.dumps([_pairs(each) for each in texts]), encoding="utf-8")
    schedule = make_schedule(OPTIMIZER, steps)
    answer = peer.ask(
        do="load",
        config=bert_config(spec),
        weights=str(weights),
        batches=str(batches),
        scale=SCALE,
        rates=np.asarray([schedule(step) for step in range(steps)]).tolist(),
        optimizer=dataclasses.asdict(OPTIMIZER),
        autocast=spec.compute_dtype == "bfloat16",
    )
    print(f"peer: {peer.versions} on {answer['device']}", flush=True)
    return peer


def _pairs(texts: Texts) -> dict[str, list]:
    """Independent pairs: each item once for each of its keyphrases."""

    def rows(ragged: Ragged) -> list[list[int]]:
        return [ragged.values[begin:end].tolist() for begin, end in zip(ragged.offsets[:-1], ragged.offsets[1:])]

    return {
        "left": [item for item in rows(texts.items) for _ in range(KEYPHRASES_PER_ITEM)],
        "right": rows(texts.keyphrases),
        "labels": np.asarray(jax.nn.sigmoid(texts.teacher)).reshape(-1).tolist(),
    }


def measure_ratio(spec: EncoderSpec, items: int, rounds: int, steps: int, python: Path) -> float:
    """Our pairs/s ÷ the peer's, alternating, at a batch that the peer can hold too. Raises PeerError."""
    total = WARM_UP + rounds * steps
    texts = [make_texts(spec, items, seed) for seed in range(BATCHES)]
    student = Student(spec, texts, total)
    with tempfile.TemporaryDirectory() as folder:
        peer = start_peer(python, Path(folder), spec, student, texts, total)

        def theirs(start: int, count: int) -> Measured:
            answer = peer.ask(do="run", start=start, count=count)
            return Measured(answer["count"], answer["seconds"], tuple(answer["losses"]))

        try:
            first, other = student.run(0, WARM_UP).losses[0], theirs(0, WARM_UP).losses[0]
            print(f"loss at step 0: ours {first:.5f}, sentence-transformers {other:.5f}", flush=True)
            tolerance = 1e-4 if spec.compute_dtype == "float32" else 2e-2  # bfloat16 rounds at 0.4 %
            if not abs(first - other) <= tolerance * max(1.0, abs(first)):
                raise PeerError("the losses at step 0 differ, so both sides do not do the same work")
            results = alternate(
                {
                    "ours": lambda number: student.run(WARM_UP + number * steps, steps),
                    "sentence-transformers": lambda number: theirs(WARM_UP + number * steps, steps),
                },
                rounds,
            )
        finally:
            peer.close()
    each = ratios(results["ours"], results["sentence-transformers"])
    rows = [[side, f"{median_rate(runs):,.0f}"] for side, runs in results.items()]
    print_table(f"{items} items of {KEYPHRASES_PER_ITEM} keyphrases a step", ["side", "pairs/s"], rows)
    print(f"ratio {statistics.median(each):.2f} ({min(each):.2f} to {max(each):.2f} over the rounds)")
    return statistics.median(each)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=512, help="a step, for MFU")
    parser.add_argument("--ratio-items", type=int, default=128, help="a step, beside the peer, which needs more memory")
    parser.add_argument("--attention", nargs="+", choices=("matmul", "cudnn"), default=["matmul", "cudnn"])
    parser.add_argument("--remat", choices=tuple(REMAT), default="none")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20, help=f"of a round, a multiple of {BATCHES}")
    parser.add_argument("--peers", type=Path, default=Path(sys.executable), help="interpreter of the peer")
    parser.add_argument("--tiny", action="store_true", help="sizes, in float32, that only show that the bench runs")
    flags = parser.parse_args()
    if flags.steps < 1 or flags.steps % BATCHES:
        parser.error(f"--steps={flags.steps}: must be a multiple of {BATCHES}")
    base, items, ratio_items = (TINY, 8, 8) if flags.tiny else (BERT_BASE, flags.items, flags.ratio_items)
    kinds = ["matmul"] if flags.tiny else flags.attention
    device = jax.devices()[0].device_kind
    print(f"{device}, jax {jax.__version__}, {base.layers} layers of {base.width}, {base.compute_dtype}", flush=True)
    specs = {kind: dataclasses.replace(base, attention=kind, remat=flags.remat) for kind in kinds}
    measured = {kind: measure_mfu(spec, items, flags.rounds, flags.steps) for kind, spec in specs.items()}
    best = max(measured, key=lambda kind: measured[kind]["teraflops"])
    rows = [[name, *(f"{measured[kind][name]:,.4g}" for kind in kinds)] for name in measured[best]]
    print_table(f"Student training, {items} items a step, by attention", ["figure", *kinds], rows)
    if "mfu" not in measured[best]:
        print(f"no peak is known for {device!r}, so there is no MFU")
    figures = {name: round(value, 4) for name, value in measured[best].items()}
    try:
        ratio = measure_ratio(specs[best], ratio_items, flags.rounds, flags.steps, flags.peers)
        figures["student_distill"] = round(ratio, 3)
    except PeerError as error:
        print(f"no ratio: {error}")
    print(json.dumps({"device": device, "attention": best} | figures))


if __name__ == "__main__":
    main()
