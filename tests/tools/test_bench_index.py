"""The index bench: its vectors are shaped like embeddings, recall is counted strictly, every peer gives a ratio."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.tools.test_benches import PEERS, run

TINY = ["tools/bench_index.py", "--sizes=2000x16", "--tuner-size=2000x16", "--rounds=1", "--tune-seconds=1"]
TINY += ["--exact-sizes=1500x16"]
OURS = {"index_recall"}
EXACT = "index_tree_vs_exact/1500x16"
RATIOS = {"index_qps_vs_best_peer", "index_untuned_qps_vs_best_peer", "index_build_vs_fastest"}
needs_peers = pytest.mark.skipif(not (PEERS.parent.parent / ".index").exists(), reason="run `make bench-index` once")


@pytest.fixture
def tools(monkeypatch):
    """The bench's modules, imported as it imports them."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "tools"))
    before = set(sys.modules)
    import bench_index
    import bench_index_sides
    import bench_vectors

    yield bench_index, bench_index_sides, bench_vectors
    for name in set(sys.modules) - before:
        if name.startswith("bench_"):
            del sys.modules[name]


def make_work(tools, tmp_path, count=3000, width=16):
    _, sides, vectors = tools
    corpus, queries = vectors.make_vectors(count, 150, width, seed=0)
    return sides.Work.create(corpus, queries[:50], queries[50:], tmp_path / "work")


def test_vectors_are_unit_repeatable_and_queries_are_no_rows_of_the_corpus(tools):
    make_vectors = tools[2].make_vectors
    corpus, queries = make_vectors(3000, 200, 32, seed=3)
    assert corpus.shape == (3000, 32) and queries.shape == (200, 32) and corpus.dtype == queries.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(np.r_[corpus, queries], axis=1), 1, atol=1e-5)
    again = make_vectors(3000, 200, 32, seed=3)
    assert np.array_equal(corpus, again[0]) and np.array_equal(queries, again[1])
    assert not np.array_equal(corpus, make_vectors(3000, 200, 32, seed=4)[0])
    assert (queries @ corpus.T).max() < 1 - 1e-5


def test_vectors_lie_as_a_trained_students_do(tools):
    """Bounds about the real figures in the module's docstring, at the size that these were measured at."""
    vectors = tools[2]
    figures = vectors.describe(*vectors.make_vectors(10_324, 300, 64, seed=5))
    assert figures["query: cosine at rank 1"][1] == pytest.approx(0.82, abs=0.06)
    assert figures["query: cosine at rank 100"][1] == pytest.approx(0.56, abs=0.03)
    assert figures["query: cosine of any keyphrase"][1] == pytest.approx(0.31, abs=0.05)
    near, far = figures["query: intrinsic dimension, 20 and 100 nearest"]
    assert 9 < near < 14 and 11 < far < 18
    assert figures["query: share of 100 nearest in 1, 5, 20 of √N cells"][1] == pytest.approx(0.57, abs=0.07)


def test_denser_when_larger_as_draws_of_one_distribution_are(tools):
    vectors = tools[2]
    nearest = [
        np.median(-np.partition(-(queries @ corpus.T), 9, axis=1)[:, 9])
        for corpus, queries in (vectors.make_vectors(count, 200, 64, seed=1) for count in (2000, 20_000))
    ]
    assert nearest[1] > nearest[0] + 0.05


def test_intrinsic_dimension_is_that_of_a_sphere_in_a_subspace(tools):
    vectors = tools[2]
    rng = np.random.default_rng(0)
    points = vectors.unit(np.pad(rng.standard_normal((5000, 6), np.float32), ((0, 0), (0, 10))))  # a 5-sphere
    dimension = vectors.describe(points[:4500], points[4500:])["query: intrinsic dimension, 20 and 100 nearest"][0]
    assert dimension == pytest.approx(5, rel=0.15)


@pytest.mark.parametrize(
    "stored, message",
    [
        (np.zeros((4, 8), np.float32), "row 0 is zero"),
        (np.full((4, 8), np.nan, np.float32), "row 0 is zero or not finite"),
        (np.ones((4, 4), np.float32), "pass floats"),
        (np.ones((4, 8), np.int64), "pass floats"),
        (np.ones((0, 8), np.float32), "pass floats"),
    ],
)
def test_files_that_hold_no_embeddings_are_refused_by_name(tools, tmp_path, stored, message):
    np.save(tmp_path / "real.npy", stored)
    with pytest.raises(ValueError, match=f"real.npy.*{message}"):
        tools[2].read_vectors(tmp_path / "real.npy", 8)


def test_real_vectors_are_split_when_no_queries_come_with_them(tools, tmp_path):
    rows = np.random.default_rng(0).standard_normal((2000, 8)).astype(np.float16)
    np.save(tmp_path / "real.npy", rows)
    corpus, queries = tools[0].read_real(tmp_path / "real.npy", None, 4)
    assert corpus.shape == (1800, 4) and queries.shape == (200, 4)
    assert (queries @ corpus.T).max() < 1 - 1e-6
    whole, asked = tools[0].read_real(tmp_path / "real.npy", tmp_path / "real.npy", 4)
    assert whole.shape == asked.shape == (2000, 4)


