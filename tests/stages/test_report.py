"""What the report reads from the stages' folders: its worst listings with the reasons, its costs and sizes."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distill.artifacts import write_json
from distill.config import Experiment
from distill.judge.calibration import Calibration
from distill.reporting import Silent
from distill.stages.base import Context
from distill.stages.report_costs import index_facts, judge_cost, revisions, sizes, stage_seconds
from distill.stages.report_examples import EXAMPLES, examples

KEYPHRASES = ["mug", "<b>cup</b>", "kettle", "tea set", "lamp"]
IDENTITY = Calibration(1.0, 0.0, relevant_grade=2)


@pytest.fixture
def context(tmp_path):
    return Context(Experiment(), tmp_path, Silent())


def tables(context, holdout, judged, recommended, candidates=()):
    """The folders of prepare, judge and recommend; items i0, i1, …, the first `holdout` of them held out.

    judged: (item, keyphrase, grade); recommended: (item, keyphrase, rank, relevance); candidates: (item, keyphrase,
    fate).
    """
    data, judge, recommend = (context.folder(name) for name in ("prepare", "judge", "recommend"))
    for folder in (data, judge, recommend):
        folder.mkdir(parents=True)
    number = holdout + 1
    items = {
        "item_id": [f"i{row}" for row in range(number)],
        "title": [f"title <{row}>" for row in range(number)],
        "category": pa.array([["Home", "Mugs"], *[[]] * (number - 1)], pa.list_(pa.string())),
        "attributes": pa.array([[]] * number, pa.map_(pa.string(), pa.string())),
        "split": ["holdout"] * holdout + ["train"],
        "text": ["text"] * number,
    }
    pq.write_table(pa.table(items), data / "items.parquet")
    phrases = {"keyphrase": KEYPHRASES, "search_volume": pa.nulls(5, pa.int64()), "trainable": [True] * 5}
    pq.write_table(pa.table(phrases), data / "keyphrases.parquet")

    def columns(rows, names, types):
        parts = list(zip(*rows)) or [()] * len(names)
        return {name: pa.array(part, kind) for name, part, kind in zip(names, parts, types)}

    text = pa.string()
    table = columns(judged, ("item_id", "keyphrase", "grade"), (text, text, pa.int8()))
    ids = table["item_id"].to_pylist()
    table["holdout"] = pa.array([int(one[1:]) < holdout for one in ids], pa.bool_())
    pq.write_table(pa.table(table), judge / "judgements.parquet")
    names = ("item_id", "keyphrase", "rank", "relevance")
    table = columns(recommended, names, (text, text, pa.int32(), pa.float32()))
    table["sources"] = pa.array([["student"]] * len(recommended), pa.list_(text))
    pq.write_table(pa.table(table), recommend / "part-00000-of-00001.parquet")
    table = columns(candidates, ("item_id", "keyphrase", "fate"), (text, text, text))
    pq.write_table(pa.table(table), recommend / "candidates-part-00000-of-00001.parquet")


def test_worst_listings_come_first_with_what_is_wrong_and_what_was_missed(context):
    tables(
        context,
        3,
        judged=[
            ("i0", "mug", 3),
            ("i0", "lamp", 0),
            ("i1", "<b>cup</b>", 1),
            ("i1", "lamp", 0),
            ("i1", "mug", 3),
            ("i1", "kettle", 3),
            ("i3", "mug", 0),  # of a training item
        ],
        recommended=[
            ("i0", "mug", 1, 0.9),
            ("i1", "lamp", 2, 0.8),
            ("i1", "<b>cup</b>", 1, 0.85),
            ("i1", "tea set", 3, 0.7),
            ("i3", "mug", 1, 0.9),
        ],
        candidates=[("i1", "mug", "below_threshold"), ("i0", "kettle", "blocked")],
    )
    good, bad = examples(context, IDENTITY, relevant_grade=2)
    assert [one.item_id for one in bad] == ["i1", "i2"]  # two wrong; nothing recommended
    assert [one.item_id for one in good] == ["i0"]
    worst = bad[0]
    assert [(one.keyphrase, one.grade) for one in worst.keyphrases] == [
        ("<b>cup</b>", 1),
        ("lamp", 0),
        ("tea set", None),
    ]
    assert worst.keyphrases[0].relevance == pytest.approx(0.85, abs=1e-6)
    assert {one.keyphrase: one.why for one in worst.missed} == {
        "mug": "the assistant finds it below the threshold",
        "kettle": "it was not among the candidates",
    }
    assert not bad[1].keyphrases and not bad[1].missed
    assert good[0].category == "Home > Mugs" and good[0].keyphrases[0].sources == ("student",)


def test_listings_without_any_judgement_or_recommendation(context):
    tables(context, 1, judged=[], recommended=[])
    good, bad = examples(context, IDENTITY, relevant_grade=2)
    assert good == [] and [one.title for one in bad] == ["title <0>"]


def test_no_held_out_listing_gives_no_example(context):
    tables(context, 0, judged=[], recommended=[("i0", "mug", 1, 0.9)])
    assert examples(context, IDENTITY, relevant_grade=2) == ([], [])


def test_certain_relevance_stays_finite_and_no_listing_is_good_and_bad(context):
    holdout = 2 * EXAMPLES + 3
    tables(context, holdout, [], [(f"i{row}", "mug", 1, float(row % 2)) for row in range(holdout)])
    good, bad = examples(context, IDENTITY, relevant_grade=2)
    assert len(good) == len(bad) == EXAMPLES
    assert not {one.item_id for one in good} & {one.item_id for one in bad}
    relevance = [[one.keyphrases[0].relevance for one in part] for part in (good, bad)]
    assert np.allclose(relevance[0], 1) and np.allclose(relevance[1], 0)


def manifest(context, stage, counts=(), inputs=(), outputs=(), seconds=1.5):
    folder = context.folder(stage)
    folder.mkdir(parents=True, exist_ok=True)
    values = {"counts": dict(counts), "inputs": dict(inputs), "outputs": dict(outputs), "seconds": seconds}
    write_json(folder / "manifest.json", values | {"git_revision": f"revision of {stage}"})


def test_seconds_and_revisions_of_the_stages_that_are_there(context):
    manifest(context, "prepare", seconds=2.0)
    manifest(context, "index", seconds=0.5)
    assert stage_seconds(context) == {"prepare": 2.0, "index": 0.5}
    assert revisions(context) == {"prepare": "revision of prepare", "index": "revision of index"}


def test_the_index_with_its_curve(context):
    assert index_facts(context) is None
    points = [{"recall": 0.9, "queries_per_second": 10.0, "leaves": 7}, {"recall": 0.95, "queries_per_second": 5.0}]
    counts = {"keyphrases": 1000, "width": 64, "method": "tree_ah", "bytes": 80_000, "curve": points}
    manifest(context, "index", counts | {"recall_at_100": 0.95, "queries_per_second": 5.0, "more": 1})
    facts = index_facts(context)
    assert facts is not None and facts.bytes_per_keyphrase == 80 and facts.curve == [(0.9, 10.0), (0.95, 5.0)]


def test_sizes_are_those_of_the_models_and_no_later_stage_changes_them(context):
    for name, size in (("student", 3), ("assistant", 5)):
        (context.folder(name) / "model").mkdir(parents=True)
        (context.folder(name) / "model" / "params").write_bytes(b"x" * size)
    (context.folder("export")).mkdir(parents=True)
    (context.folder("export") / "file").write_bytes(b"y" * 7)
    assert sizes(context) == {"student model": 3, "assistant model": 5}


def test_what_the_judge_cost(context):
    settings = context.experiment.judge
    settings.backend = "openai"
    assert judge_cost(context) is None
    context.folder("judge").mkdir(parents=True)
    columns = {"attempts": [1, 3], "prompt_tokens": [100, 300], "completion_tokens": [1, 4], "cost": [0.0, 0.0]}
    pq.write_table(pa.table(columns), context.folder("judge") / "answers.parquet")
    cost = judge_cost(context)
    assert cost is not None and cost.price is None  # no price was set, which is not nothing
    assert (cost.pairs, cost.calls, cost.prompt_tokens, cost.completion_tokens) == (2, 4, 400, 5)
    settings.endpoint.prompt_price = 0.5
    cost = judge_cost(context)
    assert cost is not None and cost.price == 0.0
    settings.backend = "replay"
    assert judge_cost(context) is None
