"""student: the bi-encoder learns clicks, search relevance and the assistant's scores in one multi-task step."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.config import DistillLoss, StudentConfig, TaskWeights
from distill.stages.assistant import held_back_items, ranking_quality
from distill.stages.base import Context, Stage, files_below, save_model
from distill.stages.judge import judged
from distill.stages.score import scored
from distill.stages.warm_start import starting_point, warm_start_hash

if TYPE_CHECKING:
    from distill.data.item_batches import ItemBatch

# Everything is split by its first axis, so that each device compares its own items with all keyphrases.
ROW_FIELDS = frozenset(
    {"rows", "item_slots", "keyphrase_slots", "candidates", "teacher", "passed", "targets", "positives"}
)
TABLES = {"clicks": "clicked", "search_relevance": "searched", "distill": "teacher"}


def run(context: Context, folder: Path) -> dict[str, Any]:
    import numpy as np

    from distill.data.item_batches import ItemBatches, Quota
    from distill.data.mixing import plan_tasks, task_shares
    from distill.data.pair_pool import join_signals
    from distill.data.stream import stream_steps
    from distill.models import bi_encoder
    from distill.models.flops import TRAINING, embed_flops
    from distill.parallel.mesh import batch_shards, to_global, to_host
    from distill.retrieval.encoding import embed_texts
    from distill.train.loop import Batch, fit
    from distill.train.objectives import clicks_extras, make_student_loss, student_extras
    from distill.train.optimizer import make_optimizer
    from distill.train.state import create_state
    from distill.train.step import compile_step

    experiment, settings, mesh = context.experiment, context.experiment.student, context.mesh
    seed, row_tokens, prepared = experiment.seed, experiment.encoder.row_tokens, context.prepared
    name = context.arm or "student"
    held_back = held_back_items(context)
    settings, signals = _signals(context, settings, name)
    # Arms see other signals and so other items, but every arm takes as many steps as the student.
    training_items = int((~prepared.item_is_holdout).sum()) - len(held_back)
    steps = max(1, round(settings.epochs * training_items / settings.batch_items))
    shards = batch_shards(mesh)
    chunk_rows = settings.chunk_rows * shards

    def make_data(tasks: TaskWeights, signals: dict[str, Any], steps: int) -> ItemBatches:
        return ItemBatches(
            join_signals(**signals, keyphrases=len(prepared.keyphrases), exclude=held_back),
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
            shards=shards,
            steps=steps,
            seed=seed,
            chunk_rows=chunk_rows,
        )

    parts = _parts(settings, signals)
    sizes = {part: sum(len(table[0]) for table in own.values() if table) for part, (_, own) in parts.items()}
    plan = plan_tasks(task_shares(settings, sizes), steps, seed)
    data = {part: make_data(tasks, own, plan.turns[part]) for part, (tasks, own) in parts.items()}

    plain, start = starting_point(context, "student")
    spec = dataclasses.replace(plain, dropout=settings.dropout, remat=experiment.encoder.remat)
    params = {"encoder": start["encoder"]}
    if settings.tasks.search_relevance:
        params["search_relevance"] = student_extras()
    if extras := clicks_extras(settings):
        params["clicks"] = extras

    def build(step: int) -> tuple[str, dict[str, Any], tuple[int, int, int]]:
        part = plan.names[plan.task[step]]
        batch = data[part].build(int(plan.turn[step]))
        return part, batch_arrays(batch), (batch.pairs, batch.tokens, TRAINING * embed_flops(spec, *data[part].budget))

    def batches(start: int) -> Any:
        for part, batch, counts in stream_steps(build, start, steps):
            yield Batch((part, to_global(mesh, batch, ROW_FIELDS)), *counts)

    def batch_ids(step: int) -> dict[str, list[str]]:
        items, phrases = data[plan.names[plan.task[step]]].ids(int(plan.turn[step]))
        return {
            "item_id": [prepared.item_ids[i] for i in items],
            "keyphrase": [prepared.keyphrases[i] for i in phrases],
        }

    def embedder(own: ItemBatches) -> Any:
        def embed(params: Any, rows: Any, slots: Any, key: Any) -> Any:
            texts = own.budget.texts_per_row
            return bi_encoder.embed(spec, params, rows, slots, texts, dropout_key=key, chunk_rows=chunk_rows)

        return embed

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
    for part, own in data.items():
        context.reporter.line(
            f"{name}{'' if len(data) == 1 else ' ' + part}: {own.pairs:,} pairs of {own.items:,} items, "
            f"{plan.turns[part]:,} steps of about {own.items_per_step:.0f} items and {own.build(0).pairs} pairs, "
            f"{100 * own.real_token_share:.0f} % real tokens"
        )
    compiled = {
        part: compile_step(
            state,
            make_student_loss(embedder(data[part]), dataclasses.replace(settings, tasks=tasks)),
            optimizer,
            seed,
        )
        for part, (tasks, _) in parts.items()
    }
    done = fit(
        name=name,
        state=state,
        step_fn=lambda state, batch: compiled[batch[0]](state, batch[1]),
        batches=batches,
        batch_ids=batch_ids,
        steps=steps,
        validate=validate,
        metric="quality",
        validations=settings.validations,
        directory=folder / "training",
        reporter=context.reporter,
        training=experiment.training,
        profile=context.profile,
    )
    encoder = to_host(done.params["encoder"])
    context.processes.on_first(lambda: save_model(folder / "model", plain, {"encoder": encoder}))
    return {
        "pairs": sum(own.pairs for own in data.values()),
        "items": max(own.items for own in data.values()),
        "steps": done.steps,
        "best_step": done.best_step,
        "valid_quality": done.best_metric,
        "examples_per_second": done.examples_per_second,
        "tokens_per_second": done.tokens_per_second,
        "real_token_share": min(own.real_token_share for own in data.values()),
        "left_out_tasks": [task for task in ("clicks", "search_relevance") if context.prepared.training(task) is None],
    }


def batch_arrays(batch: ItemBatch) -> dict[str, Any]:
    """The batch as `distill.train.objectives.make_student_loss` reads it."""
    from distill.models.encoder import PackedTokens

    return {
        "rows": PackedTokens(*batch.texts[:4]),
        "item_slots": batch.item_slots,
        "keyphrase_slots": batch.keyphrase_slots,
        "candidates": batch.candidates,
        "teacher": batch.teacher,
        "passed": batch.passed,
        "targets": batch.targets,
        "positives": batch.positives,
    }


def _parts(settings: StudentConfig, signals: dict[str, Any]) -> dict[str, tuple[TaskWeights, dict[str, Any]]]:
    """What a step may train, by name: all tasks together, or each with its own table alone."""
    present = [task for task, table in TABLES.items() if signals[table] is not None]
    if settings.mixing == "joint" or len(present) == 1:
        return {"joint": (settings.tasks, signals)}
    return {
        task: (
            TaskWeights(**{other: getattr(settings.tasks, other) if other == task else 0.0 for other in TABLES}),
            {table: signals[table] if table == TABLES[task] else None for table in TABLES.values()},
        )
        for task in present
    }


def _signals(context: Context, settings: StudentConfig, name: str) -> tuple[StudentConfig, dict[str, Any]]:
    """The enabled tasks' pair tables; a task whose table is missing is left out, and the run says so."""
    import numpy as np

    tasks = dataclasses.replace(settings.tasks)
    prepared = context.prepared
    teacher = searched = clicked = None
    if tasks.clicks:
        positives = _positives(context, exact=settings.exact_as_clicked and tasks.distill > 0)
        if len(positives[0]):
            clicked = positives
        else:
            tasks.clicks = 0.0
            context.reporter.line(f"{name}: no clicked pair to learn from, so the clicks task is left out")
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


def _positives(context: Context, exact: bool) -> tuple[Any, Any]:
    """(item, keyphrase) of the clicks task's positives: what was clicked and, if wanted, what the judge graded 3."""
    import numpy as np

    tables = []
    if (clicks := context.prepared.training("clicks")) is not None:
        tables.append((clicks, clicks["clicks"] > 0))
    if exact:
        graded = judged(context)
        tables.append((graded, ~graded["holdout"] & (graded["grade"] == 3)))
    return tuple(
        np.concatenate([np.zeros(0, np.int32), *(table[column][chosen] for table, chosen in tables)])
        for column in ("item", "keyphrase")
    )  # type: ignore[return-value]


def _teacher(context: Context, settings: DistillLoss) -> tuple[Any, Any, Any]:
    """(item, keyphrase, raw logit) of the pairs that the student imitates."""
    import numpy as np

    from distill.data.pair_pool import pair_keys

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
        keys = pair_keys(item, keyphrase, keyphrases)
        order = np.argsort(keys)
        asked = pair_keys(graded["item"][train], graded["keyphrase"][train], keyphrases)
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
    external=lambda context: warm_start_hash(context, "student"),
    everywhere=lambda e: True,
)
