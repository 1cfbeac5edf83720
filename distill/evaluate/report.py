"""The report: what a run found, in one self-contained HTML page that someone who did not write the code can read."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import jinja2
import markupsafe
from numpy.typing import ArrayLike

from distill.evaluate import plots
from distill.evaluate.judge_report import judge_section
from distill.evaluate.metric_table import DESCRIPTIONS, MetricText
from distill.evaluate.significance import Interval
from distill.judge.calibration import Reliability

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
_FAMILIES = {
    "human": "Against human labels",
    "holdout": "Against the judge, on held-out listings",
    "truth": "Against the known truth",
    "align": "What is recommended",
}
_FAMILY_OF = {"never_exposed": "truth", "coverage": "align"}  # prefix of a metric's name → the table it joins
_HEADLINE = ("human/ndcg@10", "human/auc_exact", "holdout/ndcg@10", "truth/recall@20", "never_exposed/recall@20")


@dataclasses.dataclass
class Keyphrase:
    """One recommended keyphrase of an example listing."""

    keyphrase: str
    relevance: float  # calibrated probability
    sources: Sequence[str] = ()


@dataclasses.dataclass
class Example:
    """A listing and what was recommended for it."""

    title: str
    category: str = ""
    item_id: str = ""
    keyphrases: Sequence[Keyphrase] = ()


@dataclasses.dataclass
class ReportData:
    """What the report shows. An empty optional part gives a line that says it is absent and why (see `absent`)."""

    name: str  # of the experiment
    metrics: Mapping[str, float]  # `MetricTable.as_dict()`
    missing: Mapping[str, str] = dataclasses.field(default_factory=dict)  # figure → reason
    absent: Mapping[str, str] = dataclasses.field(default_factory=dict)  # field of this class → why it is empty
    encoder: str = ""  # the student's start, in words: `all-MiniLM-L6-v2`, `2 layers of width 128, from scratch`
    tasks: Sequence[str] = ()  # what the student learnt from, in words
    judge: str = ""  # who graded, in words
    baselines: Sequence[str] = ("zero_shot", "bm25", "student_clicks")  # the student's opponents in the verdict
    simulated_clicks: bool = False
    simulated_humans: bool = False  # labels of the embedded marketplace, not of people
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)  # rows of each table, items of each split
    quarantined: Mapping[str, int] | None = None  # reason or table → rows; {} says that there were none
    leaks_removed: Mapping[str, int] | None = None  # table → rows naming a human query; {} says that there were none
    notices: Sequence[str] = ()  # tasks left out, texts cut, columns ignored
    judge_figures: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # as `judge_report.judge_section` reads
    exposure: Mapping[str, int] = dataclasses.field(default_factory=dict)  # e.g. relevant pairs, of them never exposed
    curves: Mapping[str, Sequence[tuple[float, float]]] = dataclasses.field(default_factory=dict)  # (step, value)
    # model → grade → scores [n]
    scores_by_grade: Mapping[str, Mapping[int, ArrayLike]] = dataclasses.field(default_factory=dict)
    reliability: Reliability | None = None
    # metric → embedding width → figure
    quality_by_width: Mapping[str, Mapping[int, Interval]] = dataclasses.field(default_factory=dict)
    relevance_threshold: float | None = None  # probability from which a keyphrase is recommended
    precision_wanted: float | None = None
    precision_reached: bool = True
    good: Sequence[Example] = ()
    bad: Sequence[Example] = ()  # listings with low relevance or nothing above the threshold
    stage_seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # resolved, nested
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)  # packages, git revision, device


@dataclasses.dataclass(frozen=True)
class _Figure:
    """A model's figure on one metric."""

    value: float
    low: float
    high: float
    best: bool = False


