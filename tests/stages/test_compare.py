"""The promotion gate over two working directories: what it compares, what it refuses, and its exit status."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distill.artifacts import hash_json, write_json
from distill.evaluate.samples import SAMPLES, Samples
from distill.stages.base import write_table
from distill.stages.compare import CompareError, compare_runs
from tests.stages.small import ROOT, environment

ITEMS = ["i0", "i1", "i2", "i3"]
QUERIES = ["red boot", "blue mug", "tea set", "gift card"]
NDCG = {"red boot": 0.9, "blue mug": 0.5, "tea set": 0.7, "gift card": 0.2}
LOST = {query: value - 0.1 for query, value in NDCG.items()}


def finished_run(
    path: Path,
    ndcg: dict[str, float],
    *,
    queries: list[str] | None = None,  # in the order of the keyphrases table
    gain: float = 1.0,  # of the first human label
    grade: int = 3,  # of the judge's first
    assistant: str = "one",
    recommended: str = "holdout",
    lists: dict[str, list[str]] | None = None,
    extra: dict[str, list[float]] | None = None,  # further metrics of the student, by listing
) -> Path:
    """The least that a finished run consists of, as its stages write it."""
    queries = QUERIES if queries is None else queries
    size = len(ITEMS)

    def table(name: str, **columns) -> None:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        write_table(path / name, pa.table(columns))

    table(
        "data/items.parquet",
        item_id=ITEMS,
        title=[f"title {item}" for item in ITEMS],
        category=[["Home"]] * size,
        attributes=pa.array([[]] * size, pa.map_(pa.string(), pa.string())),
        split=["train", "holdout", "holdout", "holdout"],
        text=ITEMS,
    )
    table(
        "data/keyphrases.parquet", keyphrase=queries, search_volume=[1] * len(queries), trainable=[True] * len(queries)
    )
    labels = list(zip(sorted(NDCG), [gain, 0.0, 0.1, 1.0]))
    if queries != QUERIES:
        labels.reverse()  # the order of rows is no difference
    table(
        "data/human.parquet",
        item_id=["i1"] * size,
        keyphrase=[query for query, _ in labels],
        gain=[one for _, one in labels],
        split=["test"] * size,
    )
    table(
        "judgements/judgements.parquet",
        item_id=["i1", "i0"],
        keyphrase=["red boot", "tea set"],
        grade=pa.array([grade, 1], pa.int8()),
        holdout=[True, False],
    )
    rows = [(item, text, rank) for item, texts in (lists or {}).items() for rank, text in enumerate(texts, 1)]
    columns = zip(*rows) if rows else ([], [], [])
    kinds = (pa.string(), pa.string(), pa.int32())
    arrays = (pa.array(list(column), kind) for column, kind in zip(columns, kinds))
    table("recommendations/part-00000-of-00001.parquet", **dict(zip(("item_id", "keyphrase", "rank"), arrays)))
    write_json(path / "recommendations/manifest.json", {"config": {"recommend": {"items": recommended}}})
    write_json(path / "assistant/manifest.json", {"outputs": {"model": assistant}})
    samples = Samples()
    samples.add("human/ndcg@10", "student", list(ndcg.values()), [queries.index(query) for query in ndcg])
    samples.add("human/ndcg@10", "bm25", list(ndcg.values()), [queries.index(query) for query in ndcg])
    for metric, values in (extra or {}).items():
        samples.add(metric, "student", values, [1, 2, 3])
    (path / "report").mkdir()
    write_table(path / "report" / SAMPLES, samples.samples())
    write_json(path / "report" / "manifest.json", {"inputs": {}})
    return path


def test_the_same_model_does_not_regress(tmp_path):
    found = compare_runs(finished_run(tmp_path / "a", NDCG), finished_run(tmp_path / "b", NDCG))
    assert [change.name for change in found.changes] == ["human/ndcg@10/student"]
    assert found.regressed == () and found.changes[0].difference == 0


def test_a_worse_model_does_and_queries_pair_by_their_text(tmp_path):
    before = finished_run(tmp_path / "a", NDCG)
    after = finished_run(tmp_path / "b", LOST, queries=QUERIES[::-1])
    found = compare_runs(before, after)
    [change] = found.changes
    assert found.regressed == ("human/ndcg@10/student",)
    assert change.ci_low == pytest.approx(-0.1) and change.ci_high == pytest.approx(-0.1)
    assert compare_runs(before, after, tolerance=0.2).regressed == ()
    assert compare_runs(before, after, ["human/ndcg@10/bm25"]).regressed == ("human/ndcg@10/bm25",)


def test_other_human_labels_are_refused_unless_allowed(tmp_path):
    before, after = finished_run(tmp_path / "a", NDCG), finished_run(tmp_path / "b", LOST, gain=0.1)
    with pytest.raises(CompareError, match=r"different human labels.*--across_data"):
        compare_runs(before, after)
    assert compare_runs(before, after, across_data=True).regressed == ("human/ndcg@10/student",)


def test_a_metric_whose_referee_differs_is_left_out_or_refused_where_named(tmp_path):
    extra = {"holdout/ndcg@10": [0.9, 0.8, 0.7], "coverage": [1.0, 1.0, 0.0]}
    before = finished_run(tmp_path / "a", NDCG, extra=extra)
    same = finished_run(tmp_path / "b", NDCG, extra=extra)
    found = compare_runs(before, same)
    assert [one.name for one in found.changes] == ["human/ndcg@10/student", "holdout/ndcg@10/student"]
    assert compare_runs(before, same, ["coverage/student"]).regressed == ()
    other = finished_run(tmp_path / "c", NDCG, extra=extra, grade=2, assistant="two")
    found = compare_runs(before, other)
    assert found.left_out == {"holdout/ndcg@10/student": "the judge's grades of held-out listings differ"}
    with pytest.raises(CompareError, match="coverage/student: its referee is each run's own assistant"):
        compare_runs(before, other, ["coverage/student"])
    assert len(compare_runs(before, other, ["coverage/student"], across_data=True).changes) == 1


def test_what_the_candidate_has_beside_is_told_and_what_it_lacks_does_not_pass(tmp_path):
    less = finished_run(tmp_path / "a", NDCG)
    more = finished_run(tmp_path / "b", NDCG, extra={"truth/ndcg@10": [0.1, 0.2, 0.3]})
    assert compare_runs(less, more).left_out == {"truth/ndcg@10/student": "only the candidate has it"}
    with pytest.raises(CompareError, match=r"does not have truth/ndcg@10/student, which the baseline has.*--metrics"):
        compare_runs(more, less)
    assert compare_runs(more, less, ["human/ndcg@10/student"]).regressed == ()


def test_misuse_says_what_to_do(tmp_path):
    good, other = finished_run(tmp_path / "a", NDCG), finished_run(tmp_path / "b", NDCG)
    with pytest.raises(CompareError, match="there is no such working directory"):
        compare_runs(good, tmp_path / "nowhere")
    with pytest.raises(CompareError, match="is both baseline and candidate"):
        compare_runs(good, tmp_path / "b" / ".." / "a")
    with pytest.raises(CompareError, match="has no values of 'index/recall@100'"):
        compare_runs(good, other, ["index/recall@100"])
    with pytest.raises(CompareError, match=r"of that model it has human/ndcg@10/student"):
        compare_runs(good, other, ["human/ndcg@5/student"])
    with pytest.raises(CompareError, match=r"tolerance=-0.1: must be"):
        compare_runs(good, other, tolerance=-0.1)
    one = {"red boot": 0.5}
    single, other_single = finished_run(tmp_path / "c", one), finished_run(tmp_path / "d", one)
    with pytest.raises(CompareError, match="no interval"):
        compare_runs(single, other_single, ["human/ndcg@10/student"])
    with pytest.raises(CompareError, match="no metric to compare"):
        compare_runs(single, other_single)
    (other / "report" / SAMPLES).unlink()
    with pytest.raises(CompareError, match=r"earlier version; run `python -m launch.evaluate --force`"):
        compare_runs(good, other)
    (other / "report" / "manifest.json").unlink()
    with pytest.raises(CompareError, match=r"is not finished; run `python -m launch.evaluate`"):
        compare_runs(good, other)


def test_a_report_of_other_data_than_stands_beside_it_is_refused(tmp_path):
    before, after = finished_run(tmp_path / "a", NDCG), finished_run(tmp_path / "b", NDCG)
    outputs = {"items.parquet": "one"}
    write_json(after / "data" / "manifest.json", {"outputs": outputs})
    write_json(after / "report" / "manifest.json", {"inputs": {"prepare": hash_json(outputs), "student_clicks": "x"}})
    assert compare_runs(before, after).regressed == ()
    write_json(after / "data" / "manifest.json", {"outputs": {"items.parquet": "two"}})
    with pytest.raises(CompareError, match=r"report: is of another data/ than now stands beside it"):
        compare_runs(before, after)


def test_what_has_no_better_or_worse_cannot_regress(tmp_path):
    extra = {"protocol/align_neither_by_llm": [0.1, 0.2, 0.3]}
    before, after = (finished_run(tmp_path / name, NDCG, extra=extra) for name in "ab")
    with pytest.raises(CompareError, match="neither better nor worse"):
        compare_runs(before, after, ["protocol/student/align_neither_by_llm"])


def test_recommendations_are_compared_over_the_listings_of_both_runs(tmp_path):
    before = finished_run(tmp_path / "a", NDCG, lists={"i0": ["tea set"], "i1": ["red boot"], "i2": ["tea set"]})
    after = finished_run(tmp_path / "b", NDCG, lists={"i1": ["blue mug"], "i2": ["tea set"]}, recommended="all")
    found = compare_runs(before, after)
    assert found.recommendations is not None
    assert found.recommendations.listings == 3  # i0 is no held-out listing
    assert found.recommendations.changed_share == pytest.approx(1 / 3)
    assert found.titles == {"i1": "title i1"}
    (after / "recommendations" / "manifest.json").unlink()
    assert compare_runs(before, after).left_out == {"recommendations": "the candidate has none"}


def compare_command(*flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "launch.compare", *flags]
    return subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300)


def test_the_exit_status_tells_whether_the_candidate_may_replace_the_baseline(tmp_path):
    lists = {"i1": ["red boot [sale]"]}
    before = finished_run(tmp_path / "a", NDCG, lists={"i1": ["blue mug"]})
    worse = finished_run(tmp_path / "b", LOST, lists=lists)
    done = compare_command(
        f"--baseline={before}",
        f"--candidate={worse}",
        f"--json={tmp_path / 'out' / 'c.json'}",
        "--metrics=human/ndcg@10/student",
    )
    assert done.returncode == 1, done.stderr
    assert "regressed: human/ndcg@10/student" in done.stdout and "+ red boot [sale]" in done.stdout
    saved = json.loads((tmp_path / "out" / "c.json").read_text())
    assert saved["regressed"] == ["human/ndcg@10/student"] and saved["changes"][0]["paired"] is True
    assert saved["recommendations"]["changed_share"] == pytest.approx(1 / 3)
    more = finished_run(tmp_path / "c", LOST, extra={"truth/ndcg@10": [0.1, 0.2, 0.3]})
    kept = compare_command(f"--baseline={worse}", f"--candidate={more}")
    assert kept.returncode == 0, kept.stderr
    assert "nothing regressed; nothing is known of truth/ndcg@10/student\n" in kept.stdout
    for flags, words in (
        ((f"--baseline={before}",), "--candidate is missing"),
        ((f"--baseline={before}", f"--candidate={tmp_path}"), "is not finished"),
    ):
        misuse = compare_command(*flags)
        assert misuse.returncode == 2 and words in misuse.stderr and "Traceback" not in misuse.stderr


def test_a_damaged_run_is_misuse_too(tmp_path):
    before, after = finished_run(tmp_path / "a", NDCG), finished_run(tmp_path / "b", NDCG)
    pq.write_table(pa.table({"x": [1]}), after / "report" / SAMPLES)
    with pytest.raises(ValueError, match=r"samples.parquet: has columns \['x'\], not those of samples"):
        compare_runs(before, after)
    (after / "report" / SAMPLES).write_bytes(b"PAR1 and then nothing")
    with pytest.raises(ValueError, match=r"Parquet"):
        compare_runs(before, after)
