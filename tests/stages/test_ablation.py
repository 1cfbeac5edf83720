"""A small grid: what its arms share, what they write, what a SIGKILL leaves, and how wrong settings fail."""

import dataclasses
import json
import math
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from distill.artifacts import read_manifest
from distill.config import ConfigError
from distill.config.ablations import Ablations, Arm, Comparison
from distill.evaluate.samples import read_samples
from distill.reporting import Silent
from distill.stages import Context
from distill.stages.ablation import check_arms, run_grid
from launch.ablate import overridden
from tests.stages.small import ROOT, command, environment
from tests.stages.small_grid_config import get_config

CONFIG = Path(__file__).parent / "small_grid_config.py"
SEEDS, STUDENTS = 2, 2  # `twin` shares its student


def quick(cache: Path) -> dict[str, str]:
    """Compiled programs are kept, so that a second run need not make them again."""
    return environment() | {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
    }


def ablate(workdir, *flags, cache=None):
    return subprocess.run(
        command("ablate", workdir, *flags, config=CONFIG),
        cwd=ROOT,
        env=quick(cache) if cache else environment(),
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    root = tmp_path_factory.mktemp("grid")
    done = ablate(root / "w", f"--config.docs={root / 'docs' / 'evidence.md'}", cache=root / "cache")
    assert done.returncode == 0, done.stderr
    return root, done


def folders(root, stage):
    return sorted((root / "w" / "stages" / stage).iterdir())


def test_arms_that_read_the_same_share_a_folder_and_none_runs_what_it_does_not_need(finished):
    root, done = finished
    for stage, expected in {
        "prepare": SEEDS,
        "judge": SEEDS,
        "labels": SEEDS,
        "assistant": SEEDS,
        "score": SEEDS,
        "student": SEEDS * STUDENTS,
        "measure_student": SEEDS * STUDENTS,
        "measure_assistant": SEEDS,
        "measure_baselines": SEEDS,
    }.items():
        assert len(folders(root, stage)) == expected, stage
        assert done.stderr.count(f"\n{stage}: done in") == expected
    assert not list((root / "w" / "stages").glob("*/*/training/checkpoints"))


def test_every_arm_takes_as_many_steps(finished):
    root, _ = finished
    manifests = [read_manifest(folder) for folder in folders(root, "student")]
    assert len({manifest["counts"]["steps"] for manifest in manifests if manifest}) == 1


def test_fewer_labels_are_a_part_of_all_spread_over_the_listings(finished):
    root, _ = finished

    def pairs(folder, holdout):
        table = pq.read_table(folder / "judgements.parquet").to_pylist()
        return [(row["item_id"], row["keyphrase"], row["grade"]) for row in table if row["holdout"] == holdout]

    every = [set(pairs(folder, False)) for folder in folders(root, "judge")]
    for folder in folders(root, "labels"):
        few = pairs(folder, False)
        whole = next(one for one in every if set(few) <= one)
        assert len(few) == len(set(few)) == 300 < len(whole)
        listings = [item for item, _, _ in few]
        assert set(listings) == {item for item, _, _ in whole}
        # 240 listings: one pair each, then a second one of some.
        assert max(listings.count(item) for item in set(listings)) == 2
        assert any(pairs(folder, True) == pairs(judge, True) for judge in folders(root, "judge"))


def test_the_evidence_is_one_flat_object_of_finite_numbers(finished):
    root, _ = finished
    evidence = json.loads((root / "w" / "evidence.json").read_text())
    assert all(isinstance(value, float) and math.isfinite(value) for value in evidence.values())
    for model in ("student", "student@16", "direct", "twin", "assistant", "zero_shot", "bm25", "graphex"):
        for metric in ("human/ndcg@10", "human/auc_exact", "human/auc_relevant", "holdout/ndcg@10", "holdout/auc"):
            name = f"{metric}/{model}"
            assert 0 <= evidence[f"{name}/ci_low"] <= evidence[name] <= evidence[f"{name}/ci_high"] <= 1
        assert ("never_exposed/recall@20/" + model in evidence) == (model != "assistant")
    assert evidence["diff/human/ndcg@10/student-twin"] == 0
    assert evidence["diff/human/ndcg@10/student-twin/p"] == 1
    change = evidence["diff/truth/recall@20/student-direct"]
    assert change == pytest.approx(evidence["truth/recall@20/student"] - evidence["truth/recall@20/direct"])
    kept = evidence["diff/human/ndcg@10/student@16-0.9*student"]
    assert kept == pytest.approx(evidence["human/ndcg@10/student@16"] - 0.9 * evidence["human/ndcg@10/student"])
    assert evidence["labels/direct"] == 300 < evidence["labels/student"]


def test_a_figure_is_the_mean_over_seeds_of_what_was_measured(finished):
    root, _ = finished
    evidence = json.loads((root / "w" / "evidence.json").read_text())
    stored = [read_samples(folder)["holdout/ndcg@10", "bm25"] for folder in folders(root, "measure_baselines")]
    assert evidence["holdout/ndcg@10/bm25"] == pytest.approx(np.mean([one.estimate() for one in stored]))


def test_the_page_says_what_did_not_hold_and_shows_its_figures(finished):
    root, _ = finished
    page = (root / "w" / "evidence.md").read_text()
    assert "## What did not hold" in page and "Everything here is simulated." in page
    assert "`diff/truth/recall@20/assistant-zero_shot`: truth/recall@20 was not measured for assistant" in page
    assert "the whole \\| of it" in page and "python -m launch.ablate" in page
    copied = (root / "docs" / "evidence.md").read_text()
    assert copied == page
    shown = [line.split("(")[1].rstrip(")") for line in page.splitlines() if line.startswith("![")]
    assert len(shown) == 3  # the depth of one assistant alone is no curve
    for picture in shown:
        for base in (root / "w", root / "docs"):
            assert (base / picture).read_text().startswith("<svg")


def test_a_second_run_trains_nothing_and_writes_the_same(finished, tmp_path):
    root, _ = finished
    before = (root / "w" / "evidence.json").read_bytes()
    again = ablate(root / "w", cache=root / "cache")
    assert again.returncode == 0, again.stderr
    assert "done in" not in again.stderr and "student: complete, nothing to do" in again.stderr
    assert (root / "w" / "evidence.json").read_bytes() == before


def test_a_killed_grid_ends_in_the_same_evidence(finished, tmp_path):
    """SIGKILL at the first checkpoint of an arm that was taken away with all that came of it; then again."""
    root, _ = finished
    shutil.copytree(root / "w", tmp_path / "w")
    victim = folders(root, "student")[-1].name
    for stage in ("student", "measure_student"):
        shutil.rmtree(tmp_path / "w" / "stages" / stage / victim, ignore_errors=True)
    shutil.rmtree(tmp_path / "w" / "stages" / "measure_student")
    (tmp_path / "w" / "evidence.json").unlink()
    process = subprocess.Popen(
        command("ablate", tmp_path / "w", config=CONFIG),
        cwd=ROOT,
        env=quick(root / "cache"),
        stderr=subprocess.DEVNULL,
    )
    folder, deadline = tmp_path / "w" / "stages" / "student" / victim, time.monotonic() + 300
    while not list(folder.glob("training/checkpoints/*/_CHECKPOINT_METADATA")) and time.monotonic() < deadline:
        if process.poll() is not None:
            break
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "w" / "evidence.json").exists()
    again = ablate(tmp_path / "w", cache=root / "cache")
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "w" / "evidence.json").read_bytes() == (root / "w" / "evidence.json").read_bytes()
    assert not list(folder.glob("training/checkpoints"))


