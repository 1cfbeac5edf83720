import shutil
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from distill.retrieval.index_updates import CHANGES, ChangingIndex, RebuildPolicy
from distill.retrieval.scann_index import build_index

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="scann exists for Linux only")

WIDTH = 8


def unit(seed, count, width=WIDTH):
    vectors = np.random.default_rng(seed).normal(size=(count, width))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def exact_index(vectors):
    return build_index(vectors, brute_force_below=10**9, target_recall=1.0, sample_queries=unit(99, 5), seed=0)


def by_hand(there, queries, k):
    """ids [Q, k] and scores of the best of a dict id → vector."""
    ids = np.array(sorted(there), np.int64)
    scores = queries @ np.stack([there[i] for i in ids]).T if len(ids) else np.zeros((len(queries), 0), np.float32)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return ids[order], np.take_along_axis(scores, order, 1)


class Changes(RuleBasedStateMachine):
    """Against a dict, over an exact index: nothing removed is found, and everything else is."""

    def __init__(self):
        super().__init__()
        vectors = unit(0, 12)
        self.index = ChangingIndex(exact_index(vectors), np.arange(12) * 10)
        self.there = {i * 10: vectors[i] for i in range(12)}
        self.seed = 100

    @rule(ids=st.lists(st.integers(0, 150), unique=True, max_size=4))
    def put(self, ids):
        self.seed += 1
        vectors = unit(self.seed, len(ids))
        self.index.put(np.array(ids, np.int64), vectors)
        self.there |= dict(zip(ids, vectors))

    @rule(data=st.data())
    def remove(self, data):
        choice = st.lists(st.sampled_from(sorted(self.there)), unique=True, max_size=6) if self.there else st.just([])
        ids = data.draw(choice)
        self.index.remove(np.array(ids, np.int64))
        for i in ids:
            del self.there[i]

    @rule()
    def rebuild(self):
        if self.there:
            self.index = self.index.rebuilt(exact_index)
            assert self.index.changed_share() == 0

    @invariant()
    def finds_what_is_there(self):
        queries = unit(7, 3)
        assert len(self.index) == len(self.there) and set(self.index.ids()) == set(self.there)
        for k in (1, 5, 40):
            ids, scores = self.index.search(queries, k)
            assert ids.shape == scores.shape == (3, k) and ids.dtype == np.int64
            expected_ids, expected = by_hand(self.there, queries, k)
            found = expected.shape[1]
            np.testing.assert_allclose(scores[:, :found], expected, atol=1e-5)
            np.testing.assert_array_equal(ids[:, :found], expected_ids)
            assert (ids[:, found:] == -1).all() and np.isneginf(scores[:, found:]).all()
        for i, vector in zip(self.index.ids(), self.index.vectors()):
            np.testing.assert_array_equal(vector, self.there[i])


TestChanges = Changes.TestCase
TestChanges.settings = settings(max_examples=5, stateful_step_count=7, deadline=None)


@pytest.fixture(scope="module")
def tree():
    rng = np.random.default_rng(0)
    centres = unit(1, 40, 16)
    vectors = centres[rng.integers(40, size=4000)] + 0.1 * rng.normal(size=(4000, 16))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    queries = unit(2, 100, 16)
    return build_index(
        vectors, brute_force_below=0, target_recall=0.95, sample_queries=queries, seed=0, recall_at=10
    ), vectors


def test_a_tree_keeps_its_recall_through_changes_and_names_none_of_the_removed(tree):
    base, vectors = tree
    index = ChangingIndex(base)
    index.remove(np.arange(0, 4000, 3))
    index.put(np.arange(5000, 5200), unit(3, 200, 16))
    there = {i: vectors[i] for i in range(4000) if i % 3} | dict(zip(range(5000, 5200), unit(3, 200, 16)))
    ids, _ = index.search(base.sample, 10)
    expected, _ = by_hand(there, base.sample, 10)
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(ids, expected)])
    assert set(ids.reshape(-1)) <= there.keys()
    assert recall > 0.93 and index.measure_recall() == pytest.approx(recall, abs=0.002)


def test_when_to_build_again(tree):
    index = ChangingIndex(tree[0])
    policy = RebuildPolicy(changed_share=0.1, recall_slack=0.02)
    assert index.needs_rebuild(policy, measure=True) == ""
    index.put(np.arange(4000, 4200), unit(3, 200, 16))
    index.put(np.arange(0, 100), unit(4, 100, 16))
    index.remove(np.arange(100, 200))
    assert index.changed_share() == 0.1 and index.needs_rebuild(policy) == ""
    index.remove(np.array([200]))
    assert "10.0% of the keyphrases have changed" in index.needs_rebuild(policy)
    assert "recall@10 has fallen" in index.needs_rebuild(RebuildPolicy(1.0, recall_slack=-1), measure=True)


def test_a_change_costs_a_small_file_and_survives_a_restart(tree, tmp_path):
    index = ChangingIndex(tree[0])
    index.save(tmp_path / "index")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "index" / "base").rglob("*")}
    index.remove(np.array([5, 7]))
    index.put(np.array([7, 9000]), unit(3, 2, 16))
    index.save(tmp_path / "index")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "index" / "base").rglob("*")} == before
    loaded = ChangingIndex.load(tmp_path / "index")
    for mine, theirs in zip(index.search(tree[0].sample, 20), loaded.search(tree[0].sample, 20)):
        np.testing.assert_array_equal(mine, theirs)
    assert set(loaded.ids()) == set(range(4000)) - {5} | {9000}
    loaded.remove(np.array([9000]))
    assert len(loaded) == 3999


