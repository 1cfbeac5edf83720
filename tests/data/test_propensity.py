import copy
import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.config import MarketplaceConfig
from distill.data.marketplace import World, engine
from distill.data.propensity import estimate_position_bias, inverse_propensity_weights
from distill.data.schema import DataError

RANKS = 10


def simulated(seed, examined, rows_per_pair=3, pairs=400, shown=60) -> dict[str, Any]:
    """A log of the position-based model: pairs at random ranks, each with its own attractiveness."""
    rng = np.random.default_rng(seed)
    pair = np.repeat(np.arange(pairs), rows_per_pair)
    rank = rng.integers(1, RANKS + 1, len(pair))
    attractive = rng.beta(1, 4, pairs)
    impressions = rng.poisson(shown, len(pair))
    clicks = rng.binomial(impressions, examined[rank - 1] * attractive[pair])
    return {
        "item": pair,
        "keyphrase": pair % 40,
        "impressions": impressions,
        "clicks": clicks,
        "position": rank.astype(float),
    }


def power(eta, ranks=RANKS):
    return np.arange(1, ranks + 1.0) ** -eta


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.5])
def test_a_known_eta_is_found_within_its_stated_error(eta):
    found = [estimate_position_bias(**simulated(seed, power(eta)), ranks=RANKS) for seed in range(12)]
    z = [(one.eta - eta) / one.eta_error for one in found]
    assert abs(np.mean(z)) < 3 / np.sqrt(12)
    assert 0.5 < np.std(z) < 1.6  # the errors are as large as they say
    assert all(one.basis == "pairs" and one.eta_error < 0.06 for one in found)
    np.testing.assert_allclose(np.mean([one.propensity for one in found], axis=0), power(eta), rtol=0.15)


def test_another_curve_is_found_by_rank():
    examined = np.array([1, 0.9, 0.8, 0.4, 0.35, 0.3, 0.1, 0.09, 0.08, 0.07])
    found = estimate_position_bias(**simulated(0, examined, rows_per_pair=6, pairs=3000), ranks=RANKS)
    np.testing.assert_allclose(found.propensity, examined, rtol=0.06)


def expectation_maximisation(log, rounds=3000):
    """Wang et al.'s EM with an attractiveness of each pair, straight from its two steps."""
    rank, pair = log["position"].astype(int) - 1, log["item"]
    n, c = log["impressions"].astype(float), log["clicks"].astype(float)
    theta, gamma = np.full(RANKS, 0.5), np.full(pair.max() + 1, 0.5)
    for _ in range(rounds):
        t, g = theta[rank], gamma[pair]
        examined = c + (n - c) * t * (1 - g) / (1 - t * g)
        attractive = c + (n - c) * g * (1 - t) / (1 - t * g)
        theta = np.bincount(rank, examined, RANKS) / np.bincount(rank, n, RANKS)
        gamma = np.bincount(pair, attractive) / np.bincount(pair, n)
    return theta / theta[0]


def test_it_agrees_with_regression_em():
    log = simulated(3, 1 / (1 + 0.3 * np.arange(RANKS)), rows_per_pair=8, pairs=600)
    found = estimate_position_bias(**log, ranks=RANKS)
    np.testing.assert_allclose(found.propensity, expectation_maximisation(log), rtol=0.05)


def test_two_ranks_by_hand():
    """60 and 30 clicks of 100 impressions each: the second rank is examined half as often, η = 1."""
    one: dict[str, Any] = {"item": [0, 0], "keyphrase": [0, 0], "position": [1.0, 2.0]}
    one |= {"impressions": [100, 100], "clicks": [60, 30]}
    found = estimate_position_bias(**one, ranks=3, least_clicks=90)
    assert found.eta == pytest.approx(1.0, abs=1e-4) and found.clicks == 90
    np.testing.assert_allclose(found.propensity, [1, 1 / 2, 1 / 3], rtol=1e-4)
    assert found.eta_error == pytest.approx(0, abs=1e-4)  # one group, fitted exactly: no spread to judge by
    # Two items of one keyphrase, one row each: the same numbers, but the keyphrase has to stand for the pair.
    other: dict[str, Any] = one | {"item": [0, 1], "impressions": [100, 400], "clicks": [60, 120]}
    found = estimate_position_bias(**other, ranks=2)
    assert found.basis == "keyphrases" and found.eta == pytest.approx(1.0, abs=1e-4)


