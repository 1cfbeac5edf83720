"""Selection keeps its promises on any candidates; a round of disagreements finds errors that were planted."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.config import StrataConfig
from distill.judge.disagreement import select_disagreements
from distill.judge.selection import SOURCES, STRATA, CandidateRows, candidate_rows, select_pairs

ITEMS, KEYPHRASES = 12, 15


@st.composite
def asked(draw):
    """Arguments of `select_pairs` over a small world, many pairs held by several sources."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    number = draw(st.integers(0, 200))
    rows = CandidateRows(
        rng.integers(0, ITEMS, number),
        rng.integers(0, KEYPHRASES, number),
        rng.integers(0, len(SOURCES), number),
        rng.integers(0, 6, number),
    )
    shares = draw(st.lists(st.sampled_from([0.0, 0.1, 1.0, 2.5]), min_size=len(STRATA), max_size=len(STRATA)))
    shares[draw(st.integers(0, len(STRATA) - 1))] = 0.5
    return {
        "candidates": rows,
        "allowed": rng.random(KEYPHRASES) < draw(st.sampled_from([0.0, 0.5, 1.0])),
        "holdout": rng.random(ITEMS) < draw(st.sampled_from([0.0, 0.3, 1.0])),
        "strata": StrataConfig(**dict(zip(STRATA, shares)), near_ranks=3),
        "budget": draw(st.integers(1, 150)),
        "most_per_item": draw(st.integers(1, 8)),
        "seed": draw(st.integers(0, 3)),
    }


def strata_of(arguments) -> dict[tuple[int, int], set[str]]:
    """Usable pairs and the strata that hold them, one row at a time."""
    strata, found = arguments["strata"], {}
    for item, keyphrase, source, rank in zip(*arguments["candidates"]):
        name = SOURCES[source]
        if name in ("lexical", "dense"):
            name += "_near" if rank < strata.near_ranks else "_far"
        if arguments["allowed"][keyphrase] and getattr(strata, name) > 0:
            found.setdefault((int(item), int(keyphrase)), set()).add(name)
    return found


@settings(max_examples=150)
@given(asked())
def test_any_selection_is_of_allowed_distinct_pairs_under_the_cap_and_meets_the_budget(arguments):
    result = select_pairs(**arguments)
    usable = strata_of(arguments)
    pairs = list(zip(result.item.tolist(), result.keyphrase.tolist()))
    assert pairs == sorted(set(pairs))
    for pair, stratum in zip(pairs, result.stratum.tolist()):
        assert STRATA[stratum] in usable[pair]
    per_item = np.bincount([item for item, _ in usable] or [0], minlength=ITEMS) * bool(usable)
    room = np.minimum(per_item, arguments["most_per_item"])
    assert np.bincount(result.item, minlength=ITEMS).max() <= arguments["most_per_item"]
    assert result.budget == arguments["budget"]
    assert len(pairs) == min(result.budget, room.sum())
    assert sum(result.taken.values()) == len(pairs) and sum(result.wanted.values()) == result.budget
    assert np.bincount(result.stratum, minlength=len(STRATA)).tolist() == list(result.taken.values())


@settings(max_examples=60)
@given(asked(), st.randoms(use_true_random=False))
def test_the_order_of_the_rows_changes_nothing(arguments, random):
    rows = arguments["candidates"]
    order = list(range(len(rows.item)))
    random.shuffle(order)
    again = select_pairs(**arguments | {"candidates": CandidateRows(*(column[order] for column in rows))})
    first = select_pairs(**arguments)
    for field in ("item", "keyphrase", "stratum"):
        np.testing.assert_array_equal(getattr(first, field), getattr(again, field))
    assert first.taken == again.taken


def plenty(items: int = 200, keyphrases: int = 5000, each: int = 30) -> CandidateRows:
    """`each` distinct pairs of every item in every source."""
    rng = np.random.default_rng(0)
    keyphrase = np.stack([rng.permutation(keyphrases)[: each * len(SOURCES)] for _ in range(items)])
    return CandidateRows(
        np.repeat(np.arange(items), keyphrase.shape[1]),
        keyphrase.reshape(-1),
        np.tile(np.repeat(np.arange(len(SOURCES)), each), items),
        np.tile(np.arange(each), items * len(SOURCES)),
    )


