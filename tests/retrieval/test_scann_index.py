import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest

from distill.retrieval import exact
from distill.retrieval.index_store import hash_keyphrases
from distill.retrieval.scann_index import KeyphraseIndex, build_index

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="scann exists for Linux only")


def test_brute_force_is_exact(brute_force, embeddings, queries):
    indices, scores = brute_force.search(queries, 10)
    expected_indices, expected_scores = exact.top_k(queries, embeddings, 10)
    np.testing.assert_allclose(scores, expected_scores, atol=1e-5)
    assert (indices == expected_indices).mean() > 0.999  # but for neighbours equal to the last bits
    assert brute_force.recall_at_100 == 1.0
    assert brute_force.describe()["method"] == "brute_force" and brute_force.describe()["leaves_to_search"] == 0


def test_the_tree_reaches_its_target_on_other_queries(tree, embeddings, queries):
    described = tree.describe()
    assert described["method"] == "tree_ah" and described["leaves"] == 141
    assert 1 <= described["leaves_to_search"] < 141 and tree.recall_at_100 >= 0.95
    unseen = queries[100:]
    found, expected = tree.search(unseen, 100)[0], exact.top_k(unseen, embeddings, 100)[0]
    recall = np.mean([len(set(f) & set(e)) / 100 for f, e in zip(found, expected)])
    assert recall >= 0.93
    assert abs(recall - tree.recall_at_100) < 0.03  # what is reported is what one gets


def test_scores_are_inner_products_best_first(tree, embeddings, queries):
    indices, scores = tree.search(queries[:5], 7)
    assert indices.shape == scores.shape == (5, 7) and indices.dtype == np.int32
    np.testing.assert_allclose(scores, np.einsum("qd,qkd->qk", queries[:5], embeddings[indices]), atol=1e-5)
    assert (np.diff(scores, axis=1) <= 0).all()


def test_what_is_not_found_is_marked(tree, queries):
    # One leaf holds fewer than 1,000 vectors; ScaNN itself would answer index 0 and NaN.
    indices, scores = tree.search(queries[:3], 1000, leaves_to_search=1)
    missing = indices == -1
    assert missing.any() and np.isneginf(scores[missing]).all() and np.isfinite(scores[~missing]).all()
    for row in indices:
        assert len(set(row[row >= 0])) == np.count_nonzero(row >= 0)


def test_k_beyond_the_corpus_and_no_queries(brute_force, queries):
    indices, _ = brute_force.search(queries[:2], 5003)
    assert (indices[:, 5000:] == -1).all() and (np.sort(indices[:, :5000]) == np.arange(5000)).all()
    assert brute_force.search(queries[:0], 3)[0].shape == (0, 3)


def test_a_target_that_no_tree_reaches_falls_back_to_brute_force(embeddings, queries):
    # Codes of one coordinate in int8 lose the order of close neighbours, whatever is searched.
    options = {"brute_force_below": 0, "sample_queries": queries, "seed": 0, "recall_at": 1}
    index = build_index(embeddings, target_recall=1.0, dtype="int8", **options)
    described = index.describe()
    assert described["method"] == "brute_force" and described["dtype"] == "float32" and described["recall"] == 1.0
    assert "all 141 leaves" in described["note"] and "int8 gave recall@1" in described["note"]


def test_few_vectors_are_searched_exactly(embeddings):
    index = build_index(embeddings[:3], brute_force_below=0, target_recall=0.9, sample_queries=embeddings[:1], seed=0)
    assert "too few" in index.describe()["note"] and index.recall_at_100 == 1.0
    np.testing.assert_array_equal(index.search(embeddings[:3], 1)[0][:, 0], [0, 1, 2])


def test_brute_force_is_reproducible(brute_force, embeddings, queries, tmp_path):
    again = build_index(embeddings, brute_force_below=10_000, target_recall=0.95, sample_queries=queries[:100], seed=3)
    brute_force.save(tmp_path / "first")
    again.save(tmp_path / "second")
    assert (tmp_path / "first/index.json").read_text() == (tmp_path / "second/index.json").read_text()


