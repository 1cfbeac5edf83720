"""A run that is cut off and started again ends in the same parameters; the best validation is kept; NaN is named."""

import itertools
import json

import jax
import numpy as np
import pytest

from distill.config import OptimizerConfig, ParallelConfig, TrainingConfig
from distill.parallel.mesh import make_mesh
from distill.reporting import Silent
from distill.train.checkpoint import read_checkpoint
from distill.train.loop import Batch, TrainingDiverged, fit
from distill.train.optimizer import decay_mask, make_optimizer, make_schedule
from distill.train.step import compile_step
from distill.train.writers import MetricWriter, read_metrics
from tests.train.problems import batches, fresh_state, one_device, params, train

STEPS = 8


class CutOff(Exception):
    pass


def cut_at(step):
    def before(reached):
        if reached == step:
            raise CutOff

    return before


def rising(start=0):
    """A validation that rises, so that the last parameters are the ones kept."""
    count = itertools.count(start)
    return lambda params: {"quality": float(next(count))}


def assert_same(first, second):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(first), jax.device_get(second))


@pytest.mark.parametrize(("cut", "every"), [(4, 500), (6, 500), (6, 3)])
def test_resuming_is_bitwise(tmp_path, cut, every):
    whole = train(tmp_path / "whole", STEPS, validate=rising())
    training = TrainingConfig(checkpoint_steps=every)
    with pytest.raises(CutOff):
        train(tmp_path / "cut", STEPS, before=cut_at(cut), validate=rising(), training=training)
    resumed = train(tmp_path / "cut", STEPS, validate=rising(50), training=training)
    assert_same(whole.params, resumed.params)
    records = [r["step"] for r in read_metrics(tmp_path / "cut") if "loss" in r]
    assert records == sorted(set(records)) and records[-1] == STEPS


def test_a_checkpoint_between_validations_saves_their_steps(tmp_path):
    seen = []
    with pytest.raises(CutOff):
        train(tmp_path, STEPS, validations=1, before=cut_at(6), training=TrainingConfig(checkpoint_steps=2))
    train(tmp_path, STEPS, validations=1, before=seen.append)
    assert seen == [5, 6, 7, 8]


def test_a_checkpoint_of_eight_devices_continues_on_one(tmp_path):
    with pytest.raises(CutOff):
        train(tmp_path, STEPS, mesh=make_mesh(ParallelConfig(2, 4, 1)), before=cut_at(6))
    done = train(tmp_path, STEPS)
    whole = train(tmp_path / "whole", STEPS)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5),
        jax.device_get(done.params),
        jax.device_get(whole.params),
    )


def test_the_best_validation_is_returned_and_the_later_of_equal_ones(tmp_path):
    qualities = iter([0.9, 0.9, 0.1, 0.3])
    seen = []

    def validate(params):
        seen.append(jax.device_get(params))
        return {"quality": next(qualities)}

    done = train(tmp_path, STEPS, validate=validate)
    assert (done.kept_step, done.kept_metric) == (4, 0.9)
    assert_same(done.params, seen[1])


def test_a_better_validation_within_its_error_does_not_cost_the_last_steps(tmp_path):
    qualities = iter([0.9, 0.7, 0.6, 0.85])
    done = train(tmp_path, STEPS, validate=lambda params: {"quality": next(qualities), "quality_error": 0.06})
    assert (done.kept_step, done.kept_metric) == (STEPS, 0.85)


def test_a_batch_that_gives_nan_is_named_at_its_step(tmp_path):
    """Scalars are looked at every second step of 200; step 7 is between two looks, and step 6 was fine."""
    with pytest.raises(TrainingDiverged) as failure:
        train(tmp_path, 200, poisoned=7, validations=1, training=TrainingConfig(checkpoint_steps=4))
    message = str(failure.value)
    items = [f"item {i}" for i in batches(200).ids(6)[0]]
    assert "loss nan" in message and "at step 7" in message and "last good step was 6" in message
    assert "newest checkpoint is of step 4" in message and all(f'"{item}"' in message for item in items[:5])
    written = json.loads((tmp_path / "diverged.json").read_text())
    assert (written["step"], written["batch"]) == (7, {"item_id": items})
    kept = read_checkpoint(tmp_path / "checkpoints")
    assert kept.step == 4 and not kept.fault and np.isfinite(kept.arrays["params/search_relevance/bias"])


def test_a_gradient_that_is_no_number_counts_as_divergence_though_the_loss_is_finite(tmp_path):
    """The derivative of a square root at 0."""
    state = fresh_state(one_device(), 1)

    def loss(params, batch, key):
        return jax.numpy.sqrt(jax.numpy.sum(params["search_relevance"]["bias"]) * 0.0), {}

    with pytest.raises(TrainingDiverged, match=r"loss -?0\.0, gradient norm nan at step 1"):
        fit(
            name="test",
            state=state,
            step_fn=compile_step(state, loss, make_optimizer(OptimizerConfig(), 1), 0),
            batches=lambda start, params: iter([Batch(np.zeros(()), 1, 1)]),
            batch_ids=lambda index: {"item_id": ["only"]},
            steps=1,
            validate=lambda params: {"quality": 0.0},
            metric="quality",
            validations=1,
            directory=tmp_path,
            reporter=Silent(),
            training=TrainingConfig(),
        )


def test_the_curves_hold_speed_and_memory(tmp_path):
    train(tmp_path, STEPS)
    last = [r for r in read_metrics(tmp_path) if "loss" in r][-1]
    assert last["speed/examples_per_second"] > 0
    assert last["speed/real_tokens_per_second"] > last["speed/examples_per_second"] / 4
    assert 0 <= last["speed/input_wait_share"] <= 1
    assert last["memory/peak_bytes"] > 50e6
    assert "speed/mfu" not in last  # the peak of a CPU is not known
    assert list((tmp_path / "tensorboard").glob("events.*"))


def test_a_profile_is_written_when_asked_for_alone(tmp_path):
    train(tmp_path / "plain", STEPS)
    train(tmp_path / "profiled", STEPS, profile=True)
    assert list((tmp_path / "profiled" / "profile").rglob("*.xplane.pb"))
    assert not (tmp_path / "plain" / "profile").exists()


def test_weight_decay_spares_biases_norms_and_learnt_scales():
    mask = decay_mask(params())
    layer = mask["encoder"]["layers"]["0"]
    assert layer["mlp"]["up"] == {"kernel": True, "bias": False}
    assert layer["attention"]["qkv"] == {"kernel": True, "bias": False}
    assert layer["mlp_norm"] == {"scale": False, "bias": False}
    assert not any(jax.tree.leaves(mask["search_relevance"]))


def test_the_schedule_rises_and_falls_to_zero():
    schedule = make_schedule(OptimizerConfig(learning_rate=2.0, warmup_share=0.1), 100)
    values = [float(schedule(step)) for step in (0, 5, 10, 55, 100)]
    np.testing.assert_allclose(values, [0.0, 1.0, 2.0, 1.0, 0.0], atol=1e-6)


def test_a_resumed_writer_forgets_steps_beyond_the_checkpoint(tmp_path):
    writer = MetricWriter(tmp_path)
    for step in (1, 2, 3):
        writer.write(step, {"loss": step})
    writer.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')  # a line that a kill cut off
    MetricWriter(tmp_path, resume_step=2).close()
    assert [r["step"] for r in read_metrics(tmp_path)] == [1, 2]
