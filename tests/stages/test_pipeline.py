"""The whole job on a small marketplace: what it publishes, what it skips, what it does after a kill, how it fails."""

import json
import math
import signal
import subprocess
import time

import numpy as np
import pyarrow.parquet as pq
import pytest

from distill.artifacts import read_manifest
from distill.models.storage import load_params
from distill.reporting import Silent
from distill.stages import ORDER
from distill.stages.base import FOLDERS, Context
from distill.stages.candidates import dense_candidates, lexical_candidates
from distill.stages.recommend import FATES
from tests.stages.small import ROOT, command, environment, run
from tests.stages.small_config import get_config


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("pipeline")
    done = run("pipeline", workdir)
    assert done.returncode == 0, done.stderr
    return workdir, done


def outputs(workdir, stage):
    manifest = read_manifest(workdir / FOLDERS[stage])
    assert manifest is not None
    return manifest["outputs"]


def test_every_stage_publishes_and_the_summary_names_the_report(finished):
    workdir, done = finished
    for stage in ORDER:
        assert outputs(workdir, stage), stage
    assert outputs(workdir / "arms" / "student_clicks", "student").keys() == outputs(workdir, "student").keys()
    assert "never_exposed/recall@20" in done.stdout
    assert str(workdir / "report" / "index.html") in done.stdout.replace("\n", "")
    assert done.stdout.count("Listing") >= 1


def test_the_metrics_are_those_of_the_contract(finished):
    metrics = json.loads((finished[0] / "report" / "metrics.json").read_text())
    assert all(isinstance(value, float) and math.isfinite(value) for value in metrics.values())
    for model in ("bm25", "graphex", "zero_shot", "assistant", "student", "student@16", "student_clicks"):
        for name in (
            "human/ndcg@10",
            "human/auc_exact",
            "human/auc_relevant",
            "holdout/ndcg@10",
            "holdout/auc",
            "truth/ndcg@10",
            "truth/recall@20",
            "never_exposed/recall@20",
            "coverage",
            "align/both@20",
        ):
            assert {f"{name}/{model}", f"{name}/{model}/ci_low", f"{name}/{model}/ci_high"} <= metrics.keys()
            assert 0 <= metrics[f"{name}/{model}"] <= 1
    assert "diff/truth/recall@20/student-student_clicks/p" in metrics
    for name in (
        "judge/kappa",
        "judge/auc_exact",
        "index/recall@100",
        "index/queries_per_second",
        "student/pearson_to_assistant",
        "train/student/examples_per_second",
    ):
        assert name in metrics
    assert metrics["index/recall@100"] == 1.0


def test_recommendations_keep_the_rules(finished):
    workdir, _ = finished
    table = pq.read_table(sorted((workdir / "recommendations").glob("part-*.parquet")))
    assert table.column_names == ["item_id", "keyphrase", "rank", "score", "relevance", "sources"]
    rows = table.to_pylist()
    pairs = {(row["item_id"], row["keyphrase"]) for row in rows}
    assert len(pairs) == len(rows)
    blocked = set(pq.read_table(workdir / "data" / "blocklist.parquet")["keyphrase"].to_pylist())
    assert not blocked & {row["keyphrase"] for row in rows}
    for name in ("recommendations.parquet", "holdout/recommendations.parquet"):
        other = pq.read_table(workdir / "data" / name).to_pylist()
        assert not pairs & {(row["item_id"], row["keyphrase"]) for row in other}
    ranks: dict[str, list[int]] = {}
    for row in rows:
        ranks.setdefault(row["item_id"], []).append(row["rank"])
    assert all(r == list(range(1, len(r) + 1)) for r in ranks.values())