def test_a_tree_built_again_finds_the_same_neighbours(tree, embeddings, queries):
    again = build_index(embeddings, brute_force_below=1000, target_recall=0.95, sample_queries=queries[:100], seed=3)
    first, second = tree.search(queries, 10)[0], again.search(queries, 10)[0]
    assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(first, second)]) > 0.9


@pytest.mark.parametrize("name", ["tree", "brute_force"])
def test_save_move_and_load(name, queries, tmp_path, request):
    index = request.getfixturevalue(name)
    index.save(tmp_path / "here")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "here").rename(tmp_path / "elsewhere" / "moved")
    loaded = KeyphraseIndex.load(tmp_path / "elsewhere" / "moved")
    for before, after in zip(index.search(queries, 20), loaded.search(queries, 20)):
        np.testing.assert_array_equal(before, after)
    assert loaded.describe() == index.describe()


def test_saving_does_not_overwrite(tree, tmp_path):
    for name in ("notes.txt", "vectors.npy", "scann/module.py"):
        file = tmp_path / Path(name).stem / name
        file.parent.mkdir(parents=True)
        file.write_text("mine")
        with pytest.raises(FileExistsError, match="not empty"):
            tree.save(tmp_path / Path(name).stem)
        assert file.read_text() == "mine"


@pytest.fixture
def saved(tree, tmp_path):
    tree.save(tmp_path / "index")
    return tmp_path / "index"


def test_a_damaged_file_is_refused(saved):
    path = saved / "scann" / "hashed_dataset.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"hashed_dataset\.npy: not the file"):
        KeyphraseIndex.load(saved)


def test_a_missing_or_foreign_file_is_refused(saved):
    (saved / "scann" / "scann_docids.pkl").write_bytes(b"anything")
    with pytest.raises(ValueError, match=r"scann_docids\.pkl"):
        KeyphraseIndex.load(saved)
    (saved / "scann" / "scann_docids.pkl").unlink()
    (saved / "scann" / "dataset.npy").unlink()
    with pytest.raises(ValueError, match=r"dataset\.npy"):
        KeyphraseIndex.load(saved)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"format": 2, "files": {}}'])
def test_a_damaged_manifest_is_refused(saved, text):
    (saved / "index.json").write_text(text)
    with pytest.raises(ValueError, match=r"index\.json: cannot be read"):
        KeyphraseIndex.load(saved)


def test_another_format_and_no_index_are_refused(saved, tmp_path):
    manifest = json.loads((saved / "index.json").read_text())
    (saved / "index.json").write_text(json.dumps(manifest | {"format": 99}))
    with pytest.raises(ValueError, match="format 99"):
        KeyphraseIndex.load(saved)
    with pytest.raises(FileNotFoundError, match=r"index\.json"):
        KeyphraseIndex.load(tmp_path / "nowhere")


def changed(array, value):
    array = array.copy()
    array[1, 2] = value
    return array


@pytest.mark.parametrize(
    "change,word",
    [
        (lambda x: x[:0], "empty"),
        (lambda x: x[0], r"shape \(32,\)"),
        (lambda x: x[:, :0], "shape"),
        (lambda x: x.astype(np.float64), "float64"),
        (lambda x: changed(x, np.nan), "row 1 holds NaN"),
        (lambda x: changed(x, np.inf), "row 1 holds NaN"),
        (lambda x: 2 * x, "length 2"),
    ],
)
def test_embeddings_that_would_abort_the_process_are_refused(embeddings, queries, change, word):
    with pytest.raises(ValueError, match=f"embeddings: .*{word}"):
        build_index(change(embeddings), brute_force_below=0, target_recall=0.9, sample_queries=queries, seed=0)


