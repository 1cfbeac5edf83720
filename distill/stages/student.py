"""student: the bi-encoder learns clicks, search relevance and the assistant's scores in one multi-task step."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.config import DistillLoss, StudentConfig
from distill.stages.assistant import held_back_items, ranking_quality
from distill.stages.base import Context, Stage, files_below, save_model
from distill.stages.judge import judged
from distill.stages.score import scored

if TYPE_CHECKING:
    from distill.data.item_batches import ItemBatch

ROW_FIELDS = frozenset({"items", "keyphrases"})


def run(context: Context, folder: Path) -> dict[str, Any]:
    import jax
    import numpy as np

    from distill.data.item_batches import ItemBatches, Quota, join_signals
    from distill.data.stream import stream_steps
    from distill.models import bi_encoder
    from distill.parallel.mesh import batch_shards, to_global
    from distill.retrieval.encoding import embed_texts
    from distill.train.loop import fit
    from distill.train.objectives import make_student_loss, student_extras
    from distill.train.optimizer import make_optimizer
    from distill.train.state import create_state
    from distill.train.step import compile_step

    experiment, settings, mesh = context.experiment, context.experiment.student, context.mesh
    seed, row_tokens, prepared = experiment.seed, experiment.encoder.row_tokens, context.prepared
    name = context.arm or "student"
    held_back = held_back_items(context)
    settings, signals = _signals(context, settings, name)
    pool = join_signals(**signals, keyphrases=len(prepared.keyphrases), exclude=held_back)
    # Arms see other signals and so other items, but every arm takes as many steps as the student.
    training_items = int((~prepared.item_is_holdout).sum()) - len(held_back)
    steps = max(1, round(settings.epochs * training_items / settings.batch_items))
    tasks = settings.tasks
    data = ItemBatches(
        pool,
        context.item_tokens,
        context.keyphrase_tokens,
        batch_items=settings.batch_items,
        topic_items=settings.topic_items,
        quota=Quota(
            teacher=settings.candidates_per_item if tasks.distill else 0,
            searched=settings.searched_per_item if tasks.search_relevance else 0,
            clicked=settings.clicked_per_item if tasks.clicks else 0,
        ),
        row_tokens=row_tokens,
        shards=batch_shards(mesh),
        steps=steps,
        seed=seed,
    )

    spec, initial = context.initial_encoder()
    spec = dataclasses.replace(spec, dropout=settings.dropout)
    params = {"encoder": initial["encoder"]} | (
        {"search_relevance": student_extras()} if tasks.search_relevance else {}
    )

    def build(step: int) -> tuple[dict[str, Any], int]:
        batch = data.build(step)
        return batch_arrays(batch), int((batch.candidates >= 0).sum())

    def batches(start: int) -> Any:
        for batch, count in stream_steps(build, start, steps):
            yield to_global(mesh, batch, ROW_FIELDS), count

    def embedder(texts_per_row: int) -> Any:
        def embed(params: Any, rows: Any, slots: Any, key: Any) -> Any:
            return bi_encoder.embed(spec, params, rows, slots, texts_per_row, dropout_key=key)

        return embed

    plain = dataclasses.replace(spec, dropout=0.0)
    valid = judged(context)
    valid = {k: v[np.isin(valid["item"], held_back)] for k, v in valid.items()}
    item_ids, item_at = np.unique(valid["item"], return_inverse=True)
    keyphrase_ids, keyphrase_at = np.unique(valid["keyphrase"], return_inverse=True)

    def validate(params: Any) -> dict[str, float]:
        vectors = [
            embed_texts(plain, params, tokens.take(ids), row_tokens=row_tokens, mesh=mesh)
            for tokens, ids in ((context.item_tokens, item_ids), (context.keyphrase_tokens, keyphrase_ids))
        ]
        cosines = np.sum(vectors[0][item_at] * vectors[1][keyphrase_at], axis=1)
        return ranking_quality(valid["item"], valid["grade"], cosines)

    optimizer = make_optimizer(settings.optimizer, steps)
    state = create_state(params, optimizer, mesh)
    sample = data.build(0)
    context.reporter.line(
        f"{name}: {len(pool.keyphrase):,} pairs of {len(pool.items):,} items, {steps:,} steps of "
        f"{data.batch_items} items and about {int((sample.candidates >= 0).sum())} pairs, "
        f"{100 * data.real_token_share(sample):.0f} % real tokens"
    )
    loss = make_student_loss(embedder(data.item_texts_per_row), embedder(data.keyphrase_texts_per_row), settings)
    done = fit(
        name=name,
        state=state,
        step_fn=compile_step(state, loss, optimizer, seed),
        batches=batches,
        steps=steps,
        validate=validate,
        metric="quality",
        validations=settings.validations,
        directory=folder / "training",
        reporter=context.reporter,
    )
    save_model(folder / "model", plain, {"encoder": jax.device_get(done.params)["encoder"]})
    return {
        "pairs": len(pool.keyphrase),
        "items": len(pool.items),
        "steps": done.steps,
        "best_step": done.best_step,
        "valid_quality": done.best_metric,
        "examples_per_second": done.examples_per_second,
        "real_token_share": data.real_token_share(sample),
        "left_out_tasks": [task for task in ("clicks", "search_relevance") if context.prepared.training(task) is None],
    }


def batch_arrays(batch: ItemBatch) -> dict[str, Any]:
    """The batch as `distill.train.objectives.make_student_loss` reads it."""
    from distill.models.encoder import PackedTokens

    return {
        "items": PackedTokens(*batch.items[:4]),
        "item_slots": batch.items.slots,
        "keyphrases": PackedTokens(*batch.keyphrases[:4]),
        "keyphrase_slots": batch.keyphrases.slots,
        "candidates": batch.candidates,
        "teacher": batch.teacher,
        "passed": batch.passed,
        "clicked": batch.clicked,
        "drawn_by_click": batch.drawn_by_click,
    }


def _signals(context: Context, settings: StudentConfig, name: str) -> tuple[StudentConfig, dict[str, Any]]:
    """The enabled tasks' pair tables; a task whose table is missing is left out, and the run says so."""
    import numpy as np

    tasks = dataclasses.replace(settings.tasks)
    prepared = context.prepared
    teacher = searched = clicked = None
    if tasks.clicks:
        table = prepared.training("clicks")
        chosen = table["clicks"] > 0 if table is not None else np.zeros(0, bool)
        if table is None or not chosen.any():
            tasks.clicks = 0.0
            context.reporter.line(f"{name}: no clicked pair to learn from, so the clicks task is left out")
        else:
            clicked = (table["item"][chosen], table["keyphrase"][chosen])
    if tasks.search_relevance:
        table = prepared.training("search_relevance")
        if table is None or not len(table["item"]):
            tasks.search_relevance = 0.0
            context.reporter.line(f"{name}: no search_relevance table, so that task is left out")
        else:
            searched = (table["item"], table["keyphrase"], table["passed"].astype(np.float32))
    if tasks.distill:
        teacher = _teacher(context, settings.distill)
    if not (tasks.clicks or tasks.search_relevance or tasks.distill):
        raise ValueError(f"{name}: every enabled task's table is missing; add clicks, search_relevance or judgements")
    signals = {"teacher": teacher, "searched": searched, "clicked": clicked}
    return dataclasses.replace(settings, tasks=tasks), signals


