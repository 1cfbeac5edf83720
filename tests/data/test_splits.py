import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from distill.data.splits import choose_holdout, title_clusters, twins_across
from distill.data.text import fold_tokens, jaccard

TITLES = st.lists(st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=5).map(" ".join), max_size=20)


def test_clusters_chain_through_a_middle_title():
    titles = ["a b c d", "a b c d e", "b c d e f", "x y", "y  X", "!!!", "???"]
    # 0–1: 4/5, 1–2: 4/6, 0–2: 3/6; 3–4: the same words; titles without words are alone
    labels = title_clusters(titles, 0.6).tolist()
    assert labels[0] == labels[1] == labels[2]
    assert labels[3] == labels[4] != labels[0]
    assert len(set(labels)) == 4
    assert len(set(title_clusters(titles, 0.7).tolist())) == 5


@given(TITLES, st.floats(0, 1), st.sampled_from([0.5, 0.7]))
def test_no_twin_crosses_the_split(titles, share, threshold):
    holdout = choose_holdout([f"i{row}" for row in range(len(titles))], titles, share, threshold)
    assert holdout.sum() <= max(1, round(share * len(titles)))
    assert twins_across(titles, holdout, threshold) == 0
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
    assert twins_across(titles, holdout, 0.7) == expected


def test_share_is_met_and_order_of_items_does_not_matter():
    rng = np.random.default_rng(0)
    titles = [f"item{row // 2} red thing number{row // 2}" for row in range(400)]
    ids = [f"id{row}" for row in range(400)]
    holdout = choose_holdout(ids, titles, 0.15, 0.7)
    assert holdout.sum() == 60
    order = rng.permutation(400)
    again = choose_holdout([ids[row] for row in order], [titles[row] for row in order], 0.15, 0.7)
    assert np.array_equal(again, holdout[order])


def test_a_growing_catalogue_keeps_its_split():
    ids = [f"id{row}" for row in range(1100)]
    titles = [f"a{row} b{row} c{row}" for row in range(1100)]
    before = choose_holdout(ids[:1000], titles[:1000], 0.2, 0.7)
    after = choose_holdout(ids, titles, 0.2, 0.7)[:1000]
    assert (before != after).mean() < 0.02


def test_one_cluster_cannot_be_split():
    assert not choose_holdout(["a", "b"], ["red boot", "red boots"], 0.5, 0.7).any()
