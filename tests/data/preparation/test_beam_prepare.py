"""The Beam pipeline against preparation in this process: the same tables, quarantine and summary."""

import dataclasses
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distill.config import DataConfig, MarketplaceConfig, SourceConfig, SourcesConfig
from distill.data.marketplace import write_marketplace
from distill.data.preparation.prepare import Summary, prepare
from distill.data.schema import DataError
from distill.data.tables import SPLIT, Prepared
from tests.data.preparation.damage import Damaged, write_damaged
from tests.data.preparation.test_prepare import check_invariant
from tests.data.preparation.test_readers import encode, write

beam_prepare = pytest.importorskip("distill.data.preparation.beam_prepare", reason="apache-beam is not installed")

RUNNER = ("--runner=FnApiRunner",)  # what DirectRunner falls back to: that one downloads a program first
LENIENT = DataConfig(max_bad_share=0.2)
MARKETPLACE = MarketplaceConfig(items=80, keyphrases=100, searches=5000, human_queries=10)


def tables(folder: Path) -> dict[str, Path]:
    """Name → file or directory of every prepared table."""
    found = [*folder.glob("*.parquet"), *folder.glob("*/*.parquet")]
    return {path.relative_to(folder).as_posix(): path for path in found if path.parent.suffix != ".parquet"}


def assert_equal(one: Path, other: Path) -> None:
    """Row-identical tables, the same bytes of everything else."""
    ours, theirs = tables(one), tables(other)
    assert ours.keys() == theirs.keys()
    for name, path in ours.items():
        left, right = pq.read_table(path), pq.read_table(theirs[name])
        assert left.schema.equals(right.schema), name
        assert left.equals(right), name
    others = [
        {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".parquet" and path.is_file()}
        for folder in (one, other)
    ]
    assert others[0] == others[1]
    assert others[0].keys() >= {"quarantine.jsonl", "summary.json"}


def both(source: Path | None, work: Path, config: DataConfig, options: tuple[str, ...] = RUNNER) -> Summary:
    """Prepares both ways and compares; the summary is Beam's."""
    expected = prepare(source, work / "here", config)
    found = beam_prepare.prepare_with_beam(source, work / "beam", config, options)
    assert found == expected
    check_invariant(found)
    assert_equal(work / "beam", work / "here")
    assert not list((work / "beam").glob(".*"))  # the pipeline's own folder is gone
    return found


def sources(written: Damaged) -> SourcesConfig:
    return SourcesConfig(**{name: SourceConfig(tuple(map(str, paths))) for name, paths in written.files.items()})


@pytest.mark.parametrize(
    ("format_name", "shards", "zipped"),
    [("csv", 3, True), ("parquet", 2, False)],  # the other formats are in the tests below
)
def test_a_damaged_directory(tmp_path, monkeypatch, format_name, shards, zipped):
    """5 % damaged rows: each is found, for the reason that it was damaged, at its file and line."""
    monkeypatch.setattr(beam_prepare, "_PARTITION_BYTES", 20_000)
    written = write_damaged(tmp_path / "in", format_name, rows=600, shards=shards, zipped=zipped)
    assert len(set(written.kinds.values())) >= 12
    config = dataclasses.replace(LENIENT, sources=sources(written))
    summary = both(None, tmp_path, config)
    written.check(tmp_path / "beam" / "quarantine.jsonl")
    for name, table in summary.tables.items():
        assert table.rows == written.rows[name]
        assert table.quarantined == written.counts(name).total()
    parts = sorted(path.name for path in (tmp_path / "beam" / "clicks.parquet").iterdir())
    assert len(parts) > 1 and parts[0] == f"part-00000-of-{len(parts):05}.parquet"
    prepared = Prepared(tmp_path / "beam")
    for name in SPLIT:
        trained = sum(summary.tables[of].training for of in ((name, "events") if name == "clicks" else (name,)))
        assert len(prepared.training(name)["item"]) == trained > 0


@pytest.mark.parametrize("logs", [{}, {"clicks": [], "judgements": 1, "recommendations": []}])
def test_no_logs_empty_ones_and_a_single_row(tmp_path, logs):
    pair = {"item_id": "i", "keyphrase": "a b"}
    write(tmp_path, "items.jsonl", encode([{"item_id": "i", "title": "One"}], "jsonl"))
    write(tmp_path, "keyphrases.jsonl", encode([{"keyphrase": "a b"}], "jsonl"))
    for name, rows in logs.items():
        content = encode([pair | {"grade": 3, "judge": "j", "rubric": "r"}], "jsonl") if rows else b""
        write(tmp_path, f"{name}.jsonl", content)
    summary = both(tmp_path, tmp_path / "out", DataConfig(holdout_share=0.0))
    assert summary.tables.keys() == {"items", "keyphrases", *logs}
    assert not logs or summary.tables["judgements"].training == 1


