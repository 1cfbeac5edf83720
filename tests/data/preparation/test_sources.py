"""Tables that lie elsewhere: globs, folders, object stores, columns with other names."""

import dataclasses
import gzip
import json
import uuid
from pathlib import Path

import fsspec
import pyarrow.parquet as pq
import pytest

from distill.config import ConfigError, DataConfig, Experiment, SourceConfig, SourcesConfig
from distill.data.preparation.prepare import prepare
from distill.data.preparation.sources import data_file, find_sources
from distill.data.schema import DataError
from distill.data.tables import Prepared
from tests.data.preparation.test_prepare import LENIENT, check_invariant, marketplace, quarantined, save
from tests.data.preparation.test_readers import encode, write


@pytest.fixture
def store() -> str:
    """A folder of the in-memory file system, which stands in for an object store."""
    folder = f"memory://{uuid.uuid4().hex}"
    fsspec.filesystem("memory").makedirs(folder)
    yield folder
    fsspec.filesystem("memory").rm(folder, recursive=True)


def given(**tables: SourceConfig) -> DataConfig:
    return dataclasses.replace(LENIENT, sources=SourcesConfig(**tables))


def shards(place: str, rows: list[dict], kind: str, count: int = 3) -> None:
    """Writes the rows in files of one table; the last one lies in a folder below."""
    size = -(-len(rows) // count)
    for number in range(count):
        name = f"{place}/{'z/' if number == count - 1 else ''}part-{number}.{kind}"
        content = encode(rows[number * size : (number + 1) * size], kind.removesuffix(".gz"))
        with fsspec.open(name, "wb", auto_mkdir=True) as file:
            file.write(gzip.compress(content) if kind.endswith(".gz") else content)


def tables_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.parquet"))}


@pytest.mark.parametrize("kind", ["parquet", "csv.gz", "tsv", "jsonl"])
def test_shards_in_a_store_give_what_one_directory_gives(tmp_path, store, kind):
    tables = marketplace()
    prepare(save(tmp_path / "in", tables), tmp_path / "one", LENIENT)
    sources = {}
    for name in ("clicks", "judgements", "items"):
        shards(f"{store}/{name}", tables.pop(name), kind)
    sources["clicks"] = SourceConfig(files=(f"{store}/clicks/*.{kind}", f"{store}/clicks/*/*.{kind}"))
    sources["judgements"] = SourceConfig(files=(f"{store}/judgements",))
    sources["items"] = SourceConfig(files=(f"{store}/items/**/part-*",))
    if kind == "parquet":  # a column without a value has no type there
        tables["blocklist"] = marketplace()["blocklist"]
    summary = prepare(save(tmp_path / "rest", tables), tmp_path / "two", given(**sources))
    check_invariant(summary)
    assert tables_below(tmp_path / "one") == tables_below(tmp_path / "two")
    assert summary.tables["clicks"].file.endswith(f"/clicks/part-0.{kind} and 2 more")


def test_no_directory_is_needed(tmp_path):
    tables = {name: rows for name, rows in marketplace().items() if name in ("items", "keyphrases", "clicks")}
    source = save(tmp_path / "in", tables)
    config = given(**{name: SourceConfig(files=(str(source / f"{name}.*"),)) for name in tables})
    summary = prepare(None, tmp_path / "out", config)
    assert summary.tables["clicks"].kept == 15 and not config.embedded and DataConfig().embedded
    assert Experiment(data=config).validate()


def test_your_own_column_names(tmp_path):
    tables = marketplace()
    tables["items"] = [
        {"sku": row["item_id"], "name": row["title"], "title": "not this one", "split": "odd"}
        for row in tables["items"]
    ]
    for row in tables["clicks"]:
        row["views"] = row.pop("impressions")
    names = {"items": ("item_id=sku", "title=name", "split="), "clicks": ("impressions=views",)}
    config = given(**{name: SourceConfig(columns=columns) for name, columns in names.items()})
    prepared = []
    for kind in ("jsonl", "tsv", "csv", "parquet"):
        summary = prepare(save(tmp_path / kind, tables, kind), tmp_path / f"out-{kind}", config)
        assert not any(table.quarantined for table in summary.tables.values())
        assert any("are ignored: split (not mapped), title (not mapped)" in notice for notice in summary.notices)
        prepared.append(tables_below(tmp_path / f"out-{kind}"))
    assert Prepared(tmp_path / "out-tsv").titles[0] == "thing0 of colour0"
    assert all(found == prepared[0] for found in prepared)
    config.sources.items.columns = ("item_id=sku", "title=nam")
    with pytest.raises(
        DataError, match=r"no column 'nam', which config\.data\.sources\.items\.columns takes for 'title'"
    ):
        prepare(tmp_path / "tsv", tmp_path / "out", config)


def test_bad_rows_of_shards_are_found_again(tmp_path):
    tables = marketplace()
    rows = tables.pop("clicks")
    rows[6]["clicks"] = 99
    rows[14]["clicks"] = -1
    shards(str(tmp_path / "logs"), rows, "tsv")
    config = given(clicks=SourceConfig(files=(str(tmp_path / "logs" / "**" / "*.tsv"),)))
    source = save(tmp_path / "in", tables)
    prepare(source, tmp_path / "out", config)
    logs = f"{tmp_path}/logs"
    assert [(bad["file"], bad["line"], bad["reason"]) for bad in quarantined(tmp_path)] == [
        (f"{logs}/part-1.tsv", 3, "clicks > impressions"),
        (f"{logs}/z/part-2.tsv", 6, "clicks: negative"),
    ]
    config.max_bad_share = 0.1
    with pytest.raises(DataError, match=r"part-0.tsv and 2 more files: 2 of 15 .*part-1.tsv:3\)"):
        prepare(source, tmp_path / "out", config)


def test_what_cannot_be_found(tmp_path, store):
    source = save(tmp_path / "in", marketplace())
    (tmp_path / "logs.dat").write_text("keyphrase\na\n")
    for config, message in (
        (given(clicks=SourceConfig(files=("/nowhere/*.tsv",))), r"clicks.files=.*is given twice|given twice"),
        (given(events=SourceConfig(files=("/nowhere/*.tsv",))), r"config\.data\.sources\.events\.files: '/nowhere/\*"),
        (given(events=SourceConfig(files=(f"{store}/x.tsv",))), "matches no file"),
        (given(events=SourceConfig(files=("nosuch://x/y.tsv",))), "nosuch://x/y.tsv: cannot be reached"),
        (given(events=SourceConfig(files=(str(tmp_path / "logs.dat"),))), r"set config\.data\.sources\.events\.format"),
    ):
        with pytest.raises(DataError, match=message):
            prepare(source, tmp_path / "out", config)
    (source / "keyphrases.jsonl").unlink()
    with pytest.raises(DataError, match="table 'keyphrases' is missing"):
        prepare(source, tmp_path / "out", LENIENT)
    config = given(keyphrases=SourceConfig(files=(str(tmp_path / "logs.dat"),), format="tsv"))
    assert prepare(source, tmp_path / "out", config).tables["keyphrases"].kept == 1


def test_the_hash_follows_contents_and_not_places(tmp_path, store):
    def content_hash(pattern: str) -> str:
        found = find_sources(source, SourcesConfig(clicks=SourceConfig(files=(pattern,))))
        return found.content_hash()

    tables = marketplace()
    rows = tables.pop("clicks")
    source = save(tmp_path / "in", tables)
    for place in (str(tmp_path / "a"), str(tmp_path / "b"), f"{store}/a"):
        shards(place, rows, "tsv")
    first = content_hash(f"{tmp_path}/a/**/*.tsv")
    shards(str(tmp_path / "c"), rows, "csv")
    for path in (tmp_path / "a").rglob("*.tsv"):  # the same bytes, to be read in another way
        (tmp_path / "c" / path.relative_to(tmp_path / "a")).with_suffix(".csv").write_bytes(path.read_bytes())
    assert content_hash(f"{tmp_path}/c/**/*.csv") != first
    assert content_hash(f"{tmp_path}/b/**/*.tsv") == first
    there = content_hash(f"{store}/a/**/*.tsv")
    assert content_hash(f"{store}/a/**/*.tsv") == there
    rows[0]["clicks"] = 7
    for place in (str(tmp_path / "b"), f"{store}/a"):
        shards(place, rows, "tsv")
    assert content_hash(f"{tmp_path}/b/**/*.tsv") != first and content_hash(f"{store}/a/**/*.tsv") != there


def test_formats_by_suffix(tmp_path):
    for name, found in {
        "a.snappy.parquet": ("parquet", False),
        "a.ndjson.gz": ("jsonl", True),
        "s3://bucket/x.CSV": ("csv", False),
        "part-1.tsv.gzip": ("tsv", True),
    }.items():
        file = data_file(name)
        assert (file.format, file.zipped) == found
    assert data_file("file:///data/a.tsv").is_local and not data_file("gs://b/a.tsv").is_local


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"columns": ("postion=rank",)}, r"events\.columns=.*has no column 'postion'\. Name one of item_id, keyphrase"),
        ({"columns": ("position=rank",)}, r"events\.columns=.*there is no such table in .*in\. Set .*events\.files"),
        ({"format": "csv"}, r"events\.format='csv': is for files that config\.data\.sources\.events\.files names"),
    ],
)
def test_settings_that_would_do_nothing_are_errors(tmp_path, settings, message):
    with pytest.raises(DataError, match=rf"config\.data\.sources\.{message}"):
        find_sources(save(tmp_path / "in", marketplace()), given(events=SourceConfig(**settings)).sources)


