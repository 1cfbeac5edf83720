"""The recommend stage over a made-up index and assistant: shards, sources, what a kill leaves, what the files say."""

import collections
import json
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distill.artifacts import read_manifest
from distill.config import ConfigError
from distill.data.text import fold_tokens
from distill.reporting import Silent
from distill.retrieval.scann_index import build_index
from distill.stages import run_stage
from distill.stages.base import Context
from distill.stages.recommend import FATES, candidates, recommendations
from tests.stages.small import ROOT, command, environment
from tools.recommend_workdir import Size, get_config, make_workdir

ITEMS, SHARD = 300, 64
CONFIG = ROOT / "tools" / "recommend_workdir.py"
SMALL = (f"--config.recommend.shard_items={SHARD}", "--config.recommend.candidates=20")


class Lines(Silent):
    """Keeps what is said."""

    def __init__(self):
        self.said = []

    def line(self, text):
        self.said.append(text)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("recommend") / "inputs"
    make_workdir(workdir, Size(ITEMS, 500, width=16, topics=4))
    return workdir


def linked(inputs, tmp_path):
    """A working directory of its own over the same inputs."""
    workdir = tmp_path / "run"
    workdir.mkdir(parents=True)
    for name in ("data", "assistant", "index"):
        (workdir / name).symlink_to(inputs / name)
    return workdir


def recommend(workdir, reporter=None, **settings):
    config = get_config()
    config.recommend.shard_items, config.recommend.candidates = SHARD, 20
    for name, value in settings.items():
        setattr(config.recommend, name, value)
    context = Context(config.validate(), workdir, reporter or Silent())
    run_stage("recommend", context)
    return context


def read(context, pattern):
    return pq.read_table(sorted(context.folder("recommend").glob(pattern))).to_pylist()


@pytest.fixture(scope="module")
def plain(inputs, tmp_path_factory):
    return recommend(linked(inputs, tmp_path_factory.mktemp("plain")))


@pytest.fixture(scope="module")
def mixed(inputs, tmp_path_factory):
    workdir = linked(inputs, tmp_path_factory.mktemp("mixed"))
    config = get_config().recommend.mix
    config.tail, config.head, config.head_volume = 0.3, 0.2, 0.6
    return recommend(workdir, lexical=10, graphex=8, others="include", mmr_lambda=0.7, mix=config, keep=10)


