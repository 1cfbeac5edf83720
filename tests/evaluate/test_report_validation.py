"""The data page: every row's way, every finding and every figure in numbers; nothing claimed that is not known."""

from __future__ import annotations

import dataclasses

from distill.evaluate import report_contents as contents
from distill.evaluate import report_validation
from distill.evaluate.report import render_report
from distill.evaluate.report_validation_plots import draw_data
from tests.evaluate.report_page import ATTACK, Page, data_page


def text_of(page: report_validation.DataPage) -> str:
    html = render_report(contents.ReportData("run", {}, data_page=page))
    return " ".join(Page(html).text.split())


def test_the_way_of_every_row_is_told():
    text = text_of(data_page())
    assert "clicks simulated 3 files 1,000 50 100 41 9 800 700 training, 100 held out" in text
    assert "items items.jsonl.gz 100 4 6 0 0 90" in text


def test_findings_examples_and_what_to_do_are_told_and_escaped():
    text = text_of(data_page())
    assert "error keyphrases 3 rows hold a phone number. Drop them." in text
    assert f"2 items share a title. {ATTACK}" in text
    assert "<script>alert" not in render_report(contents.ReportData("run", {}, data_page=data_page()))
    empty = dataclasses.replace(data_page(), findings=())
    assert "Nothing was found that somebody should know." in text_of(empty)


def test_cut_texts_are_counted_and_named():
    text = text_of(data_page())
    assert "12 of 90 item texts are longer than the 64 tokens" in text
    assert "None of the 50 keyphrases is longer than the 24 tokens" in text


def test_nothing_is_claimed_where_the_data_says_nothing():
    silent = text_of(report_validation.DataPage())
    assert "The data says nothing of its source" in silent
    assert "There is no clicks table." in silent and "No table has a row." in silent
    told = text_of(data_page())
    assert "a shop's log" in told and "keyphrases.search_volume" in told
    assert "The data says nothing of its source" not in told


def test_flows_are_those_of_the_summary():
    table = {
        **{"file": "clicks.tsv", "rows": 10, "kept": 4, "training": 3, "holdout": 1},
        **{"quarantined": 1, "merged": 2, "removed": 3, "impossible": 1},
    }
    (flow,) = report_validation.flow_of({"clicks": table})
    assert (flow.leaks, flow.impossible) == (2, 1)
    assert flow.rows == flow.kept + flow.quarantined + flow.merged + flow.leaks + flow.impossible


def test_figures_hold_all_classes_in_numbers():
    drawn = draw_data(data_page())
    assert set(drawn) == {
        *("data_flow", "data_texts", "data_catalogue", "data_log", "data_position", "data_labels"),
    }
    categories = [row for row in drawn["data_catalogue"].rows if row[0] == "top category"]
    assert len(categories) == 12 and categories[-1][1] == "4 more"
    assert sum(int(row[2]) for row in categories) == 40 + sum(20 - row for row in range(14))
    assert drawn["data_position"].rows == [["1", "5,000", "500", "10.0 %"], ["2", "3,000", "90", "3.0 %"]]
    assert ["clicks", "80.0 %", "10.0 %", "4.1 %", "0.9 %", "5.0 %"] in list(drawn["data_flow"].rows)
    assert draw_data(None) == {} and draw_data(report_validation.DataPage()) == {}


def test_what_is_simulated_stands_on_the_first_page():
    data = contents.ReportData("run", {}, data_page=data_page(), simulated_clicks=True)
    text = " ".join(Page(render_report(data)).text.split())
    assert "The clicks are simulated" in text
    assert "this of the data is simulated too: keyphrases.search_volume." in text
    silent = render_report(contents.ReportData("run", {}, data_page=report_validation.DataPage()))
    assert "What is simulated" not in Page(silent).text