@pytest.mark.parametrize(
    "change,word",
    [
        ({"target_recall": 0.0}, "target_recall: 0"),
        ({"target_recall": 1.5}, "target_recall: 1.5"),
        ({"seed": -1}, "seed: -1"),
        ({"sample_queries": np.zeros((3, 8), np.float32)}, "sample_queries: width 8"),
        ({"sample_queries": np.zeros((0, 32), np.float32)}, "sample_queries: empty"),
    ],
)
def test_settings_that_do_not_fit_are_refused(embeddings, queries, change, word):
    settings = {"brute_force_below": 0, "target_recall": 0.9, "sample_queries": queries, "seed": 0} | change
    with pytest.raises(ValueError, match=word):
        build_index(embeddings, **settings)


@pytest.mark.parametrize("name", ["tree", "brute_force"])
def test_searches_that_would_abort_the_process_are_refused(name, queries, request):
    index = request.getfixturevalue(name)
    for bad, k, word in (
        (queries, 0, "k: 0"),
        (queries[:, :8], 5, "width 8"),
        (queries[0], 5, "shape"),
        (queries.astype(np.float16), 5, "float16"),
        (changed(queries, np.nan), 5, "NaN"),
    ):
        with pytest.raises(ValueError, match=word):
            index.search(bad, k)
    strided = np.asfortranarray(queries)
    np.testing.assert_array_equal(index.search(strided, 5)[0], index.search(queries, 5)[0])


def test_without_scann_the_module_imports_and_says_what_is_missing():
    code = """
import sys
sys.modules["scann"] = None
import numpy as np
from distill.retrieval.scann_index import build_index
try:
    build_index(np.eye(4, dtype=np.float32), brute_force_below=9, target_recall=.9,
                sample_queries=np.eye(4, dtype=np.float32), seed=0)
except ImportError as error:
    assert "pip install scann" in str(error), error
else:
    raise AssertionError("built without scann")
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_scann_leaves_tensorflow_alone_and_other_threads_may_import_it():
    """The ops of ScaNN stay importable afterwards; nothing is left in the way of imports."""
    code = """
import sys, threading
from pathlib import Path
sys.path.insert(0, sys.argv[1])
package = Path(sys.argv[1]) / "tensorflow"
package.mkdir()
(package / "__init__.py").write_text("import time; time.sleep(0.2); here = True")
finders = list(sys.meta_path)
from distill.retrieval import scann_native
scann_native._scann()
assert "tensorflow" not in sys.modules and sys.meta_path == finders
found = []
def other():
    import tensorflow
    found.append(tensorflow.here)
thread = threading.Thread(target=other)
with scann_native._without("tensorflow"):
    thread.start()
    thread.join()