def test_an_arm_that_fails_does_not_stop_the_others(finished, tmp_path):
    root, _ = finished
    shutil.copytree(root / "w", tmp_path / "w")
    grid = get_config()
    grid.arms = {"greedy": Arm(labels=10**6), **grid.arms}
    experiments = {name: overridden(grid.base(), arm.overrides, name) for name, arm in grid.arms.items()}
    runs, failed = run_grid(Context(grid, tmp_path / "w", Silent()), grid, experiments)
    assert {run.arm for run in runs} == {"student", "direct", "twin"} and len(runs) == 3 * SEEDS
    assert failed.keys() == {"greedy"} and "labels=1000000: only" in failed["greedy"]
    grid.arms["student"] = Arm(labels=10**6)
    with pytest.raises(ConfigError, match=r"config\.arms\.student\.labels=1000000"):  # no arm of the seed has a referee
        run_grid(Context(grid, tmp_path / "w", Silent()), grid, experiments)


def test_overrides_are_read_as_the_command_line_reads_them():
    base = get_config().base()
    made = overridden(
        base,
        ("student.tasks.clicks=0", "student.widths=(8,32)", "student.exact_as_clicked=true", "assistant.loss=ordinal"),
        "config.arms.x",
    )
    assert made.student.tasks.clicks == 0.0 and isinstance(made.student.tasks.clicks, float)
    assert (made.student.widths, made.student.exact_as_clicked, made.assistant.loss) == ((8, 32), True, "ordinal")
    assert base.student.widths == (16, 32) and not base.student.exact_as_clicked


