"""The evidence of a grid as a Markdown page with figures: what was run, what holds, what does not."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from importlib import resources

import jinja2
import matplotlib
import numpy as np

from distill.config.ablations import Comparison
from distill.evaluate import plots
from distill.evaluate.comparisons import Contrast, holm, simultaneous
from distill.evaluate.metric_table import DESCRIPTIONS
from distill.evaluate.report_format import FILTERS
from distill.evaluate.significance import Interval

# A picture in a file of its own cannot take the page's colour, so it follows the reader's light or dark scheme.
_SCHEME = "<style>svg{color:#333}@media(prefers-color-scheme:dark){svg{color:#ccc}}</style>"
_WORDS = {
    "holds": "holds",
    "reversed": "**the opposite holds**",
    "not shown": "**not shown**",
    "untested": "**not tested**",
    "higher": "first is higher",
    "lower": "second is higher",
    "no clear difference": "no clear difference",
}


@dataclasses.dataclass(frozen=True)
class Finding:
    """One comparison on one metric, and what the grid says of it."""

    comparison: Comparison
    metric: str
    estimate: float
    ci_low: float  # 95 %, of this comparison alone
    ci_high: float
    p: float
    simultaneous_low: float  # 95 %, of all comparisons of the family together
    simultaneous_high: float
    p_holm: float
    by_seed: Sequence[float]

    @property
    def name(self) -> str:
        """As in `evidence.json`."""
        return self.comparison.name(self.metric)

    @property
    def verdict(self) -> str:
        """By the interval corrected for the family."""
        if not (math.isfinite(self.simultaneous_low) and math.isfinite(self.simultaneous_high)):
            return "untested"
        if self.simultaneous_low > 0:
            return "holds" if self.comparison.expected else "higher"
        if self.simultaneous_high < 0:
            return "reversed" if self.comparison.expected else "lower"
        return "not shown" if self.comparison.expected else "no clear difference"

    @property
    def claim(self) -> str:
        """In words, for a Markdown page."""
        one = self.comparison
        if one.factor < 1:
            gain = f"`{one.first}` keeps {100 * one.factor:g} % of `{one.second}`"
        else:
            gain = f"`{one.first}` above `{one.second}`" if one.expected else f"`{one.first}` − `{one.second}`"
        if not one.than:
            return gain
        other = "`{}` above `{}`" if one.expected else "`{}` − `{}`"
        return gain + (", by more than {}" if one.expected else " − ({})").format(other.format(*one.than))


@dataclasses.dataclass(frozen=True)
class ArmRow:
    """One arm; numbers are means over seeds."""

    name: str
    about: str
    overrides: Sequence[str]
    steps: int  # of its student
    labels: int  # judged training pairs that it saw
    assistant: bool  # whether it trained one
    seconds: float  # of all its stages, those that other arms shared too


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of a figure: its points by rising place."""

    label: str
    points: Sequence[tuple[float, Interval]]


@dataclasses.dataclass(frozen=True)
class Evidence:
    """All that a grid found."""

    name: str
    command: str
    data: str  # in words
    encoder: str
    seeds: Sequence[int]
    shared_queries: bool  # all seeds were measured on the same listings and queries
    simulated: Sequence[str]
    reference: str
    arms: Sequence[ArmRow]
    figures: Mapping[tuple[str, str], Interval]  # (metric, model)
    findings: Mapping[str, Sequence[Finding]]  # family → its comparisons
    curves: Mapping[str, Mapping[str, Sequence[Line]]]  # title → metric → lines
    axes: Mapping[str, str]  # title → what is along it
    not_run: Sequence[str]  # arms of the grid that this run left out
    failed: Mapping[str, str]  # arm → why it did not finish
    missing: Mapping[str, str]  # figure → why
    seconds: float  # of all stages, shared ones once
    versions: Mapping[str, str]


def as_findings(family: Sequence[tuple[Comparison, str, Contrast]]) -> list[Finding]:
    """The comparisons of one family, each on a metric, corrected for their number together."""
    contrasts = [found for _, _, found in family]
    adjusted, bounds = holm([found.p for found in contrasts]), simultaneous(contrasts)
    return [
        Finding(
            comparison,
            metric,
            found.estimate,
            found.ci_low,
            found.ci_high,
            found.p,
            simultaneous_low=low,
            simultaneous_high=high,
            p_holm=float(p_holm),
            by_seed=found.by_seed,
        )
        for (comparison, metric, found), p_holm, (low, high) in zip(family, adjusted, bounds, strict=True)
    ]


