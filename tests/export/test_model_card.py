import dataclasses

import pytest

from distill.config import ConfigError
from distill.config.checks import check_export
from distill.config.settings import ExportConfig
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
    counts={"listings": 1234},
    simulated=False,
    base="some-encoder",
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


def test_the_card_says_what_is_not_known():
    assert "Not evaluated yet" in model_card(dataclasses.replace(FACTS, metrics={}))
    assert "simulated" not in model_card(FACTS)
    assert "simulated marketplace, not real" in model_card(dataclasses.replace(FACTS, simulated=True))
    assert "from scratch" in model_card(dataclasses.replace(FACTS, base=""))


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
