"""The judge's section: every figure reaches it through JSON, and what is absent says why."""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ET

import pytest
from scipy.stats import binomtest

from distill.evaluate.judge_report import judge_reliability, judge_section
from distill.evaluate.plots import COLORS
from distill.judge.agreement import json_figures, judge_agreement
from distill.judge.calibration import ScoreCalibration
from distill.judge.consistency import self_consistency
from tests.evaluate.judged import judge_figures


@pytest.fixture(scope="module")
def figures():
    return judge_figures()


def test_a_full_section_read_from_json(figures):
    section = judge_section(json.loads(json.dumps(json_figures(figures), allow_nan=False)))
    rows = {(row["label"], row["by"]): row["figure"] for row in section["headline"]}
    assert len(rows) == len(section["headline"]) == 6
    assert rows["AUC, exact against the rest", "by the raw score"] == figures["intervals"]["score_auc_exact"]
    assert rows["quadratic kappa", ""] == figures["intervals"]["kappa"]
    assert section["pairs"] == 400 and section["keyphrases"] == 50
    assert section["confusion"] == figures["agreement"]["confusion"]
    assert section["slices"] == [{"title": "title", "rows": figures["slices"]["title"]}]
    assert section["consistency"] == figures["consistency"] and section["calibration"] == figures["calibration"]
    assert list(section["plots"]) == ["judge_reliability"] and section["absent"] == {}


@pytest.mark.parametrize(
    ("part", "word"),
    [("intervals", ""), ("slices", "slices"), ("consistency", "asked anything twice"), ("calibration", "raw score")],
)
def test_a_missing_part_is_named(figures, part, word):
    section = judge_section({name: one for name, one in figures.items() if name != part})
    if part == "intervals":  # the figures stay, without bounds
        assert len(section["headline"]) == 4
        assert all(math.isnan(row["figure"]["low"]) for row in section["headline"])
        assert section["absent"] == {}
    else:
        assert list(section["absent"]) == [part] and word in section["absent"][part]
    assert bool(section["plots"]) == (part != "calibration")


def test_nothing_at_all_and_undefined_figures():
    assert set(judge_section({"agreement": None})["absent"]) == {"headline", "slices", "consistency", "calibration"}
    once = self_consistency([1, 2], [0, 0], [3, 3])
    section = judge_section(json_figures({"agreement": judge_agreement([3, 3], ["E", "E"]), "consistency": once}))
    assert [row["label"] for row in section["headline"]] == ["same grade"]
    assert section["consistency"] is None and "consistency" in section["absent"]


def test_the_plot_shows_each_bin_with_its_wilson_interval():
    calibration = ScoreCalibration(
        slope=1.0,
        intercept=0.0,
        relevant_grade=3,
        valid_pairs=100,
        test_pairs=1240,
        expected_error=0.1,
        predicted=[0.2, 0.9],
        observed=[0.25, 1.0],
        count=[40, 1200],
    )
    drawn = judge_reliability(calibration)
    root = ET.fromstring(drawn)
    texts = {"".join(element.itertext()).strip() for element in root.iter() if element.tag.endswith("text")}
    assert {"40", "1,200", "predicted from the judge's raw score"} <= texts
    assert 'id="judge-reliability-' in drawn and 'id="reliability-' not in drawn  # apart from the assistant's plot
    assert drawn == judge_reliability(calibration)
    # The bar of the first bin, in axis units: the drawn length of its line over that of the diagonal.
    paths = [e.attrib for e in root.iter() if e.tag.endswith("path") and "clip-path" in e.attrib]
    lines = [(one["style"], [float(n) for n in one["d"].split() if n not in "ML"]) for one in paths]
    diagonal = next(at for style, at in lines if "stroke-dasharray" in style)
    bar = next(at for style, at in lines if COLORS[0] in style and at[0] == at[2])
    interval = binomtest(10, 40).proportion_ci(0.95, "wilson")
    unit = abs(diagonal[3] - diagonal[1])
    assert abs(bar[3] - bar[1]) / unit == pytest.approx(interval.high - interval.low, rel=0.01)
