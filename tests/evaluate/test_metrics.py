"""nDCG, recall and AUC against values worked by hand, scikit-learn, and properties of any ranking."""

from __future__ import annotations

import itertools
import math
import time

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score, roc_auc_score

from distill.evaluate import metrics

LOG3 = math.log2(3)


def test_ndcg_by_hand():
    # Ranked by score: gains 0, 1, .5. DCG = 1 / log2 3 + .5 / 2; ideal = 1 + .5 / log2 3.
    ids, values = metrics.ndcg_per_group([7, 7, 7], [1, 0, 0.5], [2, 3, 1])
    assert ids.tolist() == [7]
    assert values == pytest.approx([(1 / LOG3 + 0.25) / (1 + 0.5 / LOG3)])


def test_ndcg_orders_ties_against_the_model():
    _, values = metrics.ndcg_per_group([0, 0, 0], [1, 0, 0], [5, 5, 5])
    assert values == pytest.approx([1 / math.log2(4)])


def test_ndcg_counts_the_first_k_only():
    _, values = metrics.ndcg_per_group([0] * 3, [1, 0, 0], [1, 2, 3], k=2)
    assert values.tolist() == [0.0]


def test_ndcg_leaves_out_groups_without_gain_and_of_one_row():
    ids, values = metrics.ndcg_per_group([3, 1, 2, 3, 2], [0, 1, 1, 0, 0], [1, 1, 2, 2, 1])
    assert ids.tolist() == [2] and values.tolist() == [1.0]
    ids, values = metrics.ndcg_per_group([], [], [])
    assert ids.size == values.size == 0


def test_ndcg_equals_scikit_learn_without_ties():
    rng = np.random.default_rng(0)
    groups, gains, scores = (
        rng.permutation(np.repeat(np.arange(30), 25)),
        rng.choice([0, 0.01, 0.1, 1], 750),
        rng.random(750),
    )
    ids, values = metrics.ndcg_per_group(groups, gains, scores, k=10)
    expected = [ndcg_score([gains[groups == one]], [scores[groups == one]], k=10) for one in ids]
    assert values == pytest.approx(expected)


def test_ndcg_of_a_million_rows_takes_seconds_at_most():
    rng = np.random.default_rng(0)
    groups, gains, scores = rng.integers(0, 5000, 10**6), rng.integers(0, 4, 10**6) / 3, rng.random(10**6)
    start = time.process_time()
    metrics.ndcg_per_group(groups, gains, scores)
    assert time.process_time() - start < 5


rows = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from([0, 0.01, 0.1, 1]), st.integers(-4, 4)), min_size=1, max_size=40
)


@given(rows, st.integers(1, 12))
def test_ndcg_is_bounded_and_only_order_matters(table, k):
    groups, gains, scores = (np.array(column) for column in zip(*table))
    ids, values = metrics.ndcg_per_group(groups, gains, scores, k)
    assert np.all((values >= 0) & (values <= 1))
    for changed in (scores * 3.0 - 7, np.exp(scores), np.arctan(scores)):
        again = metrics.ndcg_per_group(groups, gains, changed, k)
        assert again[0].tolist() == ids.tolist() and again[1].tolist() == values.tolist()
    shuffle = np.random.default_rng(0).permutation(groups.size)
    assert metrics.ndcg_per_group(groups[shuffle], gains[shuffle], scores[shuffle], k)[1] == pytest.approx(values)
    assert metrics.ndcg_per_group(groups, gains, gains, k)[1] == pytest.approx(np.ones(ids.size))


@given(st.lists(st.tuples(st.sampled_from([0, 0.1, 1]), st.integers(0, 1)), min_size=2, max_size=5))
@settings(max_examples=50)
def test_adversarial_ties_are_the_worst_of_all_tie_orders(table):
    gains, scores = (np.array(column) for column in zip(*table))
    _, values = metrics.ndcg_per_group(np.zeros(gains.size, int), gains, scores)
    if values.size:
        broken = [
            metrics.ndcg_per_group(np.zeros(gains.size, int), gains, scores + np.array(order) / 10)[1][0]
            for order in itertools.permutations(range(gains.size))
        ]
        assert values[0] == pytest.approx(min(broken))


def test_missing_scores_name_the_model_and_their_number():
    for call in (
        lambda: metrics.ndcg_per_group([0, 0, 0], [1, 0, 0], [math.nan, 1, math.inf], model="bm25"),
        lambda: metrics.auc([1, 0, 0], [math.nan, 1, math.inf], model="bm25"),
    ):
        with pytest.raises(ValueError, match="'bm25': 2 of 3"):
            call()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0, 0], [1], [1, 2]), "one length"),
        (([0, 0], [-1, 1], [1, 2]), "gains"),
        (([0, 0], [math.nan, 1], [1, 2]), "gains"),
        (([0, 0], [1, 1], [1, 2], 0), "k = 0"),
    ],
)
def test_ndcg_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        metrics.ndcg_per_group(*arguments)


RECOMMENDED = [[4, 9, 2], [1, 1, -1], [5, 6, 7], [-1, -1, -1]]
RELEVANT = [{9, 2, 30, 31}, {1}, set(), {8, 9}]


def test_recall_by_hand():
    # 2 of min(3, 4); a repeated id is one hit of 1; nothing relevant is left out; nothing recommended is 0.
    rows, values = metrics.recall_per_group(RECOMMENDED, RELEVANT)
    assert rows.tolist() == [0, 1, 3]
    assert values == pytest.approx([2 / 3, 1, 0])


def test_recall_takes_a_sparse_matrix():
    relevant = scipy.sparse.lil_array((4, 40), dtype=bool)
    for row, ids in enumerate(RELEVANT):
        for one in ids:
            relevant[row, one] = True
    rows, values = metrics.recall_per_group(RECOMMENDED, scipy.sparse.csr_array(relevant))
    assert rows.tolist() == [0, 1, 3] and values == pytest.approx([2 / 3, 1, 0])


@given(st.data())
def test_recall_equals_set_arithmetic(data):
    groups, k = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 4))
    ids = st.integers(-1, 9)
    given_ids = data.draw(st.lists(st.lists(ids, min_size=k, max_size=k), min_size=groups, max_size=groups))
    relevant = data.draw(st.lists(st.sets(st.integers(0, 9)), min_size=groups, max_size=groups))
    rows, values = metrics.recall_per_group(given_ids, relevant)
    expected = {n: len(set(given_ids[n]) & one) / min(k, len(one)) for n, one in enumerate(relevant) if one}
    assert dict(zip(rows.tolist(), values.tolist())) == pytest.approx(expected)


def test_recall_refuses_other_shapes():
    with pytest.raises(ValueError, match="expected"):
        metrics.recall_per_group([1, 2], [{1}, {2}])
    with pytest.raises(ValueError, match="2 groups, but recommended has 1"):
        metrics.recall_per_group([[1, 2]], [{1}, {2}])


def test_auc_by_hand_and_against_scikit_learn():
    assert metrics.auc([1, 0, 1, 0], [3, 2, 2, 1]) == pytest.approx(3.5 / 4)  # three pairs won, one tied
    rng = np.random.default_rng(0)
    labels, scores = rng.random(200) < 0.3, rng.integers(0, 9, 200)
    assert metrics.auc(labels, scores) == pytest.approx(roc_auc_score(labels, scores))
    assert math.isnan(metrics.auc([1, 1], [1, 2])) and math.isnan(metrics.auc([], []))