def render_evidence(evidence: Evidence) -> tuple[str, dict[str, str]]:
    """(Markdown, file name → SVG); the page shows a picture as `FIGURES/NAME`, for the caller to place.

    The same bytes for the same evidence.
    """
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters.update(FILTERS, cell=_cell)
    template = resources.files("distill.evaluate").joinpath("evidence.md.jinja").read_text("utf-8")
    pictures = _pictures(evidence)
    findings = [finding for family in evidence.findings.values() for finding in family]
    models = list(dict.fromkeys(model for _, model in evidence.figures if _shown(model, evidence)))
    first = next((arm.steps for arm in evidence.arms if arm.name == evidence.reference), None)
    page = environment.from_string(template).render(
        e=evidence,
        words=_WORDS,
        models=models,
        metrics=[metric for metric in DESCRIPTIONS if any(found == metric for found, _ in evidence.figures)],
        texts=DESCRIPTIONS,
        held=[finding for finding in findings if finding.verdict == "holds"],
        failed=[finding for finding in findings if finding.verdict in ("reversed", "not shown", "untested")],
        other_steps=[arm for arm in evidence.arms if arm.steps != first],
        pictures=list(pictures),
    )
    return page, pictures


def _pictures(evidence: Evidence) -> dict[str, str]:
    """File name → SVG."""
    drawn = {}
    compared = {finding.metric for family in evidence.findings.values() for finding in family}
    by_metric = {
        metric: {
            model: one
            for (found, model), one in evidence.figures.items()
            if found == metric and _shown(model, evidence)
        }
        for metric in DESCRIPTIONS
        if metric in compared
    }
    if by_metric := {metric: models for metric, models in by_metric.items() if models}:
        drawn["models.svg"] = _standing(plots.model_intervals(by_metric))
    for title, by_metric in evidence.curves.items():
        if by_metric:
            name = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
            drawn[f"{name}.svg"] = _standing(_curves(name, title, evidence.axes[title], by_metric))
    return drawn


def _shown(model: str, evidence: Evidence) -> bool:
    """Matryoshka prefixes are many: those stand beside whole models that a comparison names."""
    named = {name for family in evidence.findings.values() for one in family for name in one.comparison.models}
    return "@" not in model or model in named


def _curves(name: str, title: str, axis_label: str, by_metric: Mapping[str, Sequence[Line]]) -> str:
    """One plot a metric, one line with intervals a series."""
    with matplotlib.rc_context(plots.STYLE):
        figure, axes = plots.grid(len(by_metric), columns=3, width=3.6, height=2.8)
        for axis, (metric, lines) in zip(axes, by_metric.items()):
            for number, line in enumerate(lines):
                place = np.array([place for place, _ in line.points], np.float64)
                estimate, low, high = np.array([dataclasses.astuple(one) for _, one in line.points]).T
                bars = np.nan_to_num(np.maximum(0, [estimate - low, high - estimate]))
                color = plots.COLORS[number % len(plots.COLORS)]
                axis.errorbar(place, estimate, bars, color=color, marker="o", markersize=4, capsize=3, label=line.label)
            ticks = sorted({place for line in lines for place, _ in line.points})
            if ticks[-1] >= 4 * ticks[0] > 0:
                axis.set_xscale("log")
            axis.set_xticks(ticks, [f"{place:,.0f}" for place in ticks])
            axis.minorticks_off()
            axis.set_title(metric, loc="left")
            axis.set_xlabel(axis_label)
            axis.legend(fontsize=7)
        return plots.svg(figure, name, title)


def _standing(svg: str) -> str:
    """An `<svg>` element as a file of its own."""
    return svg.replace(">", f">{_SCHEME}", 1) + "\n"


def _cell(text: str) -> str:
    """Text that cannot end a cell of a Markdown table."""
    return text.replace("|", "\\|").replace("\n", " ")