def select(candidates: CandidateRows, items: int = 200, **changes):
    arguments = {
        "allowed": np.ones(5000, bool),
        "holdout": np.arange(items) < items // 5,
        "strata": StrataConfig(),
        "budget": 2000,
        "most_per_item": 20,
        "seed": 0,
    }
    return select_pairs(candidates, **arguments | changes)


def test_shares_are_met_and_items_and_splits_get_equal_parts():
    strata = StrataConfig(0.1, 0.1, 0.2, 0.15, 0.1, 0.1, 0.2, 0.05)
    result = select(plenty(), strata=strata)
    assert result.taken == {name: round(2000 * getattr(strata, name)) for name in STRATA}
    assert result.dry == []
    assert (np.bincount(result.item) == 10).all()


def test_a_budget_below_the_number_of_items_takes_each_item_at_most_once_and_all_equally_often():
    rows, times = plenty(each=2), np.zeros(200)
    for seed in range(60):
        result = select(rows, budget=50, seed=seed)
        assert len(np.unique(result.item)) == 50
        assert np.count_nonzero(result.item < 40) == 10  # held-out items, a fifth
        times += np.bincount(result.item, minlength=200)
    # A binomial of 60 draws with chance 1/4: mean 15, deviation 3.35.
    assert np.abs(times - 15).max() < 4.5 * 3.35 and times.std() == pytest.approx(3.35, rel=0.25)


def test_what_a_dry_stratum_leaves_goes_to_the_others_by_their_shares():
    rows = plenty(each=10)
    few = (rows.source != SOURCES.index("clicked")) | (rows.item % 20 == 0)  # 10 items x 10 clicked pairs
    strata = StrataConfig(0.4, 0, 0.4, 0, 0, 0, 0, 0.2)
    result = select(CandidateRows(*(c[few] for c in rows)), strata=strata, holdout=np.zeros(200, bool), budget=1000)
    assert result.wanted["clicked"] == 400 and result.dry == ["clicked"]
    assert result.taken == dict.fromkeys(STRATA, 0) | {"clicked": 100, "lexical_near": 600, "random": 300}


def test_a_pair_of_several_strata_counts_in_the_first():
    rows = CandidateRows(np.zeros(3, int), np.full(3, 7), np.array([5, 2, 0]), np.array([0, 4, 0]))
    assert STRATA[select(rows, budget=10).stratum.item()] == "clicked"
    without = select(rows, budget=10, strata=dataclasses.replace(StrataConfig(), clicked=0.0))
    assert STRATA[without.stratum.item()] == "lexical_near"


def test_more_candidates_elsewhere_leave_most_of_the_choice_as_it_was():
    rows = plenty(each=12)
    fewer = CandidateRows(*(column[rows.item != 199] for column in rows))
    both = [select(one, budget=1500) for one in (rows, fewer)]
    first, second = ({*zip(one.item.tolist(), one.keyphrase.tolist())} for one in both)
    assert len(first & second) > 0.9 * 1500


def test_candidate_rows_by_hand():
    rows = candidate_rows(
        [4, 2],
        lexical=[[5, 6, -1], [0, -1, -1]],
        dense=[[6], [1]],
        shown=([4, 4, 2, 9], [6, 0, 0, 5], [True, False, False, True]),
        allowed=[True] * 7,
        random_per_item=0,
        seed=0,
    )
    got = sorted((SOURCES[s], int(i), int(k), int(r)) for i, k, s, r in zip(*rows))
    assert got == [
        ("clicked", 4, 6, 0),
        ("dense", 2, 1, 0),
        ("dense", 4, 6, 0),
        ("lexical", 2, 0, 0),
        ("lexical", 4, 5, 0),
        ("lexical", 4, 6, 1),
        ("never_shown", 2, 1, 0),
        ("never_shown", 4, 5, 0),
        ("shown", 2, 0, 0),
        ("shown", 4, 0, 0),
    ]


