"""The benches run at tiny sizes, both sides do the same work, and their last line is JSON of the promised names."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PEERS = ROOT / ".venv-peers" / "bin" / "python"
QUICK = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_backend_optimization_level=0", "PYTHONPATH": str(ROOT)}
TRAIN = ["tools/bench_train.py", "--tiny", "--rounds=1", "--steps=1", "--encode-rounds=1"]
GPU = ["tools/bench_gpu.py", "--tiny", "--rounds=1", "--steps=4"]
needs_peers = pytest.mark.skipif(not PEERS.exists(), reason="run `make peers`")


def run(arguments: list[str], peers: Path) -> tuple[str, dict]:
    """(everything printed, the last line's object)."""
    command = [sys.executable, *arguments, f"--peers={peers}"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | QUICK, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, json.loads(done.stdout.splitlines()[-1])


@pytest.mark.peers
@needs_peers
def test_train_gives_every_ratio():
    printed, ratios = run(TRAIN, PEERS)
    assert set(ratios) == {
        "student_distill",
        "student_distill_vs_deduplicating_peer",
        "student_contrastive",
        "assistant",
        "encode",
    }, printed
    assert min(ratios.values()) > 0
    drifts = [float(line.split()[-1]) for line in printed.splitlines() if "differ by at most" in line]
    assert len(drifts) == 3 and max(drifts) < 1e-4


def test_train_without_a_peer_leaves_its_ratios_out_and_says_why(tmp_path):
    printed, ratios = run([*TRAIN, "--tasks", "encode"], tmp_path / "python")
    assert ratios == {}
    assert "run `make peers`" in printed


@pytest.mark.peers
@needs_peers
def test_gpu_bench_runs_anywhere():
    printed, figures = run(GPU, PEERS)
    assert figures["teraflops"] > 0 and figures["student_distill"] > 0, printed
    assert 0.5 < figures["real_token_share"] <= 1
    assert "mfu" not in figures and "no peak is known" in printed  # of a CPU


def test_gpu_bench_needs_none_of_the_heavy_packages():
    code = (
        "import sys; sys.path.insert(0, 'tools')\n"
        "for name in ('transformers', 'tokenizers', 'grain', 'scann', 'pyarrow', 'safetensors', 'tensorflow'):\n"
        "    sys.modules[name] = None\n"
        "import bench_gpu"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ | QUICK, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