@pytest.mark.parametrize("name", ["plain", "mixed"])
def test_every_item_is_in_one_shard_and_the_rules_hold(request, name):
    context = request.getfixturevalue(name)
    folder, settings = context.folder("recommend"), context.experiment.recommend
    shards = sorted(folder.glob("candidates-part-*.parquet"))
    assert len(shards) == -(-ITEMS // SHARD)
    items_of = [set(pq.read_table(path)["item_id"].to_pylist()) for path in shards]
    assert sum(map(len, items_of)) == ITEMS == len(set.union(*items_of))
    rows = read(context, "candidates-part-*.parquet")
    assert len({(row["item_id"], row["keyphrase"]) for row in rows}) == len(rows)
    counts = read_manifest(folder)["counts"]
    assert counts["items"] == ITEMS and counts["candidates"] == len(rows)
    fates = collections.Counter(row["fate"] for row in rows)
    assert {fate: counts[fate] for fate in FATES} == {fate: fates[fate] for fate in FATES}
    assert all((row["rank"] is not None) == (row["fate"] == "kept") for row in rows)
    for row in rows:
        repeats = row["fate"] in ("already_recommended", "repeated")
        assert (row["same_as"] is not None) == repeats
        assert not repeats or fold_tokens(row["same_as"]) == fold_tokens(row["keyphrase"])
    kept = read(context, "part-*.parquet")
    assert [(row["item_id"], row["keyphrase"], row["rank"]) for row in kept] == [
        (row["item_id"], row["keyphrase"], row["rank"]) for row in rows if row["rank"]
    ]
    by_item = collections.defaultdict(list)
    for row in kept:
        by_item[row["item_id"]].append(row)
    assert counts["covered_items"] == len(by_item)
    for each in by_item.values():
        assert [row["rank"] for row in each] == list(range(1, len(each) + 1)) and len(each) <= settings.keep
        assert len({fold_tokens(row["keyphrase"]) for row in each}) == len(each)


def meanings_of(context, name):
    found = collections.defaultdict(set)
    for row in pq.read_table(context.folder("prepare") / f"{name}.parquet").to_pylist():
        found[row["item_id"]].add(fold_tokens(row["keyphrase"]))
    return found


@pytest.mark.parametrize("name", ["plain", "mixed"])
def test_nothing_blocked_is_kept_in_any_words(request, name):
    context = request.getfixturevalue(name)
    blocked = meanings_of(context, "blocklist")
    rows = read(context, "candidates-part-*.parquet")
    stopped = {id(row) for row in rows if fold_tokens(row["keyphrase"]) in blocked[None] | blocked[row["item_id"]]}
    assert stopped == {id(row) for row in rows if row["fate"] == "blocked"} != set()


def test_what_others_recommend_is_left_out_or_taken_in(plain, mixed):
    others = meanings_of(plain, "recommendations")
    for row in read(plain, "part-*.parquet"):
        assert row["sources"] == ["student"]
        assert fold_tokens(row["keyphrase"]) not in others[row["item_id"]]
    table = collections.defaultdict(set)
    for row in pq.read_table(mixed.folder("prepare") / "recommendations.parquet").to_pylist():
        table[row["item_id"], row["keyphrase"]].add(f"recommended:{row['source']}")
    rows = {(row["item_id"], row["keyphrase"]): row for row in read(mixed, "candidates-part-*.parquet")}
    assert table.keys() <= rows.keys()
    ours = ("student", "lexical", "graphex")
    for pair, row in rows.items():
        assert [s for s in row["sources"] if s not in ours] == sorted(table.get(pair, ()))
    counts = read_manifest(mixed.folder("recommend"))["counts"]
    for source in (*ours, "recommended:rules", "recommended:seller"):
        assert counts[f"candidates_from_{source}"] == sum(source in row["sources"] for row in rows.values()) > 0
        assert counts[f"kept_from_{source}"] == sum(source in row["sources"] for row in rows.values() if row["rank"])
    assert counts["less_diverse"] and counts["mix"]


def test_the_score_is_the_students_cosine_whoever_found_the_pair(mixed):
    found, folder = candidates(mixed, mixed.prepared.item_ids, ["score", "logit"]), mixed.folder("index")
    items, keyphrases = np.load(folder / "items.npy"), np.load(folder / "keyphrases.npy")
    cosine = np.sum(items[found["item"]] * keyphrases[found["keyphrase"]], axis=1)
    np.testing.assert_allclose(found["score"], cosine, atol=1e-5)
    logits = mixed.pair_scorer()(found["keyphrase"][:50], found["item"][:50])
    np.testing.assert_allclose(found["logit"][:50], logits, atol=1e-4)
    some = mixed.prepared.item_ids[3:5]
    assert set(candidates(mixed, some, ["fate"])["item"].tolist()) == {3, 4}


def test_an_index_of_rounded_vectors_does_not_round_the_score(inputs, tmp_path):
    workdir = linked(inputs, tmp_path)
    (workdir / "index").unlink()
    folder = workdir / "index"
    shutil.copytree(inputs / "index", folder, ignore=shutil.ignore_patterns("index"))
    vectors = np.load(folder / "keyphrases.npy")
    built = build_index(
        vectors,
        brute_force_below=20_000,
        target_recall=0.5,
        sample_queries=np.load(folder / "items.npy")[:50],
        seed=0,
        dtype="int8",
    )
    assert built.settings.dtype == "int8"
    built.save(folder / "index")
    context = recommend(workdir)
    found = candidates(context, context.prepared.item_ids, ["score"])
    cosine = np.sum(np.load(folder / "items.npy")[found["item"]] * vectors[found["keyphrase"]], axis=1)
    np.testing.assert_allclose(found["score"], cosine, atol=1e-5)


def test_relevance_is_of_the_logit_and_above_the_threshold(mixed):
    rows = {(row["item_id"], row["keyphrase"]): row for row in read(mixed, "candidates-part-*.parquet")}
    for row in read(mixed, "part-*.parquet"):
        logit = rows[row["item_id"], row["keyphrase"]]["logit"]
        assert row["relevance"] == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-6)


def test_recommendations_of_named_items_alone(plain):
    everything = recommendations(plain).to_pylist()
    some = sorted({row["item_id"] for row in everything})[:3]
    assert recommendations(plain, some).to_pylist() == [row for row in everything if row["item_id"] in some]
    assert recommendations(plain, []).num_rows == 0


def test_the_size_of_the_shards_changes_next_to_nothing(inputs, plain, tmp_path):
    whole = recommend(linked(inputs, tmp_path), shard_items=10_000)
    left, right = (
        {(row["item_id"], row["keyphrase"]): row for row in read(context, "candidates-part-*.parquet")}
        for context in (plain, whole)
    )
    assert left.keys() == right.keys()
    logits = [[rows[pair]["logit"] for pair in left] for rows in (left, right)]
    np.testing.assert_allclose(*logits, atol=1e-5)
    # Batches of other pairs round otherwise, which decides between logits that are equal but for that.
    assert np.mean([left[pair]["fate"] == right[pair]["fate"] for pair in left]) > 0.99