def render_report(data: ReportData) -> str:
    """The page as HTML: no script, nothing fetched, the same bytes for the same data.

    Every text is escaped, as titles and keyphrases are written by strangers.
    """
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(number=_number, percent=_percent, count=_count, p_value=_p_value, seconds=_seconds)
    template = resources.files("distill.evaluate").joinpath("report.html.jinja").read_text("utf-8")
    by_metric = _by_metric(data.metrics)
    families = _families(by_metric)
    judge = judge_section(data.judge_figures)
    return environment.from_string(template).render(
        data=data,
        config=_flat(data.config),
        models={model: _about(model) for model in _model_order({m for one in by_metric.values() for m in one})},
        verdict=_verdict(data, by_metric),
        quality=[family for family in families if family["key"] != "truth"],
        truth=[family for family in families if family["key"] == "truth"],
        differences=_differences(data),
        absent=lambda field, default: data.absent.get(field, default),
        protocol=_prefixed(data.metrics, "protocol/"),
        index=_prefixed(data.metrics, "index/"),
        speed=_prefixed(data.metrics, "train/"),
        student_pearson=data.metrics.get("student/pearson_to_assistant"),
        judge=judge,
        plots={name: markupsafe.Markup(svg) for name, svg in (_plots(data, by_metric) | judge["plots"]).items()},
        grades=("irrelevant", "complement", "substitute", "exact"),
    )


def _by_metric(metrics: Mapping[str, float]) -> dict[str, dict[str, Interval]]:
    """metric → model → figure: whatever has an interval or a description."""
    found: dict[str, dict[str, Interval]] = {}
    for name, value in metrics.items():
        metric, _, model = name.rpartition("/")
        if name.startswith("diff/") or model in ("ci_low", "ci_high", "p"):
            continue
        if f"{name}/ci_low" in metrics or metric in DESCRIPTIONS:
            bounds = (metrics.get(f"{name}/{bound}", math.nan) for bound in ("ci_low", "ci_high"))
            found.setdefault(metric, {})[model] = Interval(value, *bounds)
    return found


def _families(by_metric: Mapping[str, Mapping[str, Interval]]) -> list[dict[str, Any]]:
    """One table a referee: metrics in words, models, figures, the best servable one of each metric marked."""
    order = [*DESCRIPTIONS, *(metric for metric in by_metric if metric not in DESCRIPTIONS)]
    tables: dict[str, dict[str, Any]] = {}
    for metric in (metric for metric in order if metric in by_metric):
        by_model = by_metric[metric]
        prefix = metric.partition("/")[0]
        key = _FAMILY_OF.get(prefix, prefix)
        table = tables.setdefault(
            key, {"key": key, "title": _FAMILIES.get(key, key), "metrics": {}, "models": [], "figures": {}}
        )
        table["metrics"][metric] = DESCRIPTIONS.get(metric, MetricText(metric, "", "not stated"))
        table["models"] = _model_order({*table["models"], *by_model})
        rivals = [one.estimate for model, one in by_model.items() if model != "assistant"]
        for model, one in by_model.items():
            best = len(rivals) > 1 and model != "assistant" and one.estimate == max(rivals)
            table["figures"][metric, model] = _Figure(one.estimate, one.ci_low, one.ci_high, best)
    return sorted(tables.values(), key=lambda table: [*_FAMILIES, table["key"]].index(table["key"]))


def _differences(data: ReportData) -> list[dict[str, Any]]:
    rows = []
    for name, value in data.metrics.items():
        if not name.startswith("diff/") or name.endswith(("/ci_low", "/ci_high", "/p")):
            continue
        metric, _, pair = name.removeprefix("diff/").rpartition("/")
        low, high, p = (data.metrics.get(f"{name}/{field}", math.nan) for field in ("ci_low", "ci_high", "p"))
        rows.append(
            {
                "metric": _named(metric),
                "pair": pair.replace("-", " − ", 1),
                "figure": _Figure(value, low, high),
                "p": p,
                "finding": "higher" if low > 0 else "lower" if high < 0 else "no clear difference",
                "name": name,
            }
        )
    return rows


