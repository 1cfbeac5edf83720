"""Pair tables in pieces: whatever the cut of files, chunks and ranges of items, the same rows come out."""

import dataclasses
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.data.preparation import pair_tables, spill
from distill.data.preparation.catalogue import BAD, UNKNOWN, Catalogue, Lookup, keyphrase_lookup
from distill.data.preparation.pair_rows import merge_rows, partition, row_schema
from distill.data.preparation.prepare import prepare
from distill.data.preparation.spill import Spill
from distill.data.schema import TABLES
from distill.data.table_writer import TableWriter
from distill.data.tables import Prepared, read
from tests.data.preparation.test_prepare import LENIENT, check_invariant, marketplace, pairs_of, quarantined, run, save

ROOT = Path(__file__).parents[3]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def events(item: str, keyphrase: str, *, shown: dict | None = None, clicked: dict | None = None) -> list[dict]:
    """Rows of a log: rank → how many impressions and clicks stood there."""
    rows = []
    for event, counts in (("impression", shown or {}), ("click", clicked or {})):
        for rank, count in counts.items():
            rows += [{"item_id": item, "keyphrase": keyphrase, "event": event, "position": rank}] * count
    return rows


def clicks_of(prepared: Prepared) -> dict[tuple[str, str], tuple]:
    table = prepared.training("clicks")
    values = zip(table["impressions"], table["clicks"], table["position"])
    return dict(zip(pairs_of(prepared, table), [tuple(map(float, row)) for row in values]))


def test_events_by_hand(tmp_path):
    tables = marketplace()
    del tables["clicks"]
    tables["events"] = [
        *events("i0", "blue hat", shown={1: 3, 4: 1}, clicked={1: 1}),
        *events("i0", "old lamp", shown={None: 2}, clicked={None: 1}),
        *events("i1", "old lamp", shown={2: 1}, clicked={2: 3}),  # two clicks have no impression
        *events("i1", "blue hat", clicked={3: 1}),
        *events("i4", "blue hat", shown={1: 1}),  # held out
        *events("i0", "red boot", shown={1: 2}),  # a human query
        {"item_id": "i0", "keyphrase": "blue hat", "event": "view", "position": 1},
        {"item_id": "i0", "keyphrase": "blue hat", "event": "click", "position": 1.5},
        {"item_id": "i0", "keyphrase": "blue hat", "event": None, "position": 1},
    ]
    summary, prepared = run(tmp_path, tables)
    assert clicks_of(prepared) == {
        ("i0", "blue hat"): (4, 1, 1.75),  # (3 · 1 + 1 · 4) / 4
        ("i0", "old lamp"): (2, 1, pytest.approx(np.nan, nan_ok=True)),
        ("i1", "blue hat"): (1, 1, 3),
        ("i1", "old lamp"): (3, 3, 2),
    }
    counts = summary.tables["events"]
    assert (counts.rows, counts.kept, counts.training, counts.holdout) == (19, 5, 4, 1)
    assert (counts.removed, counts.quarantined, counts.merged) == (1, 3, 10)
    assert summary.unseen_clicks == 3 and "clicks" not in summary.left_out and "clicks" not in summary.tables
    assert [bad["reason"] for bad in quarantined(tmp_path)] == [
        "event: not one of impression, click",
        "position: not a whole number",
        "event: empty, and so is clicked",
    ]
    assert "events: 3 clicks have no impression" in "\n".join(summary.lines())


def test_impressions_with_a_flag_are_events_too(tmp_path):
    tables = marketplace()
    del tables["clicks"]
    pair = {"item_id": "i0", "keyphrase": "Blue  Hat"}
    tables["events"] = [pair | {"clicked": clicked} for clicked in (0, 1, True, "false", 0)]
    tables["events"] += [pair | {"clicked": None}, pair | {"clicked": 2}]
    summary, prepared = run(tmp_path, tables)
    assert list(clicks_of(prepared).values()) == [(5, 2, pytest.approx(np.nan, nan_ok=True))]
    assert summary.tables["events"].quarantined == 2 and summary.unseen_clicks == 0


