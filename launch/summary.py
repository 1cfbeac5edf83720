"""What a person sees before a judge is asked, its cost, and when a run ends: metrics, recommendations, the report."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from distill.evaluate.metric_table import DESCRIPTIONS
from distill.judge.asking import Estimate
from distill.stages import Context
from distill.stages.evaluate import METRICS, REPORT

_ASKED_AT_ONCE = 256  # listings whose recommendations are read at once


def print_estimate(expected: Estimate) -> None:
    """Prints what asking a judge would take."""
    print(f"pairs:             {expected.pairs:,}")
    print(f"known already:     {expected.known:,}")
    print(f"to ask:            {expected.to_ask:,}")
    print(f"prompt tokens:     {expected.prompt_tokens:,}")
    print(f"completion tokens: {expected.completion_tokens:,}")
    print(f"cost:              {expected.cost:,.2f}")


def print_summary(context: Context, listings: int = 3) -> None:
    """Prints the metrics table, recommendations for some held-out listings and the report's path."""
    folder = context.folder("evaluate")
    metrics = json.loads((folder / METRICS).read_text())
    console = Console(width=140, highlight=False)
    models = list(
        dict.fromkeys(
            name.rsplit("/", 1)[1] for name in metrics if name.startswith("holdout/auc/") and name.count("/") == 2
        )
    )
    table = Table("metric", *models, title="Metrics (95 % intervals in the report)")
    for metric in DESCRIPTIONS:
        values = [metrics.get(f"{metric}/{model}") for model in models]
        if any(value is not None for value in values):
            table.add_row(metric, *("–" if value is None else f"{value:.3f}" for value in values))
    console.print(table)
    for name in sorted(metrics):
        if name.startswith("diff/") and name.endswith("/ci_low"):
            stem = name.removesuffix("/ci_low")
            if "recall@20" in stem or "human/ndcg" in stem or "holdout/ndcg" in stem:
                low, high = metrics[name], metrics[stem + "/ci_high"]
                console.print(f"{stem}: {metrics[stem]:+.3f}  [{low:+.3f}, {high:+.3f}]")
    _print_listings(context, console, listings)
    console.print(f"\nReport: {folder / REPORT}")


def _print_listings(context: Context, console: Console, listings: int) -> None:
    from distill.stages.recommend import recommendations

    prepared = context.prepared
    title_of = {prepared.item_ids[item]: prepared.titles[item] for item in np.flatnonzero(prepared.item_is_holdout)}
    ids, shown = list(title_of), 0
    for start in range(0, len(ids), _ASKED_AT_ONCE):  # rarely more than once: most listings have recommendations
        asked = ids[start : start + _ASKED_AT_ONCE]
        rows_of: dict[str, list[dict[str, Any]]] = {}
        for row in recommendations(context, asked).sort_by("rank").to_pylist():
            rows_of.setdefault(row["item_id"], []).append(row)
        for item_id in [item_id for item_id in asked if item_id in rows_of][: listings - shown]:
            shown += 1
            console.print(f"\n[bold]Listing[/bold] {escape(title_of[item_id])}", soft_wrap=True)
            for row in rows_of[item_id][:5]:
                console.print(f"  {row['relevance']:.2f}  {row['keyphrase']}", markup=False)
        if shown == listings:
            return
