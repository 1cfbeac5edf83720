"""The judge's bench runs at tiny sizes, all sides compute the same, and its last line is JSON of the promised names."""

import sys
from pathlib import Path

import pytest

from tests.tools.test_benches import PEERS, needs_peers, run

TINY = ["tools/bench_judge.py", "--tiny", "--rounds=1", "--items=2"]
OURS = {"prefix_reuse", "pairs_per_second", "gigaflops"}


@pytest.mark.peers
@needs_peers
def test_every_side_computes_the_same_and_every_ratio_is_given():
    printed, figures = run(TINY, PEERS)
    assert set(figures) == OURS | {"vs_transformers", "vs_transformers_shared_prefix"}, printed
    assert min(figures.values()) > 0
    differences = [float(line.split()[-1]) for line in printed.splitlines() if "differ by at most" in line]
    assert len(differences) == 3 and max(differences) < 1e-5


def test_without_a_peer_its_ratios_are_left_out_and_the_bench_says_why(tmp_path):
    printed, figures = run(TINY, tmp_path / "python")
    assert set(figures) == OURS
    assert "run `make peers`" in printed


def test_sides_that_differ_are_no_comparison(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "tools"))
    import bench_judge as bench
    import numpy as np

    same = np.zeros((3, 4), np.float32)
    found = bench.Bench(bench.TINY, {}, bench.make_work(bench.TINY, 1), 1)
    found.scores = {bench.SHARED: same, bench.PEER: same[:2] + 9e-4}
    found._check()
    found.scores[bench.PEER] = same[:2] + 2e-3
    with pytest.raises(bench.Unequal, match=r"transformers: a log-probability differs by 2.0e-03"):
        found._check()
    sys.modules.pop("bench_judge")
