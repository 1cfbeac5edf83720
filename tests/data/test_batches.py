"""Batches are pure functions of the step; signals are joined without inventing labels."""

import numpy as np
import pytest

from distill.data.item_batches import ItemBatches, Quota, join_signals
from distill.data.pair_batches import pack_pairs, plan_pairs
from distill.data.ragged import Ragged
from distill.data.stream import epoch_order, stream_steps


def texts(count: int, low: int, high: int, seed: int) -> Ragged:
    lengths = np.random.default_rng(seed).integers(low, high, count)
    return Ragged(np.arange(lengths.sum(), dtype=np.int32), np.concatenate([[0], np.cumsum(lengths)]))


def pool():
    return join_signals(
        teacher=(np.array([0, 0, 2]), np.array([1, 2, 3]), np.array([0.5, -1.0, 2.0])),
        searched=(np.array([0, 1]), np.array([2, 4]), np.array([1.0, 0.0])),
        clicked=(np.array([0, 2]), np.array([2, 0])),
        keyphrases=5,
        exclude=np.array([1]),
    )


def test_signals_are_joined_by_pair_and_unknown_ones_stay_unknown():
    joined = pool()
    assert joined.items.tolist() == [0, 2] and joined.bounds.tolist() == [0, 2, 4]
    assert joined.keyphrase.tolist() == [1, 2, 0, 3]
    np.testing.assert_array_equal(joined.teacher, np.array([0.5, -1.0, np.nan, 2.0], np.float32))
    np.testing.assert_array_equal(joined.passed, np.array([np.nan, 1.0, np.nan, np.nan], np.float32))
    assert joined.clicked.tolist() == [False, True, True, False]


def test_no_pair_at_all_is_an_error():
    empty = np.zeros(0, np.int64)
    with pytest.raises(ValueError, match="no training pair"):
        join_signals(teacher=None, searched=None, clicked=(empty, empty), keyphrases=5, exclude=empty)


def batches(**changes) -> ItemBatches:
    rng = np.random.default_rng(0)
    item, keyphrase = rng.integers(0, 40, 600), rng.integers(0, 80, 600)
    clicked = rng.random(600) < 0.2
    joined = join_signals(
        teacher=(item, keyphrase, rng.normal(size=600)),
        searched=(item[:300], keyphrase[:300], (rng.random(300) < 0.5).astype(float)),
        clicked=(item[clicked], keyphrase[clicked]),
        keyphrases=80,
        exclude=np.zeros(0, np.int64),
    )
    settings: dict = {"batch_items": 8, "topic_items": 2, "quota": Quota(5, 2, 1), "row_tokens": 32, "shards": 4}
    settings |= {"steps": 20, "seed": 3} | changes
    return ItemBatches(joined, texts(40, 4, 20, 1), texts(80, 2, 8, 2), **settings)


def test_a_batch_is_a_pure_function_of_the_step_and_every_batch_has_one_shape():
    first, again = batches(), batches()
    shapes = set()
    for step in (0, 7, 19):
        a, b = first.build(step), again.build(step)
        for x, y in zip((*a.items, *a.keyphrases, *a[2:]), (*b.items, *b.keyphrases, *b[2:])):
            np.testing.assert_array_equal(x, y)
        shapes.add(tuple(x.shape for x in (*a.items, *a.keyphrases, *a[2:])))
        assert a.items.tokens.shape[0] % 4 == 0 and a.keyphrases.tokens.shape[0] % 4 == 0
    assert len(shapes) == 1
    assert not np.array_equal(first.build(0).candidates, first.build(1).candidates)


def test_a_keyphrase_is_encoded_once_however_often_it_stands_in_the_batch():
    batch = batches().build(2)
    used = batch.keyphrases.slots[batch.keyphrases.slots >= 0]
    assert len(set(used.tolist())) == len(used)
    counts = np.bincount(batch.candidates[batch.candidates >= 0])
    assert counts.max() > 1  # the data repeats keyphrases, the encodings do not
    assert (batch.keyphrases.segments > 0).sum() < 8 * (batch.candidates >= 0).sum()


def test_clicked_columns_are_marked_for_every_item_that_clicked_them():
    batch = batches().build(1)
    assert batch.drawn_by_click.any()
    assert (batch.clicked.any(axis=0) | ~batch.drawn_by_click).all()


def test_a_task_without_a_quota_draws_nothing():
    batch = batches(quota=Quota(5, 0, 0)).build(0)
    assert not batch.drawn_by_click.any()
    assert np.isfinite(batch.teacher[batch.candidates >= 0]).all()


def test_pairs_of_an_epoch_come_once_each_and_fill_their_rows():
    lengths = np.random.default_rng(0).integers(8, 60, 3000)
    plan = plan_pairs(lengths, total=3000, batch_pairs=64, row_tokens=128, shards=2, seed=5)
    seen = np.concatenate([plan.pairs(step) for step in range(plan.steps)])
    assert sorted(seen.tolist()) == list(range(3000))
    assert plan.budget.rows % 2 == 0
    # All steps but the last, which holds what was left.
    share = lengths[seen[: plan.bounds[-2]]].sum() / ((plan.steps - 1) * plan.budget.rows * 128)
    assert share >= 0.9
    tokens = Ragged(np.ones(lengths.sum(), np.int32), np.concatenate([[0], np.cumsum(lengths)]))
    for step in range(plan.steps):
        chosen = tokens.take(plan.pairs(step))
        assert (pack_pairs(chosen, np.zeros(len(chosen.values), np.int32), plan).slots >= 0).sum() == len(
            plan.pairs(step)
        )


def test_epochs_are_different_permutations():
    order = epoch_order(10, 25, seed=1)
    assert sorted(order[:10]) == sorted(order[10:20]) == list(range(10))
    assert order[:10].tolist() != order[10:20].tolist() and len(order) == 25


def test_a_stream_starts_anywhere():
    assert list(stream_steps(lambda step: step * step, 3, 6)) == [9, 16, 25]
