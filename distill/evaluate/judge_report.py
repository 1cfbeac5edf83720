"""The report's section on the judge: how far it agrees with humans and with itself, and what its raw score is worth."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
import scipy.stats

from distill.evaluate import plots
from distill.evaluate.report_plots import Drawn, drawn, reliability_rows
from distill.judge.calibration import ScoreCalibration

_HEADLINE = {
    "auc_exact": ("AUC, exact against the rest", "by the grade"),
    "score_auc_exact": ("AUC, exact against the rest", "by the raw score"),
    "auc_relevant": ("AUC, anything but irrelevant", "by the grade"),
    "score_auc_relevant": ("AUC, anything but irrelevant", "by the raw score"),
    "kappa": ("quadratic kappa", ""),
    "same_grade": ("same grade", ""),
}
_ABSENT = {
    "headline": "There are no pairs that judge and humans both graded (table judge_agreement), so the judge is "
    "unverified here.",
    "slices": "No slices were handed to this report.",
    "consistency": "The judge was not asked anything twice, so how far it agrees with itself is not known.",
    "calibration": "The judge gives no raw score on both valid and test pairs, so there is nothing to calibrate.",
}


def judge_section(figures: Mapping[str, Any]) -> dict[str, Any]:
    """What the template needs, from the figures that the judge stage saved; what is missing is said to be absent.

    Args:
      figures: by name, each as its class in `distill.judge` or as JSON of it, None for NaN:
        `agreement` (JudgeAgreement), `intervals` (AgreementIntervals), `slices` (dimension → list of AgreementSlice),
        `consistency` (SelfConsistency), `calibration` (ScoreCalibration).

    Returns:
      `headline`: rows of `label`, `by` and `figure` (`value`, `low`, `high`), undefined figures left out;
      `pairs`, `keyphrases`: counts behind them, or None;
      `confusion`: [human 0–3][judge 0–3] of counts, or empty;
      `slices`: rows of `title` and `rows`, each of `name`, `pairs`, `auc_exact` and `kappa`;
      `consistency`, `calibration`: as given, or None;
      `plots`: name → `Drawn`, `judge_reliability` where the judge has a raw score;
      `absent`: part → the sentence that says why it is empty.
    """
    given = {name: _numbers(part) for name, part in figures.items() if part}
    agreement, intervals = given.get("agreement"), given.get("intervals")
    headline = _headline(agreement, intervals)
    slices = [{"title": title, "rows": rows} for title, rows in given.get("slices", {}).items() if rows]
    calibration, consistency = given.get("calibration"), given.get("consistency")
    consistency = consistency if consistency and consistency["comparisons"] else None
    parts = {"headline": headline, "slices": slices, "consistency": consistency, "calibration": calibration}
    return {
        "pairs": (agreement or intervals or {}).get("pairs"),
        "keyphrases": (intervals or {}).get("keyphrases"),
        "confusion": agreement["confusion"] if agreement else [],
        **parts,
        "plots": {"judge_reliability": _drawn(calibration)} if calibration else {},
        "absent": {name: text for name, text in _ABSENT.items() if not parts[name]},
    }


def _drawn(calibration: ScoreCalibration) -> Drawn:
    table = reliability_rows(calibration["predicted"], calibration["observed"], calibration["count"])
    return drawn(judge_reliability(calibration), *table)


def judge_reliability(calibration: ScoreCalibration) -> str:
    """Predicted chance that humans agree against the share that did, with 95 % Wilson intervals, as an SVG element."""
    predicted, observed = np.asarray(calibration["predicted"]), np.asarray(calibration["observed"])
    count = np.asarray(calibration["count"], int)
    hits = np.rint(observed * count).astype(int)
    bounds = [scipy.stats.binomtest(h, n).proportion_ci(0.95, "wilson") for h, n in zip(hits.tolist(), count.tolist())]
    bars = np.reshape([[o - b.low, b.high - o] for o, b in zip(observed, bounds)], (-1, 2)).T.clip(0)
    with matplotlib.rc_context(plots.STYLE):
        figure, (axis,) = plots.grid(1, columns=1, width=4.4, height=3.6)
        axis.plot([0, 1], [0, 1], color=plots.INK, linewidth=1, linestyle="--", label="ideal")
        axis.errorbar(
            predicted, observed, bars, color=plots.COLORS[0], marker="o", markersize=5, linewidth=1.4, capsize=3
        )
        for x, y, n in zip(predicted, observed, count):
            axis.annotate(f"{n:,}", (x, y), (5, -11), textcoords="offset points", fontsize=7)
        axis.set(
            xlim=(-0.02, 1.06),
            ylim=(-0.04, 1.08),
            xlabel="predicted from the judge's raw score",
            ylabel="share that humans call so",
        )
        axis.legend(fontsize=8, loc="upper left")
        return plots.svg(figure, "judge-reliability", "Reliability of the judge's raw score against human labels")


def _headline(agreement: Mapping[str, Any] | None, intervals: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    rows = []
    for name, (label, by) in _HEADLINE.items():
        figure = (intervals or {}).get(name)
        if figure is None and name in (agreement or {}):
            figure = {"value": agreement[name], "low": math.nan, "high": math.nan}  # type: ignore[index]
        if figure is not None and math.isfinite(figure["value"]):
            rows.append({"label": label, "by": by, "figure": figure})
    return rows


def _numbers(part: Any) -> Any:
    """None, which stands for NaN in JSON, as NaN again."""
    if isinstance(part, Mapping):
        return {name: _numbers(value) for name, value in part.items()}
    if isinstance(part, list | tuple):
        return [_numbers(value) for value in part]
    return math.nan if part is None else part