def test_merit_passes_for_bias_unless_strata_hold_it():
    """One row a pair, better items higher: only with the grades is the estimate right."""
    rng = np.random.default_rng(0)
    keyphrase = np.repeat(np.arange(800), RANKS)
    rank = np.tile(np.arange(1, RANKS + 1), 800)
    grade = (rng.normal(0.3 * (5.5 - rank), 1.5) > 0).astype(int)
    impressions = np.full(len(rank), 50)
    clicks = rng.binomial(impressions, power(0.7)[rank - 1] * np.array([0.05, 0.4])[grade])
    log = (np.arange(len(rank)), keyphrase, impressions, clicks, rank.astype(float))
    without = estimate_position_bias(*log, ranks=RANKS)
    assert without.basis == "keyphrases" and without.eta > 0.9
    held = estimate_position_bias(*log, strata=grade, ranks=RANKS)
    assert held.basis == "strata" and abs(held.eta - 0.7) < 3 * held.eta_error < 0.1
    unknown = np.where(np.arange(len(rank)) % 2, -1, grade)
    half = estimate_position_bias(*log, strata=unknown, ranks=RANKS)
    assert half.basis == "strata" and 0.3 < half.clicks / held.clicks < 0.7
    assert estimate_position_bias(*log, strata=np.full(len(rank), -1), ranks=RANKS).basis == "keyphrases"


def test_ranks_with_few_clicks_keep_to_the_curve():
    log = simulated(0, power(1.0), pairs=2000)
    seventh = np.flatnonzero(log["position"] == 7)
    log["impressions"][seventh] = log["clicks"][seventh] = 0
    log["impressions"][seventh[:3]] = log["clicks"][seventh[:3]] = 1
    found = estimate_position_bias(**log, ranks=20)
    assert found.propensity[6] < 4 * power(1.0)[6]  # by clicks alone it would be examined more than the first rank
    np.testing.assert_allclose(found.propensity[10:], np.arange(11.0, 21) ** -found.eta, rtol=0.1)  # none there


@pytest.fixture(scope="module")
def shown():
    """A small marketplace, and for each keyphrase what its engine passes: items, scores, true grades."""
    world = World(MarketplaceConfig(items=1000, keyphrases=400), 0)
    scores = world.engine.by_keyphrase(np.arange(400))
    rankings = [world.engine.ranking(scores, keyphrase) for keyphrase in range(400)]
    return world, [(*one, world.grade(one[0], np.full(len(one[0]), k))) for k, one in enumerate(rankings)]


def logs(shown, seeds, days, searches) -> dict[str, Any]:
    """What the engine shows and earns: a log a seed, with as many rankings as days."""
    world, rankings = shown
    parts = []
    for seed in seeds:
        drawn = copy.copy(world.engine)
        drawn._seed = seed
        number = np.random.default_rng(seed).multinomial(searches, world.search_volume / world.search_volume.sum())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(engine, "_DAYS", days)
            parts += [drawn.show(k, *rankings[k], int(number[k])) for k in np.flatnonzero(number).tolist()]
    return {
        field.name: np.concatenate([getattr(part, field.name) for part in parts])
        for field in dataclasses.fields(engine.Impressions)
    }


def test_the_marketplaces_examination_is_found(shown):
    examined = 1 / (1 + engine._EXAMINE * np.arange(30))

    def far_off(found):
        return np.sqrt(np.mean(np.log(found.propensity[:10] / examined[:10]) ** 2))

    by_day = estimate_position_bias(**logs(shown, range(4), 1, 25_000), ranks=30)
    assert by_day.basis == "pairs" and far_off(by_day) < 0.06
    one = logs(shown, [0], 4, 100_000)  # as the click table has it: one row a pair, at its mean rank
    judged = estimate_position_bias(**one, strata=shown[0].judge(one["item"], one["keyphrase"]), ranks=30)
    assert judged.basis == "strata" and far_off(judged) < 0.15
    alone = estimate_position_bias(**one, ranks=30)
    assert alone.basis == "keyphrases" and 0.15 < far_off(alone) < 0.35 and alone.eta > by_day.eta


def test_single_impressions_do_as_well():
    rng = np.random.default_rng(0)
    pair = np.repeat(np.arange(8000), 4)
    rank = rng.integers(1, 4, len(pair))
    clicks = rng.binomial(1, power(1.0)[rank - 1] * rng.uniform(0.1, 0.9, 8000)[pair])
    found = estimate_position_bias(pair, pair, np.ones(len(pair)), clicks, rank.astype(float), ranks=3)
    np.testing.assert_allclose(found.propensity, [1, 1 / 2, 1 / 3], rtol=0.08)


def test_rows_without_position_or_impressions_and_the_order_of_rows_do_not_matter():
    log = simulated(1, power(0.8))
    expected = estimate_position_bias(**log, ranks=RANKS)
    more = {name: np.concatenate([column, column[:200]]) for name, column in log.items()}
    more["position"][-200:-100] = np.nan
    more["impressions"][-100:] = more["clicks"][-100:] = 0
    order = np.random.default_rng(0).permutation(len(more["item"]))
    mixed: dict[str, Any] = {name: column[order] for name, column in more.items()}
    found = estimate_position_bias(**mixed, ranks=RANKS)
    np.testing.assert_allclose(found.propensity, expected.propensity, rtol=1e-5)
    assert found.clicks == expected.clicks