def test_held_out_items_alone_and_a_source_alone(inputs, tmp_path):
    context = recommend(linked(inputs, tmp_path), items="holdout", candidates=0, lexical=20)
    held_out = {context.prepared.item_ids[i] for i in np.flatnonzero(context.prepared.item_is_holdout)}
    rows = read(context, "candidates-part-*.parquet")
    assert {row["item_id"] for row in rows} <= held_out
    assert all(row["sources"] == ["lexical"] for row in rows) and rows


def test_optional_tables_may_be_missing_and_settings_without_effect_are_told(inputs, tmp_path):
    workdir = linked(inputs, tmp_path)
    (workdir / "data").unlink()
    subprocess.run(["cp", "-r", str(inputs / "data"), str(workdir / "data")], check=True)
    for name in ("recommendations", "blocklist", "clicks"):
        (workdir / "data" / f"{name}.parquet").unlink()
    path = workdir / "data" / "keyphrases.parquet"
    table = pq.read_table(path)
    unknown = pa.nulls(len(table), pa.int64())
    table = table.set_column(1, "search_volume", unknown)
    pq.write_table(table, path)
    lines, mix = Lines(), get_config().recommend.mix
    mix.tail = 0.5
    context = recommend(workdir, lines, others="include", graphex=5, mix=mix)
    assert any("no search volume is known" in line for line in lines.said)
    assert any("no recommendations table" in line for line in lines.said)
    fates = {row["fate"] for row in read(context, "candidates-part-*.parquet")}
    assert "kept" in fates and not fates & {"blocked", "already_recommended", "mix"}


def test_a_finished_shard_is_not_made_again(inputs, plain, tmp_path):
    workdir = linked(inputs, tmp_path)
    subprocess.run(["cp", "-r", str(plain.folder("recommend")), str(workdir / "recommendations")], check=True)
    folder = workdir / "recommendations"
    for name in ("manifest.json", "part-00001-of-00005.json"):
        (folder / name).unlink()
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("*part-0000[0234]*")}
    again = recommend(workdir)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert read_manifest(folder)["outputs"] == read_manifest(plain.folder("recommend"))["outputs"]
    assert read_manifest(folder)["counts"] == read_manifest(plain.folder("recommend"))["counts"]
    assert recommendations(again).equals(recommendations(plain))


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("candidates", 5, "recommend.candidates=5"),
        ("lexical", -1, "recommend.lexical=-1"),
        ("others", "merge", "recommend.others='merge'"),
        ("mmr_lambda", 1.5, "recommend.mmr_lambda=1.5"),
        ("mix.tail", -0.1, "recommend.mix.tail=-0.1"),
        ("mix.head", 0.8, "recommend.mix.head=0.8"),
        ("shard_items", 0, "recommend.shard_items=0"),
    ],
)
def test_an_impossible_setting_is_named(path, value, words):
    config = get_config()
    config.recommend.mix.tail = 0.3
    node, _, leaf = path.rpartition(".")
    setattr(config.recommend.mix if node else config.recommend, leaf, value)
    with pytest.raises(ConfigError, match=words):
        config.validate()


def test_candidates_of_other_sources_count_toward_the_places():
    config = get_config()
    config.recommend.candidates, config.recommend.graphex = 0, 20
    config.validate()


def killed(workdir, done):
    """Kills the stage once so many shards are done; the number done then."""
    folder = workdir / "recommendations"
    process = subprocess.Popen(
        command("recommend", workdir, *SMALL, config=CONFIG), cwd=ROOT, env=environment(), stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 300
    while len(list(folder.glob("part-*.json"))) < done and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return len(list(folder.glob("part-*.json")))


@pytest.mark.slow
def test_a_run_killed_twice_ends_in_the_same_files(inputs, tmp_path):
    """SIGKILL after two shards and again after four; the reference runs in a process of the same kind."""
    straight, workdir = linked(inputs, tmp_path / "straight"), linked(inputs, tmp_path / "killed")
    flags = [*SMALL]
    subprocess.run(
        command("recommend", straight, *flags, config=CONFIG), cwd=ROOT, env=environment(), check=True, timeout=600
    )
    assert killed(workdir, 2) >= 2
    assert killed(workdir, 4) >= 4
    done = subprocess.run(
        command("recommend", workdir, *flags, config=CONFIG), cwd=ROOT, env=environment(), check=True, timeout=600
    )
    assert done.returncode == 0
    left, right = (read_manifest(path / "recommendations") for path in (straight, workdir))
    assert left["outputs"] == right["outputs"] and left["counts"] == right["counts"]


@pytest.mark.slow
def test_the_bench_runs_at_a_tiny_size(tmp_path):
    flags = [f"--workdir={tmp_path / 'bench'}", "--items=300", "--keyphrases=600", "--width=16", "--kills=1", *SMALL]
    bench = [sys.executable, str(ROOT / "tools" / "bench_recommend.py"), *flags]
    environ = environment() | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(bench, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert 0 < figures["peak_gib"] < 6 and figures["items_per_second"] > 0
