import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.retrieval.union import Entries, unite


def as_dict(found):
    sources = [found.source[a:b].tolist() for a, b in zip(found.source_starts[:-1], found.source_starts[1:])]
    return dict(zip(zip(found.row.tolist(), found.keyphrase.tolist()), sources, strict=True))


def test_a_pair_of_several_sources_appears_once_with_all_of_them():
    student = Entries.of_matrix(np.array([[3, 1], [2, -1]], np.int32), 0)
    words = Entries.of_matrix(np.array([[1, -1, 1], [-1, -1, -1]], np.int32), 1)
    table = Entries(np.array([0, 1, 0]), np.array([1, 0, 1]), np.array([3, 2, 3]))
    found = unite([student, words, table], 4)
    assert as_dict(found) == {(0, 1): [0, 1, 3], (0, 3): [0], (1, 0): [2], (1, 2): [0]}
    assert found.row.tolist() == [0, 0, 1, 1]


def test_no_sources_and_no_items_give_no_pairs():
    for parts in ([], [Entries.of_matrix(np.zeros((0, 5), np.int32), 0)], [Entries.of_matrix(np.full((2, 3), -1), 0)]):
        found = unite(parts, 0)
        assert len(found.row) == len(found.source) == 0 and found.source_starts.tolist() == [0]


def test_a_keyphrase_beyond_the_last_is_refused():
    with pytest.raises(ValueError, match="holds 4 to 4; there are 4"):
        unite([Entries.of_matrix(np.array([[4]]), 0)], 4)


triples = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(0, 2)), max_size=30)


@given(parts=st.lists(triples, max_size=3))
def test_nothing_is_lost_and_nothing_is_added(parts):
    entries = [Entries(*np.array(part, np.int64).reshape(-1, 3).T) for part in parts]
    found = as_dict(unite(entries, 6))
    expected: dict = {}
    for part in parts:
        for row, keyphrase, source in part:
            expected.setdefault((row, keyphrase), set()).add(source)
    assert found == {pair: sorted(sources) for pair, sources in expected.items()}
    assert list(found) == sorted(found)
