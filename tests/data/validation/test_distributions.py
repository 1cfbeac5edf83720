"""Distributions by hand: every row counts once, in the class that it belongs to."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from distill.config import DataConfig
from distill.data.preparation.prepare import prepare
from distill.data.validation.distributions import _categories, binned, distributions, rates, words
from tests.data.preparation.test_prepare import marketplace, save


def test_bins_by_hand():
    values = np.array([0, 1, 2, 4, 5, 9, 10, 99, np.nan])
    assert binned(values, (0, 1, 2, 5, 10), "unknown") == {
        **{"0": 1, "1": 1, "2–4": 2, "5–9": 2, "10+": 2},
        "unknown": 1,
    }
    assert binned(np.array([1.0, 2.0]), (0, 1, 2, 5)) == {"0": 0, "1": 1, "2–4": 1}
    assert binned(np.array([-3.0]), (0, 1)) == {"below 0": 1}
    assert binned(np.zeros(0), (0, 1)) == {}


@given(st.lists(st.integers(0, 10**7)))
def test_every_value_falls_into_one_class(values):
    assert sum(binned(np.array(values, float), (0, 1, 10, 100, 10_000)).values()) == len(values)


@given(st.lists(st.floats(0, 1)))
def test_every_rate_falls_into_one_class(values):
    assert sum(rates(np.array(values, float)).values()) == len(values)


def test_rates_take_their_upper_bound_in():
    found = rates(np.array([0.0, 0.005, 0.0051, 1.0, 0.5]))
    assert (found["0"], found["≤ 0.5 %"], found["≤ 1 %"], found["≤ 50 %"], found["≤ 100 %"]) == (1, 1, 1, 1, 1)


def test_words():
    texts = pa.array(["", "  ", "one", " two  words ", "a b\tc"])
    assert words(texts).tolist() == [0, 0, 1, 2, 3]


def test_the_tables_of_a_marketplace(tmp_path):
    prepare(save(tmp_path / "data", marketplace()), tmp_path / "out", DataConfig(max_bad_share=1.0))
    found = distributions(tmp_path / "out")
    assert found["top category"] == {"Shoes": 3, "none": 3}
    assert found["title words"] == {"1": 0, "2": 0, "3": 6}
    assert found["keyphrase words"] == {"1": 0, "2": 5}
    assert found["search volume"] == {"0": 0, "1–9": 4, "unknown": 1}
    # Two of five keyphrases are human queries or nearly so: their rows of training items were removed.
    assert sum(found["clicks of a pair"].values()) == 2 * 3 + 5
    assert found["impressions by position"]["1"] + found["impressions by position"]["2"] == 110
    assert sum(found["grades of training items"].values()) == 6
    assert sum(found["grades of held-out items"].values()) == 5
    assert found["gains of test queries"] == {"1": 3}
    assert sum(found["search engine"].values()) == 11


def test_a_category_may_bear_the_name_of_a_class():
    tops = ["others", "none", *(f"c{number}" for number in range(250)), "others", "none"]
    category = pa.chunked_array([[[name, "leaf"] for name in tops] + [[]] * 3], pa.list_(pa.string()))
    found = _categories(category)
    assert sum(found.values()) == len(category) == 257
    assert found["others"] == 2 + 52 and found["none"] == 2 + 3


def test_nothing_is_invented_where_there_is_no_table(tmp_path):
    assert distributions(tmp_path) == {}
