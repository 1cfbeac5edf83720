"""Two processes with four devices each train the student as one process with eight does, also when one is killed.

Sums are taken in another order across processes than within one, hence a tolerance.
"""

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from distill.artifacts import read_manifest
from distill.models.storage import load_params
from distill.reporting import Silent
from distill.stages import Context, run_pipeline, run_stage
from distill.train.writers import read_metrics
from tests.parallel.multihost_config import get_config
from tests.parallel.pair import finish, start_pair

CONFIG = Path(__file__).with_name("multihost_config.py")


def command(stage, workdir):
    def of_process(index, port):
        joining = [f"--coordinator=localhost:{port}", "--processes=2", f"--process={index}"]
        return [sys.executable, "-m", f"launch.{stage}", f"--config={CONFIG}", f"--workdir={workdir}", *joining]

    return of_process


def copy(workdir, target):
    return Path(shutil.copytree(workdir, target))


def train_here(workdir):
    assert run_stage("student", Context(get_config().validate(), workdir, Silent()))


def curves(workdir):
    """(step, figure) → value of every loss and validation."""
    return {
        (record["step"], name): value
        for record in read_metrics(workdir / "student" / "training")
        for name, value in record.items()
        if name in ("loss", "gradient_norm", "valid/quality")
    }


def assert_trained_alike(workdir, other):
    losses, expected = curves(workdir), curves(other)
    assert losses.keys() == expected.keys() and len(losses) > 15
    for key, value in losses.items():
        # The validation ranks by scores, so that a tie broken by the last bit moves it by more.
        assert value == pytest.approx(expected[key], abs=1e-2 if key[1] == "valid/quality" else 1e-5), key
    trained, wanted = (load_params(path / "student" / "model" / "params.safetensors") for path in (workdir, other))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), trained, wanted)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Everything that the student reads."""
    workdir = tmp_path_factory.mktemp("multihost") / "prepared"
    context = Context(get_config().validate(), workdir, Silent())
    run_pipeline(context, stages=("prepare", "judge", "assistant", "score"))
    return workdir


@pytest.fixture(scope="module")
def one_process(prepared):
    workdir = copy(prepared, prepared.with_name("one"))
    train_here(workdir)
    return workdir


@pytest.fixture(scope="module")
def killed(prepared):
    """Where two processes were when one of them was killed, and both are gone."""
    workdir = copy(prepared, prepared.with_name("killed"))
    pair = start_pair(command("student", workdir))
    first_checkpoint = workdir / "student" / "training" / "checkpoints" / "5" / "_CHECKPOINT_METADATA"
    deadline = time.monotonic() + 600
    while not first_checkpoint.exists() and all(p.poll() is None for p in pair) and time.monotonic() < deadline:
        time.sleep(0.005)
    pair[1].send_signal(signal.SIGKILL)
    try:
        pair[0].wait(timeout=10)  # it notices at its next exchange with the other, or is killed as a scheduler would
    except subprocess.TimeoutExpired:
        pair[0].kill()
    done = finish(pair)
    assert first_checkpoint.exists(), done
    assert all(status != 0 for status, _, _ in done) and read_manifest(workdir / "student") is None
    return workdir


def test_both_started_again_end_as_one_process_does(killed, one_process):
    workdir = copy(killed, killed.with_name("again"))
    done = finish(start_pair(command("student", workdir)))
    assert [status for status, _, _ in done] == [0, 0], done
    assert "student: resumed at step" in done[0][2] and "student: done" in done[0][2]
    assert "student:" not in done[1][2]
    assert_trained_alike(workdir, one_process)
    # Each file was written once, by the first process.
    assert len(list((workdir / "student").glob("training/tensorboard/*"))) == 2
    assert not list((workdir / "student").rglob("*.tmp"))
    manifest, expected = read_manifest(workdir / "student"), read_manifest(one_process / "student")
    assert manifest is not None and expected is not None
    assert manifest["outputs"].keys() == expected["outputs"].keys()
    assert manifest["fingerprint"] == expected["fingerprint"]


def test_one_process_takes_over_from_two(killed, one_process):
    workdir = copy(killed, killed.with_name("taken_over"))
    train_here(workdir)
    assert_trained_alike(workdir, one_process)


def test_an_error_of_the_first_process_ends_both_in_a_line(tmp_path):
    done = finish(start_pair(command("student", tmp_path / "empty")))
    assert [status for status, _, _ in done] == [1, 1]
    for index, (_, _, words) in enumerate(done):
        last = words.strip().splitlines()[-1]
        assert last.startswith(f"process {index}: error: ") and "python -m launch.prepare" in last, words


@pytest.mark.slow
def test_the_whole_job_on_two_processes(prepared, one_process):
    workdir = prepared.with_name("pipeline")
    done = finish(start_pair(command("pipeline", workdir)))
    assert [status for status, _, _ in done] == [0, 0], done
    assert "never_exposed/recall@20" in done[0][1]
    assert all(line.startswith("[Gloo]") for line in done[1][1].splitlines())  # what the collectives' library says
    assert_trained_alike(workdir, one_process)
    for folder in ("data", "judgements"):
        manifest, expected = read_manifest(workdir / folder), read_manifest(prepared / folder)
        assert manifest is not None and expected is not None and manifest["outputs"] == expected["outputs"]
    again = finish(start_pair(command("pipeline", workdir)))
    assert [status for status, _, _ in again] == [0, 0] and "all stages are complete" in again[0][2]
