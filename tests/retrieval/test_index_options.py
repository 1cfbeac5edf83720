"""Prefixes, rounded vectors, categories, tuning, expectations: what an index can do beside finding neighbours."""

import subprocess
import sys

import numpy as np
import pytest

from distill.retrieval import exact, scann_native
from distill.retrieval.scann_index import KeyphraseIndex, build_index
from tests.retrieval.conftest import unit

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="scann exists for Linux only")


@pytest.fixture(scope="module")
def matryoshka(embeddings):
    """The first half of the coordinates says most; the index searches that half and orders by the whole."""
    weights = np.concatenate([np.ones(16), np.full(16, 0.3)])
    vectors = unit(embeddings * weights)
    rng = np.random.default_rng(5)
    queries = unit(vectors[rng.integers(5000, size=300)] + 0.05 * rng.normal(size=(300, 32)))
    index = build_index(
        vectors, brute_force_below=0, target_recall=0.93, sample_queries=queries[:200], seed=0, width=16, recall_at=20
    )
    return index, vectors, queries[200:]


def test_a_prefix_is_searched_and_the_full_width_decides(matryoshka):
    index, vectors, queries = matryoshka
    described = index.describe()
    assert (described["width"], described["full_width"]) == (16, 32) and described["rescore"] > 20
    indices, scores = index.search(queries, 20)
    np.testing.assert_allclose(scores, np.einsum("qd,qkd->qk", queries, vectors[indices]), atol=1e-5)
    assert (np.diff(scores, axis=1) <= 0).all()
    expected = exact.top_k(queries, vectors, 20)[0]
    recall = np.mean([len(set(f) & set(e)) / 20 for f, e in zip(indices, expected)])
    alone = exact.top_k(unit(queries[:, :16]), unit(vectors[:, :16]), 20)[0]
    assert recall > 0.87 and abs(recall - described["recall"]) < 0.04
    assert recall > np.mean([len(set(f) & set(e)) / 20 for f, e in zip(alone, expected)])


def test_a_prefix_that_says_nothing_is_not_searched(embeddings, queries):
    swapped = np.ascontiguousarray(embeddings[:, ::-1])
    blind = unit(np.concatenate([0.01 * swapped[:, :4], swapped[:, 4:]], axis=1))
    index = build_index(
        blind, brute_force_below=0, target_recall=0.95, sample_queries=blind[:100], seed=0, width=4, recall_at=10
    )
    assert index.settings.width == 32 and index.settings.rescore == 0 and "prefix 4 gave" in index.settings.note


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_rounded_vectors_take_less_memory_and_recall_is_honest(embeddings, queries, dtype, tmp_path):
    options = {"target_recall": 0.9, "sample_queries": queries[:100], "seed": 0, "dtype": dtype}
    for below, method in ((0, "tree_ah"), (10_000, "brute_force")):
        index = build_index(embeddings, brute_force_below=below, **options)
        assert (index.settings.method, index.settings.dtype) == (method, dtype)
        found, scores = index.search(queries[100:], 100)
        expected = exact.top_k(queries[100:], embeddings, 100)[0]
        recall = np.mean([len(set(f) & set(e)) / 100 for f, e in zip(found, expected)])
        assert recall == pytest.approx(index.recall_at_100, abs=0.06)
        there = found >= 0
        cosines = np.einsum("qd,qkd->qk", queries[100:], embeddings[found])
        np.testing.assert_allclose(scores[there], cosines[there], atol=0.03 if dtype == "int8" else 0.01)
        index.save(tmp_path / method)
        loaded = KeyphraseIndex.load(tmp_path / method)
        np.testing.assert_array_equal(loaded.vectors, embeddings)  # for re-scoring and allow-lists, not held in memory
        assert not (tmp_path / method / "scann" / "dataset.npy").exists()


@pytest.mark.parametrize("name", ["tree", "brute_force"])
def test_a_category_is_searched_alone(name, embeddings, queries, request, monkeypatch):
    index = request.getfixturevalue(name)
    for rows in (np.arange(100, 400), np.flatnonzero(np.arange(5000) % 10), np.array([7])):
        for cost in (11_000, 1):  # exact search, and filtering what the tree finds
            monkeypatch.setattr("distill.retrieval.subset_search._SEARCH_COST", cost)
            found, scores = index.search(queries, 20, allowed=rows)
            wanted = min(20, len(rows))
            assert np.isin(found[:, :wanted], rows).all() and (found[:, wanted:] == -1).all()
            kth = exact.top_k(queries, embeddings[rows], wanted)[1][:, -1:]
            assert np.mean(scores[:, :wanted] >= kth - 1e-5) > 0.94
    mask = np.arange(5000) < 5000
    np.testing.assert_array_equal(index.search(queries, 5, allowed=mask)[0], index.search(queries, 5)[0])
    with pytest.raises(ValueError, match="allowed: rows 0 to 5000"):
        index.search(queries, 5, allowed=np.array([0, 5000]))


