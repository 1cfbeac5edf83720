"""Which listings are held out by a whole preparation, alone and after an earlier run (`data.previous`)."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distill.config import DataConfig
from distill.data.preparation.prepare import prepare
from distill.data.schema import DataError
from distill.data.tables import Prepared
from tests.data.preparation.test_prepare import marketplace, pairs_of, run, save


def test_split_by_title_clusters_when_the_items_have_none(tmp_path):
    tables = {name: rows for name, rows in marketplace().items() if name in ("items", "keyphrases")}
    tables["items"] = [{"item_id": f"i{n}", "title": f"a{n // 2} b{n // 2} c{n // 2} red"} for n in range(400)]
    summary, prepared = run(tmp_path, tables, DataConfig(holdout_share=0.2))
    assert summary.split_from == "title clusters" and 50 < summary.holdout_items < 110
    assert np.array_equal(prepared.item_is_holdout[::2], prepared.item_is_holdout[1::2])


def test_an_earlier_run_keeps_its_split_whatever_is_added(tmp_path):
    """Another day: new listings, twins of old ones among them, and more rows. No pair changes sides."""
    tables = {name: rows for name, rows in marketplace().items() if name in ("keyphrases", "clicks")}
    tables["items"] = [{"item_id": f"i{n}", "title": f"a{n} b{n} c{n} d{n}"} for n in range(100)]
    tables["clicks"] = [
        {"item_id": f"i{n}", "keyphrase": "blue hat", "impressions": 1, "clicks": 0} for n in range(100)
    ]
    _, before = run(tmp_path, tables)
    (tmp_path / "out").rename(tmp_path / "yesterday")
    before = Prepared(tmp_path / "yesterday")
    # Twins of the first half by older ids, which would otherwise decide for their clusters, and strangers.
    tables["items"] = [{"item_id": f"a{n}", "title": f"a{n} b{n} c{n} d{n}!"} for n in range(50)] + tables["items"]
    tables["items"] += [{"item_id": f"n{n}", "title": f"x{n} y{n}"} for n in range(100)]
    tables["clicks"] += [{"item_id": f"i{n}", "keyphrase": "old lamp", "impressions": 1, "clicks": 0} for n in range(9)]
    config = DataConfig(previous=str(tmp_path / "yesterday"), max_bad_share=1.0)
    summary, after = run(tmp_path, tables, config)
    sides = dict(zip(after.item_ids, after.item_is_holdout.tolist()))
    assert all(sides[item] == held for item, held in zip(before.item_ids, before.item_is_holdout.tolist()))
    assert all(sides[f"a{n}"] == sides[f"i{n}"] for n in range(50))
    for name in ("training", "holdout"):
        assert set(pairs_of(before, getattr(before, name)("clicks"))) <= set(
            pairs_of(after, getattr(after, name)("clicks"))
        )
    assert (summary.split_from, summary.known_items, summary.items_after_twins) == ("earlier run", 100, 50)
    assert "100 items keep their split; 50 new ones followed a twin" in "\n".join(summary.lines())
    with pytest.raises(DataError, match=r"config\.data\.previous=.*is where this run writes"):
        prepare(tmp_path / "in", tmp_path / "yesterday", config)


def test_more_log_rows_move_nothing_even_without_an_earlier_run(tmp_path):
    tables = {name: rows for name, rows in marketplace().items() if name in ("keyphrases", "items", "judgements")}
    for row in tables["items"]:
        del row["split"]
    _, before = run(tmp_path, tables)
    held = before.item_is_holdout.tolist()
    tables["clicks"] = marketplace()["clicks"]
    _, after = run(tmp_path, tables)
    assert after.item_is_holdout.tolist() == held


def test_what_is_no_earlier_run_is_told_before_any_work(tmp_path):
    """A data directory, most likely, in place of the `data` folder of a run."""
    source = save(tmp_path / "in", marketplace(), "parquet")
    for name, table in {
        "no split": {"item_id": ["i0"], "title": ["a"]},
        "numbers": {"item_id": [0], "title": ["a"], "split": ["train"]},
    }.items():
        (tmp_path / name).mkdir()
        pq.write_table(pa.table(table), tmp_path / name / "items.parquet")
    for name, content in {"damaged": b"PAR1", "empty": None}.items():
        (tmp_path / name).mkdir()
        if content is not None:
            (tmp_path / name / "items.parquet").write_bytes(content)
    for name, reason in {
        "in": "is none that a run prepared",
        "no split": "is none that a run prepared",
        "numbers": "is none that a run prepared",
        "damaged": "is damaged",
        "empty": "holds no items.parquet",
        "nowhere": "holds no items.parquet",
    }.items():
        with pytest.raises(
            DataError, match=rf"config\.data\.previous='.*{name}': .*{reason}.*; name the `data` folder"
        ):
            prepare(source, tmp_path / "out", DataConfig(previous=str(tmp_path / name)))
    assert not (tmp_path / "out").exists()
