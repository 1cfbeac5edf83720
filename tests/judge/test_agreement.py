"""Judge against humans: by hand, and the published figures of the real pairs."""

from __future__ import annotations

import csv
import gzip
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score, roc_auc_score

from distill.judge.agreement import (
    HUMAN_LABELS,
    agreement_intervals,
    agreement_slices,
    json_figures,
    judge_agreement,
    pair_slices,
)
from distill.judge.calibration import Reliability, score_calibration
from distill.judge.consistency import self_consistency

ESCI_ADS = Path(os.environ.get("ESCI_ADS", Path(__file__).parents[2].parent / "shared" / "esci_ads"))


def test_agreement_by_hand():
    result = judge_agreement([3, 3, 0, 0], ["E", "S", "I", "C"])
    assert result["pairs"] == 4 and result["same_grade"] == 0.5
    assert result["auc_exact"] == pytest.approx(2.5 / 3)  # beats both zeros, ties with the other 3
    assert result["auc_relevant"] == pytest.approx(2.5 / 3)
    # Quadratic kappa: 1 - (0 + 1 + 0 + 1) / (squared distance of every label to every grade, 56, over 4).
    assert result["kappa"] == pytest.approx(1 - 2 / 14)
    assert result["confusion"] == [[1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 1]]


def test_undefined_figures_are_nan():
    result = judge_agreement([3, 3], ["E", "E"])
    assert math.isnan(result["auc_exact"]) and math.isnan(result["kappa"]) and result["same_grade"] == 1


@pytest.mark.parametrize(
    ("grade", "human", "message"),
    [
        ([3], ["X"], "'X'"),
        ([4], ["E"], "grade 4"),
        ([1.5], ["E"], "grade 1.5"),
        ([], [], "length > 0"),
        ([1, 2], ["E"], "one length"),
    ],
)
def test_refuses(grade, human, message):
    with pytest.raises(ValueError, match=message):
        judge_agreement(grade, human)


def test_published_figures_of_the_real_pairs():
    path = ESCI_ADS / "judge_agreement.tsv.gz"
    if not path.exists():
        pytest.skip(f"{path} is absent; set ESCI_ADS to the data directory")
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    result = judge_agreement([int(row["grade"]) for row in rows], [row["human"] for row in rows])
    assert result["pairs"] == 2039
    assert result["auc_exact"] == pytest.approx(0.777, abs=5e-4)
    assert result["auc_relevant"] == pytest.approx(0.813, abs=5e-4)
    assert result["kappa"] == pytest.approx(0.54, abs=5e-3)
    assert result["same_grade"] == pytest.approx(0.63, abs=5e-3)


def drawn(keyphrases: int = 60, seed: int = 0, noise: float = 0.8, each: int = 8):
    """Grades, raw scores and human labels whose errors are shared within a keyphrase."""
    rng = np.random.default_rng(seed)
    keyphrase = np.repeat(np.arange(keyphrases), each)
    label = rng.choice(4, keyphrase.size, p=[0.2, 0.1, 0.3, 0.4])
    shift = rng.normal(0, noise, keyphrases)[keyphrase]
    score = np.clip(label + shift + rng.normal(0, noise, keyphrase.size), 0, 3)
    return np.rint(score).astype(int), np.array(HUMAN_LABELS)[label], keyphrase, score


@settings(max_examples=15)
@given(st.integers(0, 2**32 - 1))
def test_interval_figures_are_those_of_the_pairs_and_score_aucs_those_of_sklearn(seed):
    rng = np.random.default_rng(seed)
    number = int(rng.integers(2, 60))
    grade, human = rng.integers(0, 4, number), rng.choice(list("ICSE"), number)
    score = np.where(rng.random(number) < 0.3, np.nan, rng.integers(0, 7, number) / 2)
    result = agreement_intervals(grade, human, rng.integers(0, 9, number), score, resamples=20)
    whole = judge_agreement(grade, human)
    for name in ("auc_exact", "auc_relevant", "kappa", "same_grade"):
        assert result[name]["value"] == pytest.approx(whole[name], nan_ok=True)
    scored = np.isfinite(score)
    assert result["scored_pairs"] == scored.sum()
    for name, positive in (("score_auc_exact", human == "E"), ("score_auc_relevant", human != "I")):
        both = 0 < positive[scored].sum() < scored.sum()
        expected = roc_auc_score(positive[scored], score[scored]) if both else math.nan
        assert result[name]["value"] == pytest.approx(expected, nan_ok=True)


