"""The report: what a run found, in one self-contained HTML page that someone who did not write the code can read."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from importlib import resources
from typing import Any

import jinja2

from distill.evaluate import report_summary
from distill.evaluate.judge_report import judge_section
from distill.evaluate.protocol import RECOMMEND
from distill.evaluate.protocol_report import protocol_section
from distill.evaluate.report_contents import ReportData
from distill.evaluate.report_format import FILTERS
from distill.evaluate.report_plots import draw
from distill.evaluate.report_quality import about, by_metric, differences, families, model_order, referee, verdict
from distill.evaluate.report_validation_plots import draw_data

# Control characters but white space, and noncharacters (HTML Living Standard, 13.2.3.5).
_FORBIDDEN = re.compile(
    "[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f\ufdd0-\ufdef"
    + "".join(map(chr, range(0xFFFE, 0x110000, 0x10000)))
    + "".join(map(chr, range(0xFFFF, 0x110000, 0x10000)))
    + "]"
)
GRADES = ("irrelevant", "complement", "substitute", "exact")


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
        finalize=_printable,
        loader=jinja2.FunctionLoader(_template),
    )
    environment.filters.update(FILTERS)
    figures = by_metric(data.metrics)
    tables = families(figures)
    judge = judge_section(data.judge_figures)
    compared = verdict(data, figures)
    return environment.get_template("report.html.jinja").render(
        data=data,
        config=_flat(data.config),
        models={model: about(model) for model in model_order({m for one in figures.values() for m in one})},
        verdict=compared,
        opponents=[m for m in data.baselines if any(m == rival["model"] for e in compared for rival in e["rivals"])],
        tally=report_summary.tally(compared),
        simulated=report_summary.simulated(data),
        gaps=report_summary.gaps(data, figures, bool(judge["headline"])),
        wrong=lambda example: report_summary.wrong(data, example),
        referee=lambda metric: referee(data, metric),
        quality=[family for family in tables if family["key"] != "truth"],
        truth=[family for family in tables if family["key"] == "truth"],
        differences=differences(data),
        absent=lambda field, default: data.absent.get(field, default),
        candidates=_fates(data.metrics),
        protocol=protocol_section(environment, data.protocol),
        index=_prefixed(data.metrics, "index/"),
        speed=_prefixed(data.metrics, "train/"),
        student_pearson=data.metrics.get("student/pearson_to_assistant"),
        judge=judge,
        plots=draw(data, figures) | draw_data(data.data_page) | judge["plots"],
        grades=GRADES,
    )


def _printable(value: Any) -> Any:
    """Texts without the characters that no HTML may hold."""
    if not isinstance(value, str):
        return value
    return type(value)(_FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", value))


def _template(name: str) -> str:
    return resources.files("distill.evaluate").joinpath(name).read_text("utf-8")


def _prefixed(metrics: Mapping[str, float], prefix: str) -> dict[str, float]:
    bounds = ("/ci_low", "/ci_high")
    return {n.removeprefix(prefix): v for n, v in metrics.items() if n.startswith(prefix) and not n.endswith(bounds)}


def _fates(metrics: Mapping[str, float]) -> dict[str, float]:
    """What became of the candidates in `recommend`: those of all its sources together, then each source's share."""
    together = _prefixed(metrics, f"protocol/{RECOMMEND}/")
    by_source = {}
    for name, value in _prefixed(metrics, "protocol/").items():
        source, _, what = name.rpartition("/")
        if source != RECOMMEND and what in ("candidates_per_item", "kept_per_item"):
            by_source[f"{what} from {source}"] = value
    return together | by_source


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """`{"a": {"b": 1}}` → `{"a.b": "1"}`."""
    flat = {}
    for name, value in config.items():
        if isinstance(value, Mapping) and value:
            flat.update(_flat(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = json.dumps(value, ensure_ascii=False, default=str)
    return flat
