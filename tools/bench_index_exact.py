"""Where a tree begins to pay: exact search against the tree that the size suggests, alternating in one run."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from bench_common import Measured, alternate, print_table, ratios
from bench_index_sides import K
from bench_vectors import make_vectors

from distill.retrieval.keyphrase_index import seconds_a_query
from distill.retrieval.scann_index import build_index

SIZES = tuple((count, width) for width in (64, 384) for count in (5000, 10_000, 20_000, 50_000))
BATCH = 500  # queries that are asked in one call
AT_LEAST = 0.2  # seconds of a timed run


def compare_exact(sizes: Sequence[tuple[int, int]], target: float, rounds: int) -> dict[str, float]:
    """Prints a table of sizes.

    Returns:
      `index_tree_vs_exact/NxWIDTH`: queries a second of the tree ÷ those of exact search, the median over rounds.
    """
    figures, rows = {}, []
    for count, width in sizes:
        corpus, queries = make_vectors(count, 2 * BATCH, width, seed=0)
        sample, asked = queries[:BATCH], queries[BATCH:]
        tree, exact = (
            build_index(corpus, brute_force_below=below, target_recall=target, sample_queries=sample, seed=0)
            for below in (0, count + 1)
        )
        sides = {
            name: lambda _, index=index, asked=asked: Measured(1, seconds_a_query(index, asked, K, AT_LEAST))
            for name, index in {"tree": tree, "exact": exact}.items()
        }
        runs = alternate(sides, rounds)
        each = ratios(runs["tree"], runs["exact"])
        figures[f"index_tree_vs_exact/{count}x{width}"] = round(statistics.median(each), 2)
        settings = tree.settings
        how = f"leaves {settings.leaves}, searched {settings.leaves_to_search}, reorder {settings.reorder}"
        rows.append(
            [f"{count:,} × {width}", f"{statistics.median(each):.2f}", f"{min(each):.2f} to {max(each):.2f}", how]
        )
    print_table(f"tree ÷ exact search, recall@{K} of {target}", ["size", "queries/s", "range", "tree"], rows)
    return figures
