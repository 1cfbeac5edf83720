"""Where training starts: the initial encoder, fewer layers of it, or an earlier run's model."""

import jax
import numpy as np
import pytest

from distill.artifacts import write_json
from distill.config import ConfigError, Experiment
from distill.models.bi_encoder import init_bi_encoder
from distill.models.cross_encoder import init_cross_encoder
from distill.models.encoder import EncoderSpec
from distill.reporting import Silent
from distill.stages.base import Context, save_model
from distill.stages.warm_start import starting_point, warm_start_hash

SPEC = EncoderSpec(vocab_size=20, layers=3, width=8, heads=2, mlp_width=16, max_positions=8)


def make_run(path, seed: int, spec: EncoderSpec = SPEC, tokenizer: str = "a"):
    """A working directory with just what a start reads."""
    save_model(path / "data" / "encoder", spec, init_bi_encoder(spec, seed))
    (path / "data" / "tokenizer.sha256").write_text(tokenizer + "\n")
    models = {"student": init_bi_encoder(spec, seed + 1), "assistant": init_cross_encoder(spec, seed + 2)}
    for stage, params in models.items():
        save_model(path / stage / "model", spec, params)
        write_json(path / stage / "manifest.json", {"outputs": {"model/params.safetensors": f"{seed}"}})
    return path, models


def context(path, stage: str = "student", **settings) -> Context:
    experiment = Experiment()
    for name, value in settings.items():
        setattr(getattr(experiment, stage), name, value)
    return Context(experiment, path, Silent())


def assert_equal(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, jax.device_get(expected))


@pytest.mark.parametrize("stage", ["assistant", "student"])
def test_an_earlier_run_gives_its_model_and_counts_as_an_input(tmp_path, stage):
    today, _ = make_run(tmp_path / "today", 0)
    earlier, models = make_run(tmp_path / "earlier", 5)
    warm = context(today, stage, warm_start=str(earlier))
    assert_equal(starting_point(warm, stage)[1], models[stage])
    before = warm_start_hash(warm, stage)
    assert before and not warm_start_hash(context(today), stage)
    write_json(earlier / stage / "manifest.json", {"outputs": {"model/params.safetensors": "trained further"}})
    assert warm_start_hash(warm, stage) != before


def test_an_arm_starts_cold(tmp_path):
    assert context(tmp_path, warm_start="earlier").for_arm("student_clicks").experiment.student.warm_start == ""


def test_the_assistant_keeps_its_first_layers(tmp_path):
    path, _ = make_run(tmp_path, 0)
    spec, params = starting_point(context(path, "assistant", depth=2), "assistant", depth=2)
    assert spec.layers == 2 and params["encoder"]["layers"].keys() == {"0", "1"}
    with pytest.raises(ConfigError, match=r"assistant\.depth=4.*3 layers"):
        starting_point(context(path), "assistant", depth=4)


def test_what_does_not_fit_is_refused_by_name(tmp_path):
    today, _ = make_run(tmp_path / "today", 0)
    other_words, _ = make_run(tmp_path / "words", 1, tokenizer="b")
    with pytest.raises(ConfigError, match=r"student\.warm_start=.*another tokenizer.*encoder\.init"):
        starting_point(context(today, warm_start=str(other_words)), "student")
    narrow = EncoderSpec(vocab_size=20, layers=3, width=4, heads=2, mlp_width=16, max_positions=8)
    other_size, _ = make_run(tmp_path / "size", 1, narrow)
    with pytest.raises(ConfigError, match=r"width=4, this run's 8"):
        starting_point(context(today, warm_start=str(other_size)), "student")
    with pytest.raises(ConfigError, match=r"student\.warm_start=.*nowhere.*manifest"):
        warm_start_hash(context(today, warm_start=str(tmp_path / "nowhere")), "student")