def test_every_candidate_has_a_fate_and_the_kept_ones_are_the_recommendations(finished):
    workdir, _ = finished
    folder = workdir / "recommendations"
    candidates = pq.read_table(sorted(folder.glob("candidates-*.parquet"))).to_pylist()
    kept = [(row["item_id"], row["keyphrase"]) for row in candidates if row["fate"] == "kept"]
    table = pq.read_table(sorted(folder.glob("part-*.parquet"))).to_pylist()
    assert kept == [(row["item_id"], row["keyphrase"]) for row in table]
    manifest = read_manifest(folder)
    assert manifest is not None
    assert manifest["counts"]["candidates"] == len(candidates)
    assert sum(manifest["counts"][fate] for fate in FATES) == len(candidates)
    blocked = set(pq.read_table(workdir / "data" / "blocklist.parquet")["keyphrase"].to_pylist())
    assert all(row["fate"] == "blocked" for row in candidates if row["keyphrase"] in blocked)


def test_no_training_artifact_holds_a_human_query_or_a_held_out_item(finished):
    workdir, _ = finished
    human = set(pq.read_table(workdir / "data" / "human.parquet")["keyphrase"].to_pylist())
    items = pq.read_table(workdir / "data" / "items.parquet").to_pylist()
    held_out = {row["item_id"] for row in items if row["split"] == "holdout"}
    scored = pq.read_table(sorted((workdir / "scores").glob("part-*.parquet")))
    judged = pq.read_table(workdir / "judgements" / "judgements.parquet")
    assert not human & set(scored["keyphrase"].to_pylist()) and not held_out & set(scored["item_id"].to_pylist())
    assert not human & set(judged["keyphrase"].to_pylist())
    for name in ("clicks", "search_relevance", "recommendations"):
        table = pq.read_table(workdir / "data" / f"{name}.parquet")
        assert not human & set(table["keyphrase"].to_pylist()), name
        assert not held_out & set(table["item_id"].to_pylist()), name


def test_a_second_run_does_nothing_and_says_so(finished):
    workdir, _ = finished
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*") if path.is_file()}
    again = run("pipeline", workdir)
    assert again.returncode == 0, again.stderr
    assert "all stages are complete; nothing to do" in again.stderr
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("*") if path.is_file()} == before


def test_a_changed_setting_runs_what_depends_on_it_alone(finished, tmp_path):
    workdir = tmp_path / "copy"
    subprocess.run(["cp", "-r", str(finished[0]), str(workdir)], check=True)
    changed = run("recommend", workdir, "--config.recommend.keep=3")
    assert changed.returncode == 0, changed.stderr
    assert max(pq.read_table(sorted((workdir / "recommendations").glob("part-*.parquet")))["rank"].to_pylist()) <= 3
    restored = run("recommend", workdir)
    assert "recommend: done" in restored.stderr
    skipped = run("evaluate", workdir)
    assert "evaluate: complete, nothing to do" in skipped.stderr


CHECKPOINT = "training/checkpoints/*/_CHECKPOINT_METADATA"
HALF_DONE = {
    "prepare": "items.parquet",
    "judge": "judgements.parquet",
    "assistant": CHECKPOINT,
    "score": "part-*.parquet",
    "student": CHECKPOINT,
    "index": "items.npy",
    "recommend": "started.json",
    "evaluate": "metrics.json",
    "export": "huggingface/*/*",
}