def test_random_rows_are_uniform_over_allowed_keyphrases_and_nothing_is_never_shown_without_a_log():
    allowed = np.arange(10) % 2 == 0
    none = np.zeros((1000, 0), int)
    rows = candidate_rows(
        np.arange(1000), lexical=none, dense=none, shown=None, allowed=allowed, random_per_item=5, seed=3
    )
    assert set(rows.source.tolist()) == {SOURCES.index("random")}
    counts = np.bincount(rows.keyphrase, minlength=10)
    assert (counts[1::2] == 0).all() and np.abs(counts[::2] - 1000).max() < 4.5 * np.sqrt(5000 * 0.2 * 0.8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strata": StrataConfig(clicked=-1)}, "strata.clicked = -1"),
        ({"strata": StrataConfig(0, 0, 0, 0, 0, 0, 0, 0)}, "every share is 0"),
        ({"strata": StrataConfig(near_ranks=0)}, "near_ranks = 0"),
        ({"budget": -5}, "budget = -5"),
        ({"most_per_item": 0}, "most_per_item = 0"),
        ({"allowed": np.ones(10, bool)}, "keyphrase: holds 0 to 4,999; must lie in 0–9"),
        ({"holdout": np.zeros(3, bool)}, "item: holds 0 to 199"),
    ],
)
def test_refuses(changes, message):
    with pytest.raises(ValueError, match=message):
        select(plenty(each=20), **changes)


def opinions(number: int = 4000, seed: int = 0):
    """A good judge's expected grade, and an assistant of another scale that is badly wrong on 2 % of the pairs."""
    rng = np.random.default_rng(seed)
    grade = rng.choice(4, number, p=[0.4, 0.2, 0.2, 0.2])
    planted = rng.random(number) < 0.02
    believed = np.where(planted, 3 - grade, grade)
    probability = 1 / (1 + np.exp(-(2 * believed - 5 + rng.normal(0, 0.8, number))))
    return np.arange(number) // 8, np.arange(number) % 8, probability, grade.astype(float), planted


def disagree(item, keyphrase, first, second, **changes):
    arguments = {"allowed": np.ones(8, bool), "budget": 150, "most_per_item": 3, "random_share": 0.2, "seed": 0}
    return select_disagreements(item, keyphrase, first, second, **arguments | changes)


def test_disagreements_find_planted_errors_far_above_chance_and_the_check_does_not():
    item, keyphrase, first, second, planted = opinions()
    result = disagree(item, keyphrase, first, second)
    wrong = planted[result.item * 8 + result.keyphrase]
    assert len(wrong) == 150 and result.check.sum() == 30
    flagged = wrong[~result.check]
    assert flagged.mean() > 0.4  # chance is 0.02
    assert flagged.sum() > 0.6 * planted.sum()
    assert wrong[result.check].mean() < 0.15


def test_opinions_are_compared_by_rank_with_ties_averaged():
    # Ranks of first: 1, 2, 3, 4; of second: 2, 2, 2, 4.
    result = disagree([0, 1, 2, 3], [0] * 4, [-9, 0.1, 5, 1e6], [1, 1, 1, 2], budget=4, random_share=0)
    np.testing.assert_allclose(result.disagreement, [1 / 3, 0, 1 / 3, 0])
    assert not result.check.any()