def test_recall_counts_a_row_once_and_a_missing_one_never(tools, tmp_path):
    work = make_work(tools, tmp_path)
    exact = np.argsort(-(work.queries @ work.corpus.T), axis=1, kind="stable")[:, :100]
    assert work.recall(exact) == 1
    assert work.recall(exact[:, ::-1]) == 1
    half = exact.copy()
    half[:, 50:] = -1
    assert work.recall(half) == pytest.approx(0.5)
    half[:, 50:] = exact[:, :1]
    assert work.recall(half) == pytest.approx(0.5)
    wrong = np.argsort(work.queries @ work.corpus.T, axis=1)[:, :100]
    assert work.recall(wrong) == 0


def test_the_search_that_is_timed_is_the_cheapest_on_target(tools, tmp_path):
    bench, sides, _ = tools
    work = make_work(tools, tmp_path)
    index = bench.build_index(work.corpus, brute_force_below=0, target_recall=0.9, sample_queries=work.sample, seed=0)
    side = sides.Ours("ours", index, 1.0, work, reorders=(150, 300))
    points = list(sides.points_on_target(side, work, 0.9))
    assert len(points) == 2
    for chosen in points:
        assert chosen.recall == work.recall(side.find(chosen.parameters)) >= 0.9
        fewer = chosen.parameters | {"leaves_to_search": chosen.parameters["leaves_to_search"] - 1}
        assert fewer["leaves_to_search"] == 0 or work.recall(side.find(fewer)) < 0.9
    side.space = dataclasses.replace(side.space, high=1)
    with pytest.raises(sides.Unreached, match=r"no search reaches recall 0.99, the best was 0"):
        list(sides.points_on_target(side, work, 0.99))


def test_the_tuner_is_held_against_a_grid_with_exact_search_in_it(tools, tmp_path, monkeypatch, capsys):
    import bench_index_tuner  # pyright: ignore[reportMissingImports]

    from distill.retrieval import index_tuning

    for module, name, value in (
        (index_tuning, "_PASS", 0.01),
        (index_tuning, "_GLANCE", 0.01),
        (tools[1], "AT_LEAST", 0.01),
        (bench_index_tuner, "LEAVES", (1,)),
        (bench_index_tuner, "DIMS_PER_BLOCK", (1,)),
        (bench_index_tuner, "REORDERS", (2,)),
    ):
        monkeypatch.setattr(module, name, value)
    figures = bench_index_tuner.check_tuner(make_work(tools, tmp_path), 0.9, tune_seconds=0.1, rounds=1)
    printed = capsys.readouterr().out
    assert set(figures) == {"tuner_qps_vs_grid", "tuner_recall_error"}
    assert "TreeSettings(leaves=0" in printed and printed.count("TreeSettings(leaves=55") == 2
    said = [line.rsplit(": ", 1)[1] for line in printed.splitlines() if line.startswith("tuner: ")]
    exact = "(exact search)" in printed
    assert said == [
        bench_index_tuner._verdict(abs(figures["tuner_recall_error"]) <= 0.01 or exact),
        bench_index_tuner._verdict(figures["tuner_qps_vs_grid"] >= 0.9),
    ]


def test_without_peers_ratios_are_left_out_and_the_bench_says_why(tmp_path):
    printed, figures = run([*TINY, "--tasks", "peers", "exact"], tmp_path / "python")
    assert set(figures) == {*OURS, EXACT} and figures[EXACT] > 0 and figures["index_recall"] >= 0.95
    assert printed.count("no ratio to") == 4 and "run `make peers`" in printed


@pytest.mark.peers
@needs_peers
@pytest.mark.slow
def test_every_peer_gives_a_ratio_and_the_tuner_is_checked():
    printed, figures = run(TINY, PEERS)
    assert set(figures) == OURS | RATIOS | {EXACT, "tuner_qps_vs_grid", "tuner_recall_error"}, printed
    assert "no ratio" not in printed
    assert min(figures[name] for name in RATIOS) > 0


@pytest.mark.peers
@needs_peers
def test_a_build_over_the_cap_is_stopped(tools, tmp_path):
    _, sides, _ = tools
    work = make_work(tools, tmp_path, count=30_000, width=64)
    settings = {"m": 48, "ef_construction": 1000}
    with pytest.raises(sides.OverTheCap, match="over the cap of 1 s"):
        sides.Theirs(PEERS, "hnswlib", settings, work, threads=1, cap=1)
    with pytest.raises(sides.PeerError, match="KeyError"):
        sides.Theirs(PEERS, "annoy", {}, work, threads=1, cap=60)
