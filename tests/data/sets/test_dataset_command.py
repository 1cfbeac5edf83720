"""`python -m launch.dataset`: from original files to a data directory that `launch.prepare` takes without complaint."""

import csv
import functools
import gzip
import hashlib
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from distill.config import DataConfig
from distill.data.preparation.prepare import prepare
from distill.data.schema import DataError
from distill.data.sets import official
from distill.data.sets.build import build, write_directory
from distill.data.sets.official import OfficialFile, PublicSet
from distill.data.validation.about import About, read_about
from tests.data.sets.conftest import FAKE

ROOT = Path(__file__).parents[3]
CONFIG = """
from distill.config import Experiment

def get_config():
    config = Experiment(name="fake")
    config.encoder.vocab_size = 300
    config.encoder.width, config.encoder.heads, config.encoder.mlp_width, config.encoder.layers = 16, 2, 32, 1
    config.student.widths, config.evaluate.prefix = (8, 16), 8
    return config
"""


def command(module: str, *arguments: str, code: int = 0) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


def test_prepare_takes_what_the_command_wrote(tmp_path):
    (tmp_path / "config.py").write_text(CONFIG)
    out, source = tmp_path / "data", FAKE / "amazon_esci"
    said = command(
        "launch.dataset", "--name=amazon_esci", f"--source={source}", f"--data_dir={tmp_path}", f"--out={out}"
    )
    assert f"written: --config.data.dir={out}" in said and "judgements: 82 rows = 79 kept (79 train)" in said
    command("launch.prepare", f"--config={tmp_path}/config.py", f"--config.data.dir={out}", f"--workdir={tmp_path}/run")
    accounted(out, json.loads((tmp_path / "run" / "data" / "summary.json").read_text())["tables"])


def accounted(directory: Path, tables: dict) -> None:
    """Every row of the directory reached `prepare`, and none was quarantined."""
    record = json.loads((directory / "dataset.json").read_text())
    for table, told in record["tables"].items():
        assert tables[table]["quarantined"] == 0 and tables[table]["rows"] == told["kept"], table


@pytest.mark.parametrize("name", ["wands", "own"])
def test_prepare_quarantines_nothing(request, tmp_path, name):
    built = request.getfixturevalue(name)
    assert write_directory(built, tmp_path / "data")
    summary = prepare(tmp_path / "data", tmp_path / "prepared", DataConfig())
    accounted(tmp_path / "data", {table: vars(counts) for table, counts in summary.tables.items()})
    assert not [notice for notice in summary.notices if "no table" in notice or "ignored" in notice]
    if name == "own":
        assert summary.split_from == "items table" and summary.holdout_items == 4


def test_own_directory_comes_out_as_it_went_in(own, tmp_path):
    write_directory(own, tmp_path / "data")
    with gzip.open(FAKE / "marketplace" / "judgements.tsv.gz", "rt") as stream:
        expected = list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))
    found = pq.read_table(tmp_path / "data" / "judgements.parquet").to_pylist()
    assert [{name: str(value) for name, value in row.items()} for row in found] == expected
    volumes = pq.read_table(tmp_path / "data" / "keyphrases.parquet")["search_volume"]
    assert volumes.to_pylist()[:4] == [0, None, 20, None]


def test_what_is_said_of_the_data_goes_along(own, wands, tmp_path):
    source = shutil.copytree(FAKE / "marketplace", tmp_path / "in")
    (source / "about.json").write_text('{"source": "our shop", "simulated": ["clicks"]}')
    write_directory(build("marketplace", source, tmp_path / "tfds"), tmp_path / "data")
    assert read_about(tmp_path / "data") == About(source="our shop", simulated=("clicks",))
    write_directory(own, tmp_path / "unsaid")
    assert read_about(tmp_path / "unsaid") == About()
    write_directory(wands, tmp_path / "wands")
    said = read_about(tmp_path / "wands")
    assert said.licence == "MIT" and "github.com/wayfair/WANDS" in said.source and "@InProceedings{wands" in said.note