def test_the_embedded_marketplace(tmp_path, monkeypatch):
    monkeypatch.setattr(beam_prepare, "_PARTITION_BYTES", 20_000)
    write_marketplace(tmp_path / "in", MARKETPLACE, 0)
    summary = both(tmp_path / "in", tmp_path, DataConfig())
    assert summary.tables["clicks"].training > 100


def test_odd_rows_and_odd_files(tmp_path, monkeypatch):
    """Shards of all formats and columns, empty ones, rows that repeat across them, strange ranks and counts."""
    monkeypatch.setattr(beam_prepare, "_PARTITION_BYTES", 100)
    pairs = [{"item_id": str(item), "keyphrase": text} for item in range(8) for text in ("a b", "C  D", "e f")]
    write(tmp_path, "items.jsonl", encode([{"item_id": n, "title": f"t{n} u{n}"} for n in range(8)], "jsonl"))
    write(tmp_path, "keyphrases.tsv", b"keyphrase\na b\nc d\ne f\n")
    ranks, shown = (0, 1, 2.0, "1e15", 1.5, -1, None), (9, 2**53, 2**63, -1)
    rows = {
        "events": [
            pair | {"event": "impression" if n % 5 else "click", "position": ranks[n % 7]}
            for n, pair in enumerate(pairs * 4)
        ],
        "clicks": [
            pair | {"impressions": shown[n % 4], "clicks": n % 3, "position": n % 4 if n % 9 else 1e300}
            for n, pair in enumerate(pairs * 3)
        ],
        "search_relevance": [pair | {"score": n, "passed": n % 2 == 0} for n, pair in enumerate(pairs * 3)],
    }
    given = {}
    for name, table in rows.items():
        folder = tmp_path / name
        folder.mkdir()
        third = len(table) // 3
        text = [{column: str(value) for column, value in row.items() if value is not None} for row in table]
        pq.write_table(pa.Table.from_pylist(text[:third]).append_column("more", pa.nulls(third)), folder / "1.parquet")
        write(folder, "2.jsonl.gz", encode(table[third : 2 * third], "jsonl"))
        full = [dict.fromkeys(table[0], "") | row for row in text[2 * third :]]
        write(folder, "3.csv", encode([{column: row[column] for column in reversed(list(row))} for row in full], "csv"))
        write(folder, "4.jsonl", b"")
        write(folder, "5.tsv", encode(full[:1], "tsv").split(b"\n")[0])
        given[name] = SourceConfig((str(folder), f"{folder}/3.csv"))
    summary = both(tmp_path, tmp_path / "out", DataConfig(max_bad_share=1.0, sources=SourcesConfig(**given)))
    assert summary.tables["events"].rows == 96 and summary.tables["search_relevance"].merged == 48
    reasons = summary.tables["clicks"].reasons
    assert (reasons["impressions: 2^53 or more"], reasons["impressions: negative"]) == (36, 18)


@pytest.mark.slow
def test_workers_that_are_processes(tmp_path):
    """Nothing reaches a worker but through pickles and files."""
    write_marketplace(tmp_path / "in", MARKETPLACE, 0)
    options = (*RUNNER, "--direct_running_mode=multi_processing", "--direct_num_workers=2")
    both(tmp_path / "in", tmp_path, DataConfig(), options)


def test_an_object_store_between_launcher_and_workers(tmp_path):
    import fsspec

    written = write_damaged(tmp_path / "in", "jsonl", rows=100)
    both(tmp_path / "in", tmp_path, LENIENT, (*RUNNER, "--temp_location=memory://store/scratch"))
    assert written.rows and not fsspec.filesystem("memory").find("/store/scratch")


def error_of(run) -> str:
    with pytest.raises(DataError) as error:
        run()
    return str(error.value)


def test_errors_are_those_of_the_in_process_path(tmp_path):
    source = tmp_path / "in"
    written = write_damaged(source, "tsv", rows=100, zipped=True)
    strict = DataConfig(max_bad_share=0.01)

    def errors(config: DataConfig) -> set[str]:
        return {
            error_of(lambda: prepare(source, tmp_path / "out", config)),
            error_of(lambda: beam_prepare.prepare_with_beam(source, tmp_path / "out", config, RUNNER)),
        }

    (message,) = errors(strict)
    assert "rows are bad" in message
    clicks = written.files["clicks"][0]
    clicks.write_bytes(clicks.read_bytes()[:-40])
    (message,) = errors(LENIENT)
    assert "clicks.tsv.gz: damaged or cut-off gzip file" in message