def _teacher(context: Context, settings: DistillLoss) -> tuple[Any, Any, Any]:
    """(item, keyphrase, raw logit) of the pairs that the student imitates."""
    import numpy as np

    graded = judged(context)
    train = ~graded["holdout"]
    label = np.array(context.experiment.assistant.grade_targets)[graded["grade"][train]]
    keyphrases = len(context.prepared.keyphrases)
    if settings.teacher == "judge":
        item, keyphrase, target = graded["item"][train], graded["keyphrase"][train], label
    else:
        pairs = scored(context)
        item, keyphrase = pairs["item"], pairs["keyphrase"]
        if not settings.grade_share:
            return item, keyphrase, pairs["logit"]
        target = 1 / (1 + np.exp(-pairs["logit"].astype(np.float64)))
        keys = item.astype(np.int64) * keyphrases + keyphrase
        order = np.argsort(keys)
        asked = graded["item"][train].astype(np.int64) * keyphrases + graded["keyphrase"][train]
        at = order[np.searchsorted(keys, asked, sorter=order)]  # every judged pair was scored too
        target[at] += settings.grade_share * (label - target[at])
    # As logits; sharp labels stay finite.
    target = np.clip(target, 0.01, 0.99)
    return item, keyphrase, np.log(target / (1 - target))


STAGE = Stage(
    name="student",
    config=lambda e: {
        "student": e.student,
        "row_tokens": e.encoder.row_tokens,
        "tokens": [e.encoder.item_tokens, e.encoder.keyphrase_tokens],
        "valid_share": e.assistant.valid_share,
        "grade_targets": e.assistant.grade_targets,
        "seed": e.seed,
    },
    inputs=("prepare", "judge", "score"),
    run=run,
    published=files_below("model"),
)
