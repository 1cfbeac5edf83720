import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.retrieval.candidates import gather_candidates, source_names


def gather(**changes):
    arguments = {
        "sources": {"lexical": np.array([[3, 1], [2, -1]]), "dense": np.array([[1], [4]])},
        "pairs": {"clicked": (np.array([7, 2, 9, 2]), np.array([3, 0, 0, 0]))},
        "allowed": np.ones(5, bool),
        "random_per_item": 0,
        "seed": 0,
        "items": np.array([7, 2]),
    }
    return gather_candidates(**(arguments | changes))


def test_union_by_hand():
    found = gather()
    assert list(zip(*(column.tolist() for column in found))) == [
        (2, 0, 0b100),  # clicked, twice in the table
        (2, 2, 0b001),
        (2, 4, 0b010),
        (7, 1, 0b011),  # both lexical and dense
        (7, 3, 0b101),  # lexical and clicked
    ]
    assert source_names(["lexical", "dense"], ["clicked"]) == ("lexical", "dense", "clicked", "random")


def test_what_is_not_allowed_never_appears():
    found = gather(allowed=np.array([True, False, True, False, True]), random_per_item=50)
    assert set(found.keyphrase) == {0, 2, 4}
    found = gather(allowed=np.zeros(5, bool), random_per_item=50)
    assert len(found.item) == 0


@st.composite
def inputs(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    items = rng.choice(20, draw(st.integers(0, 6)), replace=False)
    keyphrases = draw(st.integers(1, 12))
    return {
        "sources": {
            name: rng.integers(-1, keyphrases, (len(items), draw(st.integers(0, 4)))) for name in ("lexical", "dense")
        },
        "pairs": {
            name: (rng.integers(20, size=n), rng.integers(keyphrases, size=n))
            for name, n in (("judged", draw(st.integers(0, 15))), ("clicked", draw(st.integers(0, 15))))
        },
        "allowed": rng.random(keyphrases) < 0.7,
        "random_per_item": draw(st.integers(0, 3)),
        "seed": draw(st.integers(0, 99)),
        "items": items,
    }


@given(arguments=inputs())
@settings(max_examples=60, deadline=None)
def test_union_is_that_of_sets(arguments):
    item, keyphrase, bits = gather_candidates(**arguments)
    found = list(zip(item.tolist(), keyphrase.tolist()))
    assert found == sorted(set(found))
    items, allowed = arguments["items"].tolist(), arguments["allowed"]
    by_source = [
        {(i, k) for i, row in zip(items, indices.tolist()) for k in row if k >= 0 and allowed[k]}
        for indices in arguments["sources"].values()
    ] + [
        {(i, k) for i, k in zip(a.tolist(), b.tolist()) if i in items and allowed[k]}
        for a, b in arguments["pairs"].values()
    ]
    for bit, expected in enumerate(by_source):
        assert {pair for pair, b in zip(found, bits.tolist()) if b >> bit & 1} == expected
    drawn = [pair for pair, b in zip(found, bits.tolist()) if b >> 4 & 1]
    assert set(found) == set().union(drawn, *by_source)
    assert all(i in items and allowed[k] for i, k in drawn)
    for i in items:
        assert sum(pair[0] == i for pair in drawn) <= arguments["random_per_item"]
    for first, second in zip((item, keyphrase, bits), gather_candidates(**arguments)):
        np.testing.assert_array_equal(first, second)


def test_random_draws_follow_the_seed():
    options = {"allowed": np.ones(10_000, bool), "random_per_item": 5}
    first, again, other = gather(**options), gather(**options), gather(**options, seed=1)
    np.testing.assert_array_equal(first.keyphrase, again.keyphrase)
    assert set(first.keyphrase) != set(other.keyphrase)


@pytest.mark.parametrize(
    "changes,word",
    [
        ({"sources": {"lexical": np.array([[0]])}}, r"sources\['lexical'\]: shape \(1, 1\)"),
        ({"sources": {"lexical": np.array([[5], [0]])}}, "lexical: keyphrase indices 0 to 5; there are 5"),
        ({"sources": {"lexical": np.array([[-2], [0]])}}, "lexical: keyphrase indices -2"),
        ({"pairs": {"clicked": (np.array([7]), np.array([0, 1]))}}, r"pairs\['clicked'\]"),
        ({"pairs": {"random": (np.array([7]), np.array([0]))}}, "distinct names"),
        ({"items": np.array([7, 7])}, "items"),
        ({"items": np.array([7, -2])}, "items"),
        ({"random_per_item": -1}, "random_per_item: -1"),
    ],
)
def test_bad_arguments_are_refused(changes, word):
    with pytest.raises(ValueError, match=word):
        gather(**changes)
