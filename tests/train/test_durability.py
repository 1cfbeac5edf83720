"""Real processes that are killed or asked to stop, and what is left when the same command is given again."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from distill.train.checkpoint import read_checkpoint
from tests.parallel.pair import free_port

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """One device, quick compiling, and what one process has compiled is there for the next."""
    return {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("compiled")),
        "JAX_PERSISTENT_COMPILATION_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


def start(folder, steps, environment, *together):
    return subprocess.Popen(
        [sys.executable, "-m", "tests.train.process", *map(str, (folder, steps, *together))],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def steps_of(process):
    """The steps as the process begins them; Gloo speaks on standard output too."""
    return (int(line) for line in process.stdout if line.strip().isdigit())


def wait_for_step(process, step):
    """Until the process begins that step or a later one; which, or None when it ends before."""
    return next((begun for begun in steps_of(process) if begun >= step), None)


def newest_checkpoint(folder):
    return max((int(p.name) for p in folder.glob("checkpoints/*") if p.name.isdigit()), default=0)


def wait_past_new_checkpoint(process, folder, further):
    """As `wait_for_step`, for `further` steps after a checkpoint that is not there yet."""
    kept = newest_checkpoint(folder)
    return next((begun for begun in steps_of(process) if kept < newest_checkpoint(folder) <= begun - further), None)


def finish(folder, steps, environment):
    process = start(folder, steps, environment)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    return dict(np.load(folder / "final.npz")), errors


@pytest.fixture(scope="module")
def unkilled(tmp_path_factory, environment):
    """Steps → what a run that nothing disturbs ends in."""
    ends = {}

    def end(steps):
        if steps not in ends:
            ends[steps], _ = finish(tmp_path_factory.mktemp("unkilled"), steps, environment)
        return ends[steps]

    return end


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.parametrize(
    ("kills", "steps", "seed"), [(5, 60, 0), pytest.param(20, 300, 1, marks=pytest.mark.slow)], ids=["5", "20"]
)
def test_a_run_killed_at_random_moments_ends_in_the_same_parameters(
    tmp_path, environment, unkilled, kills, steps, seed
):
    chance = random.Random(seed)
    for kill in range(kills):
        process = start(tmp_path, steps, environment)
        if kill % 2:  # anywhere, also before anything new is saved
            step = wait_for_step(process, newest_checkpoint(tmp_path) + chance.randint(1, 6))
        else:  # after a new checkpoint, so that the run comes forward
            step = wait_past_new_checkpoint(process, tmp_path, chance.randint(0, 4))
        time.sleep(chance.uniform(0, 0.15))  # into a step, a validation or a save
        process.send_signal(signal.SIGKILL)
        _, errors = process.communicate()
        assert step is not None and process.returncode == -signal.SIGKILL, f"the run ended before kill {kill}: {errors}"
    final, errors = finish(tmp_path, steps, environment)
    assert_same(final, unkilled(steps))
    assert "resumed at step" in errors
    assert "WARNING: the checkpoint" not in errors  # a kill alone never leaves one that looks whole and is not


def test_sigterm_saves_the_step_and_the_same_command_continues(tmp_path, environment, unkilled):
    process = start(tmp_path, 60, environment)
    step = wait_for_step(process, 20)  # checkpoints at every third, validations at 15, 30, 45
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 1 and "Traceback" not in errors
    said = re.fullmatch(
        r"error: test: asked to stop by SIGTERM; saved step (\d+) of 60. The same command continues from there",
        errors.strip().splitlines()[-1],
    )
    assert said, errors
    saved = int(said[1])
    assert step <= saved == newest_checkpoint(tmp_path) < 60
    final, errors = finish(tmp_path, 60, environment)
    assert f"resumed at step {saved} of 60" in errors
    assert_same(final, unkilled(60))


def test_sigterm_to_one_of_two_processes_stops_both_after_the_same_step(tmp_path, environment):
    coordinator = f"localhost:{free_port()}"
    pair = [start(tmp_path, 3000, environment, coordinator, index) for index in range(2)]
    try:
        assert wait_for_step(pair[1], 5)
        pair[1].send_signal(signal.SIGTERM)
        errors = [process.communicate(timeout=600)[1] for process in pair]
    finally:
        for process in pair:
            process.kill()
    saved = read_checkpoint(tmp_path / "checkpoints")
    assert 5 <= saved.step < 3000 and not saved.fault
    for process, words in zip(pair, errors):
        assert process.returncode == 1 and "Traceback" not in words, words
        assert f"asked to stop by SIGTERM; saved step {saved.step} of 3000" in words