def test_intervals_cover_the_truth_about_as_often_as_they_say_though_pairs_depend():
    grade, human, *_ = drawn(40_000, seed=99)
    truth = judge_agreement(grade, human)
    hits = {"auc_exact": 0, "kappa": 0}
    for seed in range(100):
        grade, human, keyphrase, _ = drawn(seed=seed)
        result = agreement_intervals(grade, human, keyphrase, resamples=200)
        for name in hits:
            hits[name] += result[name]["low"] <= truth[name] <= result[name]["high"]
    assert all(86 <= number <= 100 for number in hits.values()), hits


def test_resampling_keyphrases_admits_that_pairs_of_one_depend():
    grade, human, keyphrase, _ = drawn()
    whole = agreement_intervals(grade, human, keyphrase)["kappa"]
    as_if_independent = agreement_intervals(grade, human, np.arange(grade.size))["kappa"]
    assert whole["high"] - whole["low"] > 1.3 * (as_if_independent["high"] - as_if_independent["low"])


def test_a_raw_score_that_says_more_than_the_grade_has_the_higher_auc():
    grade, human, keyphrase, score = drawn(400)
    result = agreement_intervals(grade, human, keyphrase, score, resamples=50)
    assert result["score_auc_exact"]["value"] > result["auc_exact"]["value"] + 0.005
    assert result["score_auc_exact"]["low"] < result["score_auc_exact"]["value"] < result["score_auc_exact"]["high"]
    assert result["pairs"] == 3200 and result["keyphrases"] == 400


def test_one_keyphrase_has_figures_without_bounds_and_no_score_has_none():
    result = agreement_intervals([3, 3, 0, 0], ["E", "S", "I", "C"], [7] * 4)
    assert result["auc_exact"]["value"] == pytest.approx(2.5 / 3) and math.isnan(result["auc_exact"]["low"])
    assert result["scored_pairs"] == 0 and math.isnan(result["score_auc_exact"]["value"])


def test_slices_are_measured_apart_and_small_ones_together():
    grade, human, keyphrase, _ = drawn(20)  # 160 pairs
    name = np.array(["shoes"] * 90 + ["mugs"] * 40 + ["cars"] * 20 + ["hats"] * 10)
    found = agreement_slices(grade, human, keyphrase, name, resamples=50)
    assert [(one["name"], one["pairs"]) for one in found] == [("shoes", 90), ("mugs", 40), ("rest", 30)]
    for one, inside in zip(found, (slice(0, 90), slice(90, 130), slice(130, 160))):
        whole = judge_agreement(grade[inside], human[inside])
        assert one["auc_exact"]["value"] == pytest.approx(whole["auc_exact"])
        assert one["kappa"]["value"] == pytest.approx(whole["kappa"])
        assert one["kappa"]["low"] < one["kappa"]["value"] < one["kappa"]["high"]


def test_pair_slices_by_hand():
    assert pair_slices(
        ["one two", "a b c d e f g h i", "x " * 20],
        [["Home", "Mugs"], [], ("Cars",)],
        ["mug", "чашка blue", "1 2 3 4 5"],
    ) == {
        "leaf category": ["Mugs", "no category", "Cars"],
        "title": ["up to 8 words", "9–16 words", "17 words or more"],
        "keyphrase": ["1 word", "2 words", "5 words or more"],
        "script": ["LATIN", "CYRILLIC", "no letters"],
    }


def test_self_consistency_by_hand():
    # Pair a: 3, 3, 2 (comparisons 3-3, 3-2, 3-2); b: 0, no grade; c: no grade, 1, 1; d: asked once.
    rows = [("a", 0, 3, 2.5), ("a", 1, 3, 2.75), ("a", 2, 2, 2.0), ("b", 0, 0, 0.5), ("b", 1, np.nan, np.nan)]
    rows += [("c", 0, np.nan, np.nan), ("c", 2, 1, np.nan), ("c", 5, 1, 1.0), ("d", 0, 3, 3.0)]
    rows = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
    result = self_consistency(*zip(*rows), resamples=50)
    assert (result["pairs"], result["comparisons"], result["ungraded"]) == (2, 4, 2)
    assert result["same_grade"]["value"] == 0.5
    assert result["kappa"]["value"] == pytest.approx(cohen_kappa_score([3, 3, 3, 1], [3, 2, 2, 1], weights="quadratic"))
    assert result["scored_comparisons"] == 3 and result["score_difference"] == pytest.approx((0.25 + 0.5 + 0.75) / 3)


