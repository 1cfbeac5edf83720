"""The comparison with sentence-transformers: equal examples, its own losses, the grid's own measurements."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from distill.artifacts import read_manifest, write_json
from distill.config import ConfigError
from distill.data.tokenizing import Tokenizer
from distill.evaluate.samples import SAMPLES, Samples, read_samples
from distill.export.huggingface import export_student
from distill.models.bi_encoder import init_bi_encoder
from distill.models.encoder import EncoderSpec
from distill.reporting import Silent
from distill.stages.ablation import ArmRun
from distill.stages.base import write_table
from tests.stages.small import ROOT, command, environment
from tests.stages.small_grid_config import get_config
from tests.tools.test_benches import PEERS, needs_peers

sys.path.insert(0, str(ROOT / "tools"))  # as the scripts there find each other

import compare_sentence_transformers as tool
import sentence_transformers_report as report
from sentence_transformers_stage import Variant

CONFIG = ROOT / "tests/stages/small_grid_config.py"
TASKS = ("--config.student.tasks.clicks=0.1", "--config.student.tasks.search_relevance=0.05")
GRID = ("--config.only=('student',)", "--config.seeds=(0,)", *TASKS)


def measured(folder, values, scores):
    samples = Samples()
    samples.add("human/ndcg@10", "", values, np.arange(len(values)) + 5)
    samples.add_auc("holdout/auc", "@16", [1, 1, 2, 2], [True, False, True, False], scores)
    folder.mkdir(parents=True)
    write_table(folder / SAMPLES, samples.samples())
    return folder


def test_figures_are_means_over_seeds_and_differences_are_ours_less_theirs(tmp_path):
    counts = {
        "steps": 7,
        "examples": {"clicks": 30, "distill": 70},
        "steps_of": {"clicks": 2, "distill": 5},
        "left_out": 0,
        "peer": {"sentence-transformers": "6", "torch": "2"},
    }
    write_json(tmp_path / "prepare" / "manifest.json", {"outputs": {}})
    write_json(tmp_path / "trained" / "manifest.json", {"counts": counts})
    ours = [
        measured(tmp_path / "ours0", [0.9, 0.7, 0.8, 0.6], [4.0, 1.0, 3.0, 2.0]),
        measured(tmp_path / "ours1", [0.9, 0.8, 0.8, 0.7], [4.0, 1.0, 3.0, 2.0]),
    ]
    theirs = [measured(tmp_path / f"theirs{seed}", [0.5, 0.6, 0.6, 0.5], [4.0, 1.0, 1.0, 2.0]) for seed in range(2)]
    grid = get_config()
    runs = [
        ArmRun("student", seed, grid.base(), {"prepare": tmp_path / "prepare", "measure_student": folder})
        for seed, folder in enumerate(ours)
    ]
    variant = Variant("joint", "cosine_similarity")
    assert (Variant().name, variant.name) == ("sentence_transformers", "sentence_transformers_joint_cosine_similarity")
    compared = report.Compared(
        grid, "student", runs, {variant: [report.Measured(tmp_path / "trained", folder) for folder in theirs]}
    )
    rows, missing = report.compare(compared)
    assert not missing
    flat = report.flat(rows, compared)
    name = f"diff/human/ndcg@10/student-{variant.name}"
    assert flat["human/ndcg@10/student"] == pytest.approx((0.75 + 0.8) / 2)
    assert flat[name] == pytest.approx((0.75 + 0.8) / 2 - 0.55)
    assert flat["holdout/auc/student@16"] == 1
    assert flat[f"holdout/auc/{variant.name}@16"] == pytest.approx(0.625)  # 4 > 1, 4 > 2; 1 = 1, 1 < 2
    assert 0 < flat[f"{name}/ci_low"] <= flat[name] <= flat[f"{name}/ci_high"]
    assert flat[f"examples/distill/{variant.name}"] == 70 and flat[f"steps/clicks/{variant.name}"] == 2
    assert rows[0].finding.by_seed == pytest.approx((0.2, 0.25))
    report.write(compared, tmp_path / "grid", Silent(), str(tmp_path / "docs" / "page.md"))
    page = (tmp_path / "docs" / "page.md").read_text()
    assert page == (tmp_path / "grid" / "sentence_transformers.md").read_text() == report.page(rows, {}, compared)
    assert page.startswith(f"# Against sentence-transformers: {grid.name}\n")
    assert json.loads((tmp_path / "grid" / "sentence_transformers.json").read_text()) == flat
    assert "| `human/ndcg@10` | `student` |" in page and "CosineSimilarityLoss on the probabilities" in page
    assert (
        "Not compared" not in page
        and "ours is higher" in page
        and "sum of the losses by the student's task weights" in page
    )


def test_figures_of_other_queries_are_not_compared(tmp_path):
    write_json(tmp_path / "prepare" / "manifest.json", {"outputs": {}})
    ours = measured(tmp_path / "ours", [0.9, 0.7, 0.8], [4.0, 1.0, 3.0, 2.0])
    theirs = measured(tmp_path / "theirs", [0.9, 0.7], [4.0, 1.0, 3.0, 2.0])
    run = ArmRun("student", 0, get_config().base(), {"prepare": tmp_path / "prepare", "measure_student": ours})
    rivals = {Variant(): [report.Measured(tmp_path, theirs)]}
    rows, missing = report.compare(report.Compared(get_config(), "student", [run], rivals))
    assert [row.finding.metric for row in rows] == ["holdout/auc"]
    assert list(missing) == ["diff/human/ndcg@10/student-sentence_transformers"]


def test_a_figure_that_a_seed_lacks_is_named(tmp_path):
    write_json(tmp_path / "prepare" / "manifest.json", {"outputs": {}})
    folders = [measured(tmp_path / f"seed{seed}", [0.9, 0.7, 0.8], [4.0, 1.0, 3.0, 2.0]) for seed in range(2)]
    samples = Samples()
    samples.add("human/ndcg@10", "", [0.5, 0.6, 0.7], [5, 6, 7])
    write_table(folders[1] / SAMPLES, samples.samples())
    runs = [
        ArmRun("student", seed, get_config().base(), {"prepare": tmp_path / "prepare", "measure_student": folder})
        for seed, folder in enumerate(folders)
    ]
    rivals = {Variant(): [report.Measured(tmp_path, folders[0])] * 2}
    rows, missing = report.compare(report.Compared(get_config(), "student", runs, rivals))
    assert [row.finding.metric for row in rows] == ["human/ndcg@10"]
    assert missing == {"diff/holdout/auc/student@16-sentence_transformers@16": "not measured for both on every seed"}


def compare(workdir: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            sys.executable,
            "tools/compare_sentence_transformers.py",
            f"--config={CONFIG}",
            f"--grid={workdir}",
            f"--peers={PEERS}",
            *GRID,
            *flags,
        ],
        cwd=ROOT,
        env=environment() | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=900,
    )


def test_an_unfinished_grid_is_named_and_nothing_is_run(tmp_path):
    done = compare(tmp_path / "w")
    assert done.returncode == 1
    errors = done.stderr.strip().splitlines()
    assert len(errors) == 1 and "stage prepare of seed 0 is not finished" in errors[0], done.stderr
    assert not list((tmp_path / "w").iterdir())


@pytest.mark.parametrize("given", [["7"], ["0", "0"], ["x"], ["-1"], []])
def test_seeds_that_the_grid_has_not_are_named(given):
    grid = get_config()
    assert list(tool.seeds_of(grid, None)) == [0, 1] and list(tool.seeds_of(grid, ["1"])) == [1]
    with pytest.raises(ConfigError, match=f"--seeds={','.join(given)}: give different seeds"):
        tool.seeds_of(grid, given)


EQUAL = """
import json, sys
from pathlib import Path
import numpy as np, torch
sys.path.insert(0, "tools/peers")
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import losses
import signals_peer as peer
work = sys.argv[1]
kinds = ["clicks", "search_relevance", "distill"]
options = dict(
    clicks_scale=20.0, symmetric=False, cosent_scale=20.0, search_relevance="contrastive", distill="cosent",
    widths=[16, 32], width_weights=[0.25, 0.75],
)
limits = dict(item=6, keyphrase=4)
weights = dict(clicks=0.5, search_relevance=2.0, distill=1.0)
optimizer = dict(learning_rate=1e-3, warmup_share=0.1, weight_decay=0.01, clip_norm=1.0, b1=0.9, b2=0.999)
settings = dict(
    model=work + "/model", limits=limits, kinds=kinds, weights=weights, options=options, rates=[1e-3] * 2,
    optimizer=optimizer, seed=0,
)
peer.load(work, **settings)
training = peer.trainings[0]
ours = training.loss(0)
ours.backward()
gradients = {name: one.grad for name, one in training.model.named_parameters() if one.grad is not None}

