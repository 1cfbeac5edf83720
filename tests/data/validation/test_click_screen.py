"""Impossible clicks leave the prepared table, are counted, and stay in a file of their own."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distill.config import DataConfig, ScreeningConfig
from distill.data import tables
from distill.data.preparation.prepare import prepare
from distill.data.tables import Prepared
from distill.data.validation.click_screen import FILE, click_findings, screen_clicks
from tests.data.preparation.test_prepare import marketplace, save


def _with_bots() -> dict[str, list[dict]]:
    """A log of 40 items × 30 keyphrases in which i0 (training) and i39 (held out) have a bot each."""
    rng = np.random.default_rng(0)
    items = [
        {"item_id": f"i{row}", "title": f"thing{row} colour{row}", "split": "holdout" if row >= 30 else "train"}
        for row in range(40)
    ]
    keyphrases = [f"word{row} other{row}" for row in range(30)]
    clicks = []
    for item in items:
        for keyphrase in keyphrases:
            shown = int(rng.integers(5, 200))
            clicked = int(rng.binomial(shown, rng.beta(0.6, 10)))
            pair = {"item_id": item["item_id"], "keyphrase": keyphrase}
            clicks.append({**pair, "impressions": shown, "clicks": clicked, "position": int(rng.integers(1, 9))})
    clicks[0] |= {"impressions": 900, "clicks": 899}
    clicks[-1] |= {"impressions": 500, "clicks": 500}
    return {"items": items, "keyphrases": [{"keyphrase": text} for text in keyphrases], "clicks": clicks}


def test_bots_are_dropped_from_both_splits_and_counted(tmp_path):
    source = save(tmp_path / "data", _with_bots())
    kept = prepare(source, tmp_path / "kept", DataConfig(screening=ScreeningConfig(impossible_clicks="keep")))
    dropped = prepare(source, tmp_path / "dropped", DataConfig())
    before, after = kept.tables["clicks"], dropped.tables["clicks"]
    assert (before.kept, before.removed, before.impossible) == (1200, 0, 0)
    assert (after.kept, after.removed, after.impossible) == (1198, 2, 2)
    assert (before.training - after.training, before.holdout - after.holdout) == (1, 1)
    removed = pq.read_table(tmp_path / "dropped" / FILE).to_pylist()
    assert [(row["item_id"], row["clicks"]) for row in removed] == [("i0", 899), ("i39", 500)]
    assert not (tmp_path / "kept" / FILE).exists()
    for split, name in ((Prepared.training, "clicks.parquet"), (Prepared.holdout, "holdout/clicks.parquet")):
        whole = pq.read_table(tmp_path / "kept" / name).to_pylist()
        rest = pq.read_table(tmp_path / "dropped" / name).to_pylist()
        assert rest == [row for row in whole if row not in removed]
        assert len(split(Prepared(tmp_path / "dropped"), "clicks")["item"]) == len(rest)  # type: ignore[index]


def test_running_again_leaves_no_earlier_file_behind(tmp_path):
    source = save(tmp_path / "data", _with_bots())
    prepare(source, tmp_path / "out", DataConfig())
    assert (tmp_path / "out" / FILE).exists()
    prepare(source, tmp_path / "out", DataConfig(screening=ScreeningConfig(impossible_clicks="keep")))
    assert not (tmp_path / "out" / FILE).exists()


def test_a_table_in_parts_is_screened_like_one_file(tmp_path):
    keep = DataConfig(screening=ScreeningConfig(impossible_clicks="keep"))
    prepare(save(tmp_path / "data", _with_bots()), tmp_path / "file", keep)
    shutil.copytree(tmp_path / "file", tmp_path / "parts")
    for name in ("clicks.parquet", "holdout/clicks.parquet"):
        path = tmp_path / "parts" / name
        rows = pq.read_table(path)
        path.unlink()
        path.mkdir()
        for part in range(3):
            pq.write_table(rows.slice(part * 350, 350), path / f"part-{part:05d}-of-00003.parquet")
    found = [screen_clicks(tmp_path / name, ScreeningConfig()) for name in ("file", "parts")]
    assert found[0] == found[1]
    assert found[0].impossible == {"training": 1, "holdout": 1}
    for name in ("clicks.parquet", "holdout/clicks.parquet"):
        assert tables.read(tmp_path / "file" / name).equals(tables.read(tmp_path / "parts" / name))
    assert pq.read_table(tmp_path / "file" / FILE).equals(pq.read_table(tmp_path / "parts" / FILE))


def test_without_a_clicks_table_there_is_nothing_to_screen(tmp_path):
    found = screen_clicks(tmp_path, ScreeningConfig())
    assert found.pairs == 0 and not found.impossible and not click_findings(found, 0.7)


def test_findings_tell_what_was_done(tmp_path):
    prepare(
        save(tmp_path / "data", _with_bots()),
        tmp_path / "out",
        DataConfig(screening=ScreeningConfig(impossible_clicks="keep")),
    )
    found = screen_clicks(tmp_path / "out", ScreeningConfig())
    (finding,) = [one for one in click_findings(found, 0.7) if one.check == "impossible clicks"]
    assert finding.count == 2 and "Dropped" in finding.message
    assert finding.examples[0].startswith("i0 | word0 other0: 899 of 900 at position")
    kept = click_findings(dataclasses.replace(found, dropped=False), 0.7)[0]
    assert "Kept" in kept.message


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    personal=st.sampled_from(["drop", "mask", "keep"]),
    clicks=st.sampled_from(["drop", "keep"]),
    texts=st.lists(
        st.sampled_from(["red boot", "a@b.com", "call 415-555-2671", "CALL (415) 555-2671", "nowhere", " "]), max_size=6
    ),
    bots=st.integers(0, 3),
)
def test_screening_never_changes_the_accounting(tmp_path, personal, clicks, texts, bots):
    data = marketplace()
    data["keyphrases"] += [{"keyphrase": text} for text in texts]
    data["clicks"] += [{**data["clicks"][0], "keyphrase": text} for text in texts]
    for row in data["clicks"][:bots]:
        row |= {"impressions": 5000, "clicks": 5000}
    rows = {name: len(table) for name, table in data.items()}
    shutil.rmtree(tmp_path / "data", ignore_errors=True)
    source = save(tmp_path / "data", data)
    config = DataConfig(screening=ScreeningConfig(personal_data=personal, impossible_clicks=clicks), max_bad_share=1.0)
    summary = prepare(source, tmp_path / "out", config)
    for name, table in summary.tables.items():
        assert table.rows == rows[name]
        assert table.rows == table.kept + table.quarantined + table.merged + table.removed, name
        assert table.impossible <= table.removed
        if table.training or table.holdout:
            assert table.kept == table.training + table.holdout
    written = [tables.read(tmp_path / "out" / name) for name in ("clicks.parquet", "holdout/clicks.parquet")]
    assert sum(map(len, written)) == summary.tables["clicks"].kept
    quarantined = (tmp_path / "out" / "quarantine.jsonl").read_text().count("\n")
    assert quarantined == sum(table.quarantined for table in summary.tables.values())


@pytest.mark.parametrize("both", [True, False])
def test_pairs_of_events_are_charged_where_they_are_counted(tmp_path, both):
    data = _with_bots()
    clicks = data.pop("clicks")
    chosen = [row for row in clicks if row["item_id"] not in ("i1", "i2")] if both else clicks[-1:]
    data["clicks"] = chosen
    event = {"item_id": "i1", "keyphrase": "word1 other1", "position": 3}
    data["events"] = [{**event, "event": "impression"}] * 40 + [{**event, "event": "click"}] * 3
    summary = prepare(save(tmp_path / "data", data), tmp_path / "out", DataConfig())
    for table in summary.tables.values():
        assert table.rows == table.kept + table.quarantined + table.merged + table.removed
    kept = sum(summary.tables[name].kept for name in ("clicks", "events"))
    files = ("clicks.parquet", "holdout/clicks.parquet")
    assert kept == sum(len(tables.read(tmp_path / "out" / name)) for name in files)