def test_events_keep_what_they_stand_for(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    (source / "items.jsonl").write_text('{"item_id": "a", "title": "red lamp"}\n')
    (source / "keyphrases.tsv").write_text("keyphrase\nred lamp\n")
    (source / "events.csv").write_text(
        "item_id,keyphrase,event,clicked,position\na,red lamp,impression,,1\na,red lamp,click,,\na,red lamp,,1,2\n"
    )
    write_directory(build("marketplace", source, tmp_path / "tfds"), tmp_path / "out")
    events = pq.read_table(tmp_path / "out" / "events.parquet").to_pylist()
    assert [(row["event"], row["clicked"], row["position"]) for row in events] == [
        ("impression", False, 1),
        ("click", True, None),
        ("impression", True, 2),
    ]


def test_an_optional_table_without_rows_is_left_out_and_said(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    (source / "items.jsonl").write_text('{"item_id": "a", "title": "red lamp"}\n')
    (source / "keyphrases.tsv").write_text("keyphrase\nred lamp\n")
    (source / "blocklist.tsv").write_text("keyphrase\n")
    (source / "click.tsv").write_text("keyphrase\n")
    built = build("marketplace", source, tmp_path / "tfds")
    assert list(built.builders) == ["items", "keyphrases"]
    said = "\n".join(built.lines())
    assert f"blocklist: left out, {source}/blocklist.tsv: none of 0 rows for the table 'blocklist' is usable" in said
    assert "notice: click.tsv is no table of the contract: left out" in built.lines()
    (source / "keyphrases.tsv").write_text("keyphrase\n")
    with pytest.raises(DataError, match="none of 0 rows for the table 'keyphrases' is usable"):
        build("marketplace", source, tmp_path / "tfds")


def test_columns_that_the_contract_does_not_know_are_named(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    (source / "items.csv").write_text("item_id,title,price\na,red lamp,3\n")
    (source / "keyphrases.tsv").write_text("keyphrase\nred lamp\n")
    assert "  columns not of the contract are left out: price" in build("marketplace", source, tmp_path / "tf").lines()


def test_other_files_are_built_again_and_the_same_are_not(tmp_path):
    source = shutil.copytree(FAKE / "marketplace", tmp_path / "in")
    built = build("marketplace", source, tmp_path / "tfds")
    write_directory(built, tmp_path / "out")
    first = Path(built.builders["items"].data_path) / "dataset_info.json"
    before = first.stat().st_mtime_ns
    clicks = source / "clicks.csv"
    clicks.write_text(clicks.read_text() + "i3,red lamp,100,7,2.5\n")
    (first.parent.parent / "incomplete.ABCDEF_1.0.0").mkdir()  # what a kill leaves behind
    built = build("marketplace", source, tmp_path / "tfds")
    with pytest.raises(DataError, match=r"clicks\.csv: 1 of 61 rows .*lines 13\)") as refused:
        build("marketplace", source, tmp_path / "tfds", max_bad_share=0.0)
    kept = Path(str(refused.value).rsplit("They are in ", 1)[1].removesuffix("."))
    assert [json.loads(line)["line"] for line in kept.read_text().splitlines()] == [13]
    assert not Path(built.builders["clicks"].data_path).exists()
    built = build("marketplace", source, tmp_path / "tfds")
    assert first.stat().st_mtime_ns == before and not list(first.parent.parent.glob("incomplete*"))
    assert built.builders["clicks"].info.metadata["kept"] == 60 and not kept.exists()
    assert write_directory(built, tmp_path / "out") and not write_directory(built, tmp_path / "out")
    assert len(pq.read_table(tmp_path / "out" / "clicks.parquet")) == 60
    assert not list(tmp_path.glob(".*partial"))


def test_a_directory_with_other_files_is_not_overwritten(own, wands, tmp_path):
    (tmp_path / "clicks.tsv").write_text("mine")
    with pytest.raises(DataError, match="it holds files that were not written from a data set"):
        write_directory(own, tmp_path)
    assert (tmp_path / "clicks.tsv").read_text() == "mine"
    write_directory(own, tmp_path / "data")
    (tmp_path / "data" / "blocklist.tsv").write_text("mine")  # beside what was written
    assert not write_directory(own, tmp_path / "data")
    with pytest.raises(DataError, match=r"blocklist\.tsv is there"):
        write_directory(wands, tmp_path / "data")
    assert (tmp_path / "data" / "blocklist.tsv").read_text() == "mine"
    (tmp_path / "data" / "blocklist.tsv").unlink()
    again = build("marketplace", tmp_path / "data", tmp_path / "tfds")
    with pytest.raises(DataError, match="the original files are there"):
        write_directory(again, tmp_path / "data")


def test_missing_files_are_named_with_page_licence_and_place(tmp_path):
    said = command("launch.dataset", "--name=wayfair_wands", f"--source={tmp_path}", f"--data_dir={tmp_path}", code=1)
    assert said.startswith("error: ") and "Traceback" not in said
    for expected in (
        f"{tmp_path}/product.csv is missing",
        f"{tmp_path}/label.csv is missing",
        "under MIT",
        "--download",
    ):
        assert expected in said
    assert "https://github.com/wayfair/WANDS" in said
    for name, message in (("amazon_esci", "under Apache-2.0"), ("marketplace", "it holds no table")):
        with pytest.raises(DataError, match=message):
            build(name, tmp_path, tmp_path / "tfds")


def test_a_file_in_the_wrong_place_is_pointed_at(tmp_path):
    clone = shutil.copytree(FAKE / "wayfair_wands", tmp_path / "WANDS-main" / "dataset")
    (tmp_path / "query.csv.gz").write_bytes(gzip.compress((clone / "query.csv").read_bytes()))
    with pytest.raises(DataError) as said:
        build("wayfair_wands", tmp_path, tmp_path / "tfds")
    assert f"product.csv is missing (one is in {clone}: if it is the right one, name that directory)" in str(said.value)
    assert "query.csv is missing (query.csv.gz is there: unpack it)" in str(said.value)
    assert f"put these files into {tmp_path}:" in str(said.value)


@pytest.fixture
def page(tmp_path):
    """A server of two files: the address, and their folder."""
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "a.csv").write_bytes(b"one\n" * 1000)
    (folder / "b.csv").write_bytes(b"two\n" * 1000)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", folder
    server.shutdown()
    thread.join()
    server.server_close()


def test_download_takes_official_files_only(page, tmp_path):
    address, folder = page
    blob = subprocess.run(["git", "hash-object", folder / "b.csv"], capture_output=True, text=True).stdout.strip()
    digest = hashlib.sha256((folder / "a.csv").read_bytes()).hexdigest()
    public = PublicSet(
        *("set", "A set", "Of two files.", "https://example.org/set", "folder", "1234567", "MIT", "@misc{set}"),
        files=(
            OfficialFile("a.csv", f"{address}/a.csv", size=4000, sha256=digest),
            OfficialFile("b.csv", f"{address}/b.csv", git_blob=blob),
        ),
    )
    target = tmp_path / "source"
    assert official.download(public, target) == ["a.csv", "b.csv"]
    assert official.download(public, target) == [] and public.unofficial(public.find(target)) == []
    (target / "a.csv").write_bytes(b"mine")
    assert public.unofficial(public.find(target)) == ["a.csv"]
    (target / "a.csv").unlink()
    (folder / "a.csv").write_bytes(b"six\n" * 1000)
    with pytest.raises(DataError, match=r"a\.csv: what was downloaded .* does not have the official checksum"):
        official.download(public, target)
    (folder / "a.csv").unlink()
    with pytest.raises(DataError, match=r"a\.csv: no download \(.*404(.|\n)*put these files into"):
        official.download(public, target)
    assert sorted(path.name for path in target.iterdir()) == ["b.csv"]
