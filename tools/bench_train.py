"""Training and embedding speed against sentence-transformers on CPU PyTorch, alternating in one run.

    make bench-train [ESCI_ADS=DIR] [MODEL=DIR]

Both sides start from the same weights, see the same pairs in every step, descend the same loss with AdamW, clipping and
schedule alike, without dropout, on all cores; the losses must be equal at step 0. Ours builds its packed batches while
it trains and that is timed; the peer's are padded before. Last line: JSON of ratios (ours ÷ peer), medians over rounds.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"

import bench_workload as workload
import jax
import numpy as np
from bench_common import Measured, Peer, PeerError, alternate, median_rate, print_table, ratios
from bench_workload import Task, Workload

from distill.config import OptimizerConfig
from distill.data.stream import stream_steps
from distill.export.huggingface import export_assistant, export_student
from distill.parallel.mesh import to_global
from distill.retrieval.encoding import embed_texts
from distill.train.optimizer import make_optimizer, make_schedule
from distill.train.state import create_state
from distill.train.step import compile_step

ROOT = Path(__file__).parents[1]
TASKS = ("student_distill", "student_contrastive", "assistant", "encode")
WARM_UP = 2  # steps; the first holds the compilation
TOLERANCE = 1e-4  # of the loss at step 0, relative above 1
OPTIMIZER = OptimizerConfig()
OURS, PEER, DEDUPLICATING = "ours", "sentence-transformers", "deduplicating PyTorch"


class Unequal(RuntimeError):
    """Both sides did not do the same work, so no ratio of theirs means anything."""


class Trainer:
    """Our side of a task: the project's step over the project's stream of batches."""

    def __init__(self, task: Task, steps: int, mesh: jax.sharding.Mesh):
        self._task, self._mesh = task, mesh
        optimizer = make_optimizer(OPTIMIZER, steps)
        self._state = create_state(task.params, optimizer, mesh)
        self._step = compile_step(self._state, task.loss_fn, optimizer, seed=0)

    def run(self, start: int, count: int) -> Measured:
        losses: list[jax.Array] = []
        pairs = 0
        begun = time.perf_counter()
        # A stream of its own for each run, so that none builds batches while the peer is timed.
        for batch, number in stream_steps(self._task.arrays, start, start + count):
            batch = to_global(self._mesh, batch, self._task.row_fields)
            self._state, scalars = self._step(self._state, batch)
            losses.append(scalars["loss"])
            pairs += number
        jax.block_until_ready(self._state)
        seconds = time.perf_counter() - begun
        return Measured(pairs, seconds, tuple(float(loss) for loss in losses))


@dataclasses.dataclass
class Bench:
    work: Workload
    peer: Peer | None
    folder: Path
    rounds: int
    steps: int
    figures: dict[str, float] = dataclasses.field(default_factory=dict)
    rows: list[list[str]] = dataclasses.field(default_factory=list)
    ends: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)  # side → first and last embeddings

    def train(self, make: Callable[[Workload, int], Task], deduplicating: bool = False) -> None:
        """Compares one task; a ratio goes to `figures` under the task's name."""
        total = WARM_UP + self.rounds * self.steps
        task = make(self.work, total)
        ours = Trainer(task, total, self.work.context.mesh)
        first = ours.run(0, 1)
        print(
            f"{task.name}: our first step, compilation included, took {first.seconds:.1f} s (not counted)", flush=True
        )
        ours.run(1, WARM_UP - 1)
        sides: dict[str, Callable[[int], Measured]] = {OURS: lambda number: ours.run(self._start(number), self.steps)}
        names = {PEER: task.name} | ({DEDUPLICATING: f"{task.name}/deduplicating"} if deduplicating else {})
        if self.peer:
            self._load(task, total, names)
            for side, name in names.items():
                theirs = self._peer_run(name, 0, 1)
                _check(task.name, first.losses[0], side, theirs.losses[0])
                self._peer_run(name, 1, WARM_UP - 1)
                sides[side] = lambda number, name=name: self._peer_run(name, self._start(number), self.steps)
        results = alternate(sides, self.rounds)
        self._show(task.name, "pairs/s", results, f"loss at step 0: {first.losses[0]:.5f}")
        if not self.peer:
            return
        losses = [np.concatenate([run.losses for run in results[side]]) for side in (OURS, PEER)]
        drift = np.abs(losses[0] - losses[1]).max()
        print(f"{task.name}: losses of all timed steps differ by at most {drift:.1e}", flush=True)
        for name in names.values():
            self.peer.ask(do="unload", name=name)

    def encode(self, rounds: int) -> None:
        """Compares embedding all item texts, then all keyphrases, from text to vectors."""
        work, encoder = self.work, self.work.context.experiment.encoder
        lists = {
            "items": (work.item_texts, encoder.item_tokens),
            "keyphrases": (work.keyphrases, encoder.keyphrase_tokens),
        }

        def ours(_: int) -> Measured:
            begun = time.perf_counter()
            vectors = [
                embed_texts(
                    work.spec,
                    work.params,
                    work.tokenizer.encode_texts(texts, limit),
                    row_tokens=work.row_tokens,
                    mesh=work.context.mesh,
                )
                for texts, limit in lists.values()
            ]
            seconds = time.perf_counter() - begun
            self.ends[OURS] = np.stack([chunk[at] for chunk in vectors for at in (0, -1)])
            return Measured(sum(len(texts) for texts, _ in lists.values()), seconds)

        ours(0)  # compiles
        sides: dict[str, Callable[[int], Measured]] = {OURS: ours}
        if self.peer:
            self.peer.ask(do="load_encoder", model=str(self.folder / "student"))
            paths = [self._write(f"{name}.json", texts) for name, (texts, _) in lists.items()]
            sample = [self._write(f"sample-{name}.json", texts[:512]) for name, (texts, _) in lists.items()]
            self.peer.ask(do="encode", texts=sample, batch_size=32)
            speed = {size: self._peer_encode(sample, size).rate for size in (16, 32, 64, 128)}
            size = max(speed, key=speed.__getitem__)
            print(f"encode: the peer's fastest batch size on a sample is {size}", flush=True)
            sides[PEER] = lambda _: self._peer_encode(paths, size)
        results = alternate(sides, rounds)
        worst = max((float(np.abs(self.ends[OURS] - ends).max()) for ends in self.ends.values()), default=0.0)
        if worst > TOLERANCE:
            raise Unequal(f"encode: a coordinate of an embedding differs by {worst:.1e}")
        self._show("encode", "texts/s", results, "equal embeddings" if self.peer else "")

    def _start(self, number: int) -> int:
        return WARM_UP + number * self.steps

    def _write(self, name: str, content: Any) -> str:
        path = self.folder / name
        path.write_text(json.dumps(content), encoding="utf-8")
        return str(path)

    def _load(self, task: Task, total: int, names: dict[str, str]) -> None:
        assert self.peer
        batches = self._write(f"{task.name}.json", [task.texts(step) for step in range(total)])
        schedule = make_schedule(OPTIMIZER, total)
        for side, name in names.items():
            self.peer.ask(
                do="load",
                name=name,
                model=str(self.folder / ("assistant" if task.name == "assistant" else "student")),
                loss=task.peer_loss,
                scale=workload.SCALE,
                batches=batches,
                rates=np.asarray([schedule(step) for step in range(total)]).tolist(),
                optimizer=dataclasses.asdict(OPTIMIZER),
                deduplicate=side == DEDUPLICATING,
            )

    def _peer_run(self, name: str, start: int, count: int) -> Measured:
        assert self.peer
        answer = self.peer.ask(do="run", name=name, start=start, count=count)
        return Measured(answer["count"], answer["seconds"], tuple(answer["losses"]))

    def _peer_encode(self, paths: list[str], size: int) -> Measured:
        assert self.peer
        answer = self.peer.ask(do="encode", texts=paths, batch_size=size)
        self.ends[PEER] = np.array(answer["ends"])
        return Measured(answer["count"], answer["seconds"])

    def _show(self, name: str, unit: str, results: dict[str, list[Measured]], note: str) -> None:
        for side, runs in results.items():
            row = [name, side, f"{median_rate(runs):,.1f} {unit}", "", ""]
            if side != OURS:
                each = ratios(results[OURS], runs)
                key = name if side == PEER else f"{name}_vs_deduplicating_peer"
                self.figures[key] = round(statistics.median(each), 3)
                row[3:] = f"{self.figures[key]:.2f}", f"{min(each):.2f} to {max(each):.2f}"
            self.rows.append(row)
        print(f"{name}: done; {note}", flush=True)


