"""Batches are pure functions of the step; signals are joined without inventing labels."""

import numpy as np
import pytest

from distill.data.item_batches import ItemBatches, Quota
from distill.data.packing import fitting_rows
from distill.data.pair_batches import pack_pairs, plan_pairs
from distill.data.pair_pool import join_signals
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


def click_pool():
    rng = np.random.default_rng(0)
    item, keyphrase = rng.integers(0, 40, 600), rng.integers(0, 80, 600)
    clicked = rng.random(600) < 0.2
    return join_signals(
        teacher=(item, keyphrase, rng.normal(size=600)),
        searched=(item[:300], keyphrase[:300], (rng.random(300) < 0.5).astype(float)),
        clicked=(item[clicked], keyphrase[clicked]),
        keyphrases=80,
        exclude=np.zeros(0, np.int64),
    )


def batches(**changes) -> ItemBatches:
    settings: dict = {"batch_items": 8, "topic_items": 2, "quota": Quota(5, 2, 1), "row_tokens": 32, "shards": 4}
    settings |= {"steps": 20, "seed": 3} | changes
    return ItemBatches(click_pool(), texts(40, 4, 20, 1), texts(80, 2, 8, 2), **settings)


def test_a_batch_is_a_pure_function_of_the_step_and_every_batch_has_one_shape():
    first, again = batches(), batches()
    shapes = set()
    for step in (19, 0, 7):
        a, b = first.build(step), again.build(step)
        for x, y in zip((*a.texts, *a[1:]), (*b.texts, *b[1:])):
            np.testing.assert_array_equal(x, y)
        shapes.add(tuple(x.shape for x in (*a.texts[:4], *a[1:])))
        assert a.texts.tokens.shape[0] % 4 == 0
    assert len(shapes) == 1
    assert not np.array_equal(first.build(0).candidates, first.build(1).candidates)


def test_a_keyphrase_is_encoded_once_however_often_it_stands_in_the_batch():
    batch = batches().build(2)
    used = batch.keyphrase_slots[batch.keyphrase_slots >= 0]
    assert len(set(used.tolist())) == len(used)
    counts = np.bincount(batch.candidates[batch.candidates >= 0])
    assert counts.max() > 1  # the data repeats keyphrases, the encodings do not
    assert len(used) < batch.pairs


def test_every_click_on_a_target_is_a_positive_whoever_drew_it():
    data, joined = batches(), click_pool()
    shared = 0
    for step in range(5):
        batch, (items, keyphrases) = data.build(step), data.ids(step)
        targets = [keyphrases[u] for u in batch.targets if u >= 0]
        assert len(targets) == len(set(targets)) > 0
        for row, item in enumerate(items):
            clicked = joined.keyphrase[(np.repeat(joined.items, np.diff(joined.bounds)) == item) & joined.clicked]
            positives = [targets[t] for t in batch.positives[row] if t >= 0]
            assert sorted(positives) == sorted(set(clicked) & set(targets))
            drawn = {keyphrases[u] for u in batch.candidates[row] if u >= 0}
            shared += len(set(positives) - drawn)
        assert set(targets) <= set(joined.keyphrase[joined.clicked])
    assert shared  # positives that only other items drew are among them


def test_no_text_is_left_out_and_the_rows_are_full():
    data = batches(steps=200, shards=1, batch_items=12)
    for step in range(200):
        batch, (items, keyphrases) = data.build(step), data.ids(step)
        assert (batch.texts.slots >= 0).all() and len(batch.texts.slots) == len(items) + len(keyphrases)
        assert (batch.item_slots >= 0).sum() == len(items) and (batch.keyphrase_slots >= 0).sum() == len(keyphrases)
    assert data.real_token_share >= 0.93
    assert data.items_per_step == pytest.approx(12, rel=0.1)


