"""Small runs that can be published as versions, and what a test asks of them."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from distill.artifacts import StageFolder, config_dict
from distill.config import Experiment
from distill.data.tokenizing import Tokenizer
from distill.models.bi_encoder import init_bi_encoder
from distill.models.encoder import EncoderSpec
from distill.reporting import Silent
from distill.retrieval.index_updates import RebuildPolicy
from distill.retrieval.published import load_current
from distill.stages import run_stage
from distill.stages.base import Context, save_model
from tests.stages.small import ROOT, environment

WORDS = [
    *("red", "blue", "green", "wool", "silk", "linen", "shirt", "dress", "boots", "scarf", "hat", "coat"),
    *("men", "kids", "small", "large", "café", "靴", "übergröße", "12in"),
]
PHRASES = [f"{a} {b}" for a in WORDS[:6] for b in WORDS[6:12]]  # 36
NEVER = RebuildPolicy(changed_share=9.0, recall_slack=1.0)


def experiment(**index) -> Experiment:
    experiment = Experiment()
    experiment.index = dataclasses.replace(experiment.index, **index)
    experiment.encoder.row_tokens = 32
    return experiment


def make_run(workdir: Path, keyphrases=PHRASES, seed: int = 0, **index) -> Path:
    """A working directory that is finished up to the index, with a student that has learnt nothing."""
    tokenizer = Tokenizer.train(WORDS, 200)
    data = workdir / "data"
    tokenizer.save(data / "tokenizer")
    titles = [f"{word} {other}" for word in WORDS for other in WORDS[:4]]
    items = {"item_id": [f"i{n}" for n in range(len(titles))], "title": titles, "text": titles}
    items |= {"category": [["all"]] * len(titles), "split": ["train"] * len(titles)}
    pq.write_table(pa.table(items), data / "items.parquet")
    columns = {"keyphrase": list(keyphrases), "search_volume": pa.array([None] * len(keyphrases), pa.int64())}
    columns["trainable"] = [True] * len(keyphrases)
    pq.write_table(pa.table(columns), data / "keyphrases.parquet")
    publish_stage("prepare", data, {}, {})
    spec = EncoderSpec(vocab_size=tokenizer.vocab_size, layers=1, width=16, heads=2, mlp_width=16, max_positions=32)
    student = workdir / "student"
    save_model(student / "model", spec, init_bi_encoder(spec, seed))
    publish_stage("student", student, {"tokens": [40, 16]}, {})
    run_stage("index", Context(experiment(**index), workdir, Silent()))
    return workdir


def publish_stage(name, path, config, inputs):
    outputs = [file for file in path.rglob("*") if file.is_file() and file.name != "manifest.json"]
    StageFolder(name, path, config_dict(config), inputs).publish({}, outputs, 0.0)


def table(path: Path, keyphrases, volumes=None) -> Path:
    columns = {"keyphrase": list(keyphrases)} | ({} if volumes is None else {"search_volume": volumes})
    pq.write_table(pa.table(columns), path)
    return path


def found(root: Path, text: str, k: int = 5) -> list[str]:
    """What the current version finds for a keyphrase, embedded as its reader would."""
    published = load_current(root)
    return published.search(embed(published.folder, [text]), k)[0][0]


def embed(folder: Path, texts) -> np.ndarray:
    from distill.stages.versions import _embed

    return _embed(folder, texts, 16, 32)


def command(action: str, root: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "launch.versions", action, f"--versions={root}", *flags],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