@pytest.mark.parametrize(
    "override", ["student.nonsense=1", "student.epochs=many", "student.epochs", "=1", "nowhere.x=1"]
)
def test_a_bad_override_names_its_arm_and_itself_in_one_line(override):
    with pytest.raises(ConfigError) as error:
        overridden(get_config().base(), (override,), "config.arms.student_x")
    assert "config.arms.student_x" in str(error.value) and override in str(error.value)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("student.tasks.clicks=-1", "config.arms.x: config.student.tasks.clicks"),
        ("data.marketplace.items=100", "data and seed"),
        ("seed=3", "data and seed"),
        ("student.warm_start=/somewhere", "initial encoder"),
    ],
)
def test_an_arm_that_cannot_be_compared_is_refused_before_any_work(override, words):
    grid = get_config()
    arms = {"student": grid.base(), "x": overridden(grid.base(), (override,), "config.arms.x")}
    with pytest.raises(ConfigError, match=words):
        check_arms(grid, arms)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"reference": "nobody"}, "reference"),
        ({"only": ("direct",)}, "reference arm"),
        ({"seeds": (1, 1)}, "seeds"),
        ({"seeds": ()}, "seeds"),
        ({"resamples": 10}, "resamples"),
        ({"docs": "evidence.html"}, "docs"),
        ({"arms": {"student": Arm(labels=-1)}}, "labels"),
        ({"arms": {"student": Arm(), "a/b": Arm()}}, "a/b"),
        ({"comparisons": (Comparison("student", "nobody", ("human/ndcg@10",)),)}, "nobody"),
        ({"comparisons": (Comparison("student", "bm25", ("human/luck",)),)}, "human/luck"),
        ({"comparisons": (Comparison("student", "bm25", ("human/ndcg@10",), factor=2.0),)}, "factor"),
        ({"comparisons": (Comparison("student", "bm25", ("human/ndcg@10",), than=("student",)),)}, "than.*two models"),
        ({"comparisons": (Comparison("student", "bm25", (), than=("student", "nobody")),)}, r"\[0\]\.than='nobody'"),
        (
            {
                "comparisons": tuple(
                    Comparison("student", "bm25", ("human/auc_exact", metric), family=metric)
                    for metric in ("human/ndcg@10", "holdout/auc")
                )
            },
            r"comparisons\[1\].*'diff/human/auc_exact/student-bm25' was stated before",
        ),
    ],
)
def test_a_grid_that_cannot_work_names_the_field(change, words):
    grid = dataclasses.replace(get_config(), **{"comparisons": (), "curves": ()} | change)
    with pytest.raises(ConfigError, match=words):
        grid.validate()


def test_the_shipped_grids_are_valid():
    from configs.ablations import get_config as shipped

    for name in ("marketplace", "esci_ads"):
        grid = shipped(name)
        assert isinstance(grid.validate(), Ablations)
        check_arms(grid, {n: overridden(grid.base(), arm.overrides, n) for n, arm in grid.arms.items()})


def test_a_bad_arm_on_the_command_line_is_one_line(tmp_path):
    failed = ablate(tmp_path / "w", "--config.arms.direct.overrides=student.nonsense=1")
    assert failed.returncode == 1
    errors = failed.stderr.strip().splitlines()
    assert len(errors) == 1 and errors[0].startswith("error: ") and "arms.direct" in errors[0], failed.stderr
    assert not list((tmp_path / "w").iterdir())
