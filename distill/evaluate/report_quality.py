"""The report's figures of models: tables by referee, differences, and the verdict on the student."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from distill.evaluate.metric_table import DESCRIPTIONS, MetricText
from distill.evaluate.report_contents import ReportData
from distill.evaluate.significance import Interval

ByMetric = Mapping[str, Mapping[str, Interval]]  # metric → model → figure

MODELS = {
    "bm25": "BM25: word matching, no training",
    "graphex": "GraphEx: keyphrases of the listing's category that its title covers best, no training",
    "zero_shot": "the student's encoder before training",
    "assistant": "the cross-encoder taught by the judge; reads every pair, too slow to search with",
    "student": "the bi-encoder taught by the assistant; this one is served",
    "student_clicks": "the same student taught by clicks alone",
    "student_search_relevance": "the same student taught by the search engine's relevance alone",
    "student_no_assistant": "the same student taught by the judge's grades directly",
}
HEADLINE = ("human/ndcg@10", "human/auc_exact", "holdout/ndcg@10", "truth/recall@20", "never_exposed/recall@20")
_FAMILIES = {
    "human": "Against human labels",
    "holdout": "Against the judge, on held-out listings",
    "truth": "Against the known truth",
    "align": "What is recommended",
}
_FAMILY_OF = {"never_exposed": "truth", "coverage": "align"}  # prefix of a metric's name → the table it joins


@dataclasses.dataclass(frozen=True)
class Figure:
    """A model's figure on one metric."""

    value: float
    low: float
    high: float
    best: bool = False


def by_metric(metrics: Mapping[str, float]) -> dict[str, dict[str, Interval]]:
    """metric → model → figure: whatever has an interval or a description."""
    found: dict[str, dict[str, Interval]] = {}
    for name, value in metrics.items():
        metric, _, model = name.rpartition("/")
        if name.startswith(("diff/", "protocol/")) or model in ("ci_low", "ci_high", "p"):
            continue
        if f"{name}/ci_low" in metrics or metric in DESCRIPTIONS:
            bounds = (metrics.get(f"{name}/{bound}", math.nan) for bound in ("ci_low", "ci_high"))
            found.setdefault(metric, {})[model] = Interval(value, *bounds)
    return found


def families(figures: ByMetric) -> list[dict[str, Any]]:
    """One table a referee: metrics in words, models, figures, the best servable one of each metric marked."""
    order = [*DESCRIPTIONS, *(metric for metric in figures if metric not in DESCRIPTIONS)]
    tables: dict[str, dict[str, Any]] = {}
    for metric in (metric for metric in order if metric in figures):
        by_model = figures[metric]
        prefix = metric.partition("/")[0]
        key = _FAMILY_OF.get(prefix, prefix)
        table = tables.setdefault(
            key, {"key": key, "title": _FAMILIES.get(key, key), "metrics": {}, "models": [], "figures": {}}
        )
        table["metrics"][metric] = DESCRIPTIONS.get(metric, MetricText(metric, "", "not stated"))
        table["models"] = model_order({*table["models"], *by_model})
        rivals = [one.estimate for model, one in by_model.items() if model != "assistant"]
        for model, one in by_model.items():
            best = len(rivals) > 1 and model != "assistant" and one.estimate == max(rivals)
            table["figures"][metric, model] = Figure(one.estimate, one.ci_low, one.ci_high, best)
    return sorted(tables.values(), key=lambda table: [*_FAMILIES, table["key"]].index(table["key"]))


def differences(data: ReportData) -> list[dict[str, Any]]:
    """A row for each paired difference; the protocol's own section shows its."""
    rows = []
    for name, value in data.metrics.items():
        if not name.startswith("diff/") or name.startswith("diff/protocol/"):
            continue
        if name.endswith(("/ci_low", "/ci_high", "/p")):
            continue
        metric, _, pair = name.removeprefix("diff/").rpartition("/")
        low, high, p = (data.metrics.get(f"{name}/{field}", math.nan) for field in ("ci_low", "ci_high", "p"))
        finding = "higher" if low > 0 else "lower" if high < 0 else "no clear difference"
        rows.append(
            {
                "metric": named(metric),
                "pair": pair.replace("-", " − ", 1),
                "figure": Figure(value, low, high),
                "p": p,
                "finding": finding if math.isfinite(low) and math.isfinite(high) else "untested",
                "name": name,
            }
        )
    return rows


def verdict(data: ReportData, figures: ByMetric) -> list[dict[str, Any]]:
    """One entry for each headline metric of the student: its figure, and each opponent's with the difference."""
    entries = []
    for metric in HEADLINE:
        student = figures.get(metric, {}).get("student")
        if student is None:
            continue
        rivals = [_rival(data, metric, model, other) for model, other in _opponents(data, figures[metric])]
        figure = Figure(student.estimate, student.ci_low, student.ci_high)
        text = DESCRIPTIONS[metric]
        entry = {"label": text.label, "meaning": text.meaning, "referee": referee(data, metric), "metric": metric}
        entries.append(entry | {"figure": figure, "rivals": rivals})
    return entries


def referee(data: ReportData, metric: str) -> str:
    """Who judged a metric, in words that say where nobody real did."""
    if metric.startswith("human/") and data.simulated_humans:
        return "simulated human labels"
    if metric.startswith("holdout/") and data.simulated_judge:
        return "the simulated judge's grades, listings never trained on"
    return DESCRIPTIONS[metric].referee if metric in DESCRIPTIONS else "not stated"


def _opponents(data: ReportData, by_model: Mapping[str, Interval]) -> list[tuple[str, Interval]]:
    return [(model, by_model[model]) for model in data.baselines if model in by_model]


def _rival(data: ReportData, metric: str, model: str, other: Interval) -> dict[str, Any]:
    name = f"diff/{metric}/student-{model}"
    change, low, high, p = (data.metrics.get(f"{name}{field}", math.nan) for field in ("", "/ci_low", "/ci_high", "/p"))
    finding = "better" if low > 0 else "worse" if high < 0 else "even"
    return {
        "model": model,
        "about": about(model),
        "value": other.estimate,
        "change": Figure(change, low, high),
        "p": p,
        "finding": finding if math.isfinite(low) and math.isfinite(high) else "untested",
    }


def about(model: str) -> str:
    """A model in words."""
    base, _, prefix = model.partition("@")
    if prefix:
        return f"the first {prefix} numbers of the {base}'s embedding"
    return MODELS.get(model, "another arm of the experiment")


def named(metric: str) -> str:
    """A metric's label with its referee's family, as two families share labels."""
    if metric not in DESCRIPTIONS:
        return metric
    family = {"human": "human", "holdout": "judge", "truth": "truth"}.get(metric.partition("/")[0])
    return f"{DESCRIPTIONS[metric].label} ({family})" if family else DESCRIPTIONS[metric].label


def model_order(models: set[str]) -> list[str]:
    """As `MODELS` has them, a prefix after its model, others last by name."""

    def key(model: str) -> tuple[int, str]:
        base = model.partition("@")[0]
        return (list(MODELS).index(base) if base in MODELS else len(MODELS), model)

    return sorted(models, key=key)