def test_what_bears_the_name_of_a_table_and_is_not_read_is_told(tmp_path):
    tables = {name: rows for name, rows in marketplace().items() if name in ("items", "keyphrases")}
    source = save(tmp_path / "in", tables)
    for name in ("clicks.tsv.bz2", "Events.TSV", "judgements.json"):
        write(source, name, b"")
    (source / "recommendations.parquet").mkdir()  # as Spark writes a table
    notices = prepare(source, tmp_path / "out", LENIENT).notices
    for name in ("Events.TSV", "clicks.tsv.bz2", "judgements.json", "recommendations.parquet"):
        (notice,) = [notice for notice in notices if notice.startswith(f"{name} is ignored")]
        assert f"data.sources.{name.split('.')[0].lower()}.files" in notice
    (source / "clicks.tsv").symlink_to(tmp_path / "nowhere.tsv")
    with pytest.raises(DataError, match=r"in/clicks\.tsv: is a link to .*nowhere\.tsv, where there is nothing"):
        prepare(source, tmp_path / "out", LENIENT)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"files": ("",)}, r"sources\.clicks\.files=\('',\): holds an empty name"),
        ({"format": "xml"}, r"sources\.clicks\.format='xml'"),
        ({"columns": ("clicks",)}, "must be written contract_name=your_name"),
        ({"columns": ("clicks=a", "clicks=b")}, "'clicks' is given twice"),
        ({"columns": ("clicks=a", "impressions=a")}, "'a' stands for two columns"),
    ],
)
def test_settings_are_checked(change, message):
    experiment = Experiment()
    experiment.data.dir, experiment.judge.backend = "data", "replay"
    experiment.data.sources.clicks = SourceConfig(**{"files": ("a.tsv",)} | change)
    with pytest.raises(ConfigError, match=message):
        experiment.validate()