def test_an_epoch_visits_every_item_once():
    data = batches(steps=30, topic_items=4)
    seen = np.concatenate([data.ids(step)[0] for step in range(30)])
    items = len(set(seen.tolist()))
    for epoch in range(len(seen) // items):
        assert len(set(seen[epoch * items : (epoch + 1) * items].tolist())) == items


def test_quotas_are_kept_and_the_scarcest_signal_is_drawn_first():
    data, joined = batches(), click_pool()
    batch, (items, keyphrases) = data.build(4), data.ids(4)
    for row, item in enumerate(items):
        span = slice(*joined.bounds[np.searchsorted(joined.items, item) + np.arange(2)])
        drawn = [keyphrases[u] for u in batch.candidates[row] if u >= 0]
        assert len(drawn) == len(set(drawn)) and set(drawn) <= set(joined.keyphrase[span])
        clicked = joined.keyphrase[span][joined.clicked[span]]
        assert len(set(drawn) & set(clicked)) >= min(1, len(clicked))
        values = dict(zip(joined.keyphrase[span], joined.teacher[span]))
        found = batch.teacher[row][batch.candidates[row] >= 0]
        np.testing.assert_array_equal(found, np.float32([values[k] for k in drawn]))


def test_devices_and_chunks_share_a_batch_evenly():
    plain, even = batches(batch_items=30, shards=8), batches(batch_items=30, shards=8, chunk_rows=8)
    for data in (plain, even):
        batch, (items, _) = data.build(0), data.ids(0)
        lengths = (batch.candidates, batch.positives, batch.targets, batch.keyphrase_slots, batch.texts.tokens)
        assert all(len(array) % 8 == 0 for array in (batch.item_slots, *lengths))
        assert (batch.item_slots[len(items) :] == -1).all() and (batch.candidates[len(items) :] == -1).all()
    assert fitting_rows(17, 8, 8) == 24 and fitting_rows(17, 8, 16) == 32 and fitting_rows(17, 8, 0) == 24
    assert fitting_rows(0, 4, 8) == 4


def test_a_task_without_a_quota_draws_nothing():
    batch = batches(quota=Quota(5, 0, 0)).build(0)
    assert (batch.targets == -1).all() and (batch.positives == -1).all()
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


def contrastive_pool():
    """Clicks with weights, mined negatives and pairs that are right though not clicked; all pairs apart."""
    rng = np.random.default_rng(5)
    keys = rng.permutation(40 * 80)[:500]
    item, keyphrase = keys // 80, keys % 80
    clicked, hard, right = slice(0, 150), slice(150, 350), slice(350, 500)
    return join_signals(
        teacher=None,
        searched=None,
        clicked=(item[clicked], keyphrase[clicked], rng.uniform(0.5, 2, 150).astype(np.float32)),
        keyphrases=80,
        exclude=np.zeros(0, np.int64),
        hard=(item[hard], keyphrase[hard]),
        right=(item[right], keyphrase[right]),
    )


def contrastive(**changes) -> ItemBatches:
    settings: dict = {"batch_items": 8, "topic_items": 2, "quota": Quota(0, 0, 1, hard=2), "row_tokens": 32}
    settings |= {"shards": 4, "steps": 40, "seed": 3} | changes
    return ItemBatches(contrastive_pool(), texts(40, 4, 20, 1), texts(80, 2, 8, 2), **settings)


def marked(joined, item: int, mask: np.ndarray) -> dict[int, float]:
    """Keyphrase → weight of an item's pairs under a mask."""
    at = (np.repeat(joined.items, np.diff(joined.bounds)) == item) & mask
    return dict(zip(joined.keyphrase[at].tolist(), joined.weight[at].tolist()))


def test_hard_negatives_are_targets_and_what_is_right_is_ignored():
    data, joined = contrastive(), contrastive_pool()
    drawn_hard = ignored_some = 0
    for step in range(10):
        batch, (items, keyphrases) = data.build(step), data.ids(step)
        targets = [int(keyphrases[u]) for u in batch.targets if u >= 0]
        assert set(targets) == set(keyphrases.tolist())  # nothing else is encoded
        for row, item in enumerate(items):
            clicked, hard, right = (marked(joined, item, m) for m in (joined.clicked, joined.hard, joined.right))
            drawn = {int(keyphrases[u]) for u in batch.candidates[row] if u >= 0}
            assert len(drawn & set(clicked)) == min(1, len(clicked)) and len(drawn & set(hard)) == min(2, len(hard))
            assert not drawn & set(right)
            positives = {targets[t]: w for t, w in zip(batch.positives[row], batch.positive_weights[row]) if t >= 0}
            assert positives == {k: pytest.approx(w) for k, w in clicked.items() if k in targets}
            ignored = [targets[t] for t in batch.ignored[row] if t >= 0]
            assert sorted(ignored) == sorted(set(right) & set(targets))
            drawn_hard += len(drawn & set(hard))
            ignored_some += len(ignored)
    assert drawn_hard and ignored_some


def test_log_q_is_how_often_the_plan_draws_a_target():
    data, steps = contrastive(), 40
    built = [(data.build(step), data.ids(step)[1]) for step in range(steps)]
    counts = np.zeros(80)
    for batch, keyphrases in built:
        counts[keyphrases[batch.targets[batch.targets >= 0]]] += 1
    assert counts.max() > 3 * counts[counts > 0].min()
    for batch, keyphrases in built[::7]:
        real = batch.targets >= 0
        np.testing.assert_allclose(
            batch.target_log_q[real], np.log(counts[keyphrases[batch.targets[real]]] / steps), rtol=1e-6
        )


def test_a_later_plan_takes_the_items_up_where_it_is_told():
    whole = batches(steps=30, topic_items=4)
    row = np.concatenate([whole.ids(step)[0] for step in range(30)])
    later = batches(steps=5, topic_items=4, first=37)
    seen = np.concatenate([later.ids(step)[0] for step in range(5)])
    np.testing.assert_array_equal(seen, row[37 : 37 + len(seen)])


def test_an_item_that_was_only_mined_for_is_not_trained_on():
    one = np.array([1])
    joined = join_signals(
        teacher=None,
        searched=None,
        clicked=(np.array([0]), one),
        keyphrases=5,
        exclude=np.array([3]),
        hard=(np.array([0, 2, 3]), np.array([2, 2, 2])),
        right=(np.array([0, 2]), np.array([4, 4])),
    )
    assert joined.items.tolist() == [0] and joined.keyphrase.tolist() == [1, 2, 4]
    assert joined.hard.tolist() == [False, True, False] and joined.right.tolist() == [False, False, True]
    assert joined.weight.tolist() == [1, 1, 1]
