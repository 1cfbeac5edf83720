"""A contrastive batch of many thousand pairs trains in little memory; by a process of its own, at real sizes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

TOOL = Path(__file__).parents[2] / "tools" / "bench_memory.py"


def step(*arguments: str) -> dict[str, float]:
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(
        [sys.executable, TOOL, *arguments], env=environment, check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_sixteen_thousand_pairs_of_a_minilm_fit_in_eight_gib():
    figures = step("--pairs=16384", "--run")
    assert figures["pairs"] == 16_384 and np.isfinite(figures["loss"])
    # A new model compares about as well as chance: the loss is near the log of what it chooses among.
    assert abs(figures["loss"] - np.log(16_384)) < 1
    assert figures["compiled_gib"] < 4 and figures["peak_rss_gib"] < 8


@pytest.mark.slow
def test_memory_grows_by_the_embeddings_alone():
    small, large = step("--pairs=4096"), step("--pairs=16384")
    # Of each pair two vectors of 384 floats: pooled, taken, normalised, as targets, at two widths, and their gradients.
    assert large["compiled_gib"] - small["compiled_gib"] < 12_288 * 2 * 384 * 4 * 20 / 2**30