def test_a_line_without_end_costs_one_row_and_no_memory(tmp_path):
    """A line of 30 MB, and one of as much before the last line end, in every text format."""
    tables = marketplace()
    long = b"x" * (30 << 20)
    for kind, field in (
        ("tsv", b"a" + long),
        ("csv", b'"' + long + b'"'),
        ("jsonl", b'{"keyphrase": "' + long + b'"}'),
    ):
        rows = [json.dumps({"keyphrase": text}).encode() for text in ("b", "c", "d")]
        lines = (
            [b"keyphrase", b"b", field, b"c", field, b"d"] if kind != "jsonl" else [*rows[:1], field, *rows[1:], field]
        )
        source = save(tmp_path / f"in-{kind}", {"items": tables["items"]})
        write(source, f"keyphrases.{kind}", b"\n".join(lines))
        summary = prepare(source, tmp_path / "out", LENIENT)
        check_invariant(summary)
        assert summary.tables["keyphrases"].reasons == {"a line of more than 4,194,304 bytes": 2}
        assert Prepared(tmp_path / "out").keyphrases == ["b", "c", "d"]
        bad = quarantined(tmp_path)
        assert [row["line"] for row in bad] == ([3, 5] if kind != "jsonl" else [2, 5])
        assert all(len(row["raw"]) == 2000 for row in bad)


