"""Two snapshots compared: the index by hand, chance left out, turnover and labels that changed."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.config import DataConfig
from distill.data.preparation.prepare import prepare
from distill.data.schema import DataError
from distill.data.validation import drift
from distill.data.validation.distributions import distributions
from distill.data.validation.validate import read_validation
from tests.data.preparation.test_prepare import marketplace, save


def test_the_stability_index_by_hand():
    # Shares .25/.75 against .5/.5 of very many rows: .25 ln 1.5 − .25 ln .5 … = .25 (ln 1.5 + ln 2).
    index, noise = drift.stability_index({"a": 10**8, "b": 3 * 10**8}, {"a": 10**8, "b": 10**8})
    assert index == pytest.approx(0.25 * math.log(3), rel=1e-6)
    assert 0 < noise < 1e-6


def test_a_class_that_is_new_counts_and_is_not_infinitely_far():
    index, _ = drift.stability_index({"a": 500, "b": 500}, {"a": 1000})
    assert drift.LARGE < index < 10


def test_nothing_to_compare_is_no_shift():
    assert drift.stability_index({}, {"a": 5})[0] == 0
    assert drift.stability_index({"a": 5}, {"a": 9}) == (0.0, math.inf)


@given(st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 10_000)))
def test_a_distribution_has_not_drifted_from_itself(one):
    assert drift.stability_index(one, one)[0] == pytest.approx(0.0, abs=1e-12)


def test_samples_of_one_distribution_stay_within_the_noise():
    rng = np.random.default_rng(0)
    share = np.array([0.5, 0.3, 0.1, 0.05, 0.05])
    beyond = 0
    for _ in range(400):
        now, before = (dict(zip("abcde", rng.multinomial(size, share).tolist())) for size in (300, 500))
        index, noise = drift.stability_index(now, before)
        beyond += index > noise
    assert beyond <= 3  # one in a thousand is expected


def _snapshot(tmp_path, name, tables):
    return prepare(save(tmp_path / f"{name}_data", tables), tmp_path / name, DataConfig(max_bad_share=1.0))


def test_turnover_and_changed_labels(tmp_path):
    _snapshot(tmp_path, "before", marketplace())
    later = marketplace()
    later["items"] = [item for item in later["items"] if item["item_id"] != "i3"]
    later["items"].append({**later["items"][0], "item_id": "i9", "title": "quite another title"})
    later["keyphrases"].append({"keyphrase": "brand new phrase", "search_volume": 3})
    for row in later["judgements"]:
        if row["item_id"] == "i1" and row["keyphrase"] == "blue hat":
            row["grade"] = (row["grade"] + 1) % 4
    prepare(
        save(tmp_path / "after_data", later),
        tmp_path / "after",
        DataConfig(max_bad_share=1.0, previous=str(tmp_path / "before")),
    )
    found = {one.check: one for one in read_validation(tmp_path / "after").findings}
    assert (found["drift: new items"].count, found["drift: new items"].examples) == (1, ("i9",))
    assert (found["drift: gone items"].count, found["drift: gone items"].examples) == (1, ("i3",))
    assert found["drift: new keyphrases"].examples == ("brand new phrase",)
    assert "drift: gone keyphrases" not in found
    grades = found["drift: grade of the same pair"]
    assert grades.count == 1 and grades.examples[0].startswith("i1 | blue hat: ")
    assert "drift: passed of the same pair" not in found


def test_the_same_data_has_not_drifted(tmp_path):
    _snapshot(tmp_path, "before", marketplace())
    shapes = distributions(tmp_path / "before")
    assert drift.drift(tmp_path / "before", tmp_path / "before", shapes, shapes) == []


def test_a_large_shift_is_a_warning_that_names_the_classes():
    before = {"top category": {"Shoes": 900, "Hats": 100}}
    now = {"top category": {"Shoes": 300, "Hats": 600, "Lamps": 100}}
    (found,) = drift._shifts(now, before)
    assert found.severity == "warning" and found.table == "items"
    assert found.examples[:2] == ("Shoes: 90.0% → 30.0%", "Hats: 10.0% → 60.0%")


def test_which_of_many_rare_classes_have_names_is_no_shift():
    rng = np.random.default_rng(0)
    snapshots = []
    for _ in range(2):
        drawn = rng.multinomial(20_000, np.full(2000, 1 / 2000))
        named = np.argsort(-drawn, kind="stable")[:200]
        one = {f"c{number}": int(drawn[number]) for number in named}
        snapshots.append({"top category": one | {"others": 20_000 - sum(one.values())}})
    assert list(drift._shifts(*snapshots)) == []
    snapshots[1]["top category"]["c0"] = 10_000  # a third of the items
    assert [one.severity for one in drift._shifts(*snapshots)] == ["warning"]


def test_a_table_that_is_gone_is_found(tmp_path):
    _snapshot(tmp_path, "before", marketplace())
    later = {name: rows for name, rows in marketplace().items() if name != "clicks"}
    _snapshot(tmp_path, "after", later)
    shapes = [distributions(tmp_path / name) for name in ("after", "before")]
    found = drift.drift(tmp_path / "after", tmp_path / "before", *shapes)
    assert [(one.check, one.table, one.count) for one in found] == [("drift: a table is gone", "clicks", 11)]
    assert drift.drift(tmp_path / "before", tmp_path / "after", *reversed(shapes)) == []


def test_large_tables_are_compared_by_a_part_of_the_items(tmp_path, monkeypatch):
    _snapshot(tmp_path, "before", marketplace())
    later = marketplace()
    for row in later["judgements"]:
        row["grade"] = 3 - row["grade"]
    _snapshot(tmp_path, "after", later)
    monkeypatch.setattr(drift, "_JOINED", 6)
    (grades, *_) = drift._relabelled(tmp_path / "after", tmp_path / "before")
    assert 0 < grades.count < 12
    assert "a part of the items" in grades.message


def test_a_previous_folder_without_tables_is_an_error(tmp_path):
    (tmp_path / "empty").mkdir()
    config = DataConfig(max_bad_share=1.0, previous=str(tmp_path / "empty"))
    with pytest.raises(DataError, match=r"data\.previous"):
        prepare(save(tmp_path / "data", marketplace()), tmp_path / "out", config)
