import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.data.preparation.splits import HOLDOUT, TRAIN, UNKNOWN, Twins, choose_holdout
from distill.data.text import fold_tokens, jaccard

TITLES = st.lists(st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=5).map(" ".join), max_size=20)


def ids_of(titles: list[str]) -> list[str]:
    return [f"id{row}" for row in range(len(titles))]


def holdout_of(ids, titles, share, threshold=0.7, previous=None):
    return choose_holdout(ids, Twins(titles, threshold), share, previous).holdout


def test_clusters_chain_through_a_middle_title():
    titles = ["a b c d", "a b c d e", "b c d e f", "x y", "y  X", "!!!", "???"]
    # 0–1: 4/5, 1–2: 4/6, 0–2: 3/6; 3–4: the same words; titles without words are alone
    twins = Twins(titles, 0.6)
    labels = twins.clusters()[twins.of_title].tolist()
    assert labels[0] == labels[1] == labels[2]
    assert labels[3] == labels[4] != labels[0]
    assert len(set(labels)) == 4
    assert len(set(Twins(titles, 0.7).clusters().tolist())) == 5 - 1 + 1  # 0–1, 2, 3–4, 5, 6


@given(TITLES, st.floats(0, 1), st.sampled_from([0.5, 0.7]))
def test_no_twin_crosses_the_split(titles, share, threshold):
    holdout = holdout_of(ids_of(titles), titles, share, threshold)
    assert Twins(titles, threshold).across(holdout) == 0
    for row in np.flatnonzero(holdout):
        for other in np.flatnonzero(~holdout):
            assert jaccard(fold_tokens(titles[row]), fold_tokens(titles[other])) < threshold


@given(TITLES, st.lists(st.booleans(), min_size=20, max_size=20))
def test_twins_across_equals_brute_force(titles, held):
    holdout = np.array(held[: len(titles)], bool)
    sets = [fold_tokens(title) for title in titles]
    expected = sum(
        any(jaccard(sets[row], sets[other]) >= 0.7 for other in np.flatnonzero(~holdout))
        for row in np.flatnonzero(holdout)
    )
    assert Twins(titles, 0.7).across(holdout) == expected


def test_about_the_share_is_held_out_and_the_order_of_items_does_not_matter():
    rng = np.random.default_rng(0)
    titles = [f"item{row // 2} red thing number{row // 2}" for row in range(4000)]
    ids = [f"id{row}" for row in range(4000)]
    holdout = holdout_of(ids, titles, 0.15)
    assert abs(holdout.mean() - 0.15) < 4 * np.sqrt(0.15 * 0.85 / 2000)  # four standard errors of 2000 clusters
    order = rng.permutation(4000)
    assert np.array_equal(holdout_of([ids[row] for row in order], [titles[row] for row in order], 0.15), holdout[order])
    assert not holdout_of(ids, titles, 0.0).any() and holdout_of(ids, titles, 1.0).all()


def test_a_growing_catalogue_without_new_twins_moves_nothing():
    ids = [f"id{row}" for row in range(1100)]
    titles = [f"a{row} b{row} c{row}" for row in range(1100)]
    before = holdout_of(ids[:1000], titles[:1000], 0.2)
    assert np.array_equal(before, holdout_of(ids, titles, 0.2)[:1000])


def test_the_oldest_item_stands_for_its_cluster():
    """Ids that count up: a new twin, with a longer id, does not move the cluster."""
    titles = [f"a{row} b{row} c{row}" for row in range(90)]
    ids = [str(row) for row in range(10, 100)]
    before = holdout_of(ids, titles, 0.5)
    after = holdout_of(ids + [str(row) for row in range(100, 190)], titles * 2, 0.5)
    assert np.array_equal(after, np.concatenate([before, before])) and 20 < before.sum() < 70


@settings(deadline=None)
@given(TITLES, TITLES, st.floats(0, 1), st.integers(0, 2**20))
def test_with_an_earlier_split_nothing_moves_and_new_twins_follow(old, new, share, seed):
    titles, ids = old + new, ids_of(old + new)
    earlier = np.random.default_rng(seed).random(len(old)) < 0.5  # any split, also one with twins across
    known = np.concatenate([np.where(earlier, HOLDOUT, TRAIN), np.full(len(new), UNKNOWN)]).astype(np.int8)
    split = choose_holdout(ids, Twins(titles, 0.7), share, known)
    assert np.array_equal(split.holdout[: len(old)], earlier) and split.kept == len(old)
    sets = [fold_tokens(title) for title in titles]
    torn = 0
    for row in range(len(old), len(titles)):
        sides = {earlier[other] for other in range(len(old)) if jaccard(sets[row], sets[other]) >= 0.7}
        if True in sides:
            assert split.holdout[row]
        torn += len(sides) == 2
        twins = [other for other in range(len(old), len(titles)) if jaccard(sets[row], sets[other]) >= 0.7]
        assert len({bool(split.holdout[other]) for other in [row, *twins]}) == 1
    assert split.torn >= torn and split.followed >= split.torn


def test_new_twins_of_both_sides_are_held_out_and_counted():
    titles = ["a b c d e f g", "t u v w x y z", "a b c d e f g!", "t u v w x y z!", "other"]
    known = np.array([TRAIN, HOLDOUT, UNKNOWN, UNKNOWN, UNKNOWN], np.int8)
    split = choose_holdout(list("12345"), Twins(titles, 0.7), 0.0, known)
    assert split.holdout.tolist() == [False, True, False, True, False]
    assert (split.kept, split.followed, split.torn) == (2, 2, 0)
    titles += ["a b c d e f h", "a b c d e f h"]  # 6 of 8 words like the first, and like a new one of a held-out item
    known = np.array([TRAIN, HOLDOUT, UNKNOWN, UNKNOWN, UNKNOWN, HOLDOUT, UNKNOWN], np.int8)
    split = choose_holdout(list("1234567"), Twins(titles, 0.7), 0.0, known)
    assert split.holdout.tolist() == [False, True, True, True, False, True, True]
    assert (split.followed, split.torn) == (3, 2)


def test_one_cluster_is_not_split():
    held = [holdout_of([name, name + "x"], ["red boot", "red boots"], 0.5).tolist() for name in "abcdefghijklmnop"]
    assert {tuple(sides) for sides in held} == {(True, True), (False, False)}
