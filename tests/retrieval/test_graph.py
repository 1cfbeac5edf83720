import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.data.text import fold_tokens
from distill.retrieval.graph import GraphBaseline

KEYPHRASES = ["running shoes", "red running shoes men", "shoes", "coffee mug", "the mug", "blue mug", "!!"]
VOLUME = np.array([50, 10, 900, 40, np.nan, 40, 7])
NOTHING = np.zeros(0, np.int64)


def graph(clicked=NOTHING, leafs=()):
    return GraphBaseline.fit(KEYPHRASES, VOLUME, clicked, leafs)


def test_alignment_by_hand():
    """Of n words, c shared: c / (n - c + 1)."""
    indices, alignments = graph().top_k(["Red Running Shoe, size 9"], [""], 5)
    np.testing.assert_array_equal(indices, [[0, 1, 2, -1, -1]])  # 2/1; 3 of 4: 3/2; 1/1
    np.testing.assert_allclose(alignments, [[2.0, 1.5, 1.0, -np.inf, -np.inf]])


def test_equal_alignments_go_by_search_volume_then_by_index():
    indices, alignments = graph().top_k(["mug"], [""], 3)
    np.testing.assert_array_equal(indices, [[3, 5, 4]])  # 1/2 each; 40, 40, unknown
    np.testing.assert_allclose(alignments, [[0.5, 0.5, 0.5]])
    np.testing.assert_array_equal(graph().top_k(["mug"], [""], 1)[0], [[3]])


def test_a_leafs_own_keyphrases_come_first_and_the_root_fills_up():
    fitted = graph(np.array([1, 4, 1]), ["sport", "kitchen", "sport"])
    indices, alignments = fitted.top_k(["running shoes mug"] * 3, ["sport", "kitchen", "garden"], 6)
    np.testing.assert_array_equal(indices[0], [1, 0, 2, 3, 5, 4])
    np.testing.assert_array_equal(indices[1], [4, 0, 2, 1, 3, 5])
    np.testing.assert_array_equal(indices[2], graph().top_k(["running shoes mug"], [""], 6)[0][0])  # an unknown leaf
    np.testing.assert_allclose(alignments[0, :3], [2 / 3, 2.0, 1.0])


def test_clicks_of_items_without_a_category_reach_no_leaf():
    fitted = graph(np.array([1]), [""])
    np.testing.assert_array_equal(fitted.top_k(["running shoes"], [""], 7), graph().top_k(["running shoes"], [""], 7))


def test_pairs_score_in_the_order_of_the_root_graph():
    title = "running shoes blue mug"
    scores = graph(np.array([4]), ["kitchen"]).score([title], np.zeros(7, int), np.arange(7))
    found = graph().top_k([title], [""], 7)[0][0]
    kept = found[found >= 0]
    assert set(np.flatnonzero(scores == 0)) == set(range(7)) - set(kept.tolist())
    np.testing.assert_array_equal(np.lexsort((np.arange(7), -scores))[: len(kept)], kept)
    np.testing.assert_allclose(scores, [2, 2 / 3, 1, 0.5, 0.5, 2, 0], atol=0.1)


WORDS = st.lists(st.sampled_from(["red", "blue", "mug", "pan", "cup", "lid"]), max_size=5).map(" ".join)


@settings(max_examples=60)
@given(
    st.lists(st.tuples(WORDS, st.integers(0, 3), st.booleans()), min_size=1, max_size=12),
    st.lists(WORDS, min_size=1, max_size=4),
    st.integers(1, 8),
)
def test_top_k_is_a_plain_sort(keyphrases, titles, k):
    """Against sets and `sorted`: leaf first, alignment, volume, index."""
    texts, volumes, clicked = map(list, zip(*keyphrases))
    members = np.flatnonzero(clicked)
    fitted = GraphBaseline.fit(texts, np.array(volumes, float), members, ["leaf"] * len(members))
    for leaf in ("leaf", ""):
        indices, alignments = fitted.top_k(titles, [leaf] * len(titles), k)
        for row, title in enumerate(titles):
            ranked = []
            for i, text in enumerate(texts):
                shared = len(fold_tokens(text) & fold_tokens(title))
                if shared:
                    aligned = shared / (len(fold_tokens(text)) - shared + 1)
                    ranked.append((not (leaf and clicked[i]), -aligned, -volumes[i], i))
            ranked = sorted(ranked)[:k]
            assert indices[row].tolist() == [r[-1] for r in ranked] + [-1] * (k - len(ranked))
            np.testing.assert_allclose(alignments[row, : len(ranked)], [-r[1] for r in ranked], rtol=1e-6)