@pytest.mark.parametrize("stage", ORDER)
def test_a_killed_stage_ends_in_the_same_artifacts(finished, tmp_path, stage):
    """SIGKILL as soon as the stage has left half of its work behind, then the same command again."""
    workdir, _ = finished
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", str(workdir), str(copy)], check=True)
    folder = copy / FOLDERS[stage]
    subprocess.run(["rm", "-rf", str(folder)], check=True)
    process = subprocess.Popen(command(stage, copy), cwd=ROOT, env=environment(), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not list(folder.glob(HALF_DONE[stage])) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished_first = (folder / "manifest.json").exists()
    again = run(stage, copy)
    assert again.returncode == 0, again.stderr
    assert finished_first or f"{stage}: done" in again.stderr
    assert outputs(copy, stage) == outputs(workdir, stage)


def test_the_student_of_another_seed_differs(finished, tmp_path):
    """The guard of the test above: equal outputs are not equal for want of anything that could differ."""
    workdir, _ = finished
    first = load_params(workdir / "student" / "model" / "params.safetensors")
    arm = load_params(workdir / "arms" / "student_clicks" / "student" / "model" / "params.safetensors")
    token = first["encoder"]["embeddings"]["token"]["embedding"]
    assert not np.array_equal(token, arm["encoder"]["embeddings"]["token"]["embedding"])


@pytest.mark.parametrize("source", [lexical_candidates, dense_candidates])
def test_a_source_without_a_share_gives_no_candidates(finished, source):
    context = Context(get_config(), finished[0], Silent())
    items = np.arange(5)
    assert source(context, items, 0).shape == (5, 0)
    assert (source(context, items, 3) >= 0).any()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--config.student.widths=(64,256)"], "student.widths"),
        (["--config.student.tasks.clicks=-1"], "student.tasks.clicks"),
        (["--config.student.nonsense=1"], "nonsense"),
        (["--config.seed=many"], "seed"),
        (["--config.data.dir=/nowhere/at/all", "--config.judge.backend=replay"], "/nowhere/at/all"),
    ],
)
def test_a_bad_setting_is_one_line_before_any_work(tmp_path, flags, words):
    failed = run("prepare", tmp_path / "w", *flags)
    assert failed.returncode == 1
    errors = failed.stderr.strip().splitlines()
    assert len(errors) == 1 and errors[0].startswith("error: ") and words in errors[0], failed.stderr


def test_a_stage_out_of_order_says_what_to_run_first(tmp_path):
    failed = run("student", tmp_path)
    assert failed.returncode == 1 and "python -m launch.prepare" in failed.stderr


DEBIASED = (
    "--config.student.hard_negatives.per_item=2",
    "--config.student.hard_negatives.refreshes=1",
    "--config.student.hard_negatives.margin=-1.0",
    "--config.student.inverse_propensity=true",
    "--config.student.log_q=true",
)


def test_hard_negatives_are_mined_twice_and_survive_a_kill(finished, tmp_path):
    """SIGKILL once the student itself has mined; the table of every mining keeps the rules."""
    workdir, _ = finished
    plain, killed = tmp_path / "plain", tmp_path / "killed"
    for copy in (plain, killed):
        subprocess.run(["cp", "-r", str(workdir), str(copy)], check=True)
    done = run("student", plain, *DEBIASED)
    assert done.returncode == 0, done.stderr
    assert "position bias by rank^-" in done.stderr and "vetoed by assistant" in done.stderr
    first, second = sorted((plain / "student" / "negatives").iterdir())
    assert first.name == "step-00000000.parquet"

    context = Context(get_config(), plain, Silent())
    prepared = context.prepared
    clicks, scores = prepared.training("clicks"), {}
    assert clicks is not None
    clicked = set(
        zip(clicks["item"][clicks["clicks"] > 0].tolist(), clicks["keyphrase"][clicks["clicks"] > 0].tolist())
    )
    for path in (first, second):
        table = prepared.pairs(pq.read_table(path))
        pairs = set(zip(table["item"].tolist(), table["keyphrase"].tolist()))
        assert len(pairs) == len(table["item"]) > 100 and not pairs & clicked
        assert prepared.trainable[table["keyphrase"]].all() and not prepared.item_is_holdout[table["item"]].any()
        assert ((table["rank"] >= 5) & (table["rank"] <= 50)).all()
        assert (table["cosine"] <= table["positive_cosine"] + 1.0).all()
        np.testing.assert_array_equal(table["fate"] == "vetoed", table["relevance"] >= np.float32(0.3))
        assert {"kept", "vetoed"} >= set(table["fate"]) and "kept" in table["fate"]
        scores[path] = pairs
    assert scores[first] != scores[second]  # the student sees other neighbours than the initial encoder

    flags, folder = DEBIASED, killed / "student" / "negatives"
    process = subprocess.Popen(
        command("student", killed, *flags), cwd=ROOT, env=environment(), stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 300
    while not (folder / second.name).exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    again = run("student", killed, *flags)
    assert again.returncode == 0, again.stderr
    assert "resumed at step" in again.stderr
    assert outputs(killed, "student") == outputs(plain, "student") != outputs(workdir, "student")
