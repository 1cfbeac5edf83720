"""What the pipeline publishes in `export/`, and that it answers as the pipeline's other artifacts say."""

import json
import subprocess
import sys

import numpy as np
import pyarrow.dataset as ds
import pytest

from distill.data.tables import Prepared
from distill.export.warm_up import FILE
from tests.export.fresh_process import ask
from tests.stages.small import ROOT, command, environment, run

STAGES = ("prepare", "judge", "assistant", "score", "student", "index", "recommend", "export")
NAMES = ("student", "assistant", "recommender", "recommender_exact")
ALL = f"--config.export.saved_models={NAMES}"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    pytest.importorskip("tensorflow_text", reason="pip install -e '.[export]'")
    workdir = tmp_path_factory.mktemp("export")
    for stage in STAGES:
        done = run(stage, workdir, ALL)
        assert done.returncode == 0, done.stderr
    return workdir


@pytest.fixture(scope="module")
def listings(workdir):
    prepared = Prepared(workdir / "data")
    leafs = [path[-1] if path else "" for path in prepared.categories]
    return prepared, {"category": leafs, "title": prepared.titles}


def candidates(workdir, prepared):
    """The student's candidates of each item: (keyphrase, score, fate), best first."""
    table = ds.dataset(sorted(map(str, (workdir / "recommendations").glob("candidates-*.parquet")))).to_table()
    of: dict[str, list] = {item: [] for item in prepared.item_ids}
    for row in table.to_pylist():
        if "student" in row.get("sources", ["student"]):
            of[row["item_id"]].append((row["keyphrase"], row["score"], row["fate"]))
    return [sorted(of[item], key=lambda candidate: -candidate[1]) for item in prepared.item_ids]


def test_the_saved_models_answer_as_the_run_says(workdir, listings, tmp_path):
    prepared, inputs = listings
    table = ds.dataset(sorted(map(str, (workdir / "recommendations").glob("part-*.parquet")))).to_table()
    at = {item: i for i, item in enumerate(prepared.item_ids)}
    item = np.array([at[i] for i in table["item_id"].to_pylist()])
    pairs = {name: [values[i] for i in item] for name, values in inputs.items()}
    export = workdir / "export"
    student, keyphrases, assistant, *recommenders = ask(
        [
            (export / "student", {"text": prepared.item_texts}),
            (export / "student", {"keyphrase": prepared.keyphrases}, "keyphrase"),
            (export / "assistant", {"keyphrase": table["keyphrase"].to_pylist(), **pairs}),
            (export / "recommender", inputs),
            (export / "recommender_exact", inputs),
        ],
        tmp_path,
    )
    np.testing.assert_allclose(student["embedding"], np.load(workdir / "index" / "items.npy"), atol=1e-4)
    np.testing.assert_allclose(keyphrases["embedding"], np.load(workdir / "index" / "keyphrases.npy"), atol=1e-4)
    np.testing.assert_allclose(assistant["relevance"], table["relevance"].to_numpy(), atol=1e-4)
    kept = 0
    for answer in recommenders:
        for row, wanted in enumerate(candidates(workdir, prepared)):
            score_of = dict(zip(answer["keyphrase"][row].tolist(), answer["score"][row].tolist()))
            np.testing.assert_allclose(answer["score"][row], [score for _, score, _ in wanted], atol=1e-4)
            for keyphrase, score, fate in wanted:
                if fate == "kept":
                    kept += 1
                    assert score_of[keyphrase] == pytest.approx(score, abs=1e-4)
    assert kept > 1000


def test_each_saved_model_has_requests_to_warm_up_by(workdir):
    import tensorflow as tf

    for name in NAMES:
        records = list(tf.data.TFRecordDataset(str(workdir / "export" / name / FILE)))
        assert len(records) >= 3
        assert len(records) % 3 == 0  # each length, in each size of batch


def test_the_model_card_says_what_was_trained_on_what(workdir):
    card = (workdir / "export" / "README.md").read_text()
    assert card.startswith("---\nlicense:")
    for words in ("| `recommender` |", "simulated marketplace", "Not evaluated yet", "## Limits", "[N, 40]"):
        assert words in card


def test_without_tensorflow_the_rest_is_exported_and_saved_models_stay(workdir):
    """A host without it neither deletes another's SavedModels nor fails; asked to, it says what is missing."""
    code = (
        "import sys, runpy; sys.modules['tensorflow'] = None; "
        "sys.argv = sys.argv[1:]; runpy.run_module('launch.export', run_name='__main__')"
    )

    def export(*flags):
        arguments = command("export", workdir, ALL, *flags)[2:]
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=ROOT,
            env=environment() | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stderr

    assert "nothing to do" in export()
    assert (workdir / "export" / "recommender" / "saved_model.pb").exists()
    assert "pip install -e '.[export]'" in export("--force").replace("\n", " ")
    assert not (workdir / "export" / "student").exists()
    assert (workdir / "export" / "huggingface" / "student" / "model.safetensors").exists()
    assert json.loads((workdir / "export" / "manifest.json").read_text())["counts"]["saved_models"] == 0
    assert "SavedModels were not written" in (workdir / "export" / "README.md").read_text()
