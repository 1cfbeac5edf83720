import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.retrieval import subset_search
from distill.retrieval.subset_search import allowed_mask, exact_over, merge, rescore, score_candidates, search_allowed


def by_hand(queries, vectors, k, rows):
    """Indices and scores of the best, one query and one row at a time; the lower row first among equals."""
    indices, scores = np.full((len(queries), k), -1), np.full((len(queries), k), -np.inf, np.float32)
    for q, query in enumerate(queries):
        ranked = sorted((-float(vectors[row] @ query), int(row)) for row in rows)[:k]
        for place, (score, row) in enumerate(ranked):
            indices[q, place], scores[q, place] = row, -score
    return indices, scores


# Small integers: products are exact and ties are many.
numbers = st.integers(-3, 3).map(float)


@st.composite
def problems(draw):
    width = draw(st.integers(1, 4))
    vectors = draw(arrays.arrays(np.float32, (draw(st.integers(1, 30)), width), elements=numbers))
    queries = draw(arrays.arrays(np.float32, (draw(st.integers(0, 4)), width), elements=numbers))
    rows = draw(st.lists(st.integers(0, len(vectors) - 1), unique=True).map(sorted))
    return queries, vectors, draw(st.integers(1, 40)), np.array(rows, np.int64)


@settings(max_examples=30, deadline=None)
@given(problems(), st.integers(1, 40))
def test_exact_search_over_chosen_rows(problem, at_once):
    queries, vectors, k, rows = problem
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subset_search, "_SCORES_AT_ONCE", at_once)  # blocks of one row, or of a few
        found, scores = exact_over(queries, vectors, k, rows)
    expected, expected_scores = by_hand(queries, vectors, k, rows)
    np.testing.assert_array_equal(scores, expected_scores)
    assert ((found >= 0) == (expected >= 0)).all()
    for q in range(len(queries)):
        kept = found[q][found[q] >= 0]
        assert len(set(kept)) == len(kept) and set(kept) <= set(rows)
        np.testing.assert_array_equal(vectors[kept] @ queries[q], scores[q][: len(kept)])


@settings(max_examples=30, deadline=None)
@given(problems())
def test_searching_allowed_rows_equals_exact_search_over_them(problem):
    """Whatever path is taken; the index here is exact, so that nothing is lost to it."""
    queries, vectors, k, rows = problem
    mask = allowed_mask(rows, len(vectors))
    expected = exact_over(queries, vectors, k, rows)[1]
    for cost in (1, 10**6):  # filter what the index finds, or search exactly
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(subset_search, "_SEARCH_COST", cost / 10**5)
            found, scores = search_allowed(lambda q, n: exact_over(q, vectors, n), queries, vectors, k, mask)
        np.testing.assert_array_equal(scores, expected)
        assert mask[found[found >= 0]].all()


def test_few_rows_are_searched_exactly_and_many_by_filtering():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(40_000, 4)).astype(np.float32)
    queries, asked = vectors[:50], []

    def search(chosen, k):
        asked.append((len(chosen), k))
        return exact_over(chosen, vectors, k)

    few, many = np.arange(40_000) < 5000, np.arange(40_000) < 39_000
    assert search_allowed(search, queries, vectors, 10, few)[0].max() < 5000 and not asked
    np.testing.assert_array_equal(
        search_allowed(search, queries, vectors, 10, many)[1],
        exact_over(queries, vectors, 10, np.arange(39_000))[1],
    )
    assert asked[0] == (50, 12) and all(later[0] < 50 for later in asked[1:])


def test_queries_whose_neighbours_are_all_forbidden_are_asked_for_again_and_end_exactly():
    # Half of the vectors lie on one side, and are forbidden; the queries lie among them.
    rng = np.random.default_rng(0)
    side = np.repeat([1.0, -1.0], 30_000)
    vectors = np.stack([side, 0.1 * rng.normal(size=60_000)], axis=1).astype(np.float32)
    mask, asked = side < 0, []

    def search(chosen, k):
        asked.append(k)
        return exact_over(chosen, vectors, k)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subset_search, "_SEARCH_COST", 300)
        found, scores = search_allowed(search, vectors[:3], vectors, 5, mask)
    assert len(asked) > 1 and asked == sorted(asked) and asked[-1] < 60_000
    np.testing.assert_array_equal(scores, exact_over(vectors[:3], vectors, 5, np.flatnonzero(mask))[1])
    assert (found >= 30_000).all()


def test_nothing_allowed_finds_nothing():
    vectors = np.eye(3, dtype=np.float32)
    found, scores = search_allowed(lambda q, n: exact_over(q, vectors, n), vectors, vectors, 2, np.zeros(3, bool))
    assert (found == -1).all() and np.isneginf(scores).all()


def test_allow_lists_of_both_kinds():
    np.testing.assert_array_equal(allowed_mask(np.array([2, 0, 2]), 4), [True, False, True, False])
    mask = np.array([True, False])
    np.testing.assert_array_equal(allowed_mask(mask, 2), mask)
    assert not allowed_mask([], 3).any()


@pytest.mark.parametrize("bad", [[3], [-1], [0.5], [[1]], [True, False]])
def test_allow_lists_that_do_not_fit_are_refused(bad):
    with pytest.raises(ValueError, match="allowed: "):
        allowed_mask(np.array(bad), 3)


def test_candidates_are_ordered_by_their_own_vectors():
    vectors = np.array([[1, 0], [0, 1], [0.6, 0.8]], np.float32)
    queries = np.array([[0, 1], [1, 0]], np.float32)
    candidates = np.array([[0, 2, -1], [1, -1, 2]], np.int32)
    np.testing.assert_array_equal(
        score_candidates(queries, vectors, candidates), np.array([[0, 0.8, -np.inf], [0, -np.inf, 0.6]], np.float32)
    )
    indices, scores = rescore(queries, vectors, candidates, 4)
    np.testing.assert_array_equal(indices, [[2, 0, -1, -1], [2, 1, -1, -1]])
    np.testing.assert_array_equal(scores[:, :2], np.array([[0.8, 0], [0.6, 0]], np.float32))
    assert np.isneginf(scores[:, 2:]).all()


def test_merging_takes_the_best_of_all_and_the_lower_index_among_equals():
    first = np.array([[7, 3, -1]]), np.array([[0.5, 0.2, -np.inf]])
    second = np.array([[4, 9]]), np.array([[0.5, 0.1]])
    indices, scores = merge(4, first, second)
    np.testing.assert_array_equal(indices, [[4, 7, 3, 9]])
    np.testing.assert_array_equal(scores, [[0.5, 0.5, 0.2, 0.1]])