def test_the_tuner_meets_its_target_and_leaves_a_curve(embeddings, queries, tmp_path):
    index = build_index(
        embeddings, brute_force_below=0, target_recall=0.9, sample_queries=queries[:200], seed=0, tune_seconds=5
    )
    assert index.settings.tuned and 0.9 <= index.settings.recall <= 0.96  # one leaf of a few is a large step
    unseen, expected = index.search(queries[200:], 100)[0], exact.top_k(queries[200:], embeddings, 100)[0]
    assert np.mean([len(set(f) & set(e)) / 100 for f, e in zip(unseen, expected)]) > 0.88
    assert len(index.curve) > 2 and {"leaves_to_search", "recall", "queries_per_second"} <= index.curve[0].keys()
    index.save(tmp_path / "index")
    assert KeyphraseIndex.load(tmp_path / "index").curve == index.curve


def test_recall_can_be_measured_again_and_parameters_given(tree):
    assert tree.measure_recall() == pytest.approx(tree.settings.recall, abs=0.02)
    everything = tree.search(tree.sample, 100, leaves_to_search=141, reorder=5000)[1]
    fewer = tree.search(tree.sample, 100, leaves_to_search=1, reorder=100)[1]
    assert everything.sum() > fewer[np.isfinite(fewer)].sum()
    assert tree.search(tree.sample, 10)[0].shape == (100, 10)


def test_an_index_of_another_model_or_other_texts_is_refused(embeddings, queries, tmp_path):
    build_index(
        embeddings[:50],
        brute_force_below=100,
        target_recall=1.0,
        sample_queries=queries[:5],
        seed=0,
        model="monday",
        keyphrases_sha256="abc",
    ).save(tmp_path / "index")
    right = {"model": "monday", "keyphrases_sha256": "abc", "width": 32}
    assert KeyphraseIndex.load(tmp_path / "index", expected=right).settings.model == "monday"
    with pytest.raises(ValueError, match="model is 'monday', not 'tuesday'; width is 32, not 64"):
        KeyphraseIndex.load(tmp_path / "index", expected=right | {"model": "tuesday", "width": 64})
    with pytest.raises(ValueError, match="colour"):
        KeyphraseIndex.load(tmp_path / "index", expected={"colour": "red"})


def test_more_vectors_than_are_read_at_a_time(embeddings, queries, monkeypatch):
    monkeypatch.setattr("distill.retrieval.scann_native._EXACT_BYTES", 4 * 32 * 700)
    found, scores = scann_native.exact_top(queries[:20], embeddings, 50)
    expected, expected_scores = exact.top_k(queries[:20], embeddings, 50)
    np.testing.assert_allclose(scores, expected_scores, atol=1e-5)
    assert (found == expected).mean() > 0.99


def test_bad_arguments_raise_and_never_end_the_process():
    """In a process of its own: a native abort would take the test runner with it."""
    code = """
import itertools, numpy as np
from distill.retrieval.scann_index import build_index
rng = np.random.default_rng(0)
good = rng.normal(size=(1500, 8)).astype(np.float32)
good /= np.linalg.norm(good, axis=1, keepdims=True)
options = dict(brute_force_below=0, target_recall=.5, sample_queries=good[:50], seed=0)
bad_arrays = [good[:0], good[0], good[:, :0], good[:, :5], good.astype("f8"), good.astype("i4"), np.array(None),
              np.array("x"), good[None], *(np.full((3, 8), value, "f4") for value in (np.nan, np.inf, 1e30))]
refused = 0
def refuse(call):
    global refused
    try:
        call()
    except ValueError as error:
        assert ": " in str(error), error
        refused += 1
    else:
        raise AssertionError("accepted")
for array in bad_arrays:
    if array.shape[1:] != (5,):
        refuse(lambda: build_index(array, **options))
    refuse(lambda: build_index(good, **options | dict(sample_queries=array)))
for name, values in dict(target_recall=[0, -1, 1.1, float("nan")], seed=[-1, 2**31], width=[-1, 9], recall_at=[0, -5],
                         dtype=["float16", ""], tune_seconds=[-1, float("inf"), float("nan")]).items():
    for value in values:
        refuse(lambda: build_index(good, **options | {name: value}))
for index in (build_index(good, **options), build_index(good, **options | dict(brute_force_below=9999))):
    for array in bad_arrays[1:]:
        refuse(lambda: index.search(array, 3))
    for k in (0, -1):
        refuse(lambda: index.search(good, k))
    for name in ("leaves_to_search", "reorder"):
        for value in (0, -1, 10**9):
            refuse(lambda: index.search(good, 3, **{name: value}))
    for allowed in ([-1], [1500], [[1]], ["a"], [True], [.5]):
        refuse(lambda: index.search(good, 3, allowed=np.array(allowed)))
    assert index.search(good[:2], 10**5)[0].shape == (2, 10**5)
    assert index.search(good[:0], 1)[0].shape == (0, 1)
print(refused)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 70
