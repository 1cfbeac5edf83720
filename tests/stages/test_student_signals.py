"""What the student learns from clicks, out of prepared tables."""

import numpy as np
import pytest

from distill.config import DataConfig, Experiment, StudentConfig, TaskWeights
from distill.data.preparation.prepare import prepare
from distill.reporting import Silent
from distill.stages.base import Context
from distill.stages.student_signals import task_signals
from tests.data.preparation.test_prepare import save


def test_clicks_are_weighed_by_the_propensities_that_prepare_estimated(tmp_path):
    rng = np.random.default_rng(0)
    ids, texts = [f"i{row}" for row in range(30)], [f"word{row} b{row}" for row in range(9)]
    rows = [
        {"item_id": item, "keyphrase": text, "impressions": 200, "position": int(rank)}
        | {"clicks": int(rng.binomial(200, merit / rank))}
        for item in ids
        for text, merit in zip(texts, rng.uniform(0.2, 0.5, size=9))
        for rank in rng.choice(6, 2, replace=False) + 1
    ]
    tables = {
        "items": [{"item_id": item, "title": f"t{item}", "split": "train"} for item in ids],
        "keyphrases": [{"keyphrase": text} for text in texts],
        "clicks": rows,
    }
    prepare(save(tmp_path / "in", tables), tmp_path / "run" / "data", DataConfig())
    context = Context(Experiment(), tmp_path / "run", Silent())
    bias = context.prepared.position_bias()
    assert bias is not None and bias.eta == pytest.approx(1, abs=0.05)
    tasks = TaskWeights(clicks=1.0, search_relevance=0.0, distill=0.0)
    _, signals = task_signals(context, StudentConfig(tasks=tasks, inverse_propensity=True), "student")
    item, keyphrase, weight = signals["clicked"]
    clicks = context.prepared.training("clicks")
    assert np.array_equal(item, clicks["item"]) and np.array_equal(keyphrase, clicks["keyphrase"])
    expected = 1 / bias.propensity[np.rint(clicks["position"]).astype(int) - 1]
    assert weight == pytest.approx(expected / expected.mean(), rel=1e-5)