def test_counts_beyond_all_integers_stop_both(tmp_path):
    write(tmp_path, "items.jsonl", encode([{"item_id": f"i{n}", "title": f"t{n} u{n}"} for n in range(3)], "jsonl"))
    write(tmp_path, "keyphrases.tsv", b"keyphrase\na\nb\n")
    rows = [f"i{n}\t{text}\t{2**53 - 1}\t0\n" for n in (2, 1, 1, 2) for text in "ba"]
    write(tmp_path, "clicks.tsv", ("item_id\tkeyphrase\timpressions\tclicks\n" + "".join(rows)).encode())
    config = DataConfig(holdout_share=0.0)
    messages = {
        error_of(lambda: prepare(tmp_path, tmp_path / "out", config)),
        error_of(lambda: beam_prepare.prepare_with_beam(tmp_path, tmp_path / "out", config, RUNNER)),
    }
    (message,) = messages
    assert "table 'clicks': impressions of the pair i1 | a add up to 1.8e+16, 2^53 or more" in message


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--runner=Abacus",), "Abacus"),
        (("--runer=FlinkRunner",), "names no runner"),
        (("--runner=FnApiRunner", "--direct_num_workers=x"), "direct_num_workers"),
    ],
)
def test_wrong_options_are_told_before_any_work(tmp_path, options, named):
    message = error_of(lambda: beam_prepare.prepare_with_beam(tmp_path / "nowhere", tmp_path / "out", LENIENT, options))
    assert "config.data.beam" in message and named in message
    assert not (tmp_path / "out").exists()


KILLED = """
import sys
from pathlib import Path
from distill.config import DataConfig
from distill.data.preparation import beam_prepare
beam_prepare._PARTITION_BYTES = 20_000
source, destination = map(Path, sys.argv[1:])
beam_prepare.prepare_with_beam(source, destination, DataConfig(max_bad_share=0.2), ("--runner=FnApiRunner",))
"""


def test_what_an_earlier_run_left_is_gone(tmp_path):
    write_damaged(tmp_path / "in", "tsv", rows=50)
    for name in (".spill/beam/tables/0/clicks.parquet", "clicks.parquet", "holdout/judgements.parquet"):
        left = tmp_path / "beam" / name / "part-00007-of-00009.parquet"
        left.parent.mkdir(parents=True)
        left.write_bytes(b"half a file")
    both(tmp_path / "in", tmp_path, LENIENT)


@pytest.mark.slow
def test_a_killed_pipeline_started_again_ends_in_the_same_artifacts(tmp_path):
    write_damaged(tmp_path / "in", "tsv", rows=3000)
    command = [sys.executable, "-c", KILLED, str(tmp_path / "in")]
    root = Path(__file__).parents[3]
    child = subprocess.Popen([*command, str(tmp_path / "killed")], cwd=root, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not list((tmp_path / "killed").glob(".spill/beam/tables/**/part-*")):
            assert child.poll() is None and time.monotonic() < deadline, "the pipeline was not met half-way"
            time.sleep(0.01)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert not (tmp_path / "killed" / "summary.json").exists()
    for name in ("killed", "whole"):
        subprocess.run([*command, str(tmp_path / name)], cwd=root, check=True, capture_output=True)
    killed, whole = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (tmp_path / "killed", tmp_path / "whole")
    )
    assert killed == whole
    assert len(whole) > 20


def test_esci_ads(esci_ads, tmp_path, monkeypatch):
    monkeypatch.setattr(beam_prepare, "_PARTITION_BYTES", 4 << 20)
    summary = both(esci_ads, tmp_path, DataConfig())
    assert summary.tables["search_relevance"].rows == 312_300


@pytest.mark.slow
def test_the_embedded_marketplace_with_a_million_pairs(tmp_path, monkeypatch):
    monkeypatch.setattr(beam_prepare, "_PARTITION_BYTES", 4 << 20)
    config = MarketplaceConfig(items=12_000, keyphrases=8_000, searches=600_000, search_relevance_per_item=70)
    write_marketplace(tmp_path / "in", config, 0)
    summary = both(tmp_path / "in", tmp_path, DataConfig())
    assert sum(summary.tables[name].rows for name in SPLIT if name in summary.tables) >= 1_000_000
