"""A run that is cut off and started again ends in the same parameters; the best validation is kept."""

import jax
import numpy as np
import pytest

from distill.config import OptimizerConfig, ParallelConfig
from distill.parallel.mesh import make_mesh, to_global
from distill.reporting import Silent
from distill.stages.student import ROW_FIELDS, batch_arrays
from distill.train.loop import TrainingDiverged, fit
from distill.train.optimizer import decay_mask, make_optimizer, make_schedule
from distill.train.state import create_state
from distill.train.step import compile_step
from distill.train.writers import MetricWriter, read_metrics
from tests.train.problems import batches, config, loss_fn, params

STEPS = 8


class CutOff(Exception):
    pass


def train(directory, *, mesh=None, cut_at=None, validate=None):
    mesh = mesh or make_mesh(ParallelConfig(), devices=jax.devices()[:1])
    data = batches(STEPS)
    optimizer = make_optimizer(OptimizerConfig(learning_rate=1e-2), STEPS)
    state = create_state(params(), optimizer, mesh)

    def stream(start):
        for step in range(start, STEPS):
            if step == cut_at:
                raise CutOff
            batch = batch_arrays(data.build(step))
            yield to_global(mesh, batch, ROW_FIELDS), 1

    return fit(
        name="test",
        state=state,
        step_fn=compile_step(state, loss_fn(data, config()), optimizer, seed=0),
        batches=stream,
        steps=STEPS,
        validate=validate or (lambda params: {"quality": 0.5}),
        metric="quality",
        validations=4,
        directory=directory,
        reporter=Silent(),
    )


@pytest.mark.parametrize("cut_at", [3, 5])
def test_resuming_is_bitwise(tmp_path, cut_at):
    # A validation that rises, so that the last parameters are the ones kept.
    def rising():
        count = iter(range(100))
        return lambda params: {"quality": float(next(count))}

    whole = train(tmp_path / "whole", validate=rising())
    with pytest.raises(CutOff):
        train(tmp_path / "cut", cut_at=cut_at, validate=rising())

    def later():
        count = iter(range(50, 100))
        return lambda params: {"quality": float(next(count))}

    resumed = train(tmp_path / "cut", validate=later())
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(whole.params), jax.device_get(resumed.params))
    records = [r["step"] for r in read_metrics(tmp_path / "cut") if "loss" in r]
    assert records == sorted(set(records)) and records[-1] == STEPS


def test_a_checkpoint_of_eight_devices_continues_on_one(tmp_path):
    with pytest.raises(CutOff):
        train(tmp_path, mesh=make_mesh(ParallelConfig(2, 4, 1)), cut_at=5)
    done = train(tmp_path, mesh=make_mesh(ParallelConfig(), devices=jax.devices()[:1]))
    whole = train(tmp_path / "whole", mesh=make_mesh(ParallelConfig(), devices=jax.devices()[:1]))
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

    done = train(tmp_path, validate=validate)
    assert (done.best_step, done.best_metric) == (4, 0.9)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(done.params), seen[1])


def test_a_loss_that_is_no_number_stops_the_run(tmp_path):
    with pytest.raises(TrainingDiverged, match="step 1"):
        settings = config()
        mesh, data = make_mesh(ParallelConfig(), devices=jax.devices()[:1]), batches(STEPS)
        optimizer = make_optimizer(OptimizerConfig(), STEPS)
        state = create_state(params(), optimizer, mesh)
        fit(
            name="test",
            state=state,
            step_fn=compile_step(
                state, lambda p, b, k: (loss_fn(data, settings)(p, b, k)[0] * np.inf, {}), optimizer, 0
            ),
            batches=lambda start: (
                (to_global(mesh, batch_arrays(data.build(s)), ROW_FIELDS), 1) for s in range(start, STEPS)
            ),
            steps=STEPS,
            validate=lambda params: {"quality": 0.0},
            metric="quality",
            validations=1,
            directory=tmp_path,
            reporter=Silent(),
        )


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
