import dataclasses
import math

import pytest

from distill.config import ConfigError
from distill.config.checks import check_export
from distill.config.settings import ExportConfig
from distill.data.validation.about import About
from distill.export.model_card import CardFacts, model_card

FACTS = CardFacts(
    name="shoes",
    width=128,
    widths=(64, 128),
    item_tokens=64,
    keyphrase_tokens=24,
    candidates=40,
    saved_models=("student", "recommender"),
    threshold=0.25,
    precision=0.81,
    wanted=0.8,
    reached=True,
    counts={"listings": 1234},
    about=About("logs of a shop", "CC-BY-4.0", "Two weeks.", ("clicks", "keyphrases.search_volume")),
    embedded=False,
    base="some/encoder",
    warm=(),
    judge="replay",
    metrics={
        "human/ndcg@10/student": 0.5,
        "human/ndcg@10/student/ci_low": 0.4,
        "human/ndcg@10/student/ci_high": 0.6,
        "human/ndcg@10/bm25": 0.25,
        "holdout/auc/student": 0.75,
        "diff/human/ndcg@10/student-bm25": 0.25,
        "train/student/examples_per_second": 9.0,
    },
)


def test_the_card_names_what_was_measured_with_its_intervals():
    lines = model_card(FACTS).splitlines()
    assert "| metric | bm25 | student |" in lines
    assert "| `human/ndcg@10` | 0.250 | 0.500 [0.400, 0.600] |" in lines
    assert "| `holdout/auc` | – | 0.750 |" in lines
    assert not any("diff/" in line or "train/" in line for line in lines)
    assert "| listings | 1,234 |" in lines


def test_the_card_lists_the_saved_models_that_were_written_alone():
    text = model_card(FACTS)
    assert "| `student` |" in text and "[N, 128]" in text and "[N, 40]" in text
    assert "| `assistant` |" not in text
    assert "SavedModels were not written" in model_card(dataclasses.replace(FACTS, saved_models=()))


def changed(**facts):
    return model_card(dataclasses.replace(FACTS, **facts))


def test_the_card_says_what_is_not_known():
    assert "Not evaluated yet" in changed(metrics={})
    assert "from scratch" in changed(base="")
    unknown = changed(about=About(), precision=math.nan)
    assert "Data: not stated. Simulated in it: nothing is said to be." in unknown
    assert "The data: not stated." in unknown and "nan" not in unknown


def test_the_card_says_where_the_data_come_from_and_what_of_them_is_simulated():
    text = model_card(FACTS)
    assert "Data: logs of a shop. Simulated in it: `clicks`, `keyphrases.search_volume`. Two weeks." in text
    assert "- `human`: people's labels, which nothing was trained on\n" in text
    assert "A simulated marketplace, not real" in changed(embedded=True)
    for labels in (changed(embedded=True), changed(about=About(simulated=("human",)))):
        assert "- `human`: people's labels, which nothing was trained on (simulated)\n" in labels


def test_who_judged_is_told_of_each_metric_that_is_there():
    text = changed(metrics=FACTS.metrics | {"align/judge_pass@20/student": 0.5})
    assert "the assistant (`judge_pass`), the student's own teacher" in text and "`truth`" not in text


@pytest.mark.parametrize(
    ("facts", "free"),
    [
        ({"embedded": True, "base": ""}, True),
        ({"embedded": True}, False),
        ({"base": ""}, False),
        ({"embedded": True, "base": "", "warm": ("student",)}, False),
    ],
)
def test_a_licence_is_given_where_it_is_ours_to_give(facts, free):
    text = changed(**facts)
    assert ('license: "apache-2.0"' in text) == free and ('license: "other"' in text) != free
    assert ("The data: CC-BY-4.0." in text) != free


def test_a_threshold_that_misses_its_precision_is_told():
    assert "81% were right." in model_card(FACTS)
    assert "40% were right; no threshold reached the 80% that were wanted." in changed(precision=0.4, reached=False)


def test_the_example_is_of_a_model_that_was_written():
    assert 'load("recommender")' in model_card(FACTS) and "tensorflow_text, scann" in model_card(FACTS)
    text = changed(saved_models=("student",))
    assert 'load("student")' in text and "text=tf.constant" in text and "scann" not in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"saved_models": ("student", "teacher")}, r"config.export.saved_models='teacher': must be one of 'student'"),
        ({"candidates": -1}, r"config.export.candidates=-1: must be at least 0"),
        ({"warm_up_batches": (8, 0)}, r"config.export.warm_up_batches=0: must be at least 1"),
    ],
)
def test_settings_that_cannot_work_are_named(change, message):
    check_export(ExportConfig())
    with pytest.raises(ConfigError, match=message):
        check_export(ExportConfig(**change))
