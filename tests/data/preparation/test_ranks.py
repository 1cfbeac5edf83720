"""Clicks by rank, and the chance of examination that `prepare` estimates from them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.config import DataConfig, ScreeningConfig
from distill.data.preparation.ranks import RankSample, rank_cells
from tests.data.preparation.test_prepare import marketplace, run


def log(bots: int = 0) -> dict[str, list[dict]]:
    """Pairs at three ranks, clicked as rank^-0.8; and bots that click nearly all of what stands at rank 5."""
    rng = np.random.default_rng(0)
    rows = []
    for item in range(40):
        for keyphrase in ("blue hat", "old lamp"):
            merit = rng.uniform(0.1, 0.5)
            for rank in (1, 2, 5):
                clicks = rng.binomial(400, merit * rank**-0.8)
                pair = {"item_id": f"i{item}", "keyphrase": keyphrase}
                rows.append(pair | {"impressions": 400, "clicks": int(clicks), "position": rank})
    for item in range(bots):
        pair = {"item_id": f"i{item}", "keyphrase": "green socks"}
        rows.append(pair | {"impressions": 100, "clicks": 5, "position": 1})
        rows.append(pair | {"impressions": 3000, "clicks": 2990, "position": 5})
    return {
        "items": [{"item_id": f"i{row}", "title": f"t{row}", "split": "train"} for row in range(40)],
        "keyphrases": marketplace()["keyphrases"],
        "clicks": rows,
    }


def test_position_bias_is_estimated_where_pairs_stood_at_different_ranks(tmp_path):
    tables = log()
    summary, prepared = run(tmp_path, tables)
    bias = prepared.position_bias()
    assert bias.basis == "pairs" and bias.eta == pytest.approx(0.8, abs=0.05)
    assert bias.propensity[[0, 1, 4]] == pytest.approx([1, 2**-0.8, 5**-0.8], abs=0.03)
    assert "position bias: a rank is examined as rank^-0.7" in "\n".join(summary.lines())
    tables["clicks"] = [row for row in tables["clicks"] if row["position"] == 1]
    _, prepared = run(tmp_path, tables)
    assert prepared.position_bias() is None


def test_pairs_that_a_bot_clicked_do_not_bend_the_estimate(tmp_path):
    """Two of 82 pairs would make 0.65 of 0.78: what is taken out of the clicks is taken out of these too."""
    _, prepared = run(tmp_path, log())
    honest = prepared.position_bias()
    summary, prepared = run(tmp_path, log(bots=2))
    found = prepared.position_bias()
    assert summary.tables["clicks"].impossible == 2
    assert (found.eta, found.clicks) == (honest.eta, honest.clicks)
    keep = DataConfig(max_bad_share=1.0, screening=ScreeningConfig(impossible_clicks="keep"))
    _, prepared = run(tmp_path, log(bots=2), keep)
    assert prepared.position_bias().eta < honest.eta - 0.1


def test_pairs_are_taken_out_of_a_sample_whole():
    item = np.array([0, 0, 0, 1, 1, 2])
    cells = {"item": item, "keyphrase": np.array([0, 0, 1, 0, 0, 1]), "position": np.array([1, 2, 1, 1, 2, 1])}
    cells |= {"impressions": np.arange(6.0), "clicks": np.zeros(6)}
    sample = RankSample()
    sample.add({name: column[:3] for name, column in cells.items()})
    sample.add({name: column[3:] for name, column in cells.items()})
    sample.remove(np.array([0, 2, 7]), np.array([0, 1, 0]))
    assert sample.cells()["impressions"].tolist() == [2.0, 3.0, 4.0]


@given(st.integers(1, 60), st.integers(0, 99))
def test_a_sample_of_ranks_does_not_depend_on_the_parts(limit, seed):
    rng = np.random.default_rng(seed)
    item = np.repeat(np.arange(40), 2)
    cells = {"item": item, "keyphrase": item % 7, "position": np.tile([1, 2], 40)}
    cells |= {"impressions": np.full(80, 9.0), "clicks": np.tile([2.0, 1.0], 40)}
    whole, parts, other = RankSample(limit), RankSample(limit), RankSample(limit)
    whole.add(cells)
    for number, chosen in enumerate(np.array_split(rng.permutation(40), 5)):
        mask = np.isin(item, chosen)
        (parts if number % 2 else other).add({name: column[mask] for name, column in cells.items()})
    parts.merge(other)
    assert parts.share == whole.share and len(whole.cells()["item"]) <= limit
    assert all(np.array_equal(column, parts.cells()[name]) for name, column in whole.cells().items())


def test_cells_of_ranks_by_hand():
    rows = [
        # item, keyphrase, position, impressions, clicks
        (0, 0, 1, 5, 2),
        (0, 0, 1, 5, 1),
        (0, 0, 3, 2, 0),
        (0, 0, 2.5, 9, 9),  # a mean of ranks
        (0, 0, np.nan, 9, 9),
        (1, 0, 1, 5, 1),  # one rank
        (1, 1, 1, 5, 0),  # no click
        (1, 1, 2, 5, 0),
        (2, 0, 1, 5, 1),
        (2, 0, 2, 0, 1),  # a click without an impression
    ]
    cells = rank_cells(*np.array(rows, float).T)
    assert [tuple(map(float, row)) for row in zip(*cells.values())] == [(0, 0, 1, 10, 3), (0, 0, 3, 2, 0)]


def test_ranks_beyond_the_last_are_one():
    item = np.repeat(np.arange(40), 2)
    position = np.where(item < 20, np.tile([1.0, 2.0], 40), np.tile([60.0, 80.0], 40))
    shown, clicked = np.full(80, 90.0), np.tile([10.0, 5.0], 40)
    deep, sample = RankSample(), RankSample()
    deep.add(rank_cells(item[40:], item[40:] % 2, position[40:], shown[40:], clicked[40:]))
    assert deep.position_bias() is None  # though different pairs of a keyphrase have clicks enough
    sample.add(rank_cells(item, item % 2, position, shown, clicked))
    bias = sample.position_bias()
    assert bias is not None and (bias.basis, bias.clicks) == ("pairs", 300) and bias.eta == pytest.approx(1, abs=0.01)