def _check(task: str, ours: float, side: str, theirs: float) -> None:
    if not abs(ours - theirs) <= TOLERANCE * max(1.0, abs(ours)):
        raise Unequal(f"{task}: the loss at step 0 is {ours:.6f}, that of {side} {theirs:.6f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="", help="a data directory; the embedded marketplace when empty")
    parser.add_argument("--model", default="", help="a Hugging Face BERT directory; random weights when there is none")
    parser.add_argument("--peers", type=Path, default=ROOT / ".venv-peers/bin/python", help="the peers' interpreter")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4, help="training steps of a side in a round")
    parser.add_argument("--encode-rounds", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="sizes that only show that the bench runs")
    flags = parser.parse_args()
    weights = Path(flags.model) if flags.model else None if flags.tiny else workload.find_weights(flags.peers)
    skipped = []
    with tempfile.TemporaryDirectory() as folder:
        sizes = workload.TINY if flags.tiny else workload.Sizes()
        work = workload.make_workload(flags.data, weights, sizes, Path(folder) / "work")
        try:
            peer = Peer(flags.peers, ROOT / "tools/peers/train_peer.py", CUDA_VISIBLE_DEVICES="")
        except PeerError as error:
            peer = None
            skipped.append(f"no ratio: {error}")
        bench = Bench(work, peer, Path(folder), flags.rounds, flags.steps)
        print(f"{work.source}; {os.cpu_count()} threads a side")
        print(f"ours: jax {jax.__version__}; peer: {peer.versions if peer else 'none'}", flush=True)
        _export(work, Path(folder))
        run: dict[str, Callable[[], None]] = {
            "student_distill": lambda: bench.train(workload.student_distill, deduplicating=True),
            "student_contrastive": lambda: bench.train(workload.student_contrastive),
            "assistant": lambda: bench.train(workload.assistant),
            "encode": lambda: bench.encode(flags.encode_rounds),
        }
        unequal = False
        for name in flags.tasks:
            try:
                run[name]()
            except (PeerError, Unequal) as error:
                unequal |= isinstance(error, Unequal)
                skipped.append(f"{name}: {error}")
        if peer:
            peer.close()
    print_table("Medians over rounds", ["task", "side", "speed", "ours ÷ it", "range"], bench.rows)
    print("\n".join(skipped), end="\n" if skipped else "")
    print(json.dumps(bench.figures))
    sys.exit(int(unequal))


def _export(work: Workload, folder: Path) -> None:
    """The weights that both sides start from, as the directories that sentence-transformers loads."""
    params = workload.cross_encoder_params(work)
    longest = work.context.experiment.encoder.item_tokens
    export_student(folder / "student", work.spec, work.params, work.tokenizer, longest, (work.spec.width,))
    export_assistant(folder / "assistant", work.spec, params, work.tokenizer, work.pair_limit)


if __name__ == "__main__":
    main()
