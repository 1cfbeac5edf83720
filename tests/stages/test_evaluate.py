"""The evaluate stage: what makes it run again, whose figures are whose, and what the calibration is checked on."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distill.artifacts import config_dict
from distill.evaluate.metric_table import MetricTable
from distill.judge.calibration import Calibration
from distill.reporting import Silent
from distill.stages.base import Context
from distill.stages.evaluate import STAGE, add_candidates
from distill.stages.report_data import reliability_of
from tests.stages.small_config import get_config


def reads(**judge):
    config = get_config()
    config.evaluate.protocol.run = True
    for name, value in judge.items():
        setattr(config.judge, name, value)
    return config


def test_another_judge_of_the_protocol_makes_it_run_again():
    table, model = reads(backend="replay"), reads(backend="openai")
    assert config_dict(STAGE.config(table)) != config_dict(STAGE.config(model))
    for config in (table, model):
        config.evaluate.protocol.judges = ("assistant",)  # who else would have graded does not matter
    assert config_dict(STAGE.config(table)) == config_dict(STAGE.config(model))


def test_another_rubric_of_the_protocol_makes_it_run_again(tmp_path):
    config = reads()
    config.evaluate.arms = ()
    context = Context(config, tmp_path, Silent())
    assert set(STAGE.external(context)) == {"rubric"}
    config.evaluate.protocol.run = False
    assert STAGE.external(context) == {}


def test_a_source_of_the_user_may_have_the_name_of_the_stage():
    counts = {"items": 2, "candidates": 8, "kept": 4, "covered_items": 1}
    sources = ("student", "recommended:recommend", "recommended:a_from_b")
    counts |= {f"{what}_from_{name}": 2 for what in ("candidates", "kept") for name in sources}
    table = MetricTable()
    add_candidates(table, counts)
    numbers = table.as_dict()
    assert numbers["protocol/recommend/candidates_per_item"] == 4
    for source in sources:
        assert numbers[f"protocol/{source}/kept_per_item"] == 1


class Constant:
    """Scores every pair 0."""

    def score(self, keyphrase, item):
        return np.zeros(len(item), np.float32)


@pytest.mark.parametrize(("held_out", "observed"), [((3, 3, 0, 3), 0.75), ((), None)])
def test_the_calibration_is_checked_on_held_out_listings(tmp_path, held_out, observed):
    """Of the pairs that it was fitted to (all irrelevant here) nothing is seen."""
    context = Context(get_config(), tmp_path, Silent())
    data, judge = context.folder("prepare"), context.folder("judge")
    data.mkdir(parents=True)
    judge.mkdir()
    phrases = [f"k{row}" for row in range(4)]
    pq.write_table(pa.table({"item_id": ["held out", "training"]}), data / "items.parquet")
    pq.write_table(pa.table({"keyphrase": phrases}), data / "keyphrases.parquet")
    rows = [("held out", k, grade, True) for k, grade in zip(phrases, held_out)]
    rows += [("training", k, 0, False) for k in phrases]
    columns = dict(zip(("item_id", "keyphrase", "grade", "holdout"), map(list, zip(*rows))))
    pq.write_table(pa.table(columns), judge / "judgements.parquet")
    found = reliability_of(context, Constant(), Calibration(1.0, 0.0, relevant_grade=2))
    if observed is None:
        assert found is None
    else:
        assert found is not None
        assert (found.predicted.tolist(), found.observed.tolist(), found.count.tolist()) == ([0.5], [observed], [4])