def test_changes_of_another_index_are_refused(tree, tmp_path):
    ChangingIndex(tree[0]).save(tmp_path / "one")
    ChangingIndex(exact_index(unit(0, 30))).save(tmp_path / "two")
    shutil.copy(tmp_path / "one" / CHANGES, tmp_path / "two" / CHANGES)
    with pytest.raises(ValueError, match="changes of another index"):
        ChangingIndex.load(tmp_path / "two")
    (tmp_path / "two" / CHANGES).unlink()
    with pytest.raises(FileNotFoundError, match=CHANGES):
        ChangingIndex.load(tmp_path / "two")


def test_what_does_not_fit_changes_nothing():
    index = ChangingIndex(exact_index(unit(0, 5)))
    nan = unit(1, 1).copy()
    nan[0, 0] = np.nan
    for ids, vectors, words in (
        ([9], nan, "NaN"),
        ([9], 2 * unit(1, 1), "length 2"),
        ([9], unit(1, 1, 4), "width 4"),
        ([9, 9], unit(1, 2), "stands twice"),
        ([8, 9], unit(1, 1), "2 of them for 1 vectors"),
        ([-1], unit(1, 1), "at least 0"),
        ([0.5], unit(1, 1), "integers"),
        (["shoes"], unit(1, 1), "integers"),
        (np.array([2**63 + 5], np.uint64), unit(1, 1), "at most 9223372036854775807"),
    ):
        with pytest.raises(ValueError, match=words):
            index.put(np.array(ids), vectors)
    for ids, words in (([0, 77], r"\[77\] are not in the index"), ([1, 1], "stands twice")):
        with pytest.raises(ValueError, match=words):
            index.remove(np.array(ids))
    with pytest.raises(ValueError, match="k: 0"):
        index.search(unit(0, 1), 0)
    assert len(index) == 5 and index.changed_share() == 0
    index.remove(np.arange(5))
    with pytest.raises(ValueError, match="every keyphrase was removed"):
        index.rebuilt(exact_index)
    assert (index.search(unit(0, 2), 3)[0] == -1).all() and index.measure_recall() == 1.0


def test_an_index_is_not_saved_over_another_one(tree, tmp_path):
    """Changes of one index beside another of as many keyphrases would be read as that one's."""
    ChangingIndex(exact_index(unit(0, 30))).save(tmp_path / "index")
    before = (tmp_path / "index" / CHANGES).read_bytes()
    with pytest.raises(FileExistsError, match="another index than the one that was changed"):
        ChangingIndex(exact_index(unit(1, 30))).save(tmp_path / "index")
    assert (tmp_path / "index" / CHANGES).read_bytes() == before
    ChangingIndex.load(tmp_path / "index")
    ChangingIndex(exact_index(unit(0, 30))).save(tmp_path / "index")  # the same one, built again


def test_a_save_that_was_killed_is_done_again(tmp_path):
    code = """
import os, signal, sys
import numpy as np
from distill.retrieval import index_store
from distill.retrieval.index_updates import ChangingIndex
from tests.retrieval.test_index_updates import exact_index, unit
index_store.write_manifest = lambda *a: os.kill(os.getpid(), signal.SIGKILL)
ChangingIndex(exact_index(unit(0, 30))).save(sys.argv[1])
"""
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "index")]).returncode == -9
    assert any((tmp_path / "index" / "base").iterdir())
    index = ChangingIndex(exact_index(unit(0, 30)))
    index.save(tmp_path / "index")
    assert len(ChangingIndex.load(tmp_path / "index")) == 30


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_a_damaged_file_of_changes_is_refused_by_name(tree, tmp_path, place):
    index = ChangingIndex(exact_index(unit(0, 30)))
    index.put(np.arange(100, 400), unit(1, 300))
    index.save(tmp_path / "index")
    path = tmp_path / "index" / CHANGES
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(ValueError, match=CHANGES):
        ChangingIndex.load(tmp_path / "index")
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=CHANGES):
        ChangingIndex.load(tmp_path / "index")


def test_rounded_scores_do_not_decide_between_what_was_built_and_what_was_added():
    """int8 rounds each coordinate: an added vector that is a hair nearer must still come first."""
    vectors, queries = unit(0, 200, 32), unit(5, 40, 32)
    base = build_index(
        vectors, brute_force_below=10**9, target_recall=0.5, sample_queries=queries, seed=0, dtype="int8", recall_at=10
    )
    assert base.settings.dtype == "int8"
    index = ChangingIndex(base, np.arange(200))
    index.put(np.arange(1000, 1200), unit(1, 200, 32))
    there = dict(enumerate(vectors)) | dict(zip(range(1000, 1200), unit(1, 200, 32)))
    ids, scores = index.search(queries, 10)
    _, expected = by_hand(there, queries, 10)
    exact = np.take_along_axis(
        queries @ np.stack([there[i] for i in sorted(there)]).T, np.searchsorted(sorted(there), ids), 1
    )
    np.testing.assert_allclose(scores, exact, atol=1e-6)
    assert np.mean(scores >= expected[:, -1:] - 1e-6) > 0.95