def _verdict(data: ReportData, by_metric: Mapping[str, Mapping[str, Interval]]) -> list[dict[str, Any]]:
    """One entry for each headline metric of the student: its figure, and each opponent's with the difference."""
    entries = []
    for metric in _HEADLINE:
        student = by_metric.get(metric, {}).get("student")
        if student is None:
            continue
        text = DESCRIPTIONS[metric]
        referee = "simulated human labels" if metric.startswith("human/") and data.simulated_humans else text.referee
        rivals: list[dict[str, Any]] = []
        for model in data.baselines:
            other = by_metric[metric].get(model)
            if other is None:
                continue
            name = f"diff/{metric}/student-{model}"
            fields = (data.metrics.get(f"{name}{field}", math.nan) for field in ("", "/ci_low", "/ci_high", "/p"))
            change, low, high, p = fields
            finding = "better" if low > 0 else "worse" if high < 0 else "even"
            rivals.append(
                {
                    "model": model,
                    "about": _about(model),
                    "value": other.estimate,
                    "change": _Figure(change, low, high),
                    "p": p,
                    "finding": finding if math.isfinite(low) and math.isfinite(high) else "untested",
                }
            )
        figure = _Figure(student.estimate, student.ci_low, student.ci_high)
        entries.append({"label": text.label, "referee": referee, "figure": figure, "rivals": rivals, "metric": metric})
    return entries


def _plots(data: ReportData, by_metric: Mapping[str, Mapping[str, Interval]]) -> dict[str, str]:
    drawn = {}
    compared = {_named(metric): by_metric[metric] for metric in _HEADLINE if len(by_metric.get(metric, {})) > 1}
    if compared:
        order = _model_order({model for one in compared.values() for model in one})
        drawn["models"] = plots.model_intervals(
            {name: {model: one[model] for model in order if model in one} for name, one in compared.items()}
        )
    if data.curves:
        drawn["curves"] = plots.curves(data.curves)
    if data.scores_by_grade:
        drawn["scores"] = plots.scores_by_grade(data.scores_by_grade)
    if data.reliability is not None and data.reliability.count.size:
        drawn["reliability"] = plots.reliability(data.reliability)
    if data.quality_by_width:
        drawn["widths"] = plots.quality_by_width({_named(name): one for name, one in data.quality_by_width.items()})
    return drawn


def _about(model: str) -> str:
    base, _, prefix = model.partition("@")
    if prefix:
        return f"the first {prefix} numbers of the {base}'s embedding"
    return MODELS.get(model, "another arm of the experiment")


def _named(metric: str) -> str:
    """A metric's label with its referee's family, as two families share labels."""
    if metric not in DESCRIPTIONS:
        return metric
    family = {"human": "human", "holdout": "judge", "truth": "truth"}.get(metric.partition("/")[0])
    return f"{DESCRIPTIONS[metric].label} ({family})" if family else DESCRIPTIONS[metric].label


def _model_order(models: set[str]) -> list[str]:
    def key(model: str) -> tuple[int, str]:
        base = model.partition("@")[0]
        return (list(MODELS).index(base) if base in MODELS else len(MODELS), model)

    return sorted(models, key=key)


def _prefixed(metrics: Mapping[str, float], prefix: str) -> dict[str, float]:
    bounds = ("/ci_low", "/ci_high")
    return {n.removeprefix(prefix): v for n, v in metrics.items() if n.startswith(prefix) and not n.endswith(bounds)}


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """`{"a": {"b": 1}}` → `{"a.b": "1"}`."""
    flat = {}
    for name, value in config.items():
        if isinstance(value, Mapping) and value:
            flat.update(_flat(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = json.dumps(value, ensure_ascii=False, default=str)
    return flat


def _number(value: float, digits: int = 3, sign: bool = False) -> str:
    """`0.674`; large numbers without decimals; a real minus sign."""
    if not math.isfinite(value):
        return "–"
    if abs(value) >= 1000 or (float(value).is_integer() and abs(value) > 1):
        digits = 0
    elif abs(value) >= 100:
        digits = 1
    return f"{value:{'+' if sign else ''},.{digits}f}".replace("-", "−")


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %" if math.isfinite(value) else "–"


def _count(value: int) -> str:
    return f"{value:,}"


def _p_value(value: float) -> str:
    return "–" if not math.isfinite(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _seconds(value: float) -> str:
    if value < 60:
        return f"{value:.1f} s"
    return (
        f"{int(value // 60)} min {int(value % 60)} s"
        if value < 3600
        else f"{int(value // 3600)} h {int(value % 3600 // 60)} min"
    )
