"""SavedModels and their facts, loaded for serving."""

import math

import numpy as np
import pytest

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
