"""Chance that belongs to a name."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from distill.data.hashing import draw_by_name, order_by_name


@given(st.sets(st.text(max_size=6), max_size=30), st.integers(0, 40), st.integers(0, 3), st.randoms())
def test_the_draw_follows_names_and_not_their_places(names, count, seed, rng):
    ordered = sorted(names)
    drawn = draw_by_name(ordered, count, seed, 1)
    assert len(drawn) == min(count, len(names)) and (np.diff(drawn) > 0).all()
    moved = ordered.copy()
    rng.shuffle(moved)
    chosen = {ordered[row] for row in drawn}
    assert {moved[row] for row in draw_by_name(moved, count, seed, 1)} == chosen
    grown = ["a name more", *ordered]
    more = {grown[row] for row in draw_by_name(grown, count, seed, 1)}
    assert len(chosen - more) <= 1 and more <= chosen | {"a name more"}


def test_every_name_is_drawn_equally_often_and_streams_differ():
    names = [f"item-{number}" for number in range(20)]
    counts = np.zeros(20)
    for seed in range(1000):
        counts[draw_by_name(names, 5, seed, 2)] += 1
    assert counts.min() > 185 and counts.max() < 315  # 250 expected, standard deviation 13.7
    assert draw_by_name(names, 5, 0, 2).tolist() != draw_by_name(names, 5, 0, 3).tolist()


@given(st.sets(st.text(max_size=5), max_size=20), st.integers(0, 5), st.randoms())
def test_names_keep_their_order_when_others_come_and_go(names, seed, random):
    rows = sorted(names)
    ordered = [rows[row] for row in order_by_name(rows, seed, 1)]
    assert sorted(ordered) == rows
    left = [name for name in rows if random.random() < 0.5]
    random.shuffle(left)
    assert [left[row] for row in order_by_name(left, seed, 1)] == [name for name in ordered if name in left]
