"""What prepared tables say together: labels that teach nothing, what nobody clicked, what is missing."""

from __future__ import annotations

import pytest

from distill.config import DataConfig
from distill.data.preparation.prepare import prepare
from distill.data.validation.relations import check_relations
from distill.data.validation.validate import read_validation
from tests.data.preparation.test_prepare import marketplace, save


def findings(tmp_path, change=lambda tables: None):
    tables = marketplace()
    change(tables)
    prepare(save(tmp_path / "data", tables), tmp_path / "out", DataConfig(max_bad_share=1.0))
    return {one.check: one for one in read_validation(tmp_path / "out").findings}


def test_what_is_well_is_noted_at_most(tmp_path):
    found = findings(tmp_path)
    assert not {"clicks: none", "clicks: all", "clicks: not shown", "clicks: position below 1"} & set(found)
    assert not {"judgements: one grade", "search_relevance: one passed", "keyphrases: one search volume"} & set(found)
    assert "human queries not in keyphrases" not in found
    assert [one.check for one in found.values() if one.severity == "error"] == ["human: one gain"]  # all are 1
    assert found["items without category"].count == 3
    assert found["items without category"].severity == "warning"  # half of them
    assert found["human: few test queries"].count == 1
    assert found["leakage: human queries"].examples == ("red boot",)
    assert found["leakage: near-duplicates of human queries"].examples == ("red boots",)
    assert found["keyphrases without search volume"].count == 1


def test_never_shown_and_never_clicked(tmp_path):
    def change(tables):
        for row in tables["clicks"]:
            if row["keyphrase"] == "old lamp":
                row["clicks"] = 0
        tables["keyphrases"].append({"keyphrase": "wool scarf", "search_volume": 5})

    found = findings(tmp_path, change)
    assert found["keyphrases never shown"].examples == ("wool scarf",)
    assert found["keyphrases never clicked"].examples == ("old lamp", "wool scarf")
    assert found["keyphrases never judged"].count == 1
    assert found["items never clicked"].count == 3  # i2, i3, i5 stand in no row


@pytest.mark.parametrize(
    ("change", "check", "severity"),
    [
        (lambda t: [row.update(clicks=0) for row in t["clicks"]], "clicks: none", "error"),
        (lambda t: [row.update(grade=2) for row in t["judgements"]], "judgements: one grade", "error"),
        (lambda t: [row.update(passed=1) for row in t["search_relevance"]], "search_relevance: one passed", "error"),
        (lambda t: [row.update(position=row["clicks"]) for row in t["clicks"]], "clicks: position below 1", "warning"),
        (lambda t: t["clicks"][2].update(impressions=0, clicks=0), "clicks: not shown", "note"),
        (
            lambda t: [row.update(search_volume=1) for row in t["keyphrases"]],
            "keyphrases: one search volume",
            "warning",
        ),
        (
            lambda t: t["human"].append({**t["human"][0], "keyphrase": "unheard of"}),
            "human queries not in keyphrases",
            "warning",
        ),
    ],
)
def test_a_fault_is_found(tmp_path, change, check, severity):
    assert findings(tmp_path, change)[check].severity == severity


def test_positions_below_one_are_counted(tmp_path):
    found = findings(tmp_path, lambda tables: tables["clicks"][2].update(position=0))["clicks: position below 1"]
    assert found.count == 1 and found.share < 0.2


def test_a_human_query_is_the_example_of_human_queries(tmp_path):
    def change(tables):
        tables["keyphrases"] = [{"keyphrase": "boots red"}, *tables["keyphrases"]]  # near-duplicates come first

    found = findings(tmp_path, change)
    assert "boots red" not in found["leakage: human queries"].examples
    assert "boots red" in found["leakage: near-duplicates of human queries"].examples


def test_a_log_of_clicked_impressions_alone_is_an_error(tmp_path):
    def change(tables):
        tables["clicks"] = [
            {"item_id": f"i{item}", "keyphrase": text, "impressions": 2, "clicks": 2, "position": 1}
            for item in range(6)
            for text in ("blue hat", "green socks", "old lamp", "red boot", "red boots")
        ]

    assert findings(tmp_path, change)["clicks: all"].severity == "error"


def test_quarantine_reasons_name_file_and_line(tmp_path):
    def change(tables):
        tables["clicks"][2]["clicks"] = 99
        tables["judgements"].append({**tables["judgements"][0], "item_id": "i77"})

    tables = marketplace()
    change(tables)
    prepare(save(tmp_path / "data", tables), tmp_path / "out", DataConfig(max_bad_share=1.0))
    found = [one for one in read_validation(tmp_path / "out").findings if one.check == "quarantined"]
    by_table = {one.table: one for one in found}
    assert by_table["clicks"].examples == ("clicks.jsonl:3",)
    assert by_table["clicks"].message == "1 of 15 rows quarantined: clicks > impressions."
    assert by_table["clicks"].severity == "warning"
    assert "same day" in by_table["judgements"].do


def test_an_empty_folder_has_nothing_to_find(tmp_path):
    assert check_relations(tmp_path) == []
