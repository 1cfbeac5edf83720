"""SavedModels and their facts, loaded for serving."""

import math
import shutil

import numpy as np
import pytest

from distill.artifacts import StageFolder
from distill.export.serving_facts import FILE, ServingFacts, read_facts, write_facts
from distill.serving.limits import Limits
from tests.serving.conftest import K


def test_models_say_what_they_take_and_give(models):
    assert set(models) == {"student", "assistant", "recommender_exact"}
    assert models["assistant"].inputs == ("category", "keyphrase", "title")
    outputs = models["recommender_exact"].outputs
    assert {name: (spec.dtype, spec.shape) for name, spec in outputs.items()} == {
        "keyphrase": ("string", (None, K)),
        "score": ("float32", (None, K)),
    }
    found = models["recommender_exact"]({"category": [b"", b""], "title": [b"tea", b"mug"]})
    assert found["keyphrase"].shape == found["score"].shape == (2, K)
    assert isinstance(found["keyphrase"][0, 0], bytes) and found["score"].dtype == np.float32
    assert models["student"]({"text": []})["embedding"].shape == (0, 16)


def test_a_folder_without_models_is_named(export, tmp_path):
    from distill.export.loading import load_models

    with pytest.raises(ValueError, match="holds no SavedModel"):
        load_models(tmp_path)
    (tmp_path / "student").mkdir()
    (tmp_path / "student" / "saved_model.pb").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"student: not a SavedModel .*run export again"):
        load_models(tmp_path)


@pytest.fixture
def finished(export, tmp_path):
    """A copy of the export with the manifest of its stage."""
    for name in ("student", "assistant"):
        shutil.copytree(export / name, tmp_path / name)
    shutil.copy(export / FILE, tmp_path)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    StageFolder("export", tmp_path, {}, {}).publish({}, files, 0.0)
    return tmp_path


def test_a_model_that_is_gone_or_damaged_is_noticed(finished):
    """TensorFlow loads a graph with another bit in it, and a server would do without the assistant."""
    from distill.export.loading import check_files

    check_files(finished)
    graph = finished / "assistant" / "saved_model.pb"
    content = graph.read_bytes()
    graph.write_bytes(content[:-40] + bytes([content[-40] ^ 1]) + content[-39:])
    with pytest.raises(ValueError, match=r"assistant/saved_model\.pb: not what the export wrote; run export again"):
        check_files(finished)
    graph.unlink()
    with pytest.raises(ValueError, match=r"saved_model\.pb: missing"):
        check_files(finished)
    graph.write_bytes(content)
    (finished / FILE).unlink()
    with pytest.raises(ValueError, match=r"serving\.json: missing"):
        check_files(finished)
    (finished / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match=r"manifest\.json: damaged"):
        check_files(finished)
    (finished / "manifest.json").unlink()
    check_files(finished)  # nothing is known of it
    (finished / "started.json").write_text("{}")
    with pytest.raises(ValueError, match="this export is not finished"):
        check_files(finished)


def test_weights_that_end_too_early_are_named(export, tmp_path):
    from distill.export.loading import load_models

    shutil.copytree(export / "student", tmp_path / "student")
    weights = next((tmp_path / "student" / "variables").glob("*.data*"))
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"student: not a SavedModel .*run export again"):
        load_models(tmp_path)


def test_facts_come_back(tmp_path):
    assert read_facts(tmp_path) is None
    write_facts(tmp_path, ServingFacts(0.25, 0.8))
    assert read_facts(tmp_path) == ServingFacts(0.25, 0.8)
    write_facts(tmp_path, ServingFacts(0.25))
    found = read_facts(tmp_path)
    assert found is not None and found.threshold == 0.25 and math.isnan(found.precision)


@pytest.mark.parametrize("text", ['{"threshold": 2}', '{"threshold": "high"}', "{}", "[]", '{"threshold": true}', "{"])
def test_damaged_facts_are_named(tmp_path, text):
    (tmp_path / FILE).write_text(text)
    with pytest.raises(ValueError, match=r"serving\.json"):
        read_facts(tmp_path)


def test_limits():
    assert Limits(batch=64).batch_sizes() == (1, 8, 64)
    assert Limits(batch=20).batch_sizes() == (1, 8, 20)
    assert Limits(batch=1).batch_sizes() == (1,)
    for name in ("body", "batch", "queue", "deadline", "drain", "title"):
        with pytest.raises(ValueError, match=f"{name} is 0"):
            Limits(**{name: 0})
    with pytest.raises(ValueError, match="linger is -1"):
        Limits(linger=-1)
    with pytest.raises(ValueError, match="deadline is nan"):
        Limits(deadline=math.nan)