def test_deep_positions_count_as_the_last_rank():
    log = simulated(1, power(0.8))
    cut = estimate_position_bias(**log, ranks=4)
    log["position"] = np.minimum(log["position"], 4)
    same = estimate_position_bias(**log, ranks=4)
    np.testing.assert_array_equal(cut.propensity, same.propensity)
    assert len(cut.propensity) == 4 and cut.propensity[0] == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"position": np.full(1200, np.nan)}, "column `position`"),
        ({"impressions": np.zeros(1200), "clicks": np.zeros(1200)}, "no row has impressions"),
        ({"position": np.zeros(1200)}, "ranks count from 1"),
        ({"clicks": np.zeros(1200)}, "0 clicks on keyphrases .* takes 100"),
        ({"position": np.full(1200, 3.0)}, "0 clicks on keyphrases"),
    ],
)
def test_a_log_that_cannot_tell_says_what_is_missing(change: dict[str, Any], words):
    with pytest.raises(DataError, match=words):
        estimate_position_bias(**simulated(0, power(1.0)) | change)


def test_tiny_logs_are_not_guessed_from():
    log = {name: column[:12] for name, column in simulated(0, power(1.0), shown=3).items()}
    with pytest.raises(DataError, match=r"takes 100\. Use a longer log"):
        estimate_position_bias(**log)
    with pytest.raises(DataError, match="0 clicks"):
        estimate_position_bias([1, 1], [1, 1], [4, 4], [0, 0], [1.0, 2.0], strata=[-1, -1])
    top: dict[str, Any] = {"item": [0, 0], "keyphrase": [0, 0], "position": [1.0, 9.0]}
    top |= {"impressions": [900, 900], "clicks": [500, 0]}
    with pytest.raises(DataError, match="one end of the ranking"):
        estimate_position_bias(**top)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("clicks", 10_000, "impossible counts: 1; the first is 7: 10000 clicks of"),
        ("clicks", -1, "impossible counts"),
        ("impressions", np.nan, "impossible counts"),
        ("impressions", np.inf, "impossible counts"),
    ],
)
def test_impossible_counts_are_refused(name, value, words):
    log = simulated(0, power(1.0))
    log[name] = log[name].astype(float)
    log[name][7] = value
    with pytest.raises(ValueError, match=words):
        estimate_position_bias(**log)


def test_other_bad_arguments_are_refused():
    log = simulated(0, power(1.0))
    with pytest.raises(ValueError, match=r"pass \[N\] all"):
        estimate_position_bias(**dict[str, Any](log, clicks=np.zeros(3)))
    with pytest.raises(ValueError, match=r"pass \[N\] all"):
        estimate_position_bias(**log, strata=[1])
    with pytest.raises(ValueError, match="ranks 1"):
        estimate_position_bias(**log, ranks=1)


def test_weights_by_hand():
    weights = inverse_propensity_weights([1, 2, 3, 9], [1.0, 0.5, 0.1], clip=4)
    np.testing.assert_allclose(weights, np.array([1, 2, 4, 4]) / 2.75)
    np.testing.assert_allclose(inverse_propensity_weights([1.4, 1.6], [1.0, 0.5]), [2 / 3, 4 / 3])
    assert inverse_propensity_weights([], [1.0]).shape == (0,)


@given(
    st.lists(st.floats(1, 60), min_size=1, max_size=30),
    st.lists(st.floats(1e-6, 3), min_size=1, max_size=20),
    st.floats(1, 100),
)
def test_weights_average_one_and_never_spread_beyond_the_clip(position, propensity, clip):
    weights = inverse_propensity_weights(position, propensity, clip=clip)
    assert weights.mean() == pytest.approx(1, rel=1e-5) and (weights > 0).all()
    floor = min(1 / max(propensity), clip)
    assert weights.max() / weights.min() <= clip / floor * (1 + 1e-5)


def test_weighted_clicks_count_what_examination_hid():
    """Two kinds of items, the first at the top: clicks favour it, weighted clicks do not."""
    rng = np.random.default_rng(0)
    rank = np.where(np.arange(40_000) % 2, rng.integers(1, 4, 40_000), rng.integers(5, 9, 40_000))
    clicked = rng.random(40_000) < 0.4 * power(1.0)[rank - 1]
    top, weights = (rank < 4)[clicked], inverse_propensity_weights(rank[clicked], power(1.0))
    assert np.mean(top) > 0.75
    assert np.average(top, weights=weights) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(
    ("position", "propensity", "clip", "words"),
    [
        ([1, np.nan], [1.0], 10, "1 of 2 are NaN"),
        ([0.5], [1.0], 10, "below 1"),
        ([1], [1.0, 0.0], 10, "positive"),
        ([1], [np.nan], 10, "positive"),
        ([1], [], 10, "positive"),
        ([1], [1.0], 0.5, "clip: 0.5"),
        ([1], [1.0], np.nan, "clip: nan"),
    ],
)
def test_impossible_weights_are_refused(position, propensity, clip, words):
    with pytest.raises(ValueError, match=words):
        inverse_propensity_weights(position, propensity, clip=clip)
