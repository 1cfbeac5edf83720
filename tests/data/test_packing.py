"""Packing loses nothing, never mixes texts and keeps its budget."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.data.packing import RowBudget, assign_rows, pack, rows_needed
from distill.data.ragged import Ragged


def ragged(lengths: list[int]) -> Ragged:
    lengths = np.array(lengths, np.int64)
    return Ragged(np.arange(1, lengths.sum() + 1, dtype=np.int32), np.concatenate([[0], np.cumsum(lengths)]))


@given(st.lists(st.integers(1, 16), min_size=1, max_size=40))
def test_every_token_lands_once_in_its_own_segment(lengths):
    texts = ragged(lengths)
    rows, dense = rows_needed(texts.lengths, 16)
    packed = pack(texts, RowBudget(rows, 16, dense))
    assert (packed.slots >= 0).all() and len(set(packed.slots.tolist())) == len(lengths)
    for text, slot in enumerate(packed.slots):
        row, number = divmod(int(slot), dense)
        mine = packed.segments[row] == number + 1
        expected = texts.values[texts.offsets[text] : texts.offsets[text + 1]]
        assert packed.tokens[row][mine].tolist() == expected.tolist()
        assert packed.positions[row][mine].tolist() == list(range(len(expected)))
    assert (packed.tokens > 0).sum() == len(texts.values) == (packed.segments > 0).sum()


@given(st.lists(st.integers(1, 32), min_size=1, max_size=60))
def test_rows_are_never_overfull_and_at_most_one_is_half_empty(lengths):
    lengths = np.array(lengths)
    filled = np.bincount(assign_rows(lengths, 32), lengths)
    assert filled.max() <= 32
    assert (filled <= 16).sum() <= 1  # else best fit would have joined two of them


def test_a_text_beyond_the_budget_has_no_slot_and_leaves_no_token():
    packed = pack(ragged([8, 8, 5]), RowBudget(1, 16, 2))
    assert sorted(packed.slots.tolist()) == [-1, 0, 1]
    assert packed.slots[2] == -1 and packed.tokens.max() == 16


def test_a_text_longer_than_a_row_is_refused():
    with pytest.raises(ValueError, match="17 tokens does not fit a row of 16"):
        assign_rows(np.array([17]), 16)


def test_take_keeps_the_order_asked():
    taken = ragged([2, 1, 3]).take(np.array([2, 0]))
    assert taken.values.tolist() == [4, 5, 6, 1, 2] and taken.offsets.tolist() == [0, 3, 5]


def test_types_travel_with_their_tokens():
    packed = pack(ragged([3, 2]), RowBudget(1, 8, 2), types=np.array([0, 0, 1, 0, 1], np.int32))
    assert packed.types[0].tolist() == [0, 0, 1, 0, 1, 0, 0, 0]