def test_a_judge_that_never_wavers_and_one_that_was_never_asked_twice():
    grade = np.arange(40) % 4
    same = self_consistency(np.tile(np.arange(40), 2), np.repeat([0, 1], 40), np.tile(grade, 2), resamples=50)
    assert same["same_grade"] == {"value": 1, "low": 1, "high": 1} and same["kappa"]["value"] == 1
    once = self_consistency(np.arange(40), np.zeros(40, int), grade)
    assert once["pairs"] == once["comparisons"] == 0 and math.isnan(once["kappa"]["value"])


def test_score_calibration_is_fitted_on_valid_and_measured_on_test():
    rng = np.random.default_rng(0)
    score = rng.uniform(0, 3, 12_000)
    split = np.where(np.arange(12_000) % 3 > 0, "valid", "test")
    human = np.where(rng.random(12_000) < 1 / (1 + np.exp(-(2 * score - 3))), "E", "S")
    good = score_calibration(score, human, split)
    assert good is not None and (good["valid_pairs"], good["test_pairs"]) == (8000, 4000)
    assert good["slope"] == pytest.approx(2, abs=0.12) and good["intercept"] == pytest.approx(-3, abs=0.2)
    assert good["expected_error"] < 0.03 and sum(good["count"]) == 4000
    drifted = score_calibration(score, np.where(split == "test", "E", human), split)
    assert drifted is not None and drifted["slope"] == pytest.approx(good["slope"])
    assert drifted["expected_error"] > 0.3  # half of the predictions' distance to one
    missing = score_calibration(np.where(split == "test", np.nan, score), human, split)
    assert missing is None


def test_expected_calibration_error_by_hand():
    table = Reliability(np.array([0.1, 0.8]), np.array([0.2, 0.5]), np.array([30, 10]))
    assert table.expected_error == pytest.approx((30 * 0.1 + 10 * 0.3) / 40)


def test_every_figure_is_json():
    grade, human, keyphrase, score = drawn(10)
    figures = {
        "agreement": judge_agreement([3, 3], ["E", "E"]),
        "intervals": agreement_intervals(grade, human, keyphrase, resamples=20),
        "slices": {"category": agreement_slices(grade, human, keyphrase, ["x"] * 80, resamples=20)},
        "consistency": self_consistency([1, 1], [0, 1], [3, 3], np.array([2.5, np.nan], np.float32)),
        "calibration": score_calibration(score, human, np.where(keyphrase < 5, "valid", "test")),
        "table": Reliability(np.array([np.inf]), np.array([0.5]), np.array([3])),
    }
    read = json.loads(json.dumps(json_figures(figures), allow_nan=False))
    assert read["agreement"]["kappa"] is None and read["agreement"]["confusion"][3][3] == 2
    assert read["intervals"]["score_auc_exact"] == {"value": None, "low": None, "high": None}
    assert read["intervals"]["kappa"]["value"] == pytest.approx(judge_agreement(grade, human)["kappa"])
    assert read["table"] == {"predicted": [None], "observed": [0.5], "count": [3]}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: agreement_intervals([1, 2], ["E", "I"], [0]), r"keyphrase: shape \(1,\)"),
        (lambda: agreement_intervals([1], ["E"], [0], [math.inf]), "infinite"),
        (lambda: agreement_slices([1], ["E"], [0], []), "name: shape"),
        (lambda: self_consistency([1, 1], [0, 0], [1, 2]), "comes twice"),
        (lambda: self_consistency([1, 1], [0, 1], [1, 7]), "grade 7"),
        (lambda: score_calibration([1.0], ["E"], ["train"]), "split 'train'"),
    ],
)
def test_figures_refuse(call, message):
    with pytest.raises(ValueError, match=message):
        call()
