import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.data.preparation.leakage import leaked_keyphrases, similar_pairs
from distill.data.preparation.token_sets import sets_of
from distill.data.text import jaccard

TOKEN_SETS = st.lists(st.frozensets(st.sampled_from("abcdefgh"), max_size=6), max_size=12)


def test_hand_examples():
    human = ["red leather boots women"]
    keyphrases = [
        "Red  Leather Boots women",  # the query itself
        "red leather boot women",  # 4 of 4 after folding plurals
        "women boots leather red",  # word order is nothing
        "red leather boots women cheap",  # 4 of 5 = .8
        "red leather boots",  # 3 of 4 = .75
        "red leather boots men",  # 3 of 5
        "red boots",  # 2 of 4
        "boots",
        "!!!",
    ]
    same, near = leaked_keyphrases(keyphrases, human, 0.75)
    assert same.tolist() == [True] + [False] * 8
    assert near.tolist() == [False, True, True, True, True, False, False, False, False]


def test_a_query_without_words_matches_itself_only():
    same, near = leaked_keyphrases(["!!!", "???", "a"], ["!!!"], 0.75)
    assert same.tolist() == [True, False, False]
    assert not near.any()


def test_no_human_queries():
    same, near = leaked_keyphrases(["a", "b"], [], 0.75)
    assert not same.any() and not near.any()


@given(TOKEN_SETS, TOKEN_SETS, st.sampled_from([0.3, 0.5, 0.7, 0.75, 1.0]))
def test_join_equals_brute_force(left, right, threshold):
    vocabulary: dict[str, int] = {}
    i, j = similar_pairs(sets_of(left, vocabulary), sets_of(right, vocabulary), threshold)
    expected = [(a, b) for a, x in enumerate(left) for b, y in enumerate(right) if jaccard(x, y) >= threshold]
    assert list(zip(i.tolist(), j.tolist())) == expected


@given(TOKEN_SETS, st.sampled_from([0.4, 0.7, 0.75]))
def test_self_join_equals_brute_force(sets, threshold):
    i, j = similar_pairs(sets_of(sets, {}), None, threshold)
    pairs = [(a, b) for a in range(len(sets)) for b in range(a + 1, len(sets))]
    assert list(zip(i.tolist(), j.tolist())) == [(a, b) for a, b in pairs if jaccard(sets[a], sets[b]) >= threshold]


def test_twenty_thousand_keyphrases_take_no_time():
    rng = np.random.default_rng(0)
    words = np.array([f"w{number}" for number in range(3000)])
    ranks = (3000 * rng.random((20_000, 5)) ** 3).astype(int)  # few words are common, most are rare
    keyphrases = [" ".join(row) for row in words[ranks]]
    same, near = leaked_keyphrases(keyphrases, keyphrases[:300], 0.75)
    assert same[:300].all() and near.sum() >= 0


def test_threshold_is_checked():
    with pytest.raises(ValueError, match=r"threshold 0\b"):
        similar_pairs(sets_of([], {}), None, 0)