def test_many_titles_and_pairs_are_like_each_alone():
    fitted = graph(np.array([1]), ["sport"])
    titles, leafs = ["shoes", "mug", ""] * 400, ["sport", "", "x"] * 400  # more than one block
    for together, alone in zip(fitted.top_k(titles, leafs, 3), fitted.top_k(titles[:3], leafs[:3], 3)):
        np.testing.assert_array_equal(together, np.tile(alone, (400, 1)))
    title, keyphrase = np.tile(np.arange(3), 30_000), np.tile(np.arange(6), 15_000)
    scores = fitted.score(titles[:3], title, keyphrase)
    np.testing.assert_array_equal(scores, np.tile(fitted.score(titles[:3], title[:6], keyphrase[:6]), 15_000))


@pytest.mark.parametrize("keyphrases", [[], ["!"]])
def test_keyphrases_without_words(keyphrases):
    fitted = GraphBaseline.fit(keyphrases, np.zeros(len(keyphrases)), NOTHING, [])
    assert (fitted.top_k(["mug", ""], ["", ""], 2)[0] == -1).all()
    pairs = np.zeros(len(keyphrases), int)
    np.testing.assert_array_equal(fitted.score(["mug"], pairs, pairs), np.zeros(len(keyphrases)))


def test_nothing_asked():
    assert graph().top_k([], [], 3)[0].shape == (0, 3)
    assert graph().score([], NOTHING, NOTHING).shape == (0,)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="k: 0"):
        graph().top_k(["mug"], [""], 0)
    with pytest.raises(ValueError, match="1 titles, 2 leafs"):
        graph().top_k(["mug"], ["", ""], 1)
    with pytest.raises(ValueError, match="clicked_keyphrase: holds 7 to 7"):
        graph(np.array([7]), ["x"])
    with pytest.raises(ValueError, match="for 2 clicked_leaf"):
        graph(np.array([1]), ["x", "y"])
    with pytest.raises(ValueError, match=r"search_volume \[1\]"):
        GraphBaseline.fit(KEYPHRASES, np.zeros(1), NOTHING, [])
    with pytest.raises(ValueError, match="keyphrase_index: holds -1"):
        graph().score(["mug"], np.array([0]), np.array([-1]))
    with pytest.raises(ValueError, match="title_index: holds 1"):
        graph().score(["mug"], np.array([1]), np.array([0]))
    with pytest.raises(ValueError, match=r"pass \[N\] both"):
        graph().score(["mug"], np.array([0, 0]), np.array([0]))


def test_a_catalogue_takes_seconds():
    rng = np.random.default_rng(0)
    words = np.array([f"word{i}" for i in range(5000)])
    odds = 1 / np.arange(1, 5001)
    odds /= odds.sum()
    keyphrases = [" ".join(rng.choice(words, 3, p=odds)) for _ in range(5000)]
    titles = [" ".join(rng.choice(words, 12, p=odds)) for _ in range(1000)]
    start = time.perf_counter()
    fitted = GraphBaseline.fit(keyphrases, rng.integers(0, 99, 5000).astype(float), np.arange(5000), ["leaf"] * 5000)
    alignments = fitted.top_k(titles, ["leaf"] * 1000, 20)[1]
    assert time.perf_counter() - start < 20  # about 0.7 s alone
    assert math.isfinite(alignments[:, 0].min())
