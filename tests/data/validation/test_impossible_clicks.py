"""Bots are found, honest logs lose nothing."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import betabinom

from distill.config import MarketplaceConfig
from distill.data.marketplace import write_marketplace
from distill.data.validation.distributions import POSITIONS
from distill.data.validation.impossible_clicks import Rows, bands, fit_rates, screen, table_tail, tally


def honest(pairs: int, strong: float, share: float, seed: int) -> Rows:
    """A position-based log: rates spread as Beta, `share` of the pairs of rate `strong`, examination falling."""
    rng = np.random.default_rng(seed)
    position = rng.geometric(0.15, pairs).astype(float)
    rate = np.where(rng.random(pairs) < share, strong, rng.beta(0.5, 12, pairs)) * position**-0.7
    impressions = np.ceil(rng.lognormal(2.5, 1.6, pairs))
    return impressions, rng.binomial(impressions.astype(int), rate).astype(float), position


def test_bands_by_hand():
    position = np.array([0.0, 1.0, 1.49, 1.5, 2.0, 10.4, 10.6, 16.0, 25.0, 50.0, 51.0, np.nan])
    assert [POSITIONS[band] for band in bands(position)] == [
        *("1", "1", "1", "1", "2", "10", "11–15", "16–20", "21–30", "31–50", "51+", "unknown")
    ]


def test_tails_are_those_of_the_beta_binomial():
    n, k = np.array([5, 100, 1000, 7]), np.array([3, 90, 400, 0])
    np.testing.assert_allclose(table_tail(n, k, 0.4, 3.0), betabinom.sf(k - 1, n, 0.4, 3.0), rtol=1e-8)


def test_the_spread_of_rates_is_recovered():
    rng = np.random.default_rng(0)
    n = rng.integers(20, 400, 20_000)
    k = rng.binomial(n, rng.beta(0.8, 9.0, len(n)))
    a, b = fit_rates(n, k, np.ones(len(n), np.int64))
    assert a == pytest.approx(0.8, rel=0.05) and b == pytest.approx(9.0, rel=0.05)


def test_a_tally_does_not_depend_on_how_the_table_is_cut():
    rows = honest(3000, 0.5, 0.01, 0)
    parts = [tuple(column[start : start + 700] for column in rows) for start in range(0, 3000, 700)]
    for one, other in zip(tally([rows]), tally(parts)):  # type: ignore[arg-type]
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("strong", "share"), [(0.6, 0.02), (0.69, 0.001), (0.3, 0.1)])
def test_an_honest_log_loses_nothing(strong, share, seed):
    rows = honest(20_000, strong, share, seed)
    found = screen(tally([rows]), 0.7)
    assert len(found.impossible) == 0 and found.unusual == 0


def test_the_marketplaces_honest_log_loses_nothing(tmp_path):
    import pyarrow.csv

    write_marketplace(tmp_path, MarketplaceConfig(items=200, keyphrases=400, searches=60_000, human_queries=20), 3)
    table = pyarrow.csv.read_csv(
        tmp_path / "clicks.tsv.gz", parse_options=pyarrow.csv.ParseOptions(delimiter="\t")
    ).select(["impressions", "clicks", "position"])
    found = screen(tally([tuple(column.to_numpy().astype(float) for column in table.columns)]), 0.7)  # type: ignore
    assert found.pairs > 2000
    assert len(found.impossible) == 0


def test_bots_are_found_and_honest_pairs_beside_them_stay():
    rng = np.random.default_rng(1)
    impressions, clicks, position = honest(20_000, 0.6, 0.005, 1)
    bots = rng.random(len(clicks)) < 0.003
    impressions[bots] = 300
    clicks[bots] = rng.binomial(300, 0.97, bots.sum())
    found = screen(tally([(impressions, clicks, position)]), 0.7)
    impossible, suspicious = found.flags((impressions, clicks, position))
    assert (impossible & bots).sum() >= 0.95 * bots.sum()
    assert not (impossible & ~bots).any()
    assert not (suspicious & impossible).any()


def test_a_strong_pair_below_the_ceiling_is_suspicious_at_most():
    impressions, clicks, position = honest(20_000, 0.05, 0.1, 2)
    impressions[0], clicks[0], position[0] = 2000, 1300, 30.0  # far above all others at its position
    found = screen(tally([(impressions, clicks, position)]), 0.7)
    impossible, suspicious = found.flags((impressions, clicks, position))
    assert not impossible.any()
    assert suspicious[0]


def test_where_everybody_clicks_nothing_is_impossible():
    rng = np.random.default_rng(0)
    impressions = np.full(2000, 500.0)
    clicks = rng.binomial(500, 0.9, 2000).astype(float)
    found = screen(tally([(impressions, clicks, np.full(2000, np.nan))]), 0.7)
    assert len(found.impossible) == 0
    assert found.unusual == 2000


def test_a_bot_among_pairs_that_nobody_clicks_is_found():
    impressions, clicks = np.full(1000, 400.0), np.zeros(1000)
    clicks[7] = 400
    found = screen(tally([(impressions, clicks, np.ones(1000))]), 0.7)
    impossible, _ = found.flags((impressions, clicks, np.ones(1000)))
    assert np.flatnonzero(impossible).tolist() == [7]


@pytest.mark.parametrize("rows", [0, 1])
def test_tiny_tables(rows):
    columns = (np.full(rows, 10.0), np.full(rows, 10.0), np.full(rows, 1.0))
    found = screen(tally([columns]), 0.7)
    assert len(found.impossible) == 0
    assert [flags.tolist() for flags in found.flags(columns)] == [[False] * rows] * 2


def test_counts_beyond_what_is_tested_stay():
    rows = (np.array([2.0**40, 0.0]), np.array([2.0**40, 0.0]), np.array([1.0, 1.0]))
    found = screen(tally([rows]), 0.7)
    assert not found.flags(rows)[0].any() and found.pairs == 0
