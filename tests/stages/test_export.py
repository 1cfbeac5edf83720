"""The export's model card speaks of the models that lie beside it, by the report of these models alone."""

import dataclasses

import pytest

from distill.artifacts import StageFolder, output_hash, write_json
from distill.config import Experiment
from distill.reporting import Silent
from distill.stages.base import Context
from distill.stages.export import STAGE, _base, _report, _warm

NEEDED = ("prepare", "assistant", "student", "index")


def finish(context, stage, inputs=(), **files):
    """A stage's folder with files of these texts, and its manifest."""
    folder = context.folder(stage)
    for name, text in files.items():
        write_json(folder / f"{name}.json", text)
    hashes = {name: output_hash(context.folder(name), "") for name in inputs}
    StageFolder(stage, folder, {}, hashes).publish({}, [folder / f"{name}.json" for name in files], 0.0)


@pytest.fixture
def context(tmp_path):
    context = Context(Experiment(), tmp_path, Silent())
    for stage in NEEDED:
        finish(context, stage, model=stage)
    finish(context, "evaluate", NEEDED, metrics={"human/ndcg@10/student": 0.5})
    return context


def test_the_report_of_these_models_is_read(context):
    assert _report(context) == context.folder("evaluate") / "metrics.json"
    assert "metrics" in STAGE.external(context)


@pytest.mark.parametrize("stage", NEEDED)
def test_a_report_of_other_models_is_not(context, stage):
    finish(context, stage, model="trained again")
    assert _report(context) is None and "metrics" not in STAGE.external(context)


def test_nor_one_that_is_unfinished(context):
    (context.folder("student") / "manifest.json").unlink()
    assert _report(context) is None
    finish(context, "student", model="student")
    assert _report(context)
    (context.folder("evaluate") / "manifest.json").unlink()
    assert _report(context) is None


def test_what_an_encoder_began_from_is_named_without_its_place(tmp_path, monkeypatch):
    (tmp_path / "minilm").mkdir()
    monkeypatch.chdir(tmp_path / "minilm")
    assert [_base(init) for init in ("", ".", str(tmp_path / "minilm"), "org/model")] == [
        "",
        "minilm",
        "minilm",
        "org/model",
    ]


def test_a_warm_start_is_told(context):
    assert _warm(context) == []
    student = dataclasses.replace(context.experiment.student, warm_start="runs/yesterday")
    warm = dataclasses.replace(context, experiment=dataclasses.replace(context.experiment, student=student))
    assert _warm(warm) == ["student"]