EVENTS = ("View", "view", "hit", "purchase", "", "shown")
VALUES = ("event:view=impression", "event:HIT=click", "event:purchase=")


@pytest.mark.parametrize("kind", ["parquet", "tsv.gz", "jsonl"])
def test_values_of_other_names_are_told_and_what_does_not_matter_is_left_out_and_counted(tmp_path, kind):
    tables = marketplace()
    before = tables["clicks"][2]
    item, keyphrase = before["item_id"], before["keyphrase"]
    events = [{"item_id": item, "keyphrase": keyphrase, "event": name} for name in EVENTS]
    shards(f"{tmp_path}/logs", events, kind, count=1)
    source = SourceConfig(files=(f"{tmp_path}/logs",), values=VALUES)
    config = dataclasses.replace(given(events=source), max_bad_share=0.5)
    summary = prepare(save(tmp_path / "in", tables), tmp_path / "out", config)
    found = summary.tables["events"]
    assert (found.rows, found.quarantined) == (6, 3)
    reasons = [row["reason"] for row in quarantined(tmp_path) if "logs" in row["file"]]
    assert sorted(reasons) == [
        "event: empty, and so is clicked",
        "event: not one of impression, click",
        "left out, as data.sources says",
    ]
    table = pq.read_table(tmp_path / "out" / "clicks.parquet").to_pylist()
    (row,) = [row for row in table if (row["item_id"], row["keyphrase"]) == (item, keyphrase)]
    assert (row["impressions"], row["clicks"]) == (before["impressions"] + 2, before["clicks"] + 1)
    strict = dataclasses.replace(config, max_bad_share=0.39)  # two of the five rows that matter
    with pytest.raises(DataError, match=r"2 of 5 rows are bad \(40\.0%\)"):
        prepare(tmp_path / "in", tmp_path / "other", strict)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("kind:view=click",), "has no column 'kind' of named values. Name one of event"),
        (("position:1=2",), "has no column 'position' of named values"),
        (("event:view=shown",), "'event' cannot be 'shown'. Name one of impression, click, or nothing"),
    ],
)
def test_values_that_a_column_cannot_have_are_named(tmp_path, values, message):
    shards(f"{tmp_path}/logs", [{"item_id": "1", "keyphrase": "a", "event": "view"}], "tsv", count=1)
    source = SourceConfig(files=(f"{tmp_path}/logs",), values=values)
    with pytest.raises(DataError) as failure:
        find_sources(save(tmp_path / "in", marketplace()), given(events=source).sources)
    assert message in str(failure.value)


@pytest.mark.parametrize("values", [("view=click",), ("event:view",), ("event:=click",), ("event:a=click", "event:A=")])
def test_values_that_cannot_be_read_are_named(values):
    experiment = Experiment()
    experiment.data.sources.events = SourceConfig(files=("a.tsv",), values=values)
    with pytest.raises(ConfigError, match=r"config\.data\.sources\.events\.values"):
        experiment.validate()