def test_events_and_clicks_of_one_pair_meet(tmp_path):
    tables = marketplace()
    pair = {"item_id": "i0", "keyphrase": "blue hat"}
    tables["clicks"] = [pair | {"impressions": 4, "clicks": 1, "position": 2.5}] * 2
    tables["events"] = events(**{"item": "i0"}, keyphrase="blue hat", shown={1: 2}, clicked={1: 1})
    tables["events"] += events("i1", "blue hat", shown={1: 1})
    summary, prepared = run(tmp_path, tables)
    assert clicks_of(prepared) == {("i0", "blue hat"): (10, 3, 2.2), ("i1", "blue hat"): (1, 0, 1)}
    clicks, log = summary.tables["clicks"], summary.tables["events"]
    assert (clicks.kept, clicks.merged, log.kept, log.merged) == (1, 1, 1, 3)


def many(rows: int, seed: int = 0) -> dict[str, list[dict]]:
    rng = np.random.default_rng(seed)
    items, keyphrases = 60, 30
    tables = {
        "items": [{"item_id": f"i{row}", "title": f"thing{row} a{row}"} for row in range(items)],
        "keyphrases": [{"keyphrase": f"word{row} b{row}"} for row in range(keyphrases)],
        "human": [{"item_id": "i0", "keyphrase": "word0 b0", "gain": 1, "split": "test"}],
    }

    def pairs() -> list[dict]:
        return [
            {"item_id": f"i{item}", "keyphrase": f"word{keyphrase} b{keyphrase}"}
            for item, keyphrase in zip(rng.integers(items, size=rows), rng.integers(keyphrases, size=rows))
        ]

    tables["clicks"] = [
        pair | {"impressions": int(n) + 1, "clicks": int(n) // 3, "position": float(p)}
        for pair, n, p in zip(pairs(), rng.integers(9, size=rows), rng.uniform(1, 9, size=rows))
    ]
    tables["events"] = [
        pair | {"clicked": int(c), "position": 3} for pair, c in zip(pairs(), rng.integers(2, size=rows))
    ]
    tables["judgements"] = [
        pair | {"grade": int(g), "judge": f"judge{g}", "rubric": "v"}
        for pair, g in zip(pairs(), rng.integers(3, size=rows))
    ]
    return tables


def test_the_number_of_ranges_and_of_chunks_makes_no_difference(tmp_path, monkeypatch):
    source = save(tmp_path / "in", many(3000), "tsv")
    prepare(source, tmp_path / "whole", LENIENT)
    whole = files(tmp_path / "whole")
    monkeypatch.setattr(spill, "_WAITING_BYTES", 20_000)
    monkeypatch.setattr("distill.data.preparation.readers._BLOCK_BYTES", 5000)
    for ranges in (1, 3, 50):
        monkeypatch.setattr(pair_tables, "_ranges", lambda task, ranges=ranges: ranges)
        check_invariant(prepare(source, tmp_path / str(ranges), LENIENT))
        assert files(tmp_path / str(ranges)) == whole


ROWS = st.lists(
    st.tuples(
        st.integers(0, 3), st.integers(0, 2), st.integers(0, 9), st.integers(0, 9), st.floats(1, 9), st.booleans()
    ),
    max_size=30,
)


@settings(deadline=None)
@given(rows=ROWS, seed=st.integers(0, 99))
def test_merging_does_not_depend_on_the_order_of_arrival(rows, seed):
    target = TABLES["clicks"]
    table = pa.Table.from_pylist(
        [
            {
                "item": item,
                "keyphrase": keyphrase,
                "impressions": shown,
                "clicks": min(shown, clicks) if not event else clicks,
                "position": round(position) if event else position,
                "file": int(event),
                "line": 0 if event else line,
                "events": int(event),
            }
            for line, (item, keyphrase, shown, clicks, position, event) in enumerate(rows)
        ],
        schema=row_schema(target),
    )
    holdout, trainable = np.array([False, True, False, False]), np.array([True, True, False])
    order = np.random.default_rng(seed).permutation(len(rows))
    one, other = (merge_rows(target, part, holdout, trainable) for part in (table, table.take(pa.array(order))))
    assert one.training.equals(other.training) and one.holdout.equals(other.holdout) and one.counts == other.counts
    stood = {name: sum(row[5] == (name == "events") for row in rows) for name in ("clicks", "events")}
    for name, counts in one.counts.items():
        assert counts.kept + counts.merged + counts.removed == stood[name]
    total = sum(float(part["clicks"].to_numpy().sum()) for part in (one.training, one.holdout))
    kept = [row for row in rows if row[0] == 1 or row[1] != 2]
    assert total == sum(row[3] if row[5] else min(row[2], row[3]) for row in kept)
    for part in (one.training, one.holdout):
        assert (part["clicks"].to_numpy() <= part["impressions"].to_numpy()).all()


def test_of_repetitions_the_last_file_and_line_counts(tmp_path):
    tables = marketplace()
    row = {"item_id": "i0", "keyphrase": "blue hat", "score": 0.0, "passed": 1}
    del tables["search_relevance"]
    (tmp_path / "logs").mkdir()
    for name, scores in {"b": (1, 2), "a": (3, 4), "c": (5, 6)}.items():
        lines = "".join(json.dumps(row | {"score": score}) + "\n" for score in scores)
        (tmp_path / "logs" / f"{name}.jsonl").write_text(lines)
    config = dataclasses.replace(LENIENT)
    config.sources = dataclasses.replace(config.sources)
    config.sources.search_relevance = type(config.sources.clicks)(files=(str(tmp_path / "logs/*.jsonl"),))
    prepare(save(tmp_path / "in", tables), tmp_path / "out", config)
    assert Prepared(tmp_path / "out").training("search_relevance")["score"].tolist() == [6.0]


def test_a_spill_gives_back_what_it_took_range_by_range(tmp_path, monkeypatch):
    monkeypatch.setattr(spill, "_WAITING_BYTES", 500)
    schema = pa.schema([("item", pa.int32()), ("text", pa.string())])
    rows = [(int(item), f"é{row}") for row, item in enumerate(np.random.default_rng(0).integers(10, size=300))]
    held = Spill(tmp_path / "spill", schema, items=10, partitions=4)
    for start in range(0, 300, 7):
        part = rows[start : start + 7]
        held.add(pa.table([[item for item, _ in part], [text for _, text in part]], schema=schema))
    assert len(list((tmp_path / "spill").iterdir())) == 4
    ranges = [list(zip(*part.to_pydict().values())) for part in held.ranges()]
    assert sorted(row for part in ranges for row in part) == sorted(rows)
    assert [sorted({item for item, _ in part}) for part in ranges] == [[0, 1, 2], [3, 4], [5, 6, 7], [8, 9]]
    assert not (tmp_path / "spill").exists()
    assert partition(np.arange(10), 10, 4).tolist() == [0, 0, 0, 1, 1, 2, 2, 2, 3, 3]


def test_a_table_writer_writes_whole_files_of_equal_bytes_or_none(tmp_path, monkeypatch):
    monkeypatch.setattr("distill.data.table_writer._ROW_GROUP", 10)
    table = pa.table({"a": list(range(37))})
    for size in (1, 7, 10, 40):
        with TableWriter(tmp_path / f"{size}.parquet", table.schema) as file:
            for start in range(0, 37, size):
                file.write(table.slice(start, size))
    assert len({(tmp_path / f"{size}.parquet").read_bytes() for size in (1, 7, 10, 40)}) == 1
    assert pq.ParquetFile(tmp_path / "1.parquet").num_row_groups == 4
    with pytest.raises(ZeroDivisionError), TableWriter(tmp_path / "none.parquet", table.schema) as file:
        file.write(table)
        raise ZeroDivisionError
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.parquet", "10.parquet", "40.parquet", "7.parquet"]


def test_a_table_may_be_a_folder_of_parts(tmp_path):
    _, prepared = run(tmp_path, marketplace())
    expected = {name: column.tolist() for name, column in prepared.training("judgements").items()}
    path = tmp_path / "out" / "judgements.parquet"
    table = read(path)
    path.unlink()
    path.mkdir()
    for number, start in enumerate((0, 4)):
        pq.write_table(table.slice(start, 4), path / f"part-{number:05d}-of-00002.parquet")
    again = Prepared(tmp_path / "out").training("judgements")
    assert {name: column.tolist() for name, column in again.items()} == expected
    run(tmp_path, marketplace())
    assert path.is_file()


def test_a_catalogue_finds_ids_however_they_are_written_and_survives_files(tmp_path):
    catalogue = Catalogue(
        Lookup(pa.array(["a", "B"]), pa.array(["bad"])),
        keyphrase_lookup(pa.array(["red boots", "straße"]), pa.array(["lost"])),
        np.array([True, False]),
        np.array([False, True]),
    )
    catalogue.save(tmp_path / "catalogue")
    for one in (catalogue, Catalogue.load(tmp_path / "catalogue")):
        assert one.items.find(pa.array(["B", "b", "bad", "a", "B"])).tolist() == [1, UNKNOWN, BAD, 0, 1]
        texts = pa.array([" Red  BOOTS", "red boots", "STRASSE", "Lost", "", "new"])
        for _ in range(2):
            found = one.keyphrases.find(texts).tolist()
            assert found == [0, 0, one.keyphrases.find(pa.array(["strasse"]))[0], BAD, UNKNOWN, UNKNOWN]
        assert one.items.find(pa.array([], pa.string())).tolist() == []
        assert one.holdout.tolist() == [True, False] and one.trainable.tolist() == [False, True]


CHILD = """
import sys
from pathlib import Path
from distill.config import DataConfig
from distill.data.preparation import pair_tables, spill
from distill.data.preparation.prepare import prepare
spill._WAITING_BYTES = 100_000
pair_tables._RANGE_BYTES = 100_000
prepare(Path(sys.argv[1]), Path(sys.argv[2]), DataConfig(max_bad_share=1.0))
"""


@pytest.mark.parametrize("mark", [".spill/clicks", "clicks.parquet"])
def test_a_killed_preparation_ends_in_the_same_files(tmp_path, mark):
    tables = many(4000)
    source = save(tmp_path / "in", {name: rows for name, rows in tables.items() if name != "clicks"}, "tsv")
    clicks = save(tmp_path / "clicks", {"clicks": tables["clicks"]}, "tsv") / "clicks.tsv"
    header, *lines = clicks.read_text().splitlines(keepends=True)
    (source / "clicks.tsv").write_text(header + "".join(lines) * 20)
    prepare(source, tmp_path / "whole", LENIENT)
    out = tmp_path / "out"
    mark = out / mark
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(source), str(out)], cwd=ROOT)
    while not mark.exists() and child.poll() is None:
        time.sleep(0.002)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert not (out / "summary.json").exists()
    prepare(source, out, LENIENT)
    assert files(out) == files(tmp_path / "whole")


@pytest.mark.parametrize(("limit", "place"), [(3_000, "out/items.parquet"), (20_000, "out/.spill/clicks/")])
def test_a_full_disk_is_told_with_the_file_and_leaves_no_half_table(tmp_path, monkeypatch, limit, place):
    """A limit on the size of a file stands in for it."""
    monkeypatch.setattr(spill, "_WAITING_BYTES", 100_000)
    tables = many(200)
    source = save(tmp_path / "in", {name: rows for name, rows in tables.items() if name != "clicks"}, "tsv")
    source = save(source, {"clicks": tables["clicks"] * 100}, "tsv")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(OSError, match=f"File too large.*{place}"):
            prepare(source, tmp_path / "out", LENIENT)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list((tmp_path / "out").rglob(".*.tmp")) and not (tmp_path / "out" / "clicks.parquet").exists()
    for name in ("out", "whole"):
        prepare(source, tmp_path / name, LENIENT)
    assert files(tmp_path / "out") == files(tmp_path / "whole")
