import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.retrieval.mixing import HEAD, TAIL, UNKNOWN, head_or_tail, reserved_places

NAN = float("nan")


def test_the_head_is_the_fewest_keyphrases_that_make_up_the_share():
    # 100 searches: 50 + 20 reach .7, and 50 alone reaches .5.
    volume = np.array([10, 50, NAN, 20, 0, 15, 5])
    assert head_or_tail(volume, 0.7).tolist() == [TAIL, HEAD, UNKNOWN, HEAD, TAIL, TAIL, TAIL]
    assert head_or_tail(volume, 0.5).tolist() == [TAIL, HEAD, UNKNOWN, TAIL, TAIL, TAIL, TAIL]
    assert head_or_tail(volume, 0.51).tolist() == [TAIL, HEAD, UNKNOWN, HEAD, TAIL, TAIL, TAIL]


def test_a_share_of_nothing_and_of_everything():
    volume = np.array([3, 0, NAN, 1])
    assert head_or_tail(volume, 0.0).tolist() == [TAIL, TAIL, UNKNOWN, TAIL]
    assert head_or_tail(volume, 1.0).tolist() == [HEAD, TAIL, UNKNOWN, HEAD]
    assert head_or_tail(np.full(3, NAN), 0.5).tolist() == [UNKNOWN] * 3
    assert head_or_tail(np.zeros(2), 0.5).tolist() == [TAIL, TAIL]
    assert head_or_tail(np.zeros(0), 0.5).tolist() == []


def test_equally_searched_keyphrases_are_of_one_kind():
    assert head_or_tail(np.array([5, 5, 5, 1]), 0.3).tolist() == [HEAD, HEAD, HEAD, TAIL]


@given(
    volume=st.lists(st.integers(0, 1000) | st.just(NAN), max_size=20),
    share=st.floats(0, 1),
    seed=st.integers(0, 9),
)
def test_the_order_of_the_keyphrases_does_not_matter(volume, share, seed):
    volume = np.array(volume, float)
    order = np.random.default_rng(seed).permutation(len(volume))
    kind = head_or_tail(volume, share)
    assert kind[order].tolist() == head_or_tail(volume[order], share).tolist()
    known = ~np.isnan(volume)
    if share > 0 and volume[known].sum():
        assert volume[kind == HEAD].sum() >= share * volume[known].sum() * (1 - 1e-9)
        least = volume[kind == HEAD].min()  # without the least searched of the head, the share is not reached
        assert volume[known & (volume > least)].sum() < share * volume[known].sum()


@pytest.mark.parametrize(
    ("volume", "share", "words"), [([-1.0], 0.5, "-1"), ([np.inf], 0.5, "inf"), ([1.0], 1.5, "1.5")]
)
def test_what_cannot_be_is_refused(volume, share, words):
    with pytest.raises(ValueError, match=words):
        head_or_tail(np.array(volume), share)


def test_reserved_places_are_rounded_down_but_for_rounding_errors():
    assert reserved_places(10, head=0.3, tail=0.7) == {HEAD: 3, TAIL: 7}
    assert reserved_places(10, head=0.29, tail=0.09) == {HEAD: 2, TAIL: 0}
    assert all(sum(reserved_places(keep, head=0.1, tail=0.9).values()) <= keep for keep in range(1, 100))
