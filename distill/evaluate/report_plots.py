"""The report's figures: each an SVG, and the numbers in it as a table for those who cannot see it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import markupsafe
import numpy as np

from distill.evaluate import plots
from distill.evaluate.report_contents import ReportData
from distill.evaluate.report_format import count, number
from distill.evaluate.report_quality import HEADLINE, ByMetric, model_order, named
from distill.evaluate.significance import Interval


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A figure and its text alternative: texts under `columns`."""

    svg: markupsafe.Markup
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def draw(data: ReportData, figures: ByMetric) -> dict[str, Drawn]:
    """name → figure, for whatever there is data of."""
    drawn = [
        ("models", _models(figures)),
        ("curves", _curves(data)),
        ("scores", _scores(data)),
        ("reliability", _reliability(data)),
        ("widths", _widths(data)),
        ("index", _index(data)),
    ]
    return {name: one for name, one in drawn if one is not None}


def drawn(svg: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Drawn:
    """`svg` as this package draws it, whose texts are escaped already."""
    return Drawn(markupsafe.Markup(svg), columns, rows)


def _models(figures: ByMetric) -> Drawn | None:
    compared = {named(metric): figures[metric] for metric in HEADLINE if len(figures.get(metric, {})) > 1}
    if not compared:
        return None
    order = model_order({model for one in compared.values() for model in one})
    compared = {name: {model: one[model] for model in order if model in one} for name, one in compared.items()}
    rows = [[name, model, *_interval(figure)] for name, one in compared.items() for model, figure in one.items()]
    return drawn(plots.model_intervals(compared), ["metric", "model", "figure", "95 % from", "to"], rows)


def _curves(data: ReportData) -> Drawn | None:
    series = {name: points for name, points in data.curves.items() if len(points)}
    if not series:
        return None
    rows = []
    for name, points in series.items():
        value = np.asarray(points, np.float64)[:, 1]
        lowest = number(float(np.nanmin(value))) if np.isfinite(value).any() else "–"
        highest = number(float(np.nanmax(value))) if np.isfinite(value).any() else "–"
        rows.append([name, count(int(points[-1][0])), number(value[0]), number(value[-1]), lowest, highest])
    return drawn(plots.curves(series), ["curve", "last step", "first", "last", "lowest", "highest"], rows)


def _scores(data: ReportData) -> Drawn | None:
    if not data.scores_by_grade:
        return None
    rows = []
    for model, by_grade in data.scores_by_grade.items():
        for grade, one in sorted(by_grade.items()):
            scores = np.asarray(one, np.float64)
            scores = scores[np.isfinite(scores)]
            quartiles = np.quantile(scores, (0.25, 0.5, 0.75)).tolist() if scores.size else [np.nan] * 3
            rows.append([model, str(grade), count(scores.size), *(number(value) for value in quartiles)])
    columns = ["model", "grade", "pairs", "lower quartile", "median", "upper quartile"]
    return drawn(plots.scores_by_grade(data.scores_by_grade), columns, rows)


def _reliability(data: ReportData) -> Drawn | None:
    table = data.reliability
    if table is None or not table.count.size:
        return None
    return drawn(plots.reliability(table), *reliability_rows(table.predicted, table.observed, table.count))


def reliability_rows(predicted: Any, observed: Any, pairs: Any) -> tuple[list[str], list[list[str]]]:
    """Columns and rows for the bins of a reliability plot; arrays [B]."""
    bins = zip(np.asarray(predicted).tolist(), np.asarray(observed).tolist(), np.asarray(pairs).tolist())
    return ["predicted", "observed", "pairs"], [[number(p), number(o), count(int(n))] for p, o, n in bins]


def _widths(data: ReportData) -> Drawn | None:
    if not data.quality_by_width:
        return None
    by_name = {named(name): one for name, one in data.quality_by_width.items()}
    rows = [[name, str(width), *_interval(one[width])] for name, one in by_name.items() for width in sorted(one)]
    return drawn(plots.quality_by_width(by_name), ["metric", "width", "figure", "95 % from", "to"], rows)


def _index(data: ReportData) -> Drawn | None:
    index = data.index
    if index is None or not index.curve:
        return None
    rows = [[number(recall), number(speed, 0)] for recall, speed in sorted(index.curve)]
    chosen = (index.recall_at_100, index.queries_per_second) if index.curve_at == 100 else None
    svg = plots.recall_against_speed(index.curve, chosen, index.curve_at)
    return drawn(svg, [f"recall@{index.curve_at}", "queries per second"], rows)


def _interval(figure: Interval) -> list[str]:
    return [number(figure.estimate), number(figure.ci_low), number(figure.ci_high)]
