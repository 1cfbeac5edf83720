import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.retrieval.exact import top_k


def vectors(seed, count, width=8):
    return np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_top_k_is_the_sorted_product(chunk):
    queries, corpus = vectors(0, 20), vectors(1, 50)
    indices, scores = top_k(queries, corpus, 5, chunk=chunk)
    products = queries @ corpus.T
    expected = np.argsort(-products, axis=1, kind="stable")[:, :5]
    np.testing.assert_array_equal(indices, expected)
    np.testing.assert_allclose(scores, np.take_along_axis(products, expected, axis=1), rtol=1e-5)
    assert indices.dtype == np.int32 and scores.dtype == np.float32


@given(seed=st.integers(0, 999), copies=st.integers(2, 5), distinct=st.integers(1, 9))
@settings(max_examples=15, deadline=None)
def test_equal_scores_are_ordered_by_index(seed, copies, distinct):
    # Whole numbers: products of equal vectors are equal to the bit, wherever they lie.
    rng = np.random.default_rng(seed)
    corpus = np.tile(rng.integers(-2, 3, (distinct, 4)), (copies, 1)).astype(np.float32)
    queries = rng.integers(-2, 3, (3, 4)).astype(np.float32)
    indices, _ = top_k(queries, corpus, len(corpus))
    np.testing.assert_array_equal(indices, np.argsort(-(queries @ corpus.T), axis=1, kind="stable"))


def test_copies_of_real_vectors_are_ordered_by_index_too():
    corpus = np.tile(vectors(2, 37, 33), (5, 1))
    indices, scores = top_k(corpus[:10], corpus, 5)
    np.testing.assert_array_equal(indices, np.arange(10)[:, None] + 37 * np.arange(5))
    assert (scores == scores[:, :1]).all()


def test_k_beyond_the_corpus_is_filled_up():
    indices, scores = top_k(vectors(3, 2), vectors(4, 3), 5)
    assert (indices[:, 3:] == -1).all() and np.isneginf(scores[:, 3:]).all()
    assert (np.sort(indices[:, :3]) == np.arange(3)).all()


@pytest.mark.parametrize("count", [3, 8, 50, 64])  # a part of nothing but padding, of one row, uneven and even parts
@pytest.mark.parametrize("k", [1, 7, 50])  # and more than a part holds
def test_a_corpus_split_over_devices_gives_what_one_device_gives(count, k):
    # Few different vectors of whole numbers: equal scores everywhere, and across the parts.
    rng = np.random.default_rng(count)
    corpus, queries = (rng.integers(-1, 2, (n, 3)).astype(np.float32) for n in (count, 5))
    whole = top_k(queries, corpus, k, devices=jax.devices()[:1])
    for devices in (jax.devices(), jax.devices()[:3], None):
        for one, split in zip(whole, top_k(queries, corpus, k, devices=devices, chunk=2)):
            np.testing.assert_array_equal(one, split)
    expected = np.argsort(-(queries @ corpus.T), axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(whole[0][:, : expected.shape[1]], expected)


def test_nothing_to_search_or_to_find():
    assert top_k(vectors(0, 0), vectors(1, 4), 2)[0].shape == (0, 2)
    assert (top_k(vectors(0, 3), vectors(1, 0), 2)[0] == -1).all()


@pytest.mark.parametrize("k,chunk,width,word", [(0, 1, 8, "k: 0"), (1, 0, 8, "chunk: 0"), (1, 1, 7, r"\(4, 7\)")])
def test_bad_arguments_are_refused(k, chunk, width, word):
    with pytest.raises(ValueError, match=word):
        top_k(vectors(0, 3), vectors(1, 4, width), k, chunk=chunk)
