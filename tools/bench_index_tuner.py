"""The index's tuner against an exhaustive grid of trees and searches, on queries that the tuner did not see."""

from __future__ import annotations

import dataclasses
import itertools
import statistics
import time

from bench_common import alternate, median_rate, print_table, ratios
from bench_index_sides import Chosen, K, Ours, Unreached, Work, fastest, points_on_target

from distill.retrieval import scann_native
from distill.retrieval.index_settings import TreeSettings
from distill.retrieval.keyphrase_index import KeyphraseIndex
from distill.retrieval.scann_index import build_index

LEAVES = (0.5, 1, 2, 4)  # multiples of √N
DIMS_PER_BLOCK = (1, 2, 4)
SOAR = (0.0, 1.5)
REORDERS = (1, 1.1, 1.25, 1.5, 2, 3, 4, 6)  # multiples of K
FINALISTS = 3
TUNER = "tuner"
LEAST_SPEED, MOST_ERROR = 0.9, 0.01  # what must hold: the choice's share of the grid's best, its distance to the target


def check_tuner(work: Work, target: float, tune_seconds: float, rounds: int) -> dict[str, float]:
    """Prints a table of the tuner's choice and the grid's best, and whether what must hold does.

    All run on `work.queries`. A point of the grid has to reach the target there, or the recall of the tuner's choice
    where that is lower, so that a miss does not count as speed. Exact search is a point of the grid, and as a choice
    of the tuner no miss of the target.

    Returns:
      `tuner_qps_vs_grid`: queries a second of the tuner's choice ÷ the grid's best; `tuner_recall_error`: recall of
      the choice on those queries less the target.
    """
    begun = time.perf_counter()
    index = build_index(
        work.corpus,
        brute_force_below=0,
        target_recall=target,
        sample_queries=work.sample,
        seed=0,
        tune_seconds=tune_seconds,
    )
    settings = index.settings
    tuned = Ours(TUNER, index, time.perf_counter() - begun, work)
    parameters = {"leaves_to_search": settings.leaves_to_search, "reorder": settings.reorder} if settings.leaves else {}
    choice = Chosen(tuned, parameters, work.recall(tuned.find(parameters)))
    level = min(target, choice.recall)
    points: list[Chosen] = []
    for tree in (TreeSettings(), *_trees(len(work.corpus))):
        begun = time.perf_counter()
        built = settings.with_tree(tree) if tree.leaves else dataclasses.replace(settings, leaves=0)
        index = KeyphraseIndex(scann_native.build(work.corpus, built), built, work.corpus, work.sample)
        side = Ours(f"grid: {tree}", index, time.perf_counter() - begun, work, [round(r * K) for r in REORDERS])
        try:
            point = fastest(list(points_on_target(side, work, level)))
        except Unreached as error:
            print(f"{tree}: {error}", flush=True)
            continue
        print(f"{tree}: {point.measure().rate:,.0f} queries/s with {point.parameters}", flush=True)
        points.append(point)
    passes = alternate({point.side.name: point.measure for point in points}, 3) if points else {}
    best = sorted(points, key=lambda point: -median_rate(passes[point.side.name]))[:FINALISTS]
    runs = alternate({chosen.side.name: chosen.measure for chosen in (choice, *best)}, rounds)
    rows = []
    for chosen in (choice, *best):
        each = ratios(runs[TUNER], runs[chosen.side.name])
        searched = ", ".join(f"{name} {value}" for name, value in chosen.parameters.items())
        tree = ", ".join(f"{name} {value}" for name, value in chosen.side.settings.items())
        rate = f"{median_rate(runs[chosen.side.name]):,.0f}"
        rows.append(
            [
                chosen.side.name.split(":")[0],
                rate,
                f"{chosen.recall:.4f}",
                f"{statistics.median(each):.2f}",
                f"{tree}, {searched}",
            ]
        )
    count, width = work.corpus.shape
    header = ["side", "queries/s", "recall@100", "tuner ÷ it", "settings"]
    print_table(f"tuner and grid, {count:,} × {width}, recall ≥ {level:.4f}", header, rows)
    figures = {"tuner_recall_error": round(choice.recall - target, 4)}
    exact = "" if settings.leaves else " (exact search)"
    near = abs(choice.recall - target) <= MOST_ERROR or bool(exact)
    print(
        f"tuner: recall {choice.recall:.4f} on queries that it did not see{exact}, target {target} ± {MOST_ERROR}: "
        f"{_verdict(near)}"
    )
    if best:
        fastest_name = max((chosen.side.name for chosen in best), key=lambda name: median_rate(runs[name]))
        speed = figures["tuner_qps_vs_grid"] = round(statistics.median(ratios(runs[TUNER], runs[fastest_name])), 3)
        print(
            f"tuner: {speed:.3f} of the grid's best queries/s, at least {LEAST_SPEED}: {_verdict(speed >= LEAST_SPEED)}"
        )
    return figures


def _verdict(holds: bool) -> str:
    return "holds" if holds else "DOES NOT HOLD"


def _trees(count: int) -> list[TreeSettings]:
    return [
        TreeSettings(max(16, round(factor * count**0.5)), dims, soar)
        for factor, dims, soar in itertools.product(LEAVES, DIMS_PER_BLOCK, SOAR)
    ]
