"""The flat table: the contract's names, intervals, paired differences, and what is missing and why."""

from __future__ import annotations

import math

import numpy as np
import pytest

from distill.evaluate import metric_table
from distill.evaluate.metric_table import MetricTable


def table() -> MetricTable:
    return MetricTable(resamples=50)


def named(metric: str, *models: str) -> set[str]:
    return {f"{metric}/{model}{end}" for model in models for end in ("", "/ci_low", "/ci_high")}


def test_figures_are_sorted_finite_and_have_intervals():
    one = table()
    one.add("human/ndcg@10", "student", [0.2, 0.4, 0.6])
    one.add_scalar("index/recall@100", 0.97)
    numbers = one.as_dict()
    assert set(numbers) == named("human/ndcg@10", "student") | {"index/recall@100"}
    assert list(numbers) == sorted(numbers)
    assert numbers["human/ndcg@10/student"] == pytest.approx(0.4)
    assert numbers["human/ndcg@10/student/ci_low"] <= 0.4 <= numbers["human/ndcg@10/student/ci_high"]
    assert all(isinstance(value, float) for value in numbers.values())


def test_what_cannot_be_measured_is_missing_with_its_reason():
    one = table()
    one.add("holdout/ndcg@10", "student", [])
    one.add("human/ndcg@10", "student", [0.5])
    one.add_auc("holdout/auc", "student", [0, 1], [True, True], [1, 2])
    one.add_scalar("student/pearson_to_assistant", math.nan, "no held-out pair was scored")
    assert one.as_dict() == {"human/ndcg@10/student": 0.5}
    assert one.missing["holdout/ndcg@10/student"] == "no group to average over"
    assert one.missing["human/ndcg@10/student/ci_low"] == "one group alone has no interval"
    assert one.missing["holdout/auc/student"] == "the pairs are all of one class"
    assert one.missing["student/pearson_to_assistant"] == "no held-out pair was scored"


def test_differences_pair_groups_by_id():
    one = table()
    one.add("m", "a", [1.0, 0.5, 0.25], groups=[3, 1, 2])
    one.add("m", "b", [0.5, 0.25, 0.75, 0.0], groups=[1, 2, 3, 9])
    one.difference("m", "a", "b")
    numbers = one.as_dict()
    assert numbers["diff/m/a-b"] == pytest.approx(0.25 / 3)  # 1 - .75 on group 3, none on 1 and 2; 9 is b's alone
    assert {"diff/m/a-b/ci_low", "diff/m/a-b/ci_high", "diff/m/a-b/p"} <= set(numbers)


def test_difference_to_an_unmeasured_model_is_missing():
    one = table()
    one.add("m", "a", [1.0, 0.5])
    metric_table.add_differences(one, [("a", "student_clicks")], ["m", "other"])
    assert one.missing == {
        "diff/m/a-student_clicks": "m was not measured for student_clicks",
        "diff/other/a-student_clicks": "other was not measured for a",
    }


def test_auc_difference_demands_the_same_pairs():
    one = table()
    one.add_auc("auc", "a", [0, 0, 1, 1], [1, 0, 1, 0], [2, 1, 2, 1])
    one.add_auc("auc", "b", [0, 0, 1, 1], [1, 0, 1, 0], [1, 2, 1, 2])
    one.add_auc("auc", "c", [0, 0, 1, 1], [1, 0, 0, 1], [2, 1, 2, 1])
    one.difference("auc", "a", "b")
    assert one.as_dict()["diff/auc/a-b"] == 1.0
    with pytest.raises(ValueError, match=r"diff/auc/a-c: .* different pairs"):
        one.difference("auc", "a", "c")


def test_a_figure_is_written_once_and_groups_are_distinct():
    one = table()
    one.add("m", "a", [1.0, 0.5])
    with pytest.raises(ValueError, match="'m/a' was added twice"):
        one.add("m", "a", [1.0, 0.5])
    with pytest.raises(ValueError, match="distinct group id"):
        one.add("m", "b", [1.0, 0.5], groups=[1, 1])
    with pytest.raises(ValueError, match=r"'m/c': 1 of 2 are NaN"):
        one.add("m", "c", [1.0, math.nan])


