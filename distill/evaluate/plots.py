"""The report's plots, as SVG elements to stand inside its page.

Text and axes take the page's own colour (`currentColor`) and the background is transparent, so one picture serves
light, dark and print. The same input gives the same bytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter
from numpy.typing import ArrayLike

from distill.evaluate.significance import Interval
from distill.judge.calibration import Reliability

COLORS = (
    "#3987c9",
    "#e0812f",
    "#2fa37a",
    "#a271d1",
    "#d1556b",
    "#8c8c3a",
    "#4bb3c4",
    "#b0784e",
)  # on white and on black
INK = "#7f7f81"  # replaced by the page's colour
_POINTS = 300  # of a curve, at most
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "report",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.parse_math": False,  # a name with two dollar signs is a name
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": INK,
    "grid.alpha": 0.2,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
}


def curves(series: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """One small plot for each named curve of (step, value), such as `student/loss`; NaN leaves a gap."""
    with matplotlib.rc_context(STYLE):
        figure, axes = grid(len(series))
        for number, (axis, (name, points)) in enumerate(zip(axes, series.items())):
            step, value = np.asarray(points, np.float64).reshape(-1, 2).T
            at = np.unique(np.linspace(0, step.size - 1, min(step.size, _POINTS)).astype(int)) if step.size else []
            dots = "o" if step.size <= 20 else None
            axis.plot(step[at], value[at], color=COLORS[number % len(COLORS)], linewidth=1.5, marker=dots, markersize=3)
            axis.set_title(name, loc="left")
            axis.set_xlabel("step")
            axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        return svg(figure, "curves", "Training curves: " + ", ".join(series))


def scores_by_grade(scores: Mapping[str, Mapping[int, ArrayLike]]) -> str:
    """One histogram a model of its scores, split by the judge's grade, each grade's area one; scores are float [n]."""
    with matplotlib.rc_context(STYLE):
        figure, axes = grid(len(scores), columns=2, width=4.6, height=2.6)
        for axis, (model, by_grade) in zip(axes, scores.items()):
            values = {grade: np.asarray(one, np.float64) for grade, one in sorted(by_grade.items())}
            values = {grade: one[np.isfinite(one)] for grade, one in values.items()}
            every = np.concatenate([*values.values(), np.empty(0)])
            edges = np.histogram_bin_edges(every, 30).tolist()
            for grade, one in values.items():
                if one.size:
                    color = COLORS[(4, 1, 0, 2)[grade % 4]]
                    axis.hist(one, edges, density=True, histtype="stepfilled", color=color, alpha=0.18)
                    axis.hist(
                        one, edges, density=True, histtype="step", color=color, linewidth=1.4, label=f"grade {grade}"
                    )
            axis.set_title(model, loc="left")
            axis.set_xlabel("score")
            axis.set_yticks([])
            axis.legend(fontsize=8)
        return svg(figure, "scores", "Scores by grade: " + ", ".join(scores))


def reliability(table: Reliability) -> str:
    """Predicted against observed relevance, point area by the number of pairs, beside the ideal diagonal."""
    with matplotlib.rc_context(STYLE):
        figure, (axis,) = grid(1, columns=1, width=4.4, height=3.6)
        axis.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle="--", label="ideal")
        size = 20 + 180 * table.count / max(1, table.count.max(initial=1))
        axis.plot(table.predicted, table.observed, color=COLORS[0], linewidth=1.4)
        axis.scatter(table.predicted, table.observed, size, color=COLORS[0], alpha=0.7, label="pairs (area: how many)")
        axis.set(
            xlim=(-0.02, 1.04), ylim=(-0.04, 1.08), xlabel="predicted probability", ylabel="share that is relevant"
        )
        axis.legend(fontsize=8, loc="upper left")
        return svg(figure, "reliability", "Reliability of the calibrated probability")


def quality_by_width(metrics: Mapping[str, Mapping[int, Interval]]) -> str:
    """One plot a metric: its value and interval at each Matryoshka prefix width."""
    with matplotlib.rc_context(STYLE):
        figure, axes = grid(len(metrics))
        for number, (axis, (name, by_width)) in enumerate(zip(axes, metrics.items())):
            widths = sorted(by_width)
            _error_bars(
                axis, np.arange(len(widths)), [by_width[width] for width in widths], COLORS[number % len(COLORS)]
            )
            axis.set_xticks(range(len(widths)), [str(width) for width in widths])
            axis.set_xlim(-0.4, len(widths) - 0.6)
            axis.set_title(name, loc="left")
            axis.set_xlabel("embedding width")
        return svg(figure, "widths", "Quality by embedding width: " + ", ".join(metrics))


def model_intervals(metrics: Mapping[str, Mapping[str, Interval]]) -> str:
    """One plot a metric: each model's value and interval on one line."""
    with matplotlib.rc_context(STYLE):
        models = list(dict.fromkeys(model for by_model in metrics.values() for model in by_model))
        figure, axes = grid(len(metrics), columns=3, width=3.2, height=0.9 + 0.24 * len(models))
        for place, (axis, (name, by_model)) in enumerate(zip(axes, metrics.items())):
            for row, model in enumerate(models):
                if model in by_model:
                    one, color = by_model[model], COLORS[row % len(COLORS)]
                    if np.isfinite([one.ci_low, one.ci_high]).all():
                        axis.plot([one.ci_low, one.ci_high], [row, row], color=color, linewidth=2.2, alpha=0.6)
                    axis.plot([one.estimate], [row], color=color, marker="o", markersize=5)
            axis.set_yticks(range(len(models)), models if place % 3 == 0 else [""] * len(models))
            axis.set_ylim(len(models) - 0.5, -0.5)
            axis.xaxis.set_major_locator(MaxNLocator(4))
            axis.set_title(name, loc="left")
        return svg(figure, "models", "Models compared: " + ", ".join(metrics))