@settings(max_examples=60)
@given(
    st.integers(0, 2**32 - 1), st.integers(0, 60), st.integers(1, 5), st.sampled_from([0.0, 0.3, 1.0]), st.booleans()
)
def test_disagreements_keep_the_cap_the_mask_and_the_budget_in_any_order(draw, budget, most, share, shuffled):
    rng = np.random.default_rng(draw)
    pairs = rng.permutation(80)[: rng.integers(1, 81)]
    item, keyphrase = np.divmod(pairs, 8)
    first, second = rng.integers(0, 4, (2, len(pairs))).astype(float)
    allowed = rng.random(8) < 0.7
    arguments = {"allowed": allowed, "budget": budget, "most_per_item": most, "random_share": share}
    result = disagree(item, keyphrase, first, second, **arguments)
    chosen = list(zip(result.item.tolist(), result.keyphrase.tolist()))
    assert chosen == sorted(set(chosen)) and set(chosen) <= set(zip(item.tolist(), keyphrase.tolist()))
    assert allowed[result.keyphrase].all()
    room = np.minimum(np.bincount(item[allowed[keyphrase]], minlength=10), most)
    assert len(chosen) == min(budget, room.sum()) and (np.bincount(result.item, minlength=10) <= room).all()
    assert result.check.sum() == min(round(share * budget), len(chosen))
    if shuffled:
        order = rng.permutation(len(pairs))
        again = disagree(item[order], keyphrase[order], first[order], second[order], **arguments)
        for field in dataclasses.fields(result):
            np.testing.assert_array_equal(getattr(result, field.name), getattr(again, field.name))


def test_the_check_is_a_fair_sample_of_all_pairs():
    item, keyphrase, first, second, _ = opinions(800)
    times = np.zeros(800)
    for seed in range(80):
        result = disagree(item, keyphrase, first, second, budget=200, random_share=0.5, most_per_item=8, seed=seed)
        np.add.at(times, (result.item * 8 + result.keyphrase)[result.check], 1)
    # A binomial of 80 draws with chance 1/8: mean 10, deviation 2.96; and no more of the pairs that disagree.
    assert times.std() == pytest.approx(2.96, rel=0.2) and np.abs(times - 10).max() < 5 * 2.96
    far = disagree(item, keyphrase, first, second, budget=80, random_share=0, most_per_item=8)
    assert times[far.item * 8 + far.keyphrase].mean() == pytest.approx(10, abs=1.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0, 0], [1, 1], [0, 1], [1, 0]), "a pair comes twice"),
        (([0, 0], [1, 2], [0, np.nan], [1, 0]), "1 pairs lack an opinion"),
        (([0, 0], [1, 9], [0, 1], [1, 0]), "keyphrase: holds 1 to 9"),
        (([0], [1, 2], [0, 1], [1, 0]), "shapes"),
    ],
)
def test_disagreements_refuse(arguments, message):
    with pytest.raises(ValueError, match=message):
        disagree(*arguments)


def test_a_larger_budget_keeps_what_a_smaller_one_paid_for():
    rng = np.random.default_rng(3)
    items, keyphrases = 60, 200
    candidates = CandidateRows(
        rng.integers(0, items, 6000),
        rng.integers(0, keyphrases, 6000),
        rng.integers(0, len(SOURCES), 6000),
        rng.integers(0, 40, 6000),
    )

    def select(budget, known=None, strata=StrataConfig()):  # noqa: B008
        return select_pairs(
            candidates,
            allowed=np.ones(keyphrases, bool),
            holdout=np.arange(items) % 5 == 0,
            strata=strata,
            budget=budget,
            most_per_item=30,
            seed=0,
            known=known,
        )

    small = select(200)
    paid = set(zip(small.item.tolist(), small.keyphrase.tolist()))
    blind, large = select(260), select(260, (small.item, small.keyphrase))
    kept = [len(paid & set(zip(one.item.tolist(), one.keyphrase.tolist()))) for one in (blind, large)]
    assert len(large.item) == 260 and kept[1] == 200 > kept[0]
    assert large.wanted == blind.wanted
    assert all(abs(large.taken[name] - large.wanted[name]) <= 0.3 * large.wanted[name] for name in STRATA)
    again = select(120, (small.item, small.keyphrase))
    assert len(again.item) == 120 and set(zip(again.item.tolist(), again.keyphrase.tolist())) < paid
    # Other shares are honoured all the same.
    other = StrataConfig(clicked=0.6, shown=0.0, lexical_near=0.1, dense_near=0.0, lexical_far=0.1, dense_far=0.0)
    shares = select(200, (small.item, small.keyphrase), other)
    assert shares.taken == shares.wanted == select(200, None, other).taken
