"""What the report's reader is told: the verdict, where it fails, what is simulated, unknown or missing."""

from __future__ import annotations

import pytest

from distill.evaluate import groups, metric_table
from distill.evaluate import report_contents as contents
from distill.evaluate.report import render_report
from distill.evaluate.report_quality import differences
from tests.evaluate.report_page import ATTACK, Page, front


def test_verdict_states_figures_intervals_and_differences(page, data):
    text = front(page)
    m = data.metrics
    low, high = (m[f"human/ndcg@10/student/ci_{end}"] for end in ("low", "high"))
    reached = f"nDCG@10 {m['human/ndcg@10/student']:.3f} [{low:.3f}, {high:.3f}], as judged by human labels"
    assert f"The student reaches {reached}" in text
    change = m["diff/human/ndcg@10/student-bm25"]
    assert f"better than bm25 with {m['human/ndcg@10/bm25']:.3f} by +{change:.3f} [" in text
    assert "not clearly different" in text  # recall over random lists
    assert "difference not tested" in text  # truth/recall@20 has no paired difference
    assert "The clicks are simulated" in text


def test_the_first_page_says_what_a_decision_needs(page):
    text = front(page)
    for line in (
        "weakest in " + ATTACK,
        "of its first 2 keyphrases the judge graded 2 and calls 1 wrong",
        "1.0 MiB 10,324 keyphrases, 102.4 bytes each",
        "15,321 queries/s at recall@100 0.987",
        "1.25 123 calls, 46,200 tokens",
        "2 h 10 min longest: student, 2 h 5 min",
        "Not compared with graphex",
        "the protocol was not run",
        "Another training seed was not tried",
    ):
        assert line in text, line


def test_an_unknown_price_is_not_nothing():
    cost = contents.JudgeCost(1, 1, 10, 1, None)
    text = Page(render_report(contents.ReportData("run", {}, judge_cost=cost))).text
    assert "price unknown" in text and "no price was set" in text


def test_wrong_keyphrases_and_missed_ones_are_named(page):
    text = " ".join(Page(page).text.split())
    assert "car complement 0.05" in text and "bolt substitute 0.90" in text
    assert f"{ATTACK}: the assistant finds it below the threshold" in text


def test_small_and_pooled_categories_are_marked(page):
    text = " ".join(Page(page).text.split())
    assert "Mugs small 20" in text and "no category 40" in text
    assert "1 with fewer than 10 listings, together 1 0.500" in text


def test_categories_that_differ_by_chance_alone_are_not_called_weak():
    table = groups.worst_groups([0.4, 0.6] * 20, ["a"] * 20 + ["b"] * 20, resamples=100)
    data = contents.ReportData("run", {}, categories=[contents.CategoryTable("top category", "holdout/ndcg@10", table)])
    text = Page(render_report(data)).text
    assert "differ no more than chance explains" in text and "weakest" not in text


def test_one_category_alone_is_compared_with_none():
    table = groups.worst_groups([0.4, 0.6] * 10, ["a"] * 20, resamples=100)
    data = contents.ReportData("run", {}, categories=[contents.CategoryTable("top category", "holdout/ndcg@10", table)])
    text = Page(render_report(data)).text
    assert "By top category only one has 10 listings or more" in text
    assert "weakest" not in text and "chance explains" not in text


def test_a_difference_without_an_interval_is_not_called_unclear():
    table = metric_table.MetricTable(100)
    for model, value in (("student", 0.9), ("bm25", 0.2)):
        table.add("holdout/ndcg@10", model, [value], [7])
    table.difference("holdout/ndcg@10", "student", "bm25")
    (row,) = differences(contents.ReportData("run", table.as_dict()))
    assert row["figure"].value == pytest.approx(0.7) and row["finding"] == "untested"


def test_stages_of_different_revisions_are_told_of(page):
    assert "The stages ran at different revisions of the code." in Page(page).text
    same = contents.ReportData("run", {}, revisions={"prepare": "abc", "student": "abc"})
    assert "different revisions" not in Page(render_report(same)).text


def test_real_clicks_and_labels_are_not_called_simulated():
    text = Page(render_report(contents.ReportData("run", {}))).text
    assert "are simulated" not in text


def test_simulated_human_labels_are_called_so_wherever_they_judge():
    metrics = {f"human/ndcg@10/student{end}": 0.5 for end in ("", "/ci_low", "/ci_high")}
    text = Page(render_report(contents.ReportData("run", metrics, simulated_humans=True))).text
    assert "The human labels are simulated" in text
    assert "Against human labels (simulated)" in text
    assert "Referee: human labels" not in text


def test_a_worse_student_is_called_worse():
    metrics = {
        f"human/ndcg@10/{model}{end}": 0.5 for model in ("student", "bm25") for end in ("", "/ci_low", "/ci_high")
    }
    name = "diff/human/ndcg@10/student-bm25"
    metrics |= {name: -0.1, f"{name}/ci_low": -0.2, f"{name}/ci_high": -0.01, f"{name}/p": 0.03}
    text = " ".join(Page(render_report(contents.ReportData("run", metrics))).text.split())
    assert "worse than bm25 with 0.500 by −0.100 [−0.200, −0.010]" in text


def test_an_unreached_precision_is_admitted():
    data = contents.ReportData("run", {}, relevance_threshold=0.6, precision_wanted=0.8, precision_reached=False)
    text = Page(render_report(data)).text
    assert "which no threshold reached" in text