def test_human_rows_by_hand():
    one = table()
    # Query 0 ranks its exact match second of two; query 1 is ideal; gain .01 is relevant, not exact.
    metric_table.add_human(one, "bm25", [0, 0, 1, 1], [1, 0, 1, 0.01], [1, 2, 4, 3])
    numbers = one.as_dict()
    assert set(numbers) == named("human/ndcg@10", "bm25") | named("human/auc_exact", "bm25") | named(
        "human/auc_relevant", "bm25"
    )
    assert numbers["human/ndcg@10/bm25"] == pytest.approx((1 / math.log2(3) + 1) / 2)
    assert numbers["human/auc_exact/bm25"] == pytest.approx(2 / 4)  # exact 1, 4 against 2, 3
    assert numbers["human/auc_relevant/bm25"] == pytest.approx(2 / 3)  # relevant 1, 4, 3 against 2


def test_holdout_rows_by_hand():
    one = table()
    metric_table.add_holdout(one, "student", [5, 5, 6, 6], [3, 2, 0, 3], [1, 2, 1, 3])
    numbers = one.as_dict()
    ideal = 1 + (2 / 3) / math.log2(3)
    assert numbers["holdout/ndcg@10/student"] == pytest.approx(((2 / 3 + 1 / math.log2(3)) / ideal + 1) / 2)
    assert numbers["holdout/auc/student"] == pytest.approx(2.5 / 4)  # 1 ties with 1 and loses to 2; 3 beats both


def test_truth_and_never_exposed_rows_by_hand():
    one = table()
    recommended = np.tile(np.arange(25), (2, 1))
    relevant = [{0, 19}, {20, 1}]  # the 21st recommendation does not count at 20
    metric_table.add_recall(one, "truth/recall@20", "student", recommended, relevant)
    metric_table.add_recall(one, "never_exposed/recall@20", "student", recommended, [set(), {20}])
    metric_table.add_truth_ndcg(one, "student", [0, 0, 1, 1], [1, 0, 0, 1], [2, 1, 1, 2])
    numbers = one.as_dict()
    assert numbers["truth/recall@20/student"] == pytest.approx(0.75)
    assert numbers["never_exposed/recall@20/student"] == 0.0
    assert numbers["truth/ndcg@10/student"] == 1.0
    with pytest.raises(ValueError, match=r"recommended has shape \(2, 5\); give \[items, 20\]"):
        metric_table.add_recall(one, "truth/recall@20", "bm25", recommended[:, :5], relevant)


def test_alignment_and_coverage_rows_by_hand():
    one = table()
    recommended = np.full((3, 20), -1)
    recommended[0, :4], recommended[1, :2] = [1, 2, 3, 4], [5, 6]
    search, judge = np.ones((3, 20), bool), np.ones((3, 20), bool)
    search[0, 0], judge[0, :2], search[1] = False, False, False
    metric_table.add_alignment(one, "student", recommended, search, judge)
    metric_table.add_coverage(one, "student", [4, 2, 0])
    numbers = one.as_dict()
    assert numbers["align/search_pass@20/student"] == pytest.approx((3 / 4 + 0) / 2)  # the third item has none
    assert numbers["align/judge_pass@20/student"] == pytest.approx((2 / 4 + 1) / 2)
    assert numbers["align/both@20/student"] == pytest.approx((2 / 4 + 0) / 2)
    assert numbers["coverage/student"] == pytest.approx(2 / 3)


def test_every_metric_of_a_model_is_explained():
    assert set(metric_table.DESCRIPTIONS) == {
        *("human/ndcg@10", "human/auc_exact", "human/auc_relevant", "holdout/ndcg@10", "holdout/auc"),
        *("truth/ndcg@10", "truth/recall@20", "never_exposed/recall@20", "coverage"),
        *("align/search_pass@20", "align/judge_pass@20", "align/both@20"),
    }
