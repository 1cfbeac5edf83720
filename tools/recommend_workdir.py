"""A working directory that `recommend` can run in, of any size, made up without training: for its bench and tests.

Texts are random words of random topics, embeddings lie around the topics, and the assistant is a small random encoder,
so nothing here is a measure of quality. As `--config` it is the experiment that fits what it makes.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from distill.artifacts import StageFolder, write_json
from distill.config import Experiment
from distill.data.schema import TABLES
from distill.data.table_writer import TableWriter
from distill.data.tables import Writer, clear, final_table
from distill.data.tokenizing import Tokenizer
from distill.models.cross_encoder import init_cross_encoder
from distill.models.encoder import EncoderSpec
from distill.reporting import Silent
from distill.retrieval.scann_index import build_index
from distill.stages.assistant import CALIBRATION
from distill.stages.base import Context, files_below, save_model
from distill.stages.index import INDEX, ITEMS, KEYPHRASES

WORDS_PER_TOPIC, TITLE_WORDS, KEYPHRASE_WORDS = 40, 9, 3


@dataclasses.dataclass(frozen=True)
class Size:
    items: int
    keyphrases: int
    width: int = 64
    topics: int = 0  # 0: one for each 250 keyphrases
    others_per_item: int = 5  # rows of the recommendations table
    holdout_share: float = 0.1


def get_config() -> Experiment:
    config = Experiment(name="recommend")
    config.judge.backend = "simulated"  # none is asked; the embedded marketplace knows no other
    config.encoder.layers = 1
    config.encoder.width = 16
    config.encoder.heads = 2
    config.encoder.mlp_width = 32
    config.encoder.item_tokens = 24
    config.encoder.keyphrase_tokens = 8
    config.encoder.row_tokens = 128
    config.student.widths = (16,)
    config.student.width_weights = (1.0,)
    config.evaluate.prefix = 16
    return config


def make_workdir(workdir: Path, size: Size, seed: int = 0) -> None:
    """Writes `data/`, `assistant/` and `index/` as the stages would leave them; equal arguments give equal files."""
    rng = np.random.default_rng(seed)
    config = get_config()
    context = Context(config, workdir, Silent())
    topics = size.topics or max(1, size.keyphrases // 250)
    words = _words(topics * WORDS_PER_TOPIC, rng)
    keyphrase_topic, keyphrases = _keyphrases(size.keyphrases, topics, words, rng)
    item_topic = rng.integers(topics, size=size.items)
    titles = _phrases(item_topic, TITLE_WORDS, words, rng)
    _write_tables(context.folder("prepare"), size, item_topic, titles, keyphrase_topic, keyphrases, rng)
    some = [*titles[:20_000].to_pylist(), *keyphrases[:20_000].to_pylist()]
    Tokenizer.train(some, vocab_size=3000).save(context.folder("prepare") / "tokenizer")
    _publish(context, "prepare", ".")

    centres = rng.normal(size=(topics, size.width)).astype(np.float32)
    vectors = [_around(centres[topic], rng) for topic in (item_topic, keyphrase_topic)]
    index = context.folder("index")
    index.mkdir(parents=True, exist_ok=True)
    for name, rows in zip((ITEMS, KEYPHRASES), vectors):
        np.save(index / name, rows)
    built = build_index(
        vectors[1], brute_force_below=20_000, target_recall=0.9, sample_queries=vectors[0][:1000], seed=seed
    )
    built.save(index / INDEX)
    _publish(context, "index", ITEMS, KEYPHRASES, INDEX)

    _write_assistant(context, rng)
    _publish(context, "assistant", "model", CALIBRATION)


def _words(count: int, rng: np.random.Generator) -> pa.Array:
    """Distinct pronounceable words, every fourth the plural of the one before."""
    syllables = np.array([c + v for c in "bdfgklmnprtvz" for v in "aeiou"])
    drawn = syllables[rng.integers(len(syllables), size=(4 * count, 3))]
    words = np.unique(np.char.add(np.char.add(drawn[:, 0], drawn[:, 1]), drawn[:, 2]))
    if len(words) < count:
        extra = np.char.add(words, "x")
        words = np.concatenate([words, extra])
    words = rng.permutation(words)[:count]
    words[3::4] = np.char.add(words[2::4][: len(words[3::4])], "s")
    return pa.array(words.astype(object), pa.string())


def _phrases(topic: np.ndarray, length: int, words: pa.Array, rng: np.random.Generator) -> pa.Array:
    """Words of each topic, the first ones far more often."""
    within = (WORDS_PER_TOPIC * rng.random((len(topic), length)) ** 2).astype(np.int64)
    columns = [words.take(pa.array((topic * WORDS_PER_TOPIC + within[:, at]) % len(words))) for at in range(length)]
    return pc.binary_join_element_wise(*columns, " ")


def _keyphrases(count: int, topics: int, words: pa.Array, rng: np.random.Generator) -> tuple[np.ndarray, pa.Array]:
    """(topic [K], K distinct texts)."""
    topic = np.zeros(0, np.int64)
    texts = pa.array([], pa.string())
    while len(texts) < count:
        drawn = rng.integers(topics, size=count)
        made = _phrases(drawn, KEYPHRASE_WORDS, words, rng)
        topic, texts = np.concatenate([topic, drawn]), pa.concat_arrays([texts, made])
        first = np.unique(texts.dictionary_encode().indices.to_numpy(), return_index=True)[1]
        topic, texts = topic[first], texts.take(pa.array(first))
    return topic[:count], texts[:count]


def _write_tables(
    folder: Path,
    size: Size,
    item_topic: np.ndarray,
    titles: pa.Array,
    keyphrase_topic: np.ndarray,
    keyphrases: pa.Array,
    rng: np.random.Generator,
) -> None:
    clear(folder)
    item_ids = pa.array([f"item-{number}" for number in range(size.items)])
    leafs = [f"topic {topic}" for topic in item_topic.tolist()]
    items = pa.table(
        {
            "item_id": item_ids,
            "title": titles,
            "category": pa.array([["all", leaf] for leaf in leafs], pa.list_(pa.string())),
            "attributes": pa.array([[]] * size.items, pa.map_(pa.string(), pa.string())),
        }
    )
    holdout = rng.random(size.items) < size.holdout_share
    writer = Writer(folder, item_ids, keyphrases)
    writer.items(items, pc.binary_join_element_wise(pa.array(leafs), titles, " ").to_pylist(), holdout)
    volume = np.floor(rng.pareto(1.0, size.keyphrases) * 10)
    volume[rng.random(size.keyphrases) < 0.1] = np.nan
    writer.keyphrases(volume, np.ones(size.keyphrases, bool))
    # Keyphrases of the item's own topic, where the student looks too.
    by_topic = np.argsort(keyphrase_topic, kind="stable")
    starts = np.searchsorted(keyphrase_topic[by_topic], item_topic)
    counts = np.maximum(1, np.searchsorted(keyphrase_topic[by_topic], item_topic, side="right") - starts)
    drawn = starts[:, None] + (rng.random((size.items, size.others_per_item)) * counts[:, None]).astype(np.int64)
    pairs = {
        "item": np.repeat(np.arange(size.items), size.others_per_item),
        "keyphrase": by_topic[np.minimum(drawn, size.keyphrases - 1).reshape(-1)],
    }
    names = pa.array(["rules", "seller"])
    others = {**pairs, "source": names.take(pa.array(rng.integers(2, size=len(pairs["item"]))))}
    rows = len(pairs["item"])
    clicks = {**pairs, "impressions": np.full(rows, 10.0), "clicks": rng.integers(3, size=rows) * 1.0}
    clicks["position"] = np.full(rows, np.nan)
    blocked = rng.choice(size.keyphrases, max(1, size.keyphrases // 100), replace=False)
    blocklist = {"item": np.where(np.arange(len(blocked)) % 2, -1, rng.integers(size.items, size=len(blocked)))}
    blocklist["keyphrase"] = blocked
    for name, columns in {"recommendations": others, "clicks": clicks, "blocklist": blocklist}.items():
        table = final_table(TABLES[name], pa.table(columns), item_ids, keyphrases)
        with TableWriter(folder / f"{name}.parquet", table.schema) as file:
            file.write(table)


def _around(centres: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Unit vectors near the centres [N, D]."""
    vectors = centres + 0.7 * rng.normal(size=centres.shape).astype(np.float32)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def _write_assistant(context: Context, rng: np.random.Generator) -> None:
    encoder, folder = context.experiment.encoder, context.folder("assistant")
    spec = EncoderSpec(
        vocab_size=context.tokenizer.vocab_size,
        layers=encoder.layers,
        width=encoder.width,
        heads=encoder.heads,
        mlp_width=encoder.mlp_width,
        max_positions=encoder.row_tokens,
    )
    params = init_cross_encoder(spec, seed=0)
    # Random weights hardly look at the text: they are made larger. The threshold passes two thirds.
    larger = [params["pooler"], params["classifier"]]
    larger += [part for layer in params["encoder"]["layers"].values() for part in layer["attention"].values()]
    for part in larger:
        part["kernel"] = 12 * part["kernel"]
    save_model(folder / "model", spec, params)
    prepared = context.prepared
    sample = [rng.integers(len(of), size=2000) for of in (prepared.keyphrases, prepared.item_ids)]
    threshold = float(np.quantile(context.pair_scorer()(*sample), 1 / 3))
    write_json(folder / CALIBRATION, {"threshold": {"logit": threshold}})


def _publish(context: Context, stage: str, *names: str) -> None:
    folder = context.folder(stage)
    StageFolder(stage, folder, {}, {}).publish({}, files_below(*names)(folder), 0.0)