def recall_against_speed(
    points: Sequence[tuple[float, float]], chosen: tuple[float, float] | None, recall_at: int
) -> str:
    """Recall@`recall_at` against queries per second: each measured setting of an index, and the one that serves."""
    with matplotlib.rc_context(STYLE):
        figure, (axis,) = grid(1, columns=1, width=4.8, height=3.2)
        recall, speed = np.asarray(points, np.float64).reshape(-1, 2).T
        axis.scatter(recall, speed, 22, color=COLORS[0], alpha=0.7, label="measured by the tuner")
        if chosen:
            axis.scatter(*chosen, 60, color=COLORS[1], marker="D", label="serves")
        axis.set(xlabel=f"recall@{recall_at}", ylabel="queries per second")
        highest = max([*speed.tolist(), chosen[1] if chosen else 0.0])
        axis.set_ylim(0, 1.25 * highest)  # room for the legend
        axis.xaxis.set_major_locator(MaxNLocator(5))
        axis.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axis.legend(fontsize=8)
        return svg(figure, "index", "Recall of the index against its speed")


def _error_bars(axis: Axes, x: np.ndarray, intervals: Sequence[Interval], color: str) -> None:
    estimate, low, high = (np.array([getattr(one, f) for one in intervals]) for f in ("estimate", "ci_low", "ci_high"))
    bars = np.nan_to_num(np.maximum(0, [estimate - low, high - estimate]))
    axis.errorbar(x, estimate, bars, color=color, marker="o", markersize=5, linewidth=1.4, capsize=3)


def grid(plots: int, columns: int = 3, width: float = 3.2, height: float = 2.3) -> tuple[Figure, list[Axes]]:
    """A figure of that many plots, `width` × `height` inches each."""
    columns = max(1, min(columns, plots))
    rows = max(1, -(-plots // columns))
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for spare in axes[plots:]:
        spare.set_visible(False)
    return figure, axes


def svg(figure: Figure, name: str, description: str) -> str:
    """The figure as an `<svg>` element: no header or metadata, ids unique within the page, the page's colour."""
    buffer = io.StringIO()
    metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text).replace(INK, "currentColor")
    label = re.sub(r'[<>&"]', " ", description)
    return text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