assert found == [True]
"""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-c", code, folder], check=True, timeout=120)


def test_the_tuner_takes_exact_search_of_few_vectors_where_that_is_fastest(embeddings, queries):
    """At 1,200 vectors one matrix product is faster than walking a tree, whatever the machine does meanwhile."""
    options = {"brute_force_below": 0, "sample_queries": queries, "seed": 0, "recall_at": 10}
    index = build_index(embeddings[:1200], target_recall=0.999, tune_seconds=0.1, **options)
    described = index.describe()
    assert described["tuned"] and index.curve
    if described["method"] == "brute_force":
        assert described["recall"] == 1.0 and "no tree was faster" in described["note"]
    else:
        best = max(point["queries_per_second"] for point in index.curve if point["leaves"])
        exact = max(point["queries_per_second"] for point in index.curve if not point["leaves"])
        assert best > exact


def test_duplicates_leave_leaves_empty_and_k_are_found_nevertheless():
    """Ten distinct vectors, three hundred times each: most leaves hold nothing."""
    distinct = np.linalg.qr(np.random.default_rng(0).normal(size=(16, 16)))[0][:10].astype(np.float32)
    vectors = np.repeat(distinct, 300, axis=0)
    index = build_index(vectors, brute_force_below=0, target_recall=0.9, sample_queries=distinct, seed=0)
    assert index.describe()["method"] == "tree_ah"
    for k in (1, 300, 500, 3000):
        indices, scores = index.search(distinct, k)
        assert all(len(set(row)) == k for row in indices.tolist()) and indices.min() >= 0, k
        np.testing.assert_allclose(scores[:, : min(k, 300)], 1, atol=1e-5)
        assert (indices[:, : min(k, 300)] // 300 == np.arange(10)[:, None]).all()


def test_searches_from_several_threads_agree(tree, queries):
    expected = tree.search(queries, 20)
    found = []
    threads = [threading.Thread(target=lambda: found.append(tree.search(queries, 20))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    for indices, scores in found:
        np.testing.assert_array_equal(indices, expected[0])
        np.testing.assert_array_equal(scores, expected[1])


def test_an_index_that_is_deleted_and_written_anew_does_not_disturb_who_has_it_open(embeddings, queries, tmp_path):
    """Its vectors are memory-mapped here: new files take the place of old ones, whose bytes stay with the reader."""
    options = {"brute_force_below": 1000, "target_recall": 0.5, "sample_queries": queries[:100], "seed": 3}
    build_index(embeddings, dtype="bfloat16", **options).save(tmp_path / "index")
    reader = KeyphraseIndex.load(tmp_path / "index")
    before = reader.vectors[:100].copy()
    allowed = np.arange(50)  # read from the mapped file
    expected = reader.search(queries, 5, allowed=allowed)
    shutil.rmtree(tmp_path / "index")
    build_index(-embeddings[::-1], dtype="bfloat16", **options).save(tmp_path / "index")
    np.testing.assert_array_equal(reader.vectors[:100], before)
    np.testing.assert_array_equal(reader.search(queries, 5, allowed=allowed)[1], expected[1])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("leaves_to_search", 0),
        ("leaves_to_search", 10**6),
        ("leaves_to_search", "12"),
        ("leaves_to_search", True),
        ("reorder", 0),
        ("reorder", 10**9),
        ("leaves", -1),
        ("leaves", 0),
        ("count", 0),
        ("count", 2**40),
        ("width", 0),
        ("dtype", "float16"),
        ("recall_at", 0),
        ("seed", None),
    ],
)
def test_settings_that_scann_could_not_search_by_are_refused_by_name(saved, name, value):
    manifest = json.loads((saved / "index.json").read_text())
    (saved / "index.json").write_text(json.dumps(manifest | {name: value}))
    said = "method" if name == "leaves" else name
    with pytest.raises(ValueError, match=rf"index\.json: cannot be read.*{said} is"):
        KeyphraseIndex.load(saved)


@pytest.mark.parametrize("k", [2.5, None, "3", True, 0, -1])
def test_numbers_that_are_no_numbers_are_refused(tree, queries, k):
    with pytest.raises(ValueError, match=r"k: .*whole number"):
        tree.search(queries[:1], k)
    if k is not None:
        with pytest.raises(ValueError, match="leaves_to_search: "):
            tree.search(queries[:1], 3, leaves_to_search=k)
    assert tree.search(queries[:1], np.int32(3))[0].shape == (1, 3)


def test_keyphrases_with_control_characters_do_not_share_a_hash():
    lists = (["a\0", "b"], ["a", "\0b"], ["a\0b"], ["a", "b"], ["a\1", "b"], ["a\1\1", "b"], ["a\1\2", "b"], ["ab"], [])
    assert len({hash_keyphrases(texts) for texts in lists}) == len(lists)
    # Written out: what was hashed so far keeps its hash.
    assert hash_keyphrases(["café", "b"]) == hashlib.sha256("café\0b\0".encode()).hexdigest()


def test_memory_that_is_not_aligned_is_copied(tree, queries):
    raw = bytearray(b"x" + queries[:4].tobytes())
    crooked = np.ndarray((4, 32), np.float32, buffer=raw, offset=1)
    assert not crooked.flags.aligned
    np.testing.assert_array_equal(tree.search(crooked, 5)[0], tree.search(queries[:4], 5)[0])
