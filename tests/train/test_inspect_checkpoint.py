"""The inspector reads what eight devices saved, on one device and without the model or config."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np

from distill.config import ParallelConfig
from distill.models.encoder import EncoderSpec
from distill.parallel.mesh import make_mesh
from distill.stages.base import save_model
from tests.train.problems import params
from tests.train.test_checkpoint import flipped, state_at, write

ROOT = Path(__file__).parents[2]


def inspect(*arguments):
    return subprocess.run(
        [sys.executable, "tools/inspect_checkpoint.py", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_a_stage_folder_shows_its_model_and_its_newest_checkpoint(tmp_path):
    write(tmp_path / "training", [0.25, None], make_mesh(ParallelConfig(2, 4, 1)))
    kept = {"encoder": params()["encoder"]}
    save_model(tmp_path / "model", EncoderSpec(64, 1, 16, 2, 32, 32), kept)
    shown = inspect(tmp_path)
    assert shown.returncode == 0, shown.stderr
    model, checkpoint = shown.stdout.split("checkpoint ", 1)
    assert '"width": 16' in model
    token = np.asarray(kept["encoder"]["embeddings"]["token"]["embedding"])
    assert re.search(
        rf"encoder/embeddings/token/embedding +float32 +\(64, 16\) +4,096 +{np.linalg.norm(token):.5g}", model
    )
    assert "step 2, saved without a validation" in checkpoint and "checksums: all match" in checkpoint
    kernel = np.asarray(state_at(2).params["mlp"]["up"]["kernel"])
    assert re.search(rf"params/mlp/up/kernel +float32 +\(32, 64\) +8,192 +{np.linalg.norm(kernel):.5g}", checkpoint)
    assert re.search(r"params/scale +bfloat16 +\(\) +2 ", checkpoint)
    assert "opt_state/0/mu" not in checkpoint and "of the optimiser" in checkpoint


def test_one_checkpoint_a_damaged_one_and_none(tmp_path):
    write(tmp_path, [0.25, 0.5])
    shown = inspect(tmp_path / "checkpoints" / "1", "--all")
    assert shown.returncode == 0, shown.stderr
    assert 'step 1, {"q": 0.25}' in shown.stdout and "opt_state/0/mu/mlp/up/kernel" in shown.stdout
    flipped(tmp_path / "checkpoints" / "2")
    harmed = inspect(tmp_path)
    assert harmed.returncode == 1 and "changed since it was saved" in harmed.stdout
    missing = inspect(tmp_path, "--step", 7)
    assert missing.returncode == 1 and missing.stdout == ""
    assert missing.stderr.strip().splitlines()[-1].endswith("no checkpoint of step 7; there are 1, 2")
