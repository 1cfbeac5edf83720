"""Two runs on one metric and in what they recommend: values by hand, and how often the gate is wrong."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest

from distill.evaluate.compare import compare
from distill.evaluate.compare_recommendations import compare_recommendations
from distill.evaluate.comparisons import Pairs, Values
from distill.evaluate.samples import SAMPLES, Samples, read_samples
from distill.evaluate.significance import paired_auc_difference, paired_difference
from distill.stages.base import write_table


def values(*numbers, names=None):
    groups = np.array([f"q{n}" for n in range(len(numbers))] if names is None else names)
    return Values(groups, np.array(numbers, float))


def test_a_loss_on_every_query_is_a_regression_and_a_tolerance_forgives_it():
    before, after = values(0.2, 0.9, 0.5), values(0.1, 0.8, 0.4)
    change = compare("m", before, after)
    assert change.difference == pytest.approx(-0.1) and change.ci_low == pytest.approx(change.ci_high)
    assert change.finding == "regressed" and change.paired and change.groups == 3
    assert (change.baseline, change.candidate) == (pytest.approx(1.6 / 3), pytest.approx(1.3 / 3))
    assert compare("m", before, after, tolerance=0.09).finding == "regressed"
    assert compare("m", before, after, tolerance=0.11).finding == "no clear change"
    assert compare("m", after, before).finding == "improved"
    assert compare("m", before, before).finding == "no clear change"


def test_queries_are_paired_by_name_not_by_place():
    change = compare("m", values(0.1, 0.9, names=["a", "b"]), values(0.9, 0.1, names=["b", "a"]))
    assert change.difference == 0 and (change.ci_low, change.ci_high) == (0, 0)


def test_runs_that_share_most_queries_are_compared_on_these():
    change = compare("m", values(0.5, 0.5, 0.0, names=["a", "b", "c"]), values(0.6, 0.6, 1.0, names=["a", "b", "z"]))
    assert change.paired and change.groups == 2
    assert (change.baseline, change.candidate) == (0.5, 0.6)
    assert (change.baseline_groups, change.candidate_groups) == (3, 3)


def test_runs_that_share_few_queries_are_drawn_apart():
    rng = np.random.default_rng(0)
    before = Values(np.array([f"q{n}" for n in range(80)]), rng.normal(0.5, 0.1, 80))
    after = Values(np.array([f"q{n + 50}" for n in range(100)]), rng.normal(0.5, 0.1, 100))
    change = compare("m", before, after, resamples=4000)
    assert not change.paired and change.groups == 80
    assert change.difference == pytest.approx(after.values.mean() - before.values.mean())
    error = math.sqrt(before.values.var() / 80 + after.values.var() / 100)
    assert (change.ci_high - change.ci_low) / (2 * 1.96) == pytest.approx(error, rel=0.08)


def test_pairing_narrows_the_interval_as_the_paired_bootstrap_does():
    rng = np.random.default_rng(1)
    hardness = rng.normal(0.5, 0.2, 60)
    before, after = values(*hardness), values(*(hardness - 0.02 + rng.normal(0, 0.02, 60)))
    change = compare("m", before, after, resamples=4000)
    expected = paired_difference(after.values, before.values, resamples=4000)
    assert change.ci_low == pytest.approx(expected.ci_low, abs=5e-4)
    assert change.ci_high == pytest.approx(expected.ci_high, abs=5e-4)
    assert change.finding == "regressed"


def test_a_pooled_auc_is_drawn_by_query():
    rng = np.random.default_rng(2)
    groups, labels = np.repeat([f"q{n}" for n in range(30)], 8), rng.random(240) < 0.4
    before = Pairs(groups, labels, labels + rng.normal(0, 1, 240))
    after = Pairs(groups, labels, labels + rng.normal(0, 3, 240))
    change = compare("auc", before, after, resamples=4000)
    expected = paired_auc_difference(groups, labels, after.scores, before.scores, resamples=4000)
    assert change.difference == pytest.approx(expected.estimate) and change.same_pairs
    assert change.ci_low == pytest.approx(expected.ci_low, abs=6e-3)
    assert change.ci_high == pytest.approx(expected.ci_high, abs=6e-3)
    assert change.finding == "regressed"
    fewer = Pairs(groups[:-1], labels[:-1], after.scores[:-1])
    assert compare("auc", before, fewer).same_pairs is False


def test_what_has_no_interval_is_untested_never_passed():
    assert compare("m", values(0.9), values(0.1)).finding == "untested"
    one_class = Pairs(np.array(["a", "b"]), np.array([True, True]), np.array([0.1, 0.2]))
    change = compare("auc", one_class, one_class)
    assert change.finding == "untested" and math.isnan(change.ci_low)
    with pytest.raises(ValueError, match="the candidate measured no query"):
        compare("m", values(0.1, 0.2), values())
    with pytest.raises(ValueError, match="one run has a value a group, the other scored pairs"):
        compare("m", values(0.1, 0.2), one_class)


def test_equal_models_regress_about_once_in_forty_times():
    rng = np.random.default_rng(4)
    found = []
    for _ in range(200):
        hardness = rng.normal(0.5, 0.2, 40)
        before, after = (Values(np.arange(40), hardness + rng.normal(0, 0.1, 40)) for _ in range(2))
        found.append(compare("m", before, after, resamples=200).finding)
    assert 1 <= found.count("regressed") <= 13
    assert 1 <= found.count("improved") <= 13


def test_samples_come_back_as_they_were_stored(tmp_path):
    samples = Samples()
    samples.add("m", "", [0.5, 0.25], [9, 3])
    samples.add_auc("auc", "a", [1, 1, 2], [True, False, True], [0.1, 0.2, 0.3])
    samples.add("m", "a/b", [1.0])
    samples.add("empty", "a", [])
    write_table(tmp_path / SAMPLES, samples.samples())
    found = read_samples(tmp_path)
    assert list(found) == [("m", ""), ("auc", "a"), ("m", "a/b")]
    plain, pooled = found["m", ""], found["auc", "a"]
    assert isinstance(plain, Values) and plain.groups.tolist() == [9, 3] and plain.values.tolist() == [0.5, 0.25]
    assert isinstance(pooled, Pairs) and pooled.groups.tolist() == [1, 1, 2]
    assert pooled.labels.tolist() == [True, False, True] and pooled.scores.tolist() == [0.1, 0.2, 0.3]
    write_table(tmp_path / SAMPLES, Samples().samples())
    assert read_samples(tmp_path) == {}
    with pytest.raises(ValueError, match="m/a/b' was added twice"):
        samples.add("m", "a/b", [1.0])
    with pytest.raises(ValueError, match="must have one length"):
        samples.add_auc("auc", "b", [1], [True, False], [0.1, 0.2])


def recommendations(**lists):
    rows = [(item, text, rank) for item, texts in lists.items() for rank, text in enumerate(texts, 1)]
    columns = list(zip(*rows)) or [[], [], []]
    return pa.table(
        {
            "item_id": pa.array(columns[0], pa.string()),
            "keyphrase": pa.array(columns[1], pa.string()),
            "rank": pa.array(columns[2], pa.int32()),
        }
    )


def test_recommendations_side_by_side():
    before = recommendations(same="ab", moved="abc", other="abcd", gone="x", beyond=["a", "b", "c"], stranger="q")
    after = recommendations(same="ab", moved="bac", other="abxy", come="z", beyond=["a", "b", "d"])
    # Of `beyond` the first two alone are looked at, and they stayed.
    found = compare_recommendations(before, after, ["same", "moved", "other", "gone", "come", "beyond", "none"], top=2)
    assert found.changed_share == pytest.approx(2 / 7) and found.reordered_share == pytest.approx(1 / 7)
    assert (found.emptied, found.filled, found.listings) == (1, 1, 7)
    assert found.overlap == pytest.approx((1 + 1 + 1 + 0 + 0 + 1) / 6)
    assert found.baseline_per_listing == pytest.approx(9 / 7) and found.candidate_per_listing == pytest.approx(9 / 7)
    four = compare_recommendations(before, after, ["other"], top=4, examples=1)
    assert four.overlap == pytest.approx(2 / 6)
    [example] = four.examples
    assert (example.kept, example.gone, example.come) == (("a", "b"), ("c", "d"), ("x", "y"))


def test_no_recommendation_on_either_side_is_no_change():
    empty = recommendations()
    found = compare_recommendations(empty, empty, ["a"])
    assert (found.changed_share, found.overlap, found.examples) == (0, 1, ())
    with pytest.raises(ValueError, match="no listing in common"):
        compare_recommendations(empty, empty, [])