model = SentenceTransformer(work + "/model", device="cpu").train()
texts = json.loads(Path(work, "texts.json").read_text())
arrays = np.load(work + "/batches.npz")
of = dict(
    clicks=losses.MultipleNegativesRankingLoss(model), search_relevance=losses.ContrastiveLoss(model),
    distill=losses.CoSENTLoss(model),
)
theirs = 0.0
for place, kind in enumerate(kinds):
    span = slice(*arrays["offsets"][place : place + 2])
    columns = [
        model.preprocess([texts[side][i] for i in arrays[side][span]], max_length=limits[side])
        for side in ("item", "keyphrase")
    ]
    loss = losses.MatryoshkaLoss(model, of[kind], [16, 32], [0.25, 0.75])
    theirs = theirs + weights[kind] * loss(columns, torch.from_numpy(arrays["label"][span]))
theirs.backward()
worst = max(
    float((one.grad - gradients[name]).abs().max()) for name, one in model.named_parameters() if one.grad is not None
)
largest = max(float(one.abs().max()) for one in gradients.values())
tokens = {
    side: [len(model.preprocess([text], max_length=limit)["input_ids"][0]) for text in texts[side]]
    for side, limit in limits.items()
}
before = float(training.loss(0))
training.model.zero_grad()
training.loop.run(0, 2)
after = float(training.loss(0))
peer.load(work, **settings)
peer.run(0, 2)
again = float(peer.trainings[0].loss(0))
print(json.dumps([float(ours), float(theirs), worst, largest, tokens, before, after, again]))
"""


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(["garden hose with fittings", "brass hose", "headphones", "wireless headphones"] * 3, 120)


@pytest.mark.peers
@needs_peers
def test_reading_embeddings_made_once_gives_the_library_s_own_losses_and_gradients(tokenizer, tmp_path):
    spec = EncoderSpec(
        vocab_size=tokenizer.vocab_size, layers=1, width=32, heads=2, mlp_width=48, max_positions=8, dropout=0.0
    )
    export_student(tmp_path / "model", spec, init_bi_encoder(spec, 0), tokenizer, 6, (16, 32))
    texts = {
        "item": ["garden hose with brass fittings and a wireless hose", "headphones", "brass fittings"],
        "keyphrase": ["hose", "wireless headphones with garden fittings", "brass"],
    }
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    np.savez(
        tmp_path / "batches.npz",
        item=np.array([0, 1, 2, 0, 0, 1, 0, 0, 1, 2, 2], np.int32),
        keyphrase=np.array([0, 1, 2, 0, 1, 1, 0, 2, 1, 2, 2], np.int32),
        label=np.array([1, 1, 1, 1, 0, 1, 0.9, 0.4, 0.8, 0.1, 0.2], np.float32),
        offsets=np.array([0, 3, 6, 9, 9, 9, 11]),  # two steps; the second distils alone
    )
    environment = os.environ | {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [str(PEERS), "-c", EQUAL, str(tmp_path)], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    ours, theirs, worst, largest, tokens, before, after, again = json.loads(done.stdout.splitlines()[-1])
    assert ours == pytest.approx(theirs, rel=1e-5) and ours > 0
    assert worst < 1e-5 * max(1.0, largest) and largest > 0
    assert before == pytest.approx(ours) and after < before
    assert again == after
    for side, limit in (("item", 6), ("keyphrase", 4)):
        assert tokens[side] == tokenizer.encode_texts(texts[side], limit).lengths.tolist()


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    root = tmp_path_factory.mktemp("compared")
    grid = subprocess.run(
        command("ablate", root, *GRID, config=CONFIG),
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert grid.returncode == 0, grid.stderr
    done = compare(root, "--mix=proportional", "--mix=joint")
    assert done.returncode == 0, done.stderr
    return root, done


@pytest.mark.slow
@pytest.mark.peers
@needs_peers
def test_a_grid_is_compared_and_what_is_finished_is_kept(compared):
    root, done = compared
    figures = json.loads((root / "sentence_transformers.json").read_text())
    trained = sorted((root / "stages" / "sentence_transformers").iterdir())
    assert len(trained) == 2
    for folder in trained:
        manifest = read_manifest(folder)
        assert manifest is not None and manifest["counts"]["steps"] == 12
        assert 0 < manifest["counts"]["kept_step"] <= 12
    for model in ("sentence_transformers", "sentence_transformers_joint"):
        assert figures[f"steps/{model}"] == 12
        assert figures[f"examples/distill/{model}"] > figures[f"examples/clicks/{model}"] > 0
        for metric in ("human/ndcg@10", "holdout/auc", "truth/recall@20"):
            difference = figures[f"{metric}/student@16"] - figures[f"{metric}/{model}@16"]
            assert figures[f"diff/{metric}/student@16-{model}@16"] == pytest.approx(difference)
    stored = read_samples(next((root / "stages" / "measure_student").iterdir()))["human/auc_exact", ""]
    assert figures["human/auc_exact/student"] == pytest.approx(stored.estimate())
    page = (root / "sentence_transformers.md").read_text()
    assert "human/auc_exact" in done.stdout and page.startswith("# Against sentence-transformers: ")

    before = (root / "sentence_transformers.json").read_bytes()
    again = compare(root, "--mix=proportional", "--mix=joint")
    assert again.returncode == 0, again.stderr
    assert "done in" not in again.stderr
    assert (root / "sentence_transformers.json").read_bytes() == before


@pytest.mark.slow
@pytest.mark.peers
@needs_peers
def test_other_batches_than_the_student_s_are_refused(compared):
    root, _ = compared
    folder = next((root / "stages" / "student").iterdir())
    manifest = read_manifest(folder)
    assert manifest is not None
    changed = manifest | {"counts": manifest["counts"] | {"real_token_share": 0.5}}
    write_json(folder / "manifest.json", changed)
    try:
        done = compare(root, "--distill_loss=cosine_similarity")
    finally:
        write_json(folder / "manifest.json", manifest)
    assert done.returncode == 1 and "real_token_share 0.5" in done.stderr.splitlines()[-1], done.stderr
