"""Mined negatives come from the band, stay below the positive, and are never positives."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.retrieval import exact
from distill.retrieval.negatives import mine_negatives


def unit(angles) -> np.ndarray:
    angles = np.asarray(angles, float)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def mine(items, keyphrases, positives, **changes):
    settings = {"per_item": 10, "first_rank": 1, "last_rank": len(keyphrases), "margin": 0.0, "seed": 0} | changes
    return mine_negatives(
        items, keyphrases, lambda queries, k: exact.top_k(queries, keyphrases, k), positives=positives, **settings
    )


# One item at angle 0; keyphrases at growing angles, so that keyphrase i has rank i + 1.
ITEM, ANGLES = unit([0.0]), [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]


def test_the_band_the_margin_and_the_positives_decide():
    found = mine(ITEM, unit(ANGLES), (np.array([0]), np.array([1])))
    assert found.keyphrase.tolist() == [2, 3, 4, 5] and found.rank.tolist() == [3, 4, 5, 6]  # 0 is nearer than 1
    np.testing.assert_allclose(found.cosine, np.cos(ANGLES[2:]), rtol=1e-6)
    np.testing.assert_allclose(found.positive_cosine, np.cos(0.2), rtol=1e-6)
    banded = mine(ITEM, unit(ANGLES), (np.array([0]), np.array([1])), first_rank=4, last_rank=5)
    assert banded.keyphrase.tolist() == [3, 4]
    # cos .2 - .1 lies between cos .4 and cos .5.
    assert mine(ITEM, unit(ANGLES), (np.array([0]), np.array([1])), margin=0.1).keyphrase.tolist() == [4, 5]
    # A negative margin lets in what is nearer than the positive.
    assert mine(ITEM, unit(ANGLES), (np.array([0]), np.array([1])), margin=-1).keyphrase.tolist() == [0, 2, 3, 4, 5]


def test_of_several_positives_the_nearest_sets_the_limit():
    found = mine(ITEM, unit(ANGLES), (np.array([0, 0]), np.array([4, 2])))
    assert found.keyphrase.tolist() == [3, 5]


def test_scores_below_zero_change_nothing():
    opposite = unit(np.pi - np.array(ANGLES))[::-1]  # every cosine is negative, the nearest still first
    found = mine(ITEM, np.ascontiguousarray(opposite), (np.array([0]), np.array([0])), margin=0.02)
    assert (found.cosine < 0).all() and (found.cosine <= found.positive_cosine - 0.02).all() and len(found.item)


def test_an_item_without_a_positive_has_none_and_bad_bands_are_refused():
    found = mine(unit([0.0, 0.05]), unit(ANGLES), (np.array([1]), np.array([0])))
    assert set(found.item.tolist()) == {1}
    empty = np.zeros(0, np.int64)
    assert len(mine(ITEM, unit(ANGLES), (empty, empty)).item) == 0
    for bad in ({"first_rank": 0}, {"first_rank": 4, "last_rank": 3}, {"per_item": 0}):
        with pytest.raises(ValueError, match="band"):
            mine(ITEM, unit(ANGLES), (np.array([0]), np.array([1])), **bad)


@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(1, 8), st.integers(0, 20))
def test_every_negative_keeps_the_rules(seed, per_item, first_rank, width):
    rng = np.random.default_rng(seed)
    items, keyphrases = (rng.normal(size=(n, 4)).astype(np.float32) for n in (9, 30))
    items, keyphrases = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (items, keyphrases))
    positives = rng.integers(0, 7, 12), rng.integers(0, 30, 12)  # the last two items have none
    last_rank, margin = first_rank + width, 0.1
    found = mine(
        items, keyphrases, positives, per_item=per_item, first_rank=first_rank, last_rank=last_rank, margin=margin
    )
    scores = items @ keyphrases.T
    ranks = np.argsort(np.argsort(-scores, axis=1, kind="stable"), axis=1) + 1
    known = set(zip(*(column.tolist() for column in positives)))
    for item in range(9):
        mine_of = found.item == item
        nearest = max((scores[item, k] for i, k in known if i == item), default=-np.inf)
        allowed = {
            k
            for k in range(30)
            if first_rank <= ranks[item, k] <= last_rank
            and (item, k) not in known
            and scores[item, k] <= nearest - margin
        }
        assert set(found.keyphrase[mine_of].tolist()) <= allowed
        assert mine_of.sum() == min(per_item, len(allowed))
        np.testing.assert_array_equal(found.rank[mine_of], ranks[item, found.keyphrase[mine_of]])


def test_the_draw_covers_the_band_evenly_and_depends_on_the_seed():
    rng = np.random.default_rng(0)
    items, keyphrases = (rng.normal(size=(n, 8)).astype(np.float32) for n in (600, 60))
    items, keyphrases = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (items, keyphrases))
    positives = np.arange(600), np.argmax(items @ keyphrases.T, axis=1)
    first, second = (
        mine(items, keyphrases, positives, per_item=2, first_rank=3, last_rank=22, seed=seed) for seed in (0, 1)
    )
    counts = np.bincount(first.rank, minlength=23)[3:]
    assert counts.sum() == 1200 and counts.min() > 30  # 60 expected a rank
    assert not np.array_equal(first.keyphrase, second.keyphrase)
