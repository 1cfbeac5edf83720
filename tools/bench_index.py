"""Speed of the keyphrase index against faiss, hnswlib and usearch at equal recall, alternating in one run.

    make bench-index [VECTORS=keyphrases.npy QUERIES=items.npy]

All sides hold the same unit vectors (`tools/bench_vectors.py`, or real ones), are pinned to the same two cores and
search the same queries for their 100 nearest, all queries in one call. Every kind of index has a small sweep of builds,
the cheap ones first, and each build a cap, after which it is stopped. For every build the cheapest search whose
recall@100 on those queries meets the target is found by bisection; ours keeps what its tuner built, from a sample of
other queries, and has the leaves to search bisected likewise. The fastest of each kind goes into alternating rounds.

Task `tuner` checks the tuner alone: its choice against the fastest of an exhaustive grid, and its recall on queries
that it did not see; it says whether they are within 10 % and .01, as they must be. Task `exact` tells from which number
of keyphrases on a tree is faster than exact search. Last line: JSON.
`index_qps_vs_best_peer` is our queries a second ÷ those of the fastest peer, the median over rounds; `index_recall`
ours in them; `index_build_vs_fastest` the seconds of the fastest build among the peers' finalists ÷ those of ours
without tuning, whose speed is `index_untuned_qps_vs_best_peer`. The figures of a second size have it behind their
names.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from bench_common import PeerError, alternate, median_rate, print_table, ratios
from bench_index_exact import SIZES, compare_exact
from bench_index_sides import Chosen, Ours, OverTheCap, Theirs, Work, fastest, points_on_target
from bench_index_tuner import check_tuner
from bench_vectors import make_vectors, read_vectors

from distill.retrieval.scann_index import build_index

ROOT = Path(__file__).parents[1]
TUNED, UNTUNED = "ours", "ours, untuned"
SAMPLE, QUERIES = 1000, 4000
TASKS = ("peers", "tuner", "exact")


def sweeps(count: int, width: int) -> dict[str, list[dict[str, Any]]]:
    """The builds of each kind of peer, cheap ones first."""
    graphs = [{"m": 12, "ef_construction": 80}, {"m": 16, "ef_construction": 120}, {"m": 24, "ef_construction": 200}]
    cells = [max(16, round(factor * count**0.5)) for factor in (1, 4)]
    few, many = (2, 1) if width < 256 else (4, 2)  # fast-scan gets slow where a vector has very many codes
    return {
        "faiss IVF-PQ": [
            {"cells": c, "dims_per_code": d, "residual": residual}
            for c in cells
            for d, residual in ((few, False), (few, True), (many, False), (many, True))
        ],
        "faiss HNSW": [{**graphs[0], "storage": s} for s in ("SQ8", "Flat")]
        + [{**graph, "storage": "SQ8"} for graph in graphs[1:]],
        "hnswlib": graphs,
        "usearch": [{**graphs[0], "dtype": d} for d in ("i8", "bf16", "f32")]
        + [{**graph, "dtype": "f32"} for graph in graphs[1:]],
    }


KINDS = tuple(sweeps(SAMPLE, 64))


@dataclasses.dataclass
class Bench:
    peers: Path
    threads: int
    target: float
    rounds: int
    cap: float
    tune_seconds: float
    kinds: Sequence[str] = KINDS
    figures: dict[str, float] = dataclasses.field(default_factory=dict)
    skipped: list[str] = dataclasses.field(default_factory=list)

    def compare(self, work: Work, label: str) -> None:
        """One size: a table, and figures whose names end in the label."""
        finalists = [self.ours(work, UNTUNED, 0.0), self.ours(work, TUNED, self.tune_seconds)]
        builds = sweeps(*work.corpus.shape)
        for kind in self.kinds:
            try:
                finalists.append(self.best_build(work, kind, builds[kind]))
            except PeerError as error:
                self.skipped.append(f"{label.strip('/') or 'first size'}: no ratio to {kind}: {error}")
        for chosen in finalists:
            chosen.measure()
        runs = alternate({chosen.side.name: chosen.measure for chosen in finalists}, self.rounds)
        single = alternate({c.side.name: lambda _, c=c: c.side.measure_single(c.parameters) for c in finalists}, 3)
        rows = []
        for chosen in sorted(finalists, key=lambda chosen: -median_rate(runs[chosen.side.name])):
            name = chosen.side.name
            each = ratios(runs[TUNED], runs[name])
            rows.append(
                [
                    name,
                    f"{median_rate(runs[name]):,.0f}",
                    f"{median_rate(single[name]):,.0f}",
                    f"{chosen.recall:.4f}",
                    f"{statistics.median(each):.2f}",
                    f"{min(each):.2f} to {max(each):.2f}",
                    f"{chosen.side.seconds:.1f}",
                    _words(chosen.side.settings | chosen.parameters),
                ]
            )
        count, width = work.corpus.shape
        header = ["side", "queries/s", "one by one", "recall@100", "ours ÷ it", "range", "build s", "settings"]
        print_table(f"{count:,} × {width}, medians over rounds", header, rows)
        untuned, tuned, *theirs = finalists
        self.figures[f"index_recall{label}"] = round(tuned.recall, 4)
        if theirs:
            best = max((chosen.side.name for chosen in theirs), key=lambda name: median_rate(runs[name]))
            for key, name in (("index_qps", TUNED), ("index_untuned_qps", UNTUNED)):
                ratio = statistics.median(ratios(runs[name], runs[best]))
                self.figures[f"{key}_vs_best_peer{label}"] = round(ratio, 3)
            quickest = min(chosen.side.seconds for chosen in theirs)
            self.figures[f"index_build_vs_fastest{label}"] = round(quickest / untuned.side.seconds, 3)
        for chosen in finalists:
            chosen.side.close()

    def ours(self, work: Work, name: str, tune_seconds: float) -> Chosen:
        begun = time.perf_counter()
        index = build_index(
            work.corpus,
            brute_force_below=0,
            target_recall=self.target,
            sample_queries=work.sample,
            seed=0,
            tune_seconds=tune_seconds,
        )
        side = Ours(name, index, time.perf_counter() - begun, work)
        delivered = work.recall(side.find({}))
        print(f"{name}: built in {side.seconds:.1f} s; recall@100 as it comes {delivered:.4f}", flush=True)
        return fastest(list(points_on_target(side, work, self.target)))

    def best_build(self, work: Work, kind: str, builds: Sequence[dict[str, Any]]) -> Chosen:
        """The fastest at the target; raises PeerError where there is none."""
        best, reasons = None, []
        for settings in builds:
            side = None
            try:
                side = Theirs(self.peers, kind, settings, work, self.threads, self.cap)
                chosen = fastest(list(points_on_target(side, work, self.target)))
            except PeerError as error:
                if side:
                    side.close()
                reasons.append(f"{_words(settings)}: {error}")
                print(f"{kind}, {reasons[-1]}", flush=True)
                if isinstance(error, OverTheCap):
                    break  # those to come are larger
                continue
            rate = chosen.measure().rate
            print(
                f"{kind}, {_words(settings)}: built in {side.seconds:.1f} s; {_words(chosen.parameters)} gives "
                f"{rate:,.0f} queries/s at recall {chosen.recall:.4f}",
                flush=True,
            )
            kept = chosen if best is None else fastest([best, chosen])
            if best and kept is chosen:
                best.side.close()
            elif best:
                side.close()
            best = kept
        if best is None:
            raise PeerError("; ".join(dict.fromkeys(reasons)))
        return best


def _words(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def _size(text: str) -> tuple[int, int]:
    count, width = (int(part) for part in text.split("x"))
    return count, width


def read_real(vectors: Path, queries: Path | None, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Corpus and queries, unit vectors, shuffled; without a file of queries, rows are held out to serve as such."""
    corpus = read_vectors(vectors, width)
    corpus = corpus[np.random.default_rng(0).permutation(len(corpus))]
    if queries is None:
        held_out = min(len(corpus) // 10, SAMPLE + QUERIES)
        return corpus[held_out:], corpus[:held_out]
    asked = read_vectors(queries, width)
    return corpus, asked[np.random.default_rng(1).permutation(len(asked))[: SAMPLE + QUERIES]]


def make_work(flags: argparse.Namespace, size: tuple[int, int], folder: Path) -> Work:
    count, width = size
    if flags.vectors:
        corpus, queries = read_real(flags.vectors, flags.queries, width)
        corpus = corpus[:count]
    else:
        corpus, queries = make_vectors(count, SAMPLE + QUERIES if count >= 20_000 else 500, width, seed=0)
    sample = len(queries) * SAMPLE // (SAMPLE + QUERIES)
    return Work.create(corpus, queries[:sample], queries[sample:], folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--sizes", nargs="+", type=_size, default=[(1_000_000, 64), (200_000, 384)], metavar="NxWIDTH")
    parser.add_argument("--tuner-size", type=_size, default=(200_000, 64), metavar="NxWIDTH", help="for task tuner")
    parser.add_argument("--exact-sizes", nargs="+", type=_size, default=SIZES, metavar="NxWIDTH", help="for task exact")
    parser.add_argument("--vectors", type=Path, help="a .npy file of real embeddings to search; sizes cut it")
    parser.add_argument(
        "--queries", type=Path, help="a .npy file of real queries; rows of --vectors where there is none"
    )
    parser.add_argument("--peers", type=Path, default=ROOT / ".venv-peers/bin/python", help="the peers' interpreter")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="of peers")
    parser.add_argument("--threads", type=int, default=2, help="of every side, on as many cores")
    parser.add_argument("--target", type=float, default=0.95, help="recall@100")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--cap", type=float, default=600, help="seconds that a peer's build may take")
    parser.add_argument("--tune-seconds", type=float, default=300, help="budget of our tuner")
    flags = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))[: flags.threads]
    if len(cores) < flags.threads:
        parser.error(f"--threads={flags.threads}: this process may use {len(cores)} cores only")
    if min(count for count, _ in (*flags.sizes, flags.tuner_size)) < 1000:
        parser.error("--sizes: pass at least 1000 vectors")
    os.sched_setaffinity(0, cores)  # the peers inherit it
    bench = Bench(flags.peers, flags.threads, flags.target, flags.rounds, flags.cap, flags.tune_seconds, flags.kinds)
    source = flags.vectors.name if flags.vectors else "generated vectors"
    print(f"{source}; scann {importlib.metadata.version('scann')}; {flags.threads} threads a side", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for i, size in enumerate(flags.sizes if "peers" in flags.tasks else ()):
            work = make_work(flags, size, Path(folder) / str(i))
            bench.compare(work, "" if i == 0 else f"/{size[0]}x{size[1]}")
            del work
        if "exact" in flags.tasks:
            bench.figures |= compare_exact(flags.exact_sizes, flags.target, flags.rounds)
        if "tuner" in flags.tasks:
            work = make_work(flags, flags.tuner_size, Path(folder) / "tuner")
            bench.figures |= check_tuner(work, flags.target, flags.tune_seconds, flags.rounds)
    print("\n".join(bench.skipped), end="\n" if bench.skipped else "")
    print(json.dumps(bench.figures))


if __name__ == "__main__":
    sys.exit(main())
